//! What has to outlive a process while a run is under way: its finished steps, how often it was begun,
//! and what must not run twice; and how far logs were read, which outlives a consumer group.
//!
//! A record of the agent's journal topic (compacted, in the partition of the trigger log) is one of
//!
//! | key | value |
//! |---|---|
//! | `<run>/<number>` | a finished [`Step`] of a run that is not over; the first carries what the run was told |
//! | `<run>/attempts` | [`Attempts`]: how often a run was begun that may have ended its process |
//! | `\0p<topic>-<partition>`, with `/intake` where events are taken in from it | [`Reached`]: how far that partition was read |
//! | `\0o`, length of the trigger key in 4 bytes, trigger key, once key | [`Once`]: the last run that was done for this |
//!
//! A run's records get tombstones in the transaction that ends it ([`Store::ending`]). The store holds one
//! partition's records and is changed only by what was committed: [`Change::record`] makes a record of a
//! change, [`Store::apply`] comes after the commit.
//!
//! Invariant: the store is a function of the topic's records, the last of each key.

use crate::agent::Ready;
use crate::approval::{Answered, Parked};
use crate::fault::{Fault, Reason};
use crate::key::Key;
use crate::model::{Called, Reply};
use crate::names::{RESERVED, header};
use crate::record::{NewRecord, Position, Record, TopicPartition};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The largest value of a record, in bytes; Kafka's own limit is 1 MiB with headers.
pub const BYTES_MAX: usize = 900 * 1_024;

const ATTEMPTS: &str = "attempts";
/// Begins the key of what must not run twice; a run's id never begins with the first byte.
const ONCE: [u8; 2] = [RESERVED, b'o'];
/// Begins the key of how far a partition was read.
const REACHED: [u8; 2] = [RESERVED, b'p'];
/// Bytes of the length of the trigger key.
const LENGTH: usize = 4;

/// A step that need not be repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Of the run's record in the trigger log.
    pub offset: i64,
    /// What the run was told, and from where: with the first step only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Box<Ready>>,
    #[serde(flatten)]
    pub did: Did,
}

/// What a step was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Did {
    /// The model said this, and the run goes on.
    Reply(Reply),
    /// What came of the calls of the reply before, in their order.
    Results(Vec<Called>),
    /// A call of the reply before waits for a person: the trigger is finished, and the run waits here.
    Asked(Box<Parked>),
    /// What came of that question: the run goes on.
    Answered(Answered),
}

impl Did {
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Reply(reply) => Some(reply),
            Self::Results(_) | Self::Asked(_) | Self::Answered(_) => None,
        }
    }

    pub fn results(&self) -> &[Called] {
        match self {
            Self::Results(called) => called,
            Self::Reply(_) | Self::Asked(_) | Self::Answered(_) => &[],
        }
    }
}

/// How often a run was begun without any sign that it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempts {
    /// Of the run's record in the trigger log.
    pub offset: i64,
    pub count: u32,
}

/// The last run that was done for a once key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Once {
    pub run: String,
    /// Event time of its trigger, milliseconds since the epoch.
    pub time: i64,
}

/// How far a partition of a log was read, as the consumer group that reads it commits it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// The next offset.
    pub next: i64,
    /// What is finished beyond, as the metadata of the committed offset says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// Tells this record of the journal from every other of the partition. An audit record has that of the last one that
    /// was in the journal by then, 0 for none: so the later of the two is known, whatever clocks say.
    #[serde(default)]
    pub mark: u64,
}

impl Reached {
    /// Whether both say that as much was read.
    pub fn is_same_position(&self, other: &Self) -> bool {
        self.next == other.next && self.progress == other.progress
    }

    /// As a header of an audit record: the position in `of`, the mark in hexadecimal, and what is finished beyond, with
    /// spaces between.
    pub fn header(&self, of: &TopicPartition) -> (String, Option<Vec<u8>>) {
        let text = format!("{of}-{} {:x} {}", self.next, self.mark, self.progress);
        (header::REACHED.to_owned(), Some(text.into_bytes()))
    }

    /// What an audit record's header says of this partition; `None` where it has none, or speaks of another.
    pub fn of_audit(record: &Record<'_>, of: &TopicPartition) -> Option<Self> {
        let text = std::str::from_utf8(record.header(header::REACHED)?).ok()?;
        let (position, rest) = text.split_once(' ')?;
        let (mark, progress) = rest.split_once(' ')?;
        let at: Position = position.parse().ok()?;
        let mark = u64::from_str_radix(mark, 16).ok()?;
        (at.topic == of.topic && at.partition == of.partition).then(|| Self {
            next: at.offset,
            progress: progress.to_owned(),
            mark,
        })
    }

    /// What a record of the journal says, and of what: as [`Change::reached`] named it.
    pub fn of_journal(record: &Record<'_>) -> Option<(String, Self)> {
        let of = record.key?.strip_prefix(&REACHED)?;
        let reached = serde_json::from_slice(record.value?).ok()?;
        Some((String::from_utf8(of.to_vec()).ok()?, reached))
    }
}

/// Which record of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Id {
    Step { run: String, number: u32 },
    Attempts { run: String },
    Once { key: Option<Key>, once: Key },
    Reached { of: String },
}

#[derive(Clone, Debug, PartialEq)]
enum Held {
    Reached(Reached),
    Step(Arc<Step>),
    Attempts(Attempts),
    Once(Once),
}

/// One record of the journal, to be written; without a value it is a tombstone.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    id: Id,
    held: Option<Held>,
}

impl Change {
    /// `number`: from 1.
    pub fn step(run: &str, number: u32, step: Arc<Step>) -> Self {
        let run = run.to_owned();
        Self {
            id: Id::Step { run, number },
            held: Some(Held::Step(step)),
        }
    }

    pub fn attempts(run: &str, attempts: Attempts) -> Self {
        let run = run.to_owned();
        Self {
            id: Id::Attempts { run },
            held: Some(Held::Attempts(attempts)),
        }
    }

    /// `key`: the trigger's, absent where it has none.
    pub fn once(key: Option<&Key>, once: &Key, done: Once) -> Self {
        Self {
            id: Id::Once {
                key: key.cloned(),
                once: once.clone(),
            },
            held: Some(Held::Once(done)),
        }
    }

    /// What was said of a once key is not so any more.
    pub fn once_gone(key: Option<&Key>, once: &Key) -> Self {
        Self {
            id: Id::Once {
                key: key.cloned(),
                once: once.clone(),
            },
            held: None,
        }
    }

    /// `of`: a partition as it prints, and what for, should it be read for more than runs.
    pub fn reached(of: String, reached: Reached) -> Self {
        Self {
            id: Id::Reached { of },
            held: Some(Held::Reached(reached)),
        }
    }

    /// The record, for a partition of the journal topic.
    ///
    /// # Errors
    /// `TooLarge` for a value over [`BYTES_MAX`].
    pub fn record(&self, topic: &str, partition: i32) -> Result<NewRecord, Fault> {
        let value = match &self.held {
            None => None,
            Some(Held::Step(step)) => Some(serde_json::to_vec(&**step)),
            Some(Held::Attempts(attempts)) => Some(serde_json::to_vec(attempts)),
            Some(Held::Once(once)) => Some(serde_json::to_vec(once)),
            Some(Held::Reached(reached)) => Some(serde_json::to_vec(reached)),
        };
        let value = value.transpose().map_err(|error| {
            Fault::new(
                Reason::InvalidInternalRecord,
                format!("a record of the journal cannot be written as JSON: {error}"),
            )
        })?;
        let bytes = value.as_ref().map_or(0, Vec::len);
        if bytes > BYTES_MAX {
            return Err(Fault::new(
                Reason::TooLarge,
                format!(
                    "a record of the journal would have {bytes} bytes, the limit is {BYTES_MAX}"
                ),
            ));
        }
        Ok(NewRecord {
            topic: topic.to_owned(),
            partition: Some(partition),
            key: Some(self.id.bytes()),
            value,
            ..NewRecord::default()
        })
    }
}

impl Id {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Step { run, number } => format!("{run}/{number}").into_bytes(),
            Self::Attempts { run } => format!("{run}/{ATTEMPTS}").into_bytes(),
            Self::Once { key, once } => {
                let key = key.as_ref().map(Key::as_bytes).unwrap_or_default();
                // A key is part of a record, so shorter than that.
                let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
                let mut bytes = ONCE.to_vec();
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(key);
                bytes.extend_from_slice(once.as_bytes());
                bytes
            }
            Self::Reached { of } => [&REACHED, of.as_bytes()].concat(),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        if let Some(rest) = bytes.strip_prefix(&ONCE) {
            let (length, rest) = rest.split_at_checked(LENGTH)?;
            let length = u32::from_be_bytes(length.try_into().ok()?);
            let (key, once) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            let once = Key::from_bytes(once).ok()??;
            let key = Key::from_bytes(key).ok()?;
            return Some(Self::Once { key, once });
        }
        if let Some(of) = bytes.strip_prefix(&REACHED) {
            let of = String::from_utf8(of.to_vec()).ok()?;
            return Some(Self::Reached { of });
        }
        let (run, part) = std::str::from_utf8(bytes).ok()?.rsplit_once('/')?;
        if run.is_empty() {
            return None;
        }
        let run = run.to_owned();
        if part == ATTEMPTS {
            return Some(Self::Attempts { run });
        }
        let number = part.parse().ok().filter(|number| *number > 0)?;
        Some(Self::Step { run, number })
    }

    fn read(&self, value: &[u8]) -> serde_json::Result<Held> {
        Ok(match self {
            Self::Step { .. } => Held::Step(serde_json::from_slice(value)?),
            Self::Attempts { .. } => Held::Attempts(serde_json::from_slice(value)?),
            Self::Once { .. } => Held::Once(serde_json::from_slice(value)?),
            Self::Reached { .. } => Held::Reached(serde_json::from_slice(value)?),
        })
    }
}

/// What the journal has of one run.
#[derive(Debug, Default)]
struct Run {
    steps: BTreeMap<u32, Arc<Step>>,
    attempts: Option<Attempts>,
}

impl Run {
    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.attempts.is_none()
    }

    /// The last question that it asked a person; `None`: it asked none.
    fn parked(&self) -> Option<&Parked> {
        self.steps.values().rev().find_map(|step| match &step.did {
            Did::Asked(parked) => Some(&**parked),
            _ => None,
        })
    }

    fn offset(&self) -> Option<i64> {
        let step = self.steps.values().next().map(|step| step.offset);
        step.or(self.attempts.map(|attempts| attempts.offset))
    }
}

/// The journal of one partition of the trigger log.
#[derive(Debug, Default)]
pub struct Store {
    runs: HashMap<String, Run>,
    /// Of these, those that asked a person.
    detached: BTreeSet<String>,
    once: HashMap<(Option<Key>, Key), Once>,
    /// The same, oldest first.
    once_by_time: BTreeSet<(i64, Option<Key>, Key)>,
    reached: HashMap<String, Reached>,
}

impl Store {
    /// Takes a record of the journal topic, read in the log's order.
    ///
    /// # Errors
    /// `InvalidInternalRecord` for a record that no agent wrote; the store is as it was.
    pub fn restore(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let id = record.key.and_then(Id::parse).ok_or_else(|| {
            invalid(
                record,
                "its key is none of a step, attempts, a once key or a partition",
            )
        })?;
        let held = match record.value {
            None => None,
            Some(value) => Some(
                id.read(value)
                    .map_err(|_| invalid(record, "its value does not belong to its key"))?,
            ),
        };
        self.apply(Change { id, held });
        Ok(())
    }

    /// Takes a change whose transaction has been committed.
    pub fn apply(&mut self, change: Change) {
        match (change.id, change.held) {
            (Id::Step { run, number }, Some(Held::Step(step))) => {
                if let Did::Asked(_) = step.did {
                    self.detached.insert(run.clone());
                }
                self.runs.entry(run).or_default().steps.insert(number, step);
            }
            (Id::Step { run, number }, _) => {
                self.forget(&run, |held| {
                    held.steps.remove(&number);
                });
            }
            (Id::Attempts { run }, Some(Held::Attempts(attempts))) => {
                self.runs.entry(run).or_default().attempts = Some(attempts);
            }
            (Id::Attempts { run }, _) => self.forget(&run, |held| held.attempts = None),
            (Id::Once { key, once }, done) => {
                if let Some(former) = self.once.remove(&(key.clone(), once.clone())) {
                    let former = (former.time, key.clone(), once.clone());
                    self.once_by_time.remove(&former);
                }
                if let Some(Held::Once(done)) = done {
                    self.once_by_time
                        .insert((done.time, key.clone(), once.clone()));
                    self.once.insert((key, once), done);
                }
            }
            (Id::Reached { of }, Some(Held::Reached(reached))) => {
                self.reached.insert(of, reached);
            }
            (Id::Reached { of }, _) => {
                self.reached.remove(&of);
            }
        }
    }

    fn forget(&mut self, run: &str, what: impl FnOnce(&mut Run)) {
        if let Some(held) = self.runs.get_mut(run) {
            what(held);
            if held.parked().is_none() {
                self.detached.remove(run);
            }
            if held.is_empty() {
                self.runs.remove(run);
            }
        }
    }

    /// The finished steps of a run, from the first without a gap; none where the first is not there, which a run
    /// cannot go on from.
    pub fn steps(&self, run: &str) -> Vec<Arc<Step>> {
        let steps = self.runs.get(run).map(|held| &held.steps);
        let steps = (1..).zip(steps.into_iter().flatten());
        steps
            .take_while(|(expected, (number, _))| expected == *number)
            .map(|(_, (_, step))| Arc::clone(step))
            .collect()
    }

    /// How often a run was begun, as far as that was written.
    pub fn attempts(&self, run: &str) -> u32 {
        let attempts = self.runs.get(run).and_then(|held| held.attempts);
        attempts.map_or(0, |attempts| attempts.count)
    }

    /// The last run of this trigger key that was done for this once key.
    pub fn once(&self, key: Option<&Key>, once: &Key) -> Option<&Once> {
        // A lookup by parts would need a type of its own; keys are short.
        self.once.get(&(key.cloned(), once.clone()))
    }

    /// How far `of` was read, as [`Change::reached`] names it, when that was last journaled.
    pub fn reached(&self, of: &str) -> Option<&Reached> {
        self.reached.get(of)
    }

    /// Tombstones for all that the journal has of a run, for the transaction that ends it.
    pub fn ending(&self, run: &str) -> Vec<Change> {
        self.runs
            .get(run)
            .map(|held| tombstones(run, held))
            .unwrap_or_default()
    }

    /// A tombstone for how often a run was begun: it waits, and has ended no process.
    pub fn waits(&self, run: &str) -> Option<Change> {
        self.runs.get(run)?.attempts?;
        let id = Id::Attempts {
            run: run.to_owned(),
        };
        Some(Change { id, held: None })
    }

    /// Runs whose trigger is finished and that are not: those that asked a person, by their id.
    pub fn detached(&self) -> impl Iterator<Item = &str> {
        self.detached.iter().map(String::as_str)
    }

    /// What such a run is made from again; `None` for any other run.
    pub fn parked(&self, run: &str) -> Option<&Parked> {
        self.runs.get(run)?.parked()
    }

    /// Tombstones for what was left of runs before `offset` of the trigger log: a partition that goes on there, by
    /// somebody's decision, never ends them. Those that wait for a person are none of these.
    pub fn before(&self, offset: i64) -> Vec<Change> {
        self.runs
            .iter()
            .filter(|(_, held)| held.offset().is_some_and(|own| own < offset))
            .filter(|(run, _)| !self.detached.contains(*run))
            .flat_map(|(run, held)| tombstones(run, held))
            .collect()
    }

    /// Tombstones for at most `limit` once keys whose last run was triggered before `time`, the oldest first.
    pub fn once_before(&self, time: i64, limit: usize) -> Vec<Change> {
        self.once_by_time
            .iter()
            .take_while(|(own, ..)| *own < time)
            .take(limit)
            .map(|(_, key, once)| Change::once_gone(key.as_ref(), once))
            .collect()
    }

    /// Runs of which something is left.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }
}

fn tombstones(run: &str, held: &Run) -> Vec<Change> {
    let steps = held.steps.keys().map(|number| Id::Step {
        run: run.to_owned(),
        number: *number,
    });
    let attempts = held.attempts.map(|_| Id::Attempts {
        run: run.to_owned(),
    });
    let ids = steps.chain(attempts);
    ids.map(|id| Change { id, held: None }).collect()
}

fn invalid(record: &Record<'_>, what: &str) -> Fault {
    Fault::new(
        Reason::InvalidInternalRecord,
        format!("record {} of the journal topic: {what}", record.position()),
    )
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
