//! One run, as a task: barrier, context, steps of the model, outputs; with attempts until it is done or given up.
//!
//! It changes nothing: what it comes to is handed to the driver, which commits it; so is a finished step, which
//! the run waits for before it begins the next. A run that is dropped half way, because its partition left or the
//! process ended, goes on from its last committed step, and has not happened where there is none.

use super::Setup;
use super::interim::Interim;
use super::outage::{Pass, Refusal};
use super::suspect::Suspect;
use crate::backoff::{Backoff, Random};
use crate::metrics;
use crate::model::Error;
use crate::observe::Happening;
use crate::stage::ends::{Answer, Ends, Service};
use crate::stage::held::Found;
use crate::stage::life::Life;
use headwater_engine::agent::{
    Asking, Assembly, Completion, Context, Freshness, Heard, Next, Now, Offer, Prepared, Ready,
    Round, Trigger, ViewFreshness,
};
use headwater_engine::approval::Answered;
use headwater_engine::audit::{Behind, Covered};
use headwater_engine::config::OnFailure;
use headwater_engine::conversation::Past;
use headwater_engine::fault::{Fault, Reason};
use headwater_engine::journal::Step;
use headwater_engine::model::{Called, Reply, Request};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, timeout_at};

const BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(250),
    max: Duration::from_secs(30),
};

/// However long a provider asks to be left alone, it is asked again after this.
const LEFT_ALONE_MAX: Duration = Duration::from_secs(300);
const UNAVAILABLE: &str = "ModelUnavailable";
const TOOLS_UNAVAILABLE: &str = "ToolsUnavailable";

/// One trigger, and what it is run with.
pub(super) struct Run {
    pub(super) setup: Arc<Setup>,
    pub(super) trigger: Arc<Trigger>,
    pub(super) past: Past,
    pub(super) ends: Answer,
    pub(super) asks: Service,
    pub(super) random: Arc<Random>,
    pub(super) life: Arc<Life>,
    /// Of its record in the trigger log.
    pub(super) offset: i64,
    /// What the journal has of it: steps that are not repeated.
    pub(super) steps: Vec<Arc<Step>>,
    pub(super) interim: Interim,
    /// It may have ended a process.
    pub(super) suspect: Option<Suspect>,
    /// It waited for a person: its trigger is finished.
    pub(super) waited: Option<Waited>,
}

/// What a run that waited goes on with.
pub(super) struct Waited {
    /// Absent where the journal has it.
    pub(super) answer: Option<Answered>,
}

/// How a run ended.
pub(super) enum Ended {
    /// To be committed: done, skipped, failed for good, or to wait for a person.
    Complete(Box<Completion>),
    /// Failed for good, and the partition is to stand still.
    Stop(Fault),
    /// The stage ends; nothing is known.
    Cancelled,
}

/// A failed attempt.
struct Failure {
    fault: Fault,
    ready: Option<Box<Ready>>,
    /// Another attempt may go better.
    again: bool,
    /// The provider is away: it was no attempt.
    away: bool,
    /// Asked for by the provider.
    wait: Duration,
}

impl Failure {
    fn new(fault: Fault, ready: Option<Box<Ready>>) -> Self {
        Self {
            again: may_pass(fault.reason),
            away: false,
            fault,
            ready,
            wait: Duration::ZERO,
        }
    }

    /// Another attempt would come to the same.
    fn last(fault: Fault, ready: &Ready) -> Self {
        Self {
            again: false,
            ..Self::new(fault, Some(ready.clone().into()))
        }
    }

    fn away(why: &str) -> Self {
        Self {
            away: true,
            ..Self::new(Fault::new(Reason::ModelFailed, why), None)
        }
    }
}

/// A run's way to its provider.
#[derive(Default)]
struct Way<'a> {
    /// Given after the provider was away.
    pass: Option<Pass<'a>>,
    /// For [`Pass::refused`].
    since: Option<u64>,
    /// The calls that come next were certainly not made.
    sure: bool,
}

/// What the context and the model did wrong, they may do right another time.
fn may_pass(reason: Reason) -> bool {
    !matches!(reason, Reason::TooManyHops)
}

impl Run {
    /// `alone`: held until what it came to is handed over.
    pub(super) async fn run(self, alone: &mut Option<OwnedMutexGuard<()>>) -> Ended {
        let begun = match &self.suspect {
            Some(suspect) => self.begin(suspect, alone).await,
            None => Ok(()),
        };
        if let Err(ended) = begun {
            return ended;
        }
        let Ok(ends) = self.ends.clone().await else {
            return Ended::Cancelled;
        };
        let delivery = &self.setup.config.delivery;
        let mut attempt = 1;
        let mut begun = self.setup.agent.resume(&self.steps, attempt);
        if begun.is_some() {
            let (agent, run) = (&self.setup.config.name, &self.trigger.run);
            tracing::info!(agent, run = %run, steps = self.steps.len(), "run goes on from its journal");
        }
        let mut way = Way::default();
        if let Err(ended) = self.answered(&mut begun, &mut way).await {
            return ended;
        }
        loop {
            // Before anything is read: it may take its time.
            let offer = self.offer().await;
            let tried = self
                .attempt(attempt, &ends, &offer, &mut begun, &mut way)
                .await;
            let failure = match tried {
                Ok(completion) => return Ended::Complete(Box::new(completion)),
                Err(failure) => failure,
            };
            if let (true, Some(provider)) = (failure.away, &self.setup.provider) {
                // What it was told is read anew then: much may happen meanwhile.
                way.pass = Some(provider.pass().await);
                continue;
            }
            if !failure.again || attempt >= delivery.max_attempts.max(1) {
                return self.give_up(&failure, attempt);
            }
            self.tell_retry(attempt, &failure.fault);
            sleep(
                BACKOFF
                    .after(attempt, &self.random)
                    .max(failure.wait.min(BACKOFF.max)),
            )
            .await;
            attempt += 1;
        }
    }

    /// Journals what the person said that the run waited for.
    async fn answered(&self, begun: &mut Option<Ready>, way: &mut Way<'_>) -> Result<(), Ended> {
        let (Some(waited), Some(ready)) = (&self.waited, begun) else {
            return Ok(());
        };
        ready.goes_behind(&self.past);
        let Some(answer) = waited.answer.clone() else {
            return Ok(());
        };
        let agent = &self.setup.agent;
        let change = agent.answered(&self.trigger, ready, answer, self.offset);
        match self.interim.commit(change).await {
            Ok(()) => {
                way.sure = true;
                Ok(())
            }
            // After a crash its call would be made again, as if it had never been made.
            Err(reason) => {
                let message = format!("the answer of a person cannot be journaled: {reason}");
                let fault = Fault::new(Reason::TooLarge, message);
                Err(self.give_up(&Failure::last(fault, ready), 1))
            }
        }
    }

    /// What the model is told of its tools. As long as their servers do not say, nothing is tried.
    async fn offer(&self) -> Arc<Offer> {
        let Some(tools) = &self.setup.tools else {
            return Arc::default();
        };
        let mut failures = 0;
        loop {
            let fault = match tools.offer().await {
                Ok(offer) => {
                    if failures > 0 {
                        self.life.board.solved(TOOLS_UNAVAILABLE, "");
                    }
                    return offer;
                }
                Err(fault) => fault,
            };
            failures += 1;
            let (agent, run) = (&self.setup.config.name, &self.trigger.run);
            tracing::warn!(agent, run = %run, %fault, "tools are not known; runs wait for them");
            let message = format!(
                "{}. Runs wait, and go on by themselves once the tools are there; none of their attempts is used",
                fault.message
            );
            self.life.board.problem(TOOLS_UNAVAILABLE, "", message);
            sleep(BACKOFF.after(failures, &self.random)).await;
        }
    }

    async fn begin(
        &self,
        suspect: &Suspect,
        alone: &mut Option<OwnedMutexGuard<()>>,
    ) -> Result<(), Ended> {
        let attempts_max = self.setup.config.delivery.max_attempts;
        let (run, interim) = (&self.trigger.run, &self.interim);
        match suspect.begin(run, self.offset, attempts_max, interim).await {
            Ok(held) => {
                *alone = held;
                Ok(())
            }
            Err(fault) => {
                let failure = Failure::new(fault, None);
                Err(self.give_up(&failure, suspect.begun))
            }
        }
    }

    /// `begun` is the run as far as it has been journaled: what is there is neither assembled nor asked again.
    async fn attempt<'a>(
        &'a self,
        attempt: u32,
        ends: &Ends,
        offer: &Offer,
        begun: &mut Option<Ready>,
        way: &mut Way<'a>,
    ) -> Result<Completion, Failure> {
        let deadline = Instant::now() + self.setup.attempt_timeout;
        if let Some(mut ready) = begun.clone() {
            ready.attempt = attempt;
            return self.ask(ready, deadline, offer, begun, way).await;
        }
        let setup = &self.setup;
        let clock = &setup.context.services.clock;
        let freshness = self.barrier(ends, deadline).await;
        let ready = match self.assemble(attempt, &freshness) {
            Ok(Assembly::Ready(ready)) => ready,
            Ok(Assembly::Skipped(skipped)) => {
                return setup
                    .agent
                    .skip(&self.trigger, &skipped, clock.now_ms())
                    .map_err(|fault| Failure::new(fault, None));
            }
            Err(fault) => return Err(Failure::new(fault, None)),
        };
        self.ask(ready, deadline, offer, begun, way).await
    }

    /// Asks the model, and makes the calls that it asks for, until it has said what ends the run.
    async fn ask<'a>(
        &'a self,
        mut ready: Ready,
        mut deadline: Instant,
        offer: &Offer,
        begun: &mut Option<Ready>,
        way: &mut Way<'a>,
    ) -> Result<Completion, Failure> {
        let agent = &self.setup.agent;
        // Calls that were asked for before may have been made.
        let mut unsure = !std::mem::take(&mut way.sure);
        let reply = loop {
            let next = agent.next(&self.trigger, &ready, offer);
            let next = next.map_err(|fault| Failure::last(fault, &ready))?;
            let change = match next {
                Next::Complete => break None,
                Next::Ask(request) => {
                    let reply = self.reply(&ready, &request, deadline, way).await?;
                    unsure = false;
                    match agent.hear(&self.trigger, &mut ready, reply, self.offset) {
                        Ok(Heard::Answer(reply)) => break Some(reply),
                        Ok(Heard::Step(change)) => change,
                        Err(fault) => return Err(Failure::last(fault, &ready)),
                    }
                }
                Next::Call(round) => {
                    let (made, asking) = self.call(&ready, offer, round, unsure, deadline).await;
                    if let Some(asking) = asking {
                        return self.park(ready, asking, made);
                    }
                    agent.results(&self.trigger, &mut ready, made, self.offset)
                }
            };
            let waiting = Instant::now();
            match self.interim.commit(change).await {
                Ok(()) => *begun = Some(ready.clone()),
                // Its calls would be made again after a crash, as if they had never been made.
                Err(reason) if ready.asks_for_calls() => {
                    let message = format!("calls that cannot be journaled are not made: {reason}");
                    return Err(Failure::last(Fault::new(Reason::TooLarge, message), &ready));
                }
                Err(reason) => {
                    let (agent, run) = (&self.setup.config.name, &self.trigger.run);
                    tracing::warn!(agent, run = %run, reason, "a step cannot be journaled and is repeated after a crash");
                }
            }
            // What Kafka took is not the attempt's.
            deadline += waiting.elapsed();
        };
        if agent.looks_again()
            && let Err(fault) = self.look_again(&mut ready, deadline).await
        {
            return Err(Failure::new(fault, Some(ready.into())));
        }
        let now_ms = self.setup.context.services.clock.now_ms();
        agent
            .complete(&self.trigger, &ready, reply.as_ref(), now_ms)
            .map_err(|fault| Failure::new(fault, Some(ready.into())))
    }

    /// Lets the run wait for a person.
    fn park(
        &self,
        mut ready: Ready,
        asking: Asking,
        made: Vec<Called>,
    ) -> Result<Completion, Failure> {
        let setup = &self.setup;
        let now_ms = setup.context.services.clock.now_ms();
        let (trigger, offset) = (&self.trigger, self.offset);
        setup
            .agent
            .park(trigger, &mut ready, asking, made, offset, now_ms)
            .map_err(|fault| Failure::last(fault, &ready))
    }

    /// Makes calls one after the other: each is judged by what came of those before it. Gives what came of them, up to
    /// one that a person is to be asked about.
    async fn call(
        &self,
        ready: &Ready,
        offer: &Offer,
        round: Round,
        unsure: bool,
        deadline: Instant,
    ) -> (Vec<Called>, Option<Asking>) {
        let setup = &self.setup;
        let agent = &setup.agent;
        let Round {
            calls,
            mut made,
            mut settled,
        } = round;
        for call in &calls[made.len().min(calls.len())..] {
            let now = self.look_for_policy(ready, deadline).await;
            let settled = settled.take();
            let prepared = agent.prepare(
                &self.trigger,
                ready,
                offer,
                &made,
                settled.as_ref(),
                now.as_ref(),
                call,
            );
            let called = match (prepared, &setup.tools) {
                (Prepared::Over(called), _) => called,
                (Prepared::Ask(asking), _) => return (made, Some(asking)),
                (Prepared::Send(invocation), Some(tools)) => {
                    tools.call(invocation, unsure, deadline).await
                }
                (Prepared::Send(invocation), None) => {
                    invocation.not_made("its server is not configured", 0)
                }
                (Prepared::Look(look), _) => {
                    let began = Instant::now();
                    let freshness = self.fresh(deadline).await;
                    let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    agent.look_up(&self.trigger, ready, look, &*setup.held, &freshness, took)
                }
            };
            tracing::debug!(
                agent = setup.config.name,
                run = %self.trigger.run,
                tool = called.tool,
                outcome = called.outcome.as_str(),
                "tool called"
            );
            made.push(called);
        }
        (made, None)
    }

    /// What the rules see as `now`; where it cannot be read, those that name it deny.
    async fn look_for_policy(&self, ready: &Ready, deadline: Instant) -> Option<Now> {
        let setup = &self.setup;
        if !setup.agent.policy_looks_again() {
            return None;
        }
        let freshness = self.fresh(deadline).await;
        let now_ms = setup.context.services.clock.now_ms();
        let trigger = &self.trigger;
        let looked = setup
            .agent
            .look_for_policy(trigger, ready, &*setup.held, &freshness, now_ms);
        looked
            .inspect_err(|fault| {
                let (agent, run) = (&setup.config.name, &trigger.run);
                tracing::warn!(agent, run = %run, reason = %fault.reason, message = fault.message, "slots cannot be read for the policy");
            })
            .ok()
    }

    /// What the model says next.
    async fn reply<'a>(
        &'a self,
        ready: &Ready,
        request: &Request,
        deadline: Instant,
        way: &mut Way<'a>,
    ) -> Result<Reply, Failure> {
        let setup = &self.setup;
        let Some(model) = &setup.model else {
            let fault = Fault::new(Reason::ModelFailed, "the agent has no model");
            return Err(Failure::last(fault, ready));
        };
        let pass = match (&setup.provider, way.pass.take()) {
            (None, _) => None,
            (_, Some(pass)) => Some(pass),
            (Some(provider), None) => match provider.try_pass() {
                Some(pass) => Some(pass),
                None => return Err(Failure::away("the provider is away")),
            },
        };
        let asked = Instant::now();
        let answer = timeout_at(deadline, model.answer(request, deadline)).await;
        match answer {
            Ok(Ok(reply)) => {
                if pass.is_some_and(Pass::answered) {
                    self.tell_back();
                }
                Ok(Reply {
                    milliseconds: u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX),
                    ..reply
                })
            }
            Ok(Err(error)) => {
                if let Some(pass) = pass
                    && self.is_away(pass, &error, way)
                {
                    return Err(Failure::away(&error.to_string()));
                }
                Err(Failure {
                    again: error.is_transient(),
                    wait: error.retry_after().unwrap_or_default(),
                    ..Failure::new(
                        Fault::new(Reason::ModelFailed, error.to_string()),
                        Some(ready.clone().into()),
                    )
                })
            }
            Err(_) => {
                let message = format!(
                    "the attempt took longer than {} ms",
                    setup.attempt_timeout.as_millis()
                );
                let fault = Fault::new(Reason::TimedOut, message);
                Err(Failure::new(fault, Some(ready.clone().into())))
            }
        }
    }

    /// Whether the error says that the provider is away, and not that it refuses this request.
    fn is_away(&self, pass: Pass<'_>, error: &Error, way: &mut Way<'_>) -> bool {
        if error.is_outage() {
            let wait = error.retry_after().unwrap_or_default().min(LEFT_ALONE_MAX);
            if pass.refused(&mut way.since, wait) == Refusal::Outage {
                self.tell_away(error);
                return true;
            }
        } else if matches!(error, Error::Status { .. } | Error::Malformed { .. }) && pass.answered()
        {
            self.tell_back();
        }
        false
    }

    fn tell_away(&self, error: &Error) {
        let (agent, run) = (&self.setup.config.name, &self.trigger.run);
        tracing::warn!(agent, run = %run, error = %error, "the provider is away; runs wait for it");
        let message = format!(
            "{error}. Runs wait, and go on by themselves once it answers; none of their attempts is used"
        );
        self.life.board.problem(UNAVAILABLE, "", message);
    }

    fn tell_back(&self) {
        self.life.board.solved(UNAVAILABLE, "");
    }

    fn assemble(&self, attempt: u32, freshness: &Freshness) -> Result<Assembly, Fault> {
        let context = Context {
            views: &*self.setup.held,
            conversation: &self.past,
            freshness,
            assembled_at: self.setup.context.services.clock.now_ms(),
            attempt,
        };
        self.setup.agent.assemble(&self.trigger, &context)
    }

    /// Reads slots once more, after a barrier of its own: with what was in the log when the model had answered.
    async fn look_again(&self, ready: &mut Ready, deadline: Instant) -> Result<(), Fault> {
        let freshness = self.fresh(deadline).await;
        let setup = &self.setup;
        let now_ms = setup.context.services.clock.now_ms();
        setup
            .agent
            .look_again(&self.trigger, ready, &*setup.held, &freshness, now_ms)
    }

    /// Until the views hold what is in the log now, or the wait is over.
    async fn fresh(&self, deadline: Instant) -> Freshness {
        let Ok(ends) = self.asks.ask().await else {
            // The stage ends, and this task with it.
            return std::future::pending().await;
        };
        self.barrier(&ends, deadline).await
    }

    /// Until the views hold what was in the log when the trigger arrived, or the wait is over.
    async fn barrier(&self, ends: &Ends, deadline: Instant) -> Freshness {
        let setup = &self.setup;
        let services = &setup.context.services;
        let started = Instant::now();
        let until = (started + setup.freshness_wait).min(deadline);
        let found = setup
            .held
            .barrier(ends, &self.asks, until, || services.clock.now_ms())
            .await;
        let label = metrics::Agent {
            agent: setup.config.name.clone(),
        };
        services
            .metrics
            .barrier_wait_seconds
            .get_or_create(&label)
            .observe(started.elapsed().as_secs_f64());
        freshness(found, started.elapsed())
    }

    fn give_up(&self, failure: &Failure, attempts: u32) -> Ended {
        let delivery = &self.setup.config.delivery;
        // Of a run that waited, the trigger is finished: there is nothing that could stand still.
        if delivery.on_failure == OnFailure::Stop && self.waited.is_none() {
            return Ended::Stop(failure.fault.clone());
        }
        let finished_at = self.setup.context.services.clock.now_ms();
        let failed = self.setup.agent.fail(
            &self.trigger,
            failure.ready.as_deref(),
            &failure.fault,
            attempts,
            finished_at,
        );
        match failed {
            Ok(completion) => Ended::Complete(Box::new(completion)),
            Err(fault) => Ended::Stop(fault),
        }
    }

    fn tell_retry(&self, attempt: u32, fault: &Fault) {
        let (agent, run) = (&self.setup.config.name, &self.trigger.run);
        tracing::info!(agent, run = %run, attempt, reason = %fault.reason, message = fault.message, "attempt failed");
        let services = &self.setup.context.services;
        let label = metrics::Agent {
            agent: agent.clone(),
        };
        services.metrics.run_retries.get_or_create(&label).inc();
        services.observer.tell(|| Happening::RunRetried {
            agent: agent.clone(),
            run: run.clone(),
            attempt,
            reason: fault.reason.to_string(),
            message: fault.message.clone(),
        });
    }
}

fn freshness(found: BTreeMap<String, Found>, waited: Duration) -> Freshness {
    let view = |found: Found| ViewFreshness {
        covered: found
            .covered
            .into_iter()
            .map(|(partition, next)| Covered { partition, next })
            .collect(),
        stale_ms: found.stale_ms,
        behind: found
            .behind
            .into_iter()
            .map(|behind| Behind {
                partition: behind.partition,
                position: behind.covered,
                end: behind.end,
                undecided: behind.undecided,
            })
            .collect(),
    };
    Freshness {
        waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        views: found
            .into_iter()
            .map(|(name, found)| (name, view(found)))
            .collect(),
    }
}
