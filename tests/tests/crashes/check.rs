//! What the topics of one view have to say, against the naive model of its sources.
//!
//! - The input log of its own holds what every source record comes to exactly once, those of a source partition in its order.
//! - At **every** mark of the state topic, not at the last only, what the topic says up to there is the fold of the input below the mark,
//!   and marks never run back: so nothing of a former owner turned visible after another had taken over.
//! - Every record that is refused is in the dead letters exactly once, with its bytes.

use crate::naive::event::Source;
use crate::naive::rows::{Fold, Rows};
use crate::naive::{Change, Origin, Raw};
use crate::rounds::reader::{Topic, committed};
use crate::views::{GENERATION, View};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

const MARK: &[u8] = b"\0m";

pub struct ViewCheck {
    pub view: View,
    bootstrap: String,
    namespace: String,
    own: Option<Topic>,
    state: Topic,
    dead: Topic,
    /// Not seen in the own input log yet.
    to_come: BTreeMap<Origin, Change>,
    /// The last offset seen, by input partition, entry and source partition.
    last: HashMap<(i32, u32, i32), i64>,
    homes: HashMap<String, i32>,
    /// Not seen among the dead letters yet: position and bytes.
    refused: BTreeMap<String, Option<Vec<u8>>>,
    parts: Vec<Part>,
}

struct Part {
    model: Rows,
    /// Input that no mark covers yet.
    input: VecDeque<(i64, Change)>,
    /// Of the last mark.
    next: i64,
    covered: Vec<(u32, i32, i64)>,
    stored: BTreeMap<String, Value>,
    /// Keys that the topic or the model changed since the last mark.
    touched: BTreeSet<String>,
    /// Values came that no mark follows yet.
    open: bool,
}

impl ViewCheck {
    pub fn new(view: View, bootstrap: &str, namespace: &str) -> Self {
        let topic = |name: &str, partitions| Topic::new(bootstrap, name, partitions);
        let part = |_| Part {
            model: Rows::new(view.fold.clone(), None, &[]),
            input: VecDeque::new(),
            next: 0,
            covered: Vec::new(),
            stored: BTreeMap::new(),
            touched: BTreeSet::new(),
            open: false,
        };
        Self {
            own: view.own.map(|count| topic(&view.input(namespace), count)),
            state: topic(&view.state(namespace), view.partitions()),
            dead: topic(&view.dead(namespace), 1),
            bootstrap: bootstrap.to_owned(),
            namespace: namespace.to_owned(),
            to_come: BTreeMap::new(),
            last: HashMap::new(),
            homes: HashMap::new(),
            refused: BTreeMap::new(),
            parts: (0..view.partitions()).map(part).collect(),
            view,
        }
    }

    /// Takes note of what is in a source.
    pub fn source(&mut self, name: &str, records: &[Raw]) {
        let taste = self.view.taste();
        for (from, (source, entry)) in (0u32..).zip(&self.view.from) {
            if *source != name {
                continue;
            }
            for raw in records {
                match entry.project(&Source::default(), taste, from, raw) {
                    Ok(None) => {}
                    Ok(Some(change)) if self.view.own.is_some() => {
                        self.to_come.insert(change.origin, change);
                    }
                    Ok(Some(change)) => part(&mut self.parts, raw.partition)
                        .input
                        .push_back((raw.offset, change)),
                    Err(_) => {
                        let namespace = &self.namespace;
                        let place = format!("{namespace}.{name}-{}-{}", raw.partition, raw.offset);
                        self.refused.insert(place, raw.value.clone());
                    }
                }
            }
        }
    }

    /// Reads what came, and compares. Says what is not there yet, where something is not.
    ///
    /// # Errors
    /// What is wrong for good.
    pub fn read(
        &mut self,
        source_ends: &BTreeMap<String, Vec<i64>>,
    ) -> Result<Option<String>, String> {
        // The input after the state: then it holds all that the marks read cover.
        let state = self.state.read();
        if let Some(own) = &mut self.own {
            for raw in own.read() {
                self.input(&raw)?;
            }
        }
        for raw in state {
            self.state(&raw).map_err(|wrong| {
                format!(
                    "{} at {}-{}: {wrong}",
                    self.state.name, raw.partition, raw.offset
                )
            })?;
        }
        for raw in self.dead.read() {
            let place = raw.key_text().to_owned();
            match self.refused.remove(&place) {
                Some(bytes) if bytes == raw.value => {}
                Some(_) => return Err(format!("the dead letter of {place} has other bytes")),
                None => return Err(format!("{place} is a dead letter twice, or should be none")),
            }
        }
        Ok(self.missing(source_ends))
    }

    fn input(&mut self, raw: &Raw) -> Result<(), String> {
        if raw.key.as_deref() == Some(MARK) {
            return Ok(());
        }
        let at = format!("input log at {}-{}", raw.partition, raw.offset);
        let change = Change {
            key: raw.key_text().to_owned(),
            value: raw
                .value
                .as_deref()
                .map(|bytes| serde_json::from_slice(bytes).unwrap()),
            time: std::str::from_utf8(raw.header("hw-t").unwrap())
                .unwrap()
                .parse()
                .unwrap(),
            origin: origin(raw.header("hw-s").unwrap()),
        };
        let origin = change.origin;
        match self.to_come.remove(&origin) {
            None => return Err(format!("{at}: {origin:?} is there twice, or should not be")),
            Some(expected) if expected != change => {
                return Err(format!("{at}: {change:?}, and it should be {expected:?}"));
            }
            Some(_) => {}
        }
        let lane = (raw.partition, origin.from, origin.partition);
        let before = self.last.insert(lane, origin.offset);
        if before.is_some_and(|before| before >= origin.offset) {
            return Err(format!("{at}: {origin:?} comes after offset {before:?}"));
        }
        let home = *self
            .homes
            .entry(change.key.clone())
            .or_insert(raw.partition);
        if home != raw.partition {
            return Err(format!(
                "{at}: key '{}' was in partition {home}",
                change.key
            ));
        }
        let part = part(&mut self.parts, raw.partition);
        part.input.push_back((raw.offset, change));
        Ok(())
    }

    fn state(&mut self, raw: &Raw) -> Result<(), String> {
        let part = part(&mut self.parts, raw.partition);
        let value: Option<Value> = raw
            .value
            .as_deref()
            .map(|bytes| serde_json::from_slice(bytes).unwrap());
        if raw.key.as_deref() == Some(MARK) {
            return part.mark(&value.ok_or("a mark without a value")?);
        }
        let key = raw.key_text().to_owned();
        part.open = true;
        part.touched.insert(key.clone());
        match value {
            Some(value) => part.stored.insert(key, value),
            None => part.stored.remove(&key),
        };
        Ok(())
    }

    fn missing(&self, source_ends: &BTreeMap<String, Vec<i64>>) -> Option<String> {
        let source_topic = |name: &str| format!("{}.{name}", self.namespace);
        if self.own.is_some() {
            let group = format!(
                "{}.view.{}.{GENERATION}.intake",
                self.namespace, self.view.name
            );
            for (name, _) in &self.view.from {
                let ends = &source_ends[*name];
                let partitions = i32::try_from(ends.len()).unwrap();
                match committed(&self.bootstrap, &group, &source_topic(name), partitions) {
                    Ok(committed) if committed == *ends => {}
                    Ok(committed) => {
                        return Some(format!(
                            "{name} is taken in up to {committed:?} of {ends:?}"
                        ));
                    }
                    Err(error) => return Some(error),
                }
            }
        }
        let ends = match &self.own {
            Some(own) => own.ends(),
            None => source_ends[self.view.from[0].0].clone(),
        };
        let next: Vec<i64> = self.parts.iter().map(|part| part.next).collect();
        if next != ends {
            return Some(format!("marks are at {next:?} of {ends:?}"));
        }
        if self.parts.iter().any(|part| part.open) {
            return Some("values that no mark follows".to_owned());
        }
        if let Some(change) = self.to_come.values().next() {
            let count = self.to_come.len();
            return Some(format!("{count} are not in the input log, as {change:?}"));
        }
        if let Some(place) = self.refused.keys().next() {
            let count = self.refused.len();
            return Some(format!("{count} dead letters are missing, as {place}"));
        }
        self.uncovered(source_ends)
    }

    /// Marks say of each source partition how far it is covered: at rest, to its end.
    fn uncovered(&self, source_ends: &BTreeMap<String, Vec<i64>>) -> Option<String> {
        self.own.as_ref()?;
        for (from, (name, _)) in (0u32..).zip(&self.view.from) {
            for (partition, end) in (0i32..).zip(&source_ends[*name]) {
                let place = (from, partition, *end);
                if *end > 0 && !self.parts.iter().all(|part| part.covered.contains(&place)) {
                    return Some(format!("not all marks cover {name}-{partition} to {end}"));
                }
            }
        }
        None
    }
}

impl Part {
    fn mark(&mut self, mark: &Value) -> Result<(), String> {
        let next = mark["next"].as_i64().ok_or("a mark without next")?;
        if next < self.next {
            return Err(format!("the mark runs back from {} to {next}", self.next));
        }
        self.next = next;
        self.open = false;
        let covered = mark["covered"].as_array().into_iter().flatten();
        let number = |it: &Value, place: usize| it[place].as_i64().unwrap();
        self.covered = covered
            .map(|it| (number(it, 0) as u32, number(it, 1) as i32, number(it, 2)))
            .collect();
        while self.input.front().is_some_and(|(offset, _)| *offset < next) {
            let (offset, change) = self.input.pop_front().unwrap();
            self.touched.insert(change.key.clone());
            let folded = self.model.apply(&change);
            folded.map_err(|_| format!("the load makes nothing that a fold refuses: {offset}"))?;
        }
        for key in std::mem::take(&mut self.touched) {
            let expected = expected(&self.model, &key);
            let stored = self.stored.get(&key);
            if stored != expected.as_ref() {
                return Err(format!(
                    "at the mark {next} key '{key}' is {stored:?}, and the fold gives {expected:?}"
                ));
            }
        }
        Ok(())
    }
}

fn part(parts: &mut [Part], partition: i32) -> &mut Part {
    &mut parts[usize::try_from(partition).unwrap()]
}

/// What the state topic holds for a key.
fn expected(model: &Rows, key: &str) -> Option<Value> {
    match model.fold() {
        Fold::Replace | Fold::Fields { .. } => model.stored(key).map(|row| row.value.clone()),
        Fold::History { .. } => {
            let rows = model.history(key, i64::MAX);
            (!rows.is_empty()).then(|| rows.into_iter().map(|row| row.value).collect())
        }
        Fold::Aggregate(_) => model.get(key, i64::MAX).map(|row| row.value),
    }
}

/// Three unsigned LEB128 varints.
fn origin(bytes: &[u8]) -> Origin {
    let mut numbers = Vec::new();
    let (mut number, mut shift) = (0u64, 0);
    for byte in bytes {
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            numbers.push(number);
            (number, shift) = (0, 0);
        }
    }
    assert_eq!(numbers.len(), 3, "header hw-s: {bytes:?}");
    Origin {
        from: numbers[0] as u32,
        partition: numbers[1] as i32,
        offset: numbers[2] as i64,
    }
}
