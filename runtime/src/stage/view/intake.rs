//! The intake of a view with an input log of its own: reads the sources in a group, and writes what the
//! engine projects from them, in the order that counts from then on.
//!
//! Of what waits in the sources' logs the oldest goes first: so after records came in, the logs are asked
//! for their ends, and an event is held until every partition is read up to there or shows its next one.
//! It is held for at most [`HOLD`]: a transaction that stays open somewhere must not stop the view.
//!
//! Each transaction carries the projected records, a mark for every partition of the input log, dead
//! letters, and the offsets of all source partitions: an event is in the input log exactly once. Where
//! partitions are lost while a transaction is undecided, everything taken in is forgotten and read again
//! from the committed offsets.

use super::super::committer::{Committer, Outcome};
use super::super::life::Life;
use super::super::reading::persist;
use super::super::rebalance::Rebalance;
use super::super::status::{Part, Processed};
use super::super::{Context, DRAIN, Error, Stall};
use crate::log::{Committed, GroupEvent, GroupOptions, GroupReader, Start};
use crate::metrics;
use crate::observe::Happening;
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
}

struct Owned {
    committed: i64,
    target: i64,
    /// Where the log ended when it was asked last.
    end: i64,
    /// Read up to here.
    position: i64,
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
    pub(super) fn new(context: Arc<Context>, life: Arc<Life>, view: View, intake: Intake) -> Self {
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
            committer,
            sources: topics.into_iter().collect(),
            owned: BTreeMap::new(),
            dead: Vec::new(),
            stalled: BTreeSet::new(),
            pending: None,
            joined: false,
            held_since: None,
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
        while !self.life.stopping() {
            self.turn(&mut *group)?;
        }
        if self.life.abandoned() {
            return Ok(());
        }
        let deadline = Instant::now() + DRAIN;
        while !self.write(&mut *group)? && Instant::now() < deadline {
            self.turn(&mut *group)?;
        }
        Ok(group.leave()?)
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
            self.ends()?;
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
            && let Some(fault) = self.intake.check(record)
        {
            owned.stopped = true;
            self.context.stopped(&self.life, record, &fault);
            return true;
        }
        // One dead letter a record, whichever of the view's entries refuse it.
        if let Some(fault) = self.intake.take(record).into_iter().next() {
            self.refuse(record, &fault);
        }
        false
    }

    fn refuse(&mut self, record: &Record<'_>, fault: &Fault) {
        if self.context.invalid_of_topic(record.topic) == InvalidRecords::Skip {
            self.context.skipped(&self.life, record, fault);
        } else {
            let partition = TopicPartition::new(record.topic, record.partition);
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
        if self.pending.is_none() {
            return Ok(());
        }
        // A batch that may hold records of a lost partition must not be written.
        self.pending = None;
        self.dead.clear();
        self.committer.forget();
        let left: Vec<_> = std::mem::take(&mut self.owned).into_keys().collect();
        for partition in &left {
            self.intake.stop(&partition.topic, partition.partition);
        }
        self.begin(group, &left)
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
                Some(Some(committed)) => Stall::triggers(partition, committed.offset, bounds),
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

    /// Asks where the logs end, after whatever waits was read: what was acknowledged before it is below.
    fn ends(&mut self) -> Result<(), Error> {
        if self.waiting() == 0 || self.owned.len() == 1 {
            return Ok(());
        }
        let partitions: Vec<_> = self.owned.keys().cloned().collect();
        let log = &self.context.services.log;
        let ends = persist(&self.life, "ends", || log.ends(&partitions))?;
        for (owned, end) in self.owned.values_mut().zip(ends) {
            owned.end = end;
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
        let overdue = self.held_since.is_some_and(|since| since.elapsed() >= HOLD);
        let behind: BTreeSet<(&str, i32)> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.behind() && !overdue)
            .map(|(partition, _)| (&*partition.topic, partition.partition))
            .collect();
        let mut records = self
            .intake
            .drain(&|topic, partition| behind.contains(&(topic, partition)));
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
                let committed = Committed {
                    offset,
                    metadata: String::new(),
                };
                (partition, committed)
            })
            .collect();
        self.pending = Some(Batch { records, offsets });
        self.send(group)
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
                record.value = None;
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
            (None, _) => self.held_since.map_or(IDLE, |since| {
                (since + HOLD).saturating_duration_since(Instant::now())
            }),
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
