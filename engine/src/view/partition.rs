//! The state of one input partition: a pure function of its records below [`Partition::next`].
//!
//! Folding, restoring from a state topic and writing to it meet here. Invariants: an event is folded whole or not at all; the
//! state is the same whatever checkpoints were taken on the way; no clock is read.

use super::definition::{Change, Definition, Projected};
use super::origin::{Covered, Mark, Origin, invalid, provenance, provenance_headers};
use super::{Row, history, latest};
use crate::config::{Fold, Input};
use crate::fault::{Fault, Reason};
use crate::key::Key;
use crate::names;
use crate::record::{NewRecord, Position, Record};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

#[derive(Debug)]
pub struct Partition {
    definition: Arc<Definition>,
    partition: i32,
    entries: HashMap<Key, Entry>,
    /// For each index: index key -> keys.
    indexes: Vec<BTreeMap<Key, BTreeSet<Key>>>,
    /// Keys whose value in the state topic is no longer this one.
    dirty: BTreeSet<Key>,
    next: i64,
    /// What the last mark written or read said, so that nothing is written when nothing moved.
    marked: i64,
    /// Timestamp of the last record.
    at: i64,
    clock: i64,
    covered: BTreeMap<(u32, i32), Covered>,
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Latest(latest::Entry),
    History(history::Entry),
}

/// What became of one record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folded {
    /// A value is another one now.
    pub changed: bool,
    /// The record was refused; the state is as before, the record counts as read.
    pub fault: Option<Fault>,
}

impl Partition {
    pub fn new(definition: Arc<Definition>, partition: i32) -> Self {
        Self {
            indexes: vec![BTreeMap::new(); definition.index_count()],
            definition,
            partition,
            entries: HashMap::new(),
            dirty: BTreeSet::new(),
            next: 0,
            marked: 0,
            at: -1,
            clock: i64::MIN,
            covered: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// The offset of the input that is to be folded next.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Event time that the fold has reached, milliseconds; `i64::MIN` before any event.
    pub fn clock(&self) -> i64 {
        self.clock
    }

    pub fn keys(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keys that a checkpoint would write.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Whether a checkpoint would write anything, a mark included.
    pub fn moved(&self) -> bool {
        self.next != self.marked || !self.dirty.is_empty()
    }

    /// Takes note that the input was read up to `next`, past records that are no data (control records, aborted ones).
    pub fn advance(&mut self, next: i64) {
        self.next = self.next.max(next);
    }

    /// Goes on at `next`, further on or back, whatever the state is the fold of: where somebody decided so.
    pub fn go_on_from(&mut self, next: i64) {
        self.next = next;
        // No offset: what a checkpoint has to write is the mark at least.
        self.marked = -1;
    }

    pub(super) fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Of one root source partition, the offset below which all is folded; 0 where nothing is known.
    pub fn covered(&self, from: u32, partition: i32) -> i64 {
        match self.definition.input() {
            Input::Source { .. } if partition == self.partition => self.next,
            Input::Source { .. } => 0,
            Input::Own { .. } => self
                .covered
                .get(&(from, partition))
                .map_or(0, |covered| covered.next),
        }
    }

    /// Folds one record of the input log. One that was folded before (below [`Partition::next`]) does nothing.
    pub fn fold(&mut self, record: &Record<'_>) -> Folded {
        if record.offset < self.next {
            return Folded::default();
        }
        self.next = record.offset + 1;
        self.at = record.timestamp;
        let folded = match self.definition.input() {
            Input::Source { .. } => self
                .definition
                .project(0, record)
                .map(|event| event.inspect(|event| self.clock = self.clock.max(event.time))),
            Input::Own { .. } if record.key == Some(names::MARK_KEY) => {
                self.take_covered(record).map(|()| None)
            }
            Input::Own { .. } => read_projected(record).map(Some),
        }
        .and_then(|event| match event {
            Some(event) => self.apply(event),
            None => Ok(false),
        });
        match folded {
            Ok(changed) => Folded {
                changed,
                fault: None,
            },
            Err(fault) => Folded {
                changed: false,
                fault: Some(fault),
            },
        }
    }

    fn take_covered(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let mark: Mark = record
            .value
            .and_then(|bytes| serde_json::from_slice(bytes).ok())
            .ok_or_else(|| invalid("mark"))?;
        self.cover(mark.covered);
        // Only partitions that have more to come hold the clock back; it never runs back.
        let clock = self
            .covered
            .values()
            .filter(|covered| !covered.idle)
            .map(|covered| covered.time)
            .min()
            .or_else(|| self.covered.values().map(|covered| covered.time).max());
        self.clock = self.clock.max(clock.unwrap_or(i64::MIN));
        Ok(())
    }

    fn cover(&mut self, covered: Vec<Covered>) {
        for entry in covered {
            let kept = self
                .covered
                .entry((entry.from, entry.partition))
                .or_insert(entry);
            if entry.next >= kept.next {
                *kept = entry;
            }
        }
    }

    fn apply(&mut self, event: Projected) -> Result<bool, Fault> {
        match *self.definition.fold() {
            Fold::Latest { .. } => self.apply_latest(event),
            Fold::History { limit, within_ms } => {
                let kept_from =
                    within_ms.map(|within| self.clock.saturating_sub(within.saturating_mul(2)));
                self.apply_history(&event, limit as usize, kept_from)
            }
            // Refused when the view was compiled.
            Fold::Aggregate { .. } => Ok(false),
        }
    }

    fn apply_latest(&mut self, event: Projected) -> Result<bool, Fault> {
        let key = event.key.clone();
        let former = match self.entries.get(&key) {
            Some(Entry::Latest(former)) => Some(former),
            _ => None,
        };
        match latest::next(&self.definition, former, event)? {
            latest::Outcome::Unchanged => Ok(false),
            latest::Outcome::Gone => {
                self.remove(&key);
                self.dirty.insert(key);
                Ok(true)
            }
            latest::Outcome::Put(entry) => {
                self.put_latest(key.clone(), entry);
                self.dirty.insert(key);
                Ok(true)
            }
        }
    }

    fn apply_history(
        &mut self,
        event: &Projected,
        limit: usize,
        kept_from: Option<i64>,
    ) -> Result<bool, Fault> {
        let Change::Put(value) = &event.change else {
            let known = self.remove(&event.key);
            if known {
                self.dirty.insert(event.key.clone());
            }
            return Ok(known);
        };
        let mut entry = match self.entries.remove(&event.key) {
            Some(Entry::History(entry)) => entry,
            _ => history::Entry::default(),
        };
        let former = entry.bytes();
        let known = former > 0;
        let added = entry.add(value, event, limit, kept_from);
        if known || matches!(added, Ok(true)) {
            self.bytes += entry.bytes();
            self.bytes -= former;
            if !known {
                self.bytes += event.key.as_bytes().len();
            }
            self.entries
                .insert(event.key.clone(), Entry::History(entry));
        }
        if matches!(added, Ok(true)) {
            self.dirty.insert(event.key.clone());
        }
        added
    }

    fn put_latest(&mut self, key: Key, entry: latest::Entry) {
        self.remove(&key);
        for (place, index_key) in &entry.index_keys {
            if let Some(index) = self.indexes.get_mut(*place) {
                index
                    .entry(index_key.clone())
                    .or_default()
                    .insert(key.clone());
            }
        }
        self.bytes += key.as_bytes().len() + entry.value.len();
        self.entries.insert(key, Entry::Latest(entry));
    }

    /// Takes a key out of entries and indexes; whether it was there.
    fn remove(&mut self, key: &Key) -> bool {
        let size = match self.entries.remove(key) {
            None => return false,
            Some(Entry::History(entry)) => entry.bytes(),
            Some(Entry::Latest(entry)) => {
                for (place, index_key) in &entry.index_keys {
                    if let Some(index) = self.indexes.get_mut(*place)
                        && let Some(keys) = index.get_mut(index_key)
                    {
                        keys.remove(key);
                        if keys.is_empty() {
                            index.remove(index_key);
                        }
                    }
                }
                entry.value.len()
            }
        };
        self.bytes -= key.as_bytes().len() + size;
        true
    }

    /// Takes one record of the state topic, in offset order: a value, a tombstone or the mark.
    ///
    /// # Errors
    /// `InvalidInternalRecord` where it is not what a checkpoint of this view writes.
    pub fn restore(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let key = record.key.ok_or_else(|| invalid("key"))?;
        if key == names::MARK_KEY {
            let mark: Mark = record
                .value
                .and_then(|bytes| serde_json::from_slice(bytes).ok())
                .ok_or_else(|| invalid("mark"))?;
            self.next = mark.next;
            self.marked = mark.next;
            self.at = mark.at;
            self.clock = mark.clock;
            self.cover(mark.covered);
            return Ok(());
        }
        let key = Key::from_bytes(key)?.ok_or_else(|| invalid("key"))?;
        let Some(bytes) = record.value else {
            self.remove(&key);
            return Ok(());
        };
        if self.definition.is_history() {
            let entry = history::Entry::restore(record, bytes)?;
            self.remove(&key);
            self.bytes += key.as_bytes().len() + entry.bytes();
            self.entries.insert(key, Entry::History(entry));
        } else {
            let entry = latest::Entry::restore(&self.definition, &key, record, bytes)?;
            self.put_latest(key, entry);
        }
        Ok(())
    }

    /// What has to be written to the state topic, in one transaction, for it to be this state: each changed key once, in key order,
    /// then the mark. Empty where nothing moved.
    pub fn checkpoint(&self) -> Vec<NewRecord> {
        if !self.moved() {
            return Vec::new();
        }
        let topic = self.definition.state_topic();
        let record = |key: &[u8], value, headers| NewRecord {
            topic: topic.to_owned(),
            partition: Some(self.partition),
            key: Some(key.to_vec()),
            value,
            headers,
            timestamp: None,
        };
        let mut records: Vec<NewRecord> = self
            .dirty
            .iter()
            .map(|key| match self.entries.get(key) {
                None => record(key.as_bytes(), None, Vec::new()),
                Some(entry) => {
                    let (value, time, origin, state) = entry.parts();
                    let mut headers = provenance_headers(origin, time);
                    headers
                        .extend(state.map(|state| (names::header::STATE.to_owned(), Some(state))));
                    record(key.as_bytes(), Some(value), headers)
                }
            })
            .collect();
        let mark = Mark {
            next: self.next,
            at: self.at,
            clock: self.clock,
            covered: self.coverage(),
        };
        // These types always have a JSON form.
        let mark = serde_json::to_vec(&mark).unwrap_or_default();
        records.push(record(names::MARK_KEY, Some(mark), Vec::new()));
        records
    }

    /// What [`Partition::checkpoint`] gave was committed.
    pub fn checkpointed(&mut self) {
        self.dirty.clear();
        self.marked = self.next;
    }

    fn coverage(&self) -> Vec<Covered> {
        match self.definition.input() {
            Input::Source { .. } => vec![Covered {
                from: 0,
                partition: self.partition,
                next: self.next,
                time: self.clock,
                idle: false,
            }],
            Input::Own { .. } => self.covered.values().copied().collect(),
        }
    }

    pub(super) fn get(&self, key: &Key, _at: i64) -> Option<Row> {
        match self.entries.get(key) {
            Some(Entry::Latest(entry)) if entry.visible => {
                Some(self.row(key, &entry.value, entry.time, entry.origin))
            }
            _ => None,
        }
    }

    pub(super) fn events(&self, key: &Key, after: Option<i64>) -> impl Iterator<Item = Row> {
        let entry = match self.entries.get(key) {
            Some(Entry::History(entry)) => Some(entry),
            _ => None,
        };
        entry.into_iter().flat_map(move |entry| {
            entry
                .younger_than(after)
                .map(|event| self.row(key, &event.value, event.time, event.origin))
        })
    }

    pub(super) fn indexed(&self, index: usize, key: &Key) -> impl Iterator<Item = &Key> {
        self.indexes
            .get(index)
            .and_then(|index| index.get(key))
            .into_iter()
            .flatten()
    }

    pub(super) fn all_keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    fn row(&self, key: &Key, value: &[u8], time: i64, origin: Origin) -> Row {
        Row {
            key: key.clone(),
            value: latest::decode(value),
            position: Position {
                topic: self
                    .definition
                    .source_topic(origin.from)
                    .cloned()
                    .unwrap_or_default(),
                partition: origin.partition,
                offset: origin.offset,
            },
            time,
        }
    }
}

/// Two partitions hold the same state: values, provenance, indexes, position and clock. What is not yet checkpointed may differ.
impl PartialEq for Partition {
    fn eq(&self, other: &Self) -> bool {
        self.partition == other.partition
            && self.next == other.next
            && self.clock == other.clock
            && self.coverage() == other.coverage()
            && self.entries == other.entries
            && self.indexes == other.indexes
            && self.bytes == other.bytes
    }
}

impl Entry {
    fn parts(&self) -> (Vec<u8>, i64, Origin, Option<Vec<u8>>) {
        match self {
            Self::Latest(entry) => (
                entry.value.to_vec(),
                entry.time,
                entry.origin,
                entry.state_header(),
            ),
            Self::History(entry) => {
                let (time, origin) = entry.newest().unwrap_or((
                    i64::MIN,
                    Origin {
                        from: 0,
                        partition: 0,
                        offset: 0,
                    },
                ));
                (entry.value(), time, origin, entry.state_header())
            }
        }
    }
}

/// A record that the intake wrote.
fn read_projected(record: &Record<'_>) -> Result<Projected, Fault> {
    let key = record
        .key
        .map(Key::from_bytes)
        .transpose()?
        .flatten()
        .ok_or_else(|| invalid("key"))?;
    let (origin, time) = provenance(record)?;
    let change = match record.value {
        None => Change::Drop,
        Some(bytes) => Change::Put(serde_json::from_slice::<Value>(bytes).map_err(|_| {
            Fault::new(
                Reason::InvalidInternalRecord,
                "the projected value is not JSON",
            )
        })?),
    };
    Ok(Projected {
        key,
        change,
        time,
        origin,
    })
}
