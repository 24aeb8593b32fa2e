//! What a view's topics hold against what the model says they should.

use crate::catalogue::{ViewSpec, joined, sources};
use crate::naive::event::{Expression, Source, Taste, key_text};
use crate::naive::order::{self, Lane};
use crate::naive::rows::{Fold, Row, Rows};
use crate::naive::{Change, Maybe, Origin, Raw};
use crate::world::World;
use headwater_engine::key::Key;
use headwater_engine::names::{MARK_KEY, header};
use headwater_engine::record::Record;
use headwater_engine::view::{Covered, Definition, Mark, Partition, View};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All that was found of one view, read once.
pub struct Found {
    pub sources: Vec<BTreeMap<i32, Vec<Raw>>>,
    pub input: BTreeMap<i32, Vec<Raw>>,
    pub state: BTreeMap<i32, Vec<Raw>>,
    pub dead: Vec<Raw>,
}

impl Found {
    pub fn read(world: &World, view: &ViewSpec) -> Self {
        Self {
            sources: sources()
                .iter()
                .map(|source| world.read(&world.topic(source.name)))
                .collect(),
            input: world.read(&view.input_topic(&world.prefix)),
            state: world.read(&view.state_topic(&world.prefix)),
            dead: world
                .read(&view.dead_topic(&world.prefix))
                .into_values()
                .flatten()
                .collect(),
        }
    }
}

pub struct Check<'a> {
    pub world: &'a World,
    pub view: &'a ViewSpec,
    pub found: &'a Found,
    /// All was in the sources before anything was taken in, by one replica: then there is one legal order.
    pub backlog: bool,
}

/// What was compared.
#[derive(Debug, Default)]
pub struct Compared {
    pub keys: usize,
    pub reads: usize,
    pub letters: usize,
}

impl Check<'_> {
    /// Compares everything; the first difference is the error.
    pub fn run(&self) -> Result<Compared, String> {
        let mut letters = BTreeMap::new();
        let lanes = self.lanes(&mut letters);
        let log = self.input_log(&lanes)?;
        let rows = self.folded(&log, &mut letters);
        let mut compared = Compared {
            letters: letters.len(),
            ..Compared::default()
        };
        self.dead_letters(&letters)?;
        self.coverage(&lanes)
            .map_err(|error| format!("input log: {error}"))?;
        for partition in 0..self.view.partitions {
            let empty = Vec::new();
            let state = self.found.state.get(&partition).unwrap_or(&empty);
            compared.keys += self
                .state(partition, &rows[&partition], state)
                .map_err(|error| format!("state of partition {partition}: {error}"))?;
            self.bytes(partition, state)
                .map_err(|error| format!("bytes of partition {partition}: {error}"))?;
        }
        compared.reads = self.reads(&rows)?;
        Ok(compared)
    }

    /// What the sources say, by `from` entry and source partition; and the dead letters, by position.
    fn lanes(&self, letters: &mut BTreeMap<String, Raw>) -> BTreeMap<(u32, i32), Lane> {
        let all = sources();
        let mut lanes = BTreeMap::new();
        for (from, place) in self.view.from.iter().zip(0u32..) {
            let source = &all[from.source];
            for (partition, records) in &self.found.sources[from.source] {
                let projected: Vec<Maybe<Option<Change>>> = records
                    .iter()
                    .map(|raw| {
                        if let Some(key) = from.join {
                            row_key(&source.source, key, raw)?;
                        }
                        from.entry
                            .project(&source.source, self.view.taste(), place, raw)
                    })
                    .collect();
                for (raw, projected) in records.iter().zip(&projected) {
                    if projected.is_err() {
                        let position = format!(
                            "{}-{partition}-{}",
                            self.world.topic(source.name),
                            raw.offset
                        );
                        letters.insert(position, raw.clone());
                    }
                }
                lanes.insert((place, *partition), order::lane(projected));
            }
        }
        lanes
    }

    /// The changes that the view folds, by partition of its input log.
    fn input_log(
        &self,
        lanes: &BTreeMap<(u32, i32), Lane>,
    ) -> Result<BTreeMap<i32, Vec<Change>>, String> {
        if !self.view.own {
            return Ok(lanes
                .iter()
                .map(|((_, partition), lane)| (*partition, lane.clone()))
                .collect());
        }
        let mut log: BTreeMap<i32, Vec<Change>> = BTreeMap::new();
        for (partition, records) in &self.found.input {
            for raw in records
                .iter()
                .filter(|raw| raw.key.as_deref() != Some(MARK_KEY))
            {
                log.entry(*partition).or_default().push(change(raw)?);
            }
        }
        let held = self.ever_held();
        let mut bare = log.clone();
        for change in bare.values_mut().flatten() {
            self.take_row(&held, change)?;
        }
        order::check_interleaving(lanes, &bare).map_err(|error| format!("input log: {error}"))?;
        if self.backlog {
            let topics: Vec<String> = self
                .view
                .from
                .iter()
                .map(|from| sources()[from.source].name.to_owned())
                .collect();
            let order = order::of_backlog(lanes, &topics);
            for (partition, changes) in &bare {
                let here: BTreeSet<Origin> = changes.iter().map(|it| it.origin).collect();
                let legal = order.iter().filter(|it| here.contains(&it.origin));
                if let Some((taken, legal)) = changes
                    .iter()
                    .zip(legal)
                    .find(|(taken, legal)| taken != legal)
                {
                    return Err(format!(
                        "input log, partition {partition}: {taken:?} was taken where {legal:?} is older"
                    ));
                }
            }
        }
        Ok(log)
    }

    /// All values that the joined view ever had, by key; the first is null.
    fn ever_held(&self) -> BTreeMap<String, Vec<Value>> {
        let joined = joined();
        let from = &joined.from[0];
        let mut held: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        if self.view.from.iter().all(|from| from.join.is_none()) {
            return held;
        }
        for raw in self.found.sources[from.source].values().flatten() {
            let source = &sources()[from.source].source;
            let projected = from.entry.project(source, Taste::Latest, 0, raw);
            if let Some(order) = projected.ok().flatten() {
                held.entry(order.key)
                    .or_insert_with(|| vec![Value::Null])
                    .push(order.value.unwrap_or(Value::Null));
            }
        }
        held
    }

    /// Takes a joined row out of a change, if it is one that the joined view ever held: where all was in the log before, the last.
    fn take_row(
        &self,
        held: &BTreeMap<String, Vec<Value>>,
        change: &mut Change,
    ) -> Result<(), String> {
        let from = &self.view.from[change.origin.from as usize];
        let (Some(key), Some(value)) = (from.join, &mut change.value) else {
            return Ok(());
        };
        let source = &sources()[from.source].source;
        let records = &self.found.sources[from.source][&change.origin.partition];
        let place = records.partition_point(|raw| raw.offset < change.origin.offset);
        let row = value["row"].take();
        let none = vec![Value::Null];
        let held = row_key(source, key, &records[place])
            .unwrap()
            .and_then(|key| held.get(&key))
            .unwrap_or(&none);
        let legal = if self.backlog {
            held.last() == Some(&row)
        } else {
            held.contains(&row)
        };
        if legal {
            return Ok(());
        }
        Err(format!(
            "input log: {change:?} joined {row}, but the view held {held:?}"
        ))
    }

    /// The model's fold of each partition; what it refuses is a dead letter of the input log's record.
    fn folded(
        &self,
        log: &BTreeMap<i32, Vec<Change>>,
        letters: &mut BTreeMap<String, Raw>,
    ) -> BTreeMap<i32, Rows> {
        let topic = self.view.input_topic(&self.world.prefix);
        (0..self.view.partitions)
            .map(|partition| {
                let mut rows = Rows::new(
                    self.view.fold.clone(),
                    self.view.expire_ms,
                    &self.view.indexes,
                );
                let mut changes: BTreeMap<Origin, &Change> = log
                    .get(&partition)
                    .into_iter()
                    .flatten()
                    .map(|it| (it.origin, it))
                    .collect();
                let mut covered = BTreeMap::new();
                for raw in self.found.input.get(&partition).into_iter().flatten() {
                    if self.view.own && raw.key.as_deref() == Some(MARK_KEY) {
                        rows.pass(clock(&mut covered, raw));
                        continue;
                    }
                    let origin = match raw.header(header::SOURCE) {
                        Some(bytes) if self.view.own => decode(bytes).unwrap(),
                        _ => Origin {
                            from: 0,
                            partition,
                            offset: raw.offset,
                        },
                    };
                    let Some(change) = changes.remove(&origin) else {
                        continue;
                    };
                    if !self.view.own {
                        rows.pass(change.time);
                    }
                    if rows.apply(change).is_err() {
                        letters.insert(format!("{topic}-{partition}-{}", raw.offset), raw.clone());
                    }
                }
                (partition, rows)
            })
            .collect()
    }

    fn dead_letters(&self, expected: &BTreeMap<String, Raw>) -> Result<(), String> {
        let mut left = expected.clone();
        for letter in &self.found.dead {
            let position = letter.key_text();
            let Some(raw) = left.remove(position) else {
                return Err(format!("a dead letter too many: {position}: {letter:?}"));
            };
            if letter.value != raw.value
                || letter.header("headwater-key") != raw.key.as_deref()
                || letter.header("headwater-position") != Some(position.as_bytes())
                || letter
                    .header("headwater-reason")
                    .is_none_or(<[u8]>::is_empty)
            {
                return Err(format!("dead letter {letter:?} of {raw:?}"));
            }
        }
        match left.first_key_value() {
            None => Ok(()),
            Some((position, raw)) => Err(format!(
                "{} dead letters are missing, as {position}: {raw:?}",
                left.len()
            )),
        }
    }

    /// The newest record of each key in the state topic, as values. Gives how many keys there are.
    fn state(&self, partition: i32, rows: &Rows, state: &[Raw]) -> Result<usize, String> {
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
        let input = self
            .found
            .input
            .get(&partition)
            .map_or(&[][..], Vec::as_slice);
        match (last.get(MARK_KEY), input.last()) {
            (None, None) => Ok(count),
            (Some(raw), Some(end)) => {
                let mark: Mark = serde_json::from_slice(raw.value.as_deref().unwrap()).unwrap();
                if mark.next <= end.offset {
                    return Err(format!(
                        "the last mark is {mark:?}, the input has {}",
                        end.offset
                    ));
                }
                match state.last() {
                    Some(last) if last.key.as_deref() == Some(MARK_KEY) => Ok(count),
                    last => Err(format!(
                        "a mark comes after its values, the last is {last:?}"
                    )),
                }
            }
            (mark, end) => Err(format!("mark {mark:?} of an input that ends with {end:?}")),
        }
    }

    /// At every mark, the state restored from all that was written before it is the fold of the input below its `next`. At the last
    /// one, the bytes are those of a fold in one go, headers included.
    fn bytes(&self, partition: i32, state: &[Raw]) -> Result<(), String> {
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
                with_record(&input, raw, |record| whole.fold(record));
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
            None => Ok(()),
        }
    }

    /// What the marks of an input log say of its sources: every event of theirs below is before the mark.
    fn coverage(&self, lanes: &BTreeMap<(u32, i32), Lane>) -> Result<(), String> {
        if !self.view.own {
            return Ok(());
        }
        for (partition, records) in &self.found.input {
            let changes: Vec<(i64, Change)> = records
                .iter()
                .filter(|raw| raw.key.as_deref() != Some(MARK_KEY))
                .map(|raw| Ok((raw.offset, change(raw)?)))
                .collect::<Result<_, String>>()?;
            let places: BTreeMap<Origin, i64> = changes
                .iter()
                .map(|(offset, it)| (it.origin, *offset))
                .collect();
            for raw in records
                .iter()
                .filter(|raw| raw.key.as_deref() == Some(MARK_KEY))
            {
                let mark: Mark = serde_json::from_slice(raw.value.as_deref().unwrap()).unwrap();
                for covered in mark.covered {
                    let lane = lanes.get(&(covered.from, covered.partition));
                    let below = lane
                        .into_iter()
                        .flatten()
                        .filter(|it| it.origin.offset < covered.next);
                    // Of other keys, other partitions hold the event.
                    let later = below
                        .filter_map(|it| places.get(&it.origin))
                        .find(|place| **place > raw.offset);
                    if let Some(later) = later {
                        return Err(format!(
                            "partition {partition}: the mark at {} covers {covered:?}, but an event of it is at {later}",
                            raw.offset
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn definition(&self) -> Arc<Definition> {
        let config = self.world.config(self.view);
        Definition::compile(&config.views[self.view.name], &config.sources).unwrap()
    }

    /// What readers find who restored the view from its state topic, at several times.
    fn reads(&self, rows: &BTreeMap<i32, Rows>) -> Result<usize, String> {
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

/// The clock after a mark: that of the source partition that is furthest behind, of those that have more to come.
fn clock(covered: &mut BTreeMap<(u32, i32), Covered>, raw: &Raw) -> i64 {
    let mark: Mark = serde_json::from_slice(raw.value.as_deref().unwrap()).unwrap();
    for it in mark.covered {
        let known = covered.entry((it.from, it.partition)).or_insert(it);
        if it.next >= known.next {
            *known = it;
        }
    }
    let times = |busy: bool| {
        covered
            .values()
            .filter(move |it| !busy || !it.idle)
            .map(|it| it.time)
    };
    times(true)
        .min()
        .or_else(|| times(false).max())
        .unwrap_or(i64::MIN)
}

/// The key of the joined row; none reads nothing.
fn row_key(source: &Source, key: Expression<Value>, raw: &Raw) -> Maybe<Option<String>> {
    let event = source.decode(raw)?;
    if event.null {
        return Ok(None);
    }
    key_text(&(key.call)(&event)?)
}

fn last_of_each_key(state: &[Raw]) -> BTreeMap<Vec<u8>, &Raw> {
    state
        .iter()
        .map(|raw| (raw.key.clone().unwrap(), raw))
        .collect()
}

/// A value's record in an input log or a state topic.
pub fn change(raw: &Raw) -> Result<Change, String> {
    let bad = |what: &str| format!("{what} of {raw:?}");
    let source = raw.header(header::SOURCE).ok_or_else(|| bad("no origin"))?;
    let time = raw
        .header(header::TIME)
        .and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok())
        .ok_or_else(|| bad("no time"))?;
    let value: Option<Value> = raw
        .value
        .as_deref()
        .map(serde_json::from_slice)
        .transpose()
        .map_err(|_| bad("no JSON"))?;
    Ok(Change {
        key: raw.key_text().to_owned(),
        value,
        time,
        origin: decode(source).ok_or_else(|| bad("unreadable origin"))?,
    })
}

/// Three unsigned LEB128 varints.
fn decode(bytes: &[u8]) -> Option<Origin> {
    let mut numbers = vec![0u64];
    let mut shift = 0;
    for byte in bytes {
        *numbers.last_mut()? |= u64::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            numbers.push(0);
            shift = 0;
        }
    }
    match numbers.as_slice() {
        [from, partition, offset, 0] => Some(Origin {
            from: *from as u32,
            partition: *partition as i32,
            offset: *offset as i64,
        }),
        _ => None,
    }
}

fn with_record<T>(topic: &str, raw: &Raw, call: impl FnOnce(&Record<'_>) -> T) -> T {
    let headers: Vec<(&str, Option<&[u8]>)> = raw
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_deref()))
        .collect();
    call(&Record {
        topic,
        partition: raw.partition,
        offset: raw.offset,
        timestamp: raw.timestamp,
        key: raw.key.as_deref(),
        value: raw.value.as_deref(),
        headers: &headers,
    })
}
