//! The log: what the data plane asks of Kafka, as a trait with two implementations.
//!
//! `memory` holds everything in this process, for `headwater up`, tests and simulation; `kafka` is
//! librdkafka. One conformance suite holds both to the same behaviour.
//!
//! All calls block, for a bounded time: a stage drives them from threads of its own, never from the
//! async executor's. No implementation starts over by itself after an error that says that somebody
//! else took over; while brokers are merely away, `poll` hands over nothing and goes on by itself.

pub mod kafka;
pub mod memory;
mod offsets;

pub use offsets::Offsets;

use headwater_engine::record::{NewRecord, Record, TopicPartition};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// What can go wrong on the log, by what the caller may do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Try again later, as it stands: the broker is away, a request timed out.
    #[error("kafka did not answer: {what}: {reason}")]
    Unavailable { what: String, reason: String },
    /// The transaction was aborted; its records may be sent again in the next.
    #[error("transaction was aborted: {reason}")]
    Abort { reason: String },
    /// Of a group's member: another process took over, and this one has to end. Of a writer: its id was opened again elsewhere, or its
    /// transaction was open for too long; it is of no use any more, and whether it committed is not known.
    #[error("fenced by another process: {reason}")]
    Fenced { reason: String },
    /// It is not known whether the transaction was committed: make a new writer with the same id
    /// (which decides it) and ask for the committed offsets.
    #[error("commit is undecided: {reason}")]
    Undecided { reason: String },
    /// One record cannot be written, whatever the number of tries (too large, topic unknown).
    /// `index` is its place in the list that was given. In a transaction nothing of it was written.
    #[error("record for topic '{topic}' was refused: {reason}")]
    Refused {
        index: usize,
        topic: String,
        reason: String,
    },
    #[error("topic '{0}' does not exist")]
    UnknownTopic(String),
    /// Positions of a group are set from outside only while it has no members.
    #[error("group '{group}' has members")]
    GroupInUse { group: String },
    /// Offset below the log's start or above its end.
    #[error("offset {offset} of '{partition}' is out of range: the log holds {low}..{high}")]
    OutOfRange {
        partition: TopicPartition,
        offset: i64,
        low: i64,
        high: i64,
    },
    /// Nothing to be done without a person: configuration, authorisation.
    #[error("kafka refused: {what}: {reason}")]
    Fatal { what: String, reason: String },
}

pub type Result<T> = std::result::Result<T, Error>;

/// The most records that one `poll` hands over, so that whoever drives it gets its turn.
pub const RECORDS_PER_POLL: usize = 1_000;

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Offset(i64),
    Earliest,
    /// The high watermark, as it is when the start is made.
    Latest,
}

/// Makes the `poll` under way return at once, or else the next one; never lost.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

pub trait Log: Send + Sync {
    /// In the order asked; `None` where the topic does not exist.
    fn topics(&self, names: &[String]) -> Result<Vec<Option<TopicInfo>>>;
    /// Topics that exist already are left as they are. After it, all of them can be written and read.
    fn create(&self, topics: &[TopicSpec]) -> Result<()>;
    /// High watermarks in the order asked. Asked of the brokers anew at each call, in one request a
    /// broker, so that whatever was acknowledged before the call is below them.
    fn ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>>;
    /// Last stable offsets in the order asked: up to where readers of committed records can read. Below the high
    /// watermark where transactions are open, or decided and not marked yet. Asked as [`Log::ends`].
    fn stable_ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>>;
    /// Both ends of the log: twice as many requests as [`Log::ends`].
    fn watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Watermarks>>;
    /// A consumer whose partitions are assigned by hand; it commits nothing.
    fn reader(&self, isolation: Isolation) -> Result<Box<dyn Reader>>;
    /// A member of a consumer group (classic protocol, cooperative) under a static id. It reads
    /// committed records only.
    fn group(&self, options: GroupOptions) -> Result<Box<dyn GroupReader>>;
    /// An idempotent producer, acks=all.
    fn writer(&self) -> Result<Box<dyn Writer>>;
    /// A transactional producer; opening it fences whoever held the id and decides what they left
    /// open: what was not committed is aborted.
    fn transactional(&self, id: &str) -> Result<Box<dyn Transactional>>;
}

pub trait Reader: Send {
    /// Replaces the assignment.
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()>;
    /// Hands over what is there, waiting at most `wait` for the first record, and at most
    /// [`RECORDS_PER_POLL`]. Returns how many; 0 before `wait` is over where woken, and where a position
    /// moved without a record (a commit marker). `on` sees records of one partition in offset order.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::UnknownTopic`] for one partition of the assignment (the others go on
    /// with the next call); [`Error::Fatal`].
    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(&Record<'_>)) -> Result<usize>;
    /// The next offset to be read: past control records and aborted ones, so that it reaches the
    /// high watermark of a log at rest. `None` before anything is known.
    fn position(&mut self, partition: &TopicPartition) -> Option<i64>;
    fn waker(&self) -> Waker;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOptions {
    pub group: String,
    /// `group.instance.id`
    pub member: String,
    pub topics: Vec<String>,
}

/// Proof of membership for a transaction's offsets (KIP-447). Opaque outside its implementation.
pub struct GroupMetadata(pub(crate) GroupMetadataInner);

pub(crate) enum GroupMetadataInner {
    Kafka(Arc<rdkafka::consumer::ConsumerGroupMetadata>),
    Memory(memory::Membership),
}

pub enum GroupEvent<'a> {
    /// New partitions, paused: [`GroupReader::start`] says where each begins. Empty where a rebalance gave
    /// none, as to a spare member.
    Assigned(&'a [TopicPartition]),
    /// Partitions about to leave: they do with the next call of `poll`, so what is committed until
    /// then still counts. No record of them is handed over any more. Last event of its `poll`.
    Revoked(&'a [TopicPartition]),
    /// Partitions that left already (session expired, fenced): nothing may be committed for them.
    Lost(&'a [TopicPartition]),
    Record(&'a Record<'a>),
}

/// A committed offset, the next one to be read, with its metadata (at most 4,095 bytes on Kafka's defaults).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub offset: i64,
    pub metadata: String,
}

/// A member of a group. Dropping it is a crash: its partitions stay with its static id until the
/// session ends (10 s) or the id is back; [`GroupReader::leave`] hands them over at once.
pub trait GroupReader: Send {
    /// Hands over rebalances and records, as [`Reader::poll`] does. Returns how many events. Others wait
    /// for it in a rebalance; not called for 5 minutes, the membership is lost.
    ///
    /// # Errors
    /// As [`Reader::poll`]; [`Error::Fenced`], after `Lost`, if another process took the static id.
    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(GroupEvent<'_>)) -> Result<usize>;
    /// Begins an assigned partition at an offset.
    fn start(&mut self, partition: &TopicPartition, at: Start) -> Result<()>;
    /// No record of these is handed over until [`GroupReader::resume`], which goes on where they stopped.
    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()>;
    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()>;
    /// As [`Reader::position`], of a started partition.
    fn position(&mut self, partition: &TopicPartition) -> Option<i64>;
    fn waker(&self) -> Waker;
    /// Waits for open transactions to be decided (KIP-447, RequireStable). `None`: nothing committed.
    /// Partitions need not be subscribed or assigned.
    fn committed(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Option<Committed>>>;
    /// Membership as it is now: to be asked anew for each transaction.
    fn metadata(&self) -> Result<GroupMetadata>;
    /// Leaves in order; the partitions move without waiting for the session to end (a static member's
    /// too). What is to be committed has to be before.
    fn leave(self: Box<Self>) -> Result<()>;
}

pub trait Writer: Send {
    /// Writes all and waits until each is acknowledged; positions in the order given.
    ///
    /// # Errors
    /// The first record's that failed; those before and after it may have been written.
    fn write(&mut self, records: &[NewRecord]) -> Result<Vec<(TopicPartition, i64)>>;
}

/// What the holder of a transactional id reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// One topic of its group.
    pub reads: String,
    pub writes: Vec<String>,
    /// Of these, the topics that only transactions of its kind write, which are short: where a commit's markers are waited for.
    pub own: Vec<String>,
}

pub trait Transactional: Send {
    /// One whole transaction: begin, send all, send offsets, commit. After an error nothing of it is
    /// visible, unless the error is [`Error::Undecided`]. After `Ok` readers of committed records have it, in the
    /// topics of [`Scope::own`] for certain.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Abort`], [`Error::Unavailable`]: aborted, the writer can be used again.
    /// [`Error::Fenced`], [`Error::Undecided`], [`Error::Fatal`]: it cannot.
    fn transact(
        &mut self,
        records: &[NewRecord],
        offsets: Option<(&GroupMetadata, &[(TopicPartition, Committed)])>,
    ) -> Result<()>;

    /// Takes back what a former transaction of this id left open in its scope though it counts as ended. A Kafka broker
    /// that comes back from a crash, and has the only replica of a partition, may drop the markers of such a one
    /// ("likely deleted already and hence can be skipped" in its log): then readers of committed records stop there for good,
    /// and nobody learns the group's offsets any more. A transaction of the same id that is aborted ends it.
    ///
    /// For a writer that has just been opened, before the group's offsets are asked for. `group`: of a member.
    ///
    /// # Errors
    /// As [`Transactional::transact`].
    fn sweep(&mut self, group: &GroupMetadata, scope: &Scope) -> Result<()>;
}
