//! The transactional producer.
//!
//! A commit that was tried is repeated, never aborted. If it took long, its request may still be under way
//! somewhere when the next transaction begins, and would tear that one (KAFKA-17754; librdkafka has no
//! part 2 of KIP-890): so a new producer with the same id, and thus a new epoch, comes first.

use super::errors::{by_code, client, is_fenced, needs_a_person};
use super::sender::{KnownTopics, Numbers, Sending};
use super::{Shared, TopicPartition};
use crate::log::{Committed, Error, GroupMetadata, GroupMetadataInner, Result, Transactional};
use headwater_engine::record::NewRecord;
use headwater_kafka::producer::Producer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::Producer as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
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

/// Offsets to be committed with the records.
type Offsets<'a> = (&'a GroupMetadata, &'a [(TopicPartition, Committed)]);

pub(super) struct KafkaTransactional {
    shared: Arc<Shared>,
    id: String,
    producer: Producer,
    known: KnownTopics,
    numbers: Numbers,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// A new producer has to come before the next transaction.
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
                self.state = State::Ready;
            }
        }
        self.producer
            .base()
            .begin_transaction()
            .map_err(|error| self.broken("begin a transaction", &error))
    }

    fn fill(&mut self, records: &[NewRecord], offsets: Option<Offsets<'_>>) -> Result<()> {
        let deadline = Instant::now() + TRANSACTION;
        let sending = Sending::start(&self.producer, &mut self.numbers, records, deadline)
            .map_err(|error| self.unsent(error))?;
        // While the records are on their way.
        if let Some((metadata, offsets)) = offsets {
            self.send_offsets(metadata, offsets)?;
        }
        let sent = sending.finish(deadline).map(drop);
        sent.map_err(|error| self.unsent(error))
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
        let what = "send offsets to the transaction";
        let GroupMetadataInner::Kafka(metadata) = &metadata.0 else {
            return Err(Error::Fatal {
                what: what.to_owned(),
                reason: "the group is of another log".to_owned(),
            });
        };
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (at, committed) in offsets {
            let mut it = list.add_partition(&at.topic, at.partition);
            it.set_offset(Offset::Offset(committed.offset))
                .map_err(|error| client(what, &error))?;
            if !committed.metadata.is_empty() {
                it.set_metadata(&committed.metadata);
            }
        }
        self.producer
            .base()
            .send_offsets_to_transaction(&list, metadata, TRANSACTION)
            .map_err(|error| self.broken(what, &error))
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

    fn commit(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let error = match self.producer.base().commit_transaction(COMMIT_TRY) {
                Ok(()) => {
                    if began.elapsed() > COMMIT_LONG {
                        self.state = State::Renew;
                    }
                    return Ok(());
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
        let outcome = self.fill(records, offsets).and_then(|()| self.commit());
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
}
