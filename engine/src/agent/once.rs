//! Triggers that start no run of their own: the same was done before (`trigger.once`), or a newer one takes their place
//! (`trigger.coalesceMilliseconds`).

use super::{Agent, Completion, Trigger};
use crate::audit;
use crate::config;
use crate::expr::{Expression, Names, Wanted};
use crate::fault::{Fault, Reason};
use crate::journal::{Change, Once, Store};
use crate::key::Key;
use crate::problem::{CompileError, reason};
use crate::source::Event;
use std::sync::Arc;

const PATH: &str = "spec.trigger.once";

/// What must not run twice under one run's key.
#[derive(Debug)]
pub(super) struct Rule {
    key: Expression,
    within_ms: i64,
}

impl Rule {
    pub(super) fn compile(once: &config::Once, names: &Names) -> Result<Self, CompileError> {
        let mut problems = CompileError::default();
        let key = problems.take(
            format!("{PATH}.key"),
            reason::INVALID_EXPRESSION,
            Expression::compile_for(&once.key, names, Wanted::Key),
        );
        problems.finish()?;
        let within_ms = once.within_ms;
        key.map(|key| Self { key, within_ms }).ok_or_else(|| {
            CompileError::one(PATH, reason::INVALID_EXPRESSION, "it cannot be compiled")
        })
    }

    /// What a run under `key` must not repeat; a null or empty once key is nothing that could be.
    ///
    /// # Errors
    /// `NullKey`: without a key runs have no order, so none could know of another.
    pub(super) fn key(&self, event: &Event, key: Option<&Key>) -> Result<Option<Key>, Fault> {
        let once = self
            .key
            .key(event)
            .map_err(|fault| fault.at("trigger.once.key"))?;
        if once.is_some() && key.is_none() {
            return Err(Fault::new(
                Reason::NullKey,
                "trigger.once: the run has no key, and runs without one have no order in which one could be the second. Give the trigger a key",
            ));
        }
        Ok(once)
    }
}

impl Agent {
    /// How long a trigger waits for a newer one of its key, milliseconds; 0: not at all.
    pub fn coalesce_ms(&self) -> u64 {
        self.trigger.coalesce_ms
    }

    /// The run that makes this trigger's a repetition: done for the same key and once key within the time, by the
    /// triggers' times. To be asked once all earlier runs of the key are committed.
    pub fn done_before<'a>(&self, trigger: &Trigger, journal: &'a Store) -> Option<&'a Once> {
        let rule = self.trigger.once.as_ref()?;
        journal
            .once(trigger.key.as_ref(), trigger.once.as_ref()?)
            .filter(|done| {
                done.run != trigger.run && trigger.time.saturating_sub(done.time) < rule.within_ms
            })
    }

    /// What of the journal is over by the time of this trigger: at most `limit` of it. It is kept for twice the time,
    /// as triggers may come late.
    pub fn over(&self, trigger: &Trigger, journal: &Store, limit: usize) -> Vec<Change> {
        match &self.trigger.once {
            Some(rule) => {
                let kept = rule.within_ms.saturating_mul(2);
                journal.once_before(trigger.time.saturating_sub(kept), limit)
            }
            None => Vec::new(),
        }
    }

    /// Ends a trigger whose run would repeat the one that `done` tells of.
    ///
    /// # Errors
    /// None that data can cause: an audit record is always JSON.
    pub fn duplicate(
        &self,
        trigger: &Trigger,
        done: &Once,
        finished_at: i64,
    ) -> Result<Completion, Fault> {
        self.without_run(trigger, audit::Outcome::Duplicate, &done.run, finished_at)
    }

    /// Ends a trigger whose place the one of the run `newer` takes.
    ///
    /// # Errors
    /// None that data can cause: an audit record is always JSON.
    pub fn coalesce(
        &self,
        trigger: &Trigger,
        newer: &str,
        finished_at: i64,
    ) -> Result<Completion, Fault> {
        self.without_run(trigger, audit::Outcome::Coalesced, newer, finished_at)
    }

    fn without_run(
        &self,
        trigger: &Trigger,
        outcome: audit::Outcome,
        instead: &str,
        finished_at: i64,
    ) -> Result<Completion, Fault> {
        let mut summary = self.audited(trigger, None, outcome, finished_at);
        summary.instead = Some(instead.to_owned());
        Ok(Completion {
            records: vec![self.audit_record(&summary, trigger.partition)?],
            turn: None,
            journal: Vec::new(),
            summary: Arc::new(summary),
        })
    }

    /// What the journal keeps of a run that is done.
    pub(super) fn done(&self, trigger: &Trigger) -> Option<Change> {
        let once = trigger.once.as_ref()?;
        let done = Once {
            run: trigger.run.clone(),
            time: trigger.time,
        };
        Some(Change::once(trigger.key.as_ref(), once, done))
    }
}
