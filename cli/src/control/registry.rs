//! Where running `up`s are found: one file each, `<port>.json`, in a directory of the user's.
//!
//! A file is removed when its `up` ends in order; one whose `up` was killed is found by its process
//! being gone, and removed by whoever looks.

use crate::error::Error;
use crate::secrets::private_file;
use serde::{Deserialize, Serialize};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// One running `up`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    pub(crate) token: String,
    pub(crate) process: u32,
    /// The last part of the first path given: what `--to` names it by.
    pub(crate) name: String,
    /// Milliseconds since the epoch.
    pub(crate) started: i64,
}

impl Running {
    pub(crate) fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap_or_default()
    }
}

/// An entry of this process, removed when dropped.
pub(crate) struct Registration(PathBuf);

impl Drop for Registration {
    fn drop(&mut self) {
        // Left behind, it is removed by the next command that looks.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `$XDG_RUNTIME_DIR/headwater/up`, else `~/.cache/headwater/up`.
pub(crate) fn folder() -> Result<PathBuf, Error> {
    let from = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    from("XDG_RUNTIME_DIR")
        .filter(|path| path.is_absolute() && path.is_dir())
        .or_else(|| from("HOME").map(|home| home.join(".cache")))
        .map(|base| base.join("headwater").join("up"))
        .ok_or_else(|| Error::failed("neither XDG_RUNTIME_DIR nor HOME is set, so there is no place to note a running 'up' in; set HOME"))
}

pub(crate) fn register(folder: &Path, running: &Running) -> Result<Registration, Error> {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(folder)
        .map_err(|source| Error::file("create", folder, source))?;
    let file = folder.join(format!("{}.json", running.port()));
    // A killed `up` may have had the same port.
    let _ = std::fs::remove_file(&file);
    let json = serde_json::to_vec(running).map_err(|error| Error::internal(error.to_string()))?;
    private_file(&file, &json)?;
    Ok(Registration(file))
}

/// The `up` to talk to: the one named, else the one started last.
pub(crate) fn find(folder: &Path, to: Option<&str>) -> Result<Running, Error> {
    let mut all = list(folder);
    all.sort_by_key(|running| std::cmp::Reverse(running.started));
    let names = |all: &[Running]| {
        all.iter()
            .map(|running| format!("{} (port {})", running.name, running.port()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match to {
        None => all.into_iter().next().ok_or_else(|| {
            Error::refused("no 'headwater up' is running for this user; start one with 'headwater up FOLDER', or talk to Kafka with --kafka HOST:PORT -f FOLDER")
        }),
        Some(to) => {
            let chosen = all.iter().find(|running| running.name == to || running.port() == to || running.address == to);
            chosen.cloned().ok_or_else(|| {
                let there = if all.is_empty() { "none is running".to_owned() } else { format!("running: {}", names(&all)) };
                Error::refused(format!("no 'headwater up' is named '{to}'; {there}"))
            })
        }
    }
}

/// Those whose process is there.
fn list(folder: &Path) -> Vec<Running> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .filter_map(|path| {
            let running: Running = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            if is_alive(running.process) {
                Some(running)
            } else {
                let _ = std::fs::remove_file(&path);
                None
            }
        })
        .collect()
}

fn is_alive(process: u32) -> bool {
    let Some(process) = i32::try_from(process)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    else {
        return false;
    };
    !matches!(
        rustix::process::test_kill_process(process),
        Err(rustix::io::Errno::SRCH)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(name: &str, port: u16, started: i64, process: u32) -> Running {
        Running {
            address: format!("127.0.0.1:{port}"),
            token: "secret".into(),
            process,
            name: name.into(),
            started,
        }
    }

    #[test]
    fn the_latest_is_found_unless_one_is_named() {
        let mounted = crate::secrets::Mounted::new().expect("a temporary directory");
        let folder = mounted.root().join("up");
        let own = std::process::id();
        let first = running("first", 7420, 1, own);
        let second = running("second", 7421, 2, own);
        let _first = register(&folder, &first).expect("registered");
        let last = register(&folder, &second).expect("registered");
        // The largest number that a process can have is not in use here.
        let gone = register(&folder, &running("gone", 7422, 3, 0x3fff_fffe)).expect("registered");
        std::mem::forget(gone);
        assert_eq!(find(&folder, None).expect("two"), second);
        assert_eq!(find(&folder, Some("first")).expect("by name"), first);
        assert_eq!(find(&folder, Some("7420")).expect("by port"), first);
        let error = find(&folder, Some("third"))
            .expect_err("no such")
            .to_string();
        assert!(
            error.contains("second (port 7421), first (port 7420)"),
            "{error}"
        );
        drop(last);
        assert_eq!(find(&folder, None).expect("one is left"), first);
    }
}
