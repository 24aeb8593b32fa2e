//! A broker, and the topics of one benchmark on it.

use crate::Result;
use crate::data::event;
use headwater_engine::config;
use headwater_runtime::log::kafka::Kafka;
use headwater_runtime::log::{Log, TopicSpec};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use std::sync::Arc;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// A broker, and the topics of one benchmark on it, which go when this goes.
pub struct Bed {
    pub kafka: Arc<Kafka>,
    pub bootstrap: String,
    topics: Vec<String>,
}

impl Bed {
    pub fn new() -> Result<Self> {
        let bootstrap = headwater_testbed::kafka()?.bootstrap().to_owned();
        let settings = config::Kafka {
            bootstrap_servers: vec![bootstrap.clone()],
            ..config::Kafka::default()
        };
        Ok(Self {
            kafka: Arc::new(Kafka::open(&settings, "bench")?),
            bootstrap,
            topics: Vec::new(),
        })
    }

    /// A topic of this run.
    pub fn topic(
        &mut self,
        name: &str,
        partitions: i32,
        config: &[(&str, &str)],
    ) -> Result<String> {
        let name = format!("bench.{}.{name}", std::process::id());
        let config = config
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.kafka.create(&[TopicSpec {
            name: name.clone(),
            partitions,
            replication_factor: None,
            config: config.collect(),
        }])?;
        self.topics.push(name.clone());
        Ok(name)
    }

    /// Writes events `range` over so many keys; gives the bytes of all values.
    pub fn fill(&self, topic: &str, range: std::ops::Range<usize>, keys: usize) -> Result<usize> {
        self.write(topic, range.map(|number| event(number, keys)))
    }

    /// Writes events, each a key and a value; gives the bytes of all values.
    pub fn write(
        &self,
        topic: &str,
        events: impl Iterator<Item = (String, String)>,
    ) -> Result<usize> {
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("linger.ms", "50")
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", "200000")
            .create()?;
        let mut bytes = 0;
        for (key, value) in events {
            bytes += value.len();
            loop {
                match producer.send(BaseRecord::to(topic).key(&key).payload(&value)) {
                    Ok(()) => break,
                    Err((error, _))
                        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) =>
                    {
                        producer.flush(PATIENCE)?;
                    }
                    Err((error, _)) => return Err(error.into()),
                }
            }
        }
        producer.flush(PATIENCE)?;
        Ok(bytes)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Err(error) = self.delete() {
            eprintln!("topics bench.{}.* are left: {error}", std::process::id());
        }
    }
}

impl Bed {
    fn delete(&self) -> Result<()> {
        let settings = headwater_kafka::Settings {
            bootstrap_servers: vec![self.bootstrap.clone()],
            ..headwater_kafka::Settings::default()
        };
        let admin = headwater_kafka::admin::Admin::new(&settings, PATIENCE)?;
        for (name, info) in self.topics.iter().zip(self.kafka.topics(&self.topics)?) {
            if let Some(info) = info {
                admin.delete(name, &info.id)?;
            }
        }
        Ok(())
    }
}
