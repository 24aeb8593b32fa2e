//! Transactions: fencing by id and epoch, markers, offsets that wait for the decision.
//!
//! A transactional id has one current epoch; whoever opens the id takes the next and ends what the
//! one before left open. Markers are written as the decision falls, or so much later as
//! [`super::Memory::delay_markers`] says; each takes an offset. The next transaction of an id waits for those
//! of its last one, as Kafka's coordinator lets it (`CONCURRENT_TRANSACTIONS`): here they land at once then.

use super::Membership;
use super::batch::{Builder, Outcome};
use super::state::State;
use super::topic::Meta;
use crate::log::{Committed, Error, Result};
use headwater_engine::record::TopicPartition;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Kafka clients' `transaction.timeout.ms`, as the data plane sets it.
const TIMEOUT_MS: i64 = 10_000;
/// Kafka's `offset.metadata.max.bytes`.
const METADATA_MAX_BYTES: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Producer {
    epoch: u64,
    open: Option<Transaction>,
}

#[derive(Debug)]
struct Transaction {
    outcome: Arc<Outcome>,
    /// Where it began, for each partition that it wrote to.
    first: BTreeMap<TopicPartition, i64>,
    /// Groups that offsets were sent for.
    groups: Vec<String>,
    deadline: i64,
}

/// A decision that has not reached its place yet.
#[derive(Debug)]
pub(super) struct Marker {
    /// The transactional id.
    id: String,
    due: i64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// A partition, with the offset at which the transaction began in it.
    Partition(TopicPartition, i64),
    /// The offsets of a group.
    Offsets { group: String, commit: bool },
}

impl State {
    /// The new epoch of the id; older ones are fenced from here on, and their transaction is aborted.
    pub(super) fn open_producer(&mut self, id: &str, now: i64) -> u64 {
        let epoch = self.next_id();
        self.end(id, false, now);
        self.land(|marker| marker.id == id);
        self.producers.entry(id.to_owned()).or_default().epoch = epoch;
        epoch
    }

    /// # Errors
    /// [`Error::Fenced`] where the id has another epoch by now.
    pub(super) fn begin(&mut self, id: &str, epoch: u64, now: i64) -> Result<()> {
        self.producer(id, epoch)?;
        self.land(|marker| marker.id == id);
        self.producer(id, epoch)?.open = Some(Transaction {
            outcome: Arc::default(),
            first: BTreeMap::new(),
            groups: Vec::new(),
            deadline: now.saturating_add(TIMEOUT_MS),
        });
        Ok(())
    }

    /// Returns the first offset.
    ///
    /// # Errors
    /// [`Error::Fenced`]; [`Error::Abort`] where the transaction timed out; [`Error::UnknownTopic`].
    pub(super) fn append_open(
        &mut self,
        (id, epoch): (&str, u64),
        meta: &Meta,
        partition: i32,
        builder: Builder,
        now: i64,
    ) -> Result<i64> {
        let at = TopicPartition::new(Arc::clone(&meta.name), partition);
        let transaction = self.transaction(id, epoch)?;
        let outcome = Arc::clone(&transaction.outcome);
        let opens = !transaction.first.contains_key(&at);
        let base = self.partition_mut(&at)?.append(
            builder,
            meta.append_time.then_some(now),
            Some((&outcome, opens)),
        );
        if opens {
            self.transaction(id, epoch)?.first.insert(at, base);
        }
        Ok(base)
    }

    /// # Errors
    /// As [`State::append_open`]; [`Error::Abort`] for a stale membership; [`Error::Fatal`] for metadata
    /// that is too large.
    pub(super) fn send_offsets(
        &mut self,
        (id, epoch): (&str, u64),
        membership: &Membership,
        offsets: &[(TopicPartition, Committed)],
    ) -> Result<()> {
        self.transaction(id, epoch)?;
        if let Some((at, offset)) = offsets
            .iter()
            .find(|(_, offset)| offset.metadata.len() > METADATA_MAX_BYTES)
        {
            return Err(Error::Fatal {
                what: format!("commit the offset of '{at}'"),
                reason: format!(
                    "its metadata has {} bytes, at most {METADATA_MAX_BYTES} are taken",
                    offset.metadata.len()
                ),
            });
        }
        let group = self.groups.entry(membership.group.clone()).or_default();
        group.verify(membership)?;
        group.add_pending(id, offsets);
        let transaction = self.transaction(id, epoch)?;
        if !transaction.groups.contains(&membership.group) {
            transaction.groups.push(membership.group.clone());
        }
        Ok(())
    }

    /// # Errors
    /// As [`State::append_open`].
    pub(super) fn commit(&mut self, id: &str, epoch: u64, now: i64) -> Result<()> {
        self.transaction(id, epoch)?;
        self.end(id, true, now);
        Ok(())
    }

    /// Without effect where another epoch took over: it aborted already.
    pub(super) fn abort(&mut self, id: &str, epoch: u64, now: i64) {
        if self.producer(id, epoch).is_ok() {
            self.end(id, false, now);
        }
    }

    pub(super) fn end_expired(&mut self, now: i64) {
        let expired: Vec<String> = self
            .producers
            .iter()
            .filter(|(_, producer)| producer.open.as_ref().is_some_and(|it| it.deadline <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in expired {
            self.end(&id, false, now);
        }
    }

    /// Markers whose time has come.
    pub(super) fn land_due(&mut self, now: i64) {
        self.land(|marker| marker.due <= now);
    }

    /// When the next marker lands.
    pub(super) fn next_marker(&self) -> Option<i64> {
        self.markers.iter().map(|marker| marker.due).min()
    }

    fn land(&mut self, which: impl Fn(&Marker) -> bool) {
        if self.markers.is_empty() {
            return;
        }
        let landing: Vec<Marker> = self
            .markers
            .extract_if(.., |marker| which(marker))
            .collect();
        for marker in landing {
            self.mark(&marker.id, &marker.place);
        }
    }

    fn mark(&mut self, id: &str, place: &Place) {
        match place {
            Place::Partition(at, first) => {
                // A topic deleted meanwhile needs no marker.
                if let Ok(partition) = self.partition_mut(at) {
                    partition.close(*first);
                }
            }
            Place::Offsets { group, commit } => {
                if let Some(group) = self.groups.get_mut(group) {
                    group.decide_pending(id, *commit);
                }
            }
        }
    }

    fn end(&mut self, id: &str, commit: bool, now: i64) {
        let Some(transaction) = self
            .producers
            .get_mut(id)
            .and_then(|producer| producer.open.take())
        else {
            return;
        };
        transaction.outcome.decide(commit);
        let partitions = transaction
            .first
            .into_iter()
            .map(|(at, first)| Place::Partition(at, first));
        let offsets = transaction
            .groups
            .into_iter()
            .map(|group| Place::Offsets { group, commit });
        for place in partitions.chain(offsets) {
            let delay = self.delay.as_ref().map_or(0, |delay| delay.next());
            if delay == 0 {
                self.mark(id, &place);
            } else {
                self.markers.push(Marker {
                    id: id.to_owned(),
                    due: now.saturating_add(delay),
                    place,
                });
            }
        }
    }

    fn producer(&mut self, id: &str, epoch: u64) -> Result<&mut Producer> {
        self.producers
            .get_mut(id)
            .filter(|producer| producer.epoch == epoch)
            .ok_or_else(|| Error::Fenced {
                reason: format!("transactional id '{id}' was opened by another"),
            })
    }

    fn transaction(&mut self, id: &str, epoch: u64) -> Result<&mut Transaction> {
        self.producer(id, epoch)?
            .open
            .as_mut()
            .ok_or_else(|| Error::Abort {
                reason: format!("transaction of '{id}' timed out after {TIMEOUT_MS} ms"),
            })
    }
}
