//! Records as the log hands them over, and positions in it.
//!
//! The engine borrows a record for the time of a fold; what it keeps, it copies.

use data_encoding::{BASE64, DecodeError};
use std::fmt;
use std::sync::Arc;

/// One partition of a topic.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Where one record stands: printed as `<topic>-<partition>-<offset>`.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Position {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.topic, self.partition, self.offset)
    }
}

/// The text is no position: `<topic>-<partition>-<offset>` was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is written <topic>-<partition>-<offset>")]
pub struct InvalidPosition;

impl std::str::FromStr for Position {
    type Err = InvalidPosition;

    /// Reads from the right: topics may hold dashes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.rsplitn(3, '-');
        let offset: i64 = parse(parts.next())?;
        let partition: i32 = parse(parts.next())?;
        match parts.next() {
            Some(topic) if !topic.is_empty() => Ok(Self {
                topic: topic.into(),
                partition,
                offset,
            }),
            _ => Err(InvalidPosition),
        }
    }
}

fn parse<T: std::str::FromStr>(part: Option<&str>) -> Result<T, InvalidPosition> {
    part.and_then(|part| part.parse().ok())
        .ok_or(InvalidPosition)
}

/// A header: name and value; a null value is `None`.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// A record read from the log, borrowed from the client's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch, as the topic's `message.timestamp.type` has it; -1 if absent.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
}

impl Record<'_> {
    /// The last header of this name, as Kafka clients read them.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .rev()
            .find(|(n, _)| *n == name)
            .and_then(|(_, value)| *value)
    }

    pub fn position(&self) -> Position {
        Position {
            topic: self.topic.into(),
            partition: self.partition,
            offset: self.offset,
        }
    }
}

/// A record that is kept: a copy of what the client's buffer held.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct OwnedRecord {
    topic: Arc<str>,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Option<Bytes>)>,
}

/// In JSON: base64 (RFC 4648).
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Bytes(Vec<u8>);

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        BASE64.encode(&bytes.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = DecodeError;

    fn try_from(text: String) -> Result<Self, DecodeError> {
        BASE64.decode(text.as_bytes()).map(Self)
    }
}

impl OwnedRecord {
    pub fn new(record: &Record<'_>) -> Self {
        Self {
            topic: record.topic.into(),
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(Bytes::from),
            value: record.value.map(Bytes::from),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.map(Bytes::from)))
                .collect(),
        }
    }

    /// The last header of this name, as Kafka clients read them.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .and_then(|(_, value)| value.as_ref())
            .map(|value| value.0.as_slice())
    }

    /// Hands it over as the log did.
    pub fn with<T>(&self, f: impl FnOnce(&Record<'_>) -> T) -> T {
        f(&Record {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key.as_ref().map(|key| key.0.as_slice()),
            value: self.value.as_ref().map(|value| value.0.as_slice()),
            headers: &lent(
                self.headers
                    .iter()
                    .map(|(name, value)| (name, value.as_ref().map(|value| &value.0))),
            ),
        })
    }
}

fn lent<'a>(headers: impl Iterator<Item = (&'a String, Option<&'a Vec<u8>>)>) -> Vec<Header<'a>> {
    headers
        .map(|(name, value)| (name.as_str(), value.map(Vec::as_slice)))
        .collect()
}

/// A record to be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewRecord {
    pub topic: String,
    /// `None`: murmur2 over the key, as the Java clients do; without a key, any.
    pub partition: Option<i32>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since the epoch; `None`: now, by the writer's clock.
    pub timestamp: Option<i64>,
}

impl NewRecord {
    /// Hands it over as a log would, standing at `offset`; where partition and timestamp are left open, as 0.
    pub fn lend<T>(&self, offset: i64, f: impl FnOnce(&Record<'_>) -> T) -> T {
        f(&Record {
            topic: &self.topic,
            partition: self.partition.unwrap_or(0),
            offset,
            timestamp: self.timestamp.unwrap_or(0),
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &lent(
                self.headers
                    .iter()
                    .map(|(name, value)| (name, value.as_ref())),
            ),
        })
    }
}
