//! Records as tests look at them, and the names that keep tests on one broker apart.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by test binaries, which use parts of it; a test fails by panicking"
)]

use headwater_engine::record::TopicPartition;
use headwater_runtime::log::{Isolation, Log, Reader, Start};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A name that no other test has, now or before.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{prefix}-{}-{}-{}",
        std::process::id(),
        jiff::Timestamp::now().as_millisecond(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A committed record.
#[derive(Clone, Debug)]
pub struct Seen {
    pub key: String,
    /// As JSON; what is none, as text.
    pub value: Value,
    pub headers: HashMap<String, String>,
}

/// Reads committed records of a topic, from its beginning.
pub struct Follow {
    reader: Box<dyn Reader>,
    partitions: Vec<TopicPartition>,
}

impl Follow {
    pub fn new(log: &dyn Log, topic: String) -> Self {
        let info = log.topics(std::slice::from_ref(&topic)).unwrap();
        let count = info[0].as_ref().unwrap().partitions;
        let partitions: Vec<_> = (0..count)
            .map(|number| TopicPartition::new(topic.as_str(), number))
            .collect();
        let mut reader = log.reader(Isolation::ReadCommitted).unwrap();
        let starts: Vec<_> = partitions
            .iter()
            .map(|partition| (partition.clone(), Start::Earliest))
            .collect();
        reader.assign(&starts).unwrap();
        Self { reader, partitions }
    }

    pub fn poll(&mut self, wait: Duration) -> Vec<Seen> {
        let mut seen = Vec::new();
        self.reader
            .poll(wait, &mut |record| {
                let text = |bytes: Option<&[u8]>| {
                    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
                };
                seen.push(Seen {
                    key: text(record.key),
                    value: record.value.map_or(Value::Null, |bytes| {
                        serde_json::from_slice(bytes).unwrap_or_else(|_| text(Some(bytes)).into())
                    }),
                    headers: record
                        .headers
                        .iter()
                        .map(|(name, value)| ((*name).to_owned(), text(*value)))
                        .collect(),
                });
            })
            .unwrap();
        seen
    }

    /// Everything up to the end as it is now.
    pub fn read(mut self, log: &dyn Log, deadline: Duration) -> Vec<Seen> {
        let ends = log.ends(&self.partitions).unwrap();
        let begun = Instant::now();
        let mut seen = Vec::new();
        while !self
            .partitions
            .iter()
            .zip(&ends)
            .all(|(partition, end)| *end == 0 || self.reader.position(partition) >= Some(*end))
        {
            seen.extend(self.poll(Duration::from_millis(100)));
            assert!(
                begun.elapsed() < deadline,
                "cannot read {:?} to its end",
                self.partitions
            );
        }
        seen
    }
}
