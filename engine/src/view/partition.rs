//! The state of one input partition: a pure function of its records below [`Partition::next`].
//!
//! Folding, restoring from a state topic and writing to it meet here. Invariants: an event is folded whole or not at all; the
//! state is the same whatever checkpoints were taken on the way; no clock is read.

use super::Row;
use super::aggregate::Applied;
use super::changes::{self, Changed};
use super::definition::{Change, Definition, Projected};
use super::origin::{Covered, Mark, Origin, invalid, provenance};
use super::rows::Rows;
use crate::config::{Fold, Input};
use crate::fault::Fault;
use crate::json::scan::Scanner;
use crate::json::{self, Document};
use crate::key::{Key, Text};
use crate::lookup::NoViews;
use crate::names;
use crate::record::{NewRecord, Position, Record};
use crate::source::Lent;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub struct Partition {
    definition: Arc<Definition>,
    partition: i32,
    rows: Rows,
    scanner: Scanner,
    next: i64,
    /// What the last mark written or read said, so that nothing is written when nothing moved.
    marked: i64,
    /// Timestamp of the last record.
    at: i64,
    clock: i64,
    covered: BTreeMap<(u32, i32), Covered>,
}

/// What became of one record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folded {
    /// A value is another one now.
    pub changed: bool,
    /// The event came too late to be kept: for a window of an aggregate, or for a key that would have expired.
    pub late: bool,
    /// The record was refused; the state is as before, the record counts as read.
    pub fault: Option<Fault>,
}

impl Partition {
    pub fn new(definition: Arc<Definition>, partition: i32) -> Self {
        Self {
            rows: Rows::new(&definition),
            scanner: Scanner::default(),
            definition,
            partition,
            next: 0,
            marked: 0,
            at: -1,
            clock: i64::MIN,
            covered: BTreeMap::new(),
        }
    }

    /// The offset of the input that is to be folded next.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Timestamp of the newest record that was folded, milliseconds since the epoch; -1 before any.
    pub fn read_at(&self) -> i64 {
        self.at
    }

    /// Event time that the fold has reached, milliseconds; `i64::MIN` before any event.
    pub fn clock(&self) -> i64 {
        self.clock
    }

    pub fn keys(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    /// Bytes of memory that keys, values, provenance and the way to find them take; indexes are not among them.
    pub fn held_bytes(&self) -> usize {
        self.rows.held()
    }

    /// Keys that a checkpoint would write.
    pub fn dirty(&self) -> usize {
        self.rows.dirty()
    }

    /// Whether a checkpoint would write anything, a mark included.
    pub fn moved(&self) -> bool {
        self.next != self.marked || self.rows.dirty() > 0
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
        self.fold_into(record, None)
    }

    /// As [`Partition::fold`], and what is to be written to the view's changes topic, if it has one: one record, if
    /// the event changed the row of its key. It belongs into one transaction with a checkpoint that holds the change.
    pub fn fold_telling(&mut self, record: &Record<'_>) -> (Folded, Option<NewRecord>) {
        let definition = Arc::clone(&self.definition);
        let Some(topic) = definition.changes_topic() else {
            return (self.fold(record), None);
        };
        let mut told = None;
        let folded = self.fold_into(record, Some(&mut told));
        let change = told.map(|changed| {
            let root = self.source_position(changed.origin);
            changed.record(topic, self.partition, record, &root)
        });
        (folded, change)
    }

    fn fold_into(&mut self, record: &Record<'_>, told: Option<&mut Option<Changed>>) -> Folded {
        if !self.begin(record) {
            return Folded::default();
        }
        let folded = match self.definition.input() {
            Input::Source { .. } => {
                let mut event = self.definition.lend(0, record, &mut self.scanner);
                let event = event.as_mut().map_err(|fault| fault.clone());
                fold_event(
                    &self.definition,
                    &mut self.rows,
                    &mut self.clock,
                    event,
                    told,
                )
            }
            Input::Own { .. } if record.key == Some(names::MARK_KEY) => self.take_covered(record),
            Input::Own { .. } => self.fold_projected(record, told),
        };
        folded.into()
    }

    /// Takes note that a record is folded now; whether it was not before.
    fn begin(&mut self, record: &Record<'_>) -> bool {
        if record.offset < self.next {
            return false;
        }
        self.next = record.offset + 1;
        self.at = record.timestamp;
        true
    }

    /// Folds a record that the intake wrote.
    fn fold_projected(
        &mut self,
        record: &Record<'_>,
        told: Option<&mut Option<Changed>>,
    ) -> Result<Applied, Fault> {
        let key = record
            .key
            .map(Text::from_bytes)
            .transpose()?
            .flatten()
            .ok_or_else(|| invalid("key"))?;
        let (origin, time) = provenance(record)?;
        let document = record
            .value
            .map(|bytes| Document::read(bytes, &mut self.scanner))
            .transpose()
            .map_err(|_| invalid("value"))?;
        let event = Projected {
            key,
            change: match &document {
                Some(document) => Change::Put(document),
                None => Change::Drop,
            },
            time,
            origin,
        };
        changes::apply(&self.definition, &mut self.rows, &event, self.clock, told)
    }

    fn take_covered(&mut self, record: &Record<'_>) -> Result<Applied, Fault> {
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
        Ok(Applied {
            changed: self.rows.forget(&self.definition, self.clock),
            late: false,
        })
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
        let key = Text::from_bytes(key)?.ok_or_else(|| invalid("key"))?;
        self.rows.restore(&self.definition, key.as_str(), record)
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
            .rows
            .changed(&self.definition)
            .into_iter()
            .map(|row| record(row.key.as_bytes(), row.value, row.headers))
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
        self.rows.clean();
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

    /// The row of a key as of `at`, of a view that is no history.
    pub(super) fn get(&self, key: &Key, at: i64) -> Option<Row> {
        if self.rows.is_gone(key, at) {
            return None;
        }
        if let Some(aggregate) = self.definition.aggregate() {
            let entry = self.rows.aggregated(key.as_str())?;
            let (time, origin) = entry.newest();
            return Some(self.row(key, entry.value(aggregate, at), time, origin));
        }
        let found = self.rows.get(key.as_str())?;
        Some(self.row(key, json::parse(found.value), found.time, found.origin))
    }

    /// The events of a key of a history as of `at`, newest first: those of its window, if it has one.
    pub(super) fn events(&self, key: &Key, at: i64) -> impl Iterator<Item = Row> {
        let after = match *self.definition.fold() {
            Fold::History { within_ms, .. } => within_ms.map(|within| at.saturating_sub(within)),
            _ => None,
        };
        let there = !self.rows.is_gone(key, at);
        self.rows
            .events(key.as_str())
            .take_while(move |event| there && after.is_none_or(|after| event.time > after))
            .map(|event| self.row(key, json::parse(event.value), event.time, event.origin))
    }

    pub(super) fn indexed(&self, index: usize, key: &Key) -> impl Iterator<Item = &Key> {
        self.rows.indexed(index, key)
    }

    /// In no order.
    pub(super) fn all_keys(&self) -> impl Iterator<Item = &str> {
        self.rows.keys()
    }

    fn row(&self, key: &Key, value: Value, time: i64, origin: Origin) -> Row {
        Row {
            key: key.clone(),
            value,
            position: self.source_position(origin),
            time,
        }
    }

    fn source_position(&self, origin: Origin) -> Position {
        Position {
            topic: self
                .definition
                .source_topic(origin.from)
                .cloned()
                .unwrap_or_default(),
            partition: origin.partition,
            offset: origin.offset,
        }
    }
}

/// Folds one record into the states of several views, as [`Partition::fold`] does with each, and hands over what became of it, by the
/// state's place. It is decoded once for all that read the source in the same way.
pub fn fold_each(
    states: &mut [&mut Partition],
    record: &Record<'_>,
    then: &mut dyn FnMut(usize, Folded),
) {
    let shares = |state: &Partition| matches!(state.definition.input(), Input::Source { .. });
    let Some(first) = states
        .iter()
        .position(|state| shares(state) && record.offset >= state.next)
    else {
        for (place, state) in states.iter_mut().enumerate() {
            then(place, state.fold(record));
        }
        return;
    };
    let (definition, mut scanner) = match states.get_mut(first) {
        Some(state) => (
            Arc::clone(&state.definition),
            std::mem::take(&mut state.scanner),
        ),
        None => return,
    };
    let mut event = definition.lend(0, record, &mut scanner);
    for (place, state) in states.iter_mut().enumerate() {
        let same =
            Arc::ptr_eq(&state.definition, &definition) || state.definition.lends_as(&definition);
        if !shares(state) || !same {
            then(place, state.fold(record));
        } else if state.begin(record) {
            let event = event.as_mut().map_err(|fault| fault.clone());
            let folded = fold_event(
                &state.definition,
                &mut state.rows,
                &mut state.clock,
                event,
                None,
            );
            then(place, folded.into());
        } else {
            then(place, Folded::default());
        }
    }
    drop(event);
    if let Some(state) = states.get_mut(first) {
        state.scanner = scanner;
    }
}

/// Folds an event of the source that is the input log.
fn fold_event(
    definition: &Definition,
    rows: &mut Rows,
    clock: &mut i64,
    event: Result<&mut Lent<'_>, Fault>,
    told: Option<&mut Option<Changed>>,
) -> Result<Applied, Fault> {
    let folded = definition.project(0, event, &NoViews, |event| {
        *clock = (*clock).max(event.time);
        changes::apply(definition, rows, &event, *clock, told)
    });
    folded?.unwrap_or(Ok(Applied::default()))
}

impl From<Result<Applied, Fault>> for Folded {
    fn from(folded: Result<Applied, Fault>) -> Self {
        match folded {
            Ok(Applied { changed, late }) => Self {
                changed,
                late,
                fault: None,
            },
            Err(fault) => Self {
                fault: Some(fault),
                ..Self::default()
            },
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
            && self.rows == other.rows
    }
}
