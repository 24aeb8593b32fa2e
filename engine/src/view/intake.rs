//! The input log of a view whose sources cannot be it: several sources, or a key that is not the record's.
//!
//! The intake projects the records of all sources, orders them (semantics 5: of what waits, the oldest event time goes first) and gives the
//! records of the view's `-in` topic; marks in every partition of it say how far the sources are covered. Whoever calls writes them
//! in one transaction with the sources' offsets, so that the order, once taken, is the order for every reader.
//!
//! What waits is what is in the sources' logs, not what happened to be read first: an event goes only while every partition that has
//! more to come shows its next one.

use super::definition::{Change, Definition};
use super::latest;
use super::origin::{Covered, Mark, Origin, provenance_headers};
use crate::config::Input;
use crate::fault::Fault;
use crate::key::{Key, partition_of};
use crate::names;
use crate::record::{NewRecord, Record};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

#[derive(Debug)]
pub struct Intake {
    definition: Arc<Definition>,
    topic: String,
    /// Partitions of the input log.
    partitions: i32,
    lanes: BTreeMap<Place, Lane>,
}

/// A `from` entry and a partition of its source.
type Place = (u32, i32);

/// One source partition as one `from` entry reads it.
#[derive(Debug)]
struct Lane {
    /// What was read and did not go yet, in offset order.
    waiting: VecDeque<Waiting>,
    /// The next offset to be read.
    next: i64,
    /// How far it went.
    covered: Covered,
}

impl Lane {
    /// All below it went: the next offset of the source partition to be committed.
    fn reached(&self) -> i64 {
        self.waiting
            .front()
            .map_or(self.next, |event| event.origin.offset)
    }
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
            lanes: BTreeMap::new(),
        })
    }

    /// Starts a source partition at its committed offset.
    pub fn start(&mut self, source_topic: &str, partition: i32, next: i64) {
        for from in self.places(source_topic) {
            let covered = Covered {
                from,
                partition,
                next,
                time: i64::MIN,
                idle: true,
            };
            let lane = Lane {
                waiting: VecDeque::new(),
                next,
                covered,
            };
            self.lanes.insert((from, partition), lane);
        }
    }

    /// Forgets a source partition that is another's now, with what waits from it.
    pub fn stop(&mut self, source_topic: &str, partition: i32) {
        for from in self.places(source_topic) {
            self.lanes.remove(&(from, partition));
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
            if !self.lanes.contains_key(&place) {
                self.start(record.topic, record.partition, record.offset);
            }
            let known = self
                .lanes
                .get(&place)
                .is_some_and(|lane| record.offset < lane.next);
            if known {
                continue;
            }
            let projected = self.project(from, record);
            let Some(lane) = self.lanes.get_mut(&place) else {
                continue;
            };
            lane.next = record.offset + 1;
            match projected {
                Ok(Some(event)) => lane.waiting.push_back(event),
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
            if let Some(lane) = self.lanes.get_mut(&(from, partition)) {
                lane.next = lane.next.max(next);
            }
        }
    }

    /// The next offset of each source partition that is to be committed, as (topic, partition, next): all below it went.
    pub fn positions(&self) -> Vec<(&str, i32, i64)> {
        let mut positions: BTreeMap<(&str, i32), i64> = BTreeMap::new();
        for (place, lane) in &self.lanes {
            if let Some(topic) = self.definition.source_topic(place.0) {
                let next = positions.entry((topic, place.1)).or_insert(i64::MAX);
                *next = (*next).min(lane.reached());
            }
        }
        positions
            .into_iter()
            .map(|((topic, partition), next)| (topic, partition, next))
            .collect()
    }

    /// Events that were read from a source partition and did not go yet.
    pub fn waiting(&self, source_topic: &str, partition: i32) -> usize {
        self.places(source_topic)
            .into_iter()
            .filter_map(|from| self.lanes.get(&(from, partition)))
            .map(|lane| lane.waiting.len())
            .sum()
    }

    /// What may go now, as records of the input log: events in the order that counts from now on, then a mark for each partition.
    /// `behind` says of a source's topic and partition whether its log holds more than was read: while it does, and nothing of it
    /// waits here, no event goes, as that partition's next one may be older.
    pub fn drain(&mut self, behind: &dyn Fn(&str, i32) -> bool) -> Vec<NewRecord> {
        let behind: BTreeSet<Place> = self
            .lanes
            .keys()
            .filter(|(from, partition)| {
                let topic = self.definition.source_topic(*from);
                topic.is_some_and(|topic| behind(topic, *partition))
            })
            .copied()
            .collect();
        let mut records = Vec::new();
        while let Some(first) = self.oldest(&behind) {
            for event in self.pop(first) {
                records.push(NewRecord {
                    topic: self.topic.clone(),
                    partition: Some(partition_of(event.key.as_bytes(), self.partitions)),
                    key: Some(event.key.as_bytes().to_vec()),
                    value: event.value,
                    headers: provenance_headers(event.origin, event.time),
                    timestamp: None,
                });
            }
        }
        for (place, lane) in &mut self.lanes {
            lane.covered.next = lane.reached();
            lane.covered.idle = lane.waiting.is_empty() && !behind.contains(place);
        }
        let mark = Mark {
            next: 0,
            at: -1,
            clock: i64::MIN,
            covered: self.lanes.values().map(|lane| lane.covered).collect(),
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

    /// Where the oldest of the partitions' next events is, unless one that is not known yet may be older.
    fn oldest(&self, behind: &BTreeSet<Place>) -> Option<Place> {
        let mut first: Option<(i64, Place)> = None;
        for (place, lane) in &self.lanes {
            match lane.waiting.front() {
                Some(event) if first.is_none_or(|first| (event.time, *place) < first) => {
                    first = Some((event.time, *place));
                }
                None if behind.contains(place) => return None,
                _ => {}
            }
        }
        first.map(|(_, place)| place)
    }

    /// Takes out what one record is to all `from` entries that read its topic: one offset is committed for all of them.
    fn pop(&mut self, first: Place) -> Vec<Waiting> {
        let (topic, partition) = (self.definition.source_topic(first.0), first.1);
        let offset = |lane: &Lane| lane.waiting.front().map(|event| event.origin.offset);
        let of = self.lanes.get(&first).and_then(offset);
        let mut events = Vec::new();
        for (place, lane) in &mut self.lanes {
            let same = place.1 == partition
                && self.definition.source_topic(place.0) == topic
                && offset(lane) == of;
            if same && let Some(event) = lane.waiting.pop_front() {
                lane.covered.time = lane.covered.time.max(event.time);
                events.push(event);
            }
        }
        events
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
