//! The intake of a view or an agent with an input log of its own: reads the sources in a group, and writes what the
//! engine makes of them ([`TakeIn`]), in the order that counts from then on.
//!
//! Of what waits in the sources' logs the oldest goes first: so after records came in, the logs are asked
//! for their ends, and an event is held until every partition is read up to there or shows its next one.
//! It is held for at most [`HOLD`] once all that is at hand was read: a transaction that stays open somewhere must not stop the others.
//! Where other views are read, what waits goes once those hold what was in their logs ([`joins`]).
//!
//! Each transaction carries the records of the input log, dead letters, and the offsets of all source partitions: an event is in the input log exactly once. Where
//! partitions are lost while a transaction is undecided, everything taken in is forgotten and read again
//! from the committed offsets.

mod covered;
mod joins;
mod place;
mod write;

pub(super) use joins::Joins;

use super::committer::Committer;
use super::life::Life;
use super::reading::{partitions, persist};
use super::rebalance::Rebalance;
use super::status::{Part, Processed};
use super::{Context, DRAIN, Error};
use crate::log::{Committed, GroupEvent, GroupOptions, GroupReader, RECORDS_PER_POLL, Scope};
use crate::metrics;
use headwater_engine::config::{InvalidRecords, StartFrom};
use headwater_engine::fault::{Fault, dead_letter};
use headwater_engine::intake::TakeIn;
use headwater_engine::names;
use headwater_engine::record::{NewRecord, Record, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_secs(10);
/// The longest that an event is held for others that may be older.
const HOLD: Duration = Duration::from_secs(1);
/// Events of a partition that wait in memory; more wait in Kafka.
const WAITING: usize = 5_000;
/// Where a partition with so many waiting is read again.
const REFILL: usize = 1_000;

/// From where to where events are taken in.
pub(super) struct Task {
    pub(super) group: String,
    /// Topics of the sources.
    pub(super) sources: Vec<String>,
    /// The same as the marks of the input log count them; empty where it has none.
    pub(super) entries: Vec<String>,
    /// The input log.
    pub(super) topic: String,
    /// How many it has.
    pub(super) partitions: i32,
    /// For records that are refused.
    pub(super) dead_topic: String,
    /// Where it is written how far the sources were taken in, with as many partitions as the input log; views have that in the marks
    /// of their input logs.
    pub(super) journal: Option<String>,
    pub(super) begin: Begin,
}

/// Where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At the first record of the sources. Every transaction writes to every partition of the input log, so offsets of one that
    /// holds nothing are those of a former log.
    Earliest,
    /// Where that says, for all partitions of the sources together: fixed once, before anything is taken in, by the owner of the first
    /// one. A partition that is added later is read from its first record.
    Once(StartFrom),
}

pub(super) struct Loop {
    context: Arc<Context>,
    life: Arc<Life>,
    task: Task,
    intake: Box<dyn TakeIn>,
    joins: Option<Joins>,
    committer: Committer,
    owned: BTreeMap<TopicPartition, Owned>,
    /// Assigned, and it is not known yet where they begin; and when to ask for it.
    unplaced: Vec<TopicPartition>,
    ask_at: Instant,
    /// With the position of the record, whose offset they are committed with.
    dead: Vec<(TopicPartition, i64, NewRecord)>,
    /// Assigned, but cannot begin; a problem in the status says why.
    stalled: BTreeSet<TopicPartition>,
    pending: Option<Batch>,
    joined: bool,
    /// Since when events have been waiting and none went.
    held_since: Option<Instant>,
    /// Something came in while the last wait for joins was under way, and needs one of its own.
    fenced: bool,
}

struct Owned {
    committed: i64,
    target: i64,
    /// Where the log ended when it was asked last.
    end: i64,
    /// Read up to here.
    position: i64,
    /// Of a record that is gone past though it is invalid.
    skip: Option<i64>,
    stopped: bool,
    paused: bool,
}

impl Owned {
    /// More is in the log than was read.
    fn behind(&self) -> bool {
        !self.stopped && self.position < self.end
    }
}

struct Batch {
    records: Vec<NewRecord>,
    offsets: Vec<(TopicPartition, Committed)>,
}

impl Loop {
    pub(super) fn new(
        context: Arc<Context>,
        life: Arc<Life>,
        task: Task,
        intake: Box<dyn TakeIn>,
        joins: Option<Joins>,
    ) -> Self {
        let committer = Committer::new(
            Arc::clone(&context.services.log),
            Arc::clone(&life),
            names::member(&task.group, context.ordinal),
            Scope {
                reads: task.sources.first().cloned().unwrap_or_default(),
                writes: [&task.topic, &task.dead_topic]
                    .into_iter()
                    .chain(&task.journal)
                    .cloned()
                    .collect(),
                own: [&task.topic]
                    .into_iter()
                    .chain(&task.journal)
                    .cloned()
                    .collect(),
            },
            Arc::clone(&context.services.metrics),
            metrics::Stage {
                kind: context.kind_label(),
                name: context.name.clone(),
            },
        );
        Self {
            context,
            life,
            task,
            intake,
            joins,
            committer,
            owned: BTreeMap::new(),
            unplaced: Vec::new(),
            ask_at: Instant::now(),
            dead: Vec::new(),
            stalled: BTreeSet::new(),
            pending: None,
            joined: false,
            held_since: None,
            fenced: false,
        }
    }

    pub(super) fn run(mut self) -> Result<(), Error> {
        let log = Arc::clone(&self.context.services.log);
        partitions(&*log, &self.life, &self.task.sources)?;
        persist(&self.life, "transactional id", || self.committer.open())?;
        let mut group = persist(&self.life, "group", || {
            log.group(GroupOptions {
                member: names::member(&self.task.group, self.context.ordinal),
                group: self.task.group.clone(),
                topics: self.task.sources.clone(),
            })
        })?;
        self.life.woken_by(group.waker());
        if let Some(joins) = &mut self.joins {
            joins.open(group.waker())?;
        }
        while !self.life.stopping() {
            self.turn(&mut *group)?;
        }
        if self.life.abandoned() {
            return Ok(());
        }
        let deadline = Instant::now() + DRAIN;
        while !self.finish(&mut *group)? && Instant::now() < deadline {
            self.turn(&mut *group)?;
        }
        Ok(group.leave()?)
    }

    /// True where nothing is left to write before the end. The views that it reads are not folded any more: what still waits for them is
    /// read again by whoever comes next.
    fn finish(&mut self, group: &mut dyn GroupReader) -> Result<bool, Error> {
        if self.joins.is_some() {
            self.send(group)
        } else {
            self.write(group)
        }
    }

    fn turn(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        let mut rebalance = Rebalance::default();
        let mut stopped = Vec::new();
        let read = group.poll(self.wait(), &mut |event| match event {
            GroupEvent::Record(record) => {
                if self.take(record) {
                    stopped.push(TopicPartition::new(record.topic, record.partition));
                }
            }
            event => rebalance.note(&event),
        })?;
        // More is at hand already: what is missing may be behind it.
        if read >= RECORDS_PER_POLL
            && let Some(since) = &mut self.held_since
        {
            *since = Instant::now();
        }
        if !stopped.is_empty() {
            group.pause(&stopped)?;
        }
        if !rebalance.lost.is_empty() {
            self.committer.distrust();
            self.lose(group, &rebalance.lost)?;
        }
        self.unplaced.extend(rebalance.assigned);
        self.place(group)?;
        self.joined |= rebalance.any;
        if self.joined {
            self.committer.settle(group);
        }
        self.positions(group);
        let due = self
            .committer
            .retry_at()
            .is_none_or(|at| at <= Instant::now());
        if due || !rebalance.revoked.is_empty() {
            self.write(group)?;
        }
        self.fill(group)?;
        if !rebalance.revoked.is_empty() {
            self.lose(group, &rebalance.revoked)?;
        }
        self.publish();
        Ok(())
    }

    /// True where the partition has to stand still at this record.
    fn take(&mut self, record: &Record<'_>) -> bool {
        let partition = TopicPartition::new(record.topic, record.partition);
        let Some(owned) = self.owned.get_mut(&partition) else {
            return false;
        };
        if owned.stopped {
            return false;
        }
        if self.context.invalid_of_topic(record.topic) == InvalidRecords::Stop
            && owned.skip != Some(record.offset)
            && let Some(fault) = self.intake.check(record)
        {
            owned.stopped = true;
            self.stand_still(record, &fault);
            return true;
        }
        // One dead letter a record, whichever entries refuse it.
        if let Some(fault) = self.intake.take(record).into_iter().next() {
            self.refuse(record, &fault);
        }
        false
    }

    fn stand_still(&self, record: &Record<'_>, fault: &Fault) {
        let resource = self.context.resource();
        self.context.stopped(&self.life, record, fault, &resource);
    }

    fn refuse(&mut self, record: &Record<'_>, fault: &Fault) {
        if self.context.invalid_of_topic(record.topic) == InvalidRecords::Skip {
            self.context.skipped(&self.life, record, fault);
        } else {
            let partition = TopicPartition::new(record.topic, record.partition);
            let known =
                |(of, offset, _): &(_, i64, _)| *of == partition && *offset == record.offset;
            if self.dead.iter().any(known) {
                return;
            }
            let letter = dead_letter(record, fault, &self.task.dead_topic);
            self.dead.push((partition, record.offset, letter));
            self.context.dead_letter(&self.life, record, fault);
        }
    }

    fn positions(&mut self, group: &mut dyn GroupReader) {
        for (partition, owned) in &mut self.owned {
            if !owned.stopped
                && let Some(position) = group.position(partition)
            {
                owned.position = owned.position.max(position);
                self.intake
                    .advance(&partition.topic, partition.partition, position);
            }
        }
    }

    fn waiting(&self) -> usize {
        let of =
            |partition: &TopicPartition| self.intake.waiting(&partition.topic, partition.partition);
        self.owned.keys().map(of).sum()
    }

    /// Keeps what waits in memory bounded, while others are behind.
    fn fill(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (partition, owned) in &mut self.owned {
            let waiting = self.intake.waiting(&partition.topic, partition.partition);
            if owned.stopped {
                continue;
            }
            if !owned.paused && waiting >= WAITING {
                owned.paused = true;
                pause.push(partition.clone());
            } else if owned.paused && waiting <= REFILL {
                owned.paused = false;
                resume.push(partition.clone());
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

    fn wait(&self) -> Duration {
        let ask = if self.unplaced.is_empty() {
            IDLE
        } else {
            self.ask_at.saturating_duration_since(Instant::now())
        };
        let settle = self.committer.settle_at().filter(|_| self.joined);
        ask.min(self.wait_for_events())
            .min(settle.map_or(IDLE, |at| at.saturating_duration_since(Instant::now())))
    }

    fn wait_for_events(&self) -> Duration {
        match (&self.pending, self.committer.retry_at()) {
            (Some(_), Some(at)) => at.saturating_duration_since(Instant::now()),
            (Some(_), None) => Duration::ZERO,
            (None, _) if self.fenced => Duration::ZERO,
            (None, _) => match self.joins.as_ref().and_then(Joins::quiet) {
                Some(quiet) => quiet,
                None => self.held_since.map_or(IDLE, |since| {
                    (since + HOLD).saturating_duration_since(Instant::now())
                }),
            },
        }
    }

    fn publish(&self) {
        let positions: Vec<_> = self
            .owned
            .iter()
            .map(|(partition, owned)| Processed {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                next: owned.committed,
                stopped: owned.stopped,
            })
            .collect();
        self.life.board.part(
            "intake",
            Part {
                joined: self.joined,
                restored_percent: 100,
                caught_up: self.stalled.is_empty()
                    && self.unplaced.is_empty()
                    && self
                        .owned
                        .values()
                        .all(|owned| owned.stopped || owned.committed >= owned.target),
                waiting: self.stalled.len() + self.unplaced.len(),
                in_flight: self.pending.iter().len() + self.waiting(),
                positions,
            },
        );
    }
}
