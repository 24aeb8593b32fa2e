//! Starting runs as tasks, and taking back what they came to.

use super::super::Setup;
use super::super::batch::{Finished, Pending};
use super::super::interim::{self, Interim};
use super::super::run::{Ended, Run, Waited};
use super::super::suspect::Suspect;
use super::admit::Startable;
use super::{Driver, Returned, State};
use crate::observe::Happening;
use crate::stage::ends::Answer;
use futures::FutureExt;
use headwater_engine::agent::Trigger;
use headwater_engine::conversation::Past;
use headwater_engine::fault::{Fault, Reason};
use headwater_engine::record::{Position, TopicPartition};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

impl Driver {
    /// Takes what runs came to. Gives the partitions that are to stand still.
    pub(super) fn returned(&mut self) -> Vec<TopicPartition> {
        let mut halted = Vec::new();
        let back: Vec<_> = self.results.1.try_iter().collect();
        for returned in back {
            let Some(owned) = self.owned.get_mut(&returned.partition) else {
                continue;
            };
            let State::Active(active) = &mut owned.state else {
                continue;
            };
            if owned.epoch != returned.epoch {
                continue;
            }
            let Some((_, taken)) = active.tasks.remove(&returned.offset) else {
                continue;
            };
            let ended = returned.ended.unwrap_or_else(|| {
                let fault = Fault::new(Reason::Crashed, "the run broke off; the log has the panic");
                let now_ms = self.setup.context.services.clock.now_ms();
                match self
                    .setup
                    .agent
                    .fail(&taken.trigger, None, &fault, 1, now_ms)
                {
                    Ok(failed) => Ended::Complete(Box::new(failed)),
                    Err(fault) => Ended::Stop(fault),
                }
            });
            match ended {
                Ended::Complete(mut completion) => {
                    interim::end(
                        &self.setup,
                        &active.journal,
                        returned.partition,
                        &taken.trigger,
                        &mut completion,
                    );
                    let finished = Finished::new(*completion, Some(taken.trigger), taken.arrived);
                    active.window.finish(returned.offset, finished);
                }
                Ended::Stop(fault) => {
                    active.window.halt_at(returned.offset);
                    // Where the partition stands, whatever log the event came from.
                    let at = Position {
                        topic: Arc::clone(&self.topic),
                        partition: returned.partition,
                        offset: returned.offset,
                    }
                    .to_string();
                    tracing::error!(at, reason = %fault.reason, message = fault.message, "partition stopped at a failed run");
                    self.life.board.problem(
                        "Stopped",
                        &at,
                        format!(
                            "the partition stands still at {at}, whose run failed: {fault}. Start the agent again to have it tried again, or go past it: headwater resume agent/{} --skip",
                            self.setup.config.name
                        ),
                    );
                    halted.push(TopicPartition::new(
                        Arc::clone(&self.topic),
                        returned.partition,
                    ));
                }
                // The stage ends.
                Ended::Cancelled => {}
            }
        }
        halted
    }

    /// Takes the steps of runs that go on, for the next transaction.
    pub(super) fn handed(&mut self) {
        for handed in self.handed.1.try_iter() {
            let Some(owned) = self.owned.get_mut(&handed.partition) else {
                continue;
            };
            if let State::Active(active) = &mut owned.state
                && owned.epoch == handed.epoch
            {
                active
                    .steps
                    .push(Pending::new(handed.change, Some(handed.told)));
            }
        }
    }

    /// Starts what may start: all of it asks the log for its ends together. Partitions share what room
    /// there is, so that a long queue in one does not keep the others waiting.
    ///
    /// True where a trigger ended without a run.
    pub(super) fn launch(&mut self) -> bool {
        let mut ended = false;
        if self.draining {
            return ended;
        }
        self.take_up();
        let running: usize = self
            .active()
            .map(|(_, active)| active.window.running())
            .sum();
        let mut room = (self.setup.config.concurrency.max(1) as usize).saturating_sub(running);
        let numbers: Vec<i32> = self.active().map(|(number, _)| number).collect();
        if room == 0 || numbers.is_empty() {
            return ended;
        }
        self.turns = self.turns.wrapping_add(1);
        let first = self.turns % numbers.len();
        let share = room.div_ceil(numbers.len());
        let mut ends = None;
        // First everybody's share, then what others leave.
        for most in [share, room] {
            for number in numbers[first..].iter().chain(&numbers[..first]) {
                for startable in self.start_of(*number, most.min(room)) {
                    let Some(started) = self.unless_done(*number, startable) else {
                        ended = true;
                        continue;
                    };
                    room -= 1;
                    let ends = ends.get_or_insert_with(|| self.ends.ask()).clone();
                    self.spawn(*number, started, ends);
                }
            }
        }
        ended
    }

    pub(super) fn start_of(&mut self, number: i32, most: usize) -> Vec<Startable> {
        let now = Instant::now();
        let owned = self.owned.get_mut(&number).filter(|owned| !owned.leaving);
        match owned.map(|owned| &mut owned.state) {
            Some(State::Active(active)) => active.window.start(most, &|taken| taken.due <= now),
            _ => Vec::new(),
        }
    }

    pub(super) fn spawn(&mut self, number: i32, (offset, key, taken): Startable, ends: Answer) {
        let Some(owned) = self.owned.get_mut(&number) else {
            return;
        };
        let State::Active(active) = &mut owned.state else {
            return;
        };
        let past = match (&active.store, &key) {
            (Some(store), Some(key)) => store.past(key, taken.trigger.time),
            _ => Past::default(),
        };
        let begun = active.journal.attempts(&taken.trigger.run);
        tell_start(&self.setup, &taken.trigger);
        let run = Run {
            setup: Arc::clone(&self.setup),
            trigger: Arc::clone(&taken.trigger),
            past,
            ends,
            asks: self.ends.clone(),
            random: Arc::clone(&self.random),
            life: Arc::clone(&self.life),
            offset: taken.resumed.as_ref().map_or(offset, |own| own.offset),
            waited: taken.resumed.as_ref().map(|own| Waited {
                answer: own.answer.clone(),
            }),
            suspect: (taken.unsure || begun > 0).then(|| Suspect {
                begun,
                alone: Arc::clone(&self.alone),
            }),
            steps: active.journal.steps(&taken.trigger.run),
            interim: Interim {
                sender: self.handed.0.clone(),
                waker: Arc::clone(&self.waker),
                partition: number,
                epoch: owned.epoch,
            },
        };
        let (sender, waker) = (self.results.0.clone(), Arc::clone(&self.waker));
        let epoch = owned.epoch;
        let task = self.life.runtime.spawn(async move {
            let mut alone = None;
            let ended = AssertUnwindSafe(run.run(&mut alone))
                .catch_unwind()
                .await
                .ok();
            // The driver may be gone, and with it the partition.
            let _ = sender.send(Returned {
                partition: number,
                epoch,
                offset,
                ended,
            });
            // Not before: what it came to goes into the log with the next one's beginning.
            drop(alone);
            waker();
        });
        active.tasks.insert(offset, (task.abort_handle(), taken));
    }
}

fn tell_start(setup: &Setup, trigger: &Trigger) {
    setup
        .context
        .services
        .observer
        .tell(|| Happening::RunStarted {
            agent: setup.config.name.clone(),
            run: trigger.run.clone(),
            key: trigger.key.as_ref().map(ToString::to_string),
            trigger: trigger.position.clone(),
        });
}
