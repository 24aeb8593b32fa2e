//! One partition: its batches, its watermarks, and the transactions open in it.
//!
//! Invariants: batches are in offset order without overlap; `high` is the offset after the last;
//! the last stable offset is the first offset of the oldest open transaction, or else `high`.

use super::batch::{Batch, Builder, Outcome};
use super::signal::Signal;
use crate::log::Isolation;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Weak};

/// Records of one batch, by index, to be shown outside the lock.
#[derive(Debug)]
pub(super) struct Slice {
    /// Index of the reader's cursor that it belongs to.
    pub(super) cursor: usize,
    pub(super) batch: Arc<Batch>,
    pub(super) range: std::ops::Range<usize>,
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    low: i64,
    high: i64,
    batches: VecDeque<Arc<Batch>>,
    /// First offsets of the open transactions.
    open: BTreeSet<i64>,
    watchers: Vec<Weak<Signal>>,
}

impl Partition {
    pub(super) fn low(&self) -> i64 {
        self.low
    }

    pub(super) fn high(&self) -> i64 {
        self.high
    }

    pub(super) fn end(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::ReadUncommitted => self.high,
            Isolation::ReadCommitted => self.open.first().copied().unwrap_or(self.high),
        }
    }

    /// Whoever waits for records of this partition.
    pub(super) fn watch(&mut self, signal: &Arc<Signal>) {
        self.watchers.retain(|watcher| watcher.strong_count() > 0);
        if !self
            .watchers
            .iter()
            .any(|watcher| watcher.as_ptr() == Arc::as_ptr(signal))
        {
            self.watchers.push(Arc::downgrade(signal));
        }
    }

    pub(super) fn wake(&self) {
        for watcher in &self.watchers {
            if let Some(signal) = watcher.upgrade() {
                signal.notify();
            }
        }
    }

    /// Returns the first offset. `opens`: the first batch of its transaction here.
    pub(super) fn append(
        &mut self,
        builder: Builder,
        append_time: Option<i64>,
        transaction: Option<(&Arc<Outcome>, bool)>,
    ) -> i64 {
        let base = self.high;
        if let Some((_, true)) = transaction {
            self.open.insert(base);
        }
        let batch = builder.build(
            base,
            append_time,
            transaction.map(|(outcome, _)| Arc::clone(outcome)),
        );
        self.push(batch);
        base
    }

    /// The marker that ends the transaction which began at `first`.
    pub(super) fn close(&mut self, first: i64) {
        self.open.remove(&first);
        self.push(Batch::marker(self.high));
    }

    fn push(&mut self, batch: Batch) {
        self.high = batch.next();
        self.batches.push_back(Arc::new(batch));
        self.wake();
    }

    /// Records below an offset are gone, but none that a reader of committed records could not have read yet.
    pub(super) fn cut(&mut self, below: i64) {
        self.low = self.low.max(below.min(self.end(Isolation::ReadCommitted)));
        while self
            .batches
            .front()
            .is_some_and(|batch| batch.next() <= self.low)
        {
            self.batches.pop_front();
        }
        self.wake();
    }

    /// Collects records from `position` on, at most `limit`, and says where reading goes on.
    pub(super) fn read(
        &self,
        position: i64,
        isolation: Isolation,
        limit: usize,
        (cursor, into): (usize, &mut Vec<Slice>),
    ) -> (i64, usize) {
        let end = self.end(isolation);
        let mut position = position;
        let mut taken = 0;
        let first = self
            .batches
            .partition_point(|batch| batch.next() <= position);
        for batch in self.batches.range(first..) {
            if batch.base() >= end || taken == limit {
                break;
            }
            let hidden = isolation == Isolation::ReadCommitted
                && batch.transaction.as_ref().is_some_and(|it| it.is_aborted());
            let from = batch.index_from(position);
            if hidden || from == batch.len() {
                position = batch.next();
                continue;
            }
            let to = batch.len().min(from + limit - taken);
            taken += to - from;
            position = if to == batch.len() {
                batch.next()
            } else {
                batch.offset(to)
            };
            into.push(Slice {
                cursor,
                batch: Arc::clone(batch),
                range: from..to,
            });
        }
        (position, taken)
    }
}
