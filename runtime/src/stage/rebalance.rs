//! What one poll said about the partitions of a group's member, to be dealt with after it.

use crate::log::GroupEvent;
use headwater_engine::record::TopicPartition;

#[derive(Default)]
pub(super) struct Rebalance {
    pub(super) assigned: Vec<TopicPartition>,
    /// To be committed before the next poll.
    pub(super) revoked: Vec<TopicPartition>,
    /// Gone: nothing may be committed for them.
    pub(super) lost: Vec<TopicPartition>,
    /// The group has given what it gives; it may be nothing.
    pub(super) any: bool,
}

impl Rebalance {
    pub(super) fn note(&mut self, event: &GroupEvent<'_>) {
        match event {
            GroupEvent::Assigned(partitions) => {
                self.any = true;
                self.assigned.extend_from_slice(partitions);
            }
            GroupEvent::Revoked(partitions) => self.revoked.extend_from_slice(partitions),
            GroupEvent::Lost(partitions) => self.lost.extend_from_slice(partitions),
            GroupEvent::Record(_) => {}
        }
    }
}
