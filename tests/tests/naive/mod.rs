//! What views promise, in the plainest code that says it, written from `docs/semantics.md` and apart from the engine.
//!
//! It works on parsed JSON, keeps every event for ever, and looks at all of them for every answer: too slow for anything
//! but a test, and short enough to be read. Expressions are closures beside the CEL text that they stand for.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "shared by test binaries, which use parts of it; a test fails by panicking"
)]

pub mod aggregate;
pub mod event;
pub mod order;
pub mod rows;

use serde_json::Value;

/// A record as an independent reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    pub partition: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Raw {
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .rev()
            .find(|(own, _)| own == name)
            .and_then(|(_, value)| value.as_deref())
    }

    pub fn key_text(&self) -> &str {
        std::str::from_utf8(self.key.as_deref().unwrap_or_default()).unwrap()
    }
}

/// The source record that caused something: place of its `from` entry by name, partition, offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    pub from: u32,
    pub partition: i32,
    pub offset: i64,
}

/// What an event does to a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub key: String,
    /// `None`: the key goes.
    pub value: Option<Value>,
    pub time: i64,
    pub origin: Origin,
}

/// The event is refused: a dead letter, and nothing else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

pub type Maybe<T> = Result<T, Fault>;
