//! How the threads of one stage begin, wait, are woken and end.
//!
//! A stage ends in one of two ways: in order, when its shutdown token is cancelled, or abandoned, as
//! a crash would end it: nothing more is committed, and no group is left. Threads look at both between
//! two polls, and are woken when either comes.

use super::status::Board;
use crate::log::Waker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Life {
    /// Ends whatever waits, in either way of ending.
    ended: CancellationToken,
    abandoned: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
    pub(super) runtime: Handle,
    pub(super) board: Arc<Board>,
}

impl Life {
    pub(super) fn new(
        shutdown: &CancellationToken,
        runtime: Handle,
        board: Arc<Board>,
    ) -> Arc<Self> {
        let life = Arc::new(Self {
            ended: shutdown.child_token(),
            abandoned: AtomicBool::new(false),
            wakers: Mutex::default(),
            runtime,
            board,
        });
        let watched = Arc::clone(&life);
        life.runtime.spawn(async move {
            watched.ended.cancelled().await;
            watched.wake();
        });
        life
    }

    /// Resolves when the stage ends, in either way.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(super) fn stopping(&self) -> bool {
        self.ended.is_cancelled()
    }

    pub(super) fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    /// Ends the stage as a crash would.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.ended.cancel();
        self.wake();
    }

    /// Ends the stage in order from inside: one part failed, the others finish.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Whoever blocks in a poll hands its waker in, so that the end reaches it.
    pub(super) fn woken_by(&self, waker: Waker) {
        self.wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(waker);
        if self.stopping() {
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        for waker in self
            .wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            waker();
        }
    }

    /// Waits for `duration`, less where the stage ends. Not for the executor's threads.
    pub(super) fn wait(&self, duration: Duration) {
        // An error is the time being over.
        let _ = self
            .runtime
            .block_on(async { tokio::time::timeout(duration, self.ended.cancelled()).await });
    }
}
