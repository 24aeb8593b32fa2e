//! The Debezium envelope, as JSON: a change of a database row, around the row.
//!
//! A value is `{op, before, after, source, ts_ms, ...}`, alone or as the `payload` beside its `schema`, as Kafka Connect's JSON converter
//! writes it with `schemas.enable`. Creation (`c`), snapshot (`r`) and update (`u`) give the row after the change, deletion (`d`) gives
//! none. A truncation (`t`) names no row and a logical message (`m`) has none: both are refused, as is what is no change event.
//! Keys are objects of the primary key's columns: of one column its value is the key, of several the list of them by name.
//!
//! Left to the caller: bytes, limits, the row's schema, and tombstones, which have no envelope.

use crate::fault::{Fault, Reason};
use serde_json::Value;

/// One change event without its envelope.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    /// The row after the change; null for a deletion.
    pub(super) row: Value,
    /// The row that a deletion took away, as far as the database logs it; null otherwise.
    pub(super) before: Value,
    /// `c`, `r`, `u` or `d`.
    pub(super) op: &'static str,
    /// When the database made the change, milliseconds since the epoch; `None` where the connector does not know.
    pub(super) time: Option<i64>,
}

impl Change {
    pub(super) fn deleted(&self) -> bool {
        self.op == "d"
    }
}

/// Takes the envelope off a value.
///
/// # Errors
/// `InvalidEnvelope`.
pub(super) fn open(value: Value) -> Result<Change, Fault> {
    let Value::Object(mut envelope) = payload(value) else {
        return Err(invalid("the value is no change event: an object with `op` was expected"));
    };
    let op = match envelope.get("op").and_then(Value::as_str) {
        Some("c") => "c",
        Some("r") => "r",
        Some("u") => "u",
        Some("d") => "d",
        Some("t") => {
            return Err(invalid(
                "the change is a truncation (`t`), which names no rows. Let the connector leave them out: skipped.operations",
            ));
        }
        Some("m") => {
            return Err(invalid("the change is a logical message (`m`), which has no row"));
        }
        Some(_) => return Err(invalid("`op` is none of c, r, u and d")),
        None => {
            return Err(invalid(
                "the value has no text `op`, so it is no change event. Is it a row without envelope? Then set envelope to None",
            ));
        }
    };
    let time = envelope
        .get("source")
        .and_then(|source| source.get("ts_ms"))
        .and_then(Value::as_i64)
        // What the connector does not know it writes as 0.
        .filter(|time| *time > 0);
    let mut take = |field: &str| envelope.remove(field).unwrap_or_default();
    let (row, before) = if op == "d" {
        (Value::Null, take("before"))
    } else {
        (take("after"), Value::Null)
    };
    if op != "d" && !row.is_object() {
        return Err(invalid(
            "`after` is no object: a change of `op` c, r or u needs the row",
        ));
    }
    if !before.is_object() && !before.is_null() {
        return Err(invalid("`before` is neither an object nor null"));
    }
    Ok(Change {
        row,
        before,
        op,
        time,
    })
}

/// What a source's expressions see as `key`: the columns of the primary key.
pub(super) fn open_key(key: Value) -> Value {
    payload(key)
}

/// The key of an event whose source says no other, of [`open_key`]'s columns.
pub(super) fn default_key(columns: &Value) -> Value {
    match columns {
        Value::Object(columns) if columns.len() == 1 => {
            columns.values().next().cloned().unwrap_or_default()
        }
        Value::Object(columns) => columns.values().cloned().collect(),
        other => other.clone(),
    }
}

/// Without the JSON converter's `{schema, payload}`.
fn payload(value: Value) -> Value {
    match value {
        Value::Object(mut object)
            if object.len() == 2 && object.contains_key("schema") && object.contains_key("payload") =>
        {
            object.remove("payload").unwrap_or_default()
        }
        other => other,
    }
}

fn invalid(message: &str) -> Fault {
    Fault::new(Reason::InvalidEnvelope, message)
}
