//! A plain Kafka client, as an application would have one.

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// Where an acknowledged record stands, or why it does not.
type Acknowledgement = Result<(i32, i64), String>;

struct Acknowledge;

impl ClientContext for Acknowledge {}

impl ProducerContext for Acknowledge {
    type DeliveryOpaque = Box<mpsc::Sender<Acknowledgement>>;

    fn delivery(&self, result: &DeliveryResult<'_>, sender: Self::DeliveryOpaque) {
        let position = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.to_string()),
        };
        // Nobody waits any more where the test has failed.
        let _ = sender.send(position);
    }
}

/// Sends and waits for the acknowledgement of each record.
pub struct Client {
    producer: BaseProducer<Acknowledge>,
}

impl Client {
    pub fn new(bootstrap: &str) -> Self {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("partitioner", "murmur2_random")
            .create_with_context(Acknowledge)
            .unwrap();
        Self { producer }
    }

    /// Gives the position as `<topic>-<partition>-<offset>`.
    pub fn send(&self, topic: &str, key: Option<&str>, value: &str) -> String {
        self.send_at(topic, key, value, None)
    }

    /// `time`: milliseconds since the epoch; else now.
    pub fn send_at(
        &self,
        topic: &str,
        key: Option<&str>,
        value: &str,
        time: Option<i64>,
    ) -> String {
        let (sender, receiver) = mpsc::channel();
        let mut record = BaseRecord::with_opaque_to(topic, Box::new(sender)).payload(value);
        record.timestamp = time;
        if let Some(key) = key {
            record = record.key(key);
        }
        self.producer
            .send(record)
            .map_err(|(error, _)| error)
            .unwrap();
        let (partition, offset) = self.acknowledged(&receiver);
        format!("{topic}-{partition}-{offset}")
    }

    fn acknowledged(&self, receiver: &mpsc::Receiver<Acknowledgement>) -> (i32, i64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.producer.poll(Duration::from_millis(1));
            if let Ok(position) = receiver.try_recv() {
                return position.unwrap();
            }
            assert!(
                Instant::now() < deadline,
                "no acknowledgement after {PATIENCE:?}"
            );
        }
    }

    pub fn topics(&self) -> Vec<String> {
        let metadata = self
            .producer
            .client()
            .fetch_metadata(None, PATIENCE)
            .unwrap();
        metadata
            .topics()
            .iter()
            .map(|topic| topic.name().to_owned())
            .collect()
    }
}

/// All committed records of a topic, by the trigger that they answer.
pub struct Answers {
    consumer: BaseConsumer,
    seen: RefCell<HashMap<String, Vec<String>>>,
}

impl Answers {
    pub fn follow(bootstrap: &str, topic: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "never-used")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "50")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            assignment
                .add_partition_offset(topic, partition.id(), Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&assignment).unwrap();
        Self {
            consumer,
            seen: RefCell::default(),
        }
    }

    /// Waits for the first answer to a trigger.
    pub fn to(&self, trigger: &str, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(answer) = self
                .seen
                .borrow()
                .get(trigger)
                .and_then(|answers| answers.first())
            {
                return answer.clone();
            }
            assert!(
                Instant::now() < deadline,
                "no answer to {trigger} after {patience:?}"
            );
            self.read();
        }
    }

    /// Answers to a trigger among all that were read so far.
    pub fn count(&self, trigger: &str) -> usize {
        self.seen.borrow().get(trigger).map_or(0, Vec::len)
    }

    fn read(&self) {
        let Some(message) = self.consumer.poll(Duration::from_millis(100)) else {
            return;
        };
        let message = message.unwrap();
        let headers = message.headers().expect("an output has headers");
        let trigger = headers
            .iter()
            .find(|header| header.key == "headwater-trigger")
            .and_then(|header| header.value)
            .expect("an output names its trigger");
        self.seen
            .borrow_mut()
            .entry(String::from_utf8(trigger.to_vec()).unwrap())
            .or_default()
            .push(String::from_utf8(message.payload().unwrap().to_vec()).unwrap());
    }
}
