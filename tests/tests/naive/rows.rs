//! The state of a view: every change of every key, and what a reader finds at a time.

use super::aggregate::{self, Field};
use super::event::key_text;
use super::{Change, Fault, Maybe, Origin};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
pub enum Fold {
    Replace,
    /// Bits of the entries without which no row is seen.
    Fields {
        required: u64,
    },
    History {
        limit: usize,
        within_ms: Option<i64>,
    },
    Aggregate(Vec<Field>),
}

/// An index: its name, its CEL text, whether it gives a list, and the same as a closure. An absent field is `Ok(None)`.
#[derive(Clone, Copy)]
pub struct Index {
    pub name: &'static str,
    pub text: &'static str,
    pub many: bool,
    pub call: fn(&Value) -> Maybe<Option<Value>>,
}

/// A value as a reader finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub value: Value,
    pub time: i64,
    pub origin: Origin,
}

#[derive(Clone, Debug, Default)]
struct Key {
    /// Replace: the value. Fields: the merged object. Not there: no row.
    row: Option<Row>,
    present: BTreeSet<u32>,
    owners: BTreeMap<String, u32>,
    /// Of a history or an aggregate, oldest in the log first.
    events: Vec<Row>,
    /// The highest event time of all its events.
    last: i64,
}

/// A view, or one partition of it.
#[derive(Clone)]
pub struct Rows {
    fold: Fold,
    /// A key is gone so long after its last event.
    expire_ms: Option<i64>,
    /// The event time that the fold has reached: its input's, never the wall's.
    clock: i64,
    indexes: Vec<Index>,
    keys: BTreeMap<String, Key>,
}

impl Rows {
    pub fn new(fold: Fold, expire_ms: Option<i64>, indexes: &[Index]) -> Self {
        Self {
            fold,
            expire_ms,
            clock: i64::MIN,
            indexes: indexes.to_vec(),
            keys: BTreeMap::new(),
        }
    }

    /// The clock moves, and never back: keys are forgotten twice their expiry after their last event.
    pub fn pass(&mut self, clock: i64) {
        self.clock = self.clock.max(clock);
        if let Some(expire) = self.expire_ms {
            let kept_from = self.clock.saturating_sub(2 * expire);
            self.keys.retain(|_, key| key.last >= kept_from);
        }
    }

    /// Folds one change, whole or not at all.
    pub fn apply(&mut self, change: &Change) -> Maybe<()> {
        let former = self.keys.get(&change.key);
        let mut next = former.cloned().unwrap_or_default();
        if let Some(expire) = self.expire_ms {
            match former {
                None if change.time < self.clock.saturating_sub(2 * expire) => return Ok(()),
                // It was gone by then.
                Some(former) if change.time - former.last >= expire => next = Key::default(),
                _ => {}
            }
        }
        match &self.fold {
            Fold::Replace => replace(&mut next, change),
            Fold::Fields { .. } => merge(&mut next, change),
            Fold::History { .. } => remember(&mut next, change),
            Fold::Aggregate(fields) => {
                if let Some(value) = &change.value {
                    aggregate::check(fields, value, change.time, self.clock)?;
                }
                remember(&mut next, change);
            }
        }
        if let Some(row) = self.visible(&next) {
            for index in &self.indexes {
                index_keys(index, &row.value)?;
            }
        }
        if next.row.is_none() && next.events.is_empty() {
            self.keys.remove(&change.key);
        } else {
            next.last = next.last.max(change.time);
            self.keys.insert(change.key.clone(), next);
        }
        Ok(())
    }

    /// Whether a reader at a time finds the key at all.
    fn found(&self, key: &str, at: i64) -> Option<&Key> {
        let key = self.keys.get(key)?;
        let lives = self.expire_ms.is_none_or(|expire| key.last > at - expire);
        lives.then_some(key)
    }

    fn visible<'a>(&self, key: &'a Key) -> Option<&'a Row> {
        let complete = match self.fold {
            Fold::Fields { required } => {
                (0..64).all(|from| required >> from & 1 == 0 || key.present.contains(&from))
            }
            _ => true,
        };
        key.row.as_ref().filter(|_| complete)
    }

    pub fn get(&self, key: &str, at: i64) -> Option<Row> {
        let key = self.found(key, at)?;
        match &self.fold {
            Fold::Aggregate(fields) => aggregate::row(fields, &key.events, at),
            _ => self.visible(key).cloned(),
        }
    }

    /// What the state topic holds for a key: also of a merged row that is not complete yet.
    pub fn stored(&self, key: &str) -> Option<&Row> {
        self.keys.get(key)?.row.as_ref()
    }

    /// Newest first; of one time, the last in the log first.
    pub fn history(&self, key: &str, at: i64) -> Vec<Row> {
        let Fold::History { limit, within_ms } = self.fold else {
            return Vec::new();
        };
        let mut events = self
            .found(key, at)
            .map_or_else(Vec::new, |it| it.events.clone());
        events.reverse();
        events.sort_by_key(|event| std::cmp::Reverse(event.time));
        events.retain(|event| within_ms.is_none_or(|within| event.time > at - within));
        events.truncate(limit);
        events
    }

    pub fn by_index(&self, name: &str, wanted: &str, at: i64) -> Vec<(String, Row)> {
        let Some(index) = self.indexes.iter().find(|index| index.name == name) else {
            return Vec::new();
        };
        self.keys
            .keys()
            .filter_map(|key| Some((key.clone(), self.get(key, at)?)))
            .filter(|(_, row)| {
                index_keys(index, &row.value).is_ok_and(|keys| keys.contains(wanted))
            })
            .collect()
    }

    pub fn fold(&self) -> &Fold {
        &self.fold
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// Every key that an index has something under.
    pub fn index_keys(&self, name: &str) -> BTreeSet<String> {
        let index = self.indexes.iter().find(|index| index.name == name);
        self.keys
            .values()
            .filter_map(|key| self.visible(key))
            .filter_map(|row| index_keys(index?, &row.value).ok())
            .flatten()
            .collect()
    }
}

fn row(change: &Change, value: Value) -> Row {
    Row {
        value,
        time: change.time,
        origin: change.origin,
    }
}

fn replace(key: &mut Key, change: &Change) {
    match &change.value {
        None => *key = Key::default(),
        // What changes nothing leaves where the value came from.
        Some(value) if key.row.as_ref().is_some_and(|row| row.value == *value) => {}
        Some(value) => key.row = Some(row(change, value.clone())),
    }
}

fn merge(key: &mut Key, change: &Change) {
    let from = change.origin.from;
    let mut next = key.clone();
    let mut fields = match &key.row {
        Some(row) => row.value.as_object().unwrap().clone(),
        None => Map::new(),
    };
    match &change.value {
        Some(value) => {
            next.present.insert(from);
            for (name, value) in value.as_object().unwrap() {
                next.owners.insert(name.clone(), from);
                fields.insert(name.clone(), value.clone());
            }
        }
        None if !key.present.contains(&from) => return,
        None => {
            next.present.remove(&from);
            fields.retain(|name, _| next.owners[name] != from);
            next.owners.retain(|_, owner| *owner != from);
        }
    }
    if next.present.is_empty() {
        *key = Key::default();
        return;
    }
    let value = Value::Object(fields);
    let same = next.present == key.present
        && next.owners == key.owners
        && key.row.as_ref().is_some_and(|row| row.value == value);
    if !same {
        next.row = Some(row(change, value));
        *key = next;
    }
}

fn remember(key: &mut Key, change: &Change) {
    match &change.value {
        None => *key = Key::default(),
        Some(value) => key.events.push(row(change, value.clone())),
    }
}

fn index_keys(index: &Index, value: &Value) -> Maybe<BTreeSet<String>> {
    let Some(found) = (index.call)(value)? else {
        return Ok(BTreeSet::new());
    };
    if !index.many {
        return Ok(key_text(&found)?.into_iter().collect());
    }
    let parts = found.as_array().ok_or(Fault)?;
    let mut keys = BTreeSet::new();
    for part in parts {
        keys.extend(key_text(part)?);
    }
    Ok(keys)
}
