//! What a stage says of itself: `GET /status`, readiness, and whether it has caught up.
//!
//! Threads write here after each turn of their loops; everybody else only reads. It holds positions,
//! counts and reasons, never event values.

use crate::log::{self, Log};
use headwater_engine::names::Owner;
use headwater_engine::record::TopicPartition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The body of `GET /status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub kind: Owner,
    pub name: String,
    pub phase: Phase,
    /// Restored, a member of its groups, and caught up once.
    pub ready: bool,
    /// By part: `intake` and `fold` of a view stage, `views` and `runs` of an agent stage.
    pub parts: BTreeMap<String, Part>,
    pub dead_letters: u64,
    pub skipped_records: u64,
    /// Runs that went on although a view did not hold all that was in the log.
    pub stale_runs: u64,
    /// What keeps the stage, or a part of it, from its work; empty when all is well.
    pub problems: Vec<Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Waits for its topics.
    Starting,
    Running,
    Stopping,
    /// Ended in order.
    Stopped,
    /// Ended by an error that trying again does not mend.
    Failed,
}

/// One loop of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Part {
    /// A member of its group; true of a part without one.
    pub joined: bool,
    /// Of the state that has to be there before the part can work.
    pub restored_percent: u8,
    /// Once it had read everything that was there when it began.
    pub caught_up: bool,
    /// Partitions that are its own and did not begin yet.
    pub waiting: usize,
    /// Taken in and not yet committed.
    pub in_flight: usize,
    /// The next offset to be processed.
    pub positions: Vec<Processed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Processed {
    pub topic: String,
    pub partition: i32,
    pub next: i64,
    /// Stands still on purpose; a problem says why.
    pub stopped: bool,
}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Stable name: `MissingTopic`, `KafkaUnavailable`, `Fenced`, `InputLost`, `InputReset`,
    /// `PositionsLost`, `Stopped`, or a reason of the engine's.
    pub reason: String,
    pub message: String,
    /// `<topic>-<partition>` or `<topic>-<partition>-<offset>` that it is about; empty: the stage.
    pub at: String,
}

impl Status {
    /// The next offset of every input partition that does not stand still on purpose.
    fn positions(&self) -> Vec<(TopicPartition, i64)> {
        let all = self.parts.values().flat_map(|part| &part.positions);
        all.filter(|position| !position.stopped)
            .map(|position| {
                let topic = position.topic.as_str();
                (
                    TopicPartition::new(topic, position.partition),
                    position.next,
                )
            })
            .collect()
    }

    fn is_idle(&self) -> bool {
        self.parts
            .values()
            .all(|part| part.joined && part.waiting == 0 && part.in_flight == 0 && part.caught_up)
    }
}

/// Where threads write and others read.
pub(crate) struct Board {
    inner: Mutex<Inner>,
    /// Called when the stage becomes ready.
    announce: Box<dyn Fn() + Send + Sync>,
}

struct Inner {
    status: Status,
    moves: u64,
}

impl Board {
    pub(super) fn new(
        kind: Owner,
        name: &str,
        parts: &[&str],
        announce: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let parts = parts
            .iter()
            .map(|part| ((*part).to_owned(), Part::default()));
        let inner = Mutex::new(Inner {
            status: Status {
                kind,
                name: name.to_owned(),
                phase: Phase::Starting,
                ready: false,
                parts: parts.collect(),
                dead_letters: 0,
                skipped_records: 0,
                stale_runs: 0,
                problems: Vec::new(),
            },
            moves: 0,
        });
        Self { inner, announce }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> Status {
        self.lock().status.clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut inner = self.lock();
        change(&mut inner.status);
        let status = &mut inner.status;
        let before = status.ready;
        status.ready = status.phase == Phase::Running
            && status
                .parts
                .values()
                .all(|part| part.joined && part.restored_percent == 100 && part.caught_up);
        if status.ready && !before {
            (self.announce)();
        }
    }

    /// A part's state, written as a whole: what belongs together is seen together.
    pub(super) fn part(&self, name: &str, part: Part) {
        self.update(|status| {
            status.parts.insert(name.to_owned(), part);
        });
        self.lock().moves += 1;
    }

    /// Something was written to the log.
    pub(super) fn moved(&self) {
        self.lock().moves += 1;
    }

    pub(super) fn moves(&self) -> u64 {
        self.lock().moves
    }

    pub(super) fn phase(&self, phase: Phase) {
        self.update(|status| {
            // The first end is the one that tells why.
            if status.phase != Phase::Failed {
                status.phase = phase;
            }
        });
    }

    /// Adds or replaces the problem of this reason and place.
    pub(super) fn problem(&self, reason: &str, at: &str, message: impl Into<String>) {
        let problem = Problem {
            reason: reason.to_owned(),
            message: message.into(),
            at: at.to_owned(),
        };
        self.update(|status| {
            status
                .problems
                .retain(|other| (&other.reason, &other.at) != (&problem.reason, &problem.at));
            status.problems.push(problem);
        });
    }

    pub(super) fn solved(&self, reason: &str, at: &str) {
        let mut inner = self.lock();
        inner
            .status
            .problems
            .retain(|problem| problem.reason != reason || problem.at != at);
    }

    pub(super) fn positions(&self) -> Vec<(TopicPartition, i64)> {
        self.lock().status.positions()
    }

    /// Whether everything in the input logs is processed and nothing is in flight.
    pub(super) fn caught_up(&self, log: &dyn Log) -> log::Result<bool> {
        // Seen at one moment: a record that is taken in moves the position and is in flight at once.
        let (idle, positions) = {
            let status = &self.lock().status;
            (status.is_idle(), status.positions())
        };
        if !idle {
            return Ok(false);
        }
        let (partitions, next): (Vec<TopicPartition>, Vec<i64>) = positions.into_iter().unzip();
        if partitions.is_empty() {
            return Ok(true);
        }
        let ends = log.ends(&partitions)?;
        Ok(next.iter().zip(ends).all(|(next, end)| *next >= end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_all_parts_ready_while_running() {
        let board = Board::new(Owner::Agent, "a", &["views", "runs"], Box::new(|| {}));
        let part = Part {
            joined: true,
            restored_percent: 100,
            caught_up: true,
            ..Part::default()
        };
        board.part("views", part.clone());
        board.phase(Phase::Running);
        assert!(!board.status().ready);
        board.part("runs", part);
        assert!(board.status().ready);
        board.phase(Phase::Failed);
        board.phase(Phase::Stopped);
        assert_eq!(board.status().phase, Phase::Failed);
        assert!(!board.status().ready);
    }

    #[test]
    fn problems_are_one_per_reason_and_place() {
        let board = Board::new(Owner::View, "v", &["fold"], Box::new(|| {}));
        board.problem("Stopped", "t-0", "first");
        board.problem("Stopped", "t-0", "second");
        board.problem("Stopped", "t-1", "third");
        assert_eq!(board.status().problems.len(), 2);
        board.solved("Stopped", "t-0");
        assert_eq!(board.status().problems[0].message, "third");
    }
}
