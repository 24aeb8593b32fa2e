//! A plain consumer, as anybody would write one: read_committed, partitions assigned by hand, no group.

use crate::naive::Raw;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::time::{Duration, Instant};

const ASK: Duration = Duration::from_secs(10);
/// Longer than a transaction of a killed process stays open.
const READ: Duration = Duration::from_secs(40);

pub struct Topic {
    pub name: String,
    bootstrap: String,
    consumer: BaseConsumer,
    /// Read up to here.
    next: Vec<i64>,
}

impl Topic {
    pub fn new(bootstrap: &str, name: &str, partitions: i32) -> Self {
        let mut topic = Self {
            name: name.to_owned(),
            bootstrap: bootstrap.to_owned(),
            consumer: consumer(bootstrap),
            next: Vec::new(),
        };
        topic.grow(partitions);
        topic
    }

    /// Follows more partitions, from their beginning.
    pub fn grow(&mut self, partitions: i32) {
        self.next.resize(usize::try_from(partitions).unwrap(), 0);
        self.assign();
    }

    fn assign(&self) {
        let mut assignment = TopicPartitionList::new();
        for (partition, next) in (0..).zip(&self.next) {
            assignment
                .add_partition_offset(&self.name, partition, Offset::Offset(*next))
                .unwrap();
        }
        self.consumer.assign(&assignment).unwrap();
    }

    /// High watermarks by partition.
    pub fn ends(&self) -> Vec<i64> {
        let deadline = Instant::now() + READ;
        // A broker that has just started knows no partitions for a moment, and a client that asked then remembers it for long: each try
        // has a client of its own.
        loop {
            match ends(&consumer(&self.bootstrap), &self.name, self.next.len()) {
                Ok(ends) => return ends,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", self.name),
            }
        }
    }

    /// Every record that came since the last call, up to the ends as they are now.
    pub fn read(&mut self) -> Vec<Raw> {
        let ends = self.ends();
        let deadline = Instant::now() + READ;
        let mut read = Vec::new();
        let (mut stands, mut since) = (self.next.clone(), Instant::now());
        while self.next.iter().zip(&ends).any(|(next, end)| next < end) {
            assert!(
                Instant::now() < deadline,
                "cannot read {} to its ends {ends:?}: it stands at {:?}",
                self.name,
                self.next
            );
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    // Whoever takes over from this consumer must not read it again.
                    self.next[usize::try_from(message.partition()).unwrap()] = message.offset() + 1;
                    read.push(Raw {
                        partition: message.partition(),
                        offset: message.offset(),
                        timestamp: message.timestamp().to_millis().unwrap(),
                        key: message.key().map(<[u8]>::to_vec),
                        value: message.payload().map(<[u8]>::to_vec),
                        headers: message.headers().map_or_else(Vec::new, |headers| {
                            headers
                                .iter()
                                .map(|it| (it.key.to_owned(), it.value.map(<[u8]>::to_vec)))
                                .collect()
                        }),
                    });
                }
                // Brokers come and go; the deadline is what counts.
                Some(Err(_)) => {}
                // Only at rest: asking after each record would be slow.
                None => self.follow(),
            }
            if stands != self.next {
                (stands, since) = (self.next.clone(), Instant::now());
            } else if since.elapsed() > ASK {
                // A broker that was held may have told it of no brokers, and it asks nobody any more.
                self.consumer = consumer(&self.bootstrap);
                self.assign();
                since = Instant::now();
            }
        }
        read
    }

    /// The positions pass what is no record.
    fn follow(&mut self) {
        for element in self.consumer.position().unwrap().elements() {
            if let Offset::Offset(position) = element.offset() {
                let next = &mut self.next[usize::try_from(element.partition()).unwrap()];
                *next = position.max(*next);
            }
        }
    }
}

fn consumer(bootstrap: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "plain-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap()
}

fn ends(of: &BaseConsumer, topic: &str, partitions: usize) -> KafkaResult<Vec<i64>> {
    (0..)
        .take(partitions)
        .map(|partition| Ok(of.fetch_watermarks(topic, partition, ASK)?.1))
        .collect()
}

/// Committed offsets of a group, by partition; 0 where there is none.
///
/// # Errors
/// Why they cannot be read now: a coordinator that is not up yet, or a transaction that is not decided. Whoever waits
/// for the group to settle asks again.
pub fn committed(
    bootstrap: &str,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<i64>, String> {
    // Of its own, as for the ends.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition(topic, partition);
    }
    let found = consumer
        .committed_offsets(list, ASK)
        .map_err(|error| format!("the offsets of {group} cannot be read: {error}"))?;
    let offsets = found.elements();
    Ok(offsets
        .iter()
        .map(|it| it.offset().to_raw().unwrap_or(0).max(0))
        .collect())
}
