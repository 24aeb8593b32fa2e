//! The transactional producer.
//!
//! A commit that was tried is repeated, never aborted. If it took long, its request may still be under way
//! somewhere when the next transaction begins, and would tear that one (KAFKA-17754; librdkafka has no
//! part 2 of KIP-890): so a new producer with the same id, and thus a new epoch, comes first. And whether the
//! broker did what it said is looked at then: see [`Transactional::sweep`].

use super::errors::{admin, by_code, client, is_fenced, is_of_the_group, needs_a_person};
use super::sender::{KnownTopics, Numbers, Sending};
use super::{Shared, TopicPartition};
use crate::log::{
    Committed, Error, GroupMetadata, GroupMetadataInner, Result, Scope, Transactional,
};
use headwater_engine::record::NewRecord;
use headwater_kafka::offsets::End;
use headwater_kafka::producer::Producer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The broker aborts what is open longer.
const TRANSACTION: Duration = Duration::from_secs(10);
/// Opening waits until what the id left open is decided.
const OPEN: Duration = Duration::from_secs(30);
/// How long a commit is repeated until it counts as undecided.
const COMMIT: Duration = Duration::from_secs(20);
const COMMIT_TRY: Duration = Duration::from_secs(1);
/// A commit that takes longer than this may have left a request behind.
const COMMIT_LONG: Duration = Duration::from_secs(2);
const ABORT: Duration = Duration::from_secs(10);
const ABORT_TRY: Duration = Duration::from_millis(200);
/// How long the markers of a commit that took long may be on their way.
const MARKERS: Duration = Duration::from_secs(5);
/// The markers of what ends former transactions may get lost as theirs did, as long as a broker is starting.
const SWEEPS: u32 = 4;
const SWEEP: Duration = Duration::from_secs(1);
const MARKERS_ASK: Duration = Duration::from_millis(100);
/// Mostly they are there as soon as one asks.
const MARKERS_ASK_FIRST: Duration = Duration::from_millis(1);
/// The key of a record that is never committed; a compacted topic takes none without.
const SWEPT: &[u8] = b"headwater-sweep";

/// Offsets to be committed with the records.
type Offsets<'a> = (&'a GroupMetadata, &'a [(TopicPartition, Committed)]);
/// The last offset of each topic and partition.
type Written<'a> = BTreeMap<(&'a str, i32), i64>;

pub(super) struct KafkaTransactional {
    shared: Arc<Shared>,
    id: String,
    producer: Producer,
    known: KnownTopics,
    numbers: Numbers,
    state: State,
    /// As [`Scope::own`].
    own: BTreeSet<String>,
    /// A call of the producer did not come back; every other would wait for it.
    is_stuck: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// A new producer has to come before the next transaction; its epoch ends what this one has open.
    Renew,
    /// Fenced, or its last commit is undecided: the caller has to open another.
    Spent,
}

impl KafkaTransactional {
    pub(super) fn open(shared: Arc<Shared>, id: &str) -> Result<Self> {
        let producer = open(&shared, id)?;
        Ok(Self {
            shared,
            id: id.to_owned(),
            producer,
            known: KnownTopics::default(),
            numbers: Numbers::default(),
            state: State::Ready,
            own: BTreeSet::new(),
            is_stuck: Cell::new(false),
        })
    }

    fn prepare(&mut self) -> Result<()> {
        match self.state {
            State::Ready => {}
            State::Spent => {
                return Err(Error::Undecided {
                    reason: format!("the writer of '{}' failed before; open a new one", self.id),
                });
            }
            State::Renew => {
                self.producer = open(&self.shared, &self.id)?;
                self.is_stuck.set(false);
                self.state = State::Ready;
            }
        }
        self.producer
            .base()
            .begin_transaction()
            .map_err(|error| self.broken("begin a transaction", &error))
    }

    /// Gives the last offset that was written in each partition.
    fn fill<'a>(
        &mut self,
        records: &'a [NewRecord],
        offsets: Option<Offsets<'_>>,
    ) -> Result<Written<'a>> {
        let deadline = Instant::now() + TRANSACTION;
        let sending = Sending::start(&self.producer, &mut self.numbers, records, deadline)
            .map_err(|error| self.unsent(error))?;
        // While the records are on their way.
        if let Some((metadata, offsets)) = offsets {
            self.send_offsets(metadata, offsets)?;
        }
        let places = sending
            .finish(deadline)
            .map_err(|error| self.unsent(error))?;
        let mut written = Written::new();
        for (record, (partition, offset)) in records.iter().zip(places) {
            let last = written
                .entry((record.topic.as_str(), partition))
                .or_insert(offset);
            *last = (*last).max(offset);
        }
        Ok(written)
    }

    /// Whether readers of committed records get as far as what was written, once its markers had their time.
    fn is_readable(&self, written: &Written<'_>, within: Duration) -> Result<bool> {
        if written.is_empty() {
            return Ok(true);
        }
        let partitions: Vec<TopicPartition> = written
            .keys()
            .map(|(topic, partition)| TopicPartition::new(*topic, *partition))
            .collect();
        let deadline = Instant::now() + within;
        let mut pause = MARKERS_ASK_FIRST;
        loop {
            let ends = self.shared.stable_ends(&partitions)?;
            if ends
                .iter()
                .zip(written.values())
                .all(|(end, last)| end > last)
            {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(MARKERS_ASK);
        }
    }

    /// Partitions of these topics that have records which are not decided, or have no marker yet.
    fn undecided(&self, topics: &[String]) -> Result<Vec<TopicPartition>> {
        // Kafka refuses a request that names a topic twice.
        let names: BTreeSet<&str> = topics.iter().map(String::as_str).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let mut all = Vec::new();
        for (name, found) in names
            .iter()
            .zip(self.shared.admin.describe(&names).map_err(admin)?)
        {
            let count = found.map_err(admin)?.map_or(0, |topic| topic.partitions);
            all.extend((0..count).map(|partition| TopicPartition::new(*name, partition)));
        }
        let stable = self.shared.stable_ends(&all)?;
        let ends = self.shared.ends(&all, End::High)?;
        let ends = stable.into_iter().zip(ends);
        let undecided = all.into_iter().zip(ends);
        Ok(undecided
            .filter(|(_, (stable, end))| stable < end)
            .map(|(partition, _)| partition)
            .collect())
    }

    /// Begins a transaction in these partitions and the group's offsets, and gives it up. True where readers get past it.
    fn touch(
        &mut self,
        group: &GroupMetadata,
        scope: &Scope,
        partitions: &[TopicPartition],
    ) -> Result<bool> {
        self.prepare()?;
        let record = |at: &TopicPartition| NewRecord {
            topic: at.topic.to_string(),
            partition: Some(at.partition),
            key: Some(SWEPT.to_vec()),
            ..NewRecord::default()
        };
        let records: Vec<NewRecord> = partitions.iter().map(record).collect();
        let any = Committed {
            offset: 0,
            metadata: String::new(),
        };
        let offsets = [(TopicPartition::new(scope.reads.as_str(), 0), any)];
        let touched = match self.fill(&records, None) {
            Ok(written) => match self.add_offsets(group, &offsets) {
                Ok(()) => Ok(written),
                // Where the group refuses them, its partition of offsets is part of the transaction by then.
                Err((_, code)) if is_of_the_group(code) => Ok(written),
                Err((error, _)) => Err(error),
            },
            Err(Error::Refused { topic, reason, .. }) => Err(Error::Abort {
                reason: format!("topic '{topic}': {reason}"),
            }),
            Err(error) => Err(error),
        };
        match &touched {
            Err(Error::Fenced { .. }) if self.producer.base().client().fatal_error().is_some() => {
                self.state = State::Spent;
            }
            _ => self.abort(),
        }
        self.is_readable(&touched?, SWEEP)
    }

    /// A record that was not written because the producer was fenced does not say so itself.
    fn unsent(&self, error: Error) -> Error {
        match (self.producer.base().client().fatal_error(), error) {
            (_, error @ Error::Refused { .. }) => error,
            (Some((code, reason)), _) if is_fenced(code) => Error::Fenced { reason },
            (_, Error::Unavailable { reason, .. }) => Error::Abort { reason },
            (_, error) => error,
        }
    }

    fn send_offsets(
        &self,
        metadata: &GroupMetadata,
        offsets: &[(TopicPartition, Committed)],
    ) -> Result<()> {
        self.add_offsets(metadata, offsets)
            .map_err(|(error, _)| error)
    }

    /// An error comes with librdkafka's code.
    fn add_offsets(
        &self,
        metadata: &GroupMetadata,
        offsets: &[(TopicPartition, Committed)],
    ) -> std::result::Result<(), (Error, Code)> {
        let what = "send offsets to the transaction";
        let client = |error: KafkaError| (client(what, &error), Code::InvalidArgument);
        let GroupMetadataInner::Kafka(metadata) = &metadata.0 else {
            let error = Error::Fatal {
                what: what.to_owned(),
                reason: "the group is of another log".to_owned(),
            };
            return Err((error, Code::InvalidArgument));
        };
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (at, committed) in offsets {
            let mut it = list.add_partition(&at.topic, at.partition);
            it.set_offset(Offset::Offset(committed.offset))
                .map_err(client)?;
            if !committed.metadata.is_empty() {
                it.set_metadata(&committed.metadata);
            }
        }
        let group = Arc::clone(metadata);
        let Some(sent) = self.producer.send_offsets(list, group, TRANSACTION) else {
            self.is_stuck.set(true);
            let reason = format!("{what}: librdkafka did not come back");
            return Err((Error::Abort { reason }, Code::OperationTimedOut));
        };
        sent.map_err(|error| (self.broken(what, &error), self.code(&error)))
    }

    /// What an error inside a transaction, before the commit, comes to.
    fn broken(&self, what: &str, error: &KafkaError) -> Error {
        let code = self.code(error);
        let reason = error.to_string();
        if is_fenced(code) {
            Error::Fenced { reason }
        } else if needs_a_person(code) {
            by_code(what, code, reason)
        } else {
            Error::Abort { reason }
        }
    }

    /// librdkafka's own code, also where it says no more than that it was fatal.
    fn code(&self, error: &KafkaError) -> Code {
        match error.rdkafka_error_code() {
            Some(Code::Fatal) | None => {
                let fatal = self.producer.base().client().fatal_error();
                fatal.map_or(Code::Fatal, |(code, _)| code)
            }
            Some(code) => code,
        }
    }

    /// That the commit is acknowledged says that it is decided, and not that anybody will see it: a broker that goes away now may drop
    /// its markers, and what ends such a transaction gives it up. Whoever acts on the commit, by calling a tool say, must not
    /// do so before.
    fn commit(&mut self, mut written: Written<'_>) -> Result<()> {
        let began = Instant::now();
        loop {
            let error = match self.producer.base().commit_transaction(COMMIT_TRY) {
                Ok(()) => {
                    let is_long = began.elapsed() > COMMIT_LONG;
                    written.retain(|(topic, _), _| is_long || self.own.contains(*topic));
                    let reason = match self.is_readable(&written, MARKERS) {
                        Ok(true) => {
                            if is_long {
                                self.state = State::Renew;
                            }
                            return Ok(());
                        }
                        Ok(false) => "its markers are missing".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    self.state = State::Spent;
                    return Err(Error::Undecided {
                        reason: format!("the commit was acknowledged, but: {reason}"),
                    });
                }
                Err(error) => error,
            };
            let reason = error.to_string();
            let code = self.code(&error);
            if is_fenced(code) {
                self.state = State::Spent;
                return Err(Error::Fenced { reason });
            }
            let (retriable, abort) = match &error {
                KafkaError::Transaction(error) => {
                    (error.is_retriable(), error.txn_requires_abort())
                }
                _ => (true, false),
            };
            if abort {
                // The coordinator refused the commit: nothing of it became visible.
                return Err(Error::Abort { reason });
            }
            if !retriable || began.elapsed() > COMMIT {
                self.state = State::Spent;
                return Err(Error::Undecided { reason });
            }
        }
    }

    /// Ends a transaction whose commit was not tried, or was refused.
    fn abort(&mut self) {
        if self.is_stuck.get() {
            self.state = State::Renew;
            return;
        }
        let deadline = Instant::now() + ABORT;
        let drained = Instant::now() + ABORT_TRY;
        // librdkafka waits for acknowledgements that nobody has taken.
        while self.producer.in_flight() > 0 && Instant::now() < drained {
            self.producer.deliveries(ABORT_TRY / 10, &mut |_| {});
        }
        while let Err(error) = self.producer.base().abort_transaction(ABORT_TRY) {
            self.producer.deliveries(Duration::ZERO, &mut |_| {});
            let fatal = matches!(&error, KafkaError::Transaction(error) if !error.is_retriable());
            if fatal || Instant::now() >= deadline {
                tracing::debug!(target: "headwater::kafka", %error, id = self.id, "abort");
                // A new epoch aborts it.
                self.state = State::Renew;
                return;
            }
        }
    }
}

fn open(shared: &Shared, id: &str) -> Result<Producer> {
    let what = format!("open transactional id '{id}'");
    let mut config = shared.producer_config();
    config.set("transactional.id", id);
    config.set(
        "transaction.timeout.ms",
        TRANSACTION.as_millis().to_string(),
    );
    config.set("message.timeout.ms", TRANSACTION.as_millis().to_string());
    let producer = Producer::new(&config).map_err(|error| client(&what, &error))?;
    producer
        .base()
        .init_transactions(OPEN)
        .map_err(|error| client(&what, &error))?;
    Ok(producer)
}

impl Transactional for KafkaTransactional {
    fn transact(
        &mut self,
        records: &[NewRecord],
        offsets: Option<(&GroupMetadata, &[(TopicPartition, Committed)])>,
    ) -> Result<()> {
        self.known.check(&self.shared, records)?;
        self.prepare()?;
        let outcome = match self.fill(records, offsets) {
            Ok(written) => self.commit(written),
            Err(error) => Err(error),
        };
        match &outcome {
            Ok(()) => {}
            Err(Error::Fenced { .. }) => {
                // By a member of the group: the transaction is still ours to end.
                if self.producer.base().client().fatal_error().is_none() {
                    self.abort();
                }
                self.state = State::Spent;
            }
            Err(Error::Undecided { .. }) => {}
            Err(_) => {
                self.known.forget();
                self.abort();
            }
        }
        outcome
    }
    fn sweep(&mut self, group: &GroupMetadata, scope: &Scope) -> Result<()> {
        self.own = scope.own.iter().cloned().collect();
        for _ in 0..SWEEPS {
            let undecided = self.undecided(&scope.writes)?;
            if self.touch(group, scope, &undecided)? {
                return Ok(());
            }
        }
        // Nobody but their writer can end them: it will, unless it is gone for good.
        tracing::warn!(target: "headwater::kafka", id = self.id, "transactions of other writers stay open in its topics");
        Ok(())
    }
}
