//! How far an agent is, apart from its group's offsets, for a time when these are forgotten.
//!
//! The journal has a position of each partition: as it is placed first, before its first run begins, once a minute, and as it is
//! left. Each has a mark that the audit repeats until the next ([`super::super::super::positions`] reads both).

use super::super::driver::Active;
use super::super::progress::Progress;
use super::super::window::Part;
use super::content::{Batch, Finished, Pending, Steps, reached};
use super::{Batches, POSITIONS_EVERY};
use crate::log::{Committed, GroupReader};
use crate::stage::Error;
use crate::stage::positions::{self, Reader};
use headwater_engine::journal::{Change, Store};
use headwater_engine::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

impl Batches {
    /// As [`crate::stage::committer::Committer::first_offsets`]. The journal has `partitions`.
    pub(in super::super) fn first_offsets(
        &mut self,
        group: &mut dyn GroupReader,
        partitions: i32,
        offsets: &[(TopicPartition, Committed)],
    ) -> Result<Instant, Error> {
        let journal = &self.setup.config.topics.journal;
        let records = positions::records(Reader::Runs, journal, partitions, offsets);
        self.committer.first_offsets(group, &records, offsets)
    }

    /// Whether the journal says this of a partition.
    pub(in super::super) fn says(&self, journal: &Store, number: i32, progress: &Progress) -> bool {
        let of = self.partition(number).to_string();
        journal.reached(&of).is_some_and(|reached| {
            let committed = Committed {
                offset: reached.next,
                metadata: String::new(),
            };
            Progress::read(&committed, &reached.progress).as_ref() == Some(progress)
        })
    }

    /// Commits of these partitions, whose runs have all ended, that none is under way. It is tried once: where it fails,
    /// the next owner takes them for left in the middle of their runs.
    pub(in super::super) fn leave(
        &mut self,
        group: &mut dyn GroupReader,
        actives: &mut BTreeMap<i32, &mut Active>,
        numbers: &[i32],
    ) -> Result<(), Error> {
        if self.pending.is_some() {
            return Ok(());
        }
        let mut parts = BTreeMap::new();
        for (number, active) in actives.iter() {
            if !numbers.contains(number) {
                continue;
            }
            let (part, is_said) = active.window.leave();
            if !is_said || !self.says(&active.journal, *number, &part.progress) {
                parts.insert(*number, part);
            }
        }
        if parts.is_empty() {
            return Ok(());
        }
        let placed = parts.keys().copied().collect();
        self.pending = Some(self.batch(actives, parts, Steps::new(), &placed));
        self.send(group, actives)?;
        Ok(())
    }

    /// One transaction, with the positions of `placed`.
    pub(super) fn batch(
        &mut self,
        actives: &BTreeMap<i32, &mut Active>,
        parts: BTreeMap<i32, Part<Finished>>,
        mut steps: Steps,
        placed: &BTreeSet<i32>,
    ) -> Batch {
        self.number = self.number.wrapping_add(1);
        let topic = &self.setup.config.topics.journal;
        let mut marks = BTreeMap::new();
        for (number, part) in &parts {
            let of = self.partition(*number).to_string();
            let former = actives
                .get(number)
                .and_then(|active| active.journal.reached(&of))
                .map(|reached| reached.mark);
            marks.insert(*number, former.unwrap_or_default());
            if !placed.contains(number) {
                continue;
            }
            let change = Change::reached(of, reached(&part.progress, self.number));
            // A value of some bytes fits.
            if let Ok(record) = change.record(topic, *number) {
                marks.insert(*number, self.number);
                steps.push((*number, record, Pending::new(change, None)));
            }
        }
        let mut batch = Batch::new(self.number, parts, steps, marks);
        batch.tell_positions(&self.topic, &self.setup.config.topics.runs);
        batch
    }

    fn partition(&self, number: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), number)
    }
}

/// Of these parts, those whose position goes into the journal with them.
pub(super) fn to_be_placed(
    actives: &mut BTreeMap<i32, &mut Active>,
    parts: &BTreeMap<i32, Part<Finished>>,
    now: Instant,
) -> BTreeSet<i32> {
    let mut placed = BTreeSet::new();
    for (number, part) in parts {
        let Some(active) = actives.get_mut(number) else {
            continue;
        };
        // Runs are about to begin: from here on the audit says how far they are.
        let begins = !active.window.is_marked() && !part.progress.clean;
        if begins || now >= active.place_at {
            active.place_at = now + POSITIONS_EVERY;
            placed.insert(*number);
        }
    }
    placed
}
