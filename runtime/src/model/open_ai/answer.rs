//! What a chat completion looks like on the wire, whole or in pieces.

use headwater_engine::model::{Reply, Usage};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub(super) struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Counted>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct Counted {
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    completion_tokens: Option<u64>,
}

impl From<Counted> for Usage {
    fn from(counted: Counted) -> Self {
        Self {
            input_tokens: counted.prompt_tokens,
            output_tokens: counted.completion_tokens,
        }
    }
}

impl Completion {
    pub(super) fn reply(self) -> Result<Reply, String> {
        if let Some(error) = self.error.filter(|error| !error.is_null()) {
            return Err(format!("it says {error}"));
        }
        let Some(choice) = self.choices.into_iter().next() else {
            return Err("it has no choice".to_owned());
        };
        let Some(text) = choice.message.content.or(choice.message.refusal) else {
            return Err("its message has no text".to_owned());
        };
        Ok(Reply {
            text,
            usage: self.usage.map(Usage::from).unwrap_or_default(),
            finish_reason: choice.finish_reason.unwrap_or_default(),
            ..Reply::default()
        })
    }
}

/// One event of a streamed answer. The last ones may have usage and no choice.
#[derive(Deserialize)]
pub(super) struct Piece {
    #[serde(default)]
    choices: Vec<PieceChoice>,
    #[serde(default)]
    usage: Option<Counted>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct PieceChoice {
    #[serde(default)]
    delta: Said,
    #[serde(default)]
    finish_reason: Option<String>,
}

impl Piece {
    pub(super) fn add_to(self, reply: &mut Reply) -> Result<(), String> {
        if let Some(error) = self.error.filter(|error| !error.is_null()) {
            return Err(format!("it says {error}"));
        }
        if let Some(choice) = self.choices.into_iter().next() {
            let text = choice.delta.content.or(choice.delta.refusal);
            reply.text.push_str(text.as_deref().unwrap_or_default());
            if let Some(reason) = choice.finish_reason {
                reply.finish_reason = reason;
            }
        }
        if let Some(usage) = self.usage {
            reply.usage = usage.into();
        }
        Ok(())
    }
}
