//! The command `testbed`: the library's parts, by hand.

use std::process::ExitCode;

use headwater_testbed::{Part, Result};

const USAGE: &str = "\
Usage:
  testbed prepare [kafka]     fetch into the cache
  testbed up kafka            start what does not run yet
  testbed down [kafka]        stop, and remove what was made
  testbed status
  testbed env                 export lines for a shell
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["prepare"] | ["prepare", "all"] => headwater_testbed::prepare(Part::Kafka),
        ["prepare", part] => part.parse().and_then(headwater_testbed::prepare),
        ["up", part] => part.parse().and_then(up),
        ["down"] | ["down", "all"] => headwater_testbed::down(Part::Kafka),
        ["down", part] => part.parse().and_then(headwater_testbed::down),
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

fn up(part: Part) -> Result<()> {
    match part {
        Part::Kafka => {
            let kafka = headwater_testbed::kafka()?;
            println!("kafka is at {}", kafka.bootstrap());
        }
    }
    Ok(())
}

fn print(lines: Vec<String>) -> Result<()> {
    for line in lines {
        println!("{line}");
    }
    Ok(())
}
