//! Secret values, read from mounted files each time that they are used.
//!
//! A file is small and on a memory file system, so reading it anew is cheaper than being wrong after a
//! rotation. A value has no `Debug`, `Display` or `Serialize`: it leaves only through
//! [`Secret::expose`], and [`Secret::scrub`] takes it out of what others wrote (providers echo keys).

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
}
