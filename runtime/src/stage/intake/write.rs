//! Writing what was taken in: what may go now, in one transaction with the offsets, sent as it stands until its fate is known.

use super::super::Error;
use super::super::committer::Outcome;
use super::super::positions::{self, Reader};
use super::super::reading::persist;
use super::super::resume::position;
use super::joins::{Joins, Passed};
use super::{Batch, HOLD, Loop};
use crate::log::{Committed, GroupReader};
use crate::observe::Happening;
use headwater_engine::config::InvalidRecords;
use headwater_engine::fault::leave_out_value;
use headwater_engine::intake::{Drained, Fence, Terms};
use headwater_engine::lookup::{NoViews, Views};
use headwater_engine::record::{NewRecord, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

impl Loop {
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
    pub(super) fn write(&mut self, group: &mut dyn GroupReader) -> Result<bool, Error> {
        if self.pending.is_some() && !self.send(group)? {
            return Ok(false);
        }
        let Some(passed) = self.gate()? else {
            return Ok(false);
        };
        let overdue = self.held_since.is_some_and(|since| since.elapsed() >= HOLD);
        let drained = self.drain(passed, overdue);
        // While others go it is not held: a long backlog goes in its order too.
        let went = drained.events > 0;
        let mut records = self.note(group, drained)?;
        if self.waiting() == 0 {
            self.held_since = None;
        } else if overdue || went || self.held_since.is_none() {
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
        let offsets: Vec<_> = next
            .into_iter()
            .map(|(partition, offset)| {
                let skip = self.owned.get(&partition).and_then(|owned| owned.skip);
                (partition, position(offset, skip, String::new()))
            })
            .collect();
        if let Some(journal) = &self.task.journal {
            let moved = |(partition, at): &&(TopicPartition, Committed)| {
                let owned = self.owned.get(partition);
                owned.is_none_or(|owned| at.offset > owned.committed)
            };
            let moved: Vec<_> = offsets.iter().filter(moved).cloned().collect();
            records.extend(positions::records(
                Reader::Intake,
                journal,
                self.task.partitions,
                &moved,
            ));
        }
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
        let (context, owned) = (&self.context, &self.owned);
        let stops = |topic: &str, partition: i32, offset: i64| {
            let skipped = owned
                .get(&TopicPartition::new(topic, partition))
                .is_some_and(|owned| owned.skip == Some(offset));
            !skipped && context.invalid_of_topic(topic) == InvalidRecords::Stop
        };
        let open = Fence::open();
        let (fence, views): (&Fence, &dyn Views) = match (&self.joins, &passed) {
            (Some(joins), Some(passed)) => (&passed.fence, joins.views()),
            // Nothing waits, or no view is read.
            _ => (&open, &NoViews),
        };
        self.intake.drain_under(&Terms {
            behind: &behind,
            fence,
            views,
            stops: &stops,
        })
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

    pub(super) fn send(&mut self, group: &mut dyn GroupReader) -> Result<bool, Error> {
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
        // Nothing was read while this was written: that is no wait for others.
        if let Some(since) = &mut self.held_since {
            *since = Instant::now();
        }
        for (partition, committed) in batch.offsets {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.committed = committed.offset;
            }
        }
        self.context.services.observer.tell(|| Happening::TakenIn {
            stage: self.context.name.clone(),
            records: batch.records.len(),
        });
        Ok(true)
    }

    /// A dead letter may be larger than its topic allows, by the headers that say why: it goes without its value then. What is
    /// taken in fits.
    fn refused(&mut self, index: usize, reason: String) -> Result<(), Error> {
        let batch = self.pending.as_mut();
        let record = batch.and_then(|batch| batch.records.get_mut(index));
        match record {
            Some(record) if record.topic == self.task.dead_topic && record.value.is_some() => {
                tracing::warn!(reason, "a dead letter is written without its value");
                leave_out_value(record);
                Ok(())
            }
            _ => Err(Error::IntakeRefused {
                resource: self.context.resource(),
                reason,
            }),
        }
    }
}
