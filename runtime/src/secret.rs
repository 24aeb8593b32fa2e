//! Secret values, read from mounted files each time that they are used.
//!
//! A file is small and on a memory file system, so reading it anew is cheaper than being wrong after a
//! rotation. A value has no `Debug`, `Display` or `Serialize`: it leaves only through
//! [`Secret::expose`], and [`Secret::scrub`] takes it out of what others wrote (providers echo keys).

use serde_json::Value;
use std::fs;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
#[error("cannot read the secret at '{}': {source}", path.display())]
pub struct Error {
    pub path: PathBuf,
    #[source]
    pub source: std::io::Error,
}

pub struct Secret(String);

impl Secret {
    /// Reads a mounted file; one trailing line break is not part of the value.
    ///
    /// # Errors
    /// When the file is missing, unreadable, empty, or not UTF-8.
    pub fn read(path: &str) -> Result<Self, Error> {
        let failed = |source| Error {
            path: PathBuf::from(path),
            source,
        };
        let text = fs::read_to_string(path).map_err(failed)?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(failed(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "it is empty",
            )));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` without the value.
    pub fn scrub(&self, text: &str) -> String {
        text.replace(&self.0, "[secret]")
    }
}

/// Characters of what others wrote that are passed on as a message.
const SAID: usize = 300;

/// The credentials of one request or connection, to be taken out of whatever comes back.
#[derive(Default)]
pub(crate) struct Secrets(Vec<Secret>);

impl Secrets {
    /// Reads one, and gives its value.
    ///
    /// # Errors
    /// As [`Secret::read`].
    pub(crate) fn read(&mut self, path: &str) -> Result<String, Error> {
        let secret = Secret::read(path)?;
        let value = secret.expose().to_owned();
        self.0.push(secret);
        Ok(value)
    }

    /// The text without credentials.
    fn scrub(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| secret.scrub(&text))
    }

    /// One bounded line without credentials and control characters.
    pub(crate) fn clean(&self, text: &str) -> String {
        let line: String = self
            .scrub(text.to_owned())
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(SAID)
            .collect();
        line.trim().to_owned()
    }

    /// The value without credentials in any of its texts.
    pub(crate) fn scrub_value(&self, value: Value) -> Value {
        if self.0.is_empty() {
            return value;
        }
        match value {
            Value::String(text) => Value::String(self.scrub(text)),
            Value::Array(items) => items
                .into_iter()
                .map(|item| self.scrub_value(item))
                .collect(),
            Value::Object(fields) => fields
                .into_iter()
                .map(|(name, value)| (self.scrub(name), self.scrub_value(value)))
                .collect(),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_seen_and_its_value_scrubbed() {
        let path = std::env::temp_dir().join(format!("headwater-secret-{}", std::process::id()));
        let name = path.to_str().unwrap();
        for value in ["first", "second"] {
            fs::write(&path, format!("{value}\n")).unwrap();
            let secret = Secret::read(name).unwrap();
            assert_eq!(secret.expose(), value);
            assert_eq!(secret.scrub(&format!("key {value}!")), "key [secret]!");
        }
        fs::write(&path, "\n").unwrap();
        assert!(Secret::read(name).is_err());
        fs::remove_file(&path).unwrap();
        let missing = Secret::read(name).err().unwrap().to_string();
        assert!(missing.contains(name), "{missing}");
    }

    #[test]
    fn credentials_are_taken_out_of_texts_and_of_values() {
        let path = std::env::temp_dir().join(format!("headwater-secrets-{}", std::process::id()));
        fs::write(&path, "s3cret\n").unwrap();
        let mut secrets = Secrets::default();
        assert_eq!(secrets.read(path.to_str().unwrap()).unwrap(), "s3cret");
        fs::remove_file(&path).unwrap();
        assert_eq!(secrets.clean(" a\ns3cret\t"), "a [secret]");
        assert_eq!(secrets.clean(&"x".repeat(400)).len(), SAID);
        let value = serde_json::json!({"s3cret": ["is s3cret", 3, {"deep": "s3crets3cret"}]});
        let clean =
            serde_json::json!({"[secret]": ["is [secret]", 3, {"deep": "[secret][secret]"}]});
        assert_eq!(secrets.scrub_value(value), clean);
    }
}
