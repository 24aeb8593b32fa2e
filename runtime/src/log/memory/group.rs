//! Consumer groups: members under static ids, generations, cooperative rebalances, committed offsets.
//!
//! A rebalance is asked for, completes once every member has polled (a dead one: once its session
//! has ended), and gives a new generation. A partition that moves is first taken from its owner, who
//! gives it up with the poll after it was told; that asks for the next rebalance, which hands it on.

use super::Membership;
use super::assignor::{self, Candidate};
use super::signal::Signal;
use super::topic::Topic;
use crate::log::{Committed, Error, Result};
use headwater_engine::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Clients' `session.timeout.ms`, as the data plane sets it.
const SESSION_MS: i64 = 10_000;

#[derive(Debug, Default)]
pub(super) struct Group {
    generation: u64,
    rebalancing: bool,
    members: BTreeMap<String, Member>,
    offsets: HashMap<TopicPartition, Offset>,
    /// Those who wait for pending offsets to be decided.
    waiting: Vec<Arc<Signal>>,
}

#[derive(Debug)]
struct Member {
    /// Which process holds the static id.
    incarnation: u64,
    topics: Vec<String>,
    /// Given and not yet given up.
    owned: BTreeSet<TopicPartition>,
    /// What the last rebalance says.
    assigned: BTreeSet<TopicPartition>,
    /// The last rebalance is yet to be told.
    news: bool,
    rejoined: bool,
    /// Dead, and when that counts.
    expires: Option<i64>,
    signal: Arc<Signal>,
}

#[derive(Debug, Default)]
struct Offset {
    committed: Option<Committed>,
    /// By transactional id.
    pending: HashMap<String, Committed>,
}

/// What a member is told by its poll.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    /// Given up with [`Group::give_up`].
    Revoked(Vec<TopicPartition>),
    Assigned(Vec<TopicPartition>),
    /// No member any more.
    Expired,
    /// Another process has the static id.
    Fenced,
}

impl Group {
    /// A static id that comes back with the same subscription takes over what it had, without a rebalance.
    pub(super) fn join(
        &mut self,
        name: &str,
        incarnation: u64,
        topics: &[String],
        signal: &Arc<Signal>,
    ) {
        if let Some(member) = self.members.get_mut(name) {
            member.signal.notify();
            member.incarnation = incarnation;
            member.signal = Arc::clone(signal);
            member.expires = None;
            let settled = member.owned.is_subset(&member.assigned);
            member.owned.clear();
            member.news = true;
            if settled && member.topics == topics && !self.rebalancing {
                return;
            }
            member.topics = topics.to_vec();
        } else {
            self.members.insert(
                name.to_owned(),
                Member {
                    incarnation,
                    topics: topics.to_vec(),
                    owned: BTreeSet::new(),
                    assigned: BTreeSet::new(),
                    news: false,
                    rejoined: false,
                    expires: None,
                    signal: Arc::clone(signal),
                },
            );
        }
        self.rebalance();
    }

    pub(super) fn leave(&mut self, name: &str, incarnation: u64) {
        if self.member(name, incarnation).is_some() {
            self.members.remove(name);
            self.rebalance();
        }
    }

    /// The member's process is gone: the id stays for the session's time.
    pub(super) fn die(&mut self, name: &str, incarnation: u64, now: i64) {
        if let Some(member) = self.member(name, incarnation) {
            member.expires = Some(now.saturating_add(SESSION_MS));
        }
    }

    /// The session ends now, whether the process lives or not.
    pub(super) fn expire(&mut self, name: &str) {
        if let Some(member) = self.members.remove(name) {
            member.signal.notify();
            self.rebalance();
        }
    }

    pub(super) fn remove_expired(&mut self, now: i64) {
        let before = self.members.len();
        self.members
            .retain(|_, member| member.expires.is_none_or(|at| at > now));
        if self.members.len() != before {
            self.rebalance();
        }
    }

    pub(super) fn topic_changed(&mut self, topic: &str) {
        if self
            .members
            .values()
            .any(|member| member.topics.iter().any(|it| it == topic))
        {
            self.rebalance();
        }
    }

    fn rebalance(&mut self) {
        self.rebalancing = true;
        for member in self.members.values_mut() {
            member.rejoined = false;
            member.signal.notify();
        }
    }

    /// The member polls.
    pub(super) fn sync(
        &mut self,
        name: &str,
        incarnation: u64,
        topics: &BTreeMap<Arc<str>, Topic>,
    ) -> News {
        match self.members.get_mut(name) {
            None => return News::Expired,
            Some(member) if member.incarnation != incarnation => return News::Fenced,
            Some(member) => member.rejoined = true,
        }
        self.complete(topics);
        let Some(member) = self.member(name, incarnation) else {
            return News::Expired;
        };
        if !member.news {
            return News::Nothing;
        }
        let revoked: Vec<_> = member.owned.difference(&member.assigned).cloned().collect();
        if !revoked.is_empty() {
            return News::Revoked(revoked);
        }
        let added: Vec<_> = member.assigned.difference(&member.owned).cloned().collect();
        member.owned.extend(added.iter().cloned());
        member.news = false;
        News::Assigned(added)
    }

    /// Revoked partitions leave; others get them in the next rebalance.
    pub(super) fn give_up(&mut self, name: &str, incarnation: u64, partitions: &[TopicPartition]) {
        if let Some(member) = self.member(name, incarnation) {
            for partition in partitions {
                member.owned.remove(partition);
            }
            self.rebalance();
        }
    }

    /// Ends a rebalance that everybody has joined.
    pub(super) fn complete(&mut self, topics: &BTreeMap<Arc<str>, Topic>) {
        if !self.rebalancing || !self.members.values().all(|member| member.rejoined) {
            return;
        }
        self.rebalancing = false;
        self.generation += 1;
        let partitions: BTreeSet<TopicPartition> = self
            .members
            .values()
            .flat_map(|member| &member.topics)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|name| topics.get(name.as_str()))
            .flat_map(|topic| {
                (0..topic.meta.partitions)
                    .map(|it| TopicPartition::new(Arc::clone(&topic.meta.name), it))
            })
            .collect();
        let candidates = self
            .members
            .iter()
            .map(|(name, member)| {
                let candidate = Candidate {
                    topics: &member.topics,
                    owned: &member.owned,
                };
                (name.as_str(), candidate)
            })
            .collect();
        let mut target: BTreeMap<String, BTreeSet<TopicPartition>> =
            assignor::assign(&partitions, &candidates)
                .into_iter()
                .map(|(name, partitions)| (name.to_owned(), partitions))
                .collect();
        for (name, partitions) in &mut target {
            partitions.retain(|partition| {
                self.members
                    .iter()
                    .all(|(other, member)| other == name || !member.owned.contains(partition))
            });
        }
        for (name, member) in &mut self.members {
            member.assigned = target.remove(name).unwrap_or_default();
            member.news = true;
            member.signal.notify();
        }
    }

    fn member(&mut self, name: &str, incarnation: u64) -> Option<&mut Member> {
        self.members
            .get_mut(name)
            .filter(|member| member.incarnation == incarnation)
    }

    /// `None` where another process has the static id. Of a member whose session ended it is one that no longer counts: it learns of
    /// the end with its next poll.
    pub(super) fn membership(
        &self,
        group: &str,
        name: &str,
        incarnation: u64,
    ) -> Option<Membership> {
        let generation = match self.members.get(name) {
            Some(member) if member.incarnation == incarnation => self.generation,
            Some(_) => return None,
            None => 0,
        };
        Some(Membership {
            group: group.to_owned(),
            member: name.to_owned(),
            incarnation,
            generation,
        })
    }

    /// # Errors
    /// [`Error::Fenced`] where another process has the static id; [`Error::Abort`] for a member that left
    /// and for an old generation.
    pub(super) fn verify(&self, membership: &Membership) -> Result<()> {
        let name = &membership.member;
        let reason = match self.members.get(name) {
            None => format!("'{name}' is no member of the group any more"),
            Some(member) if member.incarnation != membership.incarnation => {
                return Err(Error::Fenced {
                    reason: format!("another process is member '{name}' of the group"),
                });
            }
            Some(_) if self.generation != membership.generation => format!(
                "the group is in generation {}, the offsets come from {}",
                self.generation, membership.generation
            ),
            Some(_) => return Ok(()),
        };
        Err(Error::Abort { reason })
    }

    pub(super) fn add_pending(
        &mut self,
        transactional: &str,
        offsets: &[(TopicPartition, Committed)],
    ) {
        for (at, offset) in offsets {
            let entry = self.offsets.entry(at.clone()).or_default();
            entry
                .pending
                .insert(transactional.to_owned(), offset.clone());
        }
    }

    pub(super) fn decide_pending(&mut self, transactional: &str, commit: bool) {
        for offset in self.offsets.values_mut() {
            if let Some(pending) = offset.pending.remove(transactional)
                && commit
            {
                offset.committed = Some(pending);
            }
        }
        for signal in &self.waiting {
            signal.notify();
        }
    }

    /// `None` while one of the partitions waits for a transaction's decision.
    pub(super) fn committed(
        &self,
        partitions: &[TopicPartition],
    ) -> Option<HashMap<TopicPartition, Option<Committed>>> {
        partitions
            .iter()
            .map(|at| match self.offsets.get(at) {
                None => Some((at.clone(), None)),
                Some(offset) if offset.pending.is_empty() => {
                    Some((at.clone(), offset.committed.clone()))
                }
                Some(_) => None,
            })
            .collect()
    }

    /// Commits from outside; false where the group has members, whose own that is.
    pub(super) fn set(&mut self, offsets: &[(TopicPartition, Committed)]) -> bool {
        if !self.members.is_empty() {
            return false;
        }
        for (at, offset) in offsets {
            self.offsets.entry(at.clone()).or_default().committed = Some(offset.clone());
        }
        true
    }

    /// Forgets what was committed; false where the group has members.
    pub(super) fn forget(&mut self) -> bool {
        if !self.members.is_empty() {
            return false;
        }
        self.offsets.clear();
        true
    }

    pub(super) fn wait_for_decisions(&mut self, signal: &Arc<Signal>, waits: bool) {
        self.waiting.retain(|it| !Arc::ptr_eq(it, signal));
        if waits {
            self.waiting.push(Arc::clone(signal));
        }
    }
}
