//! The state topic against the model: its newest records as values, every mark against a fold from the beginning, and what readers
//! find who restored from it.

use crate::catalogue::sources;
use crate::compare::Check;
use crate::naive::rows::{Fold, Row, Rows};
use crate::naive::{Origin, Raw};
use crate::records::{change, mark, with_record};
use headwater_engine::key::Key;
use headwater_engine::names::MARK_KEY;
use headwater_engine::record::NewRecord;
use headwater_engine::view::{Definition, Partition, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Check<'_> {
    /// The newest record of each key in the state topic, as values. Gives how many keys there are.
    pub fn state(&self, partition: i32, rows: &Rows, state: &[Raw]) -> Result<usize, String> {
        self.end(partition, state)?;
        let last = last_of_each_key(state);
        let mut keys: BTreeSet<&str> = last
            .iter()
            .filter(|(key, raw)| key.as_slice() != MARK_KEY && raw.value.is_some())
            .map(|(_, raw)| raw.key_text())
            .collect();
        let count = keys.len();
        for key in rows.keys() {
            let at = |what: &str| format!("key '{key}': {what}");
            let stored = rows.stored(key);
            // A history's are compared as they are read: how long what is old is kept is the fold's.
            if !keys.remove(key) && stored.is_some() {
                return Err(at(&format!(
                    "is missing, it should be {:?}",
                    rows.stored(key)
                )));
            }
            let Some(expected) = stored else {
                continue;
            };
            let raw = last[key.as_bytes()];
            let found = change(raw).map_err(|error| at(&error))?;
            if found.value.as_ref() != Some(&expected.value)
                || (found.time, found.origin) != (expected.time, expected.origin)
            {
                return Err(at(&format!("is {found:?}, it should be {expected:?}")));
            }
        }
        if let Some(key) = keys.first() {
            return Err(format!("key '{key}' should not be there"));
        }
        Ok(count)
    }

    /// The last record is a mark, and covers the whole input.
    fn end(&self, partition: i32, state: &[Raw]) -> Result<(), String> {
        let input = self
            .found
            .input
            .get(&partition)
            .map_or(&[][..], Vec::as_slice);
        let last = state
            .iter()
            .rfind(|raw| raw.key.as_deref() == Some(MARK_KEY));
        match (last, input.last()) {
            (None, None) => Ok(()),
            (Some(raw), Some(end)) => {
                let mark = mark(raw);
                if mark.next <= end.offset {
                    return Err(format!(
                        "the last mark is {mark:?}, the input has {}",
                        end.offset
                    ));
                }
                match state.last() {
                    Some(last) if last.key.as_deref() == Some(MARK_KEY) => Ok(()),
                    last => Err(format!(
                        "a mark comes after its values, the last is {last:?}"
                    )),
                }
            }
            (last, end) => Err(format!("mark {last:?} of an input that ends with {end:?}")),
        }
    }

    /// At every mark, the state restored from all that was written before it is the fold of the input below its `next`. At the last
    /// one, the bytes are those of a fold in one go, headers included. Where changes are asked for, those of that fold are in their
    /// topic, each once and in its order; gives how many these are.
    pub fn bytes(&self, partition: i32, state: &[Raw]) -> Result<usize, String> {
        let definition = self.definition();
        let input = self.view.input_topic(&self.world.prefix);
        let topic = self.view.state_topic(&self.world.prefix);
        let mut waiting = self
            .found
            .input
            .get(&partition)
            .into_iter()
            .flatten()
            .peekable();
        let mut whole = Partition::new(Arc::clone(&definition), partition);
        let mut restored = Partition::new(definition, partition);
        let mut told: Vec<NewRecord> = Vec::new();
        for raw in state {
            let before = restored.next();
            with_record(&topic, raw, |record| restored.restore(record))
                .map_err(|fault| format!("cannot be restored: {fault:?}"))?;
            if raw.key.as_deref() != Some(MARK_KEY) {
                continue;
            }
            let next = restored.next();
            if next <= before {
                return Err(format!("a mark says {next} after one that said {before}"));
            }
            while let Some(raw) = waiting.next_if(|raw| raw.offset < next) {
                let (_, change) = with_record(&input, raw, |record| whole.fold_telling(record));
                told.extend(change);
                // What was folded before does nothing.
                let (_, again) = with_record(&input, raw, |record| whole.fold_telling(record));
                told.extend(again);
            }
            whole.advance(next);
            if whole != restored {
                return Err(format!(
                    "at the mark {next}, restored {restored:#?}\nfolded in one go {whole:#?}"
                ));
            }
        }
        let last = last_of_each_key(state);
        let mut gone: BTreeSet<&[u8]> = last.keys().map(Vec::as_slice).collect();
        for record in whole.checkpoint() {
            let key = record.key.as_deref().unwrap();
            gone.remove(key);
            if key == MARK_KEY {
                continue;
            }
            let found = last.get(key);
            let same = match (found, &record.value) {
                (None, None) => true,
                (Some(raw), value) => {
                    raw.value == *value && (value.is_none() || raw.headers == record.headers)
                }
                (None, Some(_)) => false,
            };
            if !same {
                return Err(format!(
                    "folded in one go {record:?}, in the topic {found:?}"
                ));
            }
        }
        match gone.iter().find(|key| last[**key].value.is_some()) {
            Some(key) => Err(format!("key {key:?} is in no fold")),
            None => self.changes(partition, &told),
        }
    }

    /// Whether the changes topic holds these, one after the other, and no others.
    fn changes(&self, partition: i32, told: &[NewRecord]) -> Result<usize, String> {
        let empty = Vec::new();
        let found = self.found.changes.get(&partition).unwrap_or(&empty);
        let same = |(raw, record): &(&Raw, &NewRecord)| {
            raw.key == record.key && raw.value == record.value && raw.headers == record.headers
        };
        let alike = found.iter().zip(told).take_while(same).count();
        if alike < found.len().max(told.len()) {
            return Err(format!(
                "change {alike} is {:?} in the topic, and {:?} when folded in one go",
                found.get(alike),
                told.get(alike)
            ));
        }
        Ok(alike)
    }

    fn definition(&self) -> Arc<Definition> {
        let config = self.world.config(self.view);
        Definition::compile(&config.views[self.view.name], &config.sources).unwrap()
    }

    /// What readers find who restored the view from its state topic, at several times.
    pub fn reads(&self, rows: &BTreeMap<i32, Rows>) -> Result<usize, String> {
        let mut view = View::new(self.definition());
        let topic = self.view.state_topic(&self.world.prefix);
        for (partition, records) in &self.found.state {
            for raw in records {
                let state = view.partition_mut(*partition);
                with_record(&topic, raw, |record| state.restore(record)).unwrap();
            }
        }
        let latest = self
            .found
            .input
            .values()
            .flatten()
            .filter_map(|raw| self.time_of(raw))
            .max()
            .unwrap_or(0);
        // A reader that is no more than a window behind finds all it should.
        let window = self.windows().into_iter().min().unwrap_or(1_000);
        let mut reads = 0;
        for at in [
            latest - window,
            latest - window / 2,
            latest,
            latest + window / 2,
        ] {
            for rows in rows.values() {
                for text in rows.keys() {
                    let key = Key::from_text(text).unwrap().unwrap();
                    let found: Vec<Row> =
                        view.get(&key, at).iter().map(|it| self.row(it)).collect();
                    let expected: Vec<Row> = rows.get(text, at).into_iter().collect();
                    same(text, at, &found, &expected)?;
                    let found: Vec<Row> = view
                        .history(&key, at)
                        .iter()
                        .map(|it| self.row(it))
                        .collect();
                    same(text, at, &found, &rows.history(text, at))?;
                    reads += 1;
                }
            }
            for index in &self.view.indexes {
                let keys: BTreeSet<String> = rows
                    .values()
                    .flat_map(|rows| rows.index_keys(index.name))
                    .collect();
                for text in &keys {
                    let key = Key::from_text(text).unwrap().unwrap();
                    let found: Vec<(String, Row)> = view
                        .by_index(index.name, &key, at)
                        .iter()
                        .map(|it| (it.key.as_str().to_owned(), self.row(it)))
                        .collect();
                    let mut expected: Vec<(String, Row)> = rows
                        .values()
                        .flat_map(|rows| rows.by_index(index.name, text, at))
                        .collect();
                    expected.sort_by(|left, right| left.0.cmp(&right.0));
                    if found != expected {
                        return Err(format!(
                            "index {} under '{text}' holds {found:?}, it should hold {expected:?}",
                            index.name
                        ));
                    }
                    reads += 1;
                }
            }
        }
        Ok(reads)
    }

    fn windows(&self) -> Vec<i64> {
        let mut windows: Vec<i64> = self.view.expire_ms.into_iter().collect();
        match &self.view.fold {
            Fold::History { within_ms, .. } => windows.extend(within_ms),
            Fold::Aggregate(fields) => {
                windows.extend(fields.iter().filter_map(|field| field.within_ms));
            }
            Fold::Replace | Fold::Fields { .. } => {}
        }
        windows
    }

    /// The event time of a record of the input log, if it has one.
    fn time_of(&self, raw: &Raw) -> Option<i64> {
        if self.view.own {
            return change(raw).ok().map(|it| it.time);
        }
        let from = &self.view.from[0];
        let source = &sources()[from.source].source;
        let projected = from.entry.project(source, self.view.taste(), 0, raw);
        projected.ok().flatten().map(|it| it.time)
    }

    fn row(&self, row: &headwater_engine::view::Row) -> Row {
        let from = self
            .view
            .from
            .iter()
            .zip(0u32..)
            .filter(|(from, _)| {
                self.world.topic(sources()[from.source].name) == *row.position.topic
            })
            .map(|(_, place)| place);
        Row {
            value: row.value.clone(),
            time: row.time,
            origin: Origin {
                from: from.min().unwrap(),
                partition: row.position.partition,
                offset: row.position.offset,
            },
        }
    }
}

/// Readers are told the source's topic, not the entry: entries of one source are the same to them.
fn same(key: &str, at: i64, found: &[Row], expected: &[Row]) -> Result<(), String> {
    let strip = |row: &Row| {
        (
            row.value.clone(),
            row.time,
            row.origin.partition,
            row.origin.offset,
        )
    };
    let (found, expected): (Vec<_>, Vec<_>) = (
        found.iter().map(strip).collect(),
        expected.iter().map(strip).collect(),
    );
    if found == expected {
        return Ok(());
    }
    Err(format!(
        "key '{key}' read at {at} is {found:?}, it should be {expected:?}"
    ))
}

fn last_of_each_key(state: &[Raw]) -> BTreeMap<Vec<u8>, &Raw> {
    state
        .iter()
        .map(|raw| (raw.key.clone().unwrap(), raw))
        .collect()
}
