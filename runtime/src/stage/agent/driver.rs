//! The loop of an agent's triggers: one thread that polls the group, starts runs, and commits what they
//! came to.
//!
//! It waits for nothing but its poll, which a finished run, a finished takeover and the end of the stage
//! wake. Whatever is finished in offset order goes into the next transaction, outputs, turns, audit, dead
//! letters and offsets together; while that is made, more finishes. A batch keeps its results until it is
//! committed: no model is asked again because a transaction was aborted.

use super::super::ends::{Answer, Service};
use super::super::life::Life;
use super::super::reading::{Errands, partitions, persist};
use super::super::rebalance::Rebalance;
use super::super::status::{Part, Processed};
use super::super::{DRAIN, Error};
use super::batch::{Batches, Finished};
use super::run::{Ended, Run};
use super::window::Window;
use super::{Setup, start};
use crate::backoff::Random;
use crate::log::{GroupEvent, GroupOptions, GroupReader, Start, Waker};
use crate::metrics;
use crate::observe::Happening;
use futures::FutureExt;
use headwater_engine::agent::Trigger;
use headwater_engine::config::InvalidRecords;
use headwater_engine::conversation::{Past, Store};
use headwater_engine::fault::{Fault, Reason};
use headwater_engine::key::{Key, partition_of};
use headwater_engine::names::{self, Owner};
use headwater_engine::record::{Record, TopicPartition};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// Unfinished triggers of a partition; more wait in Kafka.
const WINDOW: usize = 512;
/// Where a full window is filled again.
const REFILL: usize = 256;
/// While another replica fixes the first offsets.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const IDLE: Duration = Duration::from_secs(10);
const DRAINING: Duration = Duration::from_secs(1);

pub(super) struct Driver {
    setup: Arc<Setup>,
    life: Arc<Life>,
    topic: Arc<str>,
    partition_count: i32,
    ends: Service,
    batches: Batches,
    errands: Errands<(i32, u64, Result<Option<Store>, Error>)>,
    owned: BTreeMap<i32, Owned>,
    /// Partitions whose offset is not known yet, and when to ask for it.
    unplaced: Vec<TopicPartition>,
    ask_at: Instant,
    results: (Sender<Returned>, Receiver<Returned>),
    joined: bool,
    /// Counts assignments, so that a late answer to an earlier one is known as such.
    epoch: u64,
    draining: bool,
    /// Counts launches, for whose turn it is to be first.
    turns: usize,
    random: Arc<Random>,
    waker: Waker,
}

/// What a run's task hands back.
struct Returned {
    partition: i32,
    epoch: u64,
    offset: i64,
    /// `None`: it panicked.
    ended: Option<Ended>,
}

struct Owned {
    epoch: u64,
    next: i64,
    state: State,
}

enum State {
    /// Its offset or its conversations are being read.
    Arriving,
    /// Restored; begins once the views are.
    Waiting(Option<Store>),
    Active(Box<Active>),
    /// A problem in the status says why.
    Stalled,
}

pub(super) struct Active {
    pub(super) window: Window<Taken, Finished>,
    pub(super) store: Option<Store>,
    tasks: BTreeMap<i64, (AbortHandle, Taken)>,
    paused: bool,
}

#[derive(Clone)]
pub(super) struct Taken {
    pub(super) trigger: Arc<Trigger>,
    pub(super) arrived: Instant,
}

impl Drop for Active {
    fn drop(&mut self) {
        for (task, _) in self.tasks.values() {
            task.abort();
        }
    }
}

impl Driver {
    /// Runs until the stage ends.
    pub(super) fn start(setup: Arc<Setup>, life: Arc<Life>) -> Result<(), Error> {
        let context = Arc::clone(&setup.context);
        let log = Arc::clone(&context.services.log);
        let topic = setup.agent.source().topic().to_owned();
        let counts = partitions(
            &*log,
            &life,
            &[vec![topic.clone()], setup.own_topics()].concat(),
        )?;
        let roots = setup.held.root_topics();
        let root_counts = partitions(&*log, &life, &roots)?;
        let roots = roots
            .iter()
            .zip(root_counts)
            .flat_map(|(topic, count)| {
                let topic: Arc<str> = topic.as_str().into();
                (0..count).map(move |partition| TopicPartition::new(Arc::clone(&topic), partition))
            })
            .collect();
        let ends = Service::start(Arc::clone(&log), Arc::clone(&life), roots)?;
        let group = names::group(
            &context.config.namespace,
            Owner::Agent,
            &setup.config.name,
            None,
            "runs",
        );
        let member = names::member(&group, context.ordinal);
        let mut batches = Batches::new(
            Arc::clone(&setup),
            Arc::clone(&life),
            member.clone(),
            &topic,
        );
        persist(&life, "transactional id", || batches.open())?;
        let mut reader = persist(&life, "group", || {
            log.group(GroupOptions {
                group: group.clone(),
                member: member.clone(),
                topics: vec![topic.clone()],
            })
        })?;
        let waker = reader.waker();
        life.woken_by(Arc::clone(&waker));
        setup.held.when_ready(Arc::clone(&waker));
        let mut driver = Self {
            setup,
            life,
            topic: topic.into(),
            partition_count: counts.first().copied().unwrap_or(1),
            ends,
            batches,
            errands: Errands::new(),
            owned: BTreeMap::new(),
            unplaced: Vec::new(),
            ask_at: Instant::now(),
            results: channel(),
            joined: false,
            epoch: 0,
            draining: false,
            turns: 0,
            random: Arc::new(Random::unseeded()),
            waker,
        };
        driver.run(&mut *reader)?;
        if driver.life.abandoned() {
            return Ok(());
        }
        Ok(reader.leave()?)
    }

    fn run(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        while !self.life.stopping() {
            self.turn(group)?;
        }
        // What runs may end; nothing new begins.
        self.draining = true;
        let all: Vec<_> = self
            .active()
            .map(|(number, _)| self.partition(number))
            .collect();
        group.pause(&all)?;
        let deadline = Instant::now() + DRAIN;
        while !self.life.abandoned() && Instant::now() < deadline {
            let running: usize = self
                .active()
                .map(|(_, active)| active.window.running())
                .sum();
            if running == 0 && self.batches.flush(group, &mut actives(&mut self.owned))? {
                break;
            }
            self.turn(group)?;
        }
        Ok(())
    }

    fn turn(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        let mut rebalance = Rebalance::default();
        let mut halted = Vec::new();
        group.poll(self.wait(), &mut |event| match event {
            GroupEvent::Record(record) => {
                if self.take(record) {
                    halted.push(TopicPartition::new(record.topic, record.partition));
                }
            }
            event => rebalance.note(&event),
        })?;
        for partition in &rebalance.lost {
            self.drop_partition(partition.partition);
        }
        self.assigned(&rebalance.assigned);
        self.joined |= rebalance.any;
        self.place(group)?;
        self.arrived()?;
        self.activate(group)?;
        halted.extend(self.returned());
        if !halted.is_empty() {
            group.pause(&halted)?;
        }
        self.positions(group);
        self.launch();
        self.batches.commit(group, &mut actives(&mut self.owned))?;
        // Runs of keys whose predecessor has just been committed.
        self.launch();
        for partition in &rebalance.revoked {
            self.drop_partition(partition.partition);
        }
        self.fill(group)?;
        self.publish();
        Ok(())
    }

    fn partition(&self, number: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), number)
    }

    fn active(&self) -> impl Iterator<Item = (i32, &Active)> {
        self.owned
            .iter()
            .filter_map(|(number, owned)| match &owned.state {
                State::Active(active) => Some((*number, &**active)),
                _ => None,
            })
    }

    fn wait(&self) -> Duration {
        let now = Instant::now();
        // A pod that ends has no time to sleep over its deadline.
        let most = if self.draining { DRAINING } else { IDLE };
        let ask = (!self.unplaced.is_empty()).then_some(self.ask_at);
        let commit = self.batches.due_at(self.active().map(|(_, active)| active));
        ask.into_iter()
            .chain(commit)
            .min()
            .map_or(most, |at| at.saturating_duration_since(now).min(most))
    }

    /// True where the partition has to stand still at this record.
    fn take(&mut self, record: &Record<'_>) -> bool {
        let count = self.partition_count;
        let Some(owned) = self.owned.get_mut(&record.partition) else {
            return false;
        };
        let State::Active(active) = &mut owned.state else {
            return false;
        };
        if active.window.is_halted() || record.offset < active.window.next() {
            return false;
        }
        let (setup, life) = (&self.setup, &self.life);
        let trigger = setup
            .agent
            .trigger(record)
            .and_then(|trigger| match trigger {
                Some(trigger) => in_order(record, trigger, count).map(Some),
                None => Ok(None),
            });
        let arrived = Instant::now();
        match trigger {
            Ok(Some(trigger)) => {
                let (key, trigger) = (trigger.key.clone(), Arc::new(trigger));
                active
                    .window
                    .wait(record.offset, key, Taken { trigger, arrived });
            }
            Ok(None) => active.window.advance(record.offset + 1),
            Err(fault) => {
                let policy = setup.agent.invalid_records();
                if policy == InvalidRecords::Stop && fault.reason != Reason::TooManyHops {
                    active.window.halt_at(record.offset);
                    setup.context.stopped(life, record, &fault);
                    return true;
                }
                if policy == InvalidRecords::Skip {
                    setup.context.skipped(life, record, &fault);
                } else {
                    setup.context.dead_letter(life, record, &fault);
                }
                let now_ms = setup.context.services.clock.now_ms();
                match setup.agent.refuse(record, &fault, now_ms) {
                    Ok(completion) => {
                        let finished = Finished::new(completion, None, arrived);
                        active.window.done(record.offset, finished);
                    }
                    Err(fault) => {
                        active.window.halt_at(record.offset);
                        setup.context.stopped(life, record, &fault);
                        return true;
                    }
                }
            }
        }
        false
    }

    fn assigned(&mut self, assigned: &[TopicPartition]) {
        for partition in assigned {
            self.epoch += 1;
            let owned = Owned {
                epoch: self.epoch,
                next: 0,
                state: State::Arriving,
            };
            self.owned.insert(partition.partition, owned);
            self.unplaced.push(partition.clone());
        }
    }

    /// Finds where new partitions go on, and sends for what was said in them.
    fn place(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        if self.unplaced.is_empty() || self.batches.is_busy() || Instant::now() < self.ask_at {
            return Ok(());
        }
        let (setup, life) = (Arc::clone(&self.setup), Arc::clone(&self.life));
        let found = start::find(
            &setup,
            &life,
            group,
            &self.topic,
            self.partition_count,
            &self.unplaced,
        );
        match found {
            Ok(start::Found::Offsets(offsets)) => {
                self.unplaced.clear();
                for (partition, next) in offsets {
                    match next {
                        Ok(next) => self.take_over(partition.partition, next)?,
                        Err(stall) => {
                            stall.tell(&self.life);
                            if let Some(owned) = self.owned.get_mut(&partition.partition) {
                                owned.state = State::Stalled;
                            }
                        }
                    }
                }
            }
            Ok(start::Found::New(offsets)) => {
                self.ask_at = self.batches.first_offsets(group, &offsets)?;
            }
            Ok(start::Found::NotYet) => self.ask_at = Instant::now() + ASK_AGAIN,
            Err(Error::Stalled(stall)) => {
                stall.tell(&self.life);
                for partition in std::mem::take(&mut self.unplaced) {
                    if let Some(owned) = self.owned.get_mut(&partition.partition) {
                        owned.state = State::Stalled;
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn take_over(&mut self, number: i32, next: i64) -> Result<(), Error> {
        let Some(owned) = self.owned.get_mut(&number) else {
            return Ok(());
        };
        owned.next = next;
        let epoch = owned.epoch;
        let (setup, life) = (Arc::clone(&self.setup), Arc::clone(&self.life));
        self.errands
            .send("takeover", Arc::clone(&self.waker), move || {
                (number, epoch, start::take_over(&setup, &life, number))
            })
    }

    fn arrived(&mut self) -> Result<(), Error> {
        let back: Vec<_> = self.errands.back().collect();
        for (number, epoch, store) in back {
            let Some(owned) = self
                .owned
                .get_mut(&number)
                .filter(|owned| owned.epoch == epoch)
            else {
                continue;
            };
            owned.state = match store {
                Ok(store) => State::Waiting(store),
                Err(Error::Stalled(stall)) => {
                    stall.tell(&self.life);
                    State::Stalled
                }
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    fn activate(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        if !self.setup.held.is_ready() || self.draining {
            return Ok(());
        }
        for (number, owned) in &mut self.owned {
            let State::Waiting(store) = &mut owned.state else {
                continue;
            };
            let store = store.take();
            let partition = TopicPartition::new(Arc::clone(&self.topic), *number);
            group.start(&partition, Start::Offset(owned.next))?;
            owned.state = State::Active(Box::new(Active {
                window: Window::new(owned.next),
                store,
                tasks: BTreeMap::new(),
                paused: false,
            }));
        }
        Ok(())
    }

    /// Takes what runs came to. Gives the partitions that are to stand still.
    fn returned(&mut self) -> Vec<TopicPartition> {
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
                Ended::Complete(completion) => {
                    let finished = Finished::new(*completion, Some(taken.trigger), taken.arrived);
                    active.window.finish(returned.offset, finished);
                }
                Ended::Stop(fault) => {
                    active.window.halt_at(returned.offset);
                    let at = taken.trigger.position.to_string();
                    tracing::error!(at, reason = %fault.reason, message = fault.message, "partition stopped at a failed run");
                    self.life.board.problem(
                        "Stopped",
                        &at,
                        format!("the partition stands still at {at}, whose run failed: {fault}"),
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

    fn positions(&mut self, group: &mut dyn GroupReader) {
        for (number, owned) in &mut self.owned {
            if let State::Active(active) = &mut owned.state
                && !active.window.is_halted()
                && let Some(position) =
                    group.position(&TopicPartition::new(Arc::clone(&self.topic), *number))
            {
                active.window.advance(position);
            }
        }
    }

    /// Starts what may start: all of it asks the log for its ends together. Partitions share what room
    /// there is, so that a long queue in one does not keep the others waiting.
    fn launch(&mut self) {
        if self.draining {
            return;
        }
        let running: usize = self
            .active()
            .map(|(_, active)| active.window.running())
            .sum();
        let mut room = (self.setup.config.concurrency.max(1) as usize).saturating_sub(running);
        let numbers: Vec<i32> = self.active().map(|(number, _)| number).collect();
        if room == 0 || numbers.is_empty() {
            return;
        }
        self.turns = self.turns.wrapping_add(1);
        let first = self.turns % numbers.len();
        let share = room.div_ceil(numbers.len());
        let mut ends = None;
        // First everybody's share, then what others leave.
        for most in [share, room] {
            for number in numbers[first..].iter().chain(&numbers[..first]) {
                for started in self.start_of(*number, most.min(room)) {
                    room -= 1;
                    let ends = ends.get_or_insert_with(|| self.ends.ask()).clone();
                    self.spawn(*number, started, ends);
                }
            }
        }
    }

    fn start_of(&mut self, number: i32, most: usize) -> Vec<(i64, Option<Key>, Taken)> {
        match self.owned.get_mut(&number).map(|owned| &mut owned.state) {
            Some(State::Active(active)) => active.window.start(most),
            _ => Vec::new(),
        }
    }

    fn spawn(
        &mut self,
        number: i32,
        (offset, key, taken): (i64, Option<Key>, Taken),
        ends: Answer,
    ) {
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
        tell_start(&self.setup, &taken.trigger);
        let run = Run {
            setup: Arc::clone(&self.setup),
            trigger: Arc::clone(&taken.trigger),
            past,
            ends,
            random: Arc::clone(&self.random),
        };
        let (sender, waker) = (self.results.0.clone(), Arc::clone(&self.waker));
        let epoch = owned.epoch;
        let task = self.life.runtime.spawn(async move {
            let ended = AssertUnwindSafe(run.run()).catch_unwind().await.ok();
            // The driver may be gone, and with it the partition.
            let _ = sender.send(Returned {
                partition: number,
                epoch,
                offset,
                ended,
            });
            waker();
        });
        active.tasks.insert(offset, (task.abort_handle(), taken));
    }

    /// Keeps windows bounded: a full one is left alone until it is half empty.
    fn fill(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (number, owned) in &mut self.owned {
            let State::Active(active) = &mut owned.state else {
                continue;
            };
            if active.window.is_halted() || self.draining {
                continue;
            }
            let unfinished = active.window.unfinished();
            if !active.paused && unfinished >= WINDOW {
                active.paused = true;
                pause.push(TopicPartition::new(Arc::clone(&self.topic), *number));
            } else if active.paused && unfinished <= REFILL {
                active.paused = false;
                resume.push(TopicPartition::new(Arc::clone(&self.topic), *number));
            }
        }
        if !pause.is_empty() {
            group.pause(&pause)?;
        }
        if !resume.is_empty() {
            group.resume(&resume)?;
        }
        Ok(())
    }

    fn drop_partition(&mut self, number: i32) {
        self.owned.remove(&number);
        self.unplaced
            .retain(|partition| partition.partition != number);
        self.batches.drop_partition(number);
    }

    fn publish(&self) {
        let waiting = self
            .owned
            .values()
            .filter(|owned| !matches!(owned.state, State::Active(_)))
            .count();
        let mut unfinished = self.batches.len();
        let mut positions = Vec::new();
        for (number, active) in self.active() {
            let stopped = active.window.is_halted();
            unfinished += if stopped {
                active.window.running()
            } else {
                active.window.unfinished()
            };
            positions.push(Processed {
                topic: self.topic.to_string(),
                partition: number,
                next: active.window.next(),
                stopped,
            });
        }
        let label = metrics::Agent {
            agent: self.setup.config.name.clone(),
        };
        self.setup
            .context
            .services
            .metrics
            .unfinished_runs
            .get_or_create(&label)
            .set(i64::try_from(unfinished).unwrap_or(i64::MAX));
        self.life.board.part(
            "runs",
            Part {
                joined: self.joined,
                restored_percent: if waiting == 0 { 100 } else { 0 },
                caught_up: self.joined && waiting == 0,
                waiting,
                in_flight: unfinished,
                positions,
            },
        );
    }
}

fn actives(owned: &mut BTreeMap<i32, Owned>) -> BTreeMap<i32, &mut Active> {
    owned
        .iter_mut()
        .filter_map(|(number, owned)| match &mut owned.state {
            State::Active(active) => Some((*number, &mut **active)),
            _ => None,
        })
        .collect()
}

/// Runs of one key are in order only if all of its triggers come by one partition: so a key that is not
/// the record's own has to be one that the topic is partitioned by.
fn in_order(record: &Record<'_>, trigger: Trigger, partitions: i32) -> Result<Trigger, Fault> {
    match &trigger.key {
        Some(key)
            if record.key != Some(key.as_bytes())
                && partition_of(key.as_bytes(), partitions) != record.partition =>
        {
            Err(Fault::new(
                Reason::InvalidKey,
                "the trigger's key is not what its topic is partitioned by, so that its runs would have no order. Write the records with this key",
            ))
        }
        _ => Ok(trigger),
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
