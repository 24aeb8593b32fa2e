//! Where an agent's groups stand, apart from their committed offsets: Kafka forgets these a week after the last member left.
//!
//! The journal has it, which is compacted: of runs as a partition is placed first, as it is left with no run under way, and as the
//! first run after that is about to begin; of an intake with each transaction. What runs ended since stands in the
//! audit, whose records say how far their partition is. The audit may be gone by then: so a position of the journal alone counts
//! where no run can have begun after it. All of this is written in the transactions that commit the offsets.

use super::Error;
use super::life::Life;
use super::reading::{between, persist, to_end};
use crate::log::{Committed, Log};
use headwater_engine::journal::{Change, Reached};
use headwater_engine::record::{NewRecord, TopicPartition};
use std::collections::HashMap;
use std::sync::Arc;

/// Offsets of the audit's end that are read first; each further step reads twice as many.
const STEP: i64 = 64;

/// What an agent reads a partition for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    Runs,
    Intake,
}

impl Reader {
    fn name(self, of: &TopicPartition) -> String {
        match self {
            Self::Runs => of.to_string(),
            Self::Intake => format!("{of}/intake"),
        }
    }
}

/// The records of the journal that say the same as these offsets. It has `partitions`.
pub(super) fn records(
    reader: Reader,
    journal: &str,
    partitions: i32,
    offsets: &[(TopicPartition, Committed)],
) -> Vec<NewRecord> {
    let record = |(of, committed): &(TopicPartition, Committed)| {
        let reached = Reached {
            next: committed.offset,
            progress: committed.metadata.clone(),
        };
        let place = of.partition % partitions.max(1);
        // A value of some bytes fits.
        Change::reached(reader.name(of), reached)
            .record(journal, place)
            .ok()
    };
    offsets.iter().filter_map(record).collect()
}

/// A position, and when the log took it.
pub(super) struct Written {
    pub(super) reached: Reached,
    timestamp: i64,
}

impl Written {
    fn committed(self) -> Committed {
        Committed {
            offset: self.reached.next,
            metadata: self.reached.progress,
        }
    }
}

/// What the journal has, by [`Reader::name`].
pub(super) fn journaled(
    log: &dyn Log,
    life: &Life,
    journal: &str,
) -> Result<HashMap<String, Written>, Error> {
    let mut found = HashMap::new();
    let counts = super::reading::partitions(log, life, &[journal.to_owned()])?;
    let all: Vec<TopicPartition> = (0..counts.first().copied().unwrap_or(0))
        .map(|partition| TopicPartition::new(journal, partition))
        .collect();
    to_end(log, life, &all, &mut |_| {}, &mut |record| {
        if let Some((of, reached)) = Reached::of_journal(record) {
            let timestamp = record.timestamp;
            found.insert(of, Written { reached, timestamp });
        }
    })?;
    Ok(found)
}

/// Whether the journal knows one of these partitions.
pub(super) fn is_journaled(
    log: &dyn Log,
    life: &Life,
    journal: &str,
    all: &[TopicPartition],
) -> Result<bool, Error> {
    let journaled = journaled(log, life, journal)?;
    Ok(all
        .iter()
        .any(|of| journaled.contains_key(&Reader::Runs.name(of))))
}

/// Where the runs of all these partitions go on, by the journal and the audit (`runs`) of theirs; `None` where that cannot be said of
/// one of them, or nothing is said of any. `is_clean`: whether no run can have begun since such a position was written.
pub(super) fn of_runs(
    log: &dyn Log,
    life: &Life,
    (journal, runs): (&str, &str),
    all: &[TopicPartition],
    is_clean: impl Fn(&Committed) -> bool,
) -> Result<Option<Vec<(TopicPartition, Committed)>>, Error> {
    let mut journaled = journaled(log, life, journal)?;
    let mut found = Vec::new();
    let mut known = false;
    for of in all {
        let kept = journaled.remove(&Reader::Runs.name(of));
        let position = match kept.map(|kept| (kept.timestamp, kept.committed())) {
            Some((_, clean)) if is_clean(&clean) => Last::Said(clean),
            kept => last(log, life, runs, of, kept)?,
        };
        let position = match position {
            Last::Said(position) => {
                known = true;
                position
            }
            // Added since.
            Last::Never => first(log, life, of)?,
            Last::Lost => return Ok(None),
        };
        found.push((of.clone(), position));
    }
    Ok(known.then_some(found))
}

/// What is known of where runs were last.
enum Last {
    Said(Committed),
    /// None was ever begun.
    Never,
    /// It was said, and is gone.
    Lost,
}

/// The last position that the audit says, or the one kept in the journal, whichever is the later.
fn last(
    log: &dyn Log,
    life: &Life,
    runs: &str,
    of: &TopicPartition,
    kept: Option<(i64, Committed)>,
) -> Result<Last, Error> {
    let at = TopicPartition::new(Arc::<str>::from(runs), of.partition);
    let bounds = persist(life, "watermarks", || {
        log.watermarks(std::slice::from_ref(&at))
    })?;
    let Some(bounds) = bounds.get(&at).copied() else {
        return Ok(Last::Lost);
    };
    let (mut end, mut step) = (bounds.high, STEP);
    let mut told: Option<Written> = None;
    while told.is_none() && end > bounds.low {
        let begin = bounds.low.max(end - step);
        between(log, life, &at, begin..end, &mut |record| {
            if let Some(reached) = Reached::of_audit(record, of) {
                let timestamp = record.timestamp;
                told = Some(Written { reached, timestamp });
            }
        })?;
        (end, step) = (begin, step * 2);
    }
    Ok(match (told, kept) {
        (Some(told), Some((at, kept))) if told.timestamp < at => Last::Said(kept),
        (Some(told), _) => Last::Said(told.committed()),
        // What ended since then would be there, had nothing been taken away.
        (None, Some((_, kept))) if bounds.low == 0 => Last::Said(kept),
        (None, None) if bounds.high == 0 => Last::Never,
        (None, _) => Last::Lost,
    })
}

fn first(log: &dyn Log, life: &Life, of: &TopicPartition) -> Result<Committed, Error> {
    let bounds = persist(life, "watermarks", || {
        log.watermarks(std::slice::from_ref(of))
    })?;
    Ok(Committed {
        offset: bounds.get(of).map_or(0, |bounds| bounds.low),
        metadata: String::new(),
    })
}

/// Where an intake goes on in all these partitions, by the journal; `None` where it says nothing of any.
pub(super) fn of_intake(
    log: &dyn Log,
    life: &Life,
    journal: &str,
    all: &[TopicPartition],
) -> Result<Option<Vec<(TopicPartition, Committed)>>, Error> {
    let mut journaled = journaled(log, life, journal)?;
    let mut found = Vec::new();
    let mut known = false;
    for of in all {
        let committed = match journaled.remove(&Reader::Intake.name(of)) {
            Some(written) => {
                known = true;
                written.committed()
            }
            // Added since the first position was written.
            None => first(log, life, of)?,
        };
        found.push((of.clone(), committed));
    }
    Ok(known.then_some(found))
}
