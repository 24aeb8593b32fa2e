//! The indexes of a partition: for each, index key -> keys.

use crate::key::Key;
use std::collections::{BTreeMap, BTreeSet};

/// Where a row stands: places of indexes with index keys, each once.
pub(super) type Places = BTreeSet<(usize, Key)>;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Indexes(Vec<BTreeMap<Key, BTreeSet<Key>>>);

impl Indexes {
    pub(super) fn new(count: usize) -> Self {
        Self(vec![BTreeMap::new(); count])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Moves a row from where it stood to where it stands.
    pub(super) fn replace(&mut self, key: &Key, former: &Places, now: Places) {
        for (place, index_key) in former.difference(&now) {
            if let Some(index) = self.0.get_mut(*place)
                && let Some(keys) = index.get_mut(index_key)
            {
                keys.remove(key);
                if keys.is_empty() {
                    index.remove(index_key);
                }
            }
        }
        for (place, index_key) in now {
            if !former.contains(&(place, index_key.clone()))
                && let Some(index) = self.0.get_mut(place)
            {
                index.entry(index_key).or_default().insert(key.clone());
            }
        }
    }

    pub(super) fn keys(&self, place: usize, index_key: &Key) -> impl Iterator<Item = &Key> {
        self.0
            .get(place)
            .and_then(|index| index.get(index_key))
            .into_iter()
            .flatten()
    }
}
