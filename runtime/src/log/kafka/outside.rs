//! Positions of consumer groups, through a client that joins none of them.

use super::errors::client;
use super::group::committed;
use super::{Error, Isolation, Kafka, Result, TopicPartition};
use crate::log::{Committed, Offsets};
use headwater_kafka::Context;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashMap;

impl Kafka {
    fn outsider(&self, group: &str) -> Result<BaseConsumer<Context>> {
        self.shared
            .consumer_config(group, Isolation::ReadCommitted)
            .create_with_context(Context::default())
            .map_err(|error| client("open a client", &error))
    }
}

impl Offsets for Kafka {
    fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Option<Committed>>> {
        committed(&self.outsider(group)?, partitions)
    }

    fn commit(&self, group: &str, offsets: &[(TopicPartition, Committed)]) -> Result<()> {
        let what = format!("set the positions of group '{group}'");
        let failed = |error| match &error {
            // So the broker answers whoever commits from outside a group with members.
            rdkafka::error::KafkaError::ConsumerCommit(Code::UnknownMemberId) => {
                Error::GroupInUse {
                    group: group.to_owned(),
                }
            }
            error => client(&what, error),
        };
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (at, committed) in offsets {
            let mut entry = list.add_partition(&at.topic, at.partition);
            entry
                .set_offset(Offset::Offset(committed.offset))
                .map_err(failed)?;
            entry.set_metadata(&committed.metadata);
        }
        let outsider = self.outsider(group)?;
        outsider.commit(&list, CommitMode::Sync).map_err(failed)?;
        Ok(())
    }
}
