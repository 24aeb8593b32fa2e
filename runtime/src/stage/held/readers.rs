//! Who still reads the views of a stage that ends: while runs finish, the views go on.
//!
//! A run that was begun waits for what was in the log when its trigger arrived. Were the views to stand still
//! when the stage is told to end, it would wait in vain, and go on with less than it was promised.

use super::Held;
use crate::log::Waker;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
pub(super) struct Readers {
    count: AtomicUsize,
    /// Of the folding thread.
    waker: Mutex<Option<Waker>>,
}

/// As long as it is held, the views are folded on; but for a stage that is abandoned.
pub(in crate::stage) struct Reading(Arc<Held>);

impl Held {
    pub(in crate::stage) fn reading(self: &Arc<Self>) -> Reading {
        self.readers.count.fetch_add(1, Ordering::AcqRel);
        Reading(Arc::clone(self))
    }

    pub(super) fn is_read(&self) -> bool {
        self.readers.count.load(Ordering::Acquire) > 0
    }

    /// Called when the last [`Reading`] went.
    pub(super) fn when_unread(&self, waker: Waker) {
        *self.readers.lock() = Some(waker);
    }
}

impl Readers {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let readers = &self.0.readers;
        if readers.count.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(waker) = &*readers.lock()
        {
            waker();
        }
    }
}
