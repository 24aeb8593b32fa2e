//! Writes the files that are generated from the resource types: `cargo run -p headwater-crds --example generate`.

#![allow(clippy::print_stdout, reason = "it tells a person what it wrote")]

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("the crate has no directory above it")?;
    for file in headwater_crds::render::files()? {
        let path = root.join(&file.path);
        if fs::read_to_string(&path).is_ok_and(|contents| contents == file.contents) {
            continue;
        }
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&path, &file.contents)?;
        println!("wrote {}", file.path);
    }
    Ok(())
}
