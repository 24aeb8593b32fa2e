//! Secrets for pipelines that run here: from manifests in the folder or from the environment, as files
//! that stages read as they would in a pod.
//!
//! The value of key `api-key` of Secret `openai` is looked for in the folder's Secret manifests, then in
//! the variable `HEADWATER_SECRET_OPENAI_API_KEY`. Files are readable by the user alone, in a directory
//! that is removed at exit.

use crate::error::Error;
use crate::folder::SecretData;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The variable that may hold the value of a Secret's key.
pub(crate) fn variable(secret: &str, key: &str) -> String {
    let part = |text: &str| -> String {
        text.chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() {
                    c.to_ascii_uppercase()
                } else {
                    '_'
                }
            })
            .collect()
    };
    format!("HEADWATER_SECRET_{}_{}", part(secret), part(key))
}

/// What the environment holds for a Secret's key.
pub(crate) fn from_environment(secret: &str, key: &str) -> Option<Vec<u8>> {
    std::env::var_os(variable(secret, key))
        .filter(|value| !value.is_empty())
        .map(std::ffi::OsString::into_encoded_bytes)
}

/// A directory `<root>/<secret>/<key>`, removed when dropped.
pub(crate) struct Mounted {
    root: PathBuf,
}

impl Mounted {
    pub(crate) fn new() -> Result<Self, Error> {
        let root = std::env::temp_dir().join(format!("headwater-{}", random_text(8)?));
        DirBuilder::new()
            .mode(0o700)
            .create(&root)
            .map_err(|source| Error::file("create", &root, source))?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn write(&self, secrets: &BTreeMap<String, SecretData>) -> Result<(), Error> {
        for (secret, data) in secrets {
            let folder = self.root.join(file_name(secret)?);
            DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(&folder)
                .map_err(|source| Error::file("create", &folder, source))?;
            for (key, value) in data {
                private_file(&folder.join(file_name(key)?), value)?;
            }
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nothing can be done about a failure, and it must not hide another error.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Names come from manifests: they must not lead out of the directory.
fn file_name(name: &str) -> Result<&str, Error> {
    let good = !name.is_empty()
        && !name.starts_with('.')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if good {
        Ok(name)
    } else {
        Err(Error::refused(format!(
            "'{name}' cannot be the name of a Secret or of a key in it: letters, digits, '-', '.' and '_' only"
        )))
    }
}

/// Writes a new file that only this user can read.
pub(crate) fn private_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let cannot = |source| Error::file("write", path, source);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(cannot)?;
    file.write_all(bytes).map_err(cannot)
}

/// Hexadecimal of so many random bytes from the operating system.
pub(crate) fn random_text(bytes: usize) -> Result<String, Error> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| {
        Error::failed(format!("no randomness from the operating system: {error}"))
    })?;
    Ok(data_encoding::HEXLOWER.encode(&random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn variables_are_named_after_secret_and_key() {
        assert_eq!(
            variable("openai", "api-key"),
            "HEADWATER_SECRET_OPENAI_API_KEY"
        );
        assert_eq!(
            variable("my.secret", "tls.crt"),
            "HEADWATER_SECRET_MY_SECRET_TLS_CRT"
        );
    }

    #[test]
    fn files_are_private_and_gone_afterwards() {
        let mounted = Mounted::new().expect("a temporary directory");
        let data = SecretData::from([("key".to_owned(), b"value".to_vec())]);
        mounted
            .write(&BTreeMap::from([("model".to_owned(), data)]))
            .expect("written");
        let file = mounted.root().join("model/key");
        let mode =
            |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(mounted.root())), (0o600, 0o700));
        drop(mounted);
        assert!(!file.exists());
    }

    #[test]
    fn names_cannot_lead_out() {
        let mounted = Mounted::new().expect("a temporary directory");
        for name in ["../x", "a/b", "", "..", "."] {
            let secrets = BTreeMap::from([(name.to_owned(), SecretData::new())]);
            assert!(mounted.write(&secrets).is_err(), "{name}");
        }
    }
}
