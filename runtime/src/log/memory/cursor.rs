//! Where a consumer stands in each of its partitions, and the reading from there.
//!
//! Shared by readers and group members. Records are collected under the lock and shown without it.

use super::Shared;
use super::partition::Slice;
use super::signal::Signal;
use super::state::State;
use crate::log::{Error, Isolation, RECORDS_PER_POLL, Result, Start};
use headwater_engine::record::{Record, TopicPartition};
use std::sync::Arc;

#[derive(Debug)]
struct Cursor {
    at: TopicPartition,
    /// `None`: not started.
    position: Option<i64>,
    paused: bool,
    /// The position is not in the log; told once.
    lost: bool,
}

#[derive(Debug)]
pub(super) struct Cursors {
    isolation: Isolation,
    cursors: Vec<Cursor>,
    /// Which cursor begins the next reading, so that none starves.
    turn: usize,
    taken: Vec<Slice>,
}

/// What a reading came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Collected {
    Records(usize),
    /// Only markers or hidden records.
    Moved,
    Nothing,
}

impl Cursors {
    pub(super) fn new(isolation: Isolation) -> Self {
        Self {
            isolation,
            cursors: Vec::new(),
            turn: 0,
            taken: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.cursors.clear();
    }

    pub(super) fn add(&mut self, at: TopicPartition) {
        self.cursors.push(Cursor {
            at,
            position: None,
            paused: false,
            lost: false,
        });
    }

    pub(super) fn remove(&mut self, partitions: &[TopicPartition]) {
        self.cursors
            .retain(|cursor| !partitions.contains(&cursor.at));
    }

    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.cursors
            .iter()
            .map(|cursor| cursor.at.clone())
            .collect()
    }

    pub(super) fn position(&self, at: &TopicPartition) -> Option<i64> {
        self.cursors.iter().find(|it| it.at == *at)?.position
    }

    /// Whether the partition is here.
    pub(super) fn set_paused(&mut self, at: &TopicPartition, paused: bool) -> bool {
        self.cursors
            .iter_mut()
            .find(|cursor| cursor.at == *at)
            .map(|cursor| cursor.paused = paused)
            .is_some()
    }

    /// Whether the partition is here.
    ///
    /// # Errors
    /// [`Error::UnknownTopic`].
    pub(super) fn start(
        &mut self,
        state: &mut State,
        at: &TopicPartition,
        start: Start,
        signal: &Arc<Signal>,
    ) -> Result<bool> {
        let Some(cursor) = self.cursors.iter_mut().find(|cursor| cursor.at == *at) else {
            return Ok(false);
        };
        let partition = state.partition_mut(at)?;
        partition.watch(signal);
        cursor.position = Some(match start {
            Start::Offset(offset) => offset,
            Start::Earliest => partition.low(),
            Start::Latest => partition.high(),
        });
        cursor.lost = false;
        Ok(true)
    }

    /// # Errors
    /// [`Error::OutOfRange`], [`Error::UnknownTopic`]: once, for one partition; the others go on.
    pub(super) fn collect(&mut self, state: &State) -> Result<Collected> {
        let mut left = RECORDS_PER_POLL;
        let mut moved = false;
        let count = self.cursors.len();
        for step in 0..count {
            let index = (self.turn + step) % count;
            let cursor = &mut self.cursors[index];
            let Some(position) = cursor.position else {
                continue;
            };
            if cursor.paused || cursor.lost || left == 0 {
                continue;
            }
            let partition = match state.partition(&cursor.at) {
                Ok(partition) if (partition.low()..=partition.high()).contains(&position) => {
                    partition
                }
                other => {
                    if !self.taken.is_empty() {
                        // Told by the next call: what is collected must not be lost.
                        break;
                    }
                    cursor.lost = true;
                    let partition = other?;
                    return Err(Error::OutOfRange {
                        partition: cursor.at.clone(),
                        offset: position,
                        low: partition.low(),
                        high: partition.high(),
                    });
                }
            };
            let (next, taken) =
                partition.read(position, self.isolation, left, (index, &mut self.taken));
            left -= taken;
            moved |= next != position;
            cursor.position = Some(next);
        }
        self.turn = self.turn.wrapping_add(1);
        Ok(if left < RECORDS_PER_POLL {
            Collected::Records(RECORDS_PER_POLL - left)
        } else if moved {
            Collected::Moved
        } else {
            Collected::Nothing
        })
    }

    /// Shows what was collected.
    pub(super) fn show(&mut self, mut on: impl FnMut(&Record<'_>)) {
        let taken = std::mem::take(&mut self.taken);
        {
            let mut headers = Vec::new();
            for slice in &taken {
                let at = &self.cursors[slice.cursor].at;
                let place = (&*at.topic, at.partition);
                slice
                    .batch
                    .show(place, slice.range.clone(), &mut headers, &mut on);
            }
        }
        self.taken = taken;
        self.taken.clear();
    }
}

/// Something that wakes a waiter from outside.
pub(super) fn waker(shared: &Arc<Shared>, signal: &Arc<Signal>) -> crate::log::Waker {
    let (shared, signal) = (Arc::clone(shared), Arc::clone(signal));
    Arc::new(move || {
        let _state = shared.lock();
        signal.wake();
    })
}
