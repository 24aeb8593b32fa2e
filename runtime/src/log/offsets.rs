//! Positions of consumer groups, seen and set from outside them: for people who decide where a stage goes on.

use super::{Committed, Result};
use headwater_engine::record::TopicPartition;
use std::collections::HashMap;

/// Blocks, for a bounded time, as all of the log does.
pub trait Offsets: Send + Sync {
    /// What a group has committed, once no open transaction holds any of it. `None`: nothing.
    fn committed(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Option<Committed>>>;

    /// Commits for a group that has no members.
    ///
    /// # Errors
    /// [`super::Error::GroupInUse`] where it has; nothing is committed then.
    fn commit(&self, group: &str, offsets: &[(TopicPartition, Committed)]) -> Result<()>;
}
