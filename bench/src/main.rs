//! The benchmarks: each prints ratios of figures taken in one run, ours beside a peer or a physical limit.
//!
//! `cargo run --release -p headwater-bench -- NAME`; README.md says what each means.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command prints its result"
)]

#[cfg(feature = "assemble")]
mod assemble;
mod data;
mod engine;
mod fold;
mod latency;
mod measure;
mod restore;
mod stages;
mod streams;
mod up;

use std::process::ExitCode;

/// Whatever goes wrong ends the run; its message is all that matters.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["fold"] => fold::run(),
        ["engine"] => engine::run(),
        ["latency"] => latency::run(),
        ["restore"] => restore::run(),
        ["up"] => up::run(),
        #[cfg(feature = "assemble")]
        ["assemble"] => assemble::run(),
        _ => {
            eprintln!("usage: headwater-bench fold | engine | restore | latency | up | assemble");
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
