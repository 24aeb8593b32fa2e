//! Topics as files: `<topic>.ndjson`, one record a line with partition, offset, timestamp, key, value
//! and headers.
//!
//! Values that are JSON stand as JSON, other text as a string, and bytes that are no text as
//! `{"base64": "..."}`. Only committed records are written, by partition and offset.

use crate::error::Error;
use headwater_engine::record::{Record, TopicPartition};
use headwater_runtime::log::{Isolation, Log, Start};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long reading a topic may stand still before its end.
const DEADLINE: Duration = Duration::from_secs(30);

/// Writes every topic that exists. Returns how many records there were.
pub(crate) fn write(log: &dyn Log, topics: &[String], folder: &Path) -> Result<usize, Error> {
    std::fs::create_dir_all(folder).map_err(|source| Error::file("create", folder, source))?;
    let mut total = 0;
    for topic in topics {
        let Some(records) = read(log, topic)? else {
            continue;
        };
        let mut text = String::new();
        for line in records.values() {
            text.push_str(&line.to_string());
            text.push('\n');
        }
        total += records.len();
        let file = folder.join(format!("{topic}.ndjson"));
        std::fs::write(&file, text).map_err(|source| Error::file("write", &file, source))?;
    }
    Ok(total)
}

/// By partition and offset.
type Lines = BTreeMap<(i32, i64), Value>;

/// Every committed record of a topic, by partition and offset; `None` where there is no such topic.
fn read(log: &dyn Log, topic: &str) -> Result<Option<Lines>, Error> {
    let mut lines = Lines::new();
    let found = scan(log, topic, &mut |record| {
        lines.insert((record.partition, record.offset), line(record));
    })?;
    Ok(found.then_some(lines))
}

/// Hands over every committed record that a topic holds now; false where there is no such topic.
///
/// # Errors
/// The log's, and [`Error::Failed`] if it does not come to its end in time.
pub(crate) fn scan(
    log: &dyn Log,
    topic: &str,
    on: &mut dyn FnMut(&Record<'_>),
) -> Result<bool, Error> {
    let Some(partitions) = partitions(log, topic)? else {
        return Ok(false);
    };
    let starts: Vec<_> = partitions
        .into_iter()
        .map(|partition| (partition, Start::Earliest))
        .collect();
    scan_from(log, topic, &starts, on)?;
    Ok(true)
}

/// The partitions of a topic; `None` where there is no such topic.
pub(crate) fn partitions(log: &dyn Log, topic: &str) -> Result<Option<Vec<TopicPartition>>, Error> {
    let Some(Some(info)) = log.topics(&[topic.to_owned()])?.into_iter().next() else {
        return Ok(None);
    };
    let all = (0..info.partitions).map(|partition| TopicPartition::new(topic, partition));
    Ok(Some(all.collect()))
}

/// Hands over every committed record that partitions of a topic hold now, each from its start.
///
/// # Errors
/// As [`scan`].
pub(crate) fn scan_from(
    log: &dyn Log,
    topic: &str,
    starts: &[(TopicPartition, Start)],
    on: &mut dyn FnMut(&Record<'_>),
) -> Result<(), Error> {
    let partitions: Vec<TopicPartition> = starts
        .iter()
        .map(|(partition, _)| partition.clone())
        .collect();
    let ends: Vec<_> = partitions
        .iter()
        .cloned()
        .zip(log.ends(&partitions)?)
        .collect();
    scan_to(log, topic, starts, &ends, on)
}

/// Hands over every committed record of partitions of a topic whose offset is in the range.
///
/// # Errors
/// As [`scan`].
pub(crate) fn scan_between(
    log: &dyn Log,
    topic: &str,
    ranges: &[(TopicPartition, Range<i64>)],
    on: &mut dyn FnMut(&Record<'_>),
) -> Result<(), Error> {
    let starts: Vec<_> = ranges
        .iter()
        .map(|(partition, range)| (partition.clone(), Start::Offset(range.start)))
        .collect();
    let ends: Vec<_> = ranges
        .iter()
        .map(|(partition, range)| (partition.clone(), range.end))
        .collect();
    let end_of: BTreeMap<i32, i64> = ends
        .iter()
        .map(|(partition, end)| (partition.partition, *end))
        .collect();
    scan_to(log, topic, &starts, &ends, &mut |record| {
        if end_of
            .get(&record.partition)
            .is_some_and(|end| record.offset < *end)
        {
            on(record);
        }
    })
}

/// Until every partition is read to its end; what comes after that in the meantime may be among it.
fn scan_to(
    log: &dyn Log,
    topic: &str,
    starts: &[(TopicPartition, Start)],
    ends: &[(TopicPartition, i64)],
    on: &mut dyn FnMut(&Record<'_>),
) -> Result<(), Error> {
    let mut reader = log.reader(Isolation::ReadCommitted)?;
    reader.assign(starts)?;
    let mut deadline = Instant::now() + DEADLINE;
    loop {
        let behind = ends.iter().any(|(partition, end)| {
            *end > 0
                && reader
                    .position(partition)
                    .is_none_or(|position| position < *end)
        });
        if !behind {
            return Ok(());
        }
        let mut came = false;
        reader.poll(Duration::from_millis(100), &mut |record| {
            came = true;
            on(record);
        })?;
        if came {
            deadline = Instant::now() + DEADLINE;
        } else if Instant::now() > deadline {
            return Err(Error::failed(format!(
                "topic '{topic}' could not be read to its end: nothing came for {} s. Is a transaction of somebody open in it?",
                DEADLINE.as_secs()
            )));
        }
    }
}

fn line(record: &Record<'_>) -> Value {
    let headers: Map<String, Value> = record
        .headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.map_or(Value::Null, text_or_bytes)))
        .collect();
    json!({
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": headwater_engine::time::rfc3339(record.timestamp),
        "key": record.key.map_or(Value::Null, text_or_bytes),
        "value": record.value.map_or(Value::Null, |value| {
            serde_json::from_slice(value).unwrap_or_else(|_| text_or_bytes(value))
        }),
        "headers": headers,
    })
}

pub(crate) fn text_or_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::String(text.to_owned()),
        Err(_) => json!({ "base64": data_encoding::BASE64.encode(bytes) }),
    }
}
