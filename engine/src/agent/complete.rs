//! A run that is done: outputs, events of its tools, turn, audit.

use super::answer::Misfit;
use super::scope::Scope;
use super::{Agent, Assembled, Completion, Ready, Trigger};
use crate::audit::{self, Written};
use crate::config::Outcome;
use crate::conversation::{Appended, Turn, turn_records};
use crate::fault::{Fault, Reason};
use crate::journal::Change;
use crate::model::Reply;
use crate::model::scripted::call_value;
use crate::names::header;
use crate::output::{Made, Output};
use crate::record::NewRecord;
use serde_json::{Value, json};
use std::sync::Arc;

impl Agent {
    /// Ends a run with what the model said, or without a reply where the agent has no model.
    /// `finished_at`: milliseconds since the epoch.
    ///
    /// # Errors
    /// An output that cannot be made; the run may be tried again, the model being asked anew.
    pub fn complete(
        &self,
        trigger: &Trigger,
        ready: &Ready,
        reply: Option<&Reply>,
        finished_at: i64,
    ) -> Result<Completion, Fault> {
        if self.model.is_some() && reply.is_none() {
            return Err(Fault::new(
                Reason::ModelFailed,
                "the run was to be completed without the model's reply",
            ));
        }
        // A copy of all that was said, which outputs mostly do without.
        let wanted = reply.is_none()
            || self
                .outputs_for(Outcome::Done)
                .any(|output| output.reads("prompt"));
        let prompt = prompt_value(ready.prompt.as_ref().filter(|_| wanted));
        let result = reply.map(|reply| self.result(reply)).transpose()?;
        let calls = ready.calls_value();
        let mut more: Vec<(&str, &Value)> = vec![("prompt", &prompt), ("calls", &calls)];
        more.extend(result.as_ref().map(|result| ("result", result)));
        more.extend(ready.now.as_ref().map(|now| ("now", &now.values)));
        let mut records = Vec::new();
        let mut written = Vec::new();
        for output in self.outputs_for(Outcome::Done) {
            let made = make(output, trigger, &ready.input, &more)?;
            let place = (output.name(), output.topic());
            self.put(
                place,
                made,
                trigger,
                ready.hash(),
                &mut records,
                &mut written,
            );
        }
        self.emit(trigger, ready, &mut records, &mut written)?;
        let turn = self.turn(trigger, ready, reply);
        if let (Some(conversation), Some(turn)) = (&self.conversation, &turn) {
            let partition = trigger.partition;
            let turn = turn_records(&conversation.topic, partition, turn);
            records.extend(turn.map_err(|error| unwritable(&error))?);
        }
        let journal: Vec<Change> = self.done(trigger).into_iter().collect();
        for change in &journal {
            records.push(change.record(&self.topics.journal, trigger.partition)?);
        }
        let mut summary = self.audited(trigger, Some(ready), audit::Outcome::Done, finished_at);
        summary.outputs = written;
        summary.model = reply.and_then(|reply| self.audited_calls(ready, Some(reply)));
        records.push(self.audit_record(&summary, trigger.partition)?);
        Ok(Completion {
            records,
            turn,
            journal,
            summary: Arc::new(summary),
        })
    }

    /// Adds the events that calls of tools write.
    fn emit(
        &self,
        trigger: &Trigger,
        ready: &Ready,
        records: &mut Vec<NewRecord>,
        written: &mut Vec<Written>,
    ) -> Result<(), Fault> {
        for called in ready.called().filter(|called| called.is_done()) {
            let tools = self.tools.as_ref();
            let Some(emit) = tools.and_then(|tools| tools.emit(&called.tool)) else {
                continue;
            };
            let call = json!({"tool": called.tool, "arguments": called.arguments});
            let key = emit
                .key(trigger, &ready.input, &call)
                .map_err(|fault| fault.at(format_args!("tool '{}'", called.tool)))?;
            let value = called.arguments.to_string().into_bytes();
            let place = (called.tool.as_str(), emit.topic.as_str());
            let made = vec![Made { key, value }];
            self.put(place, made, trigger, ready.hash(), records, written);
        }
        Ok(())
    }

    /// What outputs see as `result`.
    fn result(&self, reply: &Reply) -> Result<Value, Fault> {
        let json = match &self.answer {
            Some(answer) => answer.read(reply).map_err(Misfit::into_failure)?,
            None => Value::Null,
        };
        Ok(json!({
            "text": reply.text,
            "json": json,
            "usage": reply.usage,
            "finish_reason": reply.finish_reason,
        }))
    }

    pub(super) fn outputs_for(&self, outcome: Outcome) -> impl Iterator<Item = &Output> {
        self.outputs
            .iter()
            .filter(move |output| output.outcome() == outcome)
    }

    /// Adds the records of an output, with headers, and what the audit says of them. `place`: its name and topic.
    pub(super) fn put(
        &self,
        (name, topic): (&str, &str),
        made: Vec<Made>,
        trigger: &Trigger,
        hash: Option<&str>,
        records: &mut Vec<NewRecord>,
        written: &mut Vec<Written>,
    ) {
        for Made { key, value } in made {
            written.push(Written {
                output: name.to_owned(),
                topic: topic.to_owned(),
                key: key.as_str().to_owned(),
            });
            records.push(NewRecord {
                topic: topic.to_owned(),
                partition: None,
                key: Some(key.as_bytes().to_vec()),
                value: Some(value),
                headers: self.headers(trigger, hash),
                timestamp: None,
            });
        }
    }

    pub(super) fn headers(
        &self,
        trigger: &Trigger,
        hash: Option<&str>,
    ) -> Vec<(String, Option<Vec<u8>>)> {
        let text = |name: &str, value: String| (name.to_owned(), Some(value.into_bytes()));
        let mut headers = vec![
            text(header::RUN, trigger.run.clone()),
            text(header::AGENT, self.full_name.clone()),
            text(header::TRIGGER, trigger.position.to_string()),
            text(header::ROOT, trigger.root.to_string()),
            text(header::HOPS, trigger.hops.to_string()),
        ];
        headers.extend(hash.map(|hash| text(header::PROMPT, hash.to_owned())));
        headers.extend(
            trigger
                .trace_parent()
                .map(|value| (header::TRACE_PARENT.to_owned(), Some(value.to_vec()))),
        );
        headers
    }

    /// The turn of a run that had an answer; a trigger without a key has no conversation.
    fn turn(&self, trigger: &Trigger, ready: &Ready, reply: Option<&Reply>) -> Option<Appended> {
        self.conversation.as_ref()?;
        let (key, reply) = (trigger.key.clone()?, reply?);
        Some(Appended {
            key,
            number: ready.past.number,
            turn: Arc::new(Turn {
                user: ready.user_text.clone(),
                assistant: reply.text.clone(),
                time: trigger.time,
                run: trigger.run.clone(),
            }),
            ends: ready.past.ends.clone(),
        })
    }
}

impl Ready {
    /// What outputs see as `calls`.
    pub(super) fn calls_value(&self) -> Value {
        self.called().map(call_value).collect()
    }

    pub(super) fn hash(&self) -> Option<&str> {
        self.prompt.as_ref().map(|prompt| prompt.hash.as_str())
    }
}

/// The records of one output of a run.
pub(super) fn make(
    output: &Output,
    trigger: &Trigger,
    input: &Value,
    more: &[(&str, &Value)],
) -> Result<Vec<Made>, Fault> {
    let scope = Scope {
        event: &trigger.event,
        input,
        more,
        item: None,
    };
    output.make(trigger.key.as_ref(), &scope)
}

/// What outputs see as `prompt`; null where there is none.
pub(super) fn prompt_value(prompt: Option<&Assembled>) -> Value {
    prompt.map_or(Value::Null, |prompt| {
        json!({
            "messages": &*prompt.messages,
            "tokens": prompt.tokens,
            "hash": prompt.hash,
        })
    })
}

pub(super) fn unwritable(error: &serde_json::Error) -> Fault {
    Fault::new(
        Reason::OutputFailed,
        format!("a record of the run cannot be written as JSON: {error}"),
    )
}
