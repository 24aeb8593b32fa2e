//! Runs a program to its end and gives back what it printed; its failure is an error that shows the end of that.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// Runs `command` and returns its standard output.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Spawn {
            program: name(command),
            source,
        })?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(Error::Command {
        command: line(command),
        status: output.status.to_string(),
        output: tail(&format!("{printed}{complaint}"), 30),
    })
}

/// `run` for a program and its arguments.
pub(crate) fn call(program: impl AsRef<Path>, arguments: &[&str]) -> Result<String> {
    run(Command::new(program.as_ref()).args(arguments))
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The program `name` on the search path.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths)
        // Where Debian keeps programs for root, which is not on everybody's path.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    command.get_args().fold(name(command), |line, argument| {
        line + " " + &argument.to_string_lossy()
    })
}
