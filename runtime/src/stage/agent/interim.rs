//! What a run has the journal keep while it goes on, and what ends with it.
//!
//! The run's task hands a finished step over and waits; the driver puts it into the next transaction and says when
//! that is committed. A task whose partition left is ended where it waits.

use super::Setup;
use crate::log::Waker;
use headwater_engine::agent::{Completion, Trigger};
use headwater_engine::audit::Outcome;
use headwater_engine::journal::{Change, Store};
use std::sync::mpsc::Sender;
use tokio::sync::oneshot;

/// Once keys that a run's end takes out of the journal at most, their time being over: more than it puts in.
const OVER: usize = 2;

/// One run's way to the driver.
pub(super) struct Interim {
    pub(super) sender: Sender<Handed>,
    pub(super) waker: Waker,
    pub(super) partition: i32,
    pub(super) epoch: u64,
}

/// A step as the driver gets it.
pub(super) struct Handed {
    pub(super) partition: i32,
    /// Of the assignment that the run was started under.
    pub(super) epoch: u64,
    pub(super) change: Change,
    pub(super) told: Told,
}

/// Where a task waits to hear that its step is committed, or why it cannot be.
pub(super) type Told = oneshot::Sender<Result<(), String>>;

impl Interim {
    /// Comes back once the change is committed; never where the partition or the stage is gone.
    ///
    /// # Errors
    /// Why it cannot be written. The run may go on without it.
    pub(super) async fn commit(&self, change: Change) -> Result<(), String> {
        let (told, answer) = oneshot::channel();
        let handed = Handed {
            partition: self.partition,
            epoch: self.epoch,
            change,
            told,
        };
        if self.sender.send(handed).is_ok() {
            (self.waker)();
        }
        match answer.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Adds to what ends a run, or lets it wait, the end of what the journal has of it, and of some that is over.
pub(super) fn end(
    setup: &Setup,
    journal: &Store,
    partition: i32,
    trigger: &Trigger,
    completion: &mut Completion,
) {
    let outcome = completion.summary.outcome;
    let ending = if outcome == Outcome::Waiting {
        journal.waits(&trigger.run).into_iter().collect()
    } else {
        journal.ending(&trigger.run)
    };
    // A run that waited was taken for done by then.
    let undone = trigger.once.as_ref().filter(|once| {
        let done = journal.once(trigger.key.as_ref(), once);
        outcome == Outcome::Failed && done.is_some_and(|done| done.run == trigger.run)
    });
    let undone = undone.map(|once| Change::once_gone(trigger.key.as_ref(), once));
    let ending = ending.into_iter().chain(undone);
    // Somebody has to, and it is little each time.
    let over = setup.agent.over(trigger, journal, OVER);
    add(setup, partition, ending.chain(over), completion);
}

/// Adds tombstones of the journal to what is committed.
pub(super) fn add(
    setup: &Setup,
    partition: i32,
    tombstones: impl IntoIterator<Item = Change>,
    completion: &mut Completion,
) {
    for change in tombstones {
        // A tombstone can always be written.
        if let Ok(record) = change.record(&setup.config.topics.journal, partition) {
            completion.records.push(record);
            completion.journal.push(change);
        }
    }
}
