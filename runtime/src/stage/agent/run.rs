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
    Assembly, Completion, Context, Freshness, Heard, Ready, Trigger, ViewFreshness,
};
use headwater_engine::audit::{Behind, Covered};
use headwater_engine::config::OnFailure;
use headwater_engine::conversation::Past;
use headwater_engine::fault::{Fault, Reason};
use headwater_engine::journal::Step;
use headwater_engine::model::Reply;
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
}

/// How a run ended.
pub(super) enum Ended {
    /// To be committed: done, skipped, or failed for good.
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
        loop {
            let tried = self.attempt(attempt, &ends, &mut begun, &mut way).await;
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
        begun: &mut Option<Ready>,
        way: &mut Way<'a>,
    ) -> Result<Completion, Failure> {
        let deadline = Instant::now() + self.setup.attempt_timeout;
        if let Some(mut ready) = begun.clone() {
            ready.attempt = attempt;
            return self.ask(ready, deadline, begun, way).await;
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
        self.ask(ready, deadline, begun, way).await
    }

    /// Asks the model until it has said what ends the run.
    async fn ask<'a>(
        &'a self,
        mut ready: Ready,
        mut deadline: Instant,
        begun: &mut Option<Ready>,
        way: &mut Way<'a>,
    ) -> Result<Completion, Failure> {
        let agent = &self.setup.agent;
        let reply = loop {
            let Some(reply) = self.reply(&ready, deadline, way).await? else {
                break None;
            };
            match agent.hear(&self.trigger, &mut ready, reply, self.offset) {
                Ok(Heard::Answer(reply)) => break Some(reply),
                Ok(Heard::Step(change)) => {
                    let waiting = Instant::now();
                    match self.interim.commit(change).await {
                        Ok(()) => *begun = Some(ready.clone()),
                        Err(reason) => {
                            let (agent, run) = (&self.setup.config.name, &self.trigger.run);
                            tracing::warn!(agent, run = %run, reason, "a step cannot be journaled and is repeated after a crash");
                        }
                    }
                    // What Kafka took is not the attempt's.
                    deadline += waiting.elapsed();
                }
                Err(fault) => {
                    return Err(Failure {
                        again: false,
                        ..Failure::new(fault, Some(ready.into()))
                    });
                }
            }
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

    /// What the model says next; `None` where the agent has none.
    async fn reply<'a>(
        &'a self,
        ready: &Ready,
        deadline: Instant,
        way: &mut Way<'a>,
    ) -> Result<Option<Reply>, Failure> {
        let setup = &self.setup;
        let request = setup.agent.request(&self.trigger, ready);
        let (Some(model), Some(request)) = (&setup.model, request) else {
            return Ok(None);
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
        let answer = timeout_at(deadline, model.answer(&request, deadline)).await;
        match answer {
            Ok(Ok(reply)) => {
                if pass.is_some_and(Pass::answered) {
                    self.tell_back();
                }
                Ok(Some(Reply {
                    milliseconds: u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX),
                    ..reply
                }))
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
        let Ok(ends) = self.asks.ask().await else {
            // The stage ends, and this task with it.
            return std::future::pending().await;
        };
        let freshness = self.barrier(&ends, deadline).await;
        let setup = &self.setup;
        let now_ms = setup.context.services.clock.now_ms();
        setup
            .agent
            .look_again(&self.trigger, ready, &*setup.held, &freshness, now_ms)
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
        if delivery.on_failure == OnFailure::Stop {
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
