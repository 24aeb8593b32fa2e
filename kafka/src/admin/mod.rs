//! Administration of topics: describe, create, grow, configure, delete.
//!
//! Each call is one request that blocks until its timeout, for whoever has threads for that. Results
//! are per topic: one bad topic does not hide what became of the others. Nothing is retried here; every
//! call can be made again.

mod beginnings;
mod configs;
mod request;
mod topics;

use crate::error::{Error, Result};
use crate::{Context, Settings};
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::collections::BTreeMap;
use std::time::Duration;

/// A connection for administration. Dropping it joins its threads.
pub struct Admin {
    client: BaseConsumer<Context>,
    servers: String,
    timeout: Duration,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    /// Kafka's topic id (KIP-516), as Kafka's tools print it; a topic created again has another.
    pub id: String,
    pub partitions: i32,
    /// The fewest replicas that one of the partitions has.
    pub replication_factor: i16,
}

/// A topic to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// At least 1; `None`: the broker's default.
    pub partitions: Option<i32>,
    /// `None`: the broker's default.
    pub replication_factor: Option<i16>,
    pub config: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    New,
    /// It is left as it is.
    Existed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    Gone,
    /// There was none.
    Missing,
}

/// A change of a topic's own configuration; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChange {
    pub set: BTreeMap<String, String>,
    /// Back to the cluster's default.
    pub reset: Vec<String>,
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// First offset that is still there.
    pub low: i64,
    /// After the last record that can be read.
    pub high: i64,
    /// Of the first record at or after the time asked about; `None`: there is none, or none was asked about.
    pub since: Option<i64>,
}

impl Admin {
    /// Makes no request yet. `timeout` bounds each call.
    ///
    /// # Errors
    /// [`Error::Configuration`] for settings that librdkafka does not take.
    pub fn new(settings: &Settings, timeout: Duration) -> Result<Self> {
        let mut config = settings.client_config()?;
        // The client must never create what it asks for.
        config.set("allow.auto.create.topics", "false");
        let client = config
            .create_with_context(Context::default())
            .map_err(|error| Error::Configuration {
                reason: error.to_string(),
            })?;
        Ok(Self {
            client,
            servers: settings.servers(),
            timeout,
        })
    }

    fn client(&self) -> &Client<Context> {
        self.client.client()
    }

    /// In the order asked; `None` where a topic does not exist.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Authentication`] and the like, for the whole request.
    pub fn describe(&self, names: &[&str]) -> Result<Vec<Result<Option<Topic>>>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        topics::describe(self, names)
    }

    /// In the order given. It returns once every broker that is asked knows the topics.
    ///
    /// # Errors
    /// As [`Admin::describe`].
    pub fn create(&self, topics: &[NewTopic]) -> Result<Vec<Result<Created>>> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        topics::create(self, topics)
    }

    /// Grows a topic to `total` partitions. Kafka never shrinks one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has as many or more; as [`Admin::describe`].
    pub fn grow(&self, topic: &str, total: i32) -> Result<()> {
        topics::grow(self, topic, total)
    }

    /// Deletes the topic if it still is the one with this id.
    ///
    /// # Errors
    /// [`Error::OtherTopic`] if it was created anew; as [`Admin::describe`].
    pub fn delete(&self, topic: &str, id: &str) -> Result<Deleted> {
        let found = self.describe(&[topic])?.into_iter().next().transpose()?;
        match found.flatten() {
            None => Ok(Deleted::Missing),
            Some(found) if found.id != id => Err(Error::OtherTopic {
                topic: topic.to_owned(),
                expected: id.to_owned(),
                found: found.id,
            }),
            Some(_) => match topics::delete(self, topic) {
                Err(Error::UnknownTopic(_)) => Ok(Deleted::Missing),
                other => other.map(|()| Deleted::Gone),
            },
        }
    }

    /// Where each partition of a topic begins, and where its records at or after `since_ms`, milliseconds since the epoch, do.
    ///
    /// # Errors
    /// As [`Admin::describe`]; [`Error::UnknownTopic`] if it has no such partition.
    pub fn beginnings(
        &self,
        topic: &str,
        partitions: i32,
        since_ms: Option<i64>,
    ) -> Result<Vec<Beginning>> {
        beginnings::ask(self, topic, partitions, since_ms)
    }

    /// What is set on each topic itself, in the order asked; the cluster's defaults are not among it.
    ///
    /// # Errors
    /// As [`Admin::describe`].
    pub fn describe_configs(
        &self,
        names: &[&str],
    ) -> Result<Vec<Result<BTreeMap<String, String>>>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        configs::describe(self, names)
    }

    /// Changes what is named and nothing else (KIP-339).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a value that Kafka does not take; as [`Admin::describe`].
    pub fn alter_config(&self, topic: &str, change: &ConfigChange) -> Result<()> {
        if change.set.is_empty() && change.reset.is_empty() {
            return Ok(());
        }
        configs::alter(self, topic, change)
    }
}
