//! The steps of a run: what the model is asked next, and whether what it said ends the run.
//!
//! Without a `result.schema` the first reply is the answer. With one, a reply that does not fit is a finished
//! step: the model is asked once more, with what is wrong, and the reply to that is the answer or fails the
//! run. A finished step is journaled before the next begins, and the first carries all that the run was told:
//! a run that goes on elsewhere assembles nothing, and repeats no step ([`Agent::resume`]). The reply that
//! ends a run is in no journal; it goes into the run's transaction.

use super::{Agent, Ready, Trigger};
use crate::audit;
use crate::fault::Fault;
use crate::journal::{Change, Step};
use crate::model::{self, Reply, Request};
use std::sync::Arc;

/// Replies that may be sent back.
const REPAIRS: usize = 1;

/// What a reply is to its run.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It ends the run: see [`Agent::complete`].
    Answer(Reply),
    /// A finished step, to be journaled before the model is asked again: see [`Agent::request`].
    Step(Change),
}

impl Agent {
    /// What to ask the model next; `None`: the agent has none, and is completed without a reply.
    pub fn request(&self, trigger: &Trigger, ready: &Ready) -> Option<Request> {
        let model = self.model.as_ref()?;
        let prompt = &ready.prompt.as_ref()?.messages;
        let messages = match (&self.answer, ready.said.last()) {
            (Some(answer), Some(last)) => answer.repair(prompt, last),
            _ => Arc::clone(prompt),
        };
        Some(Request {
            messages,
            model: model.model.clone(),
            parameters: model.parameters.clone(),
            max_output_tokens: model.max_output_tokens,
            schema: self.answer.as_ref().map(super::answer::Answer::asked),
            input: Arc::clone(&ready.input),
            idempotency_key: format!("{}-{}", trigger.run, ready.said.len() + 1),
        })
    }

    /// Takes what the model said to [`Agent::request`]. What does not end the run is kept in `ready`.
    /// `offset`: of the run's record in the trigger log.
    ///
    /// # Errors
    /// `InvalidResult`: it does not fit, and has been sent back already. Another attempt would ask the same again.
    pub fn hear(
        &self,
        trigger: &Trigger,
        ready: &mut Ready,
        reply: Reply,
        offset: i64,
    ) -> Result<Heard, Fault> {
        let Some(Err(misfit)) = self.answer.as_ref().map(|answer| answer.read(&reply)) else {
            return Ok(Heard::Answer(reply));
        };
        if ready.said.len() >= REPAIRS {
            ready.said.push(reply);
            return Err(misfit.into_failure());
        }
        let step = Step {
            offset,
            begun: ready.said.is_empty().then(|| Box::new(ready.clone())),
            reply: reply.clone(),
        };
        ready.said.push(reply);
        let number = u32::try_from(ready.said.len()).unwrap_or(u32::MAX);
        Ok(Heard::Step(Change::step(
            &trigger.run,
            number,
            Arc::new(step),
        )))
    }

    /// The run as its journal left it; `None` where nothing was journaled, and it begins anew. `attempt` is the
    /// one that goes on.
    pub fn resume(&self, steps: &[Arc<Step>], attempt: u32) -> Option<Ready> {
        let begun = steps.first()?.begun.as_deref()?;
        Some(Ready {
            attempt,
            said: steps.iter().map(|step| step.reply.clone()).collect(),
            ..begun.clone()
        })
    }

    /// What the audit says of the model: all calls of the run, the last one's answer. `None` where none was heard.
    pub(super) fn audited_calls(
        &self,
        ready: &Ready,
        answer: Option<&Reply>,
    ) -> Option<audit::Model> {
        let model = self.model.as_ref()?;
        let last = answer.or(ready.said.last())?;
        let rejected = |reply: &Reply| {
            let misfit = self.answer.as_ref().map(|answer| answer.read(reply));
            match misfit {
                Some(Err(misfit)) => misfit.fault.message,
                _ => String::new(),
            }
        };
        let call = |reply: &Reply, rejected: Option<String>| audit::Call {
            milliseconds: reply.milliseconds,
            usage: reply.usage,
            finish_reason: reply.finish_reason.clone(),
            answered_by: reply.answered_by.clone(),
            answer: rejected.is_some().then(|| reply.text.clone()),
            rejected,
        };
        let calls: Vec<audit::Call> = ready
            .said
            .iter()
            .map(|reply| call(reply, Some(rejected(reply))))
            .chain(answer.map(|reply| call(reply, None)))
            .collect();
        let usage = calls
            .iter()
            .fold(model::Usage::default(), |sum, call| sum.and(call.usage));
        Some(audit::Model {
            name: model.name.clone(),
            model: model.model.clone(),
            usage,
            finish_reason: last.finish_reason.clone(),
            answer: answer.map(|reply| reply.text.clone()),
            calls,
        })
    }
}
