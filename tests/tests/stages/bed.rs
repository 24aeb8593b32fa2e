//! A log, topics of its own, and the configuration of a small airline on them.
//!
//! `questions` trigger the agent `helper`, which reads the view `flights` and answers to `answers`.
//! Every bed has a namespace of its own, so that beds share a broker.

use crate::follow;
pub use crate::follow::Seen;
use headwater_engine::config::Stage;
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_runtime::log::kafka::Kafka;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::log::{Log, Offsets, TopicSpec, Writer};
use headwater_runtime::model::Model;
use headwater_runtime::observe::Observer;
use headwater_runtime::stage::{self, Handle, Services};
use headwater_runtime::tools::Server;
use headwater_testbed::kafka::Topics;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub const PARTITIONS: i32 = 3;
pub const DEADLINE: Duration = Duration::from_secs(60);
const STATIC: &[&str] = &[
    "questions",
    "answers",
    "flights",
    "delays",
    "view.flights.000001",
    "view.board.000001",
    "view.board.000001-in",
    "agent.helper.conversation",
    "agent.helper.approvals",
    "agent.helper.journal",
    "agent.helper.runs",
];

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Memory,
    Kafka,
}

pub struct Bed {
    pub kind: Kind,
    pub log: Arc<dyn Log>,
    /// Of the same log.
    pub offsets: Arc<dyn Offsets>,
    pub namespace: String,
    pub shutdown: CancellationToken,
    pub observer: Observer,
    pub models: BTreeMap<String, Arc<dyn Model>>,
    pub tool_servers: BTreeMap<String, Arc<dyn Server>>,
    /// On the memory log.
    memory: Option<Memory>,
    /// On Kafka: removes them with the bed.
    _topics: Option<Topics>,
}

fn admin() -> AdminClient<DefaultClientContext> {
    let broker = headwater_testbed::kafka().unwrap();
    ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .create()
        .unwrap()
}

impl Bed {
    pub fn new(kind: Kind) -> Self {
        let namespace = follow::unique("stages");
        let (mut made, mut memory) = (None, None);
        let (log, offsets): (Arc<dyn Log>, Arc<dyn Offsets>) = match kind {
            Kind::Memory => {
                let log = Memory::new();
                memory = Some(log.clone());
                (Arc::new(log.clone()), Arc::new(log))
            }
            Kind::Kafka => {
                let broker = headwater_testbed::kafka().unwrap();
                let config = headwater_engine::config::Kafka {
                    bootstrap_servers: vec![broker.bootstrap().to_owned()],
                    ..Default::default()
                };
                made = Some(broker.topics(format!("{namespace}.")));
                let log = Arc::new(Kafka::open(&config, "stages-test").unwrap());
                (Arc::clone(&log) as Arc<dyn Log>, log)
            }
        };
        let bed = Self {
            kind,
            log,
            offsets,
            namespace,
            shutdown: CancellationToken::new(),
            observer: Observer::new(),
            models: BTreeMap::new(),
            tool_servers: BTreeMap::new(),
            memory,
            _topics: made,
        };
        let mut topics: Vec<TopicSpec> = STATIC
            .iter()
            .map(|name| bed.spec(name, PARTITIONS))
            .collect();
        for owner in ["view.flights", "view.board", "agent.helper"] {
            topics.push(bed.spec(&format!("{owner}.dead"), 1));
        }
        bed.log.create(&topics).unwrap();
        bed
    }

    /// Forgets what a group has committed, once it has no members, as the log does a while after the last one left.
    pub async fn forget(&self, group: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.has_forgotten(group).await {
            assert!(Instant::now() < end, "{group} still has members");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Forgets what a group has committed of one partition, as it is when somebody deletes that offset.
    pub async fn forget_partition(&self, group: &str, partition: &TopicPartition) {
        let all: Vec<_> = (0..PARTITIONS)
            .map(|it| TopicPartition {
                partition: it,
                ..partition.clone()
            })
            .collect();
        let before = self.offsets.committed(group, &all).unwrap();
        self.forget(group).await;
        let kept: Vec<_> = before
            .into_iter()
            .filter(|(of, _)| of != partition)
            .filter_map(|(of, committed)| Some((of, committed?)))
            .collect();
        self.offsets.commit(group, &kept).unwrap();
    }

    async fn has_forgotten(&self, group: &str) -> bool {
        if let Some(memory) = &self.memory {
            return memory.forget(group);
        }
        // It has to live until it is answered.
        let admin = admin();
        let answer = admin.delete_groups(&[group], &AdminOptions::new()).await;
        match &answer.unwrap()[0] {
            Ok(_) | Err((_, Code::GroupIdNotFound)) => true,
            Err((_, Code::NonEmptyGroup)) => false,
            Err(error) => panic!("{error:?}"),
        }
    }

    /// Takes away all records of a topic, as retention does.
    pub async fn empty(&self, topic: &str) {
        let partitions: Vec<_> = (0..PARTITIONS)
            .map(|it| TopicPartition::new(self.topic(topic), it))
            .collect();
        let ends = self.log.ends(&partitions).unwrap();
        if let Some(memory) = &self.memory {
            for (partition, end) in partitions.iter().zip(ends) {
                memory.cut(partition, end);
            }
            return;
        }
        let mut list = TopicPartitionList::new();
        for (partition, end) in partitions.iter().zip(ends) {
            let end = Offset::Offset(end);
            list.add_partition_offset(&partition.topic, partition.partition, end)
                .unwrap();
        }
        let admin = admin();
        let answer = admin.delete_records(&list, &AdminOptions::new()).await;
        answer.unwrap();
    }

    pub fn spec(&self, name: &str, partitions: i32) -> TopicSpec {
        TopicSpec {
            name: self.topic(name),
            partitions,
            replication_factor: Some(1),
            config: BTreeMap::new(),
        }
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    pub fn services(&self) -> Services {
        Services {
            shutdown: self.shutdown.clone(),
            observer: self.observer.clone(),
            models: self.models.clone(),
            tool_servers: self.tool_servers.clone(),
            ..Services::new(Arc::clone(&self.log))
        }
    }

    fn source(&self, name: &str) -> Value {
        json!({
            "name": name, "topic": self.topic(name), "format": "Json", "keyFormat": "Text",
            "schema": null, "key": null, "eventTime": null, "invalidRecords": "DeadLetter",
        })
    }

    /// What all stages share.
    fn common(&self) -> Value {
        let mut flights = self.source("flights");
        flights["schema"] = json!({"type": "object", "required": ["gate"]});
        json!({
            "namespace": self.namespace,
            "kafka": {},
            "sources": {
                "questions": self.source("questions"), "flights": flights,
                "delays": self.source("delays"), "answers": self.source("answers"),
            },
            "views": {
                "flights": {
                    "name": "flights", "generation": "000001",
                    "from": [{"name": "flights", "source": "flights", "required": false}],
                    "fold": {"latest": {"merge": "Replace"}}, "indexes": [],
                    "input": {"source": {"topic": self.topic("flights")}},
                    "stateTopic": self.topic("view.flights.000001"),
                    "deadTopic": self.topic("view.flights.dead"),
                },
                "board": {
                    "name": "board", "generation": "000001",
                    "from": [
                        {"name": "schedule", "source": "flights", "value": "{'gate': event.gate}", "required": false},
                        {"name": "delays", "source": "delays", "key": "event.flight", "value": "{'minutes': event.minutes}", "required": false},
                    ],
                    "fold": {"latest": {"merge": "Fields"}}, "indexes": [],
                    "input": {"own": {"topic": self.topic("view.board.000001-in")}},
                    "stateTopic": self.topic("view.board.000001"),
                    "deadTopic": self.topic("view.board.dead"),
                },
            },
        })
    }

    /// The view stage of `flights` or `board`.
    pub fn view(&self, name: &str) -> Value {
        let mut stage = self.common();
        stage["role"] = json!({"view": {"name": name}});
        stage
    }

    /// The agent; its scripted model says what the slot and the conversation hold.
    pub fn agent(&self) -> Value {
        let mut stage = self.common();
        stage["role"] = json!({"agent": {
            "name": "helper",
            "trigger": {"from": {"source": "questions"}, "startFrom": "Earliest", "deletes": "Ignore", "filter": "event.text != 'ignore'", "key": null},
            "slots": [{
                "name": "flight",
                "lookup": {"view": "flights", "by": {"key": "event.flight"}, "index": null, "where": null, "orderBy": null, "order": "Ascending", "limit": 20},
                "required": false, "budgetTokens": null, "priority": 0, "maxStalenessMs": null, "onStale": "Mark",
            }],
            "freshnessWaitMs": 5_000,
            "when": null,
            "conversation": {"turns": 50, "expireAfterMs": 86_400_000, "userText": "event.text"},
            "prompt": {"user": "{{ event.text }}"},
            "model": {
                "name": "chat",
                "provider": {"scripted": {"rules": [{"reply": "gate {{ request.context.flight.gate if request.context.flight else 'none' }} turns {{ request.messages | length }}"}]}},
                "model": "scripted", "parameters": {}, "contextWindowTokens": 32_768, "maxOutputTokens": 1_024,
                "requestTimeoutMs": 10_000,
                "retry": {"maxAttempts": 2, "initialBackoffMs": 1, "maxBackoffMs": 2},
            },
            "outputs": [{
                "name": "answer", "source": "answers", "topic": self.topic("answers"), "format": "Json", "outcome": "Done",
                "when": null, "items": null, "key": null, "value": "{'text': result.text, 'asked': event.text}",
            }],
            "delivery": {"maxAttempts": 2, "attemptTimeoutMs": 20_000, "maxHops": 16, "onFailure": "DeadLetter"},
            "audit": "Full",
            "concurrency": 64,
            "topics": {
                "conversation": self.topic("agent.helper.conversation"),
                "journal": self.topic("agent.helper.journal"),
                "runs": self.topic("agent.helper.runs"),
                "dead": self.topic("agent.helper.dead"),
            },
        }});
        stage
    }

    pub fn start(&self, stage: &Value) -> Handle {
        self.start_with(stage, self.services())
    }

    pub fn start_with(&self, stage: &Value, services: Services) -> Handle {
        let config: Stage = serde_json::from_value(stage.clone()).unwrap();
        stage::start(config, 0, services).unwrap()
    }

    /// What the agent asks.
    pub fn asks<M: Model + 'static>(&mut self, model: M) -> Arc<M> {
        let model = Arc::new(model);
        let of_stage = Arc::clone(&model) as Arc<dyn Model>;
        self.models.insert("chat".to_owned(), of_stage);
        model
    }

    /// Starts and waits until it is ready.
    pub async fn started(&self, stage: &Value) -> Handle {
        let handle = self.start(stage);
        ready(&handle).await;
        handle
    }

    pub fn writer(&self) -> Box<dyn Writer> {
        self.log.writer().unwrap()
    }

    pub fn record(&self, topic: &str, key: &str, value: &Value) -> NewRecord {
        NewRecord {
            topic: self.topic(topic),
            key: Some(key.as_bytes().to_vec()),
            value: Some(serde_json::to_vec(value).unwrap()),
            ..NewRecord::default()
        }
    }

    pub fn question(&self, session: &str, text: &str, flight: &str) -> NewRecord {
        self.record(
            "questions",
            session,
            &json!({"text": text, "flight": flight}),
        )
    }

    /// Every committed record that is in a topic now.
    pub fn read(&self, topic: &str) -> Vec<Seen> {
        follow::Follow::new(&*self.log, self.topic(topic)).read(&*self.log, DEADLINE)
    }

    pub fn follow(&self, topic: &str) -> Follow {
        Follow {
            reader: follow::Follow::new(&*self.log, self.topic(topic)),
            seen: Vec::new(),
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A reader that keeps what it has seen.
pub struct Follow {
    reader: follow::Follow,
    pub seen: Vec<Seen>,
}

impl Follow {
    fn poll(&mut self, wait: Duration) {
        self.seen.extend(self.reader.poll(wait));
    }

    /// Takes what is there.
    pub fn look(&mut self) {
        self.poll(Duration::from_millis(1));
    }

    /// Waits until there are so many records in all.
    pub fn wait(&mut self, count: usize) -> &[Seen] {
        let begun = Instant::now();
        while self.seen.len() < count {
            self.poll(Duration::from_millis(500));
            assert!(
                begun.elapsed() < DEADLINE,
                "{} of {count} records came: {:?}",
                self.seen.len(),
                self.seen
                    .iter()
                    .map(|seen| (&seen.key, &seen.value))
                    .take(20)
                    .collect::<Vec<_>>()
            );
        }
        &self.seen
    }
}

/// Waits for a condition on a stage's status, which nothing signals.
pub async fn until(handle: &Handle, what: &str, condition: impl Fn(&Handle) -> bool) {
    let begun = Instant::now();
    while !condition(handle) {
        assert!(
            begun.elapsed() < DEADLINE,
            "not {what}: {:#?}",
            handle.status()
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn ready(handle: &Handle) {
    until(handle, "ready", Handle::is_ready).await;
}
