//! What one transaction of an agent is made of.

use super::super::interim::Told;
use super::super::progress::Progress;
use super::super::window::Part;
use headwater_engine::agent::{Completion, Trigger};
use headwater_engine::journal::{Change, Reached};
use headwater_engine::names::header;
use headwater_engine::record::{NewRecord, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Runs and steps in one transaction.
const RUNS: usize = 500;
/// Bytes of them, unless one run alone has more.
const BYTES: usize = 4 << 20;
/// In positions that are no committed offsets, which alone have to be told apart.
const NO_TRANSACTION: u64 = 0;

/// Changes of the journal, with the partition and the record of each.
pub(super) type Steps = Vec<(i32, NewRecord, Pending)>;

/// A run that ended, or a record that never became one.
pub(in super::super) struct Finished {
    pub(super) completion: Completion,
    /// Absent for a record that was refused.
    pub(super) trigger: Option<Arc<Trigger>>,
    pub(super) arrived: Instant,
    /// How often the log refused one of its records.
    pub(super) refusals: u32,
    pub(super) bytes: usize,
}

impl Finished {
    pub(in super::super) fn new(
        completion: Completion,
        trigger: Option<Arc<Trigger>>,
        arrived: Instant,
    ) -> Self {
        let bytes = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        Self {
            bytes: completion
                .records
                .iter()
                .map(|record| bytes(&record.key) + bytes(&record.value))
                .sum(),
            completion,
            trigger,
            arrived,
            refusals: 0,
        }
    }
}

/// A change of the journal that belongs to no finished run.
pub(in super::super) struct Pending {
    pub(super) change: Change,
    /// The task that waits for it.
    told: Option<Told>,
}

impl Pending {
    pub(in super::super) fn new(change: Change, told: Option<Told>) -> Self {
        Self { change, told }
    }

    pub(super) fn tell(self, answer: Result<(), String>) {
        if let Some(told) = self.told {
            // The task may have been ended.
            let _ = told.send(answer);
        }
    }
}

/// What a record is of, by partition, and place in its part of the batch.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Owner {
    Run(i32, usize),
    Step(i32, usize),
}

impl Owner {
    pub(super) fn partition(self) -> i32 {
        match self {
            Self::Run(partition, _) | Self::Step(partition, _) => partition,
        }
    }
}

/// One transaction.
pub(super) struct Batch {
    pub(super) parts: BTreeMap<i32, Part<Finished>>,
    /// Tells this transaction from every other of its group.
    pub(super) number: u64,
    /// Of partitions that have a part. What the log refused is gone.
    pub(super) steps: BTreeMap<i32, Vec<Option<Pending>>>,
    /// That of the last position which the journal has with this transaction, by partition.
    marks: BTreeMap<i32, u64>,
    pub(super) records: Vec<NewRecord>,
    /// What each record is of.
    pub(super) owners: Vec<Owner>,
}

impl Batch {
    pub(super) fn new(
        number: u64,
        mut parts: BTreeMap<i32, Part<Finished>>,
        steps: Steps,
        marks: BTreeMap<i32, u64>,
    ) -> Self {
        let (mut records, mut owners) = (Vec::new(), Vec::new());
        for (number, part) in &mut parts {
            for (place, finished) in part.runs.iter_mut().enumerate() {
                let of = std::mem::take(&mut finished.completion.records);
                owners.extend(of.iter().map(|_| Owner::Run(*number, place)));
                records.extend(of);
            }
        }
        let mut held: BTreeMap<i32, Vec<Option<Pending>>> = BTreeMap::new();
        for (number, record, pending) in steps {
            let of = held.entry(number).or_default();
            owners.push(Owner::Step(number, of.len()));
            of.push(Some(pending));
            records.push(record);
        }
        Self {
            parts,
            number,
            steps: held,
            marks,
            records,
            owners,
        }
    }

    /// The last audit record of each partition says how far its runs are with this transaction.
    pub(super) fn tell_positions(&mut self, topic: &Arc<str>, runs: &str) {
        let mut told = BTreeSet::new();
        for (record, owner) in self.records.iter_mut().zip(&self.owners).rev() {
            let number = owner.partition();
            if record.topic != runs {
                continue;
            }
            record.headers.retain(|(name, _)| name != header::REACHED);
            let Some(part) = self.parts.get(&number) else {
                continue;
            };
            if told.insert(number) {
                let of = TopicPartition::new(Arc::clone(topic), number);
                let mark = self.marks.get(&number).copied().unwrap_or_default();
                let reached = reached(&part.progress, mark);
                record.headers.push(reached.header(&of));
            }
        }
    }

    pub(super) fn remove_records(&mut self, which: impl Fn(Owner) -> bool) {
        let owners = std::mem::take(&mut self.owners);
        let mut kept = owners.iter().map(|owner| !which(*owner));
        self.records.retain(|_| kept.next().unwrap_or(true));
        self.owners = owners.into_iter().filter(|owner| !which(*owner)).collect();
    }
}

/// A position apart from the group's offset.
pub(super) fn reached(progress: &Progress, mark: u64) -> Reached {
    Reached {
        next: progress.next,
        progress: progress.metadata(NO_TRANSACTION),
        mark,
    }
}

/// What one transaction takes.
#[derive(Default)]
pub(super) struct Room {
    items: usize,
    bytes: usize,
}

impl Room {
    pub(super) fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.items == 0 || (self.items < RUNS && self.bytes + bytes <= BYTES);
        if fits {
            self.items += 1;
            self.bytes += bytes;
        }
        fits
    }
}
