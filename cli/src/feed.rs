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
use headwater_engine::fault::Fault;
use headwater_engine::key::Key;
use headwater_engine::record::{NewRecord, Record};
use headwater_engine::source::Source;
use headwater_runtime::log::Writer;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Records that are written at once.
const AT_ONCE: usize = 2_000;

/// A source that events are fed to.
pub(crate) struct Target {
    pub(crate) topic: String,
    format: Format,
    source: Source,
    pub(crate) starts_runs: bool,
    /// Other sources of the views that this one is in; absent where no view is folded from it.
    siblings: Option<BTreeSet<String>>,
}

impl Target {
    pub(crate) fn new(
        config: &config::Source,
        starts_runs: bool,
        siblings: Option<BTreeSet<String>>,
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
    fn record(&self, event: &Event, keys: &mut Keys<'_>) -> NewRecord {
        let value = event.value.as_ref().map(|raw| match self.format {
            Format::Text => {
                serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
            }
            _ => raw.get().to_owned(),
        });
        let headers = event
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), Some(value.clone().into_bytes())));
        let mut record = NewRecord {
            topic: self.topic.clone(),
            partition: None,
            key: event.key.clone().map(String::into_bytes),
            value: value.map(String::into_bytes),
            headers: headers.collect(),
            timestamp: event.timestamp,
        };
        if record.key.is_none() {
            record.key = key(&record, keys);
        }
        record
    }
}

type Keys<'a> = dyn FnMut(&Record<'_>) -> Result<Option<Key>, Fault> + 'a;

/// The key that the source's expression gives, if it does.
fn key(record: &NewRecord, keys: &mut Keys<'_>) -> Option<Vec<u8>> {
    let borrowed = Record {
        topic: &record.topic,
        partition: 0,
        offset: 0,
        timestamp: record.timestamp.unwrap_or_default(),
        key: None,
        value: record.value.as_deref(),
        headers: &[],
    };
    let key = keys(&borrowed).ok()??;
    Some(key.as_str().as_bytes().to_vec())
}

/// Events that go in together; what they lead to has to end before the next batch.
pub(crate) struct Batch {
    /// Of all events, in their order.
    events: Range<usize>,
    /// Time of the last one.
    until: Option<i64>,
    pub(crate) fed: Vec<Fed>,
    /// They start runs.
    pub(crate) starts_runs: bool,
}

/// Cuts events into batches: those that start runs apart from those that do not, sources of one view apart
/// from each other, and of events that start runs and are folded too, each time apart.
pub(crate) fn batches(
    events: &[Event],
    targets: &BTreeMap<String, Target>,
) -> Result<Vec<Batch>, Error> {
    let mut batches: Vec<Batch> = Vec::new();
    for (place, event) in events.iter().enumerate() {
        let target = targets.get(&*event.source).ok_or_else(|| {
            Error::usage(format!(
                "{}: source '{}' is not one that runs here",
                event.at, event.source
            ))
        })?;
        let meets = |fed: &Fed| {
            let siblings = target.siblings.as_ref();
            siblings.is_some_and(|siblings| siblings.contains(&fed.source))
        };
        // A run would see what came after its own event.
        let shows_later = |batch: &Batch| {
            target.starts_runs && target.siblings.is_some() && event.timestamp > batch.until
        };
        let joins = |batch: &Batch| {
            batch.starts_runs == target.starts_runs
                && !batch.fed.iter().any(meets)
                && !shows_later(batch)
        };
        if !batches.last().is_some_and(joins) {
            batches.push(Batch {
                events: place..place,
                until: None,
                fed: Vec::new(),
                starts_runs: target.starts_runs,
            });
        }
        let Some(batch) = batches.last_mut() else {
            continue;
        };
        batch.events.end = place + 1;
        batch.until = event.timestamp;
        match batch
            .fed
            .iter_mut()
            .find(|fed| *fed.source == *event.source)
        {
            Some(fed) => fed.events += 1,
            None => batch.fed.push(Fed {
                source: event.source.to_string(),
                topic: target.topic.clone(),
                events: 1,
            }),
        }
    }
    Ok(batches)
}

impl Batch {
    /// Writes it, in order, a part at a time: stages work on one while the next is made.
    pub(crate) fn write(
        &self,
        events: &[Event],
        targets: &BTreeMap<String, Target>,
        writer: &mut dyn Writer,
    ) -> Result<(), Error> {
        let events = events.get(self.events.clone()).unwrap_or_default();
        let mut sources: BTreeMap<&str, (&Target, Box<Keys<'_>>)> = targets
            .iter()
            .map(|(name, target)| (name.as_str(), (target, Box::new(target.source.keys()) as _)))
            .collect();
        for part in events.chunks(AT_ONCE) {
            let record = |event: &Event| {
                let (target, keys) = sources.get_mut(&*event.source)?;
                Some(target.record(event, &mut **keys))
            };
            let records: Vec<NewRecord> = part.iter().filter_map(record).collect();
            writer.write(&records)?;
        }
        Ok(())
    }
}
