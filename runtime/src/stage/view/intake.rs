//! The intake of a view with an input log of its own: reads the sources in a group, and writes what the
//! engine projects from them, in the order that counts from then on.
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
use super::super::{Context, DRAIN, Error};
use crate::log::{Committed, GroupEvent, GroupOptions, GroupReader, RECORDS_PER_POLL, Start};
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

pub(super) struct Loop {
    context: Arc<Context>,
    life: Arc<Life>,
    view: View,
    intake: Intake,
    committer: Committer,
    sources: Vec<String>,
    owned: BTreeMap<TopicPartition, Owned>,
    dead: Vec<NewRecord>,
    pending: Option<Batch>,
    joined: bool,
    drained: bool,
}

struct Owned {
    committed: i64,
    target: i64,
    stopped: bool,
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
            pending: None,
            joined: false,
            drained: true,
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
        let events = group.poll(self.wait(), &mut |event| match event {
            GroupEvent::Record(record) => {
                if self.take(record) {
                    stopped.push(TopicPartition::new(record.topic, record.partition));
                }
            }
            event => rebalance.note(&event),
        })?;
        self.drained = events < RECORDS_PER_POLL;
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
            self.dead
                .push(dead_letter(record, fault, &self.view.dead_topic));
            self.context.dead_letter(&self.life, record, fault);
        }
    }

    /// Partitions that are another's now, or about to be.
    fn lose(&mut self, group: &mut dyn GroupReader, lost: &[TopicPartition]) -> Result<(), Error> {
        for partition in lost {
            self.owned.remove(partition);
            self.intake.stop(&partition.topic, partition.partition);
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
                Some(Some(committed)) => committed.offset,
                _ => bounds.low,
            };
            self.intake
                .start(&partition.topic, partition.partition, next);
            group.start(partition, Start::Offset(next))?;
            self.owned.insert(
                partition.clone(),
                Owned {
                    committed: next,
                    target: bounds.high,
                    stopped: false,
                },
            );
        }
        Ok(())
    }

    fn positions(&mut self, group: &mut dyn GroupReader) {
        for (partition, owned) in &self.owned {
            if !owned.stopped
                && let Some(position) = group.position(partition)
            {
                self.intake
                    .advance(&partition.topic, partition.partition, position);
            }
        }
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
        if !self.moved() {
            return Ok(true);
        }
        let mut records = self.intake.drain(self.drained);
        records.append(&mut self.dead);
        let offsets = self
            .intake
            .positions()
            .into_iter()
            .map(|(topic, partition, next)| {
                let committed = Committed {
                    offset: next,
                    metadata: String::new(),
                };
                (TopicPartition::new(topic, partition), committed)
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
            (None, _) if self.moved() => Duration::ZERO,
            (None, _) => IDLE,
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
                caught_up: self
                    .owned
                    .values()
                    .all(|owned| owned.stopped || owned.committed >= owned.target),
                waiting: 0,
                in_flight: self.pending.iter().len(),
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
