//! kubectl, with its answer.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses its own part of this, and fails by panicking"
)]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

pub fn run(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

/// Runs kubectl with the words of `line` as its arguments.
pub fn try_kubectl(mut kubectl: Command, line: &str, input: &str) -> Output {
    kubectl.args(line.split_ascii_whitespace());
    run(kubectl, input)
}

/// As `try_kubectl`, and it must succeed.
pub fn kubectl(command: Command, line: &str, input: &str) -> String {
    let output = try_kubectl(command, line, input);
    assert!(
        output.status.success(),
        "kubectl {line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 30 s");
        std::thread::sleep(Duration::from_millis(100));
    }
}
