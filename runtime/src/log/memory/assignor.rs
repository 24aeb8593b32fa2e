//! Who should own which partition: balanced, and as little moved as that allows.
//!
//! A pure function of members, subscriptions and who owns what, so that every run of a seed gives
//! the same. It says where partitions should end up; that they move in two steps, first away from
//! the old owner, is the group's doing.

use headwater_engine::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Candidate<'a> {
    pub(super) topics: &'a [String],
    pub(super) owned: &'a BTreeSet<TopicPartition>,
}

impl Candidate<'_> {
    fn takes(&self, partition: &TopicPartition) -> bool {
        self.topics.iter().any(|topic| **topic == *partition.topic)
    }
}

/// `partitions` are all of the topics that anybody subscribed to.
pub(super) fn assign<'a>(
    partitions: &BTreeSet<TopicPartition>,
    members: &BTreeMap<&'a str, Candidate<'_>>,
) -> BTreeMap<&'a str, BTreeSet<TopicPartition>> {
    let mut target: BTreeMap<&str, BTreeSet<TopicPartition>> = members
        .iter()
        .map(|(name, member)| {
            let kept = member
                .owned
                .iter()
                .filter(|owned| partitions.contains(owned) && member.takes(owned));
            (*name, kept.cloned().collect())
        })
        .collect();
    let free: Vec<&TopicPartition> = partitions
        .iter()
        .filter(|partition| !target.values().any(|owned| owned.contains(*partition)))
        .collect();
    for partition in free {
        let least = members
            .iter()
            .filter(|(_, member)| member.takes(partition))
            .map(|(name, _)| *name)
            .min_by_key(|name| target.get(name).map_or(0, BTreeSet::len));
        if let Some(owned) = least.and_then(|name| target.get_mut(name)) {
            owned.insert(partition.clone());
        }
    }
    while let Some((from, to, partition)) = better(members, &target) {
        if let Some(owned) = target.get_mut(from) {
            owned.remove(&partition);
        }
        if let Some(owned) = target.get_mut(to) {
            owned.insert(partition);
        }
    }
    target
}

/// A move from the fullest to the emptiest that makes the difference smaller.
fn better<'a>(
    members: &BTreeMap<&'a str, Candidate<'_>>,
    target: &BTreeMap<&'a str, BTreeSet<TopicPartition>>,
) -> Option<(&'a str, &'a str, TopicPartition)> {
    let mut by_load: Vec<(&'a str, &BTreeSet<TopicPartition>)> =
        target.iter().map(|(name, owned)| (*name, owned)).collect();
    by_load.sort_by_key(|(_, owned)| owned.len());
    for (to, few) in &by_load {
        let taker = members.get(to)?;
        for (from, many) in by_load.iter().rev() {
            if many.len() < few.len() + 2 {
                break;
            }
            if let Some(partition) = many.iter().rev().find(|it| taker.takes(it)) {
                return Some((from, to, partition.clone()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partitions(count: i32) -> BTreeSet<TopicPartition> {
        (0..count).map(|it| TopicPartition::new("t", it)).collect()
    }

    fn loads(
        topics: &[String],
        count: i32,
        owned: &[(&'static str, BTreeSet<TopicPartition>)],
    ) -> BTreeMap<&'static str, BTreeSet<TopicPartition>> {
        let members = owned
            .iter()
            .map(|(name, owned)| (*name, Candidate { topics, owned }))
            .collect();
        assign(&partitions(count), &members)
    }

    #[test]
    fn every_partition_has_one_owner_and_loads_differ_by_one_at_most() {
        let topics = ["t".to_owned()];
        for count in 0..12 {
            let target = loads(
                &topics,
                count,
                &[
                    ("a", partitions(count)),
                    ("b", BTreeSet::new()),
                    ("c", BTreeSet::new()),
                ],
            );
            let all: Vec<_> = target.values().flatten().collect();
            assert_eq!(all.len(), count as usize);
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), count as usize);
            let sizes: Vec<_> = target.values().map(BTreeSet::len).collect();
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_balanced_group_keeps_what_it_has() {
        let topics = ["t".to_owned()];
        let a: BTreeSet<_> = partitions(6)
            .into_iter()
            .filter(|it| it.partition % 2 == 0)
            .collect();
        let b: BTreeSet<_> = partitions(6).difference(&a).cloned().collect();
        let target = loads(&topics, 6, &[("a", a.clone()), ("b", b.clone())]);
        assert_eq!((&target["a"], &target["b"]), (&a, &b));
    }

    #[test]
    fn nobody_gets_a_topic_that_it_did_not_subscribe_to() {
        let (topics, others) = (["t".to_owned()], ["u".to_owned()]);
        let none = BTreeSet::new();
        let members = BTreeMap::from([
            (
                "a",
                Candidate {
                    topics: &others,
                    owned: &none,
                },
            ),
            (
                "b",
                Candidate {
                    topics: &topics,
                    owned: &none,
                },
            ),
        ]);
        let target = assign(&partitions(3), &members);
        assert_eq!((target["a"].len(), target["b"].len()), (0, 3));
    }
}
