//! Where reading begins, and where it stands.
//!
//! `Earliest` and `Latest` are resolved before they are given to librdkafka, so that a position is known at
//! once: a partition without records would otherwise have none, and who waits for it would wait for ever.

use super::{Shared, TopicPartition};
use crate::log::{Error, Result, Start};
use headwater_kafka::consumer::Consumer;
use headwater_kafka::offsets::End;
use std::collections::HashMap;

/// Offsets, in the order given.
pub(super) fn resolve(shared: &Shared, starts: &[(TopicPartition, Start)]) -> Result<Vec<i64>> {
    let mut offsets: Vec<i64> = starts
        .iter()
        .map(|(_, start)| match start {
            Start::Offset(offset) => *offset,
            Start::Earliest | Start::Latest => -1,
        })
        .collect();
    for (kind, end) in [(Start::Earliest, End::Low), (Start::Latest, End::High)] {
        let places: Vec<usize> = (0..starts.len())
            .filter(|it| starts[*it].1 == kind)
            .collect();
        let partitions: Vec<_> = places.iter().map(|it| starts[*it].0.clone()).collect();
        for (place, offset) in places.iter().zip(shared.ends(&partitions, end)?) {
            offsets[*place] = offset;
        }
    }
    Ok(offsets)
}

/// What a consumer was told to read, and from where.
#[derive(Default)]
pub(super) struct Started(pub(super) HashMap<TopicPartition, i64>);

impl Started {
    /// What librdkafka has handed over decides; before that, the beginning.
    pub(super) fn position(&self, consumer: &Consumer, at: &TopicPartition) -> Option<i64> {
        let start = *self.0.get(at)?;
        Some(consumer.position(&at.topic, at.partition).unwrap_or(start))
    }

    /// What went wrong where a position is not in the log.
    pub(super) fn out_of_range(
        &self,
        shared: &Shared,
        consumer: &Consumer,
        at: TopicPartition,
    ) -> Error {
        let partitions = [at.clone()];
        let ends = (
            shared.ends(&partitions, End::Low),
            shared.ends(&partitions, End::High),
        );
        match ends {
            (Ok(low), Ok(high)) => Error::OutOfRange {
                offset: self.position(consumer, &at).unwrap_or(-1),
                low: low.first().copied().unwrap_or(0),
                high: high.first().copied().unwrap_or(0),
                partition: at,
            },
            (Err(error), _) | (_, Err(error)) => error,
        }
    }
}
