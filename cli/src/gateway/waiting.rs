//! Waits for a run's end and for what it wrote, with a reader of its own.

use super::missing;
use crate::control::Output;
use crate::error::Error;
use headwater_engine::audit;
use headwater_engine::config;
use headwater_engine::names::header;
use headwater_engine::record::{Position, TopicPartition};
use headwater_runtime::log::{Isolation, Log, Reader, Start};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long one poll waits for a record.
const POLL: Duration = Duration::from_millis(100);

/// A reader of an agent's runs and outputs, from before the trigger was written.
pub(super) struct Waiting {
    reader: Box<dyn Reader>,
    runs: String,
    partitions: Vec<TopicPartition>,
    found: BTreeMap<(String, i32, i64), (String, Value)>,
    finished: Vec<audit::Record>,
}

impl Waiting {
    pub(super) fn begin(log: &dyn Log, agent: &config::Agent) -> Result<Self, Error> {
        let runs = agent.topics.runs.clone();
        let mut topics: BTreeSet<String> = agent
            .outputs
            .iter()
            .map(|output| output.topic.clone())
            .collect();
        topics.insert(runs.clone());
        let topics: Vec<String> = topics.into_iter().collect();
        let mut partitions = Vec::new();
        for (topic, info) in topics.iter().zip(log.topics(&topics)?) {
            let info = info.ok_or_else(|| missing(topic))?;
            partitions.extend(
                (0..info.partitions)
                    .map(|partition| TopicPartition::new(topic.as_str(), partition)),
            );
        }
        let ends = log.ends(&partitions)?;
        let mut reader = log.reader(Isolation::ReadCommitted)?;
        let starts: Vec<_> = partitions
            .iter()
            .cloned()
            .zip(ends)
            .map(|(partition, end)| (partition, Start::Offset(end)))
            .collect();
        reader.assign(&starts)?;
        Ok(Self {
            reader,
            runs,
            partitions,
            found: BTreeMap::new(),
            finished: Vec::new(),
        })
    }

    fn poll(&mut self) -> Result<(), Error> {
        let Self {
            reader,
            runs,
            found,
            finished,
            ..
        } = self;
        reader.poll(POLL, &mut |record| {
            if record.topic == runs {
                finished.extend(
                    record
                        .value
                        .and_then(|value| audit::Record::read(value).ok()),
                );
            } else if let (Some(trigger), Some(value)) =
                (record.header(header::TRIGGER), record.value)
            {
                let at = (record.topic.to_owned(), record.partition, record.offset);
                let value = serde_json::from_slice(value)
                    .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(value).into_owned()));
                found.insert(at, (String::from_utf8_lossy(trigger).into_owned(), value));
            }
        })?;
        Ok(())
    }

    /// The record of the trigger's run; `None` if there is none before the deadline.
    pub(super) fn run(
        &mut self,
        trigger: &Position,
        deadline: Instant,
    ) -> Result<Option<audit::Record>, Error> {
        loop {
            if let Some(run) = self
                .finished
                .drain(..)
                .find(|run| run.trigger.position == *trigger)
            {
                return Ok(Some(run));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            self.poll()?;
        }
    }

    /// What the run wrote. It was committed with the run's record, but partitions show a commit one by
    /// one: what was there when the record was seen has to be read.
    pub(super) fn outputs(
        mut self,
        log: &dyn Log,
        agent: &config::Agent,
        trigger: &Position,
        deadline: Instant,
    ) -> Result<Vec<Output>, Error> {
        let ends = log.ends(&self.partitions)?;
        while Instant::now() <= deadline {
            let Self {
                reader, partitions, ..
            } = &mut self;
            let there = partitions.iter().zip(&ends).all(|(partition, end)| {
                reader
                    .position(partition)
                    .is_some_and(|position| position >= *end)
            });
            if there {
                break;
            }
            self.poll()?;
        }
        let trigger = trigger.to_string();
        let outputs = self
            .found
            .into_iter()
            .filter(|(_, (own, _))| *own == trigger);
        Ok(outputs
            .map(|((topic, partition, offset), (_, value))| Output {
                source: agent
                    .outputs
                    .iter()
                    .find(|output| output.topic == topic)
                    .map(|output| output.source.clone())
                    .unwrap_or_default(),
                position: format!("{topic}-{partition}-{offset}"),
                value,
            })
            .collect())
    }
}
