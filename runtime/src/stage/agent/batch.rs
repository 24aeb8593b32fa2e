//! What finished runs come to, and finished steps of runs that go on, on its way into the log.
//!
//! One batch is under way at a time. It holds what is finished of each partition and its steps, and stays as it
//! is until its fate is known; only partitions that were lost are taken out. A record that the log refuses
//! fails its run alone: then the run's failure is written instead. A step that it refuses is not journaled, and
//! its run is told so.

use super::super::Error;
use super::super::committer::{Committer, Outcome};
use super::super::life::Life;
use super::super::positions::{self, Reader};
use super::super::resume::position;
use super::Setup;
use super::driver::Active;
use super::interim::{self, Told};
use super::progress::Progress;
use super::window::Part;
use crate::backoff::Random;
use crate::log::{self, Committed, GroupReader};
use crate::metrics;
use crate::observe::Happening;
use headwater_engine::agent::{Completion, Trigger};
use headwater_engine::audit;
use headwater_engine::config::OnFailure;
use headwater_engine::fault::{Fault, Reason, leave_out_value};
use headwater_engine::journal::{Change, Reached};
use headwater_engine::names::header;
use headwater_engine::record::{NewRecord, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs and steps in one transaction.
const RUNS: usize = 500;
/// Bytes of them, unless one run alone has more.
const BYTES: usize = 4 << 20;
/// Offsets that no run moved are committed so often.
const OFFSETS_EVERY: Duration = Duration::from_secs(1);

/// In positions that are no committed offsets, which alone have to be told apart.
const NO_TRANSACTION: u64 = 0;

/// A run that ended, or a record that never became one.
pub(super) struct Finished {
    completion: Completion,
    /// Absent for a record that was refused.
    trigger: Option<Arc<Trigger>>,
    arrived: Instant,
    /// How often the log refused one of its records.
    refusals: u32,
    bytes: usize,
}

impl Finished {
    pub(super) fn new(
        completion: Completion,
        trigger: Option<Arc<Trigger>>,
        arrived: Instant,
    ) -> Self {
        let bytes = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        Self {
            bytes: completion
                .records
                .iter()
                .map(|record| bytes(&record.key) + bytes(&record.value))
                .sum(),
            completion,
            trigger,
            arrived,
            refusals: 0,
        }
    }
}

/// A change of the journal that belongs to no finished run.
pub(super) struct Pending {
    change: Change,
    /// The task that waits for it.
    told: Option<Told>,
}

impl Pending {
    pub(super) fn new(change: Change, told: Option<Told>) -> Self {
        Self { change, told }
    }

    fn tell(self, answer: Result<(), String>) {
        if let Some(told) = self.told {
            // The task may have been ended.
            let _ = told.send(answer);
        }
    }
}

/// What a record is of, by partition, and place in its part of the batch.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    Run(i32, usize),
    Step(i32, usize),
}

impl Owner {
    fn partition(self) -> i32 {
        match self {
            Self::Run(partition, _) | Self::Step(partition, _) => partition,
        }
    }
}

struct Batch {
    parts: BTreeMap<i32, Part<Finished>>,
    /// Tells this transaction from every other of its group.
    number: u64,
    /// Of partitions that have a part. What the log refused is gone.
    steps: BTreeMap<i32, Vec<Option<Pending>>>,
    records: Vec<NewRecord>,
    /// What each record is of.
    owners: Vec<Owner>,
}

impl Batch {
    fn new(
        number: u64,
        mut parts: BTreeMap<i32, Part<Finished>>,
        steps: Vec<(i32, NewRecord, Pending)>,
    ) -> Self {
        let (mut records, mut owners) = (Vec::new(), Vec::new());
        for (number, part) in &mut parts {
            for (place, finished) in part.runs.iter_mut().enumerate() {
                let of = std::mem::take(&mut finished.completion.records);
                owners.extend(of.iter().map(|_| Owner::Run(*number, place)));
                records.extend(of);
            }
        }
        let mut held: BTreeMap<i32, Vec<Option<Pending>>> = BTreeMap::new();
        for (number, record, pending) in steps {
            let of = held.entry(number).or_default();
            owners.push(Owner::Step(number, of.len()));
            of.push(Some(pending));
            records.push(record);
        }
        Self {
            parts,
            number,
            steps: held,
            records,
            owners,
        }
    }

    /// The last audit record of each partition says how far its runs are with this transaction.
    fn tell_positions(&mut self, topic: &Arc<str>, runs: &str) {
        let mut told = BTreeSet::new();
        for (record, owner) in self.records.iter_mut().zip(&self.owners).rev() {
            let number = owner.partition();
            if record.topic != runs {
                continue;
            }
            record.headers.retain(|(name, _)| name != header::REACHED);
            let Some(part) = self.parts.get(&number) else {
                continue;
            };
            if told.insert(number) {
                let of = TopicPartition::new(Arc::clone(topic), number);
                record.headers.push(reached(&part.progress).header(&of));
            }
        }
    }

    fn remove_records(&mut self, which: impl Fn(Owner) -> bool) {
        let owners = std::mem::take(&mut self.owners);
        let mut kept = owners.iter().map(|owner| !which(*owner));
        self.records.retain(|_| kept.next().unwrap_or(true));
        self.owners = owners.into_iter().filter(|owner| !which(*owner)).collect();
    }
}

fn reached(progress: &Progress) -> Reached {
    Reached {
        next: progress.next,
        progress: progress.metadata(NO_TRANSACTION),
    }
}

/// What one transaction takes.
#[derive(Default)]
struct Room {
    items: usize,
    bytes: usize,
}

impl Room {
    fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.items == 0 || (self.items < RUNS && self.bytes + bytes <= BYTES);
        if fits {
            self.items += 1;
            self.bytes += bytes;
        }
        fits
    }
}

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
        let committer = Committer::new(
            Arc::clone(&services.log),
            Arc::clone(&life),
            id,
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
        let mut idle = None;
        for active in actives {
            if !active.steps.is_empty() || active.window.awaits_mark() {
                return Some(Instant::now());
            }
            if active.window.has_moved() {
                idle = Some(self.offsets_at);
            }
        }
        idle
    }

    /// As [`Committer::first_offsets`]. The journal has `partitions`.
    pub(super) fn first_offsets(
        &mut self,
        group: &mut dyn GroupReader,
        partitions: i32,
        offsets: &[(TopicPartition, Committed)],
    ) -> Result<Instant, Error> {
        let journal = &self.setup.config.topics.journal;
        let records = positions::records(Reader::Runs, journal, partitions, offsets);
        self.committer.first_offsets(group, &records, offsets)
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

    /// Commits of these partitions, whose runs have all ended, that none is under way. It is tried once: where it fails,
    /// the next owner takes them for left in the middle of their runs.
    pub(super) fn leave(
        &mut self,
        group: &mut dyn GroupReader,
        actives: &mut BTreeMap<i32, &mut Active>,
        numbers: &[i32],
    ) -> Result<(), Error> {
        if self.pending.is_some() {
            return Ok(());
        }
        let (mut parts, mut steps) = (BTreeMap::new(), Vec::new());
        for (number, active) in actives.iter() {
            if !numbers.contains(number) {
                continue;
            }
            let (part, is_said) = active.window.leave();
            let of = self.partition(*number).to_string();
            let reached = reached(&part.progress);
            if is_said && active.journal.reached(&of) == Some(&reached) {
                continue;
            }
            steps.extend(self.position(*number, reached));
            parts.insert(*number, part);
        }
        if parts.is_empty() {
            return Ok(());
        }
        self.pending = Some(self.batch(parts, steps));
        self.send(group, actives)?;
        Ok(())
    }

    fn partition(&self, number: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), number)
    }

    /// How far a partition is, for the journal.
    fn position(&self, number: i32, reached: Reached) -> Option<(i32, NewRecord, Pending)> {
        let change = Change::reached(self.partition(number).to_string(), reached);
        let record = change.record(&self.setup.config.topics.journal, number);
        // A value of some bytes fits.
        Some((number, record.ok()?, Pending::new(change, None)))
    }

    fn batch(
        &mut self,
        parts: BTreeMap<i32, Part<Finished>>,
        steps: Vec<(i32, NewRecord, Pending)>,
    ) -> Batch {
        self.number = self.number.wrapping_add(1);
        let mut batch = Batch::new(self.number, parts, steps);
        batch.tell_positions(&self.topic, &self.setup.config.topics.runs);
        batch
    }

    /// Makes the next batch. False where there is nothing for one.
    fn gather(&mut self, actives: &mut BTreeMap<i32, &mut Active>, idle: bool) -> bool {
        let mut room = Room::default();
        // First, since runs wait for them.
        let mut steps = Vec::new();
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
        if parts.is_empty() && steps.is_empty() && !marks && !idle {
            return false;
        }
        for (number, active) in actives.iter() {
            // Whoever writes for a partition commits its offset too: that is what keeps out a replica that lost it.
            let writes = steps.iter().any(|(of, ..)| of == number);
            if writes || active.window.has_moved() || active.window.awaits_mark() {
                parts.entry(*number).or_insert_with(|| active.window.idle());
            }
        }
        if parts.is_empty() {
            return false;
        }
        for (number, part) in &parts {
            // Runs are about to begin: from here on the audit says how far they are.
            if actives
                .get(number)
                .is_some_and(|own| own.window.awaits_mark())
            {
                steps.extend(self.position(*number, reached(&part.progress)));
            }
        }
        self.pending = Some(self.batch(parts, steps));
        true
    }

    /// Takes a partition's steps, as long as there is room. What cannot be written is told so.
    fn gather_steps(
        &self,
        number: i32,
        active: &mut Active,
        room: &mut Room,
        steps: &mut Vec<(i32, NewRecord, Pending)>,
    ) {
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
            for mut finished in part.runs {
                for change in std::mem::take(&mut finished.completion.journal) {
                    active.journal.apply(change);
                }
                if let (Some(store), Some(turn)) =
                    (&mut active.store, finished.completion.turn.clone())
                {
                    store.apply(turn);
                }
                self.tell(&finished);
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

    fn tell(&self, finished: &Finished) {
        let services = &self.setup.context.services;
        let record = &finished.completion.summary;
        let (agent, took) = (&self.setup.config.name, finished.arrived.elapsed());
        let label = metrics::Run {
            agent: agent.clone(),
            outcome: format!("{:?}", record.outcome),
        };
        services.metrics.runs.get_or_create(&label).inc();
        services
            .metrics
            .run_seconds
            .get_or_create(&label)
            .observe(took.as_secs_f64());
        let stale = record.slots.iter().any(|slot| !slot.behind.is_empty());
        if stale {
            let label = metrics::Agent {
                agent: agent.clone(),
            };
            services.metrics.stale_barriers.get_or_create(&label).inc();
            self.life.board.update(|status| status.stale_runs += 1);
        }
        tracing::info!(
            agent,
            run = %record.run,
            outcome = ?record.outcome,
            trigger = %record.trigger.position,
            milliseconds = took.as_millis(),
            stale,
            "run finished"
        );
        if record.outcome == audit::Outcome::Failed && finished.trigger.is_some() {
            self.tell_failure(record);
        }
        services.observer.tell(|| Happening::RunFinished {
            agent: agent.clone(),
            record: Arc::clone(record),
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
    }

    fn tell_failure(&self, record: &audit::Record) {
        let (reason, message) = match &record.failure {
            Some(failure) => (failure.reason.to_string(), failure.message.clone()),
            None => return,
        };
        let context = &self.setup.context;
        tracing::warn!(run = %record.run, reason, message, "run failed");
        if self.setup.config.delivery.on_failure == OnFailure::Skip {
            return;
        }
        context
            .services
            .metrics
            .dead_letters
            .get_or_create(&metrics::Refusal {
                kind: "agent",
                name: context.name.clone(),
                reason: reason.clone(),
            })
            .inc();
        self.life.board.update(|status| status.dead_letters += 1);
        context.services.observer.tell(|| Happening::DeadLetter {
            kind: context.kind,
            name: context.name.clone(),
            position: record.trigger.position.clone(),
            reason,
            message,
        });
    }
}
