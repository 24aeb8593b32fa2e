//! What a person is asked before a call, and what the person says.
//!
//! Both are records of an agent's `approvals` topic: the key is the approval's id, the value JSON with one of `asked`
//! and `answer` ([`Entry`]), in the partition of the run's trigger. What is asked is written in the transaction that
//! lets the run wait ([`crate::agent::Agent::park`]), and never again. An answer is written by whoever may write the
//! topic, and by nobody else: no event and nothing that a model or a tool says is one. The first answer counts, if
//! the log took it in time.
//!
//! The run itself waits in the journal ([`Parked`], [`Answered`]): its trigger is finished by then, and its key goes on.

use crate::fault::{Fault, Reason};
use crate::key::Key;
use crate::model::Called;
use crate::record::{NewRecord, OwnedRecord, Record};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A call that waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asked {
    /// The approval's id: of this call in this run.
    pub approval: String,
    /// `<namespace>/<name>`.
    pub agent: String,
    pub run: String,
    /// The rule of the policy that asks.
    pub rule: String,
    pub message: String,
    pub tool: String,
    /// As they would be sent, with what is fixed.
    pub arguments: Value,
    /// Milliseconds since the epoch.
    pub asked_at: i64,
    /// When silence denies, milliseconds since the epoch.
    pub expires_at: i64,
}

/// What a person says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    pub approve: bool,
    /// Who says so.
    pub by: String,
    /// For the model, and for the audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One record of the topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Entry {
    Asked(Asked),
    Answer(Answer),
}

/// A run that waits, as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parked {
    pub asked: Asked,
    /// What came of the calls of the same reply before the one that waits.
    pub made: Vec<Called>,
    /// SHA-256 of tool and arguments: only these are approved.
    pub hash: String,
    pub trigger: Kept,
}

/// A trigger whose record was read long ago.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// As its own log had it.
    pub record: OwnedRecord,
    pub key: Option<Key>,
    /// With `forEach`: the row that the run is for, and what tells it apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<(String, Value)>,
    /// Of the log that runs start from.
    pub partition: i32,
}

/// How the question ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answered {
    By(Answer),
    /// Nobody answered in time.
    Expired,
}

impl Answered {
    /// What this answer is, given when the log took it: one that is late is none.
    pub fn of(answer: &Answer, taken_at: i64, expires_at: i64) -> Self {
        if taken_at <= expires_at {
            Self::By(answer.clone())
        } else {
            Self::Expired
        }
    }

    /// Who approved; else why the call is not made, as the model is told.
    pub(crate) fn verdict(&self) -> Result<&str, String> {
        match self {
            Self::By(answer) if answer.approve => Ok(&answer.by),
            Self::By(Answer { by, reason, .. }) => Err(match reason {
                Some(reason) => format!("{by} denied this call: {reason}"),
                None => format!("{by} denied this call"),
            }),
            Self::Expired => Err("nobody approved this call in time".to_owned()),
        }
    }
}

impl Entry {
    /// `approval`: its id; `partition`: that of the run's trigger.
    ///
    /// # Errors
    /// `OutputFailed` where it is no JSON, which no data can cause.
    pub fn record(&self, topic: &str, partition: i32, approval: &str) -> Result<NewRecord, Fault> {
        Ok(NewRecord {
            topic: topic.to_owned(),
            partition: Some(partition),
            key: Some(approval.as_bytes().to_vec()),
            value: Some(json(self)?),
            ..NewRecord::default()
        })
    }

    /// The approval's id, and what is said of it; `None` for a record that is none of the two.
    pub fn read<'a>(record: &Record<'a>) -> Option<(&'a str, Self)> {
        let approval = std::str::from_utf8(record.key?).ok()?;
        let entry = serde_json::from_slice(record.value?).ok()?;
        Some((approval, entry))
    }
}

/// As bytes of a record.
pub(crate) fn json(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(value).map_err(|error| {
        Fault::new(
            Reason::OutputFailed,
            format!("a record about an approval cannot be written as JSON: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn asked() -> Asked {
        Asked {
            approval: "r-1-1".into(),
            agent: "bank/fraud".into(),
            run: "r".into(),
            rule: "block".into(),
            message: "Block the card?".into(),
            tool: "block".into(),
            arguments: json!({"card": "c1"}),
            asked_at: 1_000,
            expires_at: 2_000,
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let answer = Answer {
            approve: true,
            by: "ana".into(),
            reason: None,
        };
        for entry in [Entry::Asked(asked()), Entry::Answer(answer)] {
            let record = entry
                .record("bank.agent.fraud.approvals", 3, "r-1-1")
                .unwrap();
            assert_eq!(record.partition, Some(3));
            record.lend(0, |record| {
                assert_eq!(Entry::read(record), Some(("r-1-1", entry.clone())));
            });
        }
        // What others wrote is nothing.
        for value in [
            "",
            "{}",
            "yes",
            r#"{"answer": {"approve": "yes", "by": "x"}}"#,
        ] {
            let record = NewRecord {
                key: Some(b"r-1-1".to_vec()),
                value: Some(value.as_bytes().to_vec()),
                ..NewRecord::default()
            };
            record.lend(0, |record| assert_eq!(Entry::read(record), None, "{value}"));
        }
    }

    #[test]
    fn a_late_answer_is_none() {
        let answer = Answer {
            approve: true,
            by: "ana".into(),
            reason: None,
        };
        assert_eq!(Answered::of(&answer, 2_000, 2_000).verdict(), Ok("ana"));
        assert_eq!(Answered::of(&answer, 2_001, 2_000), Answered::Expired);
    }
}
