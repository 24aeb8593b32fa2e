//! Gets what the bed runs into the cache, once, with a line of progress for each step that takes long.

pub(crate) mod apt;
pub(crate) mod go;
pub(crate) mod maven;

use std::time::Instant;

use crate::error::Result;

/// Does something that takes long, saying so on standard error.
#[allow(
    clippy::print_stderr,
    reason = "whoever waits for minutes wants to know for what"
)]
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("testbed: {what} ...");
    let started = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "failed" };
    eprintln!(
        "testbed: {what}: {outcome} after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    result
}
