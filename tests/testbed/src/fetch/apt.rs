//! Debian packages, installed only when a program is missing.

use std::process::Command;

use crate::{
    error::{Error, Result},
    fetch::step,
    machine, run,
};

/// Installs the packages of those `(program, package)` pairs whose program is not on the search path. A program given as an absolute
/// path is looked for there.
pub(crate) fn install(wanted: &[(&str, &str)]) -> Result<()> {
    let missing = missing(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    if !machine::is_root() {
        return Err(Error::Unexpected {
            what: missing.join(", "),
            detail: "these Debian packages are missing, and only root can install them".to_owned(),
        });
    }
    step(&format!("installing {}", missing.join(" ")), || {
        let apt = |arguments: &[&str]| {
            run::run(
                Command::new("apt-get")
                    .env("DEBIAN_FRONTEND", "noninteractive")
                    .args(arguments),
            )
        };
        apt(&["update", "-q"])?;
        let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
        install.extend(&missing);
        apt(&install)?;
        Ok(())
    })
}

fn missing<'a>(wanted: &[(&str, &'a str)]) -> Vec<&'a str> {
    wanted
        .iter()
        .filter(|(program, _)| match program.strip_prefix('/') {
            Some(_) => !std::path::Path::new(program).exists(),
            None => run::on_path(program).is_none(),
        })
        .map(|(_, package)| *package)
        .collect()
}
