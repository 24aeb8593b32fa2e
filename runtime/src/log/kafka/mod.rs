//! The log on Kafka, through librdkafka.
//!
//! One [`Kafka`] is one process's connection: it makes readers, members and writers, each a client of
//! its own, and keeps clients for itself: one that asks for the ends of partitions, read_uncommitted, one
//! for topics, and, once it is needed, one that asks for last stable offsets. Certificates and passwords are read from their files when it is opened.

mod errors;
mod group;
mod orphans;
mod outside;
mod reader;
mod sender;
mod start;
mod transactional;
mod writer;

use super::{
    Error, GroupOptions, GroupReader, Isolation, Log, Reader, Result, TopicInfo, TopicSpec,
    Transactional, Watermarks, Writer,
};
use crate::secret::Secret;
use errors::{admin, client};
use headwater_engine::config;
use headwater_engine::record::TopicPartition;
use headwater_kafka::admin::{Admin, NewTopic};
use headwater_kafka::offsets::{self, End};
use headwater_kafka::settings::{Sasl, SaslMechanism, Settings, Tls};
use headwater_kafka::{Context, brokers};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The longest that a question to the brokers may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// One try of it: a broker that restarts is asked again, and its successor found.
const TRY: Duration = Duration::from_secs(3);

pub struct Kafka {
    shared: Arc<Shared>,
}

struct Shared {
    config: ClientConfig,
    /// Names the process: client id, and the group that bare readers need and never join.
    name: String,
    ends: BaseConsumer<Context>,
    /// As `ends`, read_committed.
    stable: OnceLock<BaseConsumer<Context>>,
    admin: Admin,
}

impl Kafka {
    /// `name` is the stage's, `<namespace>.<kind>.<name>...`, so that rights given by prefix cover it. No
    /// request is made yet.
    ///
    /// # Errors
    /// [`Error::Fatal`] for files that cannot be read and for configuration that librdkafka does not take.
    pub fn open(kafka: &config::Kafka, name: &str) -> Result<Self> {
        let settings = settings(kafka, name)?;
        let config = settings.client_config().map_err(admin)?;
        Ok(Self {
            shared: Arc::new(Shared {
                ends: asking(&config, Isolation::ReadUncommitted)?,
                stable: OnceLock::new(),
                admin: Admin::new(&settings, TIMEOUT).map_err(admin)?,
                config,
                name: name.to_owned(),
            }),
        })
    }
}

/// What librdkafka remembers of partitions and leaders may be from before they were there or moved.
fn refresh(asking: &BaseConsumer<Context>, partitions: &[TopicPartition]) {
    let topics: BTreeSet<&str> = partitions.iter().map(|it| &*it.topic).collect();
    for topic in topics {
        if let Err(error) = asking.fetch_metadata(Some(topic), TRY) {
            tracing::debug!(target: "headwater::kafka", %error, topic, "metadata");
        }
    }
}

/// A client that asks for the ends of partitions.
fn asking(config: &ClientConfig, isolation: Isolation) -> Result<BaseConsumer<Context>> {
    let mut config = config.clone();
    config.set("isolation.level", level(isolation));
    config.set("allow.auto.create.topics", "false");
    config
        .create_with_context(Context::default())
        .map_err(|error| client("open a client", &error))
}

fn level(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    }
}

/// Configuration with the files that it names read.
///
/// # Errors
/// [`Error::Fatal`], naming the file.
pub fn settings(kafka: &config::Kafka, name: &str) -> Result<Settings> {
    let tls = kafka
        .tls
        .as_ref()
        .map(|tls| {
            let certificate = match (&tls.certificate_file, &tls.key_file) {
                (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
                (None, None) => None,
                _ => {
                    return Err(fatal(
                        "read the client certificate",
                        "certificate and key need each other".to_owned(),
                    ));
                }
            };
            let ca = tls.ca_file.as_deref().map(read).transpose()?;
            Ok(Tls { ca, certificate })
        })
        .transpose()?;
    let sasl = kafka
        .sasl
        .as_ref()
        .map(|sasl| {
            let password = Secret::read(&sasl.password_file)
                .map_err(|error| fatal("read the password", error.to_string()))?;
            Ok(Sasl {
                mechanism: match sasl.mechanism {
                    config::SaslMechanism::Plain => SaslMechanism::Plain,
                    config::SaslMechanism::ScramSha256 => SaslMechanism::ScramSha256,
                    config::SaslMechanism::ScramSha512 => SaslMechanism::ScramSha512,
                },
                username: sasl.username.clone(),
                password: password.expose().to_owned(),
            })
        })
        .transpose()?;
    Ok(Settings {
        bootstrap_servers: kafka.bootstrap_servers.clone(),
        client_id: name.to_owned(),
        tls,
        sasl,
        client_config: kafka.client_config.clone(),
    })
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| fatal("read a file", format!("'{path}': {error}")))
}

fn fatal(what: &str, reason: String) -> Error {
    Error::Fatal {
        what: what.to_owned(),
        reason,
    }
}

impl Shared {
    fn ends(&self, partitions: &[TopicPartition], end: End) -> Result<Vec<i64>> {
        self.ask(&self.ends, partitions, end)
    }

    fn stable_ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>> {
        let client = match self.stable.get() {
            Some(client) => client,
            None => {
                let made = asking(&self.config, Isolation::ReadCommitted)?;
                self.stable.get_or_init(|| made)
            }
        };
        self.ask(client, partitions, End::High)
    }

    /// In the order asked; tried again while leaders move.
    fn ask(
        &self,
        asking: &BaseConsumer<Context>,
        partitions: &[TopicPartition],
        end: End,
    ) -> Result<Vec<i64>> {
        // Brokers refuse a request that names a partition twice.
        let asked: BTreeSet<(&str, i32)> = partitions
            .iter()
            .map(|it| (&*it.topic, it.partition))
            .collect();
        let asked: Vec<(&str, i32)> = asked.into_iter().collect();
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let error = match offsets::ends(asking, &asked, end, TRY) {
                Ok(ends) => {
                    let ends: HashMap<(&str, i32), i64> = asked.iter().copied().zip(ends).collect();
                    let end = |it: &TopicPartition| ends.get(&(&*it.topic, it.partition)).copied();
                    return Ok(partitions.iter().filter_map(end).collect());
                }
                Err(error) => client("ask for the ends of partitions", &error),
            };
            self.check_exist(partitions)?;
            if !matches!(error, Error::Unavailable { .. }) || Instant::now() >= deadline {
                return Err(error);
            }
            let servers = self.config.get("bootstrap.servers").unwrap_or_default();
            brokers::look(asking.client(), servers);
            refresh(asking, partitions);
        }
    }

    /// librdkafka's answer does not name the topic, and asks for an unknown one until its time is over.
    fn check_exist(&self, partitions: &[TopicPartition]) -> Result<()> {
        let names: BTreeSet<&str> = partitions.iter().map(|it| &*it.topic).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let found = self.admin.describe(&names).map_err(admin)?;
        for (name, topic) in names.into_iter().zip(found) {
            let count = topic.map_err(admin)?.map_or(0, |topic| topic.partitions);
            let known = |it: &TopicPartition| *it.topic != *name || it.partition < count;
            if !partitions.iter().all(known) {
                return Err(Error::UnknownTopic(name.to_owned()));
            }
        }
        Ok(())
    }

    /// What every consumer has in common.
    fn consumer_config(&self, group: &str, isolation: Isolation) -> ClientConfig {
        let mut config = self.config.clone();
        config.set("group.id", group);
        config.set("enable.auto.commit", "false");
        config.set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "error");
        config.set("allow.auto.create.topics", "false");
        config.set("enable.partition.eof", "false");
        // The default lets a resumed partition wait for half a second and more.
        config.set("fetch.queue.backoff.ms", "5");
        config.set("fetch.wait.max.ms", "100");
        config.set("fetch.error.backoff.ms", "50");
        config.set("retry.backoff.ms", "20");
        config.set("isolation.level", level(isolation));
        config
    }

    /// What every producer has in common.
    fn producer_config(&self) -> ClientConfig {
        let mut config = self.config.clone();
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        config.set("partitioner", "murmur2_random");
        config.set("linger.ms", "0");
        config.set("message.max.bytes", "1048588");
        // With the default of 100, AddOffsetsToTxn meets the end of the transaction before, and waits.
        config.set("retry.backoff.ms", "1");
        config.set("retry.backoff.max.ms", "200");
        config.set("topic.metadata.propagation.max.ms", "5000");
        config
    }
}

impl Log for Kafka {
    fn topics(&self, names: &[String]) -> Result<Vec<Option<TopicInfo>>> {
        // Kafka refuses a request that names a topic twice.
        let unique: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let unique: Vec<&str> = unique.into_iter().collect();
        let mut found = HashMap::new();
        for (name, topic) in unique
            .iter()
            .zip(self.shared.admin.describe(&unique).map_err(admin)?)
        {
            let info = topic.map_err(admin)?.map(|topic| TopicInfo {
                id: topic.id,
                partitions: topic.partitions,
            });
            found.insert(*name, info);
        }
        Ok(names
            .iter()
            .map(|name| found.get(name.as_str()).cloned().flatten())
            .collect())
    }

    fn create(&self, topics: &[TopicSpec]) -> Result<()> {
        let wanted: Vec<NewTopic> = topics
            .iter()
            .map(|topic| NewTopic {
                name: topic.name.clone(),
                partitions: Some(topic.partitions),
                replication_factor: topic.replication_factor,
                config: topic.config.clone(),
            })
            .collect();
        for created in self.shared.admin.create(&wanted).map_err(admin)? {
            created.map_err(admin)?;
        }
        // Brokers learn of a topic one after the other; what is asked of it next must not fail.
        let partitions: Vec<TopicPartition> = topics
            .iter()
            .map(|topic| TopicPartition::new(topic.name.as_str(), 0))
            .collect();
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.shared.ends(&partitions, End::High) {
                Err(Error::UnknownTopic(_)) if Instant::now() < deadline => {}
                other => return other.map(drop),
            }
        }
    }

    fn ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>> {
        self.shared.ends(partitions, End::High)
    }

    fn stable_ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>> {
        self.shared.stable_ends(partitions)
    }

    fn watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Watermarks>> {
        let low = self.shared.ends(partitions, End::Low)?;
        let high = self.shared.ends(partitions, End::High)?;
        let both = low.into_iter().zip(high);
        Ok(partitions
            .iter()
            .cloned()
            .zip(both.map(|(low, high)| Watermarks { low, high }))
            .collect())
    }

    fn reader(&self, isolation: Isolation) -> Result<Box<dyn Reader>> {
        let reader = reader::KafkaReader::new(Arc::clone(&self.shared), isolation)?;
        Ok(Box::new(reader))
    }

    fn group(&self, options: GroupOptions) -> Result<Box<dyn GroupReader>> {
        let member = group::KafkaMember::join(Arc::clone(&self.shared), &options)?;
        Ok(Box::new(member))
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        Ok(Box::new(writer::KafkaWriter::new(Arc::clone(
            &self.shared,
        ))?))
    }

    fn transactional(&self, id: &str) -> Result<Box<dyn Transactional>> {
        let writer = transactional::KafkaTransactional::open(Arc::clone(&self.shared), id)?;
        Ok(Box::new(writer))
    }
}
