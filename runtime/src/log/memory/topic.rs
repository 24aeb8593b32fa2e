//! Topics: partitions, and the part of a topic's configuration that decides what may be written.

use super::partition::Partition;
use crate::log::{Error, Result, TopicSpec};
use headwater_engine::record::NewRecord;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kafka's `max.message.bytes`.
const MAX_MESSAGE_BYTES: usize = 1_048_588;
/// Kafka's `message.timestamp.after.max.ms`.
const TIMESTAMP_AFTER_MAX_MS: i64 = 3_600_000;

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) meta: Arc<Meta>,
    pub(super) partitions: Vec<Partition>,
}

/// What a writer needs to know, without the lock.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) name: Arc<str>,
    pub(super) id: String,
    pub(super) partitions: i32,
    pub(super) append_time: bool,
    compacted: bool,
    max_message_bytes: usize,
    timestamp_before_max_ms: i64,
    timestamp_after_max_ms: i64,
}

impl Meta {
    /// # Errors
    /// [`Error::Fatal`] for numbers that are none and for a topic without partitions.
    pub(super) fn new(spec: &TopicSpec, id: String) -> Result<Self> {
        if spec.partitions < 1 {
            return Err(refuse(spec, "it needs at least one partition".to_owned()));
        }
        Ok(Self {
            name: spec.name.as_str().into(),
            id,
            partitions: spec.partitions,
            append_time: text(&spec.config, "message.timestamp.type") == Some("LogAppendTime"),
            compacted: text(&spec.config, "cleanup.policy")
                .is_some_and(|it| it.contains("compact")),
            max_message_bytes: number(spec, "max.message.bytes")?.unwrap_or(MAX_MESSAGE_BYTES),
            timestamp_before_max_ms: number(spec, "message.timestamp.before.max.ms")?
                .unwrap_or(i64::MAX),
            timestamp_after_max_ms: number(spec, "message.timestamp.after.max.ms")?
                .unwrap_or(TIMESTAMP_AFTER_MAX_MS),
        })
    }

    /// Why a record may not be written here; `now` is the log's clock.
    pub(super) fn refusal(
        &self,
        record: &NewRecord,
        size: usize,
        timestamp: i64,
        now: i64,
    ) -> Option<String> {
        if size > self.max_message_bytes {
            return Some(format!(
                "it has about {size} bytes, the topic takes {} (max.message.bytes)",
                self.max_message_bytes
            ));
        }
        if self.compacted && record.key.is_none() {
            return Some("a compacted topic takes no record without a key".to_owned());
        }
        if !self.append_time
            && (timestamp.saturating_sub(now) > self.timestamp_after_max_ms
                || now.saturating_sub(timestamp) > self.timestamp_before_max_ms)
        {
            return Some(format!(
                "its timestamp {timestamp} is too far from the log's clock {now} \
                 (message.timestamp.before.max.ms, message.timestamp.after.max.ms)"
            ));
        }
        if let Some(partition) = record.partition
            && !(0..self.partitions).contains(&partition)
        {
            return Some(format!(
                "it names partition {partition}, the topic has {}",
                self.partitions
            ));
        }
        None
    }
}

fn text<'a>(config: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    config.get(name).map(String::as_str)
}

fn number<T: std::str::FromStr>(spec: &TopicSpec, name: &str) -> Result<Option<T>> {
    text(&spec.config, name)
        .map(|value| {
            value
                .parse()
                .map_err(|_| refuse(spec, format!("'{value}' is no number for {name}")))
        })
        .transpose()
}

fn refuse(spec: &TopicSpec, reason: String) -> Error {
    Error::Fatal {
        what: format!("create topic '{}'", spec.name),
        reason,
    }
}
