//! The rows of a partition whose fold keeps structures of its own: a map of keys, with those that the state topic does not hold yet.
//!
//! Invariants: `dirty` holds every key whose row is marked, `gone` every key that is no longer there.

use crate::key::Key;
use hashbrown::HashMap;
use std::collections::BTreeSet;

#[derive(Debug)]
pub(super) struct Table<E> {
    rows: HashMap<Key, Row<E>>,
    /// Keys of rows that are marked; some twice, some of rows that went.
    dirty: Vec<Key>,
    marked: usize,
    gone: BTreeSet<Key>,
    /// Bytes of keys and values, which the fold counts.
    pub(super) bytes: usize,
}

#[derive(Debug)]
struct Row<E> {
    entry: E,
    dirty: bool,
}

/// A row in its table.
#[derive(Debug)]
pub(super) struct Found<'a, E> {
    pub(super) entry: &'a mut E,
    key: &'a Key,
    is_dirty: &'a mut bool,
    dirty: &'a mut Vec<Key>,
    marked: &'a mut usize,
}

impl<E> Found<'_, E> {
    /// The row is to be written to the state topic.
    pub(super) fn mark(self) {
        if !*self.is_dirty {
            *self.is_dirty = true;
            self.dirty.push(self.key.clone());
            *self.marked += 1;
        }
    }
}

impl<E> Default for Table<E> {
    fn default() -> Self {
        Self {
            rows: HashMap::new(),
            dirty: Vec::new(),
            marked: 0,
            gone: BTreeSet::new(),
            bytes: 0,
        }
    }
}

impl<E> Table<E> {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn get(&self, key: &str) -> Option<&E> {
        self.rows.get(key).map(|row| &row.entry)
    }

    /// A row that may be changed and marked, looked up once.
    pub(super) fn find_mut(&mut self, key: &str) -> Option<Found<'_, E>> {
        let (key, row) = self.rows.get_key_value_mut(key)?;
        Some(Found {
            entry: &mut row.entry,
            key,
            is_dirty: &mut row.dirty,
            dirty: &mut self.dirty,
            marked: &mut self.marked,
        })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.rows.keys().map(Key::as_str)
    }

    /// Puts an entry in, which is not marked by that.
    pub(super) fn insert(&mut self, key: Key, entry: E) {
        self.remove(key.as_str());
        self.gone.remove(&key);
        self.rows.insert(
            key,
            Row {
                entry,
                dirty: false,
            },
        );
    }

    /// Takes a row out; the state topic keeps it until [`Table::mark_gone`].
    pub(super) fn remove(&mut self, key: &str) -> Option<E> {
        let row = self.rows.remove(key)?;
        self.marked -= usize::from(row.dirty);
        Some(row.entry)
    }

    /// The key is to be deleted in the state topic.
    pub(super) fn mark_gone(&mut self, key: Key) {
        self.gone.insert(key);
    }

    /// The row is to be written to the state topic.
    pub(super) fn mark(&mut self, key: &str) {
        if let Some(row) = self.find_mut(key) {
            row.mark();
        }
    }

    /// How many keys are to be written or deleted.
    pub(super) fn dirty(&self) -> usize {
        self.marked + self.gone.len()
    }

    /// The keys that are to be written, with their entries, and those to be deleted, without; in order.
    pub(super) fn changed(&self) -> Vec<(&str, Option<&E>)> {
        let marked = self.dirty.iter().filter_map(|key| {
            let row = self.rows.get(key).filter(|row| row.dirty)?;
            Some((key.as_str(), Some(&row.entry)))
        });
        let gone = self.gone.iter().map(|key| (key.as_str(), None));
        let mut changed: Vec<(&str, Option<&E>)> = marked.chain(gone).collect();
        changed.sort_unstable_by_key(|(key, _)| *key);
        // A key may stand twice.
        changed.dedup_by_key(|(key, _)| *key);
        changed
    }

    /// All of it was written.
    pub(super) fn clean(&mut self) {
        for key in std::mem::take(&mut self.dirty) {
            if let Some(row) = self.rows.get_mut(&key) {
                row.dirty = false;
            }
        }
        self.marked = 0;
        self.gone.clear();
    }
}

/// Two tables hold the same rows; what is not yet written may differ.
impl<E: PartialEq> PartialEq for Table<E> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
            && self.rows.len() == other.rows.len()
            && self.rows.iter().all(|(key, row)| {
                other
                    .rows
                    .get(key)
                    .is_some_and(|other| row.entry == other.entry)
            })
    }
}
