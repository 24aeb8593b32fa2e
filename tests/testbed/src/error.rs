//! What can go wrong while fetching, building, starting or stopping a part of the bed.

use std::{io, path::PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} '{}'", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot start '{program}'. Is it installed?")]
    Spawn { program: String, source: io::Error },
    #[error("'{command}' failed with {status}: {output}")]
    Command {
        command: String,
        status: String,
        output: String,
    },
    #[error("'{name}' ended while starting; the end of '{}': {tail}", log.display())]
    Died {
        name: String,
        log: PathBuf,
        tail: String,
    },
    #[error("'{name}' is not ready after {seconds} s; the end of '{}': {tail}", log.display())]
    NotReady {
        name: String,
        seconds: u64,
        log: PathBuf,
        tail: String,
    },
    #[error(
        "'{what}' was given by the environment variable '{variable}' and is not for the test bed to touch. Unset the variable to use the bed's own."
    )]
    NotOurs {
        what: &'static str,
        variable: &'static str,
    },
    #[error("'{what}' needs root. Run as root, or set '{variable}' to one that you have.")]
    NeedsRoot {
        what: &'static str,
        variable: &'static str,
    },
    #[error("no free ports for a private broker between {first} and {last}")]
    NoPorts { first: u16, last: u16 },
    #[error("'{what}' is not what was expected: {detail}")]
    Unexpected { what: String, detail: String },
    #[error("cannot write the image '{name}'")]
    Image { name: String, source: io::Error },
}

/// Adds what was being done, and to which file, to an I/O error.
pub(crate) trait FileContext<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T> FileContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::File {
            action,
            path: path.into(),
            source,
        })
    }
}
