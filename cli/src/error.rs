//! Why a command did not do what it was asked, and the exit code that says so.

use std::path::Path;

/// Exit codes, also in `headwater --help`.
pub(crate) mod exit {
    /// The resources, or what was asked of a running pipeline, cannot work.
    pub(crate) const REFUSED: u8 = 1;
    /// The command line is not one (clap's own code).
    pub(crate) const USAGE: u8 = 2;
    /// Something outside failed: a file, the network, Kafka.
    pub(crate) const FAILED: u8 = 3;
}

/// What went wrong, by what the user may do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The findings were printed already.
    #[error("{0}")]
    Findings(String),
    /// What was asked for cannot be done as things stand.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Usage(String),
    #[error("cannot {action} {path}: {source}")]
    File {
        action: &'static str,
        path: String,
        source: std::io::Error,
    },
    #[error("{0}")]
    Failed(String),
}

impl Error {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// A mistake of this program.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::Failed(format!(
            "{}; this is a mistake in headwater, please report it",
            message.into()
        ))
    }

    pub(crate) fn file(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::File {
            action,
            path: path.display().to_string(),
            source,
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Findings(_) | Self::Refused(_) => exit::REFUSED,
            Self::Usage(_) => exit::USAGE,
            Self::File { .. } | Self::Failed(_) => exit::FAILED,
        }
    }
}

impl From<headwater_runtime::log::Error> for Error {
    fn from(error: headwater_runtime::log::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
