//! `headwater prompts`: the last runs of an agent, as their audit has them.

use super::OutputFormat;
use super::target::{Where, block_on};
use crate::control::Past;
use crate::error::Error;
use crate::screen::{Screen, Show};

/// Show the last runs of an agent: what each prompt was assembled from, the prompt, the answer.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Name of the Agent.
    agent: String,
    /// Only this run: its id, or the beginning of it.
    #[arg(long, value_name = "ID", conflicts_with = "limit")]
    run: Option<String>,
    /// How many runs, the newest last.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// How much of each run is shown.
    #[arg(long, value_enum, default_value_t)]
    show: Show,
    #[command(flatten)]
    to: Where,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let target = arguments.to.open()?;
    let past = Past {
        namespace: arguments.to.namespace(),
        agent: arguments.agent.clone(),
        run: arguments.run.clone(),
        limit: arguments.limit,
    };
    let runs = block_on(target.past(past))?;
    let screen = Screen::new(arguments.show, arguments.output == OutputFormat::Json);
    if runs.is_empty() {
        screen.note(&format!("agent '{}' has no runs yet", arguments.agent));
    }
    for run in &runs {
        screen.past_run(run)?;
    }
    Ok(())
}
