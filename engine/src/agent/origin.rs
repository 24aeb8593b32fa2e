//! Whose records trigger an agent, and how they are read as events.
//!
//! The one door for all that needs an event of a trigger: starting runs, taking them in, refusing them, replay.

use crate::config::{self, InvalidRecords};
use crate::expr::{Names, Shape};
use crate::fault::Fault;
use crate::names::header;
use crate::problem::{CompileError, reason};
use crate::record::{Position, Record};
use crate::source::{Event, Source, header_text, headers_of};
use crate::view::changes;
use serde_json::Value;

/// Where the events come from that start runs.
#[derive(Debug)]
pub enum Origin {
    /// A run for every event of a source.
    Source(Box<Source>),
    /// A run for every change of a row of a view, read from this topic.
    Changes { topic: String },
}

impl Origin {
    pub(super) fn compile(
        trigger: &config::Trigger,
        stage: &config::Stage,
    ) -> Result<Self, CompileError> {
        let name = match &trigger.from {
            config::TriggerFrom::Source(name) => name,
            config::TriggerFrom::View(name) => return Self::of_view(name, stage),
        };
        let Some(source) = stage.sources.get(name) else {
            return Err(CompileError::one(
                "spec.trigger.sourceRef.name",
                reason::REFERENCE_NOT_FOUND,
                format!("there is no EventSource '{name}'"),
            ));
        };
        Ok(Self::Source(Box::new(Source::compile(source)?)))
    }

    fn of_view(name: &str, stage: &config::Stage) -> Result<Self, CompileError> {
        let topic = stage.views.get(name).map(|view| &view.changes_topic);
        let (reason, message) = match topic {
            Some(Some(topic)) => {
                return Ok(Self::Changes {
                    topic: topic.clone(),
                });
            }
            Some(None) => (
                reason::INVALID_SPEC,
                format!("the view '{name}' writes no changes"),
            ),
            None => (
                reason::REFERENCE_NOT_FOUND,
                format!("there is no ContextView '{name}'"),
            ),
        };
        Err(CompileError::one(
            "spec.trigger.viewRef.name",
            reason,
            message,
        ))
    }

    /// The topic of the events.
    pub fn topic(&self) -> &str {
        match self {
            Self::Source(source) => source.topic(),
            Self::Changes { topic } => topic,
        }
    }

    /// What expressions of the trigger see of an event.
    pub fn names(&self) -> Names {
        match self {
            Self::Source(source) => source.names(),
            Self::Changes { .. } => {
                Names::new(&["event", "previous", "key", "headers"]).shape("time", Shape::Timestamp)
            }
        }
    }

    /// # Errors
    /// A record that is no event of this origin.
    pub fn decode(&self, record: &Record<'_>) -> Result<Event, Fault> {
        match self {
            Self::Source(source) => source.decode(record),
            Self::Changes { .. } => decode_change(record),
        }
    }

    /// What happens to records that do not decode.
    pub fn invalid_records(&self) -> InvalidRecords {
        match self {
            Self::Source(source) => source.invalid_records(),
            Self::Changes { .. } => InvalidRecords::DeadLetter,
        }
    }
}

/// The row is the event, null where it is gone; `previous` is the row before, null where there was none.
fn decode_change(record: &Record<'_>) -> Result<Event, Fault> {
    let change = changes::read(record)?;
    let position = record.position();
    let chain = |name| header_text(record, name);
    Ok(Event {
        null: change.value.is_none(),
        value: change.value.unwrap_or_default(),
        before: Value::Null,
        key: Some(change.key),
        headers: headers_of(record),
        time: change.time,
        root: chain(header::ROOT)
            .and_then(|root| root.parse::<Position>().ok())
            .unwrap_or_else(|| position.clone()),
        hops: chain(header::HOPS)
            .and_then(|hops| hops.parse().ok())
            .unwrap_or(0),
        position,
        previous: Some(change.previous.unwrap_or_default()),
        row: None,
    })
}
