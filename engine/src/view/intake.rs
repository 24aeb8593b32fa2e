//! The input log of a view whose sources cannot be it: several sources, or a key that is not the record's.
//!
//! The intake projects the records of all sources, orders them (semantics 5: of what waits, the oldest event time goes first) and gives the
//! records of the view's `-in` topic; marks in every partition of it say how far the sources are covered. Whoever calls writes them
//! in one transaction with the sources' offsets, so that the order, once taken, is the order for every reader.

use super::definition::{Change, Definition};
use super::latest;
use super::origin::{Covered, Mark, Origin, provenance_headers};
use crate::config::Input;
use crate::fault::Fault;
use crate::key::{Key, partition_of};
use crate::names;
use crate::record::{NewRecord, Record};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug)]
pub struct Intake {
    definition: Arc<Definition>,
    topic: String,
    /// Partitions of the input log.
    partitions: i32,
    waiting: Vec<Waiting>,
    covered: BTreeMap<(u32, i32), Covered>,
}

/// An event on its way to the input log.
#[derive(Debug)]
struct Waiting {
    key: Key,
    /// `None`: the key goes.
    value: Option<Vec<u8>>,
    time: i64,
    origin: Origin,
}

impl Intake {
    /// An intake for a view with an input log of its own, of `partitions` partitions; `None` for other views.
    pub fn new(definition: Arc<Definition>, partitions: i32) -> Option<Self> {
        let Input::Own { topic } = definition.input() else {
            return None;
        };
        Some(Self {
            topic: topic.clone(),
            definition,
            partitions,
            waiting: Vec::new(),
            covered: BTreeMap::new(),
        })
    }

    /// Starts a source partition at its committed offset.
    pub fn start(&mut self, source_topic: &str, partition: i32, next: i64) {
        for from in self.places(source_topic) {
            self.covered.insert(
                (from, partition),
                Covered { from, partition, next, time: i64::MIN, idle: true },
            );
        }
    }

    /// Forgets a source partition that is another's now, with what waits from it.
    pub fn stop(&mut self, source_topic: &str, partition: i32) {
        for from in self.places(source_topic) {
            self.covered.remove(&(from, partition));
            self.waiting
                .retain(|event| (event.origin.from, event.origin.partition) != (from, partition));
        }
    }

    /// What [`Intake::take`] would refuse of a record, without taking it: for sources that stop at a bad record.
    pub fn check(&self, record: &Record<'_>) -> Option<Fault> {
        self.places(record.topic)
            .into_iter()
            .find_map(|from| self.project(from, record).err())
    }

    /// Takes a record of a source, in offset order. Gives the faults of the `from` entries that refuse it.
    pub fn take(&mut self, record: &Record<'_>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for from in self.places(record.topic) {
            let place = (from, record.partition);
            if self.covered.get(&place).is_some_and(|covered| record.offset < covered.next) {
                continue;
            }
            let projected = self.project(from, record);
            let covered = self.covered.entry(place).or_insert_with(|| Covered {
                from,
                partition: record.partition,
                next: 0,
                time: i64::MIN,
                idle: true,
            });
            covered.next = record.offset + 1;
            match projected {
                Ok(Some(event)) => {
                    covered.time = covered.time.max(event.time);
                    self.waiting.push(event);
                }
                Ok(None) => {}
                Err(fault) => faults.push(fault),
            }
        }
        faults
    }

    fn project(&self, from: u32, record: &Record<'_>) -> Result<Option<Waiting>, Fault> {
        let Some(event) = self.definition.project(from, record)? else {
            return Ok(None);
        };
        let value = match &event.change {
            Change::Drop => None,
            Change::Put(value) => Some(latest::encode(value)?.into_vec()),
        };
        Ok(Some(Waiting {
            key: event.key,
            value,
            time: event.time,
            origin: event.origin,
        }))
    }

    /// Takes note that a source partition was read up to `next`, past records that are no data.
    pub fn advance(&mut self, source_topic: &str, partition: i32, next: i64) {
        for from in self.places(source_topic) {
            if let Some(covered) = self.covered.get_mut(&(from, partition)) {
                covered.next = covered.next.max(next);
            }
        }
    }

    /// The next offset of each source partition, as (topic, partition, next).
    pub fn positions(&self) -> Vec<(&str, i32, i64)> {
        let mut positions: BTreeMap<(&str, i32), i64> = BTreeMap::new();
        for covered in self.covered.values() {
            if let Some(topic) = self.definition.source_topic(covered.from) {
                positions.insert((topic, covered.partition), covered.next);
            }
        }
        positions
            .into_iter()
            .map(|((topic, partition), next)| (topic, partition, next))
            .collect()
    }

    /// Everything taken since the last call, as records of the input log: events in the order that counts from now on, then a mark
    /// for each partition. `drained`: nothing more is waiting in the sources at the moment, so no clock has to wait for them.
    pub fn drain(&mut self, drained: bool) -> Vec<NewRecord> {
        let mut events = std::mem::take(&mut self.waiting);
        order(&mut events);
        let mut records: Vec<NewRecord> = events
            .into_iter()
            .map(|event| NewRecord {
                topic: self.topic.clone(),
                partition: Some(partition_of(event.key.as_bytes(), self.partitions)),
                key: Some(event.key.as_bytes().to_vec()),
                value: event.value,
                headers: provenance_headers(event.origin, event.time),
                timestamp: None,
            })
            .collect();
        for covered in self.covered.values_mut() {
            covered.idle = drained;
        }
        let mark = Mark {
            next: 0,
            at: -1,
            clock: i64::MIN,
            covered: self.covered.values().copied().collect(),
        };
        let mark = serde_json::to_vec(&mark).unwrap_or_default();
        records.extend((0..self.partitions).map(|partition| NewRecord {
            topic: self.topic.clone(),
            partition: Some(partition),
            key: Some(names::MARK_KEY.to_vec()),
            value: Some(mark.clone()),
            headers: Vec::new(),
            timestamp: None,
        }));
        records
    }

    fn places(&self, topic: &str) -> Vec<u32> {
        self.definition
            .source_topics()
            .zip(0u32..)
            .filter(|(source, _)| *source == topic)
            .map(|(_, place)| place)
            .collect()
    }
}

/// Oldest event time first among the heads of all source partitions; each partition keeps its order.
fn order(events: &mut Vec<Waiting>) {
    // An event can go only after those before it in its partition: its place is the highest event time up to it there.
    let mut highest: BTreeMap<(u32, i32), i64> = BTreeMap::new();
    let keyed: Vec<i64> = events
        .iter()
        .map(|event| {
            let time = highest
                .entry((event.origin.from, event.origin.partition))
                .or_insert(i64::MIN);
            *time = (*time).max(event.time);
            *time
        })
        .collect();
    let mut sorted: Vec<(i64, Waiting)> = keyed
        .into_iter()
        .zip(events.drain(..))
        .collect();
    sorted.sort_by_key(|(time, event)| (*time, event.origin));
    events.extend(sorted.into_iter().map(|(_, event)| event));
}
