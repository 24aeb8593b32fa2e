//! Triggers on their way to a run: one may take the place of another that waits (`trigger.coalesceMilliseconds`), and one
//! may turn out to repeat a run that is done (`trigger.once`).

use super::super::Setup;
use super::super::batch::Finished;
use super::super::interim;
use super::{Active, Driver, State, Taken};
use headwater_engine::agent::{Completion, Trigger};
use headwater_engine::fault::Fault;
use headwater_engine::key::Key;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A trigger that may start: its offset, its key, and what was taken of it.
pub(super) type Startable = (i64, Option<Key>, Taken);

/// Lets a trigger wait for its start. One of its key that waits ends in its favour, and it starts when that one would have,
/// so that no stream of triggers puts a run off for ever.
///
/// # Errors
/// None that data can cause.
pub(super) fn wait(
    setup: &Setup,
    active: &mut Active,
    partition: i32,
    offset: i64,
    trigger: Trigger,
) -> Result<(), Fault> {
    let arrived = Instant::now();
    let begun = !active.journal.steps(&trigger.run).is_empty();
    let mut due = arrived;
    let coalesce = Duration::from_millis(setup.agent.coalesce_ms());
    // What has journaled steps is under way already, and has no order without a key.
    if !coalesce.is_zero()
        && !begun
        && let Some(key) = &trigger.key
    {
        due += coalesce;
        if let Some((former, taken)) = active.window.supersede(key, &|taken| !taken.begun) {
            due = taken.due;
            let now_ms = setup.context.services.clock.now_ms();
            let ended = setup.agent.coalesce(&taken.trigger, &trigger.run, now_ms)?;
            end(setup, active, partition, former, taken, ended);
        }
    }
    let key = trigger.key.clone();
    let taken = Taken {
        trigger: Arc::new(trigger),
        arrived,
        due,
        begun,
        unsure: active.unsure > 0,
        resumed: None,
    };
    active.unsure = active.unsure.saturating_sub(1);
    active.window.wait(offset, key, taken);
    Ok(())
}

fn end(
    setup: &Setup,
    active: &mut Active,
    partition: i32,
    offset: i64,
    taken: Taken,
    mut ended: Completion,
) {
    let journal = &active.journal;
    interim::end(setup, journal, partition, &taken.trigger, &mut ended);
    let finished = Finished::new(ended, Some(taken.trigger), taken.arrived);
    active.window.finish(offset, finished);
}

impl Driver {
    /// Gives the trigger back unless its run would repeat one that is done; then it ends here.
    pub(super) fn unless_done(
        &mut self,
        partition: i32,
        startable: Startable,
    ) -> Option<Startable> {
        let owned = self.owned.get_mut(&partition)?;
        let State::Active(active) = &mut owned.state else {
            return None;
        };
        let agent = &self.setup.agent;
        let Some(done) = agent.done_before(&startable.2.trigger, &active.journal) else {
            return Some(startable);
        };
        let now_ms = self.setup.context.services.clock.now_ms();
        let (offset, _, taken) = startable;
        match self.setup.agent.duplicate(&taken.trigger, done, now_ms) {
            Ok(ended) => end(&self.setup, active, partition, offset, taken, ended),
            // No data can cause it.
            Err(fault) => {
                tracing::error!(%fault, "a duplicate cannot be written");
                active.window.halt_at(offset);
            }
        }
        None
    }

    /// When the next trigger has waited long enough for a newer one.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.setup.agent.coalesce_ms() == 0 || self.draining {
            return None;
        }
        let now = Instant::now();
        self.active()
            .flat_map(|(_, active)| active.window.waiting())
            .map(|taken| taken.due)
            .filter(|due| *due > now)
            .min()
    }
}
