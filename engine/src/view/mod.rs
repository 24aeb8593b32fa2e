//! Context views: state folded from streams, by key, always up to date.
//!
//! A [`Definition`] is a view compiled. A [`Partition`] is the state of one partition of its input log, a pure function of the
//! records below its next offset; a [`View`] is all partitions that a reader holds. [`intake`] writes the input log of views whose
//! sources cannot be it. What moves records is left to the caller: Kafka, the memory log, tests and replay drive this same fold.
//!
//! Invariants: an event is folded whole or not at all. State restored from checkpoints and folded on equals the state folded from the
//! beginning. A value comes with its [`Origin`] and event time.

mod aggregate;
mod arena;
pub(crate) mod changes;
mod definition;
mod expiry;
mod from;
mod history;
mod indexes;
pub mod intake;
mod latest;
mod look;
mod origin;
mod partition;
mod rows;
mod slots;
mod table;
#[cfg(test)]
mod tests;

pub use definition::{Change, Definition, Projected};
pub use origin::{Covered, Mark, Origin};
pub use partition::{Folded, Partition, fold_each};

use crate::config::Fold;
use crate::key::Key;
use crate::record::Position;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A value as a reader finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub key: Key,
    pub value: Value,
    /// The source record that caused the value.
    pub position: Position,
    /// Event time of that record, milliseconds.
    pub time: i64,
}

/// All partitions of a view that one reader holds.
#[derive(Debug)]
pub struct View {
    definition: Arc<Definition>,
    partitions: BTreeMap<i32, Partition>,
}

impl View {
    pub fn new(definition: Arc<Definition>) -> Self {
        Self {
            definition,
            partitions: BTreeMap::new(),
        }
    }

    pub fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// The state of an input partition, empty before its first record.
    pub fn partition_mut(&mut self, partition: i32) -> &mut Partition {
        self.partitions
            .entry(partition)
            .or_insert_with(|| Partition::new(Arc::clone(&self.definition), partition))
    }

    pub fn partitions(&self) -> impl Iterator<Item = (i32, &Partition)> {
        self.partitions
            .iter()
            .map(|(number, state)| (*number, state))
    }

    /// Forgets a partition that another replica owns now.
    pub fn remove_partition(&mut self, partition: i32) -> Option<Partition> {
        self.partitions.remove(&partition)
    }

    /// Of a root source partition, the offset below which every record is in what this view shows, whatever the key.
    pub fn covered(&self, topic: &str, partition: i32) -> i64 {
        let own = matches!(self.definition.input(), crate::config::Input::Own { .. });
        let from = || {
            self.definition
                .source_topics()
                .zip(0u32..)
                .filter(|(source, _)| *source == topic)
                .map(|(_, from)| from)
        };
        let of = |state: &Partition| from().map(|from| state.covered(from, partition)).min();
        if own {
            self.partitions.values().filter_map(of).min()
        } else {
            self.partitions.get(&partition).and_then(of)
        }
        .unwrap_or(0)
    }

    /// The value of a key as of `at`, milliseconds of event time, of a view that is no history. Where the source's writers spread a
    /// key over partitions, the newest event time counts.
    pub fn get(&self, key: &Key, at: i64) -> Option<Row> {
        self.partitions
            .values()
            .filter_map(|state| state.get(key, at))
            .max_by_key(|row| row.time)
    }

    /// The events of a key of a `history` view as of `at`: newest first, at most its limit, none older than its window.
    pub fn history(&self, key: &Key, at: i64) -> Vec<Row> {
        let Fold::History { limit, .. } = *self.definition.fold() else {
            return Vec::new();
        };
        let mut rows: Vec<Row> = self
            .partitions
            .values()
            .flat_map(|state| state.events(key, at))
            .collect();
        // Stable, so that log order stays within a partition.
        rows.sort_by_key(|row| std::cmp::Reverse(row.time));
        rows.truncate(limit as usize);
        rows
    }

    /// Rows under an index key as of `at`, in key order. An index that the view does not have holds nothing.
    pub fn by_index(&self, index: &str, key: &Key, at: i64) -> Vec<Row> {
        let Some(place) = self.definition.index_place(index) else {
            return Vec::new();
        };
        let mut keys: Vec<&Key> = self
            .partitions
            .values()
            .flat_map(|state| state.indexed(place, key))
            .collect();
        // Those of one partition are in order, and each once.
        if self.partitions.len() > 1 {
            keys.sort_unstable();
            keys.dedup();
        }
        keys.into_iter()
            .filter_map(|key| self.get(key, at))
            .collect()
    }

    /// Every key, in order; a key of a merged row that is not complete yet is among them.
    pub fn all_keys(&self) -> BTreeSet<Key> {
        rows::sorted(self.partitions.values().flat_map(Partition::all_keys))
    }

    pub fn keys(&self) -> usize {
        self.partitions.values().map(Partition::keys).sum()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.partitions.values().map(Partition::bytes).sum()
    }

    /// Bytes of memory that keys, values, provenance and the way to find them take; indexes are not among them.
    pub fn held_bytes(&self) -> usize {
        self.partitions.values().map(Partition::held_bytes).sum()
    }
}
