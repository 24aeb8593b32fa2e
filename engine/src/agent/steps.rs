//! The steps of a run: what the model is asked next, which calls are made, and whether what it said ends the run.
//!
//! A reply without calls of tools that fits `result.schema`, if there is one, ends the run. One that does not fit
//! is a finished step: the model is asked once more, with what is wrong, and the reply to that is the answer or
//! fails the run. A reply with calls is a finished step as well, and what came of them is the next one, after
//! which the model is asked again; after `maxToolRounds` of these it may call no more. A call that a person is to
//! decide about is a step too, at which the run waits ([`Agent::park`]); what the person said is the next. A finished step is
//! journaled before the next begins: a reply before its calls are made, results before the model hears of them.
//! The first step carries all that the run was told: a run that goes on elsewhere assembles nothing, and repeats
//! no step ([`Agent::resume`]). Of calls without results nobody knows then whether they were made. The reply that
//! ends a run is in no journal; it goes into the run's transaction.

use super::tools::Settled;
use super::{Agent, Offer, Ready, Trigger};
use crate::approval::Answered;
use crate::fault::{Fault, Reason};
use crate::journal::{Change, Did, Step};
use crate::model::{self, Called, Reply, Request, Said, ToolCall};
use crate::template::without_markers;
use crate::{audit, config};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Replies that may be sent back.
const REPAIRS: usize = 1;

/// What a run does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The agent has no model: see [`Agent::complete`].
    Complete,
    /// Ask the model, see [`Agent::hear`].
    Ask(Box<Request>),
    /// Make these calls, one after the other: see [`Agent::prepare`] and [`Agent::results`].
    Call(Round),
}

/// The calls of one reply, as far as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    pub calls: Vec<ToolCall>,
    /// What came of the first ones, before the run waited for a person.
    pub made: Vec<Called>,
    /// What the person said of the one after these.
    pub settled: Option<Settled>,
}

/// What a reply is to its run.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// It ends the run: see [`Agent::complete`].
    Answer(Reply),
    /// A finished step, to be journaled before the next: see [`Agent::next`].
    Step(Change),
}

impl Agent {
    /// What comes next. `offer`: what the model is told of its tools.
    ///
    /// # Errors
    /// `OverBudget`: what was said since the prompt does not fit the model's window any more.
    pub fn next(&self, trigger: &Trigger, ready: &Ready, offer: &Offer) -> Result<Next, Fault> {
        if let Some(round) = ready.round()? {
            return Ok(Next::Call(round));
        }
        let (Some(model), Some(prompt)) = (&self.model, &ready.prompt) else {
            return Ok(Next::Complete);
        };
        let request = Request {
            messages: Arc::clone(&prompt.messages),
            said: ready.said.iter().flat_map(|did| self.said(did)).collect(),
            tools: offer.specs(),
            may_call: self.may_call(ready),
            model: model.model.clone(),
            parameters: model.parameters.clone(),
            max_output_tokens: model.max_output_tokens,
            schema: self.answer.as_ref().map(super::answer::Answer::asked),
            input: Arc::clone(&ready.input),
            idempotency_key: format!("{}-{}", trigger.run, ready.heard() + 1),
        };
        self.fits(model, &request)?;
        Ok(Next::Ask(Box::new(request)))
    }

    /// A prompt has its own budget; only what comes beside it is counted here.
    fn fits(&self, model: &config::Model, request: &Request) -> Result<(), Fault> {
        if request.said.is_empty() && request.tools.is_empty() {
            return Ok(());
        }
        let (tokens, most) = (request.tokens(), model.prompt_tokens());
        if i64::try_from(tokens).is_ok_and(|tokens| tokens <= most) {
            return Ok(());
        }
        Err(Fault::new(
            Reason::OverBudget,
            format!(
                "the prompt with its tools and what was said since has {tokens} tokens, the model '{}' takes {most} beside its answer. Lower prompt.budgetTokens or maxToolRounds, or let tools give less",
                model.name
            ),
        ))
    }

    /// How a finished step is told to the model.
    fn said(&self, did: &Did) -> Vec<Said> {
        match did {
            Did::Results(called) => vec![Said::Results(called.clone())],
            Did::Asked(_) | Did::Answered(_) => Vec::new(),
            Did::Reply(reply) => {
                let said = Said::Reply {
                    text: without_markers(&reply.text).into_owned(),
                    calls: reply.calls.clone(),
                };
                let again = self.answer.as_ref().filter(|_| reply.calls.is_empty());
                let again = again.map(|answer| Said::Again(answer.again(reply)));
                [said].into_iter().chain(again).collect()
            }
        }
    }

    fn may_call(&self, ready: &Ready) -> bool {
        let rounds = ready.said.iter().filter(|did| !did.results().is_empty());
        let tools = self.tools.as_ref();
        tools.is_some_and(|tools| rounds.count() < tools.max_rounds)
    }

    /// Takes what the model said to the request of [`Agent::next`]. What does not end the run is kept in `ready`.
    /// `offset`: of the run's record in the trigger log.
    ///
    /// # Errors
    /// `InvalidResult`: it does not fit, and has been sent back already. Another attempt would ask the same again.
    pub fn hear(
        &self,
        trigger: &Trigger,
        ready: &mut Ready,
        mut reply: Reply,
        offset: i64,
    ) -> Result<Heard, Fault> {
        if !self.may_call(ready) {
            // It was told that it may not.
            reply.calls.clear();
        }
        if !reply.calls.is_empty() {
            tell_apart(&mut reply.calls, ready.heard());
            return Ok(Heard::Step(finish(
                trigger,
                ready,
                Did::Reply(reply),
                offset,
            )));
        }
        let Some(Err(misfit)) = self.answer.as_ref().map(|answer| answer.read(&reply)) else {
            return Ok(Heard::Answer(reply));
        };
        let repaired = ready.said.iter().filter_map(Did::reply);
        if repaired.filter(|reply| reply.calls.is_empty()).count() >= REPAIRS {
            ready.said.push(Did::Reply(reply));
            return Err(misfit.into_failure());
        }
        Ok(Heard::Step(finish(
            trigger,
            ready,
            Did::Reply(reply),
            offset,
        )))
    }

    /// Takes what came of the calls of the last reply, in their order: a finished step.
    pub fn results(
        &self,
        trigger: &Trigger,
        ready: &mut Ready,
        called: Vec<Called>,
        offset: i64,
    ) -> Change {
        finish(trigger, ready, Did::Results(called), offset)
    }

    /// Takes what came of the question that the run asked a person last: a finished step. `offset`: of the run's record
    /// in the trigger log.
    pub fn answered(
        &self,
        trigger: &Trigger,
        ready: &mut Ready,
        answered: Answered,
        offset: i64,
    ) -> Change {
        finish(trigger, ready, Did::Answered(answered), offset)
    }

    /// The run as its journal left it; `None` where nothing was journaled, and it begins anew. `attempt` is the
    /// one that goes on.
    pub fn resume(&self, steps: &[Arc<Step>], attempt: u32) -> Option<Ready> {
        let begun = steps.first()?.begun.as_deref()?;
        Some(Ready {
            attempt,
            said: steps.iter().map(|step| step.did.clone()).collect(),
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
        let said = || ready.said.iter().filter_map(Did::reply);
        let last = answer.or(said().next_back())?;
        let rejected = |reply: &Reply| {
            let answer = self.answer.as_ref().filter(|_| reply.calls.is_empty())?;
            let message = answer.read(reply).err()?.fault.message;
            Some(message)
        };
        let call = |reply: &Reply, is_answer: bool| audit::Call {
            milliseconds: reply.milliseconds,
            usage: reply.usage,
            finish_reason: reply.finish_reason.clone(),
            answered_by: reply.answered_by.clone(),
            answer: (!is_answer && !reply.text.is_empty()).then(|| reply.text.clone()),
            rejected: rejected(reply).filter(|_| !is_answer),
        };
        let calls: Vec<audit::Call> = said()
            .map(|reply| call(reply, false))
            .chain(answer.map(|reply| call(reply, true)))
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

/// The change that journals a step, which is kept in `ready`.
pub(super) fn finish(trigger: &Trigger, ready: &mut Ready, did: Did, offset: i64) -> Change {
    let step = Step {
        offset,
        begun: ready.said.is_empty().then(|| Box::new(ready.clone())),
        did: did.clone(),
    };
    ready.said.push(did);
    let number = u32::try_from(ready.said.len()).unwrap_or(u32::MAX);
    Change::step(&trigger.run, number, Arc::new(step))
}

impl Ready {
    /// Whether calls are the next to be done.
    pub fn asks_for_calls(&self) -> bool {
        match self.said.last() {
            Some(Did::Reply(reply)) => !reply.calls.is_empty(),
            Some(Did::Answered(_)) => true,
            _ => false,
        }
    }

    /// Steps that are something to the model: the numbers of what it says next must not change with its waiting for people.
    pub(super) fn heard(&self) -> usize {
        let heard = |did: &&Did| matches!(did, Did::Reply(_) | Did::Results(_));
        self.said.iter().filter(heard).count()
    }

    /// The calls that are the next to be done.
    fn round(&self) -> Result<Option<Round>, Fault> {
        if !self.asks_for_calls() {
            return match self.said.last() {
                Some(Did::Asked(parked)) => Err(Fault::new(
                    Reason::InvalidInternalRecord,
                    format!(
                        "the run waits for the approval {}, and nobody has answered",
                        parked.asked.approval
                    ),
                )),
                _ => Ok(None),
            };
        }
        let reply = self.said.iter().rev().find_map(Did::reply);
        let calls = reply.map_or_else(Vec::new, |reply| reply.calls.clone());
        let (made, settled) = match &self.said[..] {
            [.., Did::Asked(parked), Did::Answered(answered)] => (
                parked.made.clone(),
                Some(Settled {
                    answered: answered.clone(),
                    rule: parked.asked.rule.clone(),
                    hash: parked.hash.clone(),
                }),
            ),
            _ => (Vec::new(), None),
        };
        Ok(Some(Round {
            calls,
            made,
            settled,
        }))
    }
}

/// Gives each call an id of its own: not every provider does.
fn tell_apart(calls: &mut [ToolCall], step: usize) {
    let mut seen = BTreeSet::new();
    for (number, call) in (1..).zip(calls) {
        if call.id.is_empty() || !seen.insert(call.id.clone()) {
            call.id = format!("call-{}-{number}", step + 1);
            seen.insert(call.id.clone());
        }
    }
}
