//! The door of a running `up`: other `headwater` commands on this machine send events and questions
//! through it.
//!
//! It listens on 127.0.0.1 only. Who may come in proves it with a token that stands, beside the
//! address, in a file that only this user can read. A browser cannot be led here: Host and Origin are
//! checked before the token is looked at, and no answer allows another origin.

pub(crate) mod client;
pub(crate) mod registry;
pub(crate) mod server;

use headwater_engine::model::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// Only this one: its id, or the beginning of it.
    pub(crate) run: Option<String>,
    pub(crate) limit: u32,
}

/// Renders prompts of the past again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Replay {
    pub(crate) namespace: Option<String>,
    pub(crate) agent: String,
    pub(crate) which: Which,
    /// Absent: with the agent's own templates, byte for byte or refused.
    pub(crate) with: Option<Templates>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Which {
    /// Its id, or the beginning of it.
    Run(String),
    All,
}

/// Templates in the place of the agent's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Templates {
    Prompt {
        system: Option<String>,
        user: Option<String>,
    },
    System(String),
    User(String),
    /// The system template, of an agent that has none the user's.
    Main(String),
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Replayed {
    /// Runs whose prompt is the same, byte for byte.
    pub(crate) same: usize,
    /// Runs that get another prompt from the other templates.
    pub(crate) changed: usize,
    /// Runs that are not proven, for a reason that each has.
    pub(crate) refused: usize,
    /// Runs that made no prompt.
    pub(crate) without_prompt: usize,
    /// The first one, and those that were changed or refused, as far as there is room.
    pub(crate) runs: Vec<Again>,
}

/// One run again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Again {
    pub(crate) run: String,
    /// The trigger's position.
    pub(crate) trigger: String,
    pub(crate) verdict: Verdict,
    /// Why it was refused, or had no prompt.
    pub(crate) reason: Option<String>,
    pub(crate) recorded: Option<Prompt>,
    pub(crate) rendered: Option<Prompt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    Same,
    Changed,
    Refused,
    NoPrompt,
}

/// A prompt with its hash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Prompt {
    pub(crate) hash: String,
    pub(crate) tokens: usize,
    pub(crate) messages: Arc<[Message]>,
}

impl From<headwater_engine::replay::Replayed> for Prompt {
    fn from(replayed: headwater_engine::replay::Replayed) -> Self {
        Self {
            hash: replayed.hash,
            tokens: replayed.tokens,
            messages: replayed.messages,
        }
    }
}

/// The views that there are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Views {
    pub(crate) namespace: Option<String>,
}

/// A view in figures. What cannot be known from where it was asked is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ViewFigures {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) generation: String,
    pub(crate) ready: Option<bool>,
    pub(crate) restored_percent: Option<u8>,
    pub(crate) keys: u64,
    /// Of keys and values.
    pub(crate) bytes: u64,
    pub(crate) records_per_second: Option<f64>,
    /// Records in the sources that are not in the view yet.
    pub(crate) behind: Option<u64>,
    pub(crate) behind_ms: Option<u64>,
    pub(crate) dead_letters: Option<u64>,
    /// What keeps it from its work, in sentences.
    pub(crate) problems: Vec<String>,
}

/// Keys of a view, or one of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    pub(crate) namespace: Option<String>,
    pub(crate) view: String,
    /// Absent: the first keys.
    pub(crate) key: Option<String>,
    pub(crate) limit: u32,
}

/// What a view holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Seen {
    pub(crate) view: String,
    pub(crate) generation: String,
    /// `latest`, `history` or `aggregate`.
    pub(crate) fold: String,
    /// The log that is folded.
    pub(crate) input: String,
    pub(crate) rows: Vec<Row>,
}

/// One value, or one event of a history, and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) key: String,
    /// Null with no position: the key is known, and not seen by readers (expired, or incomplete).
    pub(crate) value: Value,
    /// The source record that the value is from: `<topic>-<partition>-<offset>`.
    pub(crate) position: Option<String>,
    /// Event time of that record.
    pub(crate) time: Option<String>,
    /// The input's partition that holds it.
    pub(crate) partition: i32,
    /// Every record of that partition below this offset is folded.
    pub(crate) next: i64,
}

/// What a resource refused: `view/NAME` or `agent/NAME`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Letters {
    pub(crate) namespace: Option<String>,
    pub(crate) resource: String,
    /// Only the one of this record.
    pub(crate) position: Option<String>,
    pub(crate) limit: u32,
}

/// A record that was refused. Bytes that are no text stand as `{"base64": "..."}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Letter {
    /// Of the record that was refused.
    pub(crate) position: String,
    pub(crate) refused_at: String,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) key: Value,
    pub(crate) value: Value,
    /// The value was too large to be kept beside the reason.
    pub(crate) value_left_out: bool,
    pub(crate) headers: BTreeMap<String, Value>,
    /// The record's own timestamp.
    pub(crate) timestamp: Option<String>,
    /// It had been refused before, at this position, and was fed again.
    pub(crate) fed_again_from: Option<String>,
    /// It was fed again, and is in the log at this position.
    pub(crate) fed_again_to: Option<String>,
}

/// Feeds refused records to their sources again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Retry {
    pub(crate) namespace: Option<String>,
    pub(crate) resource: String,
    /// Absent: all that were not fed again yet.
    pub(crate) position: Option<String>,
    /// Also one that was fed again before.
    pub(crate) again: bool,
}

/// What became of one of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Retried {
    pub(crate) position: String,
    /// Where the log has it now.
    pub(crate) fed_to: Option<String>,
    /// Why it was not fed.
    pub(crate) left: Option<String>,
}

/// What waits for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) namespace: Option<String>,
    /// Only what this one asks.
    pub(crate) agent: Option<String>,
}

/// A call that is made only if a person says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Question {
    /// Its id.
    pub(crate) approval: String,
    pub(crate) namespace: String,
    pub(crate) agent: String,
    pub(crate) run: String,
    /// Of the agent's policy.
    pub(crate) rule: String,
    pub(crate) message: String,
    pub(crate) tool: String,
    /// As they would be sent.
    pub(crate) arguments: Value,
    pub(crate) asked_at: String,
    /// Silence denies then.
    pub(crate) expires_at: String,
}

/// A person's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Decide {
    pub(crate) namespace: Option<String>,
    /// Its id, or the beginning of it.
    pub(crate) approval: String,
    pub(crate) approve: bool,
    pub(crate) reason: Option<String>,
}

/// The answer that counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Decided {
    pub(crate) by: String,
    pub(crate) approved: bool,
    pub(crate) question: Question,
}

/// Where something that stands still goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Resume {
    pub(crate) namespace: Option<String>,
    pub(crate) resource: String,
    /// `Earliest`, `Latest` or a position; absent: past a record.
    pub(crate) from: Option<String>,
    /// The record to go past; absent: those at which a stage in the same process stands still.
    pub(crate) skip: Option<String>,
}

/// What was decided for a partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Resumed {
    /// `<topic>-<partition>`
    pub(crate) partition: String,
    /// In words.
    pub(crate) what: String,
}

/// Why it was not done: a sentence that says what to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub(crate) message: String,
    /// Nothing was wrong with what was asked: the log or a stage failed.
    pub(crate) failed: bool,
}
