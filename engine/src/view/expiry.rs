//! When the keys of a view end: so long after their last event, by event time.
//!
//! A reader at T sees keys whose last event is younger than T less the expiry. The fold forgets a key once its last event is older than
//! twice the expiry, by the fold's clock, so that a reader behind it by as much as the expiry still finds all it should. An event that
//! comes when a key was gone already, by the event's own time, begins it anew.
//!
//! Invariant: which keys are there is a function of the events and the clock, not of when anybody looked.

use crate::key::Key;
use std::collections::{BTreeSet, HashMap};

#[derive(Debug)]
pub(super) struct Expiry {
    after: i64,
    /// Of each key, the highest event time of its events.
    last: HashMap<Key, i64>,
    by_time: BTreeSet<(i64, Key)>,
}

/// What an event means for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The key was there, or never was.
    Goes,
    /// The key was gone when the event happened: it begins anew.
    Anew,
    /// The key is not there, and would be forgotten at once.
    Late,
}

impl Expiry {
    /// `after`: milliseconds.
    pub(super) fn new(after: i64) -> Self {
        Self {
            after,
            last: HashMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    pub(super) fn arrival(&self, key: &Key, time: i64, clock: i64) -> Arrival {
        match self.last.get(key) {
            Some(last) if time.saturating_sub(*last) >= self.after => Arrival::Anew,
            Some(_) => Arrival::Goes,
            None if time < self.kept_from(clock) => Arrival::Late,
            None => Arrival::Goes,
        }
    }

    /// Takes note of an event of a key that is there. Gives whether the key lives longer by it.
    pub(super) fn note(&mut self, key: &Key, time: i64) -> bool {
        match self.last.get_mut(key) {
            Some(last) if *last >= time => return false,
            Some(last) => {
                let former = std::mem::replace(last, time);
                self.by_time.remove(&(former, key.clone()));
            }
            None => {
                self.last.insert(key.clone(), time);
            }
        }
        self.by_time.insert((time, key.clone()));
        true
    }

    /// A key is gone, for whatever reason.
    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(last) = self.last.remove(key) {
            self.by_time.remove(&(last, key.clone()));
        }
    }

    /// Event time of a key's last event.
    pub(super) fn last(&self, key: &Key) -> Option<i64> {
        self.last.get(key).copied()
    }

    /// Whether a reader at `at` does not see the key any more.
    pub(super) fn is_gone(&self, key: &Key, at: i64) -> bool {
        let seen = |last: &i64| *last > at.saturating_sub(self.after);
        !self.last.get(key).is_some_and(seen)
    }

    /// Takes out the next key that the fold forgets, by its clock.
    pub(super) fn next_forgotten(&mut self, clock: i64) -> Option<Key> {
        let kept_from = self.kept_from(clock);
        if self.by_time.first()?.0 >= kept_from {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.last.remove(&key);
        Some(key)
    }

    fn kept_from(&self, clock: i64) -> i64 {
        clock.saturating_sub(self.after.saturating_mul(2))
    }
}

/// Which keys there are is what counts; the order by time follows from it.
impl PartialEq for Expiry {
    fn eq(&self, other: &Self) -> bool {
        self.after == other.after && self.last == other.last
    }
}
