//! The people at the desk, who answer what they are asked for as long as the rounds last.

use crate::desk;
use crate::naive::Raw;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const FLUSH: Duration = Duration::from_secs(5);

pub struct People {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl People {
    pub fn start(bootstrap: &str, namespace: &str) -> Self {
        let topic = format!("{namespace}.{}", desk::APPROVALS);
        let mut assignment = TopicPartitionList::new();
        for partition in 0..desk::partitions("questions") {
            assignment
                .add_partition_offset(&topic, partition, Offset::Beginning)
                .unwrap();
        }
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap);
        let producer: BaseProducer = config
            .clone()
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "0")
            .create()
            .unwrap();
        let consumer: BaseConsumer = config
            .set("group.id", "people")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .create()
            .unwrap();
        consumer.assign(&assignment).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                answer(&consumer, &producer, &topic);
                producer.poll(Duration::ZERO);
            }
            // What is not written is not counted on.
            let _ = producer.flush(FLUSH);
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

fn answer(consumer: &BaseConsumer, producer: &BaseProducer, topic: &str) {
    // Brokers come and go.
    let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
        return;
    };
    let raw = Raw {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: Vec::new(),
    };
    for record in desk::approvals::answers(topic, &raw) {
        let record = BaseRecord::to(topic)
            .partition(raw.partition)
            .key(record.key.as_deref().unwrap_or_default())
            .payload(record.value.as_deref().unwrap_or_default());
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
}

impl Drop for People {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its failure shows in what is not answered.
            let _ = thread.join();
        }
    }
}
