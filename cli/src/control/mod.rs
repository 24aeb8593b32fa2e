//! The door of a running `up`: other `headwater` commands on this machine send events and questions
//! through it.
//!
//! It listens on 127.0.0.1 only. Who may come in proves it with a token that stands, beside the
//! address, in a file that only this user can read. A browser cannot be led here: Host and Origin are
//! checked before the token is looked at, and no answer allows another origin.

pub(crate) mod client;
pub(crate) mod registry;
pub(crate) mod server;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// An event for a source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Send {
    pub(crate) namespace: Option<String>,
    pub(crate) source: String,
    pub(crate) key: Option<String>,
    /// As typed, in the source's format; `None` deletes the key.
    pub(crate) body: Option<String>,
    /// Milliseconds since the epoch; `None`: now.
    pub(crate) timestamp: Option<i64>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
}

/// The log has the event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// `<topic>-<partition>-<offset>`
    pub(crate) position: String,
    pub(crate) key: Option<String>,
}

/// An event for an agent's trigger; its outputs are waited for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) namespace: Option<String>,
    pub(crate) agent: String,
    pub(crate) key: Option<String>,
    /// Where neither `key` nor the source gives one.
    pub(crate) fallback_key: String,
    /// What the event holds beside the text.
    pub(crate) with: Value,
    pub(crate) text: Option<String>,
    pub(crate) timeout_seconds: u64,
}

/// How the run ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// The trigger's position.
    pub(crate) position: String,
    pub(crate) run: Option<String>,
    /// Done, Skipped, Failed, ...; `Filtered` if the event starts no run.
    pub(crate) outcome: String,
    /// Why it was not Done.
    pub(crate) message: Option<String>,
    pub(crate) outputs: Vec<Output>,
}

/// One record that the run wrote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) source: String,
    pub(crate) position: String,
    pub(crate) value: Value,
}

/// The last runs of an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Past {
    pub(crate) namespace: Option<String>,
    pub(crate) agent: String,
    pub(crate) limit: u32,
}

/// Why it was not done: a sentence that says what to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) message: String,
    /// Nothing was wrong with what was asked: the log or a stage failed.
    pub(crate) failed: bool,
}
