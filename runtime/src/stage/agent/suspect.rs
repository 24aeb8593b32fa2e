//! Runs that may end their process: that one begins is written before it does, and who began too often never
//! begins again.
//!
//! Where the former owner of a partition did not leave it in order, one of the runs that it had under way may have
//! ended its process: for want of memory, say. So each of them journals that it begins, and waits for the commit. One
//! that journaled this before is begun alone, without others of its kind beside it: those that only were under way at
//! the same time get through, and the count of the one that does end processes goes on.

use super::interim::Interim;
use crate::log::RECORDS_PER_POLL;
use headwater_engine::fault::{Fault, Reason};
use headwater_engine::journal::{Attempts, Change};
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// So many triggers of a partition its former owner may have had under way at most: a window that was not full
/// takes all of one more poll.
pub(super) const UNSURE: usize = super::driver::WINDOW + RECORDS_PER_POLL;

/// The first time it may have been beside the one that ended the process.
const BEGINS_MIN: u32 = 2;

/// Held by a run that is begun alone; one for a replica.
pub(super) type Alone = Arc<Mutex<()>>;

/// What is known of a run that may have ended processes.
pub(super) struct Suspect {
    /// How often it was begun, as far as that was written.
    pub(super) begun: u32,
    pub(super) alone: Alone,
}

impl Suspect {
    /// Journals that the run begins. Until the guard goes no other is begun alone.
    ///
    /// # Errors
    /// `Crashed`: it was begun as often as it may be.
    pub(super) async fn begin(
        &self,
        run: &str,
        offset: i64,
        attempts_max: u32,
        interim: &Interim,
    ) -> Result<Option<OwnedMutexGuard<()>>, Fault> {
        if self.begun >= attempts_max.max(BEGINS_MIN) {
            let message = format!(
                "the run was begun {} times, and each time its process ended before it did, as for want of memory",
                self.begun
            );
            return Err(Fault::new(Reason::Crashed, message));
        }
        let alone = match self.begun {
            0 => None,
            _ => Some(Arc::clone(&self.alone).lock_owned().await),
        };
        let count = self.begun + 1;
        let begins = Change::attempts(run, Attempts { offset, count });
        if let Err(reason) = interim.commit(begins).await {
            tracing::warn!(run, reason, "that the run begins cannot be journaled");
        }
        Ok(alone)
    }
}
