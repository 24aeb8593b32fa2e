//! Where the partitions of a topic begin, and where the records of some time do.

use super::request::other;
use super::{Admin, Beginning};
use crate::error::{Error, Result};
use crate::offsets::{End, ends};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const WHAT: &str = "ask where a topic begins";

pub(super) fn ask(
    admin: &Admin,
    topic: &str,
    partitions: i32,
    since_ms: Option<i64>,
) -> Result<Vec<Beginning>> {
    let all: Vec<(&str, i32)> = (0..partitions).map(|number| (topic, number)).collect();
    let failed = |error: KafkaError| failure(admin, topic, &error);
    let low = ends(&admin.client, &all, End::Low, admin.timeout).map_err(failed)?;
    let high = ends(&admin.client, &all, End::High, admin.timeout).map_err(failed)?;
    let since: Vec<Option<i64>> = match since_ms {
        None => vec![None; all.len()],
        Some(at) => {
            let mut list = TopicPartitionList::with_capacity(all.len());
            for (topic, partition) in &all {
                list.add_partition_offset(topic, *partition, Offset::Offset(at))
                    .map_err(failed)?;
            }
            let found = admin
                .client
                .offsets_for_times(list, admin.timeout)
                .map_err(failed)?;
            let mut since = Vec::with_capacity(all.len());
            for it in found.elements() {
                it.error().map_err(failed)?;
                since.push(match it.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                });
            }
            since
        }
    };
    Ok(low
        .into_iter()
        .zip(high)
        .zip(since)
        .map(|((low, high), since)| Beginning { low, high, since })
        .collect())
}

fn failure(admin: &Admin, topic: &str, error: &KafkaError) -> Error {
    match error.rdkafka_error_code() {
        Some(code) => Error::from_code(&admin.servers, WHAT, topic, code, error.to_string()),
        None => other(WHAT, &error.to_string()),
    }
}
