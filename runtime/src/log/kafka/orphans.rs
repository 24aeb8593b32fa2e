//! Partitions that a group has given to nobody, and goes on so.
//!
//! In a cooperative rebalance a partition that moves is given up first, and given to its new owner by another
//! rebalance, which who gave it up asks for. If that process ends in between and comes back under its static id,
//! the coordinator hands its last assignment back and begins no rebalance: the partition belongs to nobody until
//! something else begins one. So members look, and one of them leaves for as long as its session lasts and joins
//! again, which begins two.

use super::{Shared, TopicPartition};
use headwater_kafka::Context;
use headwater_kafka::members::{Member, members};
use rdkafka::consumer::BaseConsumer;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Between looks; two of them in a row have to find the same.
const EVERY: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(3);
/// Longer than the session of a member, which ends without it.
const AWAY: Duration = Duration::from_secs(12);

pub(super) struct Orphans {
    group: String,
    /// The static id of this member.
    member: String,
    topics: Vec<String>,
    looked: Instant,
    /// As they were found last.
    found: BTreeSet<TopicPartition>,
    /// Left, and until when.
    away: Option<Instant>,
}

/// What a member has to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Act {
    Nothing,
    Leave,
    Join,
}

impl Orphans {
    pub(super) fn new(group: &str, member: &str, topics: &[String]) -> Self {
        Self {
            group: group.to_owned(),
            member: member.to_owned(),
            topics: topics.to_vec(),
            looked: Instant::now(),
            found: BTreeSet::new(),
            away: None,
        }
    }

    /// To be asked at each poll; it mostly has nothing to say.
    pub(super) fn look(&mut self, shared: &Shared, consumer: &BaseConsumer<Context>) -> Act {
        match self.away {
            Some(until) if Instant::now() < until => return Act::Nothing,
            Some(_) => {
                self.away = None;
                self.looked = Instant::now();
                return Act::Join;
            }
            None if self.looked.elapsed() < EVERY => return Act::Nothing,
            None => {}
        }
        let found = self.ask(shared, consumer);
        self.looked = Instant::now();
        let (orphans, is_chosen) = found.unwrap_or_default();
        let again = !orphans.is_empty() && orphans == self.found;
        self.found = orphans;
        if !again || !is_chosen {
            return Act::Nothing;
        }
        let partitions: Vec<String> = self.found.iter().map(ToString::to_string).collect();
        tracing::warn!(
            target: "headwater::kafka",
            group = self.group,
            partitions = partitions.join(", "),
            "no member of the group has them; this one leaves and joins again, so that they are given anew"
        );
        self.found.clear();
        self.away = Some(Instant::now() + AWAY);
        Act::Leave
    }

    /// Partitions without an owner, and whether this member is the one to leave: of those with the fewest the first by id. `None` where the
    /// group is not at rest, or nothing is told.
    fn ask(
        &self,
        shared: &Shared,
        consumer: &BaseConsumer<Context>,
    ) -> Option<(BTreeSet<TopicPartition>, bool)> {
        let members = members(consumer, &self.group, WITHIN).ok()??;
        let own = format!("{}-", self.member);
        let leaves = leaves(&members)?.starts_with(&own);
        let names: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        let topics = shared.admin.describe(&names).ok()?;
        let mut all = BTreeSet::new();
        for (name, topic) in names.iter().zip(topics) {
            let count = topic.ok()??.partitions;
            all.extend((0..count).map(|partition| TopicPartition::new(*name, partition)));
        }
        for member in &members {
            for (topic, partition) in &member.partitions {
                all.remove(&TopicPartition::new(topic.as_str(), *partition));
            }
        }
        Some((all, leaves))
    }
}

fn leaves(members: &[Member]) -> Option<&str> {
    let chosen = members
        .iter()
        .min_by_key(|member| (member.partitions.len(), &member.id))?;
    Some(&chosen.id)
}
