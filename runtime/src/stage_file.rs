//! Reads a stage's configuration from the file that the operator mounts.
//!
//! What the configuration says is [`headwater_engine::config`]; whether it can work is found when the
//! stage starts.

use headwater_engine::config::Stage;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the stage's configuration '{}': {source}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "'{}' is not a stage's configuration: {source}. It is written by an operator of this version", path.display()
    )]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("'{0}' does not end in an ordinal, as the name of a StatefulSet's pod does")]
    Ordinal(String),
}

/// # Errors
/// When the file cannot be read, or is not a stage's configuration.
pub fn read(path: &Path) -> Result<Stage, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Parse {
        path: path.to_owned(),
        source,
    })
}

/// The ordinal of a StatefulSet's pod, from its name: 2 for `orders-view-2`.
///
/// # Errors
/// When the name does not end so.
pub fn ordinal(pod_name: &str) -> Result<u32, Error> {
    pod_name
        .rsplit_once('-')
        .and_then(|(_, ordinal)| ordinal.parse().ok())
        .ok_or_else(|| Error::Ordinal(pod_name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals() {
        assert_eq!(ordinal("a-view-12").unwrap(), 12);
        assert!(ordinal("a-view").is_err());
        assert!(ordinal("").is_err());
    }

    #[test]
    fn errors_name_the_file() {
        let error = read(Path::new("/nonexistent/stage.json")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/stage.json"));
    }
}
