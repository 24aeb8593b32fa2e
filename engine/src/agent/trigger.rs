//! From a record to a trigger: decoded, filtered, keyed, and known by the run that it starts.

use super::Agent;
use crate::config::{self, Deletes};
use crate::expr::{Expression, Names, Wanted};
use crate::fault::{Fault, Reason};
use crate::key::Key;
use crate::names::header;
use crate::problem::{CompileError, reason};
use crate::record::{OwnedRecord, Position, Record};
use crate::run::Identity;
use crate::source::Event;

/// What lets a record start a run.
#[derive(Debug)]
pub(super) struct Rules {
    deletes: Deletes,
    filter: Option<Expression>,
    key: Option<Expression>,
}

impl Rules {
    pub(super) fn compile(trigger: &config::Trigger, names: &Names) -> Result<Self, CompileError> {
        let mut problems = CompileError::default();
        let mut expression = |path: &str, text: &Option<String>, wanted| {
            text.as_ref().and_then(|text| {
                let compiled = Expression::compile_for(text, names, wanted);
                problems.take(path, reason::INVALID_EXPRESSION, compiled)
            })
        };
        let filter = expression("spec.trigger.filter", &trigger.filter, Wanted::Bool);
        let key = expression("spec.trigger.key", &trigger.key, Wanted::Key);
        problems.finish()?;
        Ok(Self {
            deletes: trigger.deletes,
            filter,
            key,
        })
    }
}

/// An event that starts a run. It owns all that the run needs of the record.
#[derive(Clone, Debug)]
pub struct Trigger {
    pub event: Event,
    /// Runs of one key are in order; without a key there is no order.
    pub key: Option<Key>,
    /// The run's id, the same for every attempt.
    pub run: String,
    pub position: Position,
    /// On the log, milliseconds since the epoch.
    pub timestamp: i64,
    /// T, the event time at which the run reads, milliseconds since the epoch.
    pub time: i64,
    /// The first event of the chain.
    pub root: Position,
    /// Agents that the chain has passed through, this run included.
    pub hops: u32,
    /// The record as it came, for a dead letter.
    original: OwnedRecord,
}

impl Trigger {
    /// Gives the record as it came.
    pub fn with_record<T>(&self, f: impl FnOnce(&Record<'_>) -> T) -> T {
        self.original.with(f)
    }

    /// W3C trace context, as it came.
    pub(super) fn trace_parent(&self) -> Option<&[u8]> {
        self.original.header(header::TRACE_PARENT)
    }
}

impl Agent {
    /// Whether a record starts a run: `None` for a delete that is ignored and for what the filter
    /// leaves out.
    ///
    /// # Errors
    /// A record that does not decode, an expression that fails on it, `TooManyHops`. Such a record is
    /// not retried: see [`Agent::refuse`].
    pub fn trigger(&self, record: &Record<'_>) -> Result<Option<Trigger>, Fault> {
        if record.value.is_none() && self.trigger.deletes == Deletes::Ignore {
            return Ok(None);
        }
        let event = self.source.decode(record)?;
        if let Some(filter) = &self.trigger.filter
            && !filter
                .truth(&event)
                .map_err(|fault| fault.at("trigger.filter"))?
        {
            return Ok(None);
        }
        let key = match &self.trigger.key {
            Some(key) => key.key(&event).map_err(|fault| fault.at("trigger.key"))?,
            None => event.key.clone(),
        };
        let hops = event.hops.saturating_add(1);
        let hops_max = self.delivery.max_hops;
        if hops > hops_max {
            return Err(Fault::new(
                Reason::TooManyHops,
                format!(
                    "the chain that began at {} has passed through {} agents, delivery.maxHops allows {hops_max}. If agents trigger each other in a circle, filter the trigger; else raise maxHops",
                    event.root, event.hops,
                ),
            ));
        }
        Ok(Some(Trigger {
            key,
            run: self.run_id(record),
            position: event.position.clone(),
            timestamp: record.timestamp,
            time: event.time,
            root: event.root.clone(),
            hops,
            original: OwnedRecord::new(record),
            event,
        }))
    }

    pub(super) fn run_id(&self, record: &Record<'_>) -> String {
        Identity {
            namespace: &self.namespace,
            agent: &self.name,
            trigger: &record.position(),
            timestamp: record.timestamp,
            row: "",
        }
        .id()
    }
}
