//! What finished runs come to, and finished steps of runs that go on, on its way into the log.
//!
//! One batch is under way at a time. It holds what is finished of each partition and its steps, and stays as it
//! is until its fate is known; only partitions that were lost are taken out. A record that the log refuses
//! fails its run alone: then the run's failure is written instead. A step that it refuses is not journaled, and
//! its run is told so.

mod content;
mod place;
mod tell;

use super::super::Error;
use super::super::committer::{Committer, Outcome};
use super::super::first::Offsets;
use super::super::life::Life;
use super::super::resume::position;
use super::Setup;
use super::driver::Active;
use super::interim;
use crate::backoff::Random;
use crate::log::{self, GroupReader, Scope};
use crate::metrics;
use content::{Batch, Owner, Room, Steps};
use headwater_engine::audit;
use headwater_engine::fault::{Fault, Reason, leave_out_value};
use headwater_engine::record::TopicPartition;
use place::to_be_placed;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use content::{Finished, Pending};

/// Offsets that no run moved are committed so often.
const OFFSETS_EVERY: Duration = Duration::from_secs(1);
/// Positions that moved go into the journal so often.
const POSITIONS_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Batches {
    setup: Arc<Setup>,
    life: Arc<Life>,
    committer: Committer,
    topic: Arc<str>,
    pending: Option<Batch>,
    /// Of the last transaction.
    number: u64,
    /// When offsets that no run moved are committed.
    offsets_at: Instant,
}

impl Batches {
    pub(super) fn new(setup: Arc<Setup>, life: Arc<Life>, id: String, topic: &str) -> Self {
        let services = &setup.context.services;
        let topics = &setup.config.topics;
        let own = [&topics.journal, &topics.runs, &topics.dead];
        let own = own.into_iter().chain(&topics.conversation);
        let own = own.chain(&topics.approvals).cloned();
        let alone = [&topics.journal, &topics.runs].into_iter();
        let alone = alone.chain(&topics.conversation).cloned().collect();
        let written = setup.config.written().map(str::to_owned);
        let scope = Scope {
            reads: topic.to_owned(),
            writes: written.chain(own).collect(),
            own: alone,
        };
        let committer = Committer::new(
            Arc::clone(&services.log),
            Arc::clone(&life),
            id,
            scope,
            Arc::clone(&services.metrics),
            metrics::Stage {
                kind: "agent",
                name: setup.config.name.clone(),
            },
        );
        Self {
            setup,
            life,
            committer,
            topic: topic.into(),
            pending: None,
            // No former process of this id counted from here.
            number: Random::unseeded().next() >> u32::BITS << u32::BITS,
            offsets_at: Instant::now(),
        }
    }

    pub(super) fn open(&mut self) -> log::Result<()> {
        self.committer.open()
    }

    /// As [`Committer::distrust`].
    pub(super) fn distrust(&mut self) {
        self.committer.distrust();
    }

    /// As [`Committer::committed`].
    pub(super) fn committed(
        &mut self,
        group: &mut dyn GroupReader,
        partitions: &[TopicPartition],
        is_new: bool,
    ) -> log::Result<Offsets> {
        self.committer.committed(group, partitions, is_new)
    }

    /// As [`Committer::sweep`].
    pub(super) fn sweep(&mut self, group: &dyn GroupReader) -> log::Result<()> {
        self.committer.sweep(group)
    }

    /// As [`Committer::settle`].
    pub(super) fn settle(&mut self, group: &dyn GroupReader) {
        self.committer.settle(group);
    }

    /// As [`Committer::settle_at`].
    pub(super) fn settle_at(&self) -> Option<Instant> {
        self.committer.settle_at()
    }

    /// Something is under way whose fate is not known yet.
    pub(super) fn is_busy(&self) -> bool {
        self.pending.is_some()
    }

    /// Runs under way into the log.
    pub(super) fn len(&self) -> usize {
        let parts = self.pending.iter().flat_map(|batch| batch.parts.values());
        parts.map(|part| part.runs.len()).sum()
    }

    /// When there will be something to do though nothing happens.
    pub(super) fn due_at<'a>(&self, actives: impl Iterator<Item = &'a Active>) -> Option<Instant> {
        if self.pending.is_some() {
            return Some(self.committer.retry_at().unwrap_or_else(Instant::now));
        }
        let mut due = None;
        for active in actives {
            if !active.steps.is_empty() || active.window.awaits_mark() {
                return Some(Instant::now());
            }
            if active.window.has_moved() {
                due = due.into_iter().chain([self.offsets_at]).min();
            }
            if !active.is_placed {
                due = due.into_iter().chain([active.place_at]).min();
            }
        }
        due
    }

    /// Commits whatever is finished.
    pub(super) fn commit(
        &mut self,
        group: &mut dyn GroupReader,
        actives: &mut BTreeMap<i32, &mut Active>,
    ) -> Result<(), Error> {
        loop {
            if self.pending.is_some() {
                let due = self
                    .committer
                    .retry_at()
                    .is_none_or(|at| at <= Instant::now());
                if !due || !self.send(group, actives)? {
                    return Ok(());
                }
            }
            let idle = Instant::now() >= self.offsets_at;
            if !self.gather(actives, idle) {
                return Ok(());
            }
        }
    }

    /// Commits everything, offsets too. True where nothing is left.
    pub(super) fn flush(
        &mut self,
        group: &mut dyn GroupReader,
        actives: &mut BTreeMap<i32, &mut Active>,
    ) -> Result<bool, Error> {
        self.offsets_at = Instant::now();
        self.commit(group, actives)?;
        Ok(self.pending.is_none())
    }

    /// Makes the next batch. False where there is nothing for one.
    fn gather(&mut self, actives: &mut BTreeMap<i32, &mut Active>, idle: bool) -> bool {
        let mut room = Room::default();
        // First, since runs wait for them.
        let mut steps = Steps::new();
        for (number, active) in actives.iter_mut() {
            self.gather_steps(*number, active, &mut room, &mut steps);
        }
        let mut parts = BTreeMap::new();
        for (number, active) in actives.iter_mut() {
            if let Some(part) = active
                .window
                .take(&mut |finished: &Finished| room.takes(finished.bytes))
            {
                parts.insert(*number, part);
            }
        }
        let marks = actives.values().any(|active| active.window.awaits_mark());
        let now = Instant::now();
        let unplaced = |active: &Active| !active.is_placed && now >= active.place_at;
        let places = actives.values().any(|active| unplaced(active));
        if parts.is_empty() && steps.is_empty() && !marks && !idle && !places {
            return false;
        }
        for (number, active) in actives.iter() {
            let window = &active.window;
            // Whoever writes for a partition commits its offset too: that is what keeps out a replica that lost it.
            let writes = steps.iter().any(|(of, ..)| of == number);
            if window.awaits_mark() {
                parts.entry(*number).or_insert_with(|| window.begin());
            } else if writes || window.has_moved() || unplaced(active) {
                parts.entry(*number).or_insert_with(|| window.idle());
            }
        }
        if parts.is_empty() {
            return false;
        }
        let placed = to_be_placed(actives, &parts, now);
        self.pending = Some(self.batch(actives, parts, steps, &placed));
        true
    }

    /// Takes a partition's steps, as long as there is room. What cannot be written is told so.
    fn gather_steps(&self, number: i32, active: &mut Active, room: &mut Room, steps: &mut Steps) {
        let topic = &self.setup.config.topics.journal;
        let mut left = std::mem::take(&mut active.steps).into_iter();
        for pending in left.by_ref() {
            match pending.change.record(topic, number) {
                Ok(record) => {
                    let bytes = record.value.as_ref().map_or(0, Vec::len);
                    if !room.takes(bytes) {
                        active.steps.push(pending);
                        break;
                    }
                    steps.push((number, record, pending));
                }
                Err(fault) => pending.tell(Err(fault.to_string())),
            }
        }
        active.steps.extend(left);
    }

    /// True where the batch is committed.
    fn send(
        &mut self,
        group: &mut dyn GroupReader,
        actives: &mut BTreeMap<i32, &mut Active>,
    ) -> Result<bool, Error> {
        loop {
            let Some(batch) = &self.pending else {
                return Ok(true);
            };
            let offsets: Vec<_> = batch
                .parts
                .iter()
                .map(|(number, part)| {
                    let skip = actives.get(number).and_then(|active| active.skip);
                    let progress = &part.progress;
                    let metadata = progress.metadata(batch.number);
                    (
                        TopicPartition::new(Arc::clone(&self.topic), *number),
                        position(progress.next, skip, metadata),
                    )
                })
                .collect();
            match self.committer.commit(group, &batch.records, &offsets)? {
                Outcome::Committed => break,
                Outcome::Later => return Ok(false),
                Outcome::Refused { index, reason } => self.refused(index, &reason, actives),
            }
        }
        let Some(batch) = self.pending.take() else {
            return Ok(true);
        };
        self.offsets_at = Instant::now() + OFFSETS_EVERY;
        for (number, steps) in batch.steps {
            let Some(active) = actives.get_mut(&number) else {
                continue;
            };
            for pending in steps.into_iter().flatten() {
                active.journal.apply(pending.change.clone());
                pending.tell(Ok(()));
            }
        }
        for (number, part) in batch.parts {
            let Some(active) = actives.get_mut(&number) else {
                continue;
            };
            active.window.committed(&part);
            active.is_placed = self.says(&active.journal, number, &part.progress);
            for mut finished in part.runs {
                for change in std::mem::take(&mut finished.completion.journal) {
                    active.journal.apply(change);
                }
                if let (Some(store), Some(turn)) =
                    (&mut active.store, finished.completion.turn.clone())
                {
                    store.apply(turn);
                }
                let summary = &finished.completion.summary;
                active.resumed.remove(&summary.run);
                if summary.outcome == audit::Outcome::Waiting {
                    active.look = true;
                    self.tell_waiting(&active.journal, &summary.run);
                } else {
                    self.tell(&finished);
                }
            }
        }
        Ok(true)
    }

    /// Puts a run's failure in the place of what cannot be written; where not even that can be, the
    /// dead letter without its value, and then nothing: the original stays where it is.
    fn refused(&mut self, index: usize, reason: &str, actives: &BTreeMap<i32, &mut Active>) {
        let Some(batch) = &mut self.pending else {
            return;
        };
        let Some(owner) = batch.owners.get(index).copied() else {
            return;
        };
        let (number, place) = match owner {
            Owner::Run(number, place) => (number, place),
            Owner::Step(number, place) => {
                let steps = batch.steps.get_mut(&number);
                let refused = steps.and_then(|steps| steps.get_mut(place)?.take());
                if let Some(pending) = refused {
                    pending.tell(Err(reason.to_owned()));
                }
                batch.records.remove(index);
                batch.owners.remove(index);
                return;
            }
        };
        let run = batch
            .parts
            .get_mut(&number)
            .and_then(|part| part.runs.get_mut(place));
        let Some(finished) = run else { return };
        finished.refusals += 1;
        tracing::error!(
            index,
            reason,
            refusals = finished.refusals,
            "a record was refused"
        );
        match (finished.refusals, finished.trigger.clone()) {
            (1, Some(trigger)) => {
                let fault = Fault::new(Reason::OutputFailed, reason);
                let now_ms = self.setup.context.services.clock.now_ms();
                // That it cannot be made, no data can cause; then nothing is written of the run.
                if let Ok(mut failed) = self.setup.agent.fail(&trigger, None, &fault, 1, now_ms) {
                    if let Some(active) = actives.get(&number) {
                        let journal = &active.journal;
                        interim::end(&self.setup, journal, number, &trigger, &mut failed);
                    }
                    finished.completion = failed;
                }
                let records = std::mem::take(&mut finished.completion.records);
                batch.remove_records(|of| of == owner);
                batch.owners.extend(records.iter().map(|_| owner));
                batch.records.extend(records);
            }
            (1 | 2, _) if batch.records[index].value.is_some() => {
                leave_out_value(&mut batch.records[index]);
            }
            _ => {
                batch.records.remove(index);
                batch.owners.remove(index);
            }
        }
        batch.tell_positions(&self.topic, &self.setup.config.topics.runs);
    }

    pub(super) fn drop_partition(&mut self, number: i32) {
        let Some(batch) = &mut self.pending else {
            return;
        };
        if batch.parts.remove(&number).is_none() {
            return;
        }
        batch.steps.remove(&number);
        batch.remove_records(|owner| owner.partition() == number);
        if batch.parts.is_empty() {
            self.pending = None;
            self.committer.forget();
        }
    }
}
