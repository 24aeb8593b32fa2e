//! What one partition holds, for people who look: the view's stage answers from the partitions that it folds.

use super::{Partition, Row};
use crate::config::Fold;
use crate::key::Key;
use std::collections::BTreeSet;

impl Partition {
    /// The row of a key as of `at`, milliseconds of event time; of a history its events, newest first.
    pub fn rows(&self, key: &Key, at: i64) -> Vec<Row> {
        match *self.definition().fold() {
            Fold::History { limit, .. } => self.events(key, at).take(limit as usize).collect(),
            _ => self.get(key, at).into_iter().collect(),
        }
    }

    /// The first `limit` keys, in order.
    pub fn first_keys(&self, limit: usize) -> Vec<Key> {
        let mut first: BTreeSet<&str> = BTreeSet::new();
        for key in self.all_keys() {
            if first.len() < limit {
                first.insert(key);
            } else if first.last().is_some_and(|last| key < *last) {
                first.pop_last();
                first.insert(key);
            }
        }
        super::rows::sorted(first.into_iter()).into_iter().collect()
    }
}
