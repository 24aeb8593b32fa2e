//! Commits a batch, records and offsets in one transaction, whatever it takes.
//!
//! A batch stays what it is until its fate is known: after an abort it is sent again as it stands, and
//! where it is not known whether it was committed, a new writer under the same id ends the old
//! transaction, and what a broker has left of it, and the group's offsets tell. So no batch is applied twice, and none is lost.
//!
//! A fenced writer is no proof that another process took over: Kafka fences one whose transaction was open
//! for too long as well (this process stood still, or the broker did). The group's membership decides: who
//! really was replaced learns it from its group, and ends there.
//! Waiting between tries is the caller's: its loop has to go on polling.

use super::Error;
use super::life::Life;
use crate::backoff::{Backoff, Random};
use crate::log::{self, Committed, GroupReader, Log, Scope, Transactional};
use crate::metrics::{self, Metrics};
use headwater_engine::record::{NewRecord, TopicPartition};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(10),
    max: Duration::from_secs(2),
};

/// Between tries to end what a broker has left.
const SETTLE: Duration = Duration::from_secs(1);

/// Longer than a member takes to learn that another process has its static id: a heartbeat, each 3 s.
const REPLACED: Duration = Duration::from_secs(4);

pub(super) struct Committer {
    log: Arc<dyn Log>,
    life: Arc<Life>,
    id: String,
    scope: Scope,
    writer: Option<Box<dyn Transactional>>,
    /// Nothing is left of its id's former transactions.
    is_swept: bool,
    /// When that is tried again.
    settle_at: Instant,
    /// The batch at hand may have been committed.
    in_doubt: bool,
    failures: u32,
    retry_at: Option<Instant>,
    random: Random,
    metrics: Arc<Metrics>,
    label: metrics::Stage,
}

#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Committed,
    /// Not committed, or not known: the same batch again, not before [`Committer::retry_at`].
    Later,
    /// The record of this index can never be written; nothing was committed.
    Refused {
        index: usize,
        reason: String,
    },
}

impl Committer {
    pub(super) fn new(
        log: Arc<dyn Log>,
        life: Arc<Life>,
        id: String,
        scope: Scope,
        metrics: Arc<Metrics>,
        label: metrics::Stage,
    ) -> Self {
        Self {
            log,
            life,
            id,
            scope,
            writer: None,
            is_swept: false,
            settle_at: Instant::now(),
            in_doubt: false,
            failures: 0,
            retry_at: None,
            random: Random::unseeded(),
            metrics,
            label,
        }
    }

    /// When the batch that could not be committed may be tried again; `None`: now.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn commit(
        &mut self,
        group: &mut dyn GroupReader,
        records: &[NewRecord],
        offsets: &[(TopicPartition, Committed)],
    ) -> Result<Outcome, Error> {
        let started = Instant::now();
        let tried = self.attempt(group, records, offsets);
        match tried {
            Ok(()) => {
                self.failures = 0;
                self.retry_at = None;
                self.in_doubt = false;
                self.life.board.solved("KafkaUnavailable", &self.id);
                self.life.board.moved();
                self.metrics
                    .transaction_commit_seconds
                    .get_or_create(&self.label)
                    .observe(started.elapsed().as_secs_f64());
                Ok(Outcome::Committed)
            }
            Err(log::Error::Refused {
                index,
                topic,
                reason,
            }) => {
                self.in_doubt = false;
                Ok(Outcome::Refused {
                    index,
                    reason: format!("topic '{topic}': {reason}"),
                })
            }
            Err(error) => self.later(error),
        }
    }

    fn attempt(
        &mut self,
        group: &mut dyn GroupReader,
        records: &[NewRecord],
        offsets: &[(TopicPartition, Committed)],
    ) -> log::Result<()> {
        self.open_swept(group)?;
        if self.in_doubt && is_committed(group, offsets)? {
            return Ok(());
        }
        self.in_doubt = false;
        if records.is_empty() && offsets.is_empty() {
            return Ok(());
        }
        let metadata = group.metadata()?;
        match &mut self.writer {
            Some(writer) => writer.transact(records, Some((&metadata, offsets))),
            None => Ok(()),
        }
    }

    fn later(&mut self, error: log::Error) -> Result<Outcome, Error> {
        let mut least = Duration::ZERO;
        match &error {
            log::Error::Fatal { .. } => return Err(error.into()),
            log::Error::Fenced { .. } => {
                self.in_doubt = true;
                self.writer = None;
                least = REPLACED;
            }
            log::Error::Undecided { .. } => {
                self.in_doubt = true;
                self.writer = None;
            }
            log::Error::Abort { .. } => {}
            _ => self
                .life
                .board
                .problem("KafkaUnavailable", &self.id, error.to_string()),
        }
        self.metrics
            .transaction_aborts
            .get_or_create(&self.label)
            .inc();
        self.failures += 1;
        let wait = BACKOFF.after(self.failures, &self.random).max(least);
        self.retry_at = Some(Instant::now() + wait);
        tracing::warn!(id = self.id, error = %error, wait_ms = wait.as_millis(), "transaction is tried again");
        Ok(Outcome::Later)
    }

    /// Commits the first offsets of a group, in a transaction of their own with `records` that say the same. Gives when to
    /// look whether they are there.
    pub(super) fn first_offsets(
        &mut self,
        group: &mut dyn GroupReader,
        records: &[NewRecord],
        offsets: &[(TopicPartition, Committed)],
    ) -> Result<Instant, Error> {
        self.commit(group, records, offsets)?;
        let look_at = self.retry_at.unwrap_or_else(Instant::now);
        self.forget();
        Ok(look_at)
    }

    /// The batch at hand is given up, its partitions being another's now. Where it may have been committed, or
    /// could not be aborted, the next [`Committer::sweep`] ends its transaction.
    pub(super) fn forget(&mut self) {
        if self.failures > 0 {
            self.writer = None;
        }
        self.in_doubt = false;
        self.retry_at = None;
        self.failures = 0;
        // No commit of it will succeed and say so.
        self.life.board.solved("KafkaUnavailable", &self.id);
    }

    /// The group took this member's partitions away for its silence, as where the broker was gone: what it said of the last
    /// commits may not be so. Nothing that was in memory counts any more, and the next [`Committer::sweep`] ends what is left of them.
    pub(super) fn distrust(&mut self) {
        self.writer = None;
    }

    /// Opens the writer now, so that what a predecessor left open is ended.
    pub(super) fn open(&mut self) -> log::Result<()> {
        if self.writer.is_none() {
            self.writer = Some(self.log.transactional(&self.id)?);
            self.is_swept = false;
        }
        Ok(())
    }

    /// The same, before anything is read: of what this one left as well, where an abort did not get through, else its
    /// offsets could not be read until it times out; and of what a broker left that lost its markers.
    pub(super) fn sweep(&mut self, group: &dyn GroupReader) -> log::Result<()> {
        if self.failures > 0 {
            self.writer = None;
        }
        self.open_swept(group)
    }

    /// The same, whether or not anything is to be read or written: what a broker has left of this id's transactions keeps others from
    /// reading, and they cannot end it. It is tried again where it fails.
    pub(super) fn settle(&mut self, group: &dyn GroupReader) {
        if self.settle_at().is_none_or(|at| at > Instant::now()) {
            return;
        }
        if let Err(error) = self.open_swept(group) {
            tracing::info!(id = self.id, error = %error, "what a broker may have left of its transactions is looked for again");
            self.settle_at = Instant::now() + SETTLE;
        }
    }

    /// When [`Committer::settle`] has something to do.
    pub(super) fn settle_at(&self) -> Option<Instant> {
        let is_settled = self.is_swept && self.writer.is_some();
        (!is_settled).then_some(self.settle_at)
    }

    /// What the group has committed, once no transaction holds any of it. Where that is not told and nothing is in memory that counts on
    /// former commits (`is_new`), what this id has left is ended anew before the next try.
    pub(super) fn committed(
        &mut self,
        group: &mut dyn GroupReader,
        partitions: &[TopicPartition],
        is_new: bool,
    ) -> log::Result<HashMap<TopicPartition, Option<Committed>>> {
        self.open_swept(group)?;
        let found = group.committed(partitions);
        if found.is_err() && is_new {
            self.distrust();
        }
        found
    }

    fn open_swept(&mut self, group: &dyn GroupReader) -> log::Result<()> {
        self.open()?;
        let Some(writer) = self.writer.as_mut().filter(|_| !self.is_swept) else {
            return Ok(());
        };
        let swept = writer.sweep(&group.metadata()?, &self.scope);
        if swept.is_err() {
            self.writer = None;
        }
        self.is_swept = swept.is_ok();
        swept.map_err(|error| match error {
            // There is nothing to be sent again but this.
            log::Error::Abort { reason }
            | log::Error::Fenced { reason }
            | log::Error::Undecided { reason } => log::Error::Unavailable {
                what: format!("end what '{}' left open", self.id),
                reason,
            },
            other => other,
        })
    }
}

fn is_committed(
    group: &mut dyn GroupReader,
    offsets: &[(TopicPartition, Committed)],
) -> log::Result<bool> {
    let partitions: Vec<_> = offsets
        .iter()
        .map(|(partition, _)| partition.clone())
        .collect();
    let found = group.committed(&partitions)?;
    Ok(offsets.iter().all(|(partition, ours)| {
        let Some(Some(theirs)) = found.get(partition) else {
            return false;
        };
        // Metadata names the transaction, and no offset has to move with it.
        theirs.offset >= ours.offset && (ours.metadata.is_empty() || theirs == ours)
    }))
}
