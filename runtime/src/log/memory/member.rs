//! The member of a consumer group.

use super::Shared;
use super::cursor::{Collected, Cursors, waker};
use super::group::News;
use super::signal::Signal;
use crate::log::{
    Committed, Error, GroupEvent, GroupMetadata, GroupMetadataInner, GroupOptions, GroupReader,
    Isolation, Result, Start, Waker,
};
use headwater_engine::record::TopicPartition;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// As long as `committed` waits for a transaction's decision: a transaction times out before.
const DECISION_WAIT: Duration = Duration::from_secs(15);

pub(super) struct MemoryMember {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    options: GroupOptions,
    incarnation: u64,
    cursors: Cursors,
    /// Told as revoked; they go with the next poll.
    leaving: Vec<TopicPartition>,
    left: bool,
}

impl MemoryMember {
    pub(super) fn join(shared: Arc<Shared>, options: GroupOptions) -> Self {
        let signal = Arc::default();
        let incarnation = join(&shared, &options, &signal);
        Self {
            shared,
            signal,
            options,
            incarnation,
            cursors: Cursors::new(Isolation::ReadCommitted),
            leaving: Vec::new(),
            left: false,
        }
    }

    fn fenced(&self) -> Error {
        Error::Fenced {
            reason: format!(
                "another process is member '{}' of group '{}'",
                self.options.member, self.options.group
            ),
        }
    }

    /// Takes what is not owned any more out of the reading.
    fn lose_all(&mut self) -> Vec<TopicPartition> {
        let lost = self.cursors.partitions();
        self.cursors.clear();
        self.leaving.clear();
        lost
    }
}

fn join(shared: &Shared, options: &GroupOptions, signal: &Arc<Signal>) -> u64 {
    let mut state = shared.lock();
    let incarnation = state.next_id();
    state.groups.entry(options.group.clone()).or_default().join(
        &options.member,
        incarnation,
        &options.topics,
        signal,
    );
    incarnation
}

impl GroupReader for MemoryMember {
    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(GroupEvent<'_>)) -> Result<usize> {
        let deadline = Instant::now() + wait;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock_ticked();
        loop {
            let it = &mut *state;
            let Some(group) = it.groups.get_mut(&self.options.group) else {
                return Err(self.fenced());
            };
            let name = &self.options.member;
            if !self.leaving.is_empty() {
                group.give_up(name, self.incarnation, &self.leaving);
                self.cursors.remove(&self.leaving);
                self.leaving.clear();
            }
            match group.sync(name, self.incarnation, &it.topics) {
                News::Nothing => {}
                News::Assigned(partitions) => {
                    drop(state);
                    for partition in &partitions {
                        self.cursors.add(partition.clone());
                    }
                    on(GroupEvent::Assigned(&partitions));
                    return Ok(1);
                }
                News::Revoked(partitions) => {
                    drop(state);
                    for partition in &partitions {
                        self.cursors.set_paused(partition, true);
                    }
                    on(GroupEvent::Revoked(&partitions));
                    self.leaving = partitions;
                    return Ok(1);
                }
                News::Expired => {
                    drop(state);
                    let lost = self.lose_all();
                    self.incarnation = join(&shared, &self.options, &self.signal);
                    on(GroupEvent::Lost(&lost));
                    return Ok(1);
                }
                News::Fenced => {
                    drop(state);
                    let lost = self.lose_all();
                    if lost.is_empty() {
                        return Err(self.fenced());
                    }
                    on(GroupEvent::Lost(&lost));
                    return Ok(1);
                }
            }
            match self.cursors.collect(&state)? {
                Collected::Records(count) => {
                    drop(state);
                    self.cursors.show(|record| on(GroupEvent::Record(record)));
                    return Ok(count);
                }
                Collected::Moved => return Ok(0),
                Collected::Nothing => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.signal.take_woken() || left.is_zero() {
                return Ok(0);
            }
            state = shared.wait(state, &self.signal, left);
        }
    }

    fn start(&mut self, partition: &TopicPartition, at: Start) -> Result<()> {
        let mut state = self.shared.lock();
        if self
            .cursors
            .start(&mut state, partition, at, &self.signal)?
        {
            return Ok(());
        }
        Err(not_assigned("start", partition))
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        for partition in partitions {
            if !self.cursors.set_paused(partition, true) {
                return Err(not_assigned("pause", partition));
            }
        }
        Ok(())
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        for partition in partitions {
            if !self
                .cursors
                .set_paused(partition, self.leaving.contains(partition))
            {
                return Err(not_assigned("resume", partition));
            }
        }
        Ok(())
    }

    fn position(&mut self, partition: &TopicPartition) -> Option<i64> {
        self.cursors.position(partition)
    }

    fn waker(&self) -> Waker {
        waker(&self.shared, &self.signal)
    }

    fn committed(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Option<Committed>>> {
        committed(&self.shared, &self.options.group, partitions)
    }

    fn metadata(&self) -> Result<GroupMetadata> {
        let state = self.shared.lock();
        let group = state.groups.get(&self.options.group);
        group
            .and_then(|group| {
                group.membership(&self.options.group, &self.options.member, self.incarnation)
            })
            .map(|membership| GroupMetadata(GroupMetadataInner::Memory(membership)))
            .ok_or_else(|| self.fenced())
    }

    fn leave(mut self: Box<Self>) -> Result<()> {
        self.left = true;
        let mut state = self.shared.lock();
        if let Some(group) = state.groups.get_mut(&self.options.group) {
            group.leave(&self.options.member, self.incarnation);
        }
        Ok(())
    }
}

impl Drop for MemoryMember {
    fn drop(&mut self) {
        if !self.left {
            let now = self.shared.now();
            let mut state = self.shared.lock();
            if let Some(group) = state.groups.get_mut(&self.options.group) {
                group.die(&self.options.member, self.incarnation, now);
            }
        }
    }
}

fn not_assigned(what: &str, partition: &TopicPartition) -> Error {
    Error::Fatal {
        what: format!("{what} '{partition}'"),
        reason: "it is not assigned to this member".to_owned(),
    }
}

/// What a group has committed, once no open transaction holds any of it.
pub(super) fn committed(
    shared: &Shared,
    group_name: &str,
    partitions: &[TopicPartition],
) -> Result<HashMap<TopicPartition, Option<Committed>>> {
    let deadline = Instant::now() + DECISION_WAIT;
    // A signal of its own: a waker's call is for the poll.
    let signal = Arc::default();
    let mut state = shared.lock_ticked();
    loop {
        let group = state.groups.entry(group_name.to_owned()).or_default();
        let found = group.committed(partitions);
        group.wait_for_decisions(&signal, found.is_none());
        if let Some(found) = found {
            return Ok(found);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            group.wait_for_decisions(&signal, false);
            return Err(Error::Unavailable {
                what: format!("committed offsets of group '{group_name}'"),
                reason: "a transaction that holds some of them is still open".to_owned(),
            });
        }
        state = shared.wait(state, &signal, left);
        state.tick(shared.now());
    }
}
