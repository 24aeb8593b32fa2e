//! How partitions leave in order: what runs may end, and then the group's offset says that none is under way.
//!
//! Who takes such a partition over knows that no run of it has ended a process. Meanwhile partitions that stay go on
//! with what they have; nothing new is read, for the poll that follows gives the others up.

use super::{Driver, State, actives};
use crate::log::GroupReader;
use crate::stage::Error;
use headwater_engine::record::TopicPartition;
use std::time::{Duration, Instant};

/// As long as runs of a partition that goes elsewhere have to end.
const FINISH: Duration = Duration::from_secs(5);

impl Driver {
    /// Partitions that another replica gets once the group is polled again.
    pub(super) fn revoked(
        &mut self,
        group: &mut dyn GroupReader,
        revoked: &[TopicPartition],
    ) -> Result<(), Error> {
        if revoked.is_empty() {
            return Ok(());
        }
        let numbers: Vec<i32> = revoked.iter().map(|at| at.partition).collect();
        for number in &numbers {
            if let Some(owned) = self.owned.get_mut(number) {
                owned.leaving = true;
            }
        }
        let deadline = Instant::now() + FINISH;
        while !self.life.abandoned() {
            let halted = self.returned();
            if !halted.is_empty() {
                group.pause(&halted)?;
            }
            self.handed();
            self.batches.commit(group, &mut actives(&mut self.owned))?;
            self.launch();
            let running = self
                .active()
                .filter(|(number, _)| numbers.contains(number))
                .any(|(_, active)| active.window.running() > 0);
            let now = Instant::now();
            if now >= deadline || !running && !self.batches.is_busy() {
                break;
            }
            let due = self.batches.due_at(self.active().map(|(_, active)| active));
            let due = due.into_iter().chain(self.next_due()).min();
            let until = due.map_or(deadline, |due| due.min(deadline));
            std::thread::park_timeout(until.saturating_duration_since(now));
        }
        self.leave(group, &numbers)?;
        for number in numbers {
            self.drop_partition(number);
        }
        Ok(())
    }

    /// Ends what still runs of these partitions, and commits that nothing does.
    pub(super) fn leave(
        &mut self,
        group: &mut dyn GroupReader,
        numbers: &[i32],
    ) -> Result<(), Error> {
        if self.life.abandoned() {
            return Ok(());
        }
        for number in numbers {
            if let Some(State::Active(active)) =
                self.owned.get_mut(number).map(|owned| &mut owned.state)
            {
                active.cancel();
            }
        }
        self.batches
            .leave(group, &mut actives(&mut self.owned), numbers)
    }
}
