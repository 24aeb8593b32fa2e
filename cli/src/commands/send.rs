//! `headwater send`: an event for a source.

use super::target::{Target, Where, block_on};
use super::{OutputFormat, print_json};
use crate::control::Send;
use crate::error::Error;
use crate::folder::events;
use crate::terminal::say;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

/// Send events to a source, and print where the log has them.
///
/// The event is checked against the source's schema first. Once the position is printed, every prompt
/// that is assembled for a later trigger sees the event.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Name of the EventSource.
    source: String,
    /// The event: JSON, or text for a source of format Text.
    #[arg(value_name = "EVENT", required_unless_present_any = ["file", "delete"], conflicts_with_all = ["file", "delete"])]
    event: Option<String>,
    /// Events from a file, one a line as in events/<source>.ndjson: {"key": "k", "value": {...}, "timestamp": "...",
    /// "headers": {}}; - is standard input.
    #[arg(long, short, value_name = "FILE", conflicts_with = "key")]
    file: Option<PathBuf>,
    /// Key of the event; without it, as the source's `key` says.
    #[arg(long)]
    key: Option<String>,
    /// Send a delete of the key.
    #[arg(long, requires = "key", conflicts_with = "file")]
    delete: bool,
    #[command(flatten)]
    to: Where,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let events = match &arguments.file {
        Some(file) => from_file(arguments, file)?,
        None => vec![Send {
            namespace: arguments.to.namespace(),
            source: arguments.source.clone(),
            key: arguments.key.clone(),
            body: arguments.event.clone(),
            timestamp: None,
            headers: BTreeMap::new(),
        }],
    };
    let target = arguments.to.open()?;
    block_on(send(&target, events, arguments.output))
}

async fn send(target: &Target, events: Vec<Send>, output: OutputFormat) -> Result<(), Error> {
    for event in events {
        let sent = target.send(event).await?;
        match output {
            OutputFormat::Json => print_json(&sent)?,
            OutputFormat::Text => say(&format!("{}\n", sent.position)),
        }
    }
    Ok(())
}

fn from_file(arguments: &Arguments, file: &PathBuf) -> Result<Vec<Send>, Error> {
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(file).map(|content| text = content)
    };
    read.map_err(|error| Error::file("read", file, error))?;
    let events = events::parse(&text, &arguments.source, &file.display().to_string())?;
    Ok(events
        .into_iter()
        .map(|event| Send {
            namespace: arguments.to.namespace(),
            source: event.source.to_string(),
            key: event.key,
            body: event.value.map(|raw| raw.get().to_owned()),
            timestamp: event.timestamp,
            headers: event.headers,
        })
        .collect())
}
