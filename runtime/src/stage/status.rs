//! What a stage says of itself: `GET /status`, readiness, and whether it has caught up.
//!
//! Threads write here after each turn of their loops; everybody else only reads. It holds positions,
//! counts and reasons, never event values.

use super::rate::Rate;
use crate::log::{self, Log};
use headwater_engine::names::Owner;
use headwater_engine::record::TopicPartition;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The body of `GET /status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub kind: Owner,
    pub name: String,
    pub phase: Phase,
    /// Restored, a member of its groups, and caught up once.
    pub ready: bool,
    /// By part: `intake`, `views` (those it joins) and `fold` of a view stage, `views` and `runs` of an agent stage.
    pub parts: BTreeMap<String, Part>,
    pub dead_letters: u64,
    pub skipped_records: u64,
    /// Runs that went on although a view did not hold all that was in the log.
    pub stale_runs: u64,
    /// What a view stage folds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewFigures>,
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

/// A view in figures, of the partitions that this replica folds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ViewFigures {
    pub generation: String,
    pub keys: u64,
    /// Of keys and values.
    pub bytes: u64,
    /// Records folded, over the last ten seconds.
    pub records_per_second: f64,
    /// Records in the input logs, the sources' included, that are not in the view yet, when this was measured
    /// last; offsets without a record count too.
    pub behind: Option<u64>,
    /// Milliseconds since the view was last found to hold everything; 0 where it did.
    pub behind_ms: Option<u64>,
    /// Of the state that a restart reads.
    pub restored_percent: u8,
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
    /// `PositionsLost`, `Stopped`, `WaitingForJoin`, `ModelUnavailable`, `ToolsUnavailable`, or a reason of the engine's.
    pub reason: String,
    pub message: String,
    /// `<topic>-<partition>` or `<topic>-<partition>-<offset>` that it is about; empty: the stage.
    pub at: String,
}

impl Processed {
    fn at(&self) -> (TopicPartition, i64) {
        let partition = TopicPartition::new(self.topic.as_str(), self.partition);
        (partition, self.next)
    }
}

impl Status {
    /// The next offset of every input partition that does not stand still on purpose.
    fn positions(&self) -> Vec<(TopicPartition, i64)> {
        let all = self.parts.values().flat_map(|part| &part.positions);
        all.filter(|position| !position.stopped)
            .map(Processed::at)
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
    rate: Rate,
    /// When nothing was left to be folded, as far as it was measured.
    met_at: Option<Instant>,
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
                view: None,
                problems: Vec::new(),
            },
            moves: 0,
            rate: Rate::new(Instant::now()),
            met_at: None,
        });
        Self { inner, announce }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> Status {
        let mut inner = self.lock();
        let mut status = inner.status.clone();
        if let Some(view) = &mut status.view {
            let rate = inner.rate.per_second(Instant::now());
            view.records_per_second = (rate * 10.0).round() / 10.0;
        }
        status
    }

    /// Records were folded.
    pub(super) fn folded(&self, records: u64) {
        self.lock().rate.add(records, Instant::now());
    }

    /// What the view holds now; how far it is behind stays as it was measured.
    pub(super) fn figures(&self, figures: ViewFigures) {
        self.update(|status| {
            let before = status.view.take().unwrap_or_default();
            status.view = Some(ViewFigures {
                behind: before.behind,
                behind_ms: before.behind_ms,
                ..figures
            });
        });
    }

    /// The stage was found to be so many records behind.
    pub(super) fn measured(&self, behind: u64) {
        let now = Instant::now();
        let mut inner = self.lock();
        if behind == 0 {
            inner.met_at = Some(now);
        }
        let since = inner.met_at.map(|met| now.saturating_duration_since(met));
        if let Some(view) = &mut inner.status.view {
            view.behind = Some(behind);
            view.behind_ms =
                since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        }
    }

    /// The next offset of every input partition, of those that stand still too.
    pub(super) fn all_positions(&self) -> Vec<(TopicPartition, i64)> {
        let inner = self.lock();
        let all = inner.status.parts.values().flat_map(|part| &part.positions);
        all.map(Processed::at).collect()
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
    fn what_was_measured_stays_with_the_figures() {
        let board = Board::new(Owner::View, "v", &["fold"], Box::new(|| {}));
        let figures = |keys| ViewFigures {
            keys,
            ..ViewFigures::default()
        };
        board.figures(figures(1));
        assert_eq!(board.status().view.unwrap().behind, None);
        board.measured(7);
        let view = board.status().view.unwrap();
        assert_eq!((view.behind, view.behind_ms), (Some(7), None));
        board.measured(0);
        board.figures(figures(2));
        let view = board.status().view.unwrap();
        assert_eq!(
            (view.keys, view.behind, view.behind_ms),
            (2, Some(0), Some(0))
        );
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
