//! The intake of a view with an input log of its own: reads the sources in a group, and writes what the
//! engine projects from them, in the order that counts from then on.
//!
//! Of what waits in the sources' logs the oldest goes first: so after records came in, the logs are asked
//! for their ends, and an event is held until every partition is read up to there or shows its next one.
//! It is held for at most [`HOLD`] once all that is at hand was read: a transaction that stays open somewhere must not stop the view.
//! Where entries join other views, what waits goes once those hold what was in their logs ([`super::joins`]).
//!
//! Each transaction carries the projected records, a mark for every partition of the input log, dead
//! letters, and the offsets of all source partitions: an event is in the input log exactly once. Where
//! partitions are lost while a transaction is undecided, everything taken in is forgotten and read again
//! from the committed offsets.

mod write;

use super::super::committer::Committer;
use super::super::life::Life;
use super::super::reading::persist;
use super::super::rebalance::Rebalance;
use super::super::resume::Intent;
use super::super::status::{Part, Processed};
use super::super::{Context, DRAIN, Error, Stall};
use super::joins::Joins;
use crate::log::{Committed, GroupEvent, GroupOptions, GroupReader, RECORDS_PER_POLL, Start};
use crate::metrics;
use headwater_engine::config::{InvalidRecords, View};
use headwater_engine::fault::{Fault, dead_letter};
use headwater_engine::names::{self, Owner};
use headwater_engine::record::{NewRecord, Record, TopicPartition};
use headwater_engine::view::intake::Intake;
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

pub(super) struct Loop {
    context: Arc<Context>,
    life: Arc<Life>,
    view: View,
    intake: Intake,
    /// How many the input log has.
    partitions: i32,
    joins: Option<Joins>,
    committer: Committer,
    sources: Vec<String>,
    owned: BTreeMap<TopicPartition, Owned>,
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
        view: View,
        intake: Intake,
        partitions: i32,
        joins: Option<Joins>,
    ) -> Self {
        let committer = Committer::new(
            Arc::clone(&context.services.log),
            Arc::clone(&life),
            names::member(&group_of(&context, &view), context.ordinal),
            Arc::clone(&context.services.metrics),
            metrics::Stage {
                kind: "view",
                name: view.name.clone(),
            },
        );
        let topics: BTreeSet<String> = view
            .from
            .iter()
            .filter_map(|from| context.config.sources.get(&from.source))
            .map(|source| source.topic.clone())
            .collect();
        Self {
            context,
            life,
            view,
            intake,
            partitions,
            joins,
            committer,
            sources: topics.into_iter().collect(),
            owned: BTreeMap::new(),
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
        super::partitions(&*log, &self.life, &self.sources)?;
        persist(&self.life, "transactional id", || self.committer.open())?;
        let group = group_of(&self.context, &self.view);
        let mut group = persist(&self.life, "group", || {
            log.group(GroupOptions {
                member: names::member(&group, self.context.ordinal),
                group: group.clone(),
                topics: self.sources.clone(),
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

    /// True where nothing is left to write before the end. The joined views are not folded any more: what still waits for them is
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
            self.lose(group, &rebalance.lost)?;
        }
        self.begin(group, &rebalance.assigned)?;
        self.joined |= rebalance.any;
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
        // One dead letter a record, whichever of the view's entries refuse it.
        if let Some(fault) = self.intake.take(record).into_iter().next() {
            self.refuse(record, &fault);
        }
        false
    }

    fn stand_still(&self, record: &Record<'_>, fault: &Fault) {
        let resource = format!("view/{}", self.view.name);
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
            let letter = dead_letter(record, fault, &self.view.dead_topic);
            self.dead.push((partition, record.offset, letter));
            self.context.dead_letter(&self.life, record, fault);
        }
    }

    /// Partitions that are another's now, or about to be.
    fn lose(&mut self, group: &mut dyn GroupReader, lost: &[TopicPartition]) -> Result<(), Error> {
        for partition in lost {
            self.owned.remove(partition);
            self.stalled.remove(partition);
            self.intake.stop(&partition.topic, partition.partition);
            self.dead.retain(|(of, _, _)| of != partition);
        }
        if let Some(joins) = &mut self.joins {
            joins.forget();
        }
        if self.pending.is_none() {
            return Ok(());
        }
        // A batch that may hold records of a lost partition must not be written.
        self.pending = None;
        self.dead.clear();
        self.committer.forget();
        let left = std::mem::take(&mut self.owned);
        let mut held: Vec<TopicPartition> = left
            .iter()
            .filter(|(_, owned)| owned.paused || owned.stopped)
            .map(|(partition, _)| partition.clone())
            .collect();
        let left: Vec<_> = left.into_keys().collect();
        for partition in &left {
            self.intake.stop(&partition.topic, partition.partition);
        }
        self.begin(group, &left)?;
        // They begin anew, but the group remembers their pause.
        held.retain(|partition| self.owned.contains_key(partition));
        if !held.is_empty() {
            group.resume(&held)?;
        }
        Ok(())
    }

    fn begin(
        &mut self,
        group: &mut dyn GroupReader,
        assigned: &[TopicPartition],
    ) -> Result<(), Error> {
        if assigned.is_empty() {
            return Ok(());
        }
        let log = Arc::clone(&self.context.services.log);
        persist(&self.life, "transactional id", || self.committer.open())?;
        let committed = persist(&self.life, "committed offsets", || {
            group.committed(assigned)
        })?;
        let bounds = persist(&self.life, "watermarks", || log.watermarks(assigned))?;
        let unwritten = self.is_unwritten()?;
        for partition in assigned {
            let bounds = bounds
                .get(partition)
                .copied()
                .unwrap_or(crate::log::Watermarks { low: 0, high: 0 });
            let next = match committed.get(partition) {
                // Of an input log that was deleted since; somebody's decision counts all the same.
                Some(Some(committed)) if unwritten && Intent::of(committed).is_none() => {
                    Ok(bounds.low)
                }
                Some(Some(committed)) => {
                    let resource = format!("view/{}", self.view.name);
                    Stall::position(&resource, partition, committed.offset, bounds)
                }
                _ => Ok(bounds.low),
            };
            let next = match next {
                Ok(next) => next,
                Err(stall) => {
                    stall.tell(&self.life);
                    self.stalled.insert(partition.clone());
                    continue;
                }
            };
            self.intake
                .start(&partition.topic, partition.partition, next);
            group.start(partition, Start::Offset(next))?;
            self.owned.insert(
                partition.clone(),
                Owned {
                    committed: next,
                    target: bounds.high,
                    end: bounds.high,
                    position: next,
                    skip: Intent::skipped(committed.get(partition).and_then(Option::as_ref)),
                    stopped: false,
                    paused: false,
                },
            );
        }
        Ok(())
    }

    /// Whether nothing was ever written to the input log. Every transaction writes a mark to each of its partitions, so offsets that
    /// the group has in spite of that are those of a former log.
    fn is_unwritten(&self) -> Result<bool, Error> {
        let topic: Arc<str> = self.view.input.topic().into();
        let all: Vec<TopicPartition> = (0..self.partitions)
            .map(|number| TopicPartition::new(Arc::clone(&topic), number))
            .collect();
        let log = &self.context.services.log;
        let ends = persist(&self.life, "watermarks", || log.watermarks(&all))?;
        Ok(ends.values().all(|bounds| bounds.high == 0))
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
                    && self
                        .owned
                        .values()
                        .all(|owned| owned.stopped || owned.committed >= owned.target),
                waiting: self.stalled.len(),
                in_flight: self.pending.iter().len() + self.waiting(),
                positions,
            },
        );
    }
}

fn group_of(context: &Context, view: &View) -> String {
    names::group(
        &context.config.namespace,
        Owner::View,
        &view.name,
        Some(&view.generation),
        "intake",
    )
}
