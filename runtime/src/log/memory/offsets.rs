//! Positions of consumer groups, from outside them.

use super::Memory;
use crate::log::{Committed, Error, Offsets, Result};
use headwater_engine::record::TopicPartition;
use std::collections::HashMap;

impl Offsets for Memory {
    fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Option<Committed>>> {
        super::member::committed(&self.shared, group, partitions)
    }

    fn commit(&self, group: &str, offsets: &[(TopicPartition, Committed)]) -> Result<()> {
        let mut state = self.shared.lock_ticked();
        let entry = state.groups.entry(group.to_owned()).or_default();
        if entry.set(offsets) {
            Ok(())
        } else {
            Err(Error::GroupInUse {
                group: group.to_owned(),
            })
        }
    }
}
