//! The consumer whose partitions are assigned by hand.

use super::Shared;
use super::cursor::{Collected, Cursors, waker};
use super::signal::Signal;
use crate::log::{Isolation, Reader, Result, Start, Waker};
use headwater_engine::record::{Record, TopicPartition};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct MemoryReader {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    cursors: Cursors,
}

impl MemoryReader {
    pub(super) fn new(shared: Arc<Shared>, isolation: Isolation) -> Self {
        Self {
            shared,
            signal: Arc::default(),
            cursors: Cursors::new(isolation),
        }
    }
}

impl Reader for MemoryReader {
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        let mut state = self.shared.lock();
        self.cursors.clear();
        for (at, start) in partitions {
            self.cursors.add(at.clone());
            self.cursors.start(&mut state, at, *start, &self.signal)?;
        }
        Ok(())
    }

    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(&Record<'_>)) -> Result<usize> {
        let deadline = Instant::now() + wait;
        let mut state = self.shared.lock_ticked();
        loop {
            match self.cursors.collect(&state)? {
                Collected::Records(count) => {
                    drop(state);
                    self.cursors.show(|record| on(record));
                    return Ok(count);
                }
                Collected::Moved => return Ok(0),
                Collected::Nothing => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.signal.take_woken() || left.is_zero() {
                return Ok(0);
            }
            state = self.shared.wait(state, &self.signal, left);
        }
    }

    fn position(&mut self, partition: &TopicPartition) -> Option<i64> {
        self.cursors.position(partition)
    }

    fn waker(&self) -> Waker {
        waker(&self.shared, &self.signal)
    }
}
