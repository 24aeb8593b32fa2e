//! What is wrong with one record or one run: a value, not a failure of the process.
//!
//! A [`Fault`] names a reason from a closed list and says in words what was expected and where.
//! Invariant: a message holds names, types, positions and texts of the configuration, never values of
//! events, because messages end in logs, status and dead-letter headers that more people may read.

use crate::names::header;
use crate::record::{NewRecord, Record};
use std::borrow::Cow;
use std::fmt;

/// The longest message that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 2_048;

/// Why a record was refused or a run failed. Printed as its CamelCase name.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Reason {
    /// The bytes are not one JSON value.
    NotJson,
    /// The bytes are not UTF-8.
    NotUtf8,
    /// A JSON value is nested deeper than 64.
    TooDeep,
    /// A record or a folded value is over its limit in bytes.
    TooLarge,
    /// The value does not fit the source's JSON Schema.
    SchemaMismatch,
    /// The value is no change event of its envelope, or one that no row can be made of.
    InvalidEnvelope,
    /// An expression failed on this event.
    ExpressionFailed,
    /// An expression reads a field that is not there; `.?` asks without failing.
    AbsentField,
    /// A value cannot be added to an aggregate: a sum of what is no number, or one that is out of range.
    AggregateFailed,
    /// A key is neither text, integer, bool nor a list of these.
    InvalidKey,
    /// A key is null or empty where one is needed.
    NullKey,
    /// A key begins with the byte 0, which is Headwater's own.
    ReservedKey,
    /// The event time is no time, or over an hour past the record's timestamp.
    InvalidEventTime,
    /// The newest record of a key is invalid and its predecessor may be gone.
    InvalidNewest,
    /// A record of an internal topic cannot be read.
    InvalidInternalRecord,
    /// A template failed on this input.
    TemplateFailed,
    /// A required slot read nothing.
    RequiredSlotEmpty,
    /// A slot is staler than it may be.
    StaleSlot,
    /// The prompt does not fit its budget.
    OverBudget,
    /// The model gave no usable answer.
    ModelFailed,
    /// The model's answer does not fit `result.schema`, and its repair does not either.
    InvalidResult,
    /// A tool server does not say what tools it has, or does not have one that the agent names.
    ToolFailed,
    /// An output could not be made.
    OutputFailed,
    /// The chain passed through more agents than it may.
    TooManyHops,
    /// A run was not finished in its time.
    TimedOut,
    /// The run broke off the process that ran it, or its own task.
    Crashed,
    /// Somebody decided to go past the record at which its partition stood still.
    Passed,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A reason and a message for people; see the module's invariant about messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[error("{reason}: {message}")]
pub struct Fault {
    pub reason: Reason,
    pub message: String,
}

impl Fault {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message = format!("{}...", shorten(&message, MESSAGE_BYTES_MAX));
        }
        Self { reason, message }
    }

    /// The same fault, with where it happened before its message: `view flights: from schedule: ...`.
    #[must_use]
    pub fn at(self, place: impl fmt::Display) -> Self {
        Self::new(self.reason, format!("{place}: {}", self.message))
    }
}

/// The first `bytes_max` bytes of a text, less what would split a character.
pub fn shorten(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A text of the configuration as a message quotes it: one line, at most 200 bytes.
pub fn quote(text: &str) -> Cow<'_, str> {
    const BYTES_MAX: usize = 200;
    if text.len() <= BYTES_MAX && !text.contains('\n') {
        return Cow::Borrowed(text);
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() <= BYTES_MAX {
        return Cow::Owned(line);
    }
    Cow::Owned(format!("{}...", shorten(&line, BYTES_MAX)))
}

/// The dead letter of a record: its own bytes and headers, keyed by its position, with reason,
/// message and position in headers.
///
/// The key is the position's text, so that a letter written twice is the same letter. The record's
/// own key and timestamp are kept in headers, after the record's own ones.
pub fn dead_letter(record: &Record<'_>, fault: &Fault, dead_topic: &str) -> NewRecord {
    let position = record.position().to_string();
    let mut headers: Vec<(String, Option<Vec<u8>>)> = record
        .headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)))
        .collect();
    headers.push((
        header::REASON.to_owned(),
        Some(fault.reason.to_string().into_bytes()),
    ));
    headers.push((
        header::MESSAGE.to_owned(),
        Some(fault.message.clone().into_bytes()),
    ));
    headers.push((
        header::POSITION.to_owned(),
        Some(position.clone().into_bytes()),
    ));
    headers.push((header::KEY.to_owned(), record.key.map(<[u8]>::to_vec)));
    headers.push((
        header::TIMESTAMP.to_owned(),
        Some(record.timestamp.to_string().into_bytes()),
    ));
    NewRecord {
        topic: dead_topic.to_owned(),
        partition: None,
        key: Some(position.into_bytes()),
        value: record.value.map(<[u8]>::to_vec),
        headers,
        timestamp: None,
    }
}

/// Takes the value out of a dead letter that is too large with its headers, and says so in another one: a letter
/// without a value is a delete otherwise.
pub fn leave_out_value(letter: &mut NewRecord) {
    if let Some(value) = letter.value.take() {
        letter.headers.push((
            header::NO_VALUE.to_owned(),
            Some(value.len().to_string().into_bytes()),
        ));
    }
}

/// Says in a dead letter that its record's value was too large to come along.
pub fn say_value_is_gone(letter: &mut NewRecord) {
    letter.headers.push((header::NO_VALUE.to_owned(), None));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_keeps_the_record_and_says_why() {
        let headers = [("trace", Some(b"1".as_slice())), ("none", None)];
        let record = Record {
            topic: "t",
            partition: 2,
            offset: 7,
            timestamp: 1,
            key: Some(b"k"),
            value: Some(b"{"),
            headers: &headers,
        };
        let fault = Fault::new(Reason::NotJson, "ends early");
        let letter = dead_letter(&record, &fault, "dead");
        assert_eq!(letter.key.as_deref(), Some(b"t-2-7".as_slice()));
        assert_eq!(letter.value.as_deref(), Some(b"{".as_slice()));
        let find = |name: &str| {
            letter
                .headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        assert_eq!(find("trace"), Some(Some(b"1".to_vec())));
        assert_eq!(find("none"), Some(None));
        assert_eq!(find(header::REASON), Some(Some(b"NotJson".to_vec())));
        assert_eq!(find(header::MESSAGE), Some(Some(b"ends early".to_vec())));
        assert_eq!(find(header::POSITION), Some(Some(b"t-2-7".to_vec())));
        assert_eq!(find(header::KEY), Some(Some(b"k".to_vec())));
        assert_eq!(find(header::TIMESTAMP), Some(Some(b"1".to_vec())));
    }

    #[test]
    fn messages_are_bounded_at_a_character() {
        let fault = Fault::new(Reason::NotJson, "é".repeat(5_000));
        assert!(fault.message.len() <= MESSAGE_BYTES_MAX + 3);
        assert!(fault.message.ends_with("..."));
    }
}
