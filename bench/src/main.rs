//! The benchmarks: each prints ratios of figures taken in one run, ours beside a peer or a physical limit.
//!
//! `cargo run --release -p headwater-bench -- NAME`; README.md says what each means.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command prints its result"
)]
#![cfg_attr(
    not(feature = "kafka"),
    allow(
        dead_code,
        reason = "some helpers are only for those that need a broker"
    )
)]

#[cfg(feature = "kafka")]
mod answer;
mod assemble;
#[cfg(feature = "kafka")]
mod bed;
#[cfg(feature = "kafka")]
mod committed;
mod data;
mod engine;
#[cfg(feature = "kafka")]
mod fold;
#[cfg(feature = "kafka")]
mod latency;
mod measure;
#[cfg(feature = "kafka")]
mod restore;
#[cfg(feature = "kafka")]
mod runs;
#[cfg(feature = "kafka")]
mod stages;
#[cfg(feature = "kafka")]
mod streams;
mod travel;
#[cfg(feature = "kafka")]
mod up;

use std::process::ExitCode;

/// Whatever goes wrong ends the run; its message is all that matters.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["engine"] => engine::run(),
        ["assemble"] => assemble::run(),
        #[cfg(feature = "kafka")]
        ["answer"] => answer::run(),
        #[cfg(feature = "kafka")]
        ["runs"] => runs::run(),
        #[cfg(feature = "kafka")]
        ["fold"] => fold::run(),
        #[cfg(feature = "kafka")]
        ["latency"] => latency::run(),
        #[cfg(feature = "kafka")]
        ["restore"] => restore::run(),
        #[cfg(feature = "kafka")]
        ["up"] => up::run(),
        _ => {
            eprintln!(
                "usage: headwater-bench fold | engine | restore | latency | up | assemble | runs | answer"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headwater-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
