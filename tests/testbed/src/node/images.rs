//! The images that the node itself needs, made by the bed and kept in the cache: the pause container and CoreDNS.

use std::path::{Path, PathBuf};

use crate::{
    error::Result,
    fetch::{go, step},
    image::{self, Image},
    layout,
};

const PAUSE_VERSION: &str = "1";
const PAUSE_SOURCE: &str = include_str!("pause.go");

/// Tar files to import.
#[derive(Clone, Debug)]
pub(super) struct Images {
    pub(super) pause: PathBuf,
    pub(super) coredns: PathBuf,
}

pub(super) fn pause_name() -> String {
    format!("localhost/headwater-testbed/pause:{PAUSE_VERSION}")
}

pub(super) fn coredns_name() -> String {
    format!("localhost/headwater-testbed/coredns:{}", layout::COREDNS)
}

impl Images {
    pub(super) fn fetch() -> Result<Self> {
        let folder = layout::cache().join(format!("pause-{PAUSE_VERSION}"));
        let pause = once(&folder, || {
            layout::write(&folder.join("pause.go"), PAUSE_SOURCE)?;
            let program = folder.join("pause");
            go::compile(&folder, &program, &["-ldflags", "-s -w", "pause.go"])?;
            Ok(Image::new(pause_name(), program))
        })?;
        let program = go::COREDNS.built()?;
        let folder = layout::cache().join(format!("coredns-{}", layout::COREDNS));
        let coredns = once(&folder, || Ok(Image::new(coredns_name(), program)))?;
        Ok(Self { pause, coredns })
    }
}

/// `image.tar` in `folder`, written unless it is there.
fn once(folder: &Path, image: impl FnOnce() -> Result<Image>) -> Result<PathBuf> {
    let path = folder.join("image.tar");
    if path.is_file() {
        return Ok(path);
    }
    let _lock = layout::Lock::on(folder)?;
    if !path.is_file() {
        step(&format!("making '{}'", path.display()), || {
            image::write(&image()?, &path)
        })?;
    }
    Ok(path)
}
