//! A run that waits for a person: parked with all that it needs to go on, and taken up again with what the person said.
//!
//! To wait, a run ends as far as its trigger goes: the offset moves on, the key goes on, and no attempt, no memory and no
//! place among the runs under way is used. What is written with that is the question ([`crate::approval`]) and one step
//! of the journal, which the run is made from again, here or elsewhere.
//!
//! Invariants: a question is asked once; an answer counts for the tool and the arguments that were asked about, and no
//! others; every rule is asked again before the call is made.

use super::Agent;
use crate::agent::steps::finish;
use crate::agent::{Completion, Ready, Trigger};
use crate::approval::{self, Answered, Asked, Entry, Kept, Parked};
use crate::audit;
use crate::fault::{Fault, Reason};
use crate::journal::{Change, Did};
use crate::model::Called;
use crate::record::NewRecord;
use crate::run::sha256;
use serde_json::{Value, json};
use std::sync::Arc;

/// A call that a person is to be asked about.
#[derive(Clone, Debug, PartialEq)]
pub struct Asking {
    pub(super) rule: String,
    pub(super) message: String,
    pub(super) tool: String,
    pub(super) arguments: Value,
    pub(super) approval: String,
}

/// What a person said of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    pub(in crate::agent) answered: Answered,
    /// That asked.
    pub(in crate::agent) rule: String,
    /// Of what was asked about.
    pub(in crate::agent) hash: String,
}

impl Settled {
    /// Who approved this call; else why it is not made.
    pub(super) fn approves(&self, tool: &str, arguments: &Value) -> Result<String, String> {
        let by = self.answered.verdict()?;
        if hash(tool, arguments) != self.hash {
            return Err(format!(
                "{by} approved this call with other arguments; ask for it again"
            ));
        }
        Ok(by.to_owned())
    }
}

fn hash(tool: &str, arguments: &Value) -> String {
    sha256(format!("{tool}\n{arguments}").as_bytes())
}

impl Agent {
    /// Lets a run wait for a person. `made`: what came of the calls of the same reply before; `offset`: of the run's
    /// record in the trigger log; `now`: milliseconds since the epoch.
    ///
    /// # Errors
    /// `TooLarge`: it cannot be journaled.
    pub fn park(
        &self,
        trigger: &Trigger,
        ready: &mut Ready,
        asking: Asking,
        made: Vec<Called>,
        offset: i64,
        now: i64,
    ) -> Result<Completion, Fault> {
        let (Some(approval), Some(topic)) = (
            self.tools
                .as_ref()
                .and_then(|tools| tools.approval.as_ref()),
            &self.topics.approvals,
        ) else {
            return Err(Fault::new(
                Reason::ToolFailed,
                "a rule asks for approval, and the agent has no topic for that",
            ));
        };
        let timeout = i64::try_from(approval.timeout_ms).unwrap_or(i64::MAX);
        let asked = Asked {
            approval: asking.approval,
            agent: self.full_name.clone(),
            run: trigger.run.clone(),
            rule: asking.rule,
            message: asking.message,
            tool: asking.tool,
            arguments: asking.arguments,
            asked_at: now,
            expires_at: now.saturating_add(timeout),
        };
        let (id, partition) = (asked.approval.clone(), trigger.partition);
        let mut records = vec![Entry::Asked(asked.clone()).record(topic, partition, &id)?];
        if let Some(requests) = &approval.requests {
            records.push(NewRecord {
                topic: requests.topic.clone(),
                key: Some(id.into_bytes()),
                value: Some(approval::json(&request(&asked))?),
                // As of all that an agent writes: no agent that hears of it may ask about that again without end.
                headers: self.headers(trigger, ready.hash()),
                ..NewRecord::default()
            });
        }
        let parked = Parked {
            hash: hash(&asked.tool, &asked.arguments),
            asked,
            made,
            trigger: trigger.keep(),
        };
        let step = finish(trigger, ready, Did::Asked(Box::new(parked)), offset);
        let journal: Vec<Change> = [step].into_iter().chain(self.done(trigger)).collect();
        for change in &journal {
            records.push(change.record(&self.topics.journal, partition)?);
        }
        let summary = self.audited(trigger, Some(ready), audit::Outcome::Waiting, now);
        Ok(Completion {
            records,
            turn: None,
            journal,
            summary: Arc::new(summary),
        })
    }

    /// The trigger of a run that waited, as it was.
    ///
    /// # Errors
    /// As [`Agent::trigger`], where the agent's configuration has changed so that its record is none any more.
    pub fn take_up(&self, kept: &Kept) -> Result<Trigger, Fault> {
        kept.record.with(|record| {
            let mut event = self.origin.decode(record)?;
            event.row = kept.row.as_ref().map(|(_, value)| value.clone());
            let row = kept.row.as_ref().map(|(id, _)| id.clone());
            let mut trigger = self.begin(event, kept.key.clone(), record, row)?;
            trigger.partition = kept.partition;
            Ok(trigger)
        })
    }
}

/// What whoever is told of questions gets: times as texts.
fn request(asked: &Asked) -> Value {
    json!({
        "approval": asked.approval,
        "agent": asked.agent,
        "run": asked.run,
        "rule": asked.rule,
        "message": asked.message,
        "tool": asked.tool,
        "arguments": asked.arguments,
        "expires_at": crate::time::rfc3339(asked.expires_at),
    })
}

impl Trigger {
    fn keep(&self) -> Kept {
        let value = self.event.row.clone().unwrap_or_default();
        Kept {
            record: self.original.clone(),
            key: self.key.clone(),
            row: self.row.clone().map(|id| (id, value)),
            partition: self.partition,
        }
    }
}
