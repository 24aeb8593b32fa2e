//! The two logs, and what a test may do to them beyond the trait.

use headwater_engine::config;
use headwater_engine::record::{NewRecord, Record, TopicPartition};
use headwater_kafka::admin::Admin;
use headwater_runtime::log::kafka::Kafka;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::log::{Committed, GroupMetadata, Isolation, Log, Reader, Start, TopicSpec};
use headwater_testbed::kafka::Topics;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// As long as a condition is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Bed {
    pub log: Box<dyn Log>,
    kind: Kind,
    prefix: String,
    /// On Kafka: removes them with the bed.
    _topics: Option<Topics>,
}

enum Kind {
    Memory(Memory),
    Kafka { bootstrap: String, admin: Admin },
}

/// How a transaction of somebody else ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Commit,
    Abort,
    /// Its process dies.
    Never,
}

/// Offsets that somebody else's transaction holds.
pub type Pending<'a> = Option<(&'a str, &'a GroupMetadata, TopicPartition, i64)>;

impl Bed {
    pub fn memory() -> Self {
        let memory = Memory::new();
        Self {
            log: Box::new(memory.clone()),
            kind: Kind::Memory(memory),
            prefix: unique(),
            _topics: None,
        }
    }

    pub fn kafka() -> Self {
        let broker = headwater_testbed::kafka().unwrap();
        let bootstrap = broker.bootstrap().to_owned();
        let prefix = unique();
        let topics = broker.topics(format!("{prefix}."));
        let config = config::Kafka {
            bootstrap_servers: vec![bootstrap.clone()],
            ..config::Kafka::default()
        };
        let settings = headwater_runtime::log::kafka::settings(&config, &prefix).unwrap();
        Self {
            log: Box::new(Kafka::open(&config, &prefix).unwrap()),
            kind: Kind::Kafka {
                bootstrap,
                admin: Admin::new(&settings, PATIENCE).unwrap(),
            },
            prefix,
            _topics: Some(topics),
        }
    }

    /// A name of this test's own.
    pub fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    pub fn topic(&self, name: &str, partitions: i32) -> String {
        self.topic_with(name, partitions, &[])
    }

    pub fn topic_with(&self, name: &str, partitions: i32, config: &[(&str, &str)]) -> String {
        let name = self.name(name);
        let config = config.iter().map(|(k, v)| ((*k).into(), (*v).into()));
        self.log
            .create(&[TopicSpec {
                name: name.clone(),
                partitions,
                replication_factor: None,
                config: config.collect::<BTreeMap<_, _>>(),
            }])
            .unwrap();
        name
    }

    pub fn delete(&self, topic: &str) {
        match &self.kind {
            Kind::Memory(memory) => memory.delete(topic),
            Kind::Kafka { admin, .. } => {
                let id = self.log.topics(&[topic.to_owned()]).unwrap()[0]
                    .clone()
                    .unwrap()
                    .id;
                admin.delete(topic, &id).unwrap();
            }
        }
    }

    pub fn write(&self, records: &[NewRecord]) -> Vec<(TopicPartition, i64)> {
        self.log.writer().unwrap().write(records).unwrap()
    }

    pub fn reader(&self, isolation: Isolation, topic: &str, start: Start) -> Box<dyn Reader> {
        let mut reader = self.log.reader(isolation).unwrap();
        reader.assign(&[(at(topic, 0), start)]).unwrap();
        reader
    }

    /// Somebody else's transaction: `during` runs while it is open.
    pub fn foreign(
        &self,
        id: &str,
        records: &[NewRecord],
        pending: Pending<'_>,
        end: End,
        during: impl FnOnce(),
    ) {
        match &self.kind {
            Kind::Memory(memory) => {
                let mut producer = memory.producer(id);
                let mut open = producer.begin().unwrap();
                open.write(records).unwrap();
                if let Some((_, metadata, at, offset)) = pending {
                    open.send_offsets(metadata, &[(at, committed(offset, "pending"))])
                        .unwrap();
                }
                during();
                match end {
                    End::Commit => open.commit().unwrap(),
                    End::Abort => open.abort(),
                    End::Never => {}
                }
            }
            Kind::Kafka { bootstrap, .. } => {
                let producer = foreign_producer(bootstrap, id);
                producer.begin_transaction().unwrap();
                for record in records {
                    let mut native =
                        BaseRecord::to(&record.topic).payload(record.value.as_deref().unwrap());
                    native.partition = record.partition;
                    native.key = record.key.as_deref();
                    let native: BaseRecord<'_, [u8], [u8]> = native;
                    producer.send(native).map_err(|(error, _)| error).unwrap();
                }
                producer.flush(PATIENCE).unwrap();
                if let Some((group, _, at, offset)) = pending {
                    foreign_offsets(bootstrap, &producer, group, &at, offset);
                }
                during();
                match end {
                    End::Commit => producer.commit_transaction(PATIENCE).unwrap(),
                    End::Abort => producer.abort_transaction(PATIENCE).unwrap(),
                    End::Never => {}
                }
            }
        }
    }
}

fn foreign_producer(bootstrap: &str, id: &str) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("transactional.id", id)
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

/// By a process that is no member: Kafka takes that from transactions.
fn foreign_offsets(
    bootstrap: &str,
    producer: &BaseProducer,
    group: &str,
    at: &TopicPartition,
    offset: i64,
) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", group)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    let mut it = list.add_partition(&at.topic, at.partition);
    it.set_offset(Offset::Offset(offset)).unwrap();
    it.set_metadata("pending");
    producer
        .send_offsets_to_transaction(&list, &consumer.group_metadata().unwrap(), PATIENCE)
        .unwrap();
}

fn unique() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("conformance.{:x}.{number}", since.as_nanos())
}

pub fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

pub fn committed(offset: i64, metadata: &str) -> Committed {
    Committed {
        offset,
        metadata: metadata.to_owned(),
    }
}

/// To partition 0, with the text as value.
pub fn record(topic: &str, value: &str) -> NewRecord {
    NewRecord {
        topic: topic.to_owned(),
        partition: Some(0),
        value: Some(value.into()),
        ..NewRecord::default()
    }
}

pub fn records(topic: &str, values: &[&str]) -> Vec<NewRecord> {
    values.iter().map(|value| record(topic, value)).collect()
}

pub fn value(record: &Record<'_>) -> String {
    String::from_utf8(record.value.unwrap().to_vec()).unwrap()
}

/// Polls until partition 0 stands at `end`; offsets and values.
pub fn read_to(reader: &mut dyn Reader, topic: &str, end: i64) -> Vec<(i64, String)> {
    let deadline = Instant::now() + PATIENCE;
    let mut read = Vec::new();
    while reader.position(&at(topic, 0)) != Some(end) {
        let position = reader.position(&at(topic, 0));
        assert!(
            Instant::now() < deadline,
            "stands at {position:?}, not {end}; read {read:?}"
        );
        reader
            .poll(Duration::from_millis(200), &mut |it| {
                read.push((it.offset, value(it)));
            })
            .unwrap();
    }
    read
}

/// Every committed value of partition 0. A marker may land after its commit returned, so the end is not
/// asked for but marked, with a record that nothing held back may follow.
pub fn committed_values(bed: &Bed, topic: &str) -> Vec<String> {
    const LAST: &str = "the last";
    bed.write(&records(topic, &[LAST]));
    let mut reader = bed.reader(Isolation::ReadCommitted, topic, Start::Earliest);
    let deadline = Instant::now() + PATIENCE;
    let mut read = Vec::new();
    while read.last().is_none_or(|value| value != LAST) {
        assert!(Instant::now() < deadline, "{read:?}");
        reader
            .poll(Duration::from_millis(200), &mut |it| read.push(value(it)))
            .unwrap();
    }
    read.pop();
    read
}

pub fn values(read: &[(i64, String)]) -> Vec<&str> {
    read.iter().map(|(_, value)| value.as_str()).collect()
}
