//! The other ways in which a run ends: skipped, failed, refused; and the audit of all of them.

use super::complete::{make, prompt_value, unwritable};
use super::{Agent, Completion, Ready, Trigger};
use crate::approval::Parked;
use crate::audit;
use crate::config::{InvalidRecords, OnFailure, Outcome};
use crate::fault::{Fault, dead_letter, say_value_is_gone};
use crate::record::{NewRecord, Record};
use serde_json::json;
use std::sync::Arc;

impl Agent {
    /// Ends a run whose `when` was false: nothing but the audit is written.
    ///
    /// # Errors
    /// None that data can cause: an audit record is always JSON.
    pub fn skip(
        &self,
        trigger: &Trigger,
        skipped: &Ready,
        finished_at: i64,
    ) -> Result<Completion, Fault> {
        let summary = self.audited(trigger, Some(skipped), audit::Outcome::Skipped, finished_at);
        Ok(Completion {
            records: vec![self.audit_record(&summary, trigger.partition)?],
            turn: None,
            journal: Vec::new(),
            summary: Arc::new(summary),
        })
    }

    /// Ends a run that has used its attempts (semantics 20): the outputs for failed runs, a dead
    /// letter unless `onFailure` is `Skip`, the audit. `ready`: as far as the last attempt got.
    ///
    /// An output that fails itself is left out, and the audit says so.
    ///
    /// # Errors
    /// None that data can cause: an audit record is always JSON.
    pub fn fail(
        &self,
        trigger: &Trigger,
        ready: Option<&Ready>,
        fault: &Fault,
        attempts: u32,
        finished_at: i64,
    ) -> Result<Completion, Fault> {
        let mut failure = audit::Failure::from(fault);
        let input = match ready {
            Some(ready) => Arc::clone(&ready.input),
            None => Arc::new(self.empty_input(trigger, attempts)),
        };
        let prompt = prompt_value(ready.and_then(|ready| ready.prompt.as_ref()));
        let described = json!({"reason": fault.reason, "message": fault.message});
        let calls = ready.map_or_else(|| json!([]), Ready::calls_value);
        let more = [
            ("prompt", &prompt),
            ("failure", &described),
            ("calls", &calls),
        ];
        let mut records = Vec::new();
        let mut written = Vec::new();
        for output in self.outputs_for(Outcome::Failed) {
            match make(output, trigger, &input, &more) {
                Ok(made) => {
                    let hash = ready.and_then(Ready::hash);
                    let place = (output.name(), output.topic());
                    self.put(place, made, trigger, hash, &mut records, &mut written);
                }
                Err(fault) => failure.outputs.push(fault.to_string()),
            }
        }
        if self.delivery.on_failure != OnFailure::Skip {
            let dead = &self.topics.dead;
            records.push(trigger.with_record(|record| dead_letter(record, fault, dead)));
        }
        let mut summary = self.audited(trigger, ready, audit::Outcome::Failed, finished_at);
        summary.attempt = attempts;
        summary.outputs = written;
        summary.failure = Some(failure);
        summary.model = ready.and_then(|ready| self.audited_calls(ready, None));
        records.push(self.audit_record(&summary, trigger.partition)?);
        Ok(Completion {
            records,
            turn: None,
            journal: Vec::new(),
            summary: Arc::new(summary),
        })
    }

    /// Ends a record for which [`Agent::trigger`] gave a fault: a dead letter and the audit, no
    /// outputs, as there is no event to make them from and a chain of too many hops must end. A record
    /// that does not decode leaves no letter where the source's `invalidRecords` is `Skip`, and any
    /// other none where `onFailure` is.
    ///
    /// # Errors
    /// None that data can cause: an audit record is always JSON.
    pub fn refuse(
        &self,
        record: &Record<'_>,
        fault: &Fault,
        finished_at: i64,
    ) -> Result<Completion, Fault> {
        let partition = record.partition;
        self.with_original(record, |original, cut| {
            let run = self.run_id(original, "");
            self.refuse_original(original, cut, (run, partition), fault, finished_at)
        })
    }

    /// Ends a run that waited for a person, and for whose trigger [`Agent::take_up`] gave a fault: as [`Agent::refuse`].
    ///
    /// # Errors
    /// As [`Agent::refuse`].
    pub fn refuse_parked(
        &self,
        parked: &Parked,
        fault: &Fault,
        finished_at: i64,
    ) -> Result<Completion, Fault> {
        let run = (parked.asked.run.clone(), parked.trigger.partition);
        let record = &parked.trigger.record;
        record.with(|record| self.refuse_original(record, false, run, fault, finished_at))
    }

    fn refuse_original(
        &self,
        record: &Record<'_>,
        cut: bool,
        (run, partition): (String, i32),
        fault: &Fault,
        finished_at: i64,
    ) -> Result<Completion, Fault> {
        let position = record.position();
        let undecoded = self.origin.decode(record);
        let (root, hops, key, time) = match &undecoded {
            Ok(event) => (
                event.root.clone(),
                event.hops.saturating_add(1),
                event.key.as_ref().map(|key| key.as_str().to_owned()),
                event.time,
            ),
            Err(_) => (position.clone(), 1, None, record.timestamp),
        };
        let skip = match undecoded {
            Ok(_) => self.delivery.on_failure == OnFailure::Skip,
            Err(_) => self.invalid_records() == InvalidRecords::Skip,
        };
        let mut records = Vec::new();
        if !skip {
            let mut letter = dead_letter(record, fault, &self.topics.dead);
            if cut {
                say_value_is_gone(&mut letter);
            }
            records.push(letter);
        }
        let trigger = audit::Trigger {
            position,
            timestamp: record.timestamp,
            time,
            key,
            row: None,
        };
        let mut summary = audit::Record {
            root,
            hops,
            ..self.blank(run, trigger, audit::Outcome::Failed, finished_at)
        };
        summary.failure = Some(audit::Failure::from(fault));
        records.push(self.audit_record(&summary, partition)?);
        Ok(Completion {
            records,
            turn: None,
            journal: Vec::new(),
            summary: Arc::new(summary),
        })
    }

    /// What the audit says of a run, without its model, outputs and failure.
    pub(super) fn audited(
        &self,
        trigger: &Trigger,
        ready: Option<&Ready>,
        outcome: audit::Outcome,
        finished_at: i64,
    ) -> audit::Record {
        let audited = audit::Trigger {
            position: trigger.position.clone(),
            timestamp: trigger.timestamp,
            time: trigger.time,
            key: trigger.key.as_ref().map(|key| key.as_str().to_owned()),
            row: trigger.row.clone(),
        };
        let mut record = audit::Record {
            root: trigger.root.clone(),
            hops: trigger.hops,
            ..self.blank(trigger.run.clone(), audited, outcome, finished_at)
        };
        if let Some(ready) = ready {
            record.attempt = ready.attempt;
            record.spec_hash.clone_from(&ready.spec_hash);
            record.template_hash.clone_from(&ready.template_hash);
            record.waited_ms = Some(ready.waited_ms);
            record.assembled_at = Some(ready.assembled_at);
            record.slots.clone_from(&ready.slots);
            if let Some(now) = &ready.now {
                record.now.clone_from(&now.slots);
            }
            record.turns = ready.turns;
            record.prompt = ready.prompt.as_ref().map(|prompt| audit::Prompt {
                hash: prompt.hash.clone(),
                tokens: prompt.tokens,
                messages: Some(Arc::clone(&prompt.messages)),
            });
            record.input = Some(Arc::clone(&ready.input));
            record.calls = ready.called().cloned().collect();
        }
        record
    }

    pub(super) fn template_hash(&self) -> Option<String> {
        let prompt = self.prompt.as_ref()?;
        Some(prompt.template_hash().to_owned())
    }

    fn blank(
        &self,
        run: String,
        trigger: audit::Trigger,
        outcome: audit::Outcome,
        finished_at: i64,
    ) -> audit::Record {
        audit::Record {
            run,
            agent: self.full_name.clone(),
            attempt: 0,
            outcome,
            root: trigger.position.clone(),
            trigger,
            hops: 1,
            spec_hash: self.spec_hash.clone(),
            template_hash: self.template_hash(),
            waited_ms: None,
            assembled_at: None,
            finished_at,
            slots: Vec::new(),
            now: Vec::new(),
            turns: audit::Turns::default(),
            prompt: None,
            input: None,
            model: None,
            calls: Vec::new(),
            outputs: Vec::new(),
            failure: None,
            instead: None,
            values: audit::Values::Full,
        }
    }

    /// `partition`: that of the log that runs start from.
    pub(super) fn audit_record(
        &self,
        summary: &audit::Record,
        partition: i32,
    ) -> Result<NewRecord, Fault> {
        summary
            .write(self.audit, &self.topics.runs, partition)
            .map_err(|error| unwritable(&error))
    }
}
