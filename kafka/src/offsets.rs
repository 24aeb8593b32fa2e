//! Ends of partitions, many in one request a broker.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::time::Duration;

use crate::Context;

/// Which end of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// First offset that is still there.
    Low,
    /// After the last record; with a read_uncommitted client the high watermark, else the last stable offset.
    High,
}

/// Offsets in the order asked. ListOffsets takes a partition once a request, so both ends are two calls.
///
/// # Errors
/// librdkafka's, the first partition's that failed; `OffsetFetch` is one partition's, `MetadataFetch` all's.
pub fn ends(
    consumer: &BaseConsumer<Context>,
    partitions: &[(&str, i32)],
    end: End,
    timeout: Duration,
) -> KafkaResult<Vec<i64>> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let asked = match end {
        End::Low => Offset::Beginning,
        End::High => Offset::End,
    };
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition_offset(topic, *partition, asked)?;
    }
    let list = consumer.offsets_for_times(list, timeout)?;
    // librdkafka keeps the order of the list that it was given.
    list.elements()
        .iter()
        .map(|it| {
            it.error()?;
            match it.offset() {
                Offset::Offset(offset) => Ok(offset),
                _ => Err(KafkaError::OffsetFetch(
                    rdkafka::error::RDKafkaErrorCode::UnknownPartition,
                )),
            }
        })
        .collect()
}
