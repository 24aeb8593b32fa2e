//! `headwater replay`: prompts of the past again, and what other templates would have made of them.

use super::target::{Where, block_on};
use super::{OutputFormat, print_json};
use crate::control::{Again, Replay, Replayed, Templates, Verdict, Which};
use crate::error::Error;
use crate::folder::yaml::{self, Node};
use crate::screen::{self, counted, difference};
use crate::terminal::{Style, Terminal, clean, say};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// Render the prompt of a run again, and prove that it is the one that was sent, byte for byte.
///
/// The run's audit record holds what the run read; the templates are those of the agent. What cannot be proven is refused, with
/// the reason, and the exit code is 1. With --with other templates are rendered from what the run read, and the difference is shown.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Name of the Agent.
    agent: String,
    #[command(flatten)]
    which: Wanted,
    /// Other templates: a manifest that has the Agent, changed (.yaml, .yml, .json), or a file that is one template.
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// Which template a --with FILE is, if it is no manifest. Without it: system, of an agent that has none user.
    #[arg(long, value_enum, requires = "with")]
    part: Option<Part>,
    #[command(flatten)]
    to: Where,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Wanted {
    /// The run: its id, as `headwater prompts` shows it, or the beginning of it.
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Every run that the audit still has; those that are not the same are listed.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    System,
    User,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let with = arguments.with.as_deref();
    let templates = with
        .map(|file| read(file, &arguments.agent, arguments.part))
        .transpose()?;
    let target = arguments.to.open()?;
    let replay = Replay {
        namespace: arguments.to.namespace(),
        agent: arguments.agent.clone(),
        which: arguments.which.run.clone().map_or(Which::All, Which::Run),
        with: templates,
    };
    let replayed = block_on(target.replay(replay))?;
    if arguments.output == OutputFormat::Json {
        print_json(&replayed)?;
    } else {
        say(&shown(&Terminal::stdout(), arguments, &replayed));
    }
    verdict(arguments, &replayed)
}

/// Whoever asked for a proof and did not get it has to see it from the exit code.
fn verdict(arguments: &Arguments, replayed: &Replayed) -> Result<(), Error> {
    match (arguments.which.all, replayed.runs.first()) {
        (false, Some(run)) if matches!(run.verdict, Verdict::Refused | Verdict::NoPrompt) => {
            let reason = run.reason.as_deref().unwrap_or_default();
            Err(Error::refused(format!("run {}: {reason}", run.run)))
        }
        (true, _) if replayed.refused > 0 => Err(Error::refused(format!(
            "{} could not be replayed",
            counted(replayed.refused, "run")
        ))),
        _ => Ok(()),
    }
}

fn shown(terminal: &Terminal, arguments: &Arguments, replayed: &Replayed) -> String {
    let name = arguments
        .with
        .as_ref()
        .map(|file| file.display().to_string());
    let name = name.as_deref().map(|name| clean(name, false));
    if !arguments.which.all {
        // What was refused is said as the error.
        let run = replayed.runs.first().filter(|run| run.rendered.is_some());
        return run.map_or_else(String::new, |run| one(terminal, run, name.as_deref()));
    }
    let mut text = String::new();
    let told = |run: &&Again| matches!(run.verdict, Verdict::Changed | Verdict::Refused);
    for run in replayed.runs.iter().filter(told) {
        text.push_str(&one(terminal, run, name.as_deref()));
    }
    let left = (replayed.changed + replayed.refused)
        .saturating_sub(replayed.runs.iter().filter(told).count());
    if left > 0 {
        text.push_str(&format!("... and {} more\n", screen::count(left)));
    }
    text.push_str(&format!(
        "{}: {} the same, byte for byte",
        counted(
            replayed.same + replayed.changed + replayed.refused + replayed.without_prompt,
            "run"
        ),
        screen::count(replayed.same)
    ));
    for (count, what) in [
        (replayed.changed, "changed"),
        (replayed.refused, "refused"),
        (replayed.without_prompt, "without a prompt"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {} {what}", screen::count(count)));
        }
    }
    text.push('\n');
    text
}

fn one(terminal: &Terminal, run: &Again, with: Option<&str>) -> String {
    let head = terminal.paint(
        Style::Heading,
        &format!(
            "run {} of {}",
            clean(&run.run, false),
            clean(&run.trigger, false)
        ),
    );
    let (Some(recorded), Some(rendered)) = (&run.recorded, &run.rendered) else {
        let reason = run.reason.as_deref().unwrap_or_default();
        let reason = terminal.paint(Style::Bad, &clean(reason, false));
        return format!("{head}: {reason}\n");
    };
    let tokens = if recorded.tokens == rendered.tokens {
        counted(recorded.tokens, "token")
    } else {
        format!(
            "{} become {}",
            counted(recorded.tokens, "token"),
            screen::count(rendered.tokens)
        )
    };
    if run.verdict == Verdict::Changed {
        let with = with.unwrap_or("the other templates");
        let difference =
            difference::unified(terminal, &recorded.messages, &rendered.messages, with);
        return format!("{head}: another prompt with {with}, {tokens}\n{difference}");
    }
    let bytes: usize = rendered
        .messages
        .iter()
        .map(|message| message.content.len())
        .sum();
    let same = terminal.paint(Style::Good, "the same prompt, byte for byte");
    let with = with.map(|name| format!(" with {name}")).unwrap_or_default();
    format!(
        "{head}: {same}{with}\n  {}, {} bytes, {tokens}, sha256 {}\n",
        counted(rendered.messages.len(), "message"),
        screen::count(bytes),
        rendered.hash
    )
}

/// The templates that a file gives.
fn read(file: &Path, agent: &str, part: Option<Part>) -> Result<Templates, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::file("read", file, source))?;
    let kind = file.extension().and_then(|kind| kind.to_str());
    if !matches!(kind, Some("yaml" | "yml" | "json")) {
        return Ok(match part {
            Some(Part::System) => Templates::System(text),
            Some(Part::User) => Templates::User(text),
            None => Templates::Main(text),
        });
    }
    let name = file.display();
    if part.is_some() {
        return Err(Error::usage(format!(
            "--part: {name} is a manifest, which says itself which template is which"
        )));
    }
    let documents = yaml::parse(&text).map_err(|error| {
        let place = error.place;
        Error::usage(format!("{name}:{}:{}: {error}", place.line, place.column))
    })?;
    let text_at = |node: &Node, path: &[&str]| -> Option<String> {
        let found = path.iter().try_fold(node, |node, field| node.get(field))?;
        found.text().map(str::to_owned)
    };
    let agents: Vec<(&Node, String)> = documents
        .iter()
        .filter(|node| text_at(node, &["kind"]).as_deref() == Some("Agent"))
        .filter_map(|node| Some((node, text_at(node, &["metadata", "name"])?)))
        .collect();
    match agents.iter().find(|(_, name)| name == agent) {
        Some((node, _)) => Ok(Templates::Prompt {
            system: text_at(node, &["spec", "prompt", "system"]),
            user: text_at(node, &["spec", "prompt", "user"]),
        }),
        None if agents.is_empty() => Err(Error::usage(format!(
            "{name} holds no Agent; give a manifest that has agent '{agent}', or a file that is one template, as {agent}.jinja"
        ))),
        None => {
            let names: Vec<&str> = agents.iter().map(|(_, name)| name.as_str()).collect();
            Err(Error::usage(format!(
                "{name} holds no Agent '{agent}'; it holds: {}",
                names.join(", ")
            )))
        }
    }
}
