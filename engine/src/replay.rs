//! A recorded run again: the prompt that its audit record gives with a set of templates.
//!
//! [`replay`] proves a record: the agent's templates and the recorded input give the recorded messages,
//! byte for byte, or it says why that cannot be known. [`compare`] asks what other templates would have
//! made of the same input. Neither reads a view, a clock or a model; what a run read is in its record.
//! Finding records is left to the caller.

use crate::agent::Agent;
use crate::audit::{self, Outcome, Values};
use crate::fault::Fault;
use crate::model::Message;
use crate::prompt::{self, Prompt, message_tokens};
use crate::tokens::REPLY_OVERHEAD;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// A prompt that was rendered from a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    pub messages: Arc<[Message]>,
    /// SHA-256 of the canonical JSON of the messages, hexadecimal.
    pub hash: String,
    /// Of the whole prompt.
    pub tokens: usize,
}

/// A recorded prompt, and what other templates make of what its run read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    pub recorded: Replayed,
    pub rendered: Replayed,
}

/// Why a run is not replayed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("the run is one of agent '{recorded}', not of '{asked}'")]
    OtherAgent { recorded: String, asked: String },
    #[error("the run made no prompt: {0}")]
    NoPrompt(String),
    #[error(
        "the audit of the run holds no values, as `audit.content` was Hashes, so there is nothing to render. Runs after a change to Full can be replayed"
    )]
    Hashes,
    #[error(
        "the audit of the run holds no values, as it would have been over {} KiB even compressed. Give the slots a limit or budgetTokens",
        audit::BYTES_MAX / 1_024
    )]
    TooLarge,
    #[error(
        "the agent's templates are others than those of the run: theirs had the SHA-256 {recorded}, those of now have {now}. Give the templates of then to have it replayed, or compare it with those of now"
    )]
    OtherTemplates { recorded: String, now: String },
    #[error(
        "the recorded messages do not have the recorded hash {0}: the record was changed after it was written"
    )]
    Damaged(String),
    #[error("{0}")]
    Template(Fault),
    #[error(
        "the templates and the input of the run give another prompt than the recorded one, from {0}: this version renders otherwise than the one that made it"
    )]
    Differs(Place),
}

/// Where two prompts begin to differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub message: usize,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {}, line {} on", self.message, self.line)
    }
}

/// Renders a run again with the templates of its agent.
///
/// # Errors
/// Every reason for which the prompt is not proven to be the recorded one, byte for byte.
pub fn replay(agent: &Agent, record: &audit::Record) -> Result<Replayed, Refusal> {
    of_agent(agent, record)?;
    let (recorded, input) = recorded(record)?;
    let templates = agent.prompt().ok_or_else(no_prompt_now)?;
    let then = record.template_hash.as_deref().unwrap_or_default();
    if then != templates.template_hash() {
        return Err(Refusal::OtherTemplates {
            recorded: then.to_owned(),
            now: templates.template_hash().to_owned(),
        });
    }
    let rendered = render(templates, input)?;
    match difference(&recorded.messages, &rendered.messages) {
        Some(place) => Err(Refusal::Differs(place)),
        None => Ok(rendered),
    }
}

/// What the templates of `agent`, whatever they are, make of what the run read. Its budget is not
/// asked: the input is what the run showed.
///
/// # Errors
/// Where there is nothing to render, or a template fails on the input.
pub fn compare(agent: &Agent, record: &audit::Record) -> Result<Comparison, Refusal> {
    of_agent(agent, record)?;
    let (recorded, input) = recorded(record)?;
    let templates = agent.prompt().ok_or_else(no_prompt_now)?;
    let rendered = render(templates, input)?;
    Ok(Comparison { recorded, rendered })
}

fn of_agent(agent: &Agent, record: &audit::Record) -> Result<(), Refusal> {
    if record.agent == agent.full_name() {
        return Ok(());
    }
    Err(Refusal::OtherAgent {
        recorded: record.agent.clone(),
        asked: agent.full_name().to_owned(),
    })
}

/// The recorded prompt, which is what it says it is, and the input.
fn recorded(record: &audit::Record) -> Result<(Replayed, &Value), Refusal> {
    let Some(prompt) = &record.prompt else {
        return Err(Refusal::NoPrompt(why_none(record)));
    };
    let (Some(messages), Some(input)) = (&prompt.messages, &record.input) else {
        return Err(match record.values {
            Values::Hashes => Refusal::Hashes,
            _ => Refusal::TooLarge,
        });
    };
    if prompt::hash(messages) != prompt.hash {
        return Err(Refusal::Damaged(prompt.hash.clone()));
    }
    let recorded = Replayed {
        messages: Arc::clone(messages),
        hash: prompt.hash.clone(),
        tokens: prompt.tokens,
    };
    Ok((recorded, input))
}

fn why_none(record: &audit::Record) -> String {
    match (&record.failure, record.outcome) {
        (Some(failure), _) => format!(
            "it failed before, with {}: {}",
            failure.reason, failure.message
        ),
        (None, Outcome::Skipped) => "its `when` was false".to_owned(),
        (None, Outcome::Duplicate) => {
            "a run of the same `once` key was done before, or waits".to_owned()
        }
        (None, Outcome::Coalesced) => "a newer trigger of its key took its place".to_owned(),
        (None, Outcome::Waiting) => "it waits for a person".to_owned(),
        (None, _) => "its agent had neither a model nor a prompt".to_owned(),
    }
}

fn no_prompt_now() -> Refusal {
    Refusal::NoPrompt("the agent has neither a model nor a prompt any more".to_owned())
}

fn render(templates: &Prompt, input: &Value) -> Result<Replayed, Refusal> {
    let (messages, hash) = templates.replay(input).map_err(Refusal::Template)?;
    Ok(Replayed {
        tokens: messages
            .iter()
            .map(|message| message_tokens(&message.content))
            .sum::<usize>()
            + REPLY_OVERHEAD,
        messages,
        hash,
    })
}

fn difference(recorded: &[Message], rendered: &[Message]) -> Option<Place> {
    let message = recorded
        .iter()
        .zip(rendered)
        .position(|(then, now)| then != now)
        .or_else(|| {
            (recorded.len() != rendered.len()).then(|| recorded.len().min(rendered.len()))
        })?;
    let lines = |all: &[Message]| -> Vec<String> {
        all.get(message)
            .map(|message| message.content.split('\n').map(str::to_owned).collect())
            .unwrap_or_default()
    };
    let (then, now) = (lines(recorded), lines(rendered));
    let line = then
        .iter()
        .zip(&now)
        .position(|(then, now)| then != now)
        .unwrap_or_else(|| then.len().min(now.len()));
    Some(Place {
        message: message + 1,
        line: line + 1,
    })
}
