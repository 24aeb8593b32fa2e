//! Where a group begins that has no offsets yet.
//!
//! First offsets are fixed once, for all partitions together, by the owner of the first one, and committed before
//! anything is done: a restart does not move them, and a partition added later is read from its beginning. Where the
//! group has worked before and has no offsets any more, [`super::positions`] may know them; nothing is guessed.

use super::life::Life;
use super::reading::persist;
use super::{Error, Stall};
use crate::log::{self, Committed, Log, Watermarks};
use headwater_engine::config::StartFrom;
use headwater_engine::record::TopicPartition;
use std::collections::HashMap;
use std::time::Duration;

/// While another replica fixes the first offsets.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Bounds of a partition that nothing is known of.
pub(super) const NOTHING: Watermarks = Watermarks { low: 0, high: 0 };

pub(super) type Offsets = HashMap<TopicPartition, Option<Committed>>;

/// Where the group stands.
pub(super) enum Found {
    /// What it has committed, of all partitions.
    Offsets(Offsets),
    /// It is new: these are to be committed, then asked again.
    New(Vec<(TopicPartition, Committed)>),
    /// It is new, and another replica fixes its first offsets: ask again.
    NotYet,
    /// It has worked before, and its offsets are gone.
    Lost,
}

/// Waits until a predecessor's transactions are decided, so that what is read afterwards is complete. `ask`: for what the
/// group has committed. `all`: every partition that the group reads, of which `assigned` are this member's. `worked`: whether it has worked before.
pub(super) fn find(
    log: &dyn Log,
    life: &Life,
    mut ask: impl FnMut(&[TopicPartition]) -> log::Result<Offsets>,
    all: Vec<TopicPartition>,
    assigned: &[TopicPartition],
    start_from: StartFrom,
    worked: impl FnOnce() -> Result<bool, Error>,
) -> Result<Found, Error> {
    let committed = persist(life, "committed offsets", || ask(&all))?;
    if committed.values().any(Option::is_some) {
        return Ok(Found::Offsets(committed));
    }
    if !assigned.iter().any(|partition| partition.partition == 0) {
        return Ok(Found::NotYet);
    }
    if worked()? {
        return Ok(Found::Lost);
    }
    let bounds = persist(life, "watermarks", || log.watermarks(&all))?;
    let first = all.into_iter().map(|partition| {
        let bounds = bounds.get(&partition).copied().unwrap_or(NOTHING);
        let committed = Committed {
            offset: match start_from {
                StartFrom::Latest => bounds.high,
                StartFrom::Earliest => bounds.low,
            },
            metadata: String::new(),
        };
        (partition, committed)
    });
    Ok(Found::New(first.collect()))
}

/// Of these, the partitions that the group has no offset of.
pub(super) fn missing(committed: &Offsets, assigned: &[TopicPartition]) -> Vec<TopicPartition> {
    let lacks = |of: &&TopicPartition| committed.get(*of).is_none_or(Option::is_none);
    assigned.iter().filter(lacks).cloned().collect()
}

/// Of the group of an agent that `view` triggers, by the changes in `topic`; `worked` is where it is seen that the agent has
/// worked before, and `resource` what `headwater resume` takes.
pub(super) fn lost_among_changes(view: &str, topic: &str, worked: &str, resource: &str) -> Stall {
    Stall {
        reason: "PositionsLost",
        at: String::new(),
        message: format!(
            "the agent has worked before (see topic '{worked}'), but has no position in '{topic}': view '{view}' was built anew, and its changes are told again from the beginning, or the consumer group has no offsets any more, as after a week without members. Say where it is to go on: headwater resume {resource} --from Latest, or Earliest, or a position of that topic"
        ),
    }
}
