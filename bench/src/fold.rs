//! Events folded per CPU-second, over what a bare librdkafka consumer reads per CPU-second from the same topic.

use crate::Result;
use crate::measure::{cpu_of, median};
use headwater_engine::config;
use headwater_engine::record::TopicPartition;
use headwater_engine::view::{Definition, View};
use headwater_runtime::log::{Isolation, Log, Start, kafka::Kafka};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const EVENTS: usize = 1_000_000;
const KEYS: usize = 100_000;
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run() -> Result<()> {
    let broker = headwater_testbed::kafka()?;
    let topic = format!("bench.fold.{}", std::process::id());
    let settings = config::Kafka {
        bootstrap_servers: vec![broker.bootstrap().to_owned()],
        ..config::Kafka::default()
    };
    let kafka = Kafka::open(&settings, "bench")?;
    kafka.create(&[headwater_runtime::log::TopicSpec {
        name: topic.clone(),
        partitions: 1,
        replication_factor: None,
        config: BTreeMap::new(),
    }])?;
    let bytes = fill(broker.bootstrap(), &topic)?;
    println!(
        "{EVENTS} events of {} B, {KEYS} keys, one partition; filter and key in CEL; {ROUNDS} rounds, medians",
        bytes / EVENTS
    );
    let definition = definition(&topic)?;
    let mut ratios = Vec::new();
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..ROUNDS {
        let (_, bare_cpu) = cpu_of(|| consume(broker.bootstrap(), &topic))?;
        let (keys, our_cpu) = cpu_of(|| fold(&kafka, &topic, &definition))?;
        if keys != KEYS - KEYS / 10 {
            return Err(format!("the view holds {keys} keys").into());
        }
        ratios.push(rate(our_cpu) / rate(bare_cpu));
        ours.push(rate(our_cpu));
        bare.push(rate(bare_cpu));
    }
    println!(
        "bare librdkafka consumer: {:>9.0} events per CPU-second",
        median(bare)
    );
    println!(
        "headwater, latest view:   {:>9.0} events per CPU-second",
        median(ours)
    );
    println!("ratio:                    {:>9.2}", median(ratios));
    Ok(())
}

fn rate(cpu: Duration) -> f64 {
    EVENTS as f64 / cpu.as_secs_f64()
}

/// Events of about 220 bytes; the keys of every tenth are filtered out. Gives the bytes of all values.
fn fill(bootstrap: &str, topic: &str) -> Result<usize> {
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("linger.ms", "50")
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.messages", "200000")
        .create()?;
    let mut bytes = 0;
    for n in 0..EVENTS {
        let number = n % KEYS;
        let key = format!("flight-{number:06}");
        let status = if number % 10 == 9 {
            "archived"
        } else {
            "active"
        };
        let value = format!(
            r#"{{"flight_id":"{key}","status":"{status}","gate":"B{:02}","origin":"London Heathrow","destination":"New York JFK","scheduled":"2026-11-24T11:40:00Z","delay_minutes":{},"aircraft":"A330-900","seats_free":{}}}"#,
            n % 60,
            n % 200,
            n % 293
        );
        bytes += value.len();
        loop {
            match producer.send(BaseRecord::to(topic).key(&key).payload(&value)) {
                Ok(()) => break,
                Err((error, _))
                    if error.rdkafka_error_code()
                        == Some(rdkafka::types::RDKafkaErrorCode::QueueFull) =>
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

fn consume(bootstrap: &str, topic: &str) -> Result<usize> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "never-used")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let mut bytes = 0;
    for _ in 0..EVENTS {
        let message = consumer.poll(PATIENCE).ok_or("the topic ended early")??;
        bytes += message.payload_len();
    }
    Ok(bytes)
}

fn fold(kafka: &Kafka, topic: &str, definition: &Arc<Definition>) -> Result<usize> {
    let mut view = View::new(Arc::clone(definition));
    let mut reader = kafka.reader(Isolation::ReadCommitted)?;
    reader.assign(&[(TopicPartition::new(topic, 0), Start::Earliest)])?;
    let mut read = 0;
    let mut faults = 0;
    let state = view.partition_mut(0);
    let deadline = Instant::now() + PATIENCE;
    while read < EVENTS {
        // Nothing may come although there is more, where only a position moved.
        read += reader.poll(PATIENCE, &mut |record| {
            faults += usize::from(state.fold(record).fault.is_some());
        })?;
        if Instant::now() > deadline {
            return Err(format!("{read} events after {PATIENCE:?}").into());
        }
    }
    if faults > 0 {
        return Err(format!("{faults} events were refused").into());
    }
    Ok(view.keys())
}

fn definition(topic: &str) -> Result<Arc<Definition>> {
    let source: config::Source = serde_json::from_value(json!({
        "name": "flights", "topic": topic, "format": "Json", "keyFormat": "Text", "schema": null,
        "key": "event.flight_id", "eventTime": null, "invalidRecords": "DeadLetter",
    }))?;
    let view: config::View = serde_json::from_value(json!({
        "name": "flights", "generation": "000000",
        "from": [{
            "name": "flights", "source": "flights", "filter": "event.status != 'archived'", "key": null,
            "value": null, "delete": null, "required": false,
        }],
        "fold": {"latest": {"merge": "Replace"}}, "indexes": [],
        "input": {"source": {"topic": topic}}, "stateTopic": "bench.state", "deadTopic": "bench.dead",
    }))?;
    let sources = BTreeMap::from([("flights".to_owned(), source)]);
    Ok(Definition::compile(&view, &sources)?)
}
