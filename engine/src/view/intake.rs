//! The input log of a view whose sources cannot be it: several sources, or a key that is not the record's.
//!
//! The intake projects the records of all sources, orders them (semantics 5: of what waits, the oldest event time goes first) and gives the
//! records of the view's `-in` topic; marks in every partition of it say how far the sources are covered. Whoever calls writes them
//! in one transaction with the sources' offsets, so that the order, once taken, is the order for every reader.
//!
//! What waits is what is in the sources' logs, not what happened to be read first: an event goes only while every partition that has
//! more to come shows its next one.
//!
//! Events of entries with joins wait as records, and are projected as they go: then, and in that order, their joins are read. Whoever
//! calls says with a [`Fence`] what was read before it asked where the joined views' sources end; what was read later waits for the next.

use super::definition::{Change, Definition};
use super::latest;
use super::origin::{Covered, Mark, Origin, provenance_headers};
use crate::config::Input;
use crate::fault::Fault;
use crate::intake::{Drained, Fence, Place, TakeIn, Terms};
use crate::json::scan::Scanner;
use crate::key::{Key, partition_of};
use crate::lookup::{NoViews, Views};
use crate::names::{self, header};
use crate::record::{NewRecord, OwnedRecord, Record};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

#[derive(Debug)]
pub struct Intake {
    definition: Arc<Definition>,
    topic: String,
    /// Partitions of the input log.
    partitions: i32,
    lanes: BTreeMap<Place, Lane>,
    /// Of each entry, all entries that read its topic, itself among them.
    siblings: Vec<Vec<u32>>,
}

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
    time: i64,
    origin: Origin,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Projected(Put, Chain),
    /// Its joins are to be read as it goes.
    Record(OwnedRecord),
}

/// Where the chain of agents began that led to an event, and how long it is: headers of its record, where it has them.
type Chain = Vec<(String, Option<Vec<u8>>)>;

fn chain(record: &Record<'_>) -> Chain {
    [header::ROOT, header::HOPS]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), Some(record.header(name)?.to_vec()))))
        .collect()
}

/// A key and its value; `None`: the key goes.
#[derive(Debug)]
struct Put {
    key: Key,
    value: Option<Vec<u8>>,
}

impl Intake {
    /// An intake for a view with an input log of its own, of `partitions` partitions; `None` for other views.
    pub fn new(definition: Arc<Definition>, partitions: i32) -> Option<Self> {
        let Input::Own { topic } = definition.input() else {
            return None;
        };
        let topics = || definition.source_topics().zip(0u32..);
        let siblings = topics()
            .map(|(topic, _)| {
                topics()
                    .filter(|(other, _)| *other == topic)
                    .map(|(_, from)| from)
                    .collect()
            })
            .collect();
        Some(Self {
            topic: topic.clone(),
            partitions,
            lanes: BTreeMap::new(),
            siblings,
            definition,
        })
    }

    fn admit(&self, from: u32, record: &Record<'_>) -> Result<Option<Waiting>, Fault> {
        let origin = Origin {
            from,
            partition: record.partition,
            offset: record.offset,
        };
        if self.definition.has_joins(from) {
            let time = self
                .definition
                .admit(from, record, &mut Scanner::default())?;
            return Ok(time.map(|time| Waiting {
                time,
                origin,
                content: Content::Record(OwnedRecord::new(record)),
            }));
        }
        let projected = self.project(from, record, &NoViews)?;
        Ok(projected.map(|(time, put)| Waiting {
            time,
            origin,
            content: Content::Projected(put, chain(record)),
        }))
    }

    fn project(
        &self,
        from: u32,
        record: &Record<'_>,
        views: &dyn Views,
    ) -> Result<Option<(i64, Put)>, Fault> {
        let mut scanner = Scanner::default();
        let mut event = self.definition.lend(from, record, &mut scanner);
        let event = event.as_mut().map_err(|fault| fault.clone());
        let projected = self.definition.project(from, event, views, |event| {
            let value = match event.change {
                Change::Drop => None,
                Change::Put(document) => {
                    let mut room = Vec::new();
                    let kept = document.kept(&mut room);
                    latest::check_size(kept.len())?;
                    Some(kept.to_vec())
                }
            };
            let put = Put {
                key: event.key.to_key(),
                value,
            };
            Ok((event.time, put))
        })?;
        projected.transpose()
    }

    fn mark(&mut self, behind: &BTreeSet<Place>, records: &mut Vec<NewRecord>) {
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
    }

    /// Where the oldest of the partitions' next events is, with its offset, unless one that is not known yet may be older.
    ///
    /// Entries that read one topic go through a partition of it together, in its order: one offset is committed for all of them, so an
    /// event that overtook another entry's would be written again after a crash.
    fn oldest(&self, behind: &BTreeSet<Place>) -> Option<(Place, i64)> {
        let mut first: Option<(i64, Place, i64)> = None;
        for (place, lane) in &self.lanes {
            let next = self.next_offset(*place);
            match lane.waiting.front() {
                Some(event)
                    if next == Some(event.origin.offset)
                        && first.is_none_or(|(time, other, _)| {
                            (event.time, *place) < (time, other)
                        }) =>
                {
                    first = Some((event.time, *place, event.origin.offset));
                }
                None if next.is_none() && behind.contains(place) => return None,
                _ => {}
            }
        }
        first.map(|(_, place, offset)| (place, offset))
    }

    /// The lowest offset that waits in a partition, for any entry that reads it.
    fn next_offset(&self, (from, partition): Place) -> Option<i64> {
        self.siblings
            .get(from as usize)?
            .iter()
            .filter_map(|from| self.lanes.get(&(*from, partition))?.waiting.front())
            .map(|event| event.origin.offset)
            .min()
    }

    /// Lets go what one record is to all `from` entries that read its topic: one offset is committed for all of them.
    fn go(&mut self, first: Place, offset: i64, terms: &Terms<'_>, drained: &mut Drained) {
        let mut puts = Vec::new();
        let mut fault: Option<(OwnedRecord, Fault)> = None;
        for place in self.siblings(first) {
            let Some(event) = self.take_front(place, offset) else {
                continue;
            };
            let put = match event.content {
                Content::Projected(put, chain) => Ok(Some((put, chain))),
                Content::Record(record) => {
                    let projected = record.with(|record| {
                        let projected = self.project(place.0, record, terms.views)?;
                        Ok(projected.map(|(_, put)| (put, chain(record))))
                    });
                    projected.map_err(|found| (record, found))
                }
            };
            match put {
                Ok(put) => puts.extend(put.map(|put| (put, event.time, event.origin, place))),
                Err(found) => fault = fault.or(Some(found)),
            }
        }
        let topic = self.definition.source_topic(first.0);
        if fault.is_some() && topic.is_some_and(|topic| (terms.stops)(topic, first.1, offset)) {
            self.halt(first, offset);
            drained.stopped.extend(fault);
            return;
        }
        drained.refused.extend(fault);
        for ((put, chain), time, origin, place) in puts {
            let mut headers = provenance_headers(origin, time);
            headers.extend(chain);
            if let Some(lane) = self.lanes.get_mut(&place) {
                lane.covered.time = lane.covered.time.max(time);
            }
            drained.records.push(NewRecord {
                topic: self.topic.clone(),
                partition: Some(partition_of(put.key.as_bytes(), self.partitions)),
                key: Some(put.key.as_bytes().to_vec()),
                value: put.value,
                headers,
                timestamp: None,
            });
        }
    }

    fn take_front(&mut self, place: Place, offset: i64) -> Option<Waiting> {
        let lane = self.lanes.get_mut(&place)?;
        lane.waiting
            .pop_front_if(|event| event.origin.offset == offset)
    }

    /// Nothing from this offset on goes.
    fn halt(&mut self, first: Place, offset: i64) {
        for place in self.siblings(first) {
            if let Some(lane) = self.lanes.get_mut(&place) {
                lane.waiting.clear();
                lane.next = offset;
            }
        }
    }

    /// All entries that read the same partition of the same topic.
    fn siblings(&self, (from, partition): Place) -> Vec<Place> {
        let all = self.siblings.get(from as usize).into_iter().flatten();
        all.map(|from| (*from, partition)).collect()
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

impl TakeIn for Intake {
    fn start(&mut self, source_topic: &str, partition: i32, next: i64) {
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

    fn stop(&mut self, source_topic: &str, partition: i32) {
        for from in self.places(source_topic) {
            self.lanes.remove(&(from, partition));
        }
    }

    fn check(&self, record: &Record<'_>) -> Option<Fault> {
        self.places(record.topic)
            .into_iter()
            .find_map(|from| self.admit(from, record).err())
    }

    fn take(&mut self, record: &Record<'_>) -> Vec<Fault> {
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
            let projected = self.admit(from, record);
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

    fn advance(&mut self, source_topic: &str, partition: i32, next: i64) {
        for from in self.places(source_topic) {
            if let Some(lane) = self.lanes.get_mut(&(from, partition)) {
                lane.next = lane.next.max(next);
            }
        }
    }

    fn positions(&self) -> Vec<(&str, i32, i64)> {
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

    fn waiting(&self, source_topic: &str, partition: i32) -> usize {
        self.places(source_topic)
            .into_iter()
            .filter_map(|from| self.lanes.get(&(from, partition)))
            .map(|lane| lane.waiting.len())
            .sum()
    }

    fn fence(&self) -> Fence {
        Fence::new(self.lanes.iter().map(|(place, lane)| (*place, lane.next)))
    }

    fn drain_under(&mut self, terms: &Terms<'_>) -> Drained {
        let behind: BTreeSet<Place> = self
            .lanes
            .keys()
            .filter(|(from, partition)| {
                let topic = self.definition.source_topic(*from);
                topic.is_some_and(|topic| (terms.behind)(topic, *partition))
            })
            .copied()
            .collect();
        let mut drained = Drained::default();
        while let Some((first, offset)) = self.oldest(&behind) {
            if !terms.fence.lets_go(first, offset) {
                drained.fenced = true;
                break;
            }
            self.go(first, offset, terms, &mut drained);
        }
        drained.events = drained.records.len();
        self.mark(&behind, &mut drained.records);
        drained
    }
}
