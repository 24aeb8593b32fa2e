//! The order of an input log over several sources: of what waits, the oldest event time goes first.

use super::{Change, Maybe, Origin};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One `from` entry's reading of a source partition, in offset order.
pub type Lane = Vec<Change>;

/// The one legal order where everything waits before anything is taken. Among equal times the entry that comes first by name, then
/// the lower partition. Entries of the same topic go through a partition of it together, in its order, and what one record is to
/// several of them goes at once; `topics` names the topic of each entry.
pub fn of_backlog(lanes: &BTreeMap<(u32, i32), Lane>, topics: &[String]) -> Vec<Change> {
    let mut waiting: BTreeMap<(u32, i32), VecDeque<Change>> = lanes
        .iter()
        .map(|(place, lane)| (*place, lane.iter().cloned().collect()))
        .collect();
    let mut order = Vec::new();
    let home = |place: &(u32, i32)| (&topics[place.0 as usize], place.1);
    while let Some((_, first)) = waiting
        .iter()
        .filter_map(|(place, lane)| {
            let front = lane.front()?;
            let is_next = waiting
                .iter()
                .filter(|(other, _)| home(other) == home(place))
                .filter_map(|(_, lane)| lane.front())
                .all(|other| other.origin.offset >= front.origin.offset);
            is_next.then_some((front.time, *place))
        })
        .min()
    {
        let offset = waiting[&first].front().unwrap().origin.offset;
        for (place, lane) in &mut waiting {
            let same_partition = home(place) == home(&first)
                && lane.front().is_some_and(|it| it.origin.offset == offset);
            if same_partition {
                order.extend(lane.pop_front());
            }
        }
    }
    order
}

/// Checks that an input log holds what the sources say, each event once, those of a source partition in its order.
/// `log` is by partition of the input log.
pub fn check_interleaving(
    lanes: &BTreeMap<(u32, i32), Lane>,
    log: &BTreeMap<i32, Vec<Change>>,
) -> Result<(), String> {
    let mut expected: BTreeMap<Origin, &Change> = lanes
        .values()
        .flatten()
        .map(|change| (change.origin, change))
        .collect();
    let mut homes: BTreeMap<&str, BTreeSet<i32>> = BTreeMap::new();
    for (partition, changes) in log {
        let mut last: BTreeMap<(u32, i32), i64> = BTreeMap::new();
        for change in changes {
            let origin = change.origin;
            match expected.remove(&origin) {
                None => return Err(format!("{origin:?} is there twice, or should not be")),
                Some(it) if it != change => {
                    return Err(format!("{change:?} is there, but it should be {it:?}"));
                }
                Some(_) => {}
            }
            let before = last.insert((origin.from, origin.partition), origin.offset);
            if before.is_some_and(|before| before >= origin.offset) {
                return Err(format!("{origin:?} comes after offset {before:?}"));
            }
            homes.entry(&change.key).or_default().insert(*partition);
        }
    }
    if let Some(left) = expected.values().next() {
        return Err(format!("{} are missing, as {left:?}", expected.len()));
    }
    match homes.iter().find(|(_, homes)| homes.len() > 1) {
        Some((key, homes)) => Err(format!("key '{key}' is in partitions {homes:?}")),
        None => Ok(()),
    }
}

/// Lanes from what was projected; faults are none of the log's business.
pub fn lane(projected: impl IntoIterator<Item = Maybe<Option<Change>>>) -> Lane {
    projected
        .into_iter()
        .filter_map(|it| it.ok().flatten())
        .collect()
}
