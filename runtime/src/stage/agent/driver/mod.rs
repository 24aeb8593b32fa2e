//! The loop of an agent's triggers: one thread that polls the group, starts runs, and commits what they
//! came to.
//!
//! It waits for nothing but its poll, which a finished run, a finished takeover and the end of the stage
//! wake. Whatever is finished goes into the next transaction, outputs, turns, audit, dead
//! letters and offsets together; while that is made, more finishes. A batch keeps its results until it is
//! committed: no model is asked again because a transaction was aborted.

mod admit;
mod arrival;
mod detached;
mod leave;
mod runs;

use super::super::ends::{Ends, Service};
use super::super::life::Life;
use super::super::reading::{Errands, partitions, persist};
use super::super::rebalance::Rebalance;
use super::super::status::{Part, Processed};
use super::super::{DRAIN, Error};
use super::Setup;
use super::batch::{Batches, Finished, Pending};
use super::interim::Handed;
use super::progress::Progress;
use super::run::Ended;
use super::start::Restored;
use super::suspect::Alone;
use super::window::Window;
use crate::backoff::Random;
use crate::log::{GroupEvent, GroupOptions, GroupReader, Waker};
use crate::metrics;
use headwater_engine::agent::Trigger;
use headwater_engine::approval::Answered;
use headwater_engine::config::InvalidRecords;
use headwater_engine::conversation::Store;
use headwater_engine::fault::{Fault, Reason};
use headwater_engine::journal;
use headwater_engine::key::partition_of;
use headwater_engine::names::{self, Owner};
use headwater_engine::record::{Record, TopicPartition};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// Unfinished triggers of a partition; more wait in Kafka.
pub(super) const WINDOW: usize = 512;
/// Where a full window is filled again.
const REFILL: usize = 256;
const IDLE: Duration = Duration::from_secs(10);
const DRAINING: Duration = Duration::from_secs(1);

pub(super) struct Driver {
    setup: Arc<Setup>,
    life: Arc<Life>,
    topic: Arc<str>,
    partition_count: i32,
    ends: Service,
    batches: Batches,
    errands: Errands<(i32, u64, Result<Restored, Error>)>,
    owned: BTreeMap<i32, Owned>,
    /// Partitions whose offset is not known yet, and when to ask for it.
    unplaced: Vec<TopicPartition>,
    ask_at: Instant,
    results: (Sender<Returned>, Receiver<Returned>),
    handed: (Sender<Handed>, Receiver<Handed>),
    joined: bool,
    /// Counts assignments, so that a late answer to an earlier one is known as such.
    epoch: u64,
    draining: bool,
    /// Counts launches, for whose turn it is to be first.
    turns: usize,
    random: Arc<Random>,
    alone: Alone,
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
    progress: Progress,
    skip: Option<i64>,
    /// It goes to another replica: nothing is begun in it.
    leaving: bool,
    state: State,
}

enum State {
    /// Its offset, conversations or journal are being read.
    Arriving,
    /// Restored; begins once the views are.
    Waiting(Box<Restored>),
    Active(Box<Active>),
    /// A problem in the status says why.
    Stalled,
}

pub(super) struct Active {
    pub(super) window: Window<Taken, Finished>,
    pub(super) store: Option<Store>,
    pub(super) journal: journal::Store,
    /// For the next transaction, of runs that go on.
    pub(super) steps: Vec<Pending>,
    /// The journal has the partition's position.
    pub(super) is_placed: bool,
    /// When it may be written there though no run makes it necessary.
    pub(super) place_at: Instant,
    /// Of a trigger that is gone past, whatever it is.
    pub(super) skip: Option<i64>,
    /// So many triggers may have been under way when the former owner ended.
    unsure: usize,
    tasks: BTreeMap<i64, (AbortHandle, Taken)>,
    paused: bool,
    /// Runs that waited for a person and are in the window again.
    pub(super) resumed: HashSet<String>,
    /// How many there were.
    places: i64,
    /// Some that waits may go on, or be waited for.
    pub(super) look: bool,
    /// The former owner ended with runs under way.
    unclean: bool,
}

#[derive(Clone)]
pub(super) struct Taken {
    pub(super) trigger: Arc<Trigger>,
    pub(super) arrived: Instant,
    /// It starts no earlier.
    pub(super) due: Instant,
    /// It has journaled steps: a former owner began it.
    pub(super) begun: bool,
    /// It may have been under way when the former owner of its partition ended.
    unsure: bool,
    /// It waited for a person.
    resumed: Option<Resumed>,
}

/// What a run that waited goes on with.
#[derive(Clone)]
pub(super) struct Resumed {
    /// Of its trigger.
    offset: i64,
    /// Absent where the journal has it already.
    answer: Option<Answered>,
}

impl Active {
    /// Ends its runs where they are.
    fn cancel(&mut self) {
        for (task, _) in std::mem::take(&mut self.tasks).into_values() {
            task.abort();
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Driver {
    /// Runs until the stage ends.
    pub(super) fn start(setup: Arc<Setup>, life: Arc<Life>) -> Result<(), Error> {
        let context = Arc::clone(&setup.context);
        let log = Arc::clone(&context.services.log);
        let topic = setup.agent.topic().to_owned();
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
        let (held, clock) = (Arc::clone(&setup.held), Arc::clone(&context.services.clock));
        let idle = move |ends: &Ends| held.note(ends, clock.now_ms());
        let ends = Service::start(Arc::clone(&log), Arc::clone(&life), roots, idle)?;
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
        let (thread, polling) = (std::thread::current(), reader.waker());
        let waker: Waker = Arc::new(move || {
            polling();
            // While a partition leaves it waits without a poll.
            thread.unpark();
        });
        life.woken_by(Arc::clone(&waker));
        setup.held.when_ready(Arc::clone(&waker));
        if let Some(approvals) = &setup.approvals {
            approvals.when_changed(Arc::clone(&waker));
        }
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
            handed: channel(),
            joined: false,
            epoch: 0,
            draining: false,
            turns: 0,
            random: Arc::new(Random::unseeded()),
            alone: Alone::default(),
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
        let all: Vec<i32> = self.owned.keys().copied().collect();
        self.leave(group, &all)
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
        if !rebalance.lost.is_empty() {
            self.batches.distrust();
        }
        for partition in &rebalance.lost {
            self.drop_partition(partition.partition);
        }
        self.assigned(&rebalance.assigned);
        self.joined |= rebalance.any;
        if self.joined {
            self.batches.settle(group);
        }
        self.place(group)?;
        self.arrived()?;
        self.activate(group)?;
        // In this order: where a run began that waited for another's end, that one goes into the same transaction.
        self.handed();
        halted.extend(self.returned());
        if !halted.is_empty() {
            group.pause(&halted)?;
        }
        self.positions(group);
        self.revoked(group, &rebalance.revoked)?;
        self.launch();
        self.batches.commit(group, &mut actives(&mut self.owned))?;
        // Runs of keys whose predecessor has just been committed; of those that end without a run, the next ones too.
        while self.launch() && !self.batches.is_busy() {
            self.batches.commit(group, &mut actives(&mut self.owned))?;
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
        if !self.draining && self.active().any(|(_, active)| active.look) {
            return Duration::ZERO;
        }
        let now = Instant::now();
        // A pod that ends has no time to sleep over its deadline.
        let most = if self.draining { DRAINING } else { IDLE };
        let ask = (!self.unplaced.is_empty()).then_some(self.ask_at);
        let commit = self.batches.due_at(self.active().map(|(_, active)| active));
        let settle = self.batches.settle_at().filter(|_| self.joined);
        ask.into_iter()
            .chain(settle)
            .chain(commit)
            .chain(self.next_due())
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
        if active.window.is_finished(record.offset) {
            active.window.advance(record.offset + 1);
            return false;
        }
        let (setup, life) = (&self.setup, &self.life);
        let passed = active.skip == Some(record.offset);
        let trigger = if passed {
            Err(Fault::new(
                Reason::Passed,
                "the partition stood still at this record, and somebody decided to go past it",
            ))
        } else {
            setup.agent.trigger(record)
        };
        let trigger = trigger.and_then(|trigger| match trigger {
            // It waits for a person already.
            Some(trigger) if active.journal.parked(&trigger.run).is_some() => Ok(None),
            Some(trigger) if setup.agent.has_input() => Ok(Some(trigger)),
            Some(trigger) => in_order(record, trigger, count).map(Some),
            None => Ok(None),
        });
        let arrived = Instant::now();
        match trigger {
            Ok(Some(trigger)) => {
                let (partition, offset) = (record.partition, record.offset);
                if let Err(fault) = admit::wait(setup, active, partition, offset, trigger) {
                    active.window.halt_at(offset);
                    let resource = setup.resource();
                    setup.context.stopped(life, record, &fault, &resource);
                    return true;
                }
            }
            Ok(None) => active.window.advance(record.offset + 1),
            Err(fault) => {
                if setup.agent.stops_at(record, &fault) {
                    active.window.halt_at(record.offset);
                    setup
                        .context
                        .stopped(life, record, &fault, &setup.resource());
                    return true;
                }
                let skip = setup.agent.invalid_records() == InvalidRecords::Skip;
                setup.agent.with_original(record, |record, _| {
                    if skip {
                        setup.context.skipped(life, record, &fault);
                    } else {
                        setup.context.dead_letter(life, record, &fault);
                    }
                });
                let now_ms = setup.context.services.clock.now_ms();
                match setup.agent.refuse(record, &fault, now_ms) {
                    Ok(completion) => {
                        let finished = Finished::new(completion, None, arrived);
                        active.window.done(record.offset, finished);
                    }
                    Err(fault) => {
                        active.window.halt_at(record.offset);
                        setup
                            .context
                            .stopped(life, record, &fault, &setup.resource());
                        return true;
                    }
                }
            }
        }
        false
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
