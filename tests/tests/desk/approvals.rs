//! The people at the desk: what they are asked, what they answer, and what has to come of it.
//!
//! What a question is about decides what is said to it: approved, denied, both, or nothing. What counts is in the topic: the first
//! answer that the log took in time.

use crate::naive::Raw;
use headwater_engine::approval::{Answer, Entry};
use headwater_engine::record::NewRecord;
use serde_json::{Value, json};
use std::collections::HashMap;

/// How a question ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    Approved { by: String },
    Denied,
    Expired,
}

/// Questions with what was said to them, by the approval's id.
#[derive(Debug, Default)]
pub struct Questions(HashMap<String, Question>);

#[derive(Debug)]
struct Question {
    asked: Value,
    partition: i32,
    /// With the log's time.
    first: Option<(i64, Value)>,
}

impl Questions {
    /// Takes a record of the topic.
    ///
    /// # Errors
    /// A question that was put before.
    pub fn record(&mut self, raw: &Raw) -> Result<(), String> {
        let id = raw.key_text().to_owned();
        let entry: Value = serde_json::from_slice(raw.value.as_deref().unwrap()).unwrap();
        match (entry.get("asked"), entry.get("answer")) {
            (Some(asked), None) => {
                let question = Question {
                    asked: asked.clone(),
                    partition: raw.partition,
                    first: None,
                };
                match self.0.insert(id, question) {
                    None => Ok(()),
                    Some(before) => Err(format!("it was asked twice: {before:?}")),
                }
            }
            (None, Some(answer)) => {
                let question = self.0.get_mut(&id).ok_or("nobody asked that")?;
                let first = (raw.timestamp, answer.clone());
                question.first.get_or_insert(first);
                Ok(())
            }
            _ => Err(format!("neither question nor answer: {entry}")),
        }
    }

    /// What came of the question of a call, which has to be about these arguments.
    ///
    /// # Errors
    /// There was no such question, or it was about something else.
    pub fn settled(
        &self,
        id: &str,
        partition: i32,
        run: &str,
        arguments: &Value,
    ) -> Result<Settled, String> {
        let question = self.0.get(id).ok_or("nobody was asked")?;
        let asked = &question.asked;
        if asked["arguments"] != *arguments
            || asked["run"] != run
            || question.partition != partition
        {
            return Err(format!("something else was asked: {question:?}"));
        }
        let expires = asked["expiresAt"].as_i64().unwrap();
        Ok(match &question.first {
            Some((at, answer)) if *at <= expires => {
                if answer["approve"] == true {
                    let by = answer["by"].as_str().unwrap().to_owned();
                    Settled::Approved { by }
                } else {
                    Settled::Denied
                }
            }
            _ => Settled::Expired,
        })
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// What people say to a record of the topic: none to what is no question, or to one that nobody heeds.
pub fn answers(topic: &str, raw: &Raw) -> Vec<NewRecord> {
    let entry: Value = serde_json::from_slice(raw.value.as_deref().unwrap_or_default())
        .unwrap_or_else(|_| json!({}));
    let Some(asked) = entry.get("asked") else {
        return Vec::new();
    };
    let n = asked["arguments"]["n"].as_u64().unwrap();
    let verdicts: &[bool] = match n % 8 {
        0 => &[],
        1 => &[false],
        2 => &[false, true],
        3 => &[true, false],
        _ => &[true],
    };
    let answer = |(number, approve): (usize, &bool)| {
        let answer = Entry::Answer(Answer {
            approve: *approve,
            by: format!("person-{number}"),
            reason: None,
        });
        let record = answer.record(topic, raw.partition, raw.key_text());
        record.unwrap()
    };
    verdicts.iter().enumerate().map(answer).collect()
}
