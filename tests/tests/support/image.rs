//! The image of the binary under test.

use headwater_testbed::image::Image;
use std::path::PathBuf;
use std::process::Command;

/// The release binary: `HEADWATER_BINARY`, else built now.
pub fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("HEADWATER_BINARY") {
        return binary.into();
    }
    let root = root();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "-p", "headwater-cli"])
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(built.success(), "headwater does not build");
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), PathBuf::from)
        .join("release/headwater")
}

/// The archive of the image that the chart's defaults name.
pub fn build() -> PathBuf {
    let out = headwater_testbed::layout::state().join("headwater-image.tar");
    let image = Image {
        certificates: true,
        temporary_folder: true,
        ..Image::new(
            format!(
                "docker.io/headwater-dev/headwater:{}",
                env!("CARGO_PKG_VERSION")
            ),
            binary(),
        )
    };
    headwater_testbed::image::write(&image, &out).unwrap();
    out
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
