//! Waking those who wait for the log.
//!
//! A signal belongs to one waiter, who waits with the log's lock in hand, so that nothing falls
//! between looking and waiting.

use super::state::State;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Signal {
    condition: Condvar,
    waiting: AtomicBool,
    woken: AtomicBool,
}

impl Signal {
    /// Something changed that the waiter may look at; called with the log's lock held.
    pub(super) fn notify(&self) {
        if self.waiting.load(Ordering::Relaxed) {
            self.condition.notify_all();
        }
    }

    /// Ends the wait under way or else the next one; called with the log's lock held.
    pub(super) fn wake(&self) {
        self.woken.store(true, Ordering::Relaxed);
        self.notify();
    }

    /// Whether [`Signal::wake`] was called since the last time it was asked.
    pub(super) fn take_woken(&self) -> bool {
        self.woken.swap(false, Ordering::Relaxed)
    }

    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        self.waiting.store(true, Ordering::Relaxed);
        let (state, _) = self
            .condition
            .wait_timeout(state, most)
            .unwrap_or_else(PoisonError::into_inner);
        self.waiting.store(false, Ordering::Relaxed);
        state
    }
}
