//! Where things are: the cache (what is fetched and built, by version), the state (what runs now), versions, addresses, ports.
//!
//! A version is part of its path in the cache, so raising it here builds anew and leaves the old one alone.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::error::{FileContext, Result};

pub const KAFKA: &str = "4.3.1";
pub const KUBERNETES: &str = "1.34.4";
pub const ETCD: &str = "3.6.5";
pub const HELM: &str = "4.3.1";
pub const COREDNS: &str = "1.13.1";

/// Address of the node, on the loopback link: a Kubernetes endpoint must not be 127.0.0.0/8, and pods reach it by way of their gateway.
pub const NODE_ADDRESS: &str = "10.250.0.1";
pub const NODE_NAME: &str = "headwater-testbed";
pub const POD_RANGE: &str = "10.244.0.0/24";
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
pub const API_SERVICE_ADDRESS: &str = "10.96.0.1";
pub const DNS_ADDRESS: &str = "10.96.0.10";

pub const KAFKA_PORT: u16 = 19092;
pub const API_PORT: u16 = 16443;
pub const ETCD_PORT: u16 = 12379;
/// First ports of private brokers: below the range from which the kernel gives ports to outgoing connections, so that a broker finds its
/// port free again after a restart.
pub const PRIVATE_PORTS: std::ops::Range<u16> = 20000..24000;

/// `$HEADWATER_CACHE/testbed`, by default `~/.cache/headwater/testbed`.
#[must_use]
pub fn cache() -> PathBuf {
    let base = env::var_os("HEADWATER_CACHE").map_or_else(
        || {
            let home = env::var_os("HOME").unwrap_or_else(|| "/root".into());
            Path::new(&home).join(".cache/headwater")
        },
        PathBuf::from,
    );
    base.join("testbed")
}

/// `$HEADWATER_TESTBED_STATE`, by default `/tmp/headwater-testbed`.
#[must_use]
pub fn state() -> PathBuf {
    env::var_os("HEADWATER_TESTBED_STATE")
        .map_or_else(|| PathBuf::from("/tmp/headwater-testbed"), PathBuf::from)
}

/// An environment variable that is set and not empty.
pub(crate) fn given(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Held while one process fetches, starts or stops something; others wait. Released on drop, or when the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock on `folder`, which is made if missing.
    pub(crate) fn on(folder: &Path) -> Result<Self> {
        make_folder(folder)?;
        let path = folder.join("lock");
        let file = File::create(&path).at("open the lock", &path)?;
        file.lock().at("lock", &path)?;
        Ok(Self { _file: file })
    }
}

pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).at("make the folder", path)
}

pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    fs::write(path, text).at("write", path)
}

/// Removes a folder with what is in it; that it is not there is fine.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove the folder", path),
    }
}
