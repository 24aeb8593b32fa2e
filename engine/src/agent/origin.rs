//! Whose records trigger an agent, and how they are read as events.
//!
//! The one door for all that needs an event of a trigger: starting runs, taking them in, refusing them, replay.

use crate::config::{self, InvalidRecords};
use crate::expr::Names;
use crate::fault::Fault;
use crate::problem::{CompileError, reason};
use crate::record::Record;
use crate::source::{Event, Source};

/// Where the events come from that start runs.
#[derive(Debug)]
pub enum Origin {
    /// A run for every event of a source.
    Source(Source),
}

impl Origin {
    pub(super) fn compile(
        trigger: &config::Trigger,
        stage: &config::Stage,
    ) -> Result<Self, CompileError> {
        let name = trigger.from.source().unwrap_or_default();
        let Some(source) = stage.sources.get(name) else {
            return Err(CompileError::one(
                "spec.trigger.sourceRef.name",
                reason::REFERENCE_NOT_FOUND,
                format!("there is no EventSource '{name}'"),
            ));
        };
        Ok(Self::Source(Source::compile(source)?))
    }

    /// The topic of the events.
    pub fn topic(&self) -> &str {
        match self {
            Self::Source(source) => source.topic(),
        }
    }

    /// What expressions of the trigger see of an event.
    pub fn names(&self) -> Names {
        match self {
            Self::Source(source) => source.names(),
        }
    }

    /// # Errors
    /// A record that is no event of this origin.
    pub fn decode(&self, record: &Record<'_>) -> Result<Event, Fault> {
        match self {
            Self::Source(source) => source.decode(record),
        }
    }

    /// What happens to records that do not decode.
    pub fn invalid_records(&self) -> InvalidRecords {
        match self {
            Self::Source(source) => source.invalid_records(),
        }
    }
}
