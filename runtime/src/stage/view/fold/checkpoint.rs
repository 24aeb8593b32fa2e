//! Writing what changed, state and changes: one transaction, sent as it stands until its fate is known.

use super::super::super::committer::Outcome;
use super::super::super::rebalance::Rebalance;
use super::super::super::resume::position;
use super::super::super::{DRAIN, Error};
use super::super::without_value;
use super::{Batch, Fold, Owned};
use crate::log::GroupReader;
use crate::metrics;
use crate::observe::Happening;
use headwater_engine::record::{NewRecord, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

impl Fold {
    pub(super) fn checkpoint(
        &mut self,
        group: &mut dyn GroupReader,
        which: impl Fn(i32) -> bool,
    ) -> Result<(), Error> {
        // What is under way comes first: a batch is sent as it stands until its fate is known.
        if self.pending.is_some() && !self.send(group)? {
            return Ok(());
        }
        let mut parts = BTreeMap::new();
        let mut keys = 0;
        for (number, owned) in &mut self.owned {
            let Owned::Folding(folding) = owned else {
                continue;
            };
            if folding.since.is_none() || !which(*number) {
                continue;
            }
            keys += folding.partition.dirty();
            let mut records = folding.partition.checkpoint();
            records.append(&mut folding.changes);
            records.append(&mut folding.dead);
            folding.bytes = 0;
            folding.since = None;
            let position = position(folding.partition.next(), folding.skip, String::new());
            parts.insert(*number, (records, position));
        }
        if !parts.is_empty() {
            self.pending = Some(Batch {
                started: Instant::now(),
                keys,
                parts,
            });
            self.send(group)?;
        }
        Ok(())
    }

    /// True where nothing is under way any more.
    pub(super) fn send(&mut self, group: &mut dyn GroupReader) -> Result<bool, Error> {
        let Some(batch) = &self.pending else {
            return Ok(true);
        };
        let topic: Arc<str> = self.view.input.topic().into();
        let records: Vec<NewRecord> = batch
            .parts
            .values()
            .flat_map(|(records, _)| records.iter().cloned())
            .collect();
        let offsets: Vec<_> = batch
            .parts
            .iter()
            .map(|(number, (_, position))| {
                let partition = TopicPartition::new(Arc::clone(&topic), *number);
                (partition, position.clone())
            })
            .collect();
        match self.committer.commit(group, &records, &offsets)? {
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
        for (number, (_, position)) in &batch.parts {
            // What was folded while the batch was tried again is not in it: then all of it counts as changed still.
            if let Some(Owned::Folding(folding)) = self.owned.get_mut(number)
                && folding.partition.next() == position.offset
            {
                folding.partition.checkpointed();
            }
        }
        self.context
            .services
            .metrics
            .checkpoint_seconds
            .get_or_create(&metrics::Stage {
                kind: "view",
                name: self.view.name.clone(),
            })
            .observe(batch.started.elapsed().as_secs_f64());
        self.context
            .services
            .observer
            .tell(|| Happening::Checkpoint {
                view: self.view.name.clone(),
                keys: batch.keys,
                records: records.len(),
            });
        Ok(true)
    }

    pub(super) fn refused(&mut self, index: usize, reason: String) -> Result<(), Error> {
        let records = self
            .pending
            .iter_mut()
            .flat_map(|batch| batch.parts.values_mut());
        let record = records.flat_map(|(records, _)| records).nth(index);
        without_value(&self.view, record, reason)
    }

    /// Checkpoints everything, for as long as a pod has to end.
    pub(super) fn finish(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        let deadline = Instant::now() + DRAIN;
        loop {
            self.checkpoint(group, |_| true)?;
            if self.pending.is_none() || Instant::now() >= deadline {
                return Ok(());
            }
            // A poll is the wait, and sees what changed in the group meanwhile.
            let mut rebalance = Rebalance::default();
            group.poll(self.wait(), &mut |event| rebalance.note(&event))?;
            for partition in rebalance.lost.iter().chain(&rebalance.revoked) {
                self.drop_partition(partition.partition);
            }
        }
    }
}
