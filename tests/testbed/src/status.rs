//! The bed as a whole: fetch a part, stop a part, say what runs.

use crate::{
    error::{Error, Result},
    fetch, kafka, layout, machine,
};

/// What can be prepared, started and stopped by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Kafka,
}

impl std::str::FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "kafka" => Ok(Self::Kafka),
            _ => Err(Error::Unexpected {
                what: text.to_owned(),
                detail: "the parts are 'kafka'".to_owned(),
            }),
        }
    }
}

/// Fetches what a part needs into the cache, so that a later start is quick.
///
/// # Errors
/// When something cannot be fetched or built.
pub fn prepare(part: Part) -> Result<()> {
    match part {
        Part::Kafka => fetch::maven::kafka_jars().map(drop),
    }
}

/// Stops a part and removes what it made outside the cache.
///
/// # Errors
/// When a process cannot be ended or a folder not removed.
pub fn down(part: Part) -> Result<()> {
    let _lock = layout::Lock::on(&layout::state())?;
    match part {
        Part::Kafka => kafka::remove_all()?,
    }
    machine::remove_server_address()
}

/// A line for each part: whether it runs, and where.
#[must_use]
pub fn status() -> Vec<String> {
    let broker = kafka::shared_broker();
    vec![match broker.pid() {
        Some(pid) => format!("kafka: runs at {}, process {pid}", broker.bootstrap()),
        None => "kafka: not running".to_owned(),
    }]
}

/// Lines for a shell, to reach what runs.
#[must_use]
pub fn environment() -> Vec<String> {
    let broker = kafka::shared_broker();
    broker
        .pid()
        .map(|_| format!("export KAFKA_BOOTSTRAP={}", broker.bootstrap()))
        .into_iter()
        .collect()
}
