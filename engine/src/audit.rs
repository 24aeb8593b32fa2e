//! The audit of a run: what it was told, from where, and what came of it.
//!
//! One JSON record a run, in the agent's runs topic, keyed by the run's id, written in the run's
//! transaction. It is what `prompts` shows and `replay` renders again. Its shape (absent parts are
//! left out):
//!
//! ```json
//! {"run": "fka7...", "agent": "shop/helper", "attempt": 1, "outcome": "Done",
//!  "trigger": {"position": "shop.questions-0-41", "timestamp": 1764016518120, "time": 1764016518000, "key": "c1"},
//!  "root": "shop.questions-0-41", "hops": 1,
//!  "specHash": "9f86...", "templateHash": "60e0...",
//!  "waitedMs": 3, "assembledAt": 1764016518125, "finishedAt": 1764016518600,
//!  "slots": [{"slot": "flights", "view": "flights", "generation": "a1b2c3", "one": false,
//!    "keys": ["HW117"], "rows": [{"key": "HW117", "position": "shop.flights-2-7", "time": 1764016517000}],
//!    "count": 1, "omitted": 0, "missing": [], "asOf": 1764016517000, "ageSeconds": 1,
//!    "staleSeconds": 0, "stale": false,
//!    "covered": [{"partition": "shop.flights-2", "next": 8}], "behind": []}],
//!  "now": [],
//!  "turns": {"shown": 2, "omitted": 0},
//!  "prompt": {"hash": "2c26...", "tokens": 812, "messages": [{"content": "...", "role": "system"}]},
//!  "input": {"event": {}, "context": {}, "meta": {}, "conversation": [], "run": {}},
//!  "model": {"name": "chat", "model": "gpt-4o-mini", "usage": {}, "finishReason": "stop", "answer": "...",
//!    "calls": [{"milliseconds": 480, "usage": {}, "finishReason": "stop"}]},
//!  "calls": [{"id": "call-1-1", "tool": "rebook", "arguments": {}, "outcome": "Done", "result": {}, "milliseconds": 12}],
//!  "outputs": [{"output": "answer", "topic": "shop.answers", "key": "c1"}],
//!  "failure": {"reason": "OverBudget", "message": "..."},
//!  "values": "Full"}
//! ```
//!
//! `now` has the slots that outputs read once more, as `slots` has the others. `rows` names the rows that were shown; `input` is the template input, from which the same templates
//! give the same prompt. Times are milliseconds since the epoch. `values` says what of the content is
//! there: `Full`; `Hashes`: neither messages, input, answer nor what calls sent and got, and keys as `sha256:` and their hash;
//! `Packed`: as it was over 900 KiB, messages, input and answer are left out here, and the whole record
//! stands in `packed`, compressed with Zstandard, in base64; `TooLarge`: they are left out, as even that
//! was over 900 KiB. Where the rows' origins alone are too many, they are left out too, and only counted.
//! [`Record::read`] gives back what was written, unpacked.

use crate::config;
use crate::fault::{Fault, Reason};
use crate::model::{Called, Message, Usage};
use crate::record::{NewRecord, Position, TopicPartition};
use crate::run::sha256;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write as _;
use std::sync::Arc;

/// The largest audit record, in bytes; Kafka's own limit is 1 MiB with headers.
pub const BYTES_MAX: usize = 900 * 1_024;
/// The largest record that is unpacked, in bytes: what one claims to come to is not believed beyond it.
const UNPACKED_BYTES_MAX: usize = 256 * 1_024 * 1_024;
/// Of Zstandard: the speed of the lowest, as a run waits for it.
const COMPRESSION_LEVEL: i32 = 1;

/// Why bytes of a runs topic are no audit record.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("it is no record of a run: {0}")]
    NoRun(#[from] serde_json::Error),
    #[error("the record of run {run} cannot be unpacked: {why}")]
    Packed { run: String, why: String },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    Done,
    /// `when` was false: no model was asked.
    Skipped,
    /// A run of the same `once` key was done before, or waits.
    Duplicate,
    /// A newer trigger of its key took its place.
    Coalesced,
    Failed,
    /// It is not over: a person is asked. Of such a run nothing is in the audit yet.
    Waiting,
}

/// What of the content an audit record holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Values {
    #[default]
    Full,
    Hashes,
    /// Only as it is written: what is read is `Full` again.
    Packed,
    TooLarge,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub run: String,
    /// `<namespace>/<name>`.
    pub agent: String,
    /// From 1; 0 for a trigger that was refused before a run of it began.
    pub attempt: u32,
    pub outcome: Outcome,
    pub trigger: Trigger,
    #[serde(with = "text")]
    pub root: Position,
    pub hops: u32,
    /// SHA-256 of the agent's configuration.
    pub spec_hash: String,
    /// SHA-256 of the prompt's templates; absent without a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_hash: Option<String>,
    /// How long the last attempt waited for the views; absent where it did not come to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
    /// When the slots were read; absent where it did not come to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assembled_at: Option<i64>,
    pub finished_at: i64,
    #[serde(default)]
    pub slots: Vec<Slot>,
    /// Slots that were read once more when the model had answered, for outputs; all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub now: Vec<Slot>,
    #[serde(default)]
    pub turns: Turns,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Arc<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// Calls of tools, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Called>,
    /// What outputs wrote, and tools that write.
    #[serde(default)]
    pub outputs: Vec<Written>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The run that was done before, or that takes the place of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<String>,
    pub values: Values,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    #[serde(with = "text")]
    pub position: Position,
    /// On the log, milliseconds since the epoch.
    pub timestamp: i64,
    /// Event time T, at which the run reads.
    pub time: i64,
    pub key: Option<String>,
    /// The row that the run is for, where one trigger starts several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
}

/// One slot as it was read and shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    pub slot: String,
    pub view: String,
    pub generation: String,
    /// One value was asked for, not a list.
    pub one: bool,
    pub keys: Vec<String>,
    /// The rows shown, in their order.
    pub rows: Vec<Row>,
    /// Rows shown.
    pub count: usize,
    /// Rows read and not shown, for a budget or for being stale.
    pub omitted: usize,
    /// Keys asked for that held nothing.
    pub missing: Vec<String>,
    /// Newest event time among the rows shown.
    pub as_of: Option<i64>,
    /// From `asOf` to the assembly, whole seconds, rounded down; never below 0.
    pub age_seconds: Option<i64>,
    /// Since the view last held all that was in the log, in seconds, rounded up: 0 says that it did.
    pub stale_seconds: i64,
    /// Over `maxStalenessSeconds`.
    pub stale: bool,
    /// Per root source partition, the offset below which every record is in what was read.
    pub covered: Vec<Covered>,
    /// Partitions that had not been folded to their end when the run went on.
    pub behind: Vec<Behind>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub key: String,
    /// The source record that caused the value.
    #[serde(with = "text")]
    pub position: Position,
    /// Its event time.
    pub time: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covered {
    #[serde(with = "partition")]
    pub partition: TopicPartition,
    pub next: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    #[serde(with = "partition")]
    pub partition: TopicPartition,
    /// Up to where it was folded.
    pub position: i64,
    /// Up to where it should have been.
    pub end: i64,
    /// What is missing belongs to transactions of its producers that were not decided, or were not marked yet. Nobody
    /// can read it, and it was not waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undecided: bool,
}

/// Turns of the conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turns {
    pub shown: usize,
    /// Left out for the budget, oldest first.
    pub omitted: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// SHA-256 of the canonical JSON of the messages, hexadecimal.
    pub hash: String,
    pub tokens: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Arc<[Message]>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The resource's name.
    pub name: String,
    /// What the provider calls it.
    pub model: String,
    /// Of all calls together.
    pub usage: Usage,
    pub finish_reason: String,
    /// The answer of the run; absent for a run that came to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// All calls that were answered, the last one's answer being the run's.
    #[serde(default)]
    pub calls: Vec<Call>,
}

/// One call of the model, however often it was repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// From asking to the answer.
    pub milliseconds: u64,
    pub usage: Usage,
    pub finish_reason: String,
    /// Name of the model that answered in the place of the agent's; absent where that one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
    /// How the answer does not fit the result's schema, without its values; absent where it is the run's, or asks for calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// What was rejected, or said beside calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// One record that the run wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub output: String,
    pub topic: String,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub reason: Reason,
    pub message: String,
    /// Outputs for failed runs that failed themselves, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<String>,
}

impl From<&Fault> for Failure {
    fn from(fault: &Fault) -> Self {
        Self {
            reason: fault.reason,
            message: fault.message.clone(),
            outputs: Vec::new(),
        }
    }
}

impl Record {
    /// The record for the runs topic, with as many values as `audit` and the size allow.
    ///
    /// # Errors
    /// None that data can cause: what a record holds is text, numbers and JSON.
    pub fn write(
        &self,
        audit: config::Audit,
        topic: &str,
        partition: i32,
    ) -> Result<NewRecord, serde_json::Error> {
        let value = match audit {
            config::Audit::Hashes => self.hashed().within_limit()?,
            config::Audit::Full => {
                let mut full = Vec::with_capacity(self.bytes_about());
                serde_json::to_writer(&mut full, self)?;
                if full.len() <= BYTES_MAX {
                    full
                } else {
                    self.packed(&full)?
                }
            }
        };
        Ok(NewRecord {
            topic: topic.to_owned(),
            partition: Some(partition),
            key: Some(self.run.as_bytes().to_vec()),
            value: Some(value),
            ..NewRecord::default()
        })
    }

    /// How long it is as JSON, so that most are written without moving. What the prompt says stands in the messages and,
    /// with names, in the input.
    fn bytes_about(&self) -> usize {
        let prompt = self.prompt.as_ref();
        let messages = prompt.and_then(|prompt| prompt.messages.as_deref());
        let said: usize = messages
            .iter()
            .copied()
            .flatten()
            .map(|own| own.content.len())
            .sum();
        4_096 + 4 * said
    }

    /// The record that bytes of the runs topic hold.
    ///
    /// # Errors
    /// Bytes that are something else, or that claim to be packed and are not.
    pub fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let record: Self = serde_json::from_slice(bytes)?;
        if record.values != Values::Packed {
            return Ok(record);
        }
        let bad = |why: &str| ReadError::Packed {
            run: record.run.clone(),
            why: why.to_owned(),
        };
        let Pack { packed } = serde_json::from_slice(bytes)?;
        let compressed = BASE64
            .decode(packed.as_bytes())
            .map_err(|_| bad("it is no base64"))?;
        let size = zstd_safe::get_frame_content_size(&compressed)
            .ok()
            .flatten()
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| *size <= UNPACKED_BYTES_MAX)
            .ok_or_else(|| bad("it does not say its size, or an impossible one"))?;
        let mut unpacked = vec![0; size];
        let length = zstd_safe::decompress(unpacked.as_mut_slice(), &compressed)
            .map_err(|code| bad(zstd_safe::get_error_name(code)))?;
        let whole = unpacked
            .get(..length)
            .ok_or_else(|| bad("it ends too soon"))?;
        Ok(serde_json::from_slice(whole)?)
    }

    /// `full` is the whole record as JSON.
    fn packed(&self, full: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        let mut compressed = vec![0; zstd_safe::compress_bound(full.len())];
        let length = zstd_safe::compress(compressed.as_mut_slice(), full, COMPRESSION_LEVEL).ok();
        if let Some(compressed) = length.and_then(|length| compressed.get(..length)) {
            let packed = BASE64.encode(compressed);
            let mut record = self.without_values(Values::Packed);
            for rows_too in [true, false] {
                if !rows_too {
                    record.leave_rows_out();
                }
                let written = serde_json::to_vec(&WithPack {
                    record: &record,
                    packed: &packed,
                })?;
                if written.len() <= BYTES_MAX {
                    return Ok(written);
                }
            }
        }
        self.without_values(Values::TooLarge).within_limit()
    }

    /// As JSON; without the rows' origins and the keys where it would be too large with them.
    fn within_limit(mut self) -> Result<Vec<u8>, serde_json::Error> {
        let written = serde_json::to_vec(&self)?;
        if written.len() <= BYTES_MAX {
            return Ok(written);
        }
        self.leave_rows_out();
        serde_json::to_vec(&self)
    }

    fn leave_rows_out(&mut self) {
        for slot in self.slots.iter_mut().chain(&mut self.now) {
            slot.keys.clear();
            slot.rows.clear();
            slot.missing.clear();
        }
    }

    fn without_values(&self, values: Values) -> Self {
        let mut record = Self {
            input: None,
            values,
            ..self.clone()
        };
        if let Some(prompt) = &mut record.prompt {
            prompt.messages = None;
        }
        if let Some(model) = &mut record.model {
            model.answer = None;
            model.calls.iter_mut().for_each(|call| call.answer = None);
        }
        for called in &mut record.calls {
            called.arguments = Value::Null;
            called.result = Value::Null;
        }
        record
    }

    fn hashed(&self) -> Self {
        let hash = |key: &mut String| *key = format!("sha256:{}", sha256(key.as_bytes()));
        let mut record = self.without_values(Values::Hashes);
        record.trigger.key.as_mut().map(hash);
        for slot in record.slots.iter_mut().chain(&mut record.now) {
            slot.keys.iter_mut().for_each(hash);
            slot.missing.iter_mut().for_each(hash);
            slot.rows.iter_mut().for_each(|row| hash(&mut row.key));
        }
        for written in &mut record.outputs {
            hash(&mut written.key);
        }
        record
    }

    /// From the first slot read to the end, milliseconds.
    pub fn duration_ms(&self) -> Option<i64> {
        self.assembled_at.map(|from| self.finished_at - from)
    }
}

/// A record whose values stand compressed beside it.
#[derive(Serialize)]
struct WithPack<'a> {
    #[serde(flatten)]
    record: &'a Record,
    packed: &'a str,
}

#[derive(Deserialize)]
struct Pack {
    packed: String,
}

impl Slot {
    /// One line for people: what the slot shows and from where.
    pub fn provenance(&self) -> String {
        let mut line = format!("{} <- view {}", self.slot, self.view);
        match self.rows.as_slice() {
            [] => line.push_str(": nothing"),
            [row] => {
                let _ = write!(line, ": {} at {}", row.key, row.position);
            }
            rows => {
                let _ = write!(line, ": {} rows", rows.len());
                if let Some(newest) = rows.iter().max_by_key(|row| row.time) {
                    let _ = write!(line, ", newest {} at {}", newest.key, newest.position);
                }
            }
        }
        if let Some(age) = self.age_seconds {
            let _ = write!(line, ", {age} s old");
        }
        if self.omitted > 0 {
            let _ = write!(line, ", {} omitted", self.omitted);
        }
        if !self.missing.is_empty() {
            let _ = write!(line, ", {} missing", self.missing.len());
        }
        if self.stale_seconds > 0 {
            let _ = write!(line, ", stale by up to {} s", self.stale_seconds);
        }
        line
    }
}

/// Positions as `<topic>-<partition>-<offset>`.
mod text {
    use crate::record::Position;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        position: &Position,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(position)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Position, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Partitions as `<topic>-<partition>`.
mod partition {
    use crate::record::TopicPartition;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        partition: &TopicPartition,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(partition)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<TopicPartition, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.rsplit_once('-')
            .and_then(|(topic, number)| Some(TopicPartition::new(topic, number.parse().ok()?)))
            .ok_or_else(|| D::Error::custom("a partition is written <topic>-<number>"))
    }
}
