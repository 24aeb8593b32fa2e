//! The rows of one partition, in the store that suits the view's fold.
//!
//! Each fold has its own file; here is what all have in common: to be folded, restored, read, written to the state topic, compared.

use super::aggregate::{self, Applied};
use super::arena::Address;
use super::definition::{Change, Definition, Projected};
use super::expiry::{Arrival, Expiry};
use super::history::{self, Bounds};
use super::indexes::Indexes;
use super::latest;
use super::origin::{self, Origin, provenance_headers};
use super::slots::Slots;
use super::table::Table;
use crate::config::Fold;
use crate::fault::Fault;
use crate::key::Key;
use crate::names::header;
use crate::record::Record;
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct Rows {
    store: Store,
    indexes: Indexes,
    /// Of a view whose keys expire.
    expiry: Option<Expiry>,
    room: history::Room,
    takes: Vec<aggregate::Taken>,
}

#[derive(Debug)]
enum Store {
    Latest(Slots),
    History(Slots),
    Aggregate(Table<aggregate::Entry>),
}

/// A value with its provenance, as a reader finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    /// JSON.
    pub(super) value: &'a [u8],
    pub(super) time: i64,
    pub(super) origin: Origin,
}

/// A key as a checkpoint writes it.
#[derive(Debug)]
pub(super) struct Written<'a> {
    pub(super) key: &'a str,
    /// `None`: the key goes.
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Rows {
    pub(super) fn new(definition: &Definition) -> Self {
        Self {
            store: match definition.fold() {
                Fold::History { .. } => Store::History(Slots::default()),
                Fold::Latest { .. } => Store::Latest(Slots::default()),
                Fold::Aggregate { .. } => Store::Aggregate(Table::default()),
            },
            indexes: Indexes::new(definition.index_count()),
            expiry: definition.expire_after().map(Expiry::new),
            room: history::Room::default(),
            takes: Vec::new(),
        }
    }

    /// Folds an event. `clock` is that of the fold, this event included.
    ///
    /// # Errors
    /// The event's fault; of its key nothing has changed then.
    pub(super) fn apply(
        &mut self,
        definition: &Definition,
        event: &Projected<'_>,
        clock: i64,
    ) -> Result<Applied, Fault> {
        if self.expiry.is_none() {
            return self.apply_event(definition, event, clock);
        }
        let forgotten = self.forget(definition, clock);
        let mut applied = self.apply_expiring(definition, event, clock)?;
        applied.changed |= forgotten;
        Ok(applied)
    }

    fn apply_expiring(
        &mut self,
        definition: &Definition,
        event: &Projected<'_>,
        clock: i64,
    ) -> Result<Applied, Fault> {
        let key = event.key.to_key();
        let arrival = match &self.expiry {
            Some(expiry) => expiry.arrival(&key, event.time, clock),
            None => Arrival::Goes,
        };
        match arrival {
            Arrival::Late => {
                return Ok(Applied {
                    changed: false,
                    late: matches!(event.change, Change::Put(_)),
                });
            }
            Arrival::Anew => {
                // What the event's fault would be shows before the former row goes.
                Self::new(definition).apply_event(definition, event, clock)?;
                self.delete(definition, &key);
            }
            Arrival::Goes => {}
        }
        let applied = self.apply_event(definition, event, clock)?;
        let there = self.contains(key.as_str());
        if let Some(expiry) = &mut self.expiry {
            if !there {
                expiry.forget(&key);
            } else if expiry.note(&key, event.time) && !applied.changed {
                self.mark(key.as_str());
            }
        }
        Ok(applied)
    }

    /// Forgets the keys that expired long enough ago; whether there were any.
    pub(super) fn forget(&mut self, definition: &Definition, clock: i64) -> bool {
        let mut any = false;
        while let Some(key) = self
            .expiry
            .as_mut()
            .and_then(|expiry| expiry.next_forgotten(clock))
        {
            self.delete(definition, &key);
            any = true;
        }
        any
    }

    fn apply_event(
        &mut self,
        definition: &Definition,
        event: &Projected<'_>,
        clock: i64,
    ) -> Result<Applied, Fault> {
        let changed = match (definition.fold(), &mut self.store) {
            (Fold::Latest { .. }, Store::Latest(slots)) => latest::Rows {
                definition,
                slots,
                indexes: &mut self.indexes,
            }
            .apply(event, &mut self.room.bytes)?,
            (Fold::History { limit, within_ms }, Store::History(slots)) => {
                let kept_from =
                    within_ms.map(|within| clock.saturating_sub(within.saturating_mul(2)));
                let bounds = Bounds {
                    limit: *limit as usize,
                    kept_from,
                };
                history::apply(slots, event, bounds, &mut self.room)?
            }
            (_, Store::Aggregate(table)) => {
                if let Some(aggregate) = definition.aggregate() {
                    return aggregate::Rows {
                        definition,
                        aggregate,
                        table,
                        indexes: &mut self.indexes,
                    }
                    .apply(event, clock, &mut self.takes);
                }
                false
            }
            // The store is made for the fold.
            _ => false,
        };
        Ok(Applied {
            changed,
            late: false,
        })
    }

    /// Takes a key out, and has it deleted in the state topic.
    fn delete(&mut self, definition: &Definition, key: &Key) {
        if !self.remove(definition, key.as_str()) {
            return;
        }
        match &mut self.store {
            Store::Latest(slots) | Store::History(slots) => slots.mark_gone(key.clone()),
            Store::Aggregate(table) => table.mark_gone(key.clone()),
        }
    }

    fn contains(&self, key: &str) -> bool {
        match &self.store {
            Store::Latest(slots) | Store::History(slots) => {
                slots.find(slots.hash(key), key).is_some()
            }
            Store::Aggregate(table) => table.get(key).is_some(),
        }
    }

    fn mark(&mut self, key: &str) {
        match &mut self.store {
            Store::Latest(slots) | Store::History(slots) => {
                let hash = slots.hash(key);
                if let Some(at) = slots.find(hash, key) {
                    slots.mark(hash, at);
                }
            }
            Store::Aggregate(table) => table.mark(key),
        }
    }

    /// Whether a reader at `at` does not see a key any more.
    pub(super) fn is_gone(&self, key: &Key, at: i64) -> bool {
        self.expiry
            .as_ref()
            .is_some_and(|expiry| expiry.is_gone(key, at))
    }

    /// Takes a key out, without a trace; whether it was there.
    fn remove(&mut self, definition: &Definition, key: &str) -> bool {
        let indexes = &mut self.indexes;
        if let Some(expiry) = &mut self.expiry
            && let Ok(Some(key)) = Key::from_text(key)
        {
            expiry.forget(&key);
        }
        match &mut self.store {
            Store::Latest(slots) => latest::Rows {
                definition,
                slots,
                indexes,
            }
            .remove(key),
            Store::History(slots) => history::remove(slots, key),
            Store::Aggregate(table) => definition.aggregate().is_some_and(|aggregate| {
                aggregate::Rows {
                    definition,
                    aggregate,
                    table,
                    indexes,
                }
                .remove(key)
            }),
        }
    }

    /// Takes a record of the state topic: a value, or a tombstone.
    ///
    /// # Errors
    /// `InvalidInternalRecord`.
    pub(super) fn restore(
        &mut self,
        definition: &Definition,
        key: &str,
        record: &Record<'_>,
    ) -> Result<(), Fault> {
        let Some(value) = record.value else {
            self.remove(definition, key);
            return Ok(());
        };
        let indexes = &mut self.indexes;
        match &mut self.store {
            Store::Latest(slots) => latest::Rows {
                definition,
                slots,
                indexes,
            }
            .restore(key, record, value)?,
            Store::History(slots) => history::restore(slots, key, record, value, &mut self.room)?,
            Store::Aggregate(table) => {
                if let Some(aggregate) = definition.aggregate() {
                    aggregate::Rows {
                        definition,
                        aggregate,
                        table,
                        indexes,
                    }
                    .restore(key, record)?;
                }
            }
        }
        if let Some(expiry) = &mut self.expiry
            && let Some(key) = Key::from_text(key)?
        {
            expiry.forget(&key);
            expiry.note(&key, origin::number(record, header::LAST)?);
        }
        Ok(())
    }

    /// The store of a view that is no aggregate.
    fn slots(&self) -> Option<&Slots> {
        match &self.store {
            Store::Latest(slots) | Store::History(slots) => Some(slots),
            Store::Aggregate(_) => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.store {
            Store::Latest(slots) | Store::History(slots) => slots.len(),
            Store::Aggregate(table) => table.len(),
        }
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> usize {
        match &self.store {
            Store::Latest(slots) | Store::History(slots) => slots.bytes,
            Store::Aggregate(table) => table.bytes,
        }
    }

    /// Bytes of memory that keys, values, provenance and the way to find them take; indexes are not among them.
    pub(super) fn held(&self) -> usize {
        match &self.store {
            Store::Latest(slots) | Store::History(slots) => slots.held(),
            Store::Aggregate(table) => table.bytes,
        }
    }

    pub(super) fn dirty(&self) -> usize {
        match &self.store {
            Store::Latest(slots) | Store::History(slots) => slots.dirty(),
            Store::Aggregate(table) => table.dirty(),
        }
    }

    pub(super) fn clean(&mut self) {
        match &mut self.store {
            Store::Latest(slots) | Store::History(slots) => slots.clean(),
            Store::Aggregate(table) => table.clean(),
        }
    }

    /// In no order.
    pub(super) fn keys(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.store {
            Store::Latest(slots) | Store::History(slots) => Box::new(slots.keys()),
            Store::Aggregate(table) => Box::new(table.keys()),
        }
    }

    pub(super) fn indexed(&self, index: usize, key: &Key) -> impl Iterator<Item = &Key> {
        self.indexes.keys(index, key)
    }

    /// The accumulators of a key of an aggregate.
    pub(super) fn aggregated(&self, key: &str) -> Option<&aggregate::Entry> {
        match &self.store {
            Store::Aggregate(table) => table.get(key),
            _ => None,
        }
    }

    /// The value of a key of a `latest` view.
    pub(super) fn get(&self, key: &str) -> Option<Found<'_>> {
        let Store::Latest(slots) = &self.store else {
            return None;
        };
        let content = slots.content(slots.find(slots.hash(key), key)?);
        (!content.hidden).then_some(Found {
            value: content.value,
            time: content.time,
            origin: content.origin,
        })
    }

    /// The events of a key of a history, newest first.
    pub(super) fn events(&self, key: &str) -> impl Iterator<Item = Found<'_>> {
        let slots = match &self.store {
            Store::History(slots) => Some(slots),
            _ => None,
        };
        slots
            .and_then(|slots| Some((slots, slots.find(slots.hash(key), key)?)))
            .into_iter()
            .flat_map(|(slots, at)| history::events(slots, at))
            .map(|event| Found {
                value: event.value,
                time: event.time,
                origin: event.origin,
            })
    }

    /// The keys that the state topic does not hold as they are, in order. An aggregate's value is that of its newest event's time: when
    /// it was written changes nothing of it.
    pub(super) fn changed(&self, definition: &Definition) -> Vec<Written<'_>> {
        match &self.store {
            Store::Latest(slots) | Store::History(slots) => slots
                .changed()
                .into_iter()
                .map(|(key, at)| match at {
                    None => Written::gone(key),
                    Some(at) => self.written(slots, key, at),
                })
                .collect(),
            Store::Aggregate(table) => table
                .changed()
                .into_iter()
                .map(|(key, entry)| match (entry, definition.aggregate()) {
                    (Some(entry), Some(aggregate)) => {
                        let (time, origin) = entry.newest();
                        let value = entry.value(aggregate, time).to_string().into_bytes();
                        self.row(key, value, entry.state(), origin, time)
                    }
                    _ => Written::gone(key),
                })
                .collect(),
        }
    }

    fn written<'a>(&self, slots: &'a Slots, key: &'a str, at: Address) -> Written<'a> {
        let content = slots.content(at);
        let (value, state) = match &self.store {
            Store::History(_) => history::state(slots, at),
            _ => (content.value.to_vec(), content.more.to_vec()),
        };
        self.row(key, value, state, content.origin, content.time)
    }

    fn row<'a>(
        &self,
        key: &'a str,
        value: Vec<u8>,
        state: Vec<u8>,
        origin: Origin,
        time: i64,
    ) -> Written<'a> {
        let mut headers = provenance_headers(origin, time);
        if !state.is_empty() {
            headers.push((header::STATE.to_owned(), Some(state)));
        }
        if let Some(expiry) = &self.expiry
            && let Ok(Some(key)) = Key::from_text(key)
            && let Some(last) = expiry.last(&key)
        {
            headers.push((header::LAST.to_owned(), Some(last.to_string().into_bytes())));
        }
        Written {
            key,
            value: Some(value),
            headers,
        }
    }
}

impl<'a> Written<'a> {
    fn gone(key: &'a str) -> Self {
        Self {
            key,
            value: None,
            headers: Vec::new(),
        }
    }
}

/// Two partitions hold the same rows, provenance included; what is not yet written may differ.
impl PartialEq for Rows {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
            && self.indexes == other.indexes
            && self.expiry == other.expiry
            && match (&self.store, &other.store) {
                (Store::Aggregate(left), Store::Aggregate(right)) => left == right,
                _ => match (self.slots(), other.slots()) {
                    (Some(left), Some(right)) => self.equal_slots(left, right),
                    _ => false,
                },
            }
    }
}

impl Rows {
    fn equal_slots(&self, left: &Slots, right: &Slots) -> bool {
        let history = matches!(self.store, Store::History(_));
        left.len() == right.len()
            && left.iter().all(|at| {
                let key = left.key(at);
                right.find(right.hash(key), key).is_some_and(|found| {
                    if history {
                        history::equal((left, at), (right, found))
                    } else {
                        left.content(at) == right.content(found)
                    }
                })
            })
    }
}

/// Keys in order, each once.
pub(super) fn sorted<'a>(keys: impl Iterator<Item = &'a str>) -> BTreeSet<Key> {
    // What is stored is a key.
    keys.filter_map(|key| Key::from_text(key).ok().flatten())
        .collect()
}
