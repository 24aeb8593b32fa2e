//! A log, and stages on it as the operator plans them from resources.

use crate::follow::unique;
pub use crate::follow::{Follow, Seen};
use headwater_engine::config::Stage;
use headwater_engine::names::Owner;
use headwater_engine::record::NewRecord;
use headwater_operator::plan::{self, Plan};
use headwater_operator::resources::{Object, Resources};
use headwater_operator::validate::{Settings, validate};
use headwater_runtime::log::kafka::Kafka;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::log::{Log, TopicSpec};
use headwater_runtime::stage::{self, Handle, Phase, Services};
use headwater_testbed::kafka::Topics;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub const DEADLINE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Memory,
    Kafka,
}

/// Where the log is, for what is no part of its interface.
#[derive(Clone)]
pub enum Place {
    Memory(Memory),
    Kafka { bootstrap: String },
}

impl Place {
    /// Somebody else's transaction: it has these records, and is open for as long as `during` takes.
    pub async fn foreign(&self, id: &str, records: &[NewRecord], during: impl AsyncFnOnce()) {
        match self {
            Self::Memory(memory) => {
                let mut producer = memory.producer(id);
                let mut open = producer.begin().unwrap();
                open.write(records).unwrap();
                during().await;
                open.commit().unwrap();
            }
            Self::Kafka { bootstrap } => {
                let producer: BaseProducer = ClientConfig::new()
                    .set("bootstrap.servers", bootstrap)
                    .set("transactional.id", id)
                    .set("partitioner", "murmur2_random")
                    .create()
                    .unwrap();
                producer.init_transactions(DEADLINE).unwrap();
                producer.begin_transaction().unwrap();
                for record in records {
                    let value = record.value.as_deref().unwrap();
                    let mut native = BaseRecord::to(&record.topic).payload(value);
                    native.key = record.key.as_deref();
                    let native: BaseRecord<'_, [u8], [u8]> = native;
                    producer.send(native).map_err(|(error, _)| error).unwrap();
                }
                producer.flush(DEADLINE).unwrap();
                during().await;
                producer.commit_transaction(DEADLINE).unwrap();
            }
        }
    }
}

pub struct Bed {
    pub kind: Kind,
    pub log: Arc<dyn Log>,
    pub place: Place,
    pub namespace: String,
    /// On Kafka: removes them with the bed.
    _topics: Option<Topics>,
}

/// A stage in this process, and what ends it in order.
pub struct Running {
    pub handle: Handle,
    token: CancellationToken,
}

impl Bed {
    pub fn new(kind: Kind) -> Self {
        let namespace = unique("fresh");
        let mut topics = None;
        let (log, place): (Arc<dyn Log>, Place) = match kind {
            Kind::Memory => {
                let memory = Memory::new();
                (Arc::new(memory.clone()), Place::Memory(memory))
            }
            Kind::Kafka => {
                let broker = headwater_testbed::kafka().unwrap();
                let config = headwater_engine::config::Kafka {
                    bootstrap_servers: vec![broker.bootstrap().to_owned()],
                    ..Default::default()
                };
                topics = Some(broker.topics(format!("{namespace}.")));
                let kafka = Kafka::open(&config, "freshness-test").unwrap();
                let bootstrap = broker.bootstrap().to_owned();
                (Arc::new(kafka), Place::Kafka { bootstrap })
            }
        };
        Self {
            kind,
            log,
            place,
            namespace,
            _topics: topics,
        }
    }

    /// What the operator would run for these resources, which have to be right.
    pub fn plan(&self, yaml: &str) -> Plan {
        let mut resources = Resources::new(&self.namespace);
        for document in serde_yaml::Deserializer::from_str(yaml) {
            let document = serde_yaml::Value::deserialize(document).unwrap();
            assert_eq!(resources.add(object(document)), None);
        }
        let validation = validate(&resources, &Settings::default());
        for (id, found) in validation.findings() {
            assert!(found.problems.is_empty(), "{id}: {:#?}", found.problems);
        }
        plan::plan(&validation, &plan::Options::default())
    }

    /// Makes the topics of a plan that are not there.
    pub fn create(&self, plan: &Plan) {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let mut specs = Vec::new();
        for topic in &plan.topics {
            let count = topic.partitions.resolve(|other| counts.get(other).copied());
            counts.insert(topic.name.clone(), count.unwrap());
            specs.push(TopicSpec {
                name: topic.name.clone(),
                partitions: count.unwrap().try_into().unwrap(),
                replication_factor: Some(1),
                config: topic.config.clone(),
            });
        }
        self.log.create(&specs).unwrap();
    }

    pub fn start(&self, config: &Stage, ordinal: u32) -> Running {
        let token = CancellationToken::new();
        let services = Services {
            shutdown: token.clone(),
            // So that there is something to restore from, however short a test is.
            checkpoint_every: Duration::from_millis(100),
            ..Services::new(Arc::clone(&self.log))
        };
        let handle = stage::start(config.clone(), ordinal, services).unwrap();
        Running { handle, token }
    }

    pub async fn started(&self, config: &Stage, ordinal: u32) -> Running {
        let running = self.start(config, ordinal);
        until("ready", &running, Handle::is_ready).await;
        running
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    pub fn record(&self, topic: &str, key: &str, value: &Value) -> NewRecord {
        NewRecord {
            topic: self.topic(topic),
            key: Some(key.as_bytes().to_vec()),
            value: Some(serde_json::to_vec(value).unwrap()),
            ..NewRecord::default()
        }
    }

    pub fn follow(&self, topic: &str) -> Follow {
        Follow::new(&*self.log, self.topic(topic))
    }

    /// Every committed record that is in a topic now.
    pub fn read(&self, topic: &str) -> Vec<Seen> {
        self.follow(topic).read(&*self.log, DEADLINE)
    }
}

impl Running {
    /// As a pod that is told to end.
    pub async fn end(self) {
        self.token.cancel();
        let status = self.handle.join().await;
        assert_eq!(status.phase, Phase::Stopped, "{status:#?}");
    }

    pub async fn crash(self) {
        self.handle.crash().await;
    }
}

/// One cluster, whose topics have three partitions, and sources with nothing but names.
pub fn sources(names: &[&str]) -> String {
    let source = |name: &&str| {
        format!(
            "
---
kind: EventSource
apiVersion: headwater.dev/v1alpha1
metadata: {{name: {name}}}
spec: {{}}"
        )
    };
    let sources: String = names.iter().map(source).collect();
    format!(
        "kind: KafkaCluster
apiVersion: headwater.dev/v1alpha1
metadata: {{name: default}}
spec: {{bootstrapServers: ['localhost:9092'], topicDefaults: {{partitions: 3, replicationFactor: 1}}}}{sources}"
    )
}

/// The configuration of the only stage of this owner.
pub fn stage_of<'a>(plan: &'a Plan, kind: Owner, name: &str) -> &'a Stage {
    let mut stages = plan
        .stages
        .iter()
        .filter(|stage| stage.kind == kind && stage.name == name);
    let (Some(stage), None) = (stages.next(), stages.next()) else {
        panic!("no stage, or more than one, of {kind} {name}");
    };
    &stage.config
}

/// Waits for a condition on a stage's status, which nothing signals.
pub async fn until(what: &str, running: &Running, condition: impl Fn(&Handle) -> bool) {
    let begun = Instant::now();
    while !condition(&running.handle) {
        assert!(
            begun.elapsed() < DEADLINE,
            "not {what}: {:#?}",
            running.handle.status()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn object(document: serde_yaml::Value) -> Object {
    fn of<T: for<'d> Deserialize<'d>>(document: serde_yaml::Value) -> Arc<T> {
        Arc::new(serde_yaml::from_value(document).unwrap())
    }
    match document["kind"].as_str().unwrap() {
        "KafkaCluster" => Object::KafkaCluster(of(document)),
        "Model" => Object::Model(of(document)),
        "EventSource" => Object::EventSource(of(document)),
        "ContextView" => Object::ContextView(of(document)),
        "Agent" => Object::Agent(of(document)),
        other => panic!("kind {other}"),
    }
}
