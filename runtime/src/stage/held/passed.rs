//! Whether a view's own stage went past a record that a held view stands still at.
//!
//! Somebody decides that for the view's stage alone. Those who hold the view find it in the stage's marks, and follow.

use crate::log::{Isolation, Log, Result, Start};
use headwater_engine::names::MARK_KEY;
use headwater_engine::record::TopicPartition;
use headwater_engine::view::Mark;
use std::time::{Duration, Instant};

/// A mark is the last record of its checkpoint; behind it are markers, and what was aborted.
const NEWEST: i64 = 1_000;
const WAIT: Duration = Duration::from_secs(2);

/// The input offset that the newest mark of a state partition says is folded next; `None` where there is none.
pub(super) fn marked(log: &dyn Log, state: &TopicPartition) -> Result<Option<i64>> {
    let bounds = log.watermarks(std::slice::from_ref(state))?;
    let Some(bounds) = bounds.get(state).filter(|bounds| bounds.high > bounds.low) else {
        return Ok(None);
    };
    let from = (bounds.high - NEWEST).max(bounds.low);
    let mut reader = log.reader(Isolation::ReadCommitted)?;
    reader.assign(&[(state.clone(), Start::Offset(from))])?;
    let mut next = None;
    let deadline = Instant::now() + WAIT;
    while reader.position(state).is_none_or(|at| at < bounds.high) && Instant::now() < deadline {
        reader.poll(Duration::from_millis(100), &mut |record| {
            if record.key == Some(MARK_KEY) {
                let mark = record.value.map(serde_json::from_slice::<Mark>);
                next = mark.and_then(std::result::Result::ok).map(|mark| mark.next);
            }
        })?;
    }
    Ok(next)
}
