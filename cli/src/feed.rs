//! Feeds events from files, in their order.
//!
//! An event that starts runs is answered before events of a later time go in: files are a recorded
//! morning, and what happened at ten was not known at nine. Sources that one view is folded from wait
//! for each other in the same way, so that the view sees their events in the order of their times.
//! Everything else is written at once.

use crate::error::Error;
use crate::folder::events::Event;
use crate::screen::Fed;
use headwater_engine::config::{self, Format};
use headwater_engine::record::{NewRecord, Record};
use headwater_engine::source::Source;
use headwater_runtime::log::Writer;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A source that events are fed to.
pub(crate) struct Target {
    pub(crate) topic: String,
    format: Format,
    source: Source,
    pub(crate) starts_runs: bool,
    /// Other sources of the views that this one is in.
    siblings: BTreeSet<String>,
}

impl Target {
    pub(crate) fn new(
        config: &config::Source,
        starts_runs: bool,
        siblings: BTreeSet<String>,
    ) -> Result<Self, Error> {
        Ok(Self {
            topic: config.topic.clone(),
            format: config.format,
            source: Source::compile(config).map_err(|error| Error::refused(error.to_string()))?,
            starts_runs,
            siblings,
        })
    }

    /// The record as it stands in the file. Whether it fits the source is the readers' to say: a file
    /// may hold bad records on purpose.
    fn record(&self, event: &Event) -> NewRecord {
        let value = match (&event.value, self.format) {
            (Value::Null, _) => None,
            (Value::String(text), Format::Text) => Some(text.clone().into_bytes()),
            (value, _) => Some(value.to_string().into_bytes()),
        };
        let headers = event
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), Some(value.clone().into_bytes())));
        let mut record = NewRecord {
            topic: self.topic.clone(),
            partition: None,
            key: event.key.clone().map(String::into_bytes),
            value,
            headers: headers.collect(),
            timestamp: event.timestamp,
        };
        if record.key.is_none() {
            record.key = self.key(&record);
        }
        record
    }

    /// The key that the source's expression gives, if it does.
    fn key(&self, record: &NewRecord) -> Option<Vec<u8>> {
        let borrowed = Record {
            topic: &record.topic,
            partition: 0,
            offset: 0,
            timestamp: record.timestamp.unwrap_or_default(),
            key: None,
            value: record.value.as_deref(),
            headers: &[],
        };
        let event = self.source.decode(&borrowed).ok()?;
        event.key.map(|key| key.as_str().as_bytes().to_vec())
    }
}

/// Events that go in together; what they lead to has to end before the next batch.
pub(crate) struct Batch {
    records: Vec<NewRecord>,
    pub(crate) fed: Vec<Fed>,
    /// They start runs.
    pub(crate) starts_runs: bool,
}

/// Cuts events into batches: those that start runs apart from those that do not, and sources of one view
/// apart from each other.
pub(crate) fn batches(
    events: &[Event],
    targets: &BTreeMap<String, Target>,
) -> Result<Vec<Batch>, Error> {
    let mut batches: Vec<Batch> = Vec::new();
    for event in events {
        let target = targets.get(&event.source).ok_or_else(|| {
            Error::usage(format!(
                "{}: source '{}' is not one that runs here",
                event.at, event.source
            ))
        })?;
        let joins = |batch: &Batch| {
            batch.starts_runs == target.starts_runs
                && !batch
                    .fed
                    .iter()
                    .any(|fed| target.siblings.contains(&fed.source))
        };
        if !batches.last().is_some_and(joins) {
            batches.push(Batch {
                records: Vec::new(),
                fed: Vec::new(),
                starts_runs: target.starts_runs,
            });
        }
        let Some(batch) = batches.last_mut() else {
            continue;
        };
        batch.records.push(target.record(event));
        match batch.fed.iter_mut().find(|fed| fed.source == event.source) {
            Some(fed) => fed.events += 1,
            None => batch.fed.push(Fed {
                source: event.source.clone(),
                topic: target.topic.clone(),
                events: 1,
            }),
        }
    }
    Ok(batches)
}

impl Batch {
    /// Writes it, in order.
    pub(crate) fn write(&self, writer: &mut dyn Writer) -> Result<(), Error> {
        writer.write(&self.records)?;
        Ok(())
    }
}
