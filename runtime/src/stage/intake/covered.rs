//! How far the input log itself says that the sources were taken in.
//!
//! Its marks are written in the transactions that commit the group's offsets, so both say the same, unless the offsets were
//! lost or set back since: by somebody, or by a broker that lost its newest records. What stands in the log is not taken in
//! again then.

use super::super::Error;
use super::super::life::Life;
use super::super::reading::{between, persist};
use crate::log::Log;
use headwater_engine::names::MARK_KEY;
use headwater_engine::record::TopicPartition;
use headwater_engine::view::Mark;
use std::collections::HashMap;

/// Offsets of the log's end that are read first; each further step reads twice as many.
const STEP: i64 = 1_000;
/// Who has not been written of for so long is not looked for any further: the group's offset counts.
const MOST: i64 = 100_000;

/// Of each of these partitions, the next offset by the newest mark that names it. `entries`: topics of the view's sources, in the
/// order that marks count them. A partition of which the log's end says nothing is not in it.
pub(super) fn find(
    log: &dyn Log,
    life: &Life,
    input: &str,
    entries: &[String],
    wanted: &[TopicPartition],
) -> Result<HashMap<TopicPartition, i64>, Error> {
    let mut found = HashMap::new();
    // Every transaction writes its mark to every partition of the log.
    let first = TopicPartition::new(input, 0);
    let bounds = persist(life, "watermarks", || {
        log.watermarks(std::slice::from_ref(&first))
    })?;
    let Some(bounds) = bounds.get(&first) else {
        return Ok(found);
    };
    let (mut end, mut step) = (bounds.high, STEP);
    while end > bounds.low && bounds.high - end < MOST {
        let begin = bounds.low.max(end - step);
        let mut newest: HashMap<(usize, i32), i64> = HashMap::new();
        between(log, life, &first, begin..end, &mut |record| {
            if record.key != Some(MARK_KEY) {
                return;
            }
            let mark = record
                .value
                .and_then(|value| serde_json::from_slice::<Mark>(value).ok());
            for covered in mark.into_iter().flat_map(|mark| mark.covered) {
                newest.insert((covered.from as usize, covered.partition), covered.next);
            }
        })?;
        for partition in wanted {
            if found.contains_key(partition) {
                continue;
            }
            // Entries that read one topic go through it together.
            let of_topic = entries.iter().enumerate().filter_map(|(entry, topic)| {
                let place = (entry, partition.partition);
                newest.get(&place).filter(|_| **topic == *partition.topic)
            });
            if let Some(next) = of_topic.min() {
                found.insert(partition.clone(), *next);
            }
        }
        if wanted.iter().all(|partition| found.contains_key(partition)) {
            break;
        }
        (end, step) = (begin, step * 2);
    }
    Ok(found)
}
