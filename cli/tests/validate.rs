//! `validate` and `explain` on folders of inputs: each file of `tests/validate` is one, and what is said
//! of it is a snapshot.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::path::Path;
use support::*;

#[test]
fn every_mistake_is_found_at_its_place() {
    let user = User::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/validate");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 10, "the inputs are gone: {names:?}");
    for name in names {
        let output = user
            .headwater()
            .current_dir(&folder)
            .args(["validate", &name])
            .output()
            .unwrap();
        let done = Done::new(output);
        assert_eq!(done.code, 1, "{name}: {done:?}");
        // Editors jump to where a line points.
        for line in done.stdout.lines() {
            let place = line
                .strip_prefix(&format!("{name}:"))
                .unwrap_or_else(|| panic!("{line}"));
            let mut parts = place.split(':').map(|part| part.parse::<u32>());
            assert!(
                matches!((parts.next(), parts.next()), (Some(Ok(1..)), Some(Ok(1..)))),
                "{line}"
            );
        }
        insta::assert_snapshot!(
            name.trim_end_matches(".yaml"),
            format!("{}{}", done.stdout, done.stderr)
        );
    }
}

#[test]
fn findings_for_programs() {
    let user = User::new();
    let done = user.run(&[
        "validate",
        "cli/tests/validate/unknown-field.yaml",
        "--output",
        "json",
    ]);
    assert_eq!(done.code, 1);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["valid"], false);
    let finding = &report["findings"][0];
    assert_eq!(finding["severity"], "error");
    assert_eq!(finding["path"], "spec.topic.partitons");
    assert!(finding["line"].as_u64().unwrap() > 1, "{finding}");
}

#[test]
fn the_example_can_work_and_is_explained() {
    let user = User::new();
    let valid = user.run(&["validate", "examples/flight-assistant"]);
    assert_eq!(valid.ok(), "20 resources in 10 files: all can work");
    let plan = user.run(&["explain", "examples/flight-assistant"]);
    insta::assert_snapshot!("explain-flight-assistant", without_generations(plan.ok()));
}

/// Generations are hashes over all that decides a view's fold: they change with the engine's own.
fn without_generations(text: &str) -> String {
    let is_generation = |word: &str| {
        word.len() == 6
            && word
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            // Words that are made of these letters alone are names.
            && word.bytes().any(|byte| byte.is_ascii_digit())
    };
    text.split_inclusive(|letter: char| !letter.is_alphanumeric())
        .map(|word| {
            let end = word.trim_end_matches(|letter: char| !letter.is_alphanumeric());
            if is_generation(end) {
                word.replacen(end, "GENERATION", 1)
            } else {
                word.to_owned()
            }
        })
        .collect()
}
