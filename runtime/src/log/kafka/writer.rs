//! The plain producer: idempotent, acks=all.

use super::errors::client;
use super::sender::{KnownTopics, Numbers, Sending};
use super::{Shared, TopicPartition};
use crate::log::{Result, Writer};
use headwater_engine::record::NewRecord;
use headwater_kafka::producer::Producer;
use rdkafka::producer::Producer as _;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// librdkafka gives a record up after the first; the second is a net below it.
const DELIVERY: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(35);

pub(super) struct KafkaWriter {
    shared: Arc<Shared>,
    producer: Producer,
    known: KnownTopics,
    numbers: Numbers,
}

impl KafkaWriter {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self> {
        let producer = open(&shared)?;
        Ok(Self {
            shared,
            producer,
            known: KnownTopics::default(),
            numbers: Numbers::default(),
        })
    }
}

fn open(shared: &Shared) -> Result<Producer> {
    let mut config = shared.producer_config();
    config.set("message.timeout.ms", DELIVERY.as_millis().to_string());
    Producer::new(&config).map_err(|error| client("open a writer", &error))
}

impl Writer for KafkaWriter {
    fn write(&mut self, records: &[NewRecord]) -> Result<Vec<(TopicPartition, i64)>> {
        // An idempotent producer that lost its sequence is of no more use.
        if self.producer.base().client().fatal_error().is_some() {
            self.producer = open(&self.shared)?;
        }
        self.known.check(&self.shared, records)?;
        let deadline = Instant::now() + DEADLINE;
        let written = Sending::start(&self.producer, &mut self.numbers, records, deadline)
            .and_then(|sending| sending.finish(deadline));
        if written.is_err() {
            self.known.forget();
        }
        let mut topics: HashMap<&str, Arc<str>> = HashMap::new();
        Ok(written?
            .into_iter()
            .zip(records)
            .map(|((partition, offset), record)| {
                let topic = topics
                    .entry(&record.topic)
                    .or_insert_with(|| record.topic.as_str().into());
                (TopicPartition::new(Arc::clone(topic), partition), offset)
            })
            .collect())
    }
}
