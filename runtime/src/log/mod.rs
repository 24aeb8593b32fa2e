//! The log: what the data plane asks of Kafka, as a trait with two implementations.
//!
//! [`memory`] holds everything in this process, for `headwater up`, tests and simulation;
//! [`kafka`] is librdkafka. One conformance suite holds both to the same behaviour. All calls block
//! for at most the time they are given: a stage drives them from threads of its own, never from
//! the async executor's.

pub mod kafka;
pub mod memory;

use headwater_engine::record::{NewRecord, Record, TopicPartition};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// What can go wrong on the log, by what the caller may do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Try again later, as it stands: the broker is away, a request timed out.
    #[error("kafka did not answer: {what}: {reason}")]
    Unavailable { what: String, reason: String },
    /// The open transaction has to be aborted; its records may be sent again in the next.
    #[error("transaction has to be aborted: {reason}")]
    Abort { reason: String },
    /// Another process took over this transactional id or group membership.
    #[error("fenced by another process: {reason}")]
    Fenced { reason: String },
    /// It is not known whether the transaction was committed: make a new writer with the same id and
    /// ask for the committed offsets.
    #[error("commit is undecided: {reason}")]
    Undecided { reason: String },
    /// One record cannot be written, whatever the number of tries (too large, topic unknown).
    #[error("record for topic '{topic}' was refused: {reason}")]
    Refused { topic: String, reason: String },
    #[error("topic '{0}' does not exist")]
    UnknownTopic(String),
    /// Offset below the log's start or above its end.
    #[error("offset {offset} of '{partition}' is out of range: the log holds {low}..{high}")]
    OutOfRange { partition: TopicPartition, offset: i64, low: i64, high: i64 },
    /// Nothing to be done without a person: configuration, authorisation.
    #[error("kafka refused: {what}: {reason}")]
    Fatal { what: String, reason: String },
}

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Debug, PartialEq)]
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    /// `None`: the broker's default.
    pub replication_factor: Option<i16>,
    pub config: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Kafka's topic id (KIP-516); a recreated topic has another.
    pub id: String,
    pub partitions: i32,
}

/// First offset still there, and the high watermark: the offset after the last acknowledged record,
/// committed or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    pub low: i64,
    pub high: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadCommitted,
    ReadUncommitted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Offset(i64),
    Earliest,
    Latest,
}

pub trait Log: Send + Sync {
    /// `None` where the topic does not exist.
    fn topics(&self, names: &[String]) -> Result<Vec<Option<TopicInfo>>>;
    /// Topics that exist already are left as they are.
    fn create(&self, topics: &[TopicSpec]) -> Result<()>;
    /// Asked of the brokers anew at each call, so that whatever was acknowledged before the call is below `high`.
    fn watermarks(&self, partitions: &[TopicPartition]) -> Result<HashMap<TopicPartition, Watermarks>>;
    /// A consumer whose partitions are assigned by hand; it commits nothing.
    fn reader(&self, isolation: Isolation) -> Result<Box<dyn Reader>>;
    /// A member of a consumer group (classic protocol, cooperative) under a static id.
    fn group(&self, options: GroupOptions) -> Result<Box<dyn GroupReader>>;
    /// An idempotent producer, acks=all.
    fn writer(&self) -> Result<Box<dyn Writer>>;
    /// A transactional producer; opening it fences whoever held the id and aborts what they left open.
    fn transactional(&self, id: &str) -> Result<Box<dyn Transactional>>;
}

pub trait Reader: Send {
    /// Replaces the assignment.
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()>;
    /// Hands over what is there, waiting at most `wait` for the first record. Returns how many.
    /// `on` sees records of one partition in offset order.
    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(&Record<'_>)) -> Result<usize>;
    /// The next offset to be read: past control records and aborted ones, so that it reaches the
    /// high watermark of a log at rest. `None` before anything is known.
    fn position(&mut self, partition: &TopicPartition) -> Option<i64>;
}

#[derive(Clone, Debug)]
pub struct GroupOptions {
    pub group: String,
    /// `group.instance.id`
    pub member: String,
    pub topics: Vec<String>,
    pub isolation: Isolation,
}

/// Proof of membership for a transaction's offsets (KIP-447). Opaque outside its implementation.
pub struct GroupMetadata(pub(crate) GroupMetadataInner);

pub(crate) enum GroupMetadataInner {
    Kafka(rdkafka::consumer::ConsumerGroupMetadata),
    Memory { group: String, member: String, generation: u64 },
}

pub enum GroupEvent<'a> {
    /// New partitions, paused: [`GroupReader::start`] says where each begins.
    Assigned(&'a [TopicPartition]),
    /// Partitions about to leave; what is committed inside the call still counts.
    Revoked(&'a [TopicPartition]),
    /// Partitions that left already (session expired, fenced): nothing may be committed for them.
    Lost(&'a [TopicPartition]),
    Record(&'a Record<'a>),
}

/// A committed offset with its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub metadata: String,
}

pub trait GroupReader: Send {
    /// Hands over rebalances and records, waiting at most `wait` for the first. Returns how many events.
    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(GroupEvent<'_>)) -> Result<usize>;
    /// Begins an assigned partition at an offset.
    fn start(&mut self, partition: &TopicPartition, at: Start) -> Result<()>;
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()>;
    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()>;
    /// Waits for open transactions to be decided (KIP-447, RequireStable). `None`: nothing committed.
    fn committed(&mut self, partitions: &[TopicPartition]) -> Result<HashMap<TopicPartition, Option<Committed>>>;
    fn metadata(&self) -> Result<GroupMetadata>;
    /// Leaves in order; the partitions move without waiting for the session to end (a static member's too).
    fn leave(&mut self);
}

pub trait Writer: Send {
    /// Writes all and waits until each is acknowledged; positions in the order given.
    fn write(&mut self, records: Vec<NewRecord>) -> Result<Vec<(TopicPartition, i64)>>;
}

/// Offsets that a transaction commits for a group: the *next* offset to be read, and metadata.
pub type Offsets = Vec<(TopicPartition, Committed)>;

pub trait Transactional: Send {
    /// One whole transaction: begin, send all, send offsets, commit. After an error nothing of it is
    /// visible, unless the error is [`Error::Undecided`].
    fn transact(&mut self, records: Vec<NewRecord>, offsets: Option<(&GroupMetadata, Offsets)>) -> Result<()>;
}
