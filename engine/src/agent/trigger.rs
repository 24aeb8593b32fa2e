//! From a record to a trigger: decoded, filtered, keyed, and known by the run that it starts.

use super::for_each::ForEach;
use super::{Agent, input, once};
use crate::config::{self, Deletes, InvalidRecords};
use crate::expr::{Expression, Names, Shape, Wanted};
use crate::fault::{Fault, Reason};
use crate::key::Key;
use crate::names::header;
use crate::problem::{CompileError, reason};
use crate::record::{OwnedRecord, Position, Record};
use crate::run::Identity;
use crate::source::Event;
use std::collections::BTreeMap;

/// What lets a record start a run.
#[derive(Debug)]
pub(super) struct Rules {
    deletes: Deletes,
    filter: Option<Expression>,
    key: Option<Expression>,
    pub(super) for_each: Option<ForEach>,
    pub(super) once: Option<once::Rule>,
    pub(super) coalesce_ms: u64,
}

impl Rules {
    /// `names`: what is seen of an event.
    pub(super) fn compile(
        agent: &config::Agent,
        views: &BTreeMap<String, config::View>,
        names: &Names,
    ) -> Result<Self, CompileError> {
        let trigger = &agent.trigger;
        let mut problems = CompileError::default();
        let for_each = trigger
            .for_each
            .as_ref()
            .and_then(|lookup| problems.merge(ForEach::compile(lookup, views, names)));
        let run_names = with_match(trigger, names.clone());
        let once = trigger
            .once
            .as_ref()
            .and_then(|once| problems.merge(once::Rule::compile(once, &run_names)));
        let mut expression = |path: &str, text: &Option<String>, names: &Names, wanted| {
            text.as_ref().and_then(|text| {
                let compiled = Expression::compile_for(text, names, wanted);
                problems.take(path, reason::INVALID_EXPRESSION, compiled)
            })
        };
        let filter = expression("spec.trigger.filter", &trigger.filter, names, Wanted::Bool);
        let key = expression("spec.trigger.key", &trigger.key, &run_names, Wanted::Key);
        problems.finish()?;
        Ok(Self {
            deletes: trigger.deletes,
            filter,
            key,
            for_each,
            once,
            coalesce_ms: trigger.coalesce_ms,
        })
    }
}

/// What is seen of an event and the row that a run is for.
pub(super) fn with_match(trigger: &config::Trigger, names: Names) -> Names {
    if trigger.for_each.is_some() {
        names.shape("match", Shape::object())
    } else {
        names
    }
}

/// An event that starts a run. It owns all that the run needs of the record.
#[derive(Clone, Debug)]
pub struct Trigger {
    pub event: Event,
    /// Runs of one key are in order; without a key there is no order.
    pub key: Option<Key>,
    /// What must not run twice under the key; absent where that does not matter.
    pub once: Option<Key>,
    /// Tells the runs of one event apart, where it starts one for each row.
    pub row: Option<String>,
    /// The run's id, the same for every attempt.
    pub run: String,
    /// Where the event stood, in the log that it came from.
    pub position: Position,
    /// Partition of the log that runs start from: that of the event, if the agent has none of its own.
    pub partition: i32,
    /// On the log, milliseconds since the epoch.
    pub timestamp: i64,
    /// T, the event time at which the run reads, milliseconds since the epoch.
    pub time: i64,
    /// The first event of the chain.
    pub root: Position,
    /// Agents that the chain has passed through, this run included.
    pub hops: u32,
    /// The record as it came, for a dead letter.
    pub(super) original: OwnedRecord,
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
    /// Whether a record of [`Agent::topic`] starts a run: `None` for a delete that is ignored and for what the
    /// filter leaves out. What an intake has let through is not asked again.
    ///
    /// # Errors
    /// A record that does not decode, an expression that fails on it, `TooManyHops`; what the intake refused. Such a
    /// record is not retried: see [`Agent::refuse`].
    pub fn trigger(&self, record: &Record<'_>) -> Result<Option<Trigger>, Fault> {
        if self.has_input() {
            return self.taken_in(record).map(Some);
        }
        let Some(event) = self.admit(record)? else {
            return Ok(None);
        };
        let key = self.key(&event)?;
        self.begin(event, key, record, None).map(Some)
    }

    fn taken_in(&self, record: &Record<'_>) -> Result<Trigger, Fault> {
        let opened = input::open(record)?;
        if let Some(fault) = opened.fault() {
            return Err(fault.clone());
        }
        let key = record.key.map_or(Ok(None), Key::from_bytes)?;
        let original = opened.record();
        let mut event = self.origin.decode(&original)?;
        event.row = opened.row().map(|row| row.value.clone());
        let id = opened.row().map(|row| row.id.clone());
        let mut trigger = self.begin(event, key, &original, id)?;
        trigger.partition = record.partition;
        Ok(trigger)
    }

    /// Whether a record of the origin starts runs, as far as it says itself: with `forEach` the rows decide too.
    ///
    /// # Errors
    /// As [`Agent::trigger`].
    pub fn triggers(&self, record: &Record<'_>) -> Result<bool, Fault> {
        match self.admit(record)? {
            Some(event) if self.trigger.for_each.is_none() => {
                let key = self.key(&event)?;
                self.once_key(&event, key.as_ref()).map(|_| true)
            }
            event => Ok(event.is_some()),
        }
    }

    /// The event of a record of the origin that may start runs: `None` for a delete that is ignored and for what
    /// the filter leaves out.
    ///
    /// # Errors
    /// A record that does not decode, a filter that fails on it, `TooManyHops`.
    pub(super) fn admit(&self, record: &Record<'_>) -> Result<Option<Event>, Fault> {
        if record.value.is_none() && self.trigger.deletes == Deletes::Ignore {
            return Ok(None);
        }
        let event = self.origin.decode(record)?;
        // A change that took a row away, and a delete in an envelope, have a value of their own.
        if event.null && self.trigger.deletes == Deletes::Ignore {
            return Ok(None);
        }
        if let Some(filter) = &self.trigger.filter
            && !filter
                .truth(&event)
                .map_err(|fault| fault.at("trigger.filter"))?
        {
            return Ok(None);
        }
        let hops_max = self.delivery.max_hops;
        if event.hops >= hops_max {
            return Err(Fault::new(
                Reason::TooManyHops,
                format!(
                    "the chain that began at {} has passed through {} agents, delivery.maxHops allows {hops_max}. If agents trigger each other in a circle, filter the trigger; else raise maxHops",
                    event.root, event.hops,
                ),
            ));
        }
        Ok(Some(event))
    }

    /// The key of the run that an event starts.
    pub(super) fn key(&self, event: &Event) -> Result<Option<Key>, Fault> {
        match &self.trigger.key {
            Some(key) => key.key(event).map_err(|fault| fault.at("trigger.key")),
            None => Ok(event.key.clone()),
        }
    }

    /// The key of the run for a row with the key `own`.
    pub(super) fn row_key(&self, event: &Event, own: Key) -> Result<Option<Key>, Fault> {
        match &self.trigger.key {
            Some(_) => self.key(event),
            None => Ok(Some(own)),
        }
    }

    /// What a run under `key` must not repeat.
    pub(super) fn once_key(&self, event: &Event, key: Option<&Key>) -> Result<Option<Key>, Fault> {
        match &self.trigger.once {
            Some(rule) => rule.key(event, key),
            None => Ok(None),
        }
    }

    pub(super) fn begin(
        &self,
        event: Event,
        key: Option<Key>,
        record: &Record<'_>,
        row: Option<String>,
    ) -> Result<Trigger, Fault> {
        Ok(Trigger {
            once: self.once_key(&event, key.as_ref())?,
            key,
            run: self.run_id(record, row.as_deref().unwrap_or_default()),
            row,
            position: event.position.clone(),
            partition: record.partition,
            timestamp: record.timestamp,
            time: event.time,
            root: event.root.clone(),
            hops: event.hops.saturating_add(1),
            original: OwnedRecord::new(record),
            event,
        })
    }

    /// Whether the partition of a record for which [`Agent::trigger`] gave a fault is to stand still at it. What an
    /// intake refused was decided there.
    pub fn stops_at(&self, record: &Record<'_>, fault: &Fault) -> bool {
        let decided = || input::open(record).is_ok_and(|opened| opened.fault().is_some());
        self.invalid_records() == InvalidRecords::Stop
            && !matches!(fault.reason, Reason::TooManyHops | Reason::Passed)
            && !(self.has_input() && decided())
    }

    /// Hands over the record that a record of [`Agent::topic`] stands for, as its own log had it, and whether its
    /// value was too large to come along.
    pub fn with_original<T>(
        &self,
        record: &Record<'_>,
        f: impl FnOnce(&Record<'_>, bool) -> T,
    ) -> T {
        match input::open(record) {
            Ok(opened) if self.has_input() => f(&opened.record(), opened.is_cut()),
            _ => f(record, false),
        }
    }

    /// `row` tells the runs of one trigger apart; empty where it starts one.
    pub(super) fn run_id(&self, record: &Record<'_>, row: &str) -> String {
        Identity {
            namespace: &self.namespace,
            agent: &self.name,
            trigger: &record.position(),
            timestamp: record.timestamp,
            row,
        }
        .id()
    }
}
