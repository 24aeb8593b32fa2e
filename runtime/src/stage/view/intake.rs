//! The intake of a view with an input log of its own: reads the sources in a group, and writes what the
//! engine projects from them, in the order that counts from then on.
//!
//! Of what waits in the sources' logs the oldest goes first: so after records came in, the logs are asked
//! for their ends, and an event is held until every partition is read up to there or shows its next one.
//! It is held for at most [`HOLD`]: a transaction that stays open somewhere must not stop the view.
//! Where entries join other views, what waits goes once those hold what was in their logs ([`super::joins`]).
//!
//! Each transaction carries the projected records, a mark for every partition of the input log, dead
//! letters, and the offsets of all source partitions: an event is in the input log exactly once. Where
//! partitions are lost while a transaction is undecided, everything taken in is forgotten and read again
//! from the committed offsets.

use super::super::committer::{Committer, Outcome};
use super::super::life::Life;
use super::super::reading::persist;
use super::super::rebalance::Rebalance;
use super::super::resume::{Intent, position};
use super::super::status::{Part, Processed};
use super::super::{Context, DRAIN, Error, Stall};
use super::joins::{Joins, Passed};
use crate::log::{Committed, GroupEvent, GroupOptions, GroupReader, Start};
use crate::metrics;
use crate::observe::Happening;
use headwater_engine::config::{InvalidRecords, View};
use headwater_engine::fault::{Fault, dead_letter, leave_out_value};
use headwater_engine::names::{self, Owner};
use headwater_engine::record::{NewRecord, Record, TopicPartition};
use headwater_engine::view::intake::{Drained, Intake, Terms};
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
    /// Since when events have been waiting.
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
        group.poll(self.wait(), &mut |event| match event {
            GroupEvent::Record(record) => {
                if self.take(record) {
                    stopped.push(TopicPartition::new(record.topic, record.partition));
                }
            }
            event => rebalance.note(&event),
        })?;
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
        for partition in assigned {
            let bounds = bounds
                .get(partition)
                .copied()
                .unwrap_or(crate::log::Watermarks { low: 0, high: 0 });
            let next = match committed.get(partition) {
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

    /// Whether what waits may go now: the fence up to which, which only joins have.
    fn gate(&mut self) -> Result<Option<Option<Passed>>, Error> {
        if self.waiting() == 0 {
            return Ok(Some(None));
        }
        if self.joins.as_ref().is_none_or(|joins| !joins.is_asked()) {
            self.ends()?;
        }
        let Some(joins) = &mut self.joins else {
            return Ok(Some(None));
        };
        let passed = joins.pass();
        if let (Some(passed), Some(since)) = (&passed, &mut self.held_since) {
            // Only the wait for older events is bounded.
            *since += passed.waited;
        }
        Ok(passed.map(Some))
    }

    /// Asks where the logs end, after whatever waits was read: what was acknowledged before it is below.
    fn ends(&mut self) -> Result<(), Error> {
        let fence = self.intake.fence();
        let roots = self.joins.as_ref().map_or(&[][..], Joins::asks);
        // Of a single partition it does not matter what comes next.
        let owned = if self.owned.len() > 1 {
            self.owned.len()
        } else {
            0
        };
        let partitions: Vec<_> = self
            .owned
            .keys()
            .take(owned)
            .chain(roots)
            .cloned()
            .collect();
        let log = &self.context.services.log;
        let ends = if partitions.is_empty() {
            Vec::new()
        } else {
            persist(&self.life, "ends", || log.ends(&partitions))?
        };
        let (own, roots) = ends.split_at(owned);
        for (owned, end) in self.owned.values_mut().zip(own) {
            owned.end = *end;
        }
        if let Some(joins) = &mut self.joins {
            joins.ask(fence, roots);
        }
        Ok(())
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

    fn moved(&self) -> bool {
        self.intake
            .positions()
            .into_iter()
            .any(|(topic, partition, next)| {
                self.owned
                    .get(&TopicPartition::new(topic, partition))
                    .is_some_and(|owned| next > owned.committed)
            })
    }

    /// Writes what was taken in. True where nothing is left to write.
    fn write(&mut self, group: &mut dyn GroupReader) -> Result<bool, Error> {
        if self.pending.is_some() && !self.send(group)? {
            return Ok(false);
        }
        let Some(passed) = self.gate()? else {
            return Ok(false);
        };
        let overdue = self.held_since.is_some_and(|since| since.elapsed() >= HOLD);
        let drained = self.drain(passed, overdue);
        let mut records = self.note(group, drained)?;
        if self.waiting() == 0 {
            self.held_since = None;
        } else if overdue || self.held_since.is_none() {
            self.held_since = Some(Instant::now());
        }
        if !self.moved() {
            return Ok(self.waiting() == 0);
        }
        let next: BTreeMap<TopicPartition, i64> = self
            .intake
            .positions()
            .into_iter()
            .map(|(topic, partition, next)| (TopicPartition::new(topic, partition), next))
            .collect();
        let went = |(of, offset, _): &mut (TopicPartition, i64, NewRecord)| {
            next.get(of).is_some_and(|next| *offset < *next)
        };
        records.extend(self.dead.extract_if(.., went).map(|(_, _, letter)| letter));
        let offsets = next
            .into_iter()
            .map(|(partition, offset)| {
                let skip = self.owned.get(&partition).and_then(|owned| owned.skip);
                (partition, position(offset, skip))
            })
            .collect();
        self.pending = Some(Batch { records, offsets });
        self.send(group)
    }

    fn drain(&mut self, passed: Option<Passed>, overdue: bool) -> Drained {
        let behind: BTreeSet<(&str, i32)> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.behind() && !overdue)
            .map(|(partition, _)| (&*partition.topic, partition.partition))
            .collect();
        let behind = |topic: &str, partition: i32| behind.contains(&(topic, partition));
        match (&self.joins, passed) {
            (Some(joins), Some(passed)) => {
                let (context, owned) = (&self.context, &self.owned);
                let stops = |topic: &str, partition: i32, offset: i64| {
                    let skipped = owned
                        .get(&TopicPartition::new(topic, partition))
                        .is_some_and(|owned| owned.skip == Some(offset));
                    !skipped && context.invalid_of_topic(topic) == InvalidRecords::Stop
                };
                self.intake.drain_joined(&Terms {
                    behind: &behind,
                    fence: &passed.fence,
                    views: joins.views(),
                    stops: &stops,
                })
            }
            // Nothing waits, or nothing is joined.
            _ => Drained {
                records: self.intake.drain(&behind),
                ..Drained::default()
            },
        }
    }

    /// Deals with what showed while it was drained, and gives what went.
    fn note(
        &mut self,
        group: &mut dyn GroupReader,
        drained: Drained,
    ) -> Result<Vec<NewRecord>, Error> {
        self.fenced = drained.fenced;
        for (record, fault) in &drained.refused {
            record.with(|record| self.refuse(record, fault));
        }
        let mut stopped = Vec::new();
        for (record, fault) in &drained.stopped {
            record.with(|record| {
                let partition = TopicPartition::new(record.topic, record.partition);
                if let Some(owned) = self.owned.get_mut(&partition) {
                    owned.stopped = true;
                }
                self.stand_still(record, fault);
                stopped.push(partition);
            });
        }
        if !stopped.is_empty() {
            group.pause(&stopped)?;
        }
        Ok(drained.records)
    }

    fn send(&mut self, group: &mut dyn GroupReader) -> Result<bool, Error> {
        let Some(batch) = &self.pending else {
            return Ok(true);
        };
        match self
            .committer
            .commit(group, &batch.records, &batch.offsets)?
        {
            Outcome::Committed => {}
            Outcome::Later => return Ok(false),
            Outcome::Refused { index, reason } => {
                self.refused(index, reason)?;
                return self.send(group);
            }
        }
        let Some(batch) = self.pending.take() else {
            return Ok(true);
        };
        for (partition, committed) in batch.offsets {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.committed = committed.offset;
            }
        }
        self.context.services.observer.tell(|| Happening::TakenIn {
            view: self.view.name.clone(),
            records: batch.records.len(),
        });
        Ok(true)
    }

    /// A dead letter may be larger than its topic allows, by the headers that say why: it goes without its
    /// value then. A value that was projected fits.
    fn refused(&mut self, index: usize, reason: String) -> Result<(), Error> {
        let record = self
            .pending
            .as_mut()
            .and_then(|batch| batch.records.get_mut(index));
        match record {
            Some(record) if record.topic == self.view.dead_topic && record.value.is_some() => {
                tracing::warn!(reason, "a dead letter is written without its value");
                leave_out_value(record);
                Ok(())
            }
            _ => Err(Error::CheckpointRefused {
                view: self.view.name.clone(),
                reason,
            }),
        }
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
