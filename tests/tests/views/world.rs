//! Topics of one seed's own, on either log; the stages of its views; and an independent reader of it all.

use crate::catalogue::{self, ViewSpec};
use crate::follow::unique;
use crate::naive::Raw;
use crate::simulated;
use headwater_engine::config::Stage;
use headwater_engine::record::NewRecord;
use headwater_runtime::log::kafka::Kafka;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::log::{Log, TopicSpec};
use headwater_runtime::stage::{self, Handle, Services};
use headwater_testbed::kafka::Topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub const DEADLINE: Duration = Duration::from_secs(90);

pub struct World {
    pub log: Arc<dyn Log>,
    /// Namespace, and prefix of all topics.
    pub prefix: String,
    /// The view that others join.
    joined: ViewSpec,
    place: Place,
}

enum Place {
    Memory(Memory),
    /// With what removes the topics at the end.
    Kafka(
        String,
        #[allow(dead_code, reason = "held for its drop")] Topics,
    ),
}

impl World {
    pub fn memory(memory: Memory, views: &[ViewSpec]) -> Self {
        Self {
            log: Arc::new(memory.clone()),
            prefix: unique("views"),
            joined: catalogue::joined(),
            place: Place::Memory(memory),
        }
        .with_topics(views)
    }

    pub fn kafka(views: &[ViewSpec]) -> Self {
        let broker = headwater_testbed::kafka().unwrap();
        let prefix = unique("views");
        let bootstrap = broker.bootstrap().to_owned();
        let config = headwater_engine::config::Kafka {
            bootstrap_servers: vec![bootstrap.clone()],
            ..Default::default()
        };
        Self {
            log: Arc::new(Kafka::open(&config, "views-test").unwrap()),
            place: Place::Kafka(bootstrap, broker.topics(format!("{prefix}."))),
            prefix,
            joined: catalogue::joined(),
        }
        .with_topics(views)
    }

    fn with_topics(self, views: &[ViewSpec]) -> Self {
        self.create_sources();
        let mut topics = Vec::new();
        let append_time = ("message.timestamp.type", "LogAppendTime");
        let own = views.iter().filter(|view| view.name != self.joined.name);
        for view in own.chain([&self.joined]) {
            let compact = [append_time, ("cleanup.policy", "compact")];
            topics.push(spec(
                view.state_topic(&self.prefix),
                view.partitions,
                &compact,
            ));
            topics.push(spec(view.dead_topic(&self.prefix), 1, &[append_time]));
            if let Some(changes) = view.changes_topic(&self.prefix) {
                topics.push(spec(changes, view.partitions, &[append_time]));
            }
            if view.own {
                topics.push(spec(
                    view.input_topic(&self.prefix),
                    view.partitions,
                    &[append_time],
                ));
            }
        }
        self.log.create(&topics).unwrap();
        self
    }

    pub fn create_sources(&self) {
        let topics: Vec<TopicSpec> = catalogue::sources()
            .iter()
            .map(|source| {
                // Event times of long ago are not to be cleaned up.
                let keep = [("retention.ms", "-1")];
                spec(self.topic(source.name), source.partitions, &keep)
            })
            .collect();
        self.log.create(&topics).unwrap();
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub fn write(&self, records: &[NewRecord]) {
        self.log.writer().unwrap().write(records).unwrap();
    }

    pub fn services(&self, shutdown: &CancellationToken) -> Services {
        Services {
            shutdown: shutdown.clone(),
            // Many checkpoints: what a later one takes back has to be told.
            checkpoint_every: Duration::from_millis(30),
            ..Services::new(Arc::clone(&self.log))
        }
    }

    /// Configuration of a view's stage.
    pub fn config(&self, view: &ViewSpec) -> Stage {
        let sources: BTreeMap<&str, Value> = catalogue::sources()
            .iter()
            .map(|spec| (spec.name, catalogue::source_config(spec, &self.prefix)))
            .collect();
        let mut views = BTreeMap::from([(view.name, view.config(&self.prefix))]);
        if view.from.iter().any(|from| from.join.is_some()) {
            views.insert(self.joined.name, self.joined.config(&self.prefix));
        }
        let stage = json!({
            "namespace": self.prefix,
            "kafka": {},
            "sources": sources,
            "views": views,
            "role": {"view": {"name": view.name}},
        });
        serde_json::from_value(stage).unwrap()
    }

    pub fn start(&self, view: &ViewSpec, ordinal: u32, services: Services) -> Handle {
        stage::start(self.config(view), ordinal, services).unwrap()
    }

    /// Every committed record of a topic, by partition.
    pub fn read(&self, topic: &str) -> BTreeMap<i32, Vec<Raw>> {
        let mut all: BTreeMap<i32, Vec<Raw>> = BTreeMap::new();
        match &self.place {
            Place::Memory(memory) => memory
                .dump(topic, |record| {
                    let raw = simulated::raw(record);
                    all.entry(record.partition).or_default().push(raw);
                })
                .unwrap(),
            Place::Kafka(bootstrap, _) => {
                for raw in read_kafka(bootstrap, topic) {
                    all.entry(raw.partition).or_default().push(raw);
                }
            }
        }
        all
    }
}

fn spec(name: String, partitions: i32, config: &[(&str, &str)]) -> TopicSpec {
    TopicSpec {
        name,
        partitions,
        replication_factor: Some(1),
        config: config
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    }
}

/// A plain consumer, as anybody may write one.
fn read_kafka(bootstrap: &str, topic: &str) -> Vec<Raw> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "never-used")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).unwrap();
    let mut left: BTreeSet<i32> = BTreeSet::new();
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        left.insert(partition.id());
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut all = Vec::new();
    let begun = Instant::now();
    while !left.is_empty() {
        assert!(
            begun.elapsed() < DEADLINE,
            "cannot read '{topic}' to its end"
        );
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                left.remove(&partition);
            }
            Some(message) => {
                let message = message.unwrap();
                let headers = message.headers().map_or_else(Vec::new, |headers| {
                    headers
                        .iter()
                        .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                        .collect()
                });
                all.push(Raw {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp: message.timestamp().to_millis().unwrap_or(-1),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers,
                });
            }
        }
    }
    all
}
