//! The events that benchmarks fold, and the views that they are folded into.

use crate::Result;
use headwater_engine::config;
use headwater_engine::view::Definition;
use headwater_runtime::log::kafka::Kafka;
use headwater_runtime::log::{Log, TopicSpec};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use serde_json::{Value, json};
use std::collections::BTreeMap;
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
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("linger.ms", "50")
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", "200000")
            .create()?;
        let mut bytes = 0;
        for number in range {
            let (key, value) = event(number, keys);
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

/// An event of about 220 bytes and its key; those of every tenth key are to be filtered out.
pub fn event(number: usize, keys: usize) -> (String, String) {
    let archived = number % keys % 10 == 9;
    flight(number, keys, if archived { "archived" } else { "active" })
}

/// As [`event`], and none is to be filtered out; each differs from the one of its key before it.
pub fn active(number: usize, keys: usize) -> (String, String) {
    flight(number, keys, "active")
}

fn flight(number: usize, keys: usize, status: &str) -> (String, String) {
    let key = format!("flight-{:07}", number % keys);
    let value = format!(
        r#"{{"flight_id":"{key}","status":"{status}","gate":"B{:02}","origin":"London Heathrow","destination":"New York JFK","scheduled":"2026-11-24T11:40:00Z","delay_minutes":{},"aircraft":"A330-900","seats_free":{},"tz":"UTC"}}"#,
        number % 60,
        number % 199,
        number % 293
    );
    (key, value)
}

/// How many of so many keys are not filtered out.
pub fn kept(keys: usize) -> usize {
    keys - keys / 10
}

/// A view with a filter and a key in CEL, whose source is its input log.
pub fn view(name: &str, topic: &str, state_topic: &str, fold: &Value) -> Result<config::View> {
    Ok(serde_json::from_value(json!({
        "name": name, "generation": "000000",
        "from": [{
            "name": "flights", "source": "flights", "filter": "event.status != 'archived'", "key": null,
            "value": null, "delete": null, "required": false,
        }],
        "fold": fold, "indexes": [],
        "input": {"source": {"topic": topic}}, "stateTopic": state_topic, "deadTopic": "bench.dead",
    }))?)
}

pub fn source(topic: &str) -> Result<config::Source> {
    Ok(serde_json::from_value(json!({
        "name": "flights", "topic": topic, "format": "Json", "keyFormat": "Text", "schema": null,
        "key": "event.flight_id", "eventTime": null, "invalidRecords": "DeadLetter",
    }))?)
}

pub fn definition(topic: &str, fold: &Value) -> Result<Arc<Definition>> {
    let sources = BTreeMap::from([("flights".to_owned(), source(topic)?)]);
    Ok(Definition::compile(
        &view("flights", topic, "bench.state", fold)?,
        &sources,
    )?)
}

pub fn latest() -> Value {
    json!({"latest": {"merge": "Replace"}})
}

pub fn history() -> Value {
    json!({"history": {"limit": 20, "withinMs": null}})
}

/// Three fields.
pub fn aggregate() -> Value {
    let field = |name: &str, compute: &str, of: Option<&str>| json!({"name": name, "compute": compute, "of": of, "where": null, "withinMs": null, "limit": 0});
    json!({"aggregate": {"fields": [
        field("events", "Count", None),
        field("delay", "Sum", Some("value.delay_minutes")),
        field("seats", "Max", Some("value.seats_free")),
    ]}})
}
