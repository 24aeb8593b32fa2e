//! The rows of one partition, in the store that suits the view's fold.
//!
//! Each fold has its own file; here is what all have in common: to be folded, restored, read, written to the state topic, compared.

use super::arena::Address;
use super::definition::{Definition, Projected};
use super::history::{self, Bounds};
use super::indexes::Indexes;
use super::latest;
use super::origin::{Origin, provenance_headers};
use super::slots::Slots;
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
    room: history::Room,
}

#[derive(Debug)]
enum Store {
    Latest(Slots),
    History(Slots),
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
                _ => Store::Latest(Slots::default()),
            },
            indexes: Indexes::new(definition.index_count()),
            room: history::Room::default(),
        }
    }

    /// Folds an event; whether anything changed. `clock` is that of the fold, this event included.
    ///
    /// # Errors
    /// The event's fault; nothing has changed then.
    pub(super) fn apply(
        &mut self,
        definition: &Definition,
        event: &Projected<'_>,
        clock: i64,
    ) -> Result<bool, Fault> {
        match (definition.fold(), &mut self.store) {
            (Fold::Latest { .. }, Store::Latest(slots)) => latest::Rows {
                definition,
                slots,
                indexes: &mut self.indexes,
            }
            .apply(event, &mut self.room.bytes),
            (Fold::History { limit, within_ms }, Store::History(slots)) => {
                let kept_from =
                    within_ms.map(|within| clock.saturating_sub(within.saturating_mul(2)));
                let bounds = Bounds {
                    limit: *limit as usize,
                    kept_from,
                };
                history::apply(slots, event, bounds, &mut self.room)
            }
            // Refused when the view was compiled.
            _ => Ok(false),
        }
    }

    /// Takes a key out, as a tombstone of the state topic says.
    pub(super) fn remove(&mut self, definition: &Definition, key: &str) {
        match &mut self.store {
            Store::Latest(slots) => {
                latest::Rows {
                    definition,
                    slots,
                    indexes: &mut self.indexes,
                }
                .remove(key);
            }
            Store::History(slots) => {
                history::remove(slots, key);
            }
        }
    }

    /// Takes a value of the state topic.
    ///
    /// # Errors
    /// `InvalidInternalRecord`.
    pub(super) fn restore(
        &mut self,
        definition: &Definition,
        key: &str,
        record: &Record<'_>,
        value: &[u8],
    ) -> Result<(), Fault> {
        match &mut self.store {
            Store::Latest(slots) => latest::Rows {
                definition,
                slots,
                indexes: &mut self.indexes,
            }
            .restore(key, record, value),
            Store::History(slots) => history::restore(slots, key, record, value, &mut self.room),
        }
    }

    fn slots(&self) -> &Slots {
        match &self.store {
            Store::Latest(slots) | Store::History(slots) => slots,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots().len()
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> usize {
        self.slots().bytes
    }

    /// Bytes of memory that keys, values, provenance and the way to find them take; indexes are not among them.
    pub(super) fn held(&self) -> usize {
        self.slots().held()
    }

    pub(super) fn dirty(&self) -> usize {
        self.slots().dirty()
    }

    pub(super) fn clean(&mut self) {
        match &mut self.store {
            Store::Latest(slots) | Store::History(slots) => slots.clean(),
        }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.slots().keys()
    }

    pub(super) fn indexed(&self, index: usize, key: &Key) -> impl Iterator<Item = &Key> {
        self.indexes.keys(index, key)
    }

    /// The value of a key of a view that is no history.
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
            Store::Latest(_) => None,
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

    /// The keys that the state topic does not hold as they are, in order.
    pub(super) fn changed(&self) -> Vec<Written<'_>> {
        let slots = self.slots();
        slots
            .changed()
            .into_iter()
            .map(|(key, at)| match at {
                None => Written {
                    key,
                    value: None,
                    headers: Vec::new(),
                },
                Some(at) => self.written(slots, key, at),
            })
            .collect()
    }

    fn written<'a>(&self, slots: &'a Slots, key: &'a str, at: Address) -> Written<'a> {
        let content = slots.content(at);
        let (value, state) = match &self.store {
            Store::Latest(_) => (content.value.to_vec(), content.more.to_vec()),
            Store::History(_) => history::state(slots, at),
        };
        let mut headers = provenance_headers(content.origin, content.time);
        if !state.is_empty() {
            headers.push((header::STATE.to_owned(), Some(state)));
        }
        Written {
            key,
            value: Some(value),
            headers,
        }
    }
}

/// Two partitions hold the same rows, provenance included; what is not yet written may differ.
impl PartialEq for Rows {
    fn eq(&self, other: &Self) -> bool {
        let (left, right) = (self.slots(), other.slots());
        let history = matches!(self.store, Store::History(_));
        left.len() == right.len()
            && left.bytes == right.bytes
            && self.indexes == other.indexes
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
