//! The consumer whose partitions are assigned by hand.

use super::errors::{by_code, client, needs_a_person};
use super::start::{Started, resolve};
use super::{Shared, TopicPartition};
use crate::log::{Error, Isolation, RECORDS_PER_POLL, Reader, Result, Start, Waker};
use headwater_engine::record::Record;
use headwater_kafka::consumer::{Consumer, Event, Message};
use rdkafka::error::RDKafkaErrorCode as Code;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct KafkaReader {
    shared: Arc<Shared>,
    consumer: Consumer,
    started: Started,
}

impl KafkaReader {
    pub(super) fn new(shared: Arc<Shared>, isolation: Isolation) -> Result<Self> {
        // librdkafka wants a group even where nothing is committed.
        let group = format!("{}.reader", shared.name);
        let config = shared.consumer_config(&group, isolation);
        let consumer = Consumer::new(&config).map_err(|error| client("open a reader", &error))?;
        Ok(Self {
            shared,
            consumer,
            started: Started::default(),
        })
    }
}

/// Borrowed as it is.
pub(super) fn record<'a>(message: &Message<'a>) -> Record<'a> {
    Record {
        topic: message.topic,
        partition: message.partition,
        offset: message.offset,
        timestamp: message.timestamp,
        key: message.key,
        value: message.value,
        headers: message.headers,
    }
}

/// What a consumer's error comes to: `None` for what passes by itself.
pub(super) enum Trouble {
    OutOfRange(TopicPartition),
    Other(Error),
}

pub(super) fn trouble(
    code: Code,
    reason: String,
    partition: Option<(String, i32)>,
) -> Option<Trouble> {
    match (code, partition) {
        (Code::AutoOffsetReset | Code::OffsetOutOfRange, Some((topic, partition))) => {
            Some(Trouble::OutOfRange(TopicPartition::new(topic, partition)))
        }
        (
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition,
            Some((topic, _)),
        ) => Some(Trouble::Other(Error::UnknownTopic(topic))),
        (code, _) if needs_a_person(code) => Some(Trouble::Other(by_code("read", code, reason))),
        (code, _) => {
            tracing::debug!(target: "headwater::kafka", %code, reason, "reading goes on");
            None
        }
    }
}

impl Reader for KafkaReader {
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        let offsets = resolve(&self.shared, partitions)?;
        let list: Vec<(&str, i32, i64)> = partitions
            .iter()
            .zip(&offsets)
            .map(|((at, _), offset)| (&*at.topic, at.partition, *offset))
            .collect();
        self.consumer
            .assign(&list)
            .map_err(|error| client("assign partitions", &error))?;
        let partitions = partitions.iter().map(|(at, _)| at.clone());
        self.started.0 = partitions.zip(offsets).collect();
        Ok(())
    }

    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(&Record<'_>)) -> Result<usize> {
        let mut records = 0;
        let mut found = None;
        self.consumer
            .poll_by_hand(wait, RECORDS_PER_POLL, &mut |event| match event {
                Event::Message(message) => {
                    records += 1;
                    on(&record(&message));
                }
                Event::Error {
                    code,
                    reason,
                    partition,
                    ..
                } => found = found.take().or(trouble(code, reason, partition)),
                // Only members of a group are rebalanced.
                Event::Rebalance(..) => {}
            });
        match found {
            None => Ok(records),
            Some(Trouble::Other(error)) => Err(error),
            Some(Trouble::OutOfRange(at)) => {
                Err(self.started.out_of_range(&self.shared, &self.consumer, at))
            }
        }
    }

    fn position(&mut self, partition: &TopicPartition) -> Option<i64> {
        self.started.position(&self.consumer, partition)
    }

    fn waker(&self) -> Waker {
        self.consumer.waker()
    }
}
