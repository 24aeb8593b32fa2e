//! The generated files in the repository are those that the types give.

use headwater_crds::render;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DIRECTORIES: [&str; 3] = [
    "crds/yaml",
    "charts/headwater-crds/templates",
    "docs/reference",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn generated_files_are_up_to_date() {
    let different: Vec<String> = render::files()
        .unwrap()
        .into_iter()
        .filter(|file| {
            fs::read_to_string(root().join(&file.path)).ok().as_ref() != Some(&file.contents)
        })
        .map(|file| file.path)
        .collect();
    assert!(
        different.is_empty(),
        "not as the types say: {different:?}; run `{}` and commit what it writes",
        render::COMMAND
    );
}

#[test]
fn there_are_no_other_files_beside_the_generated_ones() {
    let known: BTreeSet<String> = render::files()
        .unwrap()
        .into_iter()
        .map(|file| file.path)
        .collect();
    for directory in DIRECTORIES {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = format!("{directory}/{name}");
            assert!(
                known.contains(&path),
                "{path} belongs to no kind; remove it, or generate it in crds/src/render.rs"
            );
        }
    }
}

#[test]
fn each_definition_is_under_256_kib() {
    for file in render::files().unwrap() {
        assert!(
            file.contents.len() < 256 * 1024,
            "{} has {} bytes; kubectl apply cannot keep so much in an annotation",
            file.path,
            file.contents.len()
        );
    }
}
