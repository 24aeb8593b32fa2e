//! Where an agent's groups stand, apart from their committed offsets: Kafka forgets these a week after the last member left.
//!
//! The journal has it, which is compacted: of runs as a partition is placed first, as it is left with no run under way, and as the
//! first run after that is about to begin; of an intake with each transaction. What runs ended since stands in the
//! audit, whose records say how far their partition is. The audit may be gone by then: so a position of the journal alone counts
//! where no run can have begun after it. Which of the two is the later, the mark of the journal's record tells, which the audit
//! repeats. All of this is written in the transactions that commit the offsets, and a position at least once a minute.
//! Where a broker lost the marker of a commit, a group's offset may be one from before: then what is told here is further, and counts.

use super::Error;
use super::first::NOTHING;
use super::life::Life;
use super::reading::{between, persist, to_end};
use crate::backoff::Random;
use crate::log::{Committed, Log, Watermarks};
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
    // Never the mark of none.
    let mark = Random::unseeded().next() | 1;
    let record = |(of, committed): &(TopicPartition, Committed)| {
        let reached = Reached {
            next: committed.offset,
            progress: committed.metadata.clone(),
            mark,
        };
        let place = of.partition % partitions.max(1);
        // A value of some bytes fits.
        Change::reached(reader.name(of), reached)
            .record(journal, place)
            .ok()
    };
    offsets.iter().filter_map(record).collect()
}

fn committed(reached: Reached) -> Committed {
    Committed {
        offset: reached.next,
        metadata: reached.progress,
    }
}

/// What the journal has, by [`Reader::name`].
pub(super) fn journaled(
    log: &dyn Log,
    life: &Life,
    journal: &str,
) -> Result<HashMap<String, Reached>, Error> {
    let mut found = HashMap::new();
    let counts = super::reading::partitions(log, life, &[journal.to_owned()])?;
    let all: Vec<TopicPartition> = (0..counts.first().copied().unwrap_or(0))
        .map(|partition| TopicPartition::new(journal, partition))
        .collect();
    to_end(log, life, &all, &mut |_| {}, &mut |record| {
        found.extend(Reached::of_journal(record));
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

/// What is known of where a partition was read to.
pub(super) enum Last {
    Said(Committed),
    /// It never was: it was added since.
    Never,
    /// It was said, and is gone.
    Lost,
}

/// Where the runs of these partitions go on, by the journal and the audit (`runs`) of theirs. `is_clean`: whether no run can
/// have begun since such a position was written.
pub(super) fn of_runs(
    log: &dyn Log,
    life: &Life,
    (journal, runs): (&str, &str),
    partitions: &[TopicPartition],
    is_clean: impl Fn(&Committed) -> bool,
) -> Result<Vec<(TopicPartition, Last)>, Error> {
    let mut journaled = journaled(log, life, journal)?;
    let mut found = Vec::new();
    for of in partitions {
        let kept = journaled.remove(&Reader::Runs.name(of));
        let clean = kept.clone().map(committed).filter(&is_clean);
        let position = match clean {
            Some(clean) => Last::Said(clean),
            None => last(log, life, runs, of, kept)?,
        };
        found.push((of.clone(), position));
    }
    Ok(found)
}

/// Where an intake goes on in these partitions, by the journal.
pub(super) fn of_intake(
    log: &dyn Log,
    life: &Life,
    journal: &str,
    partitions: &[TopicPartition],
) -> Result<Vec<(TopicPartition, Last)>, Error> {
    let mut journaled = journaled(log, life, journal)?;
    let position = |of: &TopicPartition| {
        let kept = journaled.remove(&Reader::Intake.name(of));
        let last = kept.map_or(Last::Never, |kept| Last::Said(committed(kept)));
        (of.clone(), last)
    };
    Ok(partitions.iter().map(position).collect())
}

/// What a group that has no offsets at all goes on with; `None` where that is lost for one partition, or nothing is known of any.
pub(super) fn of_group(
    log: &dyn Log,
    life: &Life,
    known: Vec<(TopicPartition, Last)>,
) -> Result<Option<Vec<(TopicPartition, Committed)>>, Error> {
    if !known.iter().any(|(_, last)| matches!(last, Last::Said(_))) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (of, last) in known {
        let position = match last {
            Last::Said(position) => position,
            Last::Never => first(log, life, &of)?,
            Last::Lost => return Ok(None),
        };
        found.push((of, position));
    }
    Ok(Some(found))
}

/// The last position that the audit says, or the one kept in the journal, whichever is the later.
fn last(
    log: &dyn Log,
    life: &Life,
    runs: &str,
    of: &TopicPartition,
    kept: Option<Reached>,
) -> Result<Last, Error> {
    let counts = super::reading::partitions(log, life, &[runs.to_owned()])?;
    if counts.iter().all(|count| of.partition >= *count) {
        // Added to the trigger's topic only now.
        return Ok(kept.map_or(Last::Never, |kept| Last::Said(committed(kept))));
    }
    let (told, bounds) = audited(log, life, runs, of)?;
    Ok(match (told, kept) {
        (Some(told), Some(kept)) if told.mark != kept.mark => Last::Said(committed(kept)),
        (Some(told), _) => Last::Said(committed(told)),
        // What ended since then would be there, had nothing been taken away.
        (None, Some(kept)) if bounds.low == 0 => Last::Said(committed(kept)),
        (None, None) if bounds.high == 0 => Last::Never,
        (None, _) => Last::Lost,
    })
}

/// The last position that the audit says of a partition, and the bounds of the audit's own.
pub(super) fn audited(
    log: &dyn Log,
    life: &Life,
    runs: &str,
    of: &TopicPartition,
) -> Result<(Option<Reached>, Watermarks), Error> {
    let at = TopicPartition::new(Arc::<str>::from(runs), of.partition);
    let bounds = persist(life, "watermarks", || {
        log.watermarks(std::slice::from_ref(&at))
    })?;
    let bounds = bounds.get(&at).copied().unwrap_or(NOTHING);
    let (mut end, mut step) = (bounds.high, STEP);
    let mut told = None;
    while told.is_none() && end > bounds.low {
        let begin = bounds.low.max(end - step);
        between(log, life, &at, begin..end, &mut |record| {
            told = Reached::of_audit(record, of).or(told.take());
        })?;
        (end, step) = (begin, step * 2);
    }
    Ok((told, bounds))
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
