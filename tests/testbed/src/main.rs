//! The command `testbed`: the library's parts, by hand.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command answers on the terminal"
)]

use std::process::ExitCode;

use headwater_testbed::{Part, Result};

const USAGE: &str = "\
Usage:
  testbed prepare [PART]      fetch and build into the cache
  testbed up [PART]           start what does not run yet
  testbed down [PART]         stop, and remove what was made
  testbed status
  testbed env                 export lines for a shell

PART is kafka, control-plane, node (which needs the control plane, and root), helm (to prepare only) or all, which is the default.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["prepare", part @ ..] if part.len() <= 1 => each(part, headwater_testbed::prepare),
        ["up", part @ ..] if part.len() <= 1 => each(part, up),
        ["down", part @ ..] if part.len() <= 1 => each(part, headwater_testbed::down),
        ["status"] => print(headwater_testbed::status()),
        ["env"] => print(headwater_testbed::environment()),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn each(part: &[&str], work: fn(Part) -> Result<()>) -> Result<()> {
    match part {
        [] | ["all"] => Part::ALL.into_iter().try_for_each(work),
        named => named
            .iter()
            .try_for_each(|name| name.parse().and_then(work)),
    }
}

fn up(part: Part) -> Result<()> {
    match part {
        Part::Kafka => {
            let kafka = headwater_testbed::kafka()?;
            println!("kafka is at {}", kafka.bootstrap());
        }
        Part::ControlPlane => {
            let control_plane = headwater_testbed::control_plane()?;
            println!(
                "the control plane's kubeconfig is {}",
                control_plane.kubeconfig().display()
            );
        }
        Part::Node => {
            let node = headwater_testbed::node()?;
            println!("the node's kubeconfig is {}", node.kubeconfig().display());
        }
        Part::Helm => {}
    }
    Ok(())
}

fn print(lines: Vec<String>) -> Result<()> {
    for line in lines {
        println!("{line}");
    }
    Ok(())
}
