//! What was said before, by trigger key (semantics 18).
//!
//! A turn is one record of the agent's conversation topic: its key is the trigger key, the byte 0 and
//! the turn's number in 8 big-endian bytes; its value is JSON. Turns beyond the wanted number, and
//! those that have expired, get tombstones in the transaction that adds a turn. The store holds the
//! turns of one partition of the trigger's log, and is changed only by what was committed:
//! [`Store::past`] says what a run may see and write, [`turn_records`] makes the records,
//! [`Store::apply`] comes after the commit.
//!
//! A run shows at most the wanted number. Where there would be more, the older half goes at once: the runs until
//! the next time begin with the same turns, so that a server's prompt cache holds all but what is new.
//!
//! Invariant: the store is a function of the topic's records, in whatever order keys come.

use crate::config;
use crate::fault::{Fault, Reason};
use crate::key::Key;
use crate::record::{NewRecord, Record};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Bytes after the trigger key: the separator and the number.
const SUFFIX: usize = 9;

/// One exchange: what the user said and what the agent answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    pub user: String,
    pub assistant: String,
    /// Event time of the trigger, milliseconds since the epoch.
    pub time: i64,
    /// The run that it comes from.
    pub run: String,
}

/// How much of a conversation is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub turns: usize,
    pub expire_after_ms: i64,
}

impl Limits {
    pub fn of(conversation: &config::Conversation) -> Self {
        Self {
            turns: conversation.turns as usize,
            expire_after_ms: conversation.expire_after_ms,
        }
    }

    /// The oldest turn that is shown to a run whose own would have the number `next`.
    fn first(&self, next: u64) -> u64 {
        let most = self.turns as u64;
        let half = (most / 2).max(1);
        next.saturating_sub(most).div_ceil(half) * half
    }
}

/// What a run sees of its key's conversation, and where its own turn would go. The default is that
/// of a key that never said anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Oldest first.
    pub turns: Vec<Arc<Turn>>,
    /// Number of the turn that comes next.
    pub next: u64,
    /// Numbers of the turns that go when the next one comes.
    pub ends: Vec<u64>,
}

/// A turn that is committed but not yet in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    pub key: Key,
    pub number: u64,
    pub turn: Arc<Turn>,
    pub ends: Vec<u64>,
}

/// The turns of one partition of the trigger's log.
#[derive(Debug)]
pub struct Store {
    limits: Limits,
    turns: HashMap<Key, BTreeMap<u64, Arc<Turn>>>,
}

impl Store {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            turns: HashMap::new(),
        }
    }

    /// Takes a record of the conversation topic, read in the log's order.
    ///
    /// # Errors
    /// `InvalidInternalRecord` for a record that no agent wrote; the store is as it was.
    pub fn restore(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let (key, number) = split(record)?;
        match record.value {
            None => self.remove(&key, number),
            Some(value) => {
                let turn = serde_json::from_slice(value)
                    .map_err(|_| invalid(record, "its value is no turn"))?;
                self.insert(key, number, Arc::new(turn));
            }
        }
        Ok(())
    }

    /// What a run of this key sees at `at`, the event time of its trigger in milliseconds: the newest
    /// turns, as many as [`Limits`] show, without the expired ones.
    pub fn past(&self, key: &Key, at: i64) -> Past {
        let Some(turns) = self.turns.get(key) else {
            return Past::default();
        };
        let oldest = at.saturating_sub(self.limits.expire_after_ms);
        let next = turns.last_key_value().map_or(0, |(last, _)| last + 1);
        let (first, staying) = (self.limits.first(next), self.limits.first(next + 1));
        Past {
            next,
            ends: turns
                .iter()
                .filter(|(number, turn)| **number < staying || turn.time < oldest)
                .map(|(number, _)| *number)
                .collect(),
            turns: turns
                .range(first..)
                .filter(|(_, turn)| turn.time >= oldest)
                .map(|(_, turn)| Arc::clone(turn))
                .collect(),
        }
    }

    /// Takes a turn whose transaction has been committed.
    pub fn apply(&mut self, appended: Appended) {
        for number in appended.ends {
            self.remove(&appended.key, number);
        }
        self.insert(appended.key, appended.number, appended.turn);
    }

    /// Keys that have said something.
    pub fn keys(&self) -> usize {
        self.turns.len()
    }

    fn insert(&mut self, key: Key, number: u64, turn: Arc<Turn>) {
        self.turns.entry(key).or_default().insert(number, turn);
    }

    fn remove(&mut self, key: &Key, number: u64) {
        if let Some(turns) = self.turns.get_mut(key) {
            turns.remove(&number);
            if turns.is_empty() {
                self.turns.remove(key);
            }
        }
    }
}

/// The records of a turn and of the tombstones that come with it, for one transaction.
pub fn turn_records(
    topic: &str,
    partition: i32,
    appended: &Appended,
) -> Result<Vec<NewRecord>, serde_json::Error> {
    let record = |number: u64, value: Option<Vec<u8>>| NewRecord {
        topic: topic.to_owned(),
        partition: Some(partition),
        key: Some(join(&appended.key, number)),
        value,
        ..NewRecord::default()
    };
    let value = serde_json::to_vec(&*appended.turn)?;
    let mut records = vec![record(appended.number, Some(value))];
    records.extend(appended.ends.iter().map(|number| record(*number, None)));
    Ok(records)
}

fn join(key: &Key, number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.as_bytes().len() + SUFFIX);
    bytes.extend_from_slice(key.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes
}

fn split(record: &Record<'_>) -> Result<(Key, u64), Fault> {
    let bytes = record.key.unwrap_or_default();
    let (key, suffix) = bytes
        .len()
        .checked_sub(SUFFIX)
        .and_then(|middle| bytes.split_at_checked(middle))
        .ok_or_else(|| invalid(record, "its key is too short"))?;
    let number = match suffix.split_first() {
        Some((0, number)) => <[u8; 8]>::try_from(number).map(u64::from_be_bytes).ok(),
        _ => None,
    };
    let key = Key::from_bytes(key)?;
    key.zip(number)
        .ok_or_else(|| invalid(record, "its key is no trigger key with a turn's number"))
}

fn invalid(record: &Record<'_>, what: &str) -> Fault {
    Fault::new(
        Reason::InvalidInternalRecord,
        format!(
            "record {} of the conversation topic: {what}",
            record.position()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        turns: 3,
        expire_after_ms: 1_000,
    };

    fn key(text: &str) -> Key {
        Key::from_text(text).unwrap().unwrap()
    }

    /// One run of a key, from what it sees to its commit.
    fn say(store: &mut Store, of: &str, text: &str, time: i64) -> Vec<NewRecord> {
        let past = store.past(&key(of), time);
        let appended = Appended {
            key: key(of),
            number: past.next,
            turn: Arc::new(Turn {
                user: text.to_owned(),
                assistant: format!("re: {text}"),
                time,
                run: "r".to_owned(),
            }),
            ends: past.ends,
        };
        let records = turn_records("c", 2, &appended).unwrap();
        store.apply(appended);
        records
    }

    fn users(store: &Store, of: &str, at: i64) -> Vec<String> {
        let turns = store.past(&key(of), at).turns;
        turns.iter().map(|turn| turn.user.clone()).collect()
    }

    fn restored<'a>(records: impl IntoIterator<Item = &'a NewRecord>) -> Store {
        let mut store = Store::new(LIMITS);
        for (offset, record) in (0..).zip(records) {
            let record = Record {
                topic: "c",
                partition: 2,
                offset,
                timestamp: 0,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &[],
            };
            store.restore(&record).unwrap();
        }
        store
    }

    #[test]
    fn semantics_18_the_newest_turns_of_the_key_oldest_first() {
        let mut store = Store::new(LIMITS);
        for (text, time) in [("a", 1), ("b", 2), ("c", 3)] {
            assert_eq!(say(&mut store, "k", text, time).len(), 1);
        }
        let records = say(&mut store, "k", "d", 4);
        assert_eq!(users(&store, "k", 5), ["b", "c", "d"]);
        assert_eq!(users(&store, "other", 5), [""; 0]);
        assert_eq!(
            records[0].key.as_deref(),
            Some(b"k\0\0\0\0\0\0\0\0\x03".as_slice())
        );
        assert_eq!(records[0].partition, Some(2));
        assert_eq!(
            records[1].key.as_deref(),
            Some(b"k\0\0\0\0\0\0\0\0\0".as_slice())
        );
        assert_eq!(records[1].value, None);
    }

    #[test]
    fn semantics_18_what_a_run_shows_begins_as_the_run_before_until_the_older_half_goes() {
        let mut store = Store::new(Limits {
            turns: 6,
            expire_after_ms: 1_000_000,
        });
        let shown: Vec<(u64, usize)> = (0..14)
            .map(|n| {
                let past = store.past(&key("k"), n);
                let first = past.next - past.turns.len() as u64;
                say(&mut store, "k", &n.to_string(), n);
                (first, past.turns.len())
            })
            .collect();
        let expected = [
            (0, 0),
            (0, 1),
            (0, 2),
            (0, 3),
            (0, 4),
            (0, 5),
            (0, 6),
            (3, 4),
            (3, 5),
            (3, 6),
            (6, 4),
            (6, 5),
            (6, 6),
            (9, 4),
        ];
        assert_eq!(shown, expected);
        assert_eq!(users(&store, "k", 14), ["9", "10", "11", "12", "13"]);
        let kept = &store.turns[&key("k")];
        assert_eq!(kept.len(), 5, "what no run will show is gone");
    }

    #[test]
    fn turns_expire_by_the_time_of_the_run_that_reads() {
        let mut store = Store::new(LIMITS);
        say(&mut store, "k", "a", 0);
        say(&mut store, "k", "b", 500);
        assert_eq!(users(&store, "k", 1_000), ["a", "b"]);
        assert_eq!(users(&store, "k", 1_001), ["b"]);
        let records = say(&mut store, "k", "c", 5_000);
        assert_eq!(records.len(), 3, "both expired turns get a tombstone");
        assert_eq!(users(&store, "k", 5_000), ["c"]);
        assert_eq!(store.past(&key("k"), 5_000).next, 3);
    }

    #[test]
    fn a_strange_record_is_refused_with_its_position() {
        let mut store = Store::new(LIMITS);
        for (bytes, value) in [
            (b"short".as_slice(), b"{}".as_slice()),
            (b"key-12345678", b"{}"),
            (b"k\0\0\0\0\0\0\0\0\0", b"{}"),
            (b"\0\0\0\0\0\0\0\0\0", b"{}"),
        ] {
            let record = Record {
                topic: "c",
                partition: 0,
                offset: 9,
                timestamp: 0,
                key: Some(bytes),
                value: Some(value),
                headers: &[],
            };
            let fault = store.restore(&record).unwrap_err();
            assert_eq!(fault.reason, Reason::InvalidInternalRecord);
            assert!(fault.message.contains("c-0-9"), "{fault}");
        }
        assert_eq!(store.keys(), 0);
    }

    proptest! {
        /// Compaction keeps the last record of each key, and may drop tombstones of what is gone.
        #[test]
        fn a_restored_store_equals_the_one_that_wrote(
            said in prop::collection::vec(("[abc]", 0i64..300), 0..40),
        ) {
            let mut store = Store::new(LIMITS);
            let mut records = Vec::new();
            let mut time = 0;
            for (of, later) in &said {
                time += later;
                records.extend(say(&mut store, of, &format!("{of}{time}"), time));
            }
            let last: BTreeMap<_, _> = records.iter().map(|r| (r.key.clone(), r)).collect();
            let compacted: Vec<_> = last.values().rev().filter(|r| r.value.is_some()).copied().collect();
            let all = restored(&records);
            let few = restored(compacted);
            for of in ["a", "b", "c"] {
                prop_assert_eq!(all.past(&key(of), time), store.past(&key(of), time));
                prop_assert_eq!(few.past(&key(of), time), store.past(&key(of), time));
                prop_assert!(store.past(&key(of), time).turns.len() <= 3);
            }
        }
    }
}
