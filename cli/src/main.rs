//! The one binary: the operator, the stages of a data plane, and everything people do by hand.

#![allow(clippy::print_stderr, reason = "a command speaks to whoever called it")]

mod commands;
mod control;
mod dump;
mod error;
mod feed;
mod finding;
mod folder;
mod gateway;
mod hints;
mod logging;
mod pipeline;
mod project;
mod screen;
mod secrets;
mod terminal;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = commands::Arguments::parse();
    match commands::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headwater: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
