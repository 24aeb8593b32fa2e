//! The fold of a view stage: reads the input log in a group, and writes checkpoints.
//!
//! A checkpoint is one transaction: the last value of each key that changed, the mark, the dead letters
//! of bad records, and the group's offsets. Where to go on is the mark's word, not the group's: the
//! offsets are there for others to see, and fence a zombie. Partitions about to leave are checkpointed;
//! of lost ones nothing is kept, their new owner folds them again.

mod checkpoint;
mod restore;

use super::super::committer::Committer;
use super::super::life::Life;
use super::super::look::Mailbox;
use super::super::reading::{Errands, persist};
use super::super::rebalance::Rebalance;
use super::super::resume::Intent;
use super::super::status::{Part, Processed, ViewFigures};
use super::super::{Context, Error};
use crate::log::{Committed, GroupEvent, GroupOptions, GroupReader, Scope, Start};
use crate::metrics;
use crate::observe::Happening;
use headwater_engine::config::{InvalidRecords, View};
use headwater_engine::fault::dead_letter;
use headwater_engine::names::{self, Owner};
use headwater_engine::record::{NewRecord, Record, TopicPartition};
use headwater_engine::view::{Definition, Partition};
use restore::Take;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

const KEYS: usize = 20_000;
const BYTES: usize = 16 << 20;
const IDLE: Duration = Duration::from_secs(10);
/// The longest that dead letters wait for their checkpoint: somebody looks for them.
const LETTERS: Duration = Duration::from_millis(500);
/// The same of changes, for which agents wait: what comes at once goes at once.
const CHANGES: Duration = Duration::from_millis(5);
/// While partitions are restored, so that the status shows how far they are.
const RESTORING: Duration = Duration::from_millis(200);

pub(super) struct Fold {
    context: Arc<Context>,
    life: Arc<Life>,
    view: View,
    definition: Arc<Definition>,
    /// How many the state has.
    partitions: i32,
    /// What becomes of a record that cannot be folded.
    invalid: InvalidRecords,
    committer: Committer,
    errands: Errands<Back>,
    mailbox: Mailbox,
    owned: BTreeMap<i32, Owned>,
    pending: Option<Batch>,
    joined: bool,
    label: metrics::Held,
}

enum Owned {
    /// Being read from the state topic, of which so many percent are read.
    Waiting(Arc<AtomicU8>),
    /// A problem in the status says why nothing is folded.
    Stalled,
    Folding(Box<Folding>),
}

/// A restore that came to its end.
struct Back {
    number: i32,
    /// Which restore it was.
    progress: Arc<AtomicU8>,
    result: Result<Taken, Error>,
}

struct Taken {
    partition: Partition,
    start: Start,
    /// Caught up once it gets here.
    target: i64,
    /// Of a record that the fold goes past though it is invalid.
    skip: Option<i64>,
    /// Somebody decided where the partition goes on.
    decided: bool,
}

struct Folding {
    partition: Partition,
    dead: Vec<NewRecord>,
    /// Of rows, for agents that the view triggers.
    changes: Vec<NewRecord>,
    /// Of the records folded since the last checkpoint.
    bytes: usize,
    /// When the first change that no checkpoint holds was made.
    since: Option<Instant>,
    target: i64,
    skip: Option<i64>,
    stopped: bool,
}

impl Folding {
    /// When its changes have to be in a checkpoint that comes `every` so often.
    fn due_at(&self, every: Duration) -> Option<Instant> {
        let every = if self.dead.is_empty() {
            every
        } else {
            every.min(LETTERS)
        };
        let every = if self.changes.is_empty() {
            every
        } else {
            every.min(CHANGES)
        };
        self.since.map(|since| since + every)
    }
}

/// A checkpoint under way; kept as it is until it is known to be committed.
struct Batch {
    started: Instant,
    keys: usize,
    parts: BTreeMap<i32, (Vec<NewRecord>, Committed)>,
}

impl Fold {
    pub(super) fn new(
        context: Arc<Context>,
        life: Arc<Life>,
        view: View,
        definition: Arc<Definition>,
        partitions: i32,
        mailbox: Mailbox,
    ) -> Self {
        let invalid = context.invalid_records(&view);
        let group = fold_group(&context, &view);
        let committer = Committer::new(
            Arc::clone(&context.services.log),
            Arc::clone(&life),
            names::member(&group, context.ordinal),
            Scope {
                reads: view.input.topic().to_owned(),
                writes: [&view.state_topic, &view.dead_topic]
                    .into_iter()
                    .chain(&view.changes_topic)
                    .cloned()
                    .collect(),
                own: [&view.state_topic]
                    .into_iter()
                    .chain(&view.changes_topic)
                    .cloned()
                    .collect(),
            },
            Arc::clone(&context.services.metrics),
            metrics::Stage {
                kind: "view",
                name: view.name.clone(),
            },
        );
        let label = metrics::Held {
            kind: "view",
            name: view.name.clone(),
            view: view.name.clone(),
        };
        Self {
            context,
            life,
            definition,
            partitions,
            invalid,
            committer,
            errands: Errands::new(),
            mailbox,
            owned: BTreeMap::new(),
            pending: None,
            joined: false,
            label,
            view,
        }
    }

    pub(super) fn run(mut self) -> Result<(), Error> {
        let group = fold_group(&self.context, &self.view);
        let log = Arc::clone(&self.context.services.log);
        persist(&self.life, "transactional id", || self.committer.open())?;
        let mut group = persist(&self.life, "group", || {
            log.group(GroupOptions {
                member: names::member(&group, self.context.ordinal),
                group: group.clone(),
                topics: vec![self.view.input.topic().to_owned()],
            })
        })?;
        self.life.woken_by(group.waker());
        while !self.life.stopping() {
            self.turn(&mut *group)?;
        }
        if self.life.abandoned() {
            return Ok(());
        }
        self.finish(&mut *group)?;
        Ok(group.leave()?)
    }

    fn turn(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        let mut rebalance = Rebalance::default();
        let mut stopped = Vec::new();
        let mut folded = Counts::default();
        group.poll(self.wait(), &mut |event| match event {
            GroupEvent::Record(record) => {
                if self.fold(record, &mut folded) {
                    stopped.push(TopicPartition::new(record.topic, record.partition));
                }
            }
            event => rebalance.note(&event),
        })?;
        if !stopped.is_empty() {
            group.pause(&stopped)?;
        }
        self.count(&folded);
        if !rebalance.lost.is_empty() {
            self.committer.distrust();
        }
        for partition in &rebalance.lost {
            self.drop_partition(partition.partition);
        }
        self.begin(group, &rebalance.assigned)?;
        self.taken(group)?;
        self.positions(group);
        self.mailbox.answer(|| {
            self.folding()
                .map(|(number, folding)| (number, &folding.partition))
                .collect()
        });
        if !rebalance.revoked.is_empty() {
            let revoked: BTreeSet<i32> = rebalance.revoked.iter().map(|p| p.partition).collect();
            self.checkpoint(group, |partition| revoked.contains(&partition))?;
            for partition in revoked {
                self.drop_partition(partition);
            }
        }
        self.joined |= rebalance.any;
        if self.joined {
            self.committer.settle(group);
        }
        if self.due() {
            self.checkpoint(group, |_| true)?;
        }
        self.publish();
        Ok(())
    }

    /// True where the partition has to stand still at this record.
    fn fold(&mut self, record: &Record<'_>, counts: &mut Counts) -> bool {
        let Some(Owned::Folding(folding)) = self.owned.get_mut(&record.partition) else {
            return false;
        };
        if folding.stopped || record.offset < folding.partition.next() {
            return false;
        }
        let (folded, change) = folding.partition.fold_telling(record);
        folding.changes.extend(change);
        counts.records += 1;
        counts.changes += usize::from(folded.changed);
        counts.late += u64::from(folded.late);
        folding.bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        folding.since.get_or_insert_with(Instant::now);
        let Some(fault) = folded.fault else {
            return false;
        };
        let passed = folding.skip == Some(record.offset);
        match self.invalid {
            // Kept, though somebody decided to go past it.
            InvalidRecords::Stop if !passed => {
                // Checkpointed up to here, so that a restart comes back to this record and to none before it.
                folding.partition.go_on_from(record.offset);
                folding.stopped = true;
                let resource = format!("view/{}", self.view.name);
                self.context.stopped(&self.life, record, &fault, &resource);
                true
            }
            InvalidRecords::DeadLetter | InvalidRecords::Stop => {
                folding
                    .dead
                    .push(dead_letter(record, &fault, &self.view.dead_topic));
                self.context.dead_letter(&self.life, record, &fault);
                false
            }
            InvalidRecords::Skip => {
                self.context.skipped(&self.life, record, &fault);
                false
            }
        }
    }

    fn begin(
        &mut self,
        group: &mut dyn GroupReader,
        assigned: &[TopicPartition],
    ) -> Result<(), Error> {
        let (assigned, later): (Vec<TopicPartition>, Vec<TopicPartition>) = assigned
            .iter()
            .cloned()
            .partition(|partition| partition.partition < self.partitions);
        let assigned = &*assigned;
        // Keys moved between partitions: rows of the new ones would be of keys that the others have too.
        for partition in &later {
            let message = format!(
                "'{partition}' came after the view was built and is no part of it; the operator builds another generation, which folds a log of its own"
            );
            self.life
                .board
                .problem("InputGrew", &partition.to_string(), message);
        }
        if assigned.is_empty() {
            return Ok(());
        }
        // What this replica itself left undecided is decided now, not when it times out.
        persist(&self.life, "transactional id", || {
            self.committer.sweep(group)
        })?;
        // Asked before the state is read: a predecessor's transaction is decided by then.
        let is_new = self.owned.is_empty();
        let committed = persist(&self.life, "committed offsets", || {
            self.committer.committed(group, assigned, is_new)
        })?;
        for partition in assigned {
            let progress = Arc::new(AtomicU8::new(0));
            self.owned
                .insert(partition.partition, Owned::Waiting(Arc::clone(&progress)));
            let committed = committed.get(partition).and_then(Option::as_ref);
            let take = Take {
                view: self.view.name.clone(),
                intent: committed.and_then(Intent::of),
                progress,
                context: Arc::clone(&self.context),
                life: Arc::clone(&self.life),
                definition: Arc::clone(&self.definition),
                input: partition.clone(),
                state: TopicPartition::new(self.view.state_topic.as_str(), partition.partition),
            };
            self.errands.send("restore", group.waker(), move || Back {
                number: take.input.partition,
                result: take.run(),
                progress: take.progress,
            })?;
        }
        Ok(())
    }

    fn taken(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        let back: Vec<_> = self.errands.back().collect();
        for Back {
            number,
            progress,
            result,
        } in back
        {
            // It may have left while it was read, and even be back: then another owner wrote meanwhile, and only what
            // was read since counts.
            let asked = matches!(self.owned.get(&number), Some(Owned::Waiting(ours)) if Arc::ptr_eq(ours, &progress));
            if !asked {
                continue;
            }
            let taken = match result {
                Ok(taken) => taken,
                Err(Error::Stalled(stall)) => {
                    stall.tell(&self.life);
                    self.owned.insert(number, Owned::Stalled);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let partition = TopicPartition::new(self.view.input.topic(), number);
            group.start(&partition, taken.start)?;
            let folding = Folding {
                partition: taken.partition,
                dead: Vec::new(),
                changes: Vec::new(),
                bytes: 0,
                since: taken.decided.then(Instant::now),
                target: taken.target,
                skip: taken.skip,
                stopped: false,
            };
            self.owned.insert(number, Owned::Folding(Box::new(folding)));
        }
        Ok(())
    }

    /// Past control records, and records that transactions aborted.
    fn positions(&mut self, group: &mut dyn GroupReader) {
        for (number, owned) in &mut self.owned {
            let Owned::Folding(folding) = owned else {
                continue;
            };
            if folding.stopped {
                continue;
            }
            let partition = TopicPartition::new(self.view.input.topic(), *number);
            if let Some(position) = group.position(&partition)
                && position > folding.partition.next()
            {
                folding.partition.advance(position);
                folding.since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn folding(&self) -> impl Iterator<Item = (i32, &Folding)> {
        self.owned.iter().filter_map(|(number, owned)| match owned {
            Owned::Folding(folding) => Some((*number, &**folding)),
            Owned::Waiting(_) | Owned::Stalled => None,
        })
    }

    fn due_at(&self) -> Option<Instant> {
        if self.pending.is_some() {
            return Some(self.committer.retry_at().unwrap_or_else(Instant::now));
        }
        self.folding()
            .filter_map(|(_, folding)| folding.due_at(self.context.services.checkpoint_every))
            .min()
    }

    fn wait(&self) -> Duration {
        let restoring = |owned: &Owned| matches!(owned, Owned::Waiting(_));
        let most = if self.owned.values().any(restoring) {
            RESTORING
        } else {
            IDLE
        };
        let settle = self.committer.settle_at().filter(|_| self.joined);
        let due = self.due_at().into_iter().chain(settle).min();
        due.map_or(most, |at| {
            at.saturating_duration_since(Instant::now()).min(most)
        })
    }

    fn due(&self) -> bool {
        let now = Instant::now();
        if self.pending.is_some() {
            return self.committer.retry_at().is_none_or(|at| at <= now);
        }
        self.folding()
            .map(|(_, folding)| folding.partition.dirty())
            .sum::<usize>()
            >= KEYS
            || self
                .folding()
                .map(|(_, folding)| folding.bytes)
                .sum::<usize>()
                >= BYTES
            || self.due_at().is_some_and(|at| at <= now)
    }

    fn drop_partition(&mut self, number: i32) {
        self.owned.remove(&number);
        if let Some(batch) = &mut self.pending {
            batch.parts.remove(&number);
            if batch.parts.is_empty() {
                self.pending = None;
                self.committer.forget();
            }
        }
    }

    fn count(&self, counts: &Counts) {
        if counts.records == 0 {
            return;
        }
        self.context
            .services
            .metrics
            .records_folded
            .get_or_create(&self.label)
            .inc_by(counts.records as u64);
        if counts.late > 0 {
            let late = &self.context.services.metrics.late_events;
            late.get_or_create(&self.label).inc_by(counts.late);
        }
        self.life.board.folded(counts.records as u64);
        self.context.services.observer.tell(|| Happening::Folded {
            stage: self.view.name.clone(),
            view: self.view.name.clone(),
            records: counts.records,
            changes: counts.changes,
        });
    }

    /// 100 only where every partition is restored.
    fn restored_percent(&self) -> u8 {
        let of = |owned: &Owned| match owned {
            Owned::Folding(_) => 100,
            Owned::Stalled => 0,
            Owned::Waiting(progress) => usize::from(progress.load(Ordering::Relaxed).min(99)),
        };
        let percent = match self.owned.len() {
            0 => 100,
            all => self.owned.values().map(of).sum::<usize>() / all,
        };
        u8::try_from(percent).unwrap_or(100)
    }

    fn publish(&self) {
        let topic = self.view.input.topic();
        let waiting = self
            .owned
            .values()
            .filter(|owned| !matches!(owned, Owned::Folding(_)))
            .count();
        let positions: Vec<_> = self
            .folding()
            .map(|(number, folding)| Processed {
                topic: topic.to_owned(),
                partition: number,
                next: folding.partition.next(),
                stopped: folding.stopped,
            })
            .collect();
        let metrics = &self.context.services.metrics;
        let keys: usize = self
            .folding()
            .map(|(_, folding)| folding.partition.keys())
            .sum();
        let bytes: usize = self
            .folding()
            .map(|(_, folding)| folding.partition.bytes())
            .sum();
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        metrics
            .view_keys
            .get_or_create(&self.label)
            .set(gauge(keys));
        metrics
            .view_bytes
            .get_or_create(&self.label)
            .set(gauge(bytes));
        let restored_percent = self.restored_percent();
        self.life.board.figures(ViewFigures {
            generation: self.view.generation.clone(),
            keys: keys as u64,
            bytes: bytes as u64,
            restored_percent,
            ..ViewFigures::default()
        });
        self.life.board.part(
            "fold",
            Part {
                joined: self.joined,
                restored_percent,
                caught_up: waiting == 0
                    && self.folding().all(|(_, folding)| {
                        folding.stopped || folding.partition.next() >= folding.target
                    }),
                waiting,
                // Changes that no checkpoint holds yet are still to start runs.
                in_flight: self.pending.iter().len()
                    + self
                        .folding()
                        .map(|(_, folding)| folding.changes.len())
                        .sum::<usize>(),
                positions,
            },
        );
    }
}

#[derive(Default)]
struct Counts {
    records: usize,
    changes: usize,
    late: u64,
}

fn fold_group(context: &Context, view: &View) -> String {
    names::group(
        &context.config.namespace,
        Owner::View,
        &view.name,
        Some(&view.generation),
        "fold",
    )
}
