//! The command `testbed`: the library's parts, by hand.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command answers on the terminal"
)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use headwater_testbed::{Part, Result, image::Image};

const USAGE: &str = "\
Usage:
  testbed prepare [PART]      fetch and build into the cache
  testbed up [PART]           start what does not run yet
  testbed down [PART]         stop, and remove what was made
  testbed status
  testbed env                 export lines for a shell
  testbed image --binary PATH --name NAME --out FILE.tar [--user ID] [--tmp]
                              write a container image: the program, its shared libraries, the machine's certificate authorities

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
        ["image", options @ ..] => match image_options(options) {
            Some((image, out)) => write_image(&image, &out),
            None => return usage(),
        },
        _ => return usage(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprint!("{USAGE}");
    ExitCode::from(2)
}

/// The image, and the file to write it to; none where an option is unknown, missing or has no value.
fn image_options(mut options: &[&str]) -> Option<(Image, PathBuf)> {
    let (mut binary, mut name, mut out) = (None, None, None);
    let mut user = headwater_testbed::image::USER;
    let mut temporary_folder = false;
    loop {
        options = match options {
            [] => break,
            ["--tmp", rest @ ..] => {
                temporary_folder = true;
                rest
            }
            [option, value, rest @ ..] => {
                match *option {
                    "--binary" => binary = Some(*value),
                    "--name" => name = Some(*value),
                    "--out" => out = Some(PathBuf::from(value)),
                    "--user" => user = value.parse().ok()?,
                    _ => return None,
                }
                rest
            }
            _ => return None,
        };
    }
    let image = Image {
        certificates: true,
        temporary_folder,
        user,
        ..Image::new(name?, binary?)
    };
    Some((image, out?))
}

fn write_image(image: &Image, out: &Path) -> Result<()> {
    let digest = headwater_testbed::image::write(image, out)?;
    println!("{digest}");
    Ok(())
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
