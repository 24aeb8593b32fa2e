//! The commands, one module each. Arguments are parsed here and nowhere else.

mod approvals;
mod chat;
mod crds;
mod dead_letters;
mod explain;
mod operator;
mod prompts;
mod replay;
mod resume;
mod send;
mod stage;
mod target;
mod up;
mod validate;
mod views;

use crate::error::Error;
use crate::terminal::say;
use clap::{Parser, Subcommand, ValueEnum};
use headwater_engine::names::Owner;

/// Streaming AI pipelines: prompts as fresh as the log, and able to prove it.
#[derive(Debug, Parser)]
#[command(
    name = "headwater",
    version,
    propagate_version = true,
    after_help = "\
Exit codes:
  0  done
  1  refused: resources that cannot work, an event that a source does not take
  2  the command line is wrong, or a file on it holds no resources or events
  3  something outside failed: a file, the network, Kafka, a stage

Start here: headwater up examples/flight-assistant"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Arguments),
    Chat(chat::Arguments),
    Send(send::Arguments),
    Prompts(prompts::Arguments),
    Replay(replay::Arguments),
    Views(views::Arguments),
    DeadLetters(dead_letters::Arguments),
    Approvals(approvals::Arguments),
    Resume(resume::Arguments),
    Validate(validate::Arguments),
    Explain(explain::Arguments),
    Crds(crds::Arguments),
    Operator(operator::Arguments),
    /// Run the stage of one view; what its pods run.
    View(stage::Arguments),
    /// Run the stage of one agent; what its pods run.
    Agent(stage::Arguments),
}

/// How a command prints what it has to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Error> {
    match arguments.command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Chat(arguments) => chat::run(&arguments),
        Command::Send(arguments) => send::run(&arguments),
        Command::Prompts(arguments) => prompts::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Views(arguments) => views::run(&arguments),
        Command::DeadLetters(arguments) => dead_letters::run(&arguments),
        Command::Approvals(arguments) => approvals::run(&arguments),
        Command::Resume(arguments) => resume::run(&arguments),
        Command::Validate(arguments) => validate::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Crds(arguments) => crds::run(&arguments),
        Command::Operator(arguments) => operator::run(arguments),
        Command::View(arguments) => stage::run(&arguments, Owner::View),
        Command::Agent(arguments) => stage::run(&arguments, Owner::Agent),
    }
}

/// One value as indented JSON.
fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::internal(error.to_string()))?;
    say(&format!("{text}\n"));
    Ok(())
}
