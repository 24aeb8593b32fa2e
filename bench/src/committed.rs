//! What a reader of committed records finds in a topic of one partition.

use crate::Result;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// A consumer that stands at the topic's beginning, of no group.
pub fn reader(bootstrap: &str, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "never-used")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    Ok(consumer)
}

/// The place of the trigger that an answer says it is of: partition and offset.
pub fn trigger(message: &BorrowedMessage<'_>) -> Option<(i32, usize)> {
    let header = message
        .headers()?
        .iter()
        .find(|header| header.key == "headwater-trigger")?;
    let text = std::str::from_utf8(header.value?).ok()?;
    let mut parts = text.rsplitn(3, '-');
    let offset = parts.next()?.parse().ok()?;
    Some((parts.next()?.parse().ok()?, offset))
}

/// Reads so many answers; refuses one that was read before, and waits a little for one too many.
pub fn each_once(bootstrap: &str, topic: &str, count: usize) -> Result<()> {
    let consumer = reader(bootstrap, topic)?;
    let mut seen = std::collections::HashSet::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.poll(Duration::from_millis(500)) {
            Some(message) => {
                let of =
                    trigger(&message?).ok_or("an answer does not say of which trigger it is")?;
                if !seen.insert(of) {
                    return Err(format!("trigger {of:?} was answered twice").into());
                }
            }
            None if seen.len() == count => return Ok(()),
            None if Instant::now() > deadline => {
                return Err(format!("{} of {count} triggers were answered", seen.len()).into());
            }
            None => {}
        }
    }
}
