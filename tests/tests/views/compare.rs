//! What a view's topics hold against what the model says they should.

use crate::catalogue::{ViewSpec, joined, sources};
use crate::naive::event::{Expression, Source, Taste, key_text};
use crate::naive::order::{self, Lane};
use crate::naive::rows::Rows;
use crate::naive::{Change, Maybe, Origin, Raw};
use crate::records::{change, decode, mark};
use crate::world::World;
use headwater_engine::names::{MARK_KEY, header};
use headwater_engine::view::Covered;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// All that was found of one view, read once.
pub struct Found {
    pub sources: Vec<BTreeMap<i32, Vec<Raw>>>,
    pub input: BTreeMap<i32, Vec<Raw>>,
    pub state: BTreeMap<i32, Vec<Raw>>,
    pub dead: Vec<Raw>,
    /// Empty where nobody asks for them.
    pub changes: BTreeMap<i32, Vec<Raw>>,
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
            changes: view
                .changes_topic(&world.prefix)
                .map(|changes| world.read(&changes))
                .unwrap_or_default(),
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
    /// Of rows.
    pub changes: usize,
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
            let at = |error| format!("state of partition {partition}: {error}");
            compared.changes += self.bytes(partition, state).map_err(at)?;
            compared.keys += self
                .state(partition, &rows[&partition], state)
                .map_err(at)?;
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
                let mark = mark(raw);
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
}

/// The clock after a mark: that of the source partition that is furthest behind, of those that have more to come.
fn clock(covered: &mut BTreeMap<(u32, i32), Covered>, raw: &Raw) -> i64 {
    let mark = mark(raw);
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
