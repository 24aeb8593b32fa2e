//! Changes of rows, for agents that a view triggers: what an event made of a row, and what it was before.
//!
//! Both are read at one time, that of the fold's clock, so that a change is what the event did and never what time
//! did. A change is one record of the changes topic: under the row's key, with the event's provenance and chain.
//! Whoever drives the fold writes it in the transaction that holds the state; agents read it with [`read`].
//! Invariant: an event that leaves the row as a reader would find it gives no change.

use super::aggregate::Applied;
use super::definition::{Definition, Projected};
use super::latest::VALUE_BYTES_MAX;
use super::origin::{Origin, invalid, number, provenance_headers};
use super::rows::Rows;
use crate::config::Fold;
use crate::fault::{Fault, Reason};
use crate::json;
use crate::key::Key;
use crate::names::header;
use crate::record::{NewRecord, Position, Record};
use serde_json::{Map, Value};

const VALUE: &str = "value";
const PREVIOUS: &str = "previous";
/// In the place of both, where they take more than a record may: how many bytes.
const TOO_LARGE: &str = "tooLarge";

/// What one event did to the row of its key.
#[derive(Debug)]
pub(super) struct Changed {
    key: Key,
    /// Absent: there is no row.
    value: Option<Value>,
    previous: Option<Value>,
    time: i64,
    pub(super) origin: Origin,
}

/// Folds an event; `told` gets what became of its row, should anything have.
///
/// # Errors
/// The event's fault; nothing has changed then.
pub(super) fn apply(
    definition: &Definition,
    rows: &mut Rows,
    event: &Projected<'_>,
    clock: i64,
    told: Option<&mut Option<Changed>>,
) -> Result<Applied, Fault> {
    let Some(told) = told else {
        return rows.apply(definition, event, clock);
    };
    let key = event.key.to_key();
    let at = clock.max(event.time);
    let previous = shown(definition, rows, &key, at);
    let applied = rows.apply(definition, event, clock)?;
    let value = shown(definition, rows, &key, at);
    if value != previous {
        *told = Some(Changed {
            key,
            value,
            previous,
            time: event.time,
            origin: event.origin,
        });
    }
    Ok(applied)
}

/// A row as a reader at `at` finds it; of a history the list of its events, newest first.
fn shown(definition: &Definition, rows: &Rows, key: &Key, at: i64) -> Option<Value> {
    if rows.is_gone(key, at) {
        return None;
    }
    if let Fold::History { within_ms, .. } = *definition.fold() {
        let after = within_ms.map(|within| at.saturating_sub(within));
        let events: Vec<Value> = rows
            .events(key.as_str())
            .take_while(|event| after.is_none_or(|after| event.time > after))
            .map(|event| json::parse(event.value))
            .collect();
        return (!events.is_empty()).then_some(Value::Array(events));
    }
    match definition.aggregate() {
        Some(aggregate) => Some(rows.aggregated(key.as_str())?.value(aggregate, at)),
        None => Some(json::parse(rows.get(key.as_str())?.value)),
    }
}

impl Changed {
    /// The record of the changes topic. `cause` is the record that was folded, `root` where the chain began if it
    /// does not say so itself.
    pub(super) fn record(
        self,
        topic: &str,
        partition: i32,
        cause: &Record<'_>,
        root: &Position,
    ) -> NewRecord {
        let parts = [(VALUE, self.value), (PREVIOUS, self.previous)];
        let parts = parts
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let mut body = Value::Object(parts.collect::<Map<_, _>>()).to_string();
        if body.len() > VALUE_BYTES_MAX {
            body = serde_json::json!({TOO_LARGE: body.len()}).to_string();
        }
        let mut headers = provenance_headers(self.origin, self.time);
        let begun = || root.to_string().into_bytes();
        let chain = cause
            .header(header::ROOT)
            .map_or_else(begun, <[u8]>::to_vec);
        headers.push((header::ROOT.to_owned(), Some(chain)));
        if let Some(hops) = cause.header(header::HOPS) {
            headers.push((header::HOPS.to_owned(), Some(hops.to_vec())));
        }
        NewRecord {
            topic: topic.to_owned(),
            partition: Some(partition),
            key: Some(self.key.as_bytes().to_vec()),
            value: Some(body.into_bytes()),
            headers,
            timestamp: None,
        }
    }
}

/// A change, as whoever reads the topic gets it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) key: Key,
    /// `None`: the row is gone.
    pub(crate) value: Option<Value>,
    /// `None`: there was no row.
    pub(crate) previous: Option<Value>,
    /// Of the event that made it, milliseconds since the epoch.
    pub(crate) time: i64,
}

/// Reads a record of the changes topic.
///
/// # Errors
/// `TooLarge`: row and former row did not fit one record. `InvalidInternalRecord`: it is none of the topic's.
pub(crate) fn read(record: &Record<'_>) -> Result<Change, Fault> {
    let key = record.key.map(Key::from_bytes).transpose()?.flatten();
    let Some(Value::Object(mut body)) = record.value.map(json::decode).transpose()? else {
        return Err(invalid(VALUE));
    };
    if let Some(bytes) = body.get(TOO_LARGE) {
        return Err(Fault::new(
            Reason::TooLarge,
            format!(
                "the row and what it was before take {bytes} bytes together; the limit is {VALUE_BYTES_MAX}. Keep less in a row of the view that triggers"
            ),
        ));
    }
    let change = Change {
        key: key.ok_or_else(|| invalid("key"))?,
        value: body.remove(VALUE),
        previous: body.remove(PREVIOUS),
        time: number(record, header::TIME)?,
    };
    if change.value.is_none() && change.previous.is_none() {
        return Err(invalid(VALUE));
    }
    Ok(change)
}
