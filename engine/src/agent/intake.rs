//! An agent's intake: from the events that trigger to the records of its own input log, one for each run.
//!
//! What is decided here is decided once, whatever restarts: whether an event triggers, the key of its runs, and with
//! `forEach` the rows that it is run for, all of which go at once. Events of several partitions go in the order of
//! their times, as far as they wait (semantics 5). A record that is refused goes through the log too, so that it ends
//! as every other trigger does; only where the source says so its partition stands still instead.

use super::input::{Log, Row};
use super::{Agent, Origin};
use crate::fault::{Fault, Reason};
use crate::intake::{Drained, Fence, TakeIn, Terms};
use crate::lookup::Views;
use crate::record::{NewRecord, OwnedRecord, Record};
use crate::source::Event;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The only entry that reads the origin, in a fence.
const ENTRY: u32 = 0;

#[derive(Debug)]
pub struct Intake {
    agent: Arc<Agent>,
    topic: String,
    /// Partitions of the input log.
    partitions: i32,
    lanes: BTreeMap<i32, Lane>,
}

/// One partition of the origin.
#[derive(Debug)]
struct Lane {
    /// What was read and did not go yet, in offset order.
    waiting: VecDeque<Waiting>,
    /// The next offset to be read.
    next: i64,
}

impl Lane {
    /// All below it went.
    fn reached(&self) -> i64 {
        self.waiting.front().map_or(self.next, |event| event.offset)
    }
}

#[derive(Debug)]
struct Waiting {
    time: i64,
    offset: i64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Ready(NewRecord),
    /// Its rows are to be read as it goes.
    Event(OwnedRecord, Box<Event>),
}

impl Intake {
    /// An intake for an agent with an input log of its own, of `partitions` partitions; `None` for others.
    pub fn new(agent: Arc<Agent>, partitions: i32) -> Option<Self> {
        Some(Self {
            topic: agent.input.clone()?,
            partitions,
            lanes: BTreeMap::new(),
            agent,
        })
    }

    fn origin(&self) -> &Origin {
        &self.agent.origin
    }

    fn log(&self) -> Log<'_> {
        Log {
            topic: &self.topic,
            partitions: self.partitions,
        }
    }

    fn is_origin(&self, topic: &str) -> bool {
        topic == self.origin().topic()
    }

    /// What is to wait of a record; `None`: it starts no run.
    fn admit(&self, record: &Record<'_>) -> Result<Option<Waiting>, Fault> {
        let Some(event) = self.agent.admit(record)? else {
            return Ok(None);
        };
        let time = event.time;
        let content = if self.agent.trigger.for_each.is_some() {
            Content::Event(OwnedRecord::new(record), Box::new(event))
        } else {
            let key = self.agent.key(&event)?;
            self.agent.once_key(&event, key.as_ref())?;
            Content::Ready(self.log().trigger(record, key.as_ref(), None)?)
        };
        Ok(Some(Waiting {
            time,
            offset: record.offset,
            content,
        }))
    }

    /// The runs that an event starts, with what the views hold now.
    fn runs(
        &self,
        record: &Record<'_>,
        mut event: Event,
        views: &dyn Views,
    ) -> Result<Vec<NewRecord>, Fault> {
        let rows = match &self.agent.trigger.for_each {
            Some(for_each) => for_each.rows(&event, views)?,
            None => Vec::new(),
        };
        rows.into_iter()
            .map(|(id, own, value)| {
                event.row = Some(value);
                let key = self.agent.row_key(&event, own)?;
                self.agent.once_key(&event, key.as_ref())?;
                let row = event.row.take().map(|value| Row { id, value });
                self.log().trigger(record, key.as_ref(), row.as_ref())
            })
            .collect()
    }

    /// A partition's next event, the oldest of them all, unless one that is not known yet may be older.
    fn oldest(&self, terms: &Terms<'_>) -> Option<(i32, i64)> {
        let mut first: Option<(i64, i32, i64)> = None;
        for (partition, lane) in &self.lanes {
            match lane.waiting.front() {
                Some(event) if first.is_none_or(|(time, _, _)| event.time < time) => {
                    first = Some((event.time, *partition, event.offset));
                }
                None if (terms.behind)(self.origin().topic(), *partition) => return None,
                _ => {}
            }
        }
        first.map(|(_, partition, offset)| (partition, offset))
    }

    fn go(&mut self, partition: i32, terms: &Terms<'_>, drained: &mut Drained) {
        let Some(event) = self
            .lanes
            .get_mut(&partition)
            .and_then(|lane| lane.waiting.pop_front())
        else {
            return;
        };
        let (record, of) = match event.content {
            Content::Ready(record) => {
                drained.records.push(record);
                return;
            }
            Content::Event(record, of) => (record, *of),
        };
        match record.with(|record| self.runs(record, of, terms.views)) {
            Ok(runs) => drained.records.extend(runs),
            Err(fault) if (terms.stops)(self.origin().topic(), partition, event.offset) => {
                if let Some(lane) = self.lanes.get_mut(&partition) {
                    lane.waiting.clear();
                    lane.next = event.offset;
                }
                drained.stopped.push((record, fault));
            }
            Err(fault) => match record.with(|record| self.log().refused(record, &fault)) {
                Ok(refused) => drained.records.push(refused),
                Err(fault) => drained.refused.push((record, fault)),
            },
        }
    }
}

impl TakeIn for Intake {
    fn start(&mut self, source_topic: &str, partition: i32, next: i64) {
        if self.is_origin(source_topic) {
            let lane = Lane {
                waiting: VecDeque::new(),
                next,
            };
            self.lanes.insert(partition, lane);
        }
    }

    fn stop(&mut self, source_topic: &str, partition: i32) {
        if self.is_origin(source_topic) {
            self.lanes.remove(&partition);
        }
    }

    fn check(&self, record: &Record<'_>) -> Option<Fault> {
        let fault = self.admit(record).err()?;
        // A chain that is too long is no bad record.
        (fault.reason != Reason::TooManyHops).then_some(fault)
    }

    fn take(&mut self, record: &Record<'_>) -> Vec<Fault> {
        let next = self.lanes.get(&record.partition).map(|lane| lane.next);
        if !self.is_origin(record.topic) || next.is_some_and(|next| record.offset < next) {
            return Vec::new();
        }
        let waiting = match self.admit(record) {
            Ok(waiting) => waiting,
            Err(fault) => match self.log().refused(record, &fault) {
                Ok(refused) => Some(Waiting {
                    time: record.timestamp,
                    offset: record.offset,
                    content: Content::Ready(refused),
                }),
                Err(fault) => return vec![fault],
            },
        };
        let lane = self.lanes.entry(record.partition).or_insert_with(|| Lane {
            waiting: VecDeque::new(),
            next: record.offset,
        });
        lane.next = record.offset + 1;
        lane.waiting.extend(waiting);
        Vec::new()
    }

    fn advance(&mut self, source_topic: &str, partition: i32, next: i64) {
        if self.is_origin(source_topic)
            && let Some(lane) = self.lanes.get_mut(&partition)
        {
            lane.next = lane.next.max(next);
        }
    }

    fn positions(&self) -> Vec<(&str, i32, i64)> {
        let topic = self.origin().topic();
        let lanes = self.lanes.iter();
        lanes
            .map(|(partition, lane)| (topic, *partition, lane.reached()))
            .collect()
    }

    fn waiting(&self, source_topic: &str, partition: i32) -> usize {
        let lane = self.lanes.get(&partition);
        lane.filter(|_| self.is_origin(source_topic))
            .map_or(0, |lane| lane.waiting.len())
    }

    fn fence(&self) -> Fence {
        let lanes = self.lanes.iter();
        Fence::new(lanes.map(|(partition, lane)| ((ENTRY, *partition), lane.next)))
    }

    fn drain_under(&mut self, terms: &Terms<'_>) -> Drained {
        let mut drained = Drained::default();
        while let Some((partition, offset)) = self.oldest(terms) {
            if !terms.fence.lets_go((ENTRY, partition), offset) {
                drained.fenced = true;
                break;
            }
            self.go(partition, terms, &mut drained);
        }
        drained.events = drained.records.len();
        drained
    }
}
