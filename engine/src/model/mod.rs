//! What is asked of a model and what it says, whoever the provider is.
//!
//! A [`Request`] is data: the runtime sends it and gives back a [`Reply`]. [`scripted`] answers from
//! rules, without any network.

pub mod scripted;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// Who speaks in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One message of a prompt. The fields stand in the order of their names, so that its JSON is
/// canonical as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub content: String,
    pub role: Role,
}

impl Message {
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            content: content.into(),
            role,
        }
    }
}

/// One call of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub messages: Arc<[Message]>,
    /// What the provider calls the model.
    pub model: String,
    /// Merged into the provider's request.
    pub parameters: Map<String, Value>,
    pub max_output_tokens: u32,
    /// JSON Schema that the answer has to fit, for providers that can be held to it.
    pub schema: Option<Arc<Value>>,
    /// The template input that the prompt was rendered from; scripted rules read its `context`.
    pub input: Arc<Value>,
    /// The same for every attempt at the same step of the same run.
    pub idempotency_key: String,
}

impl Request {
    /// What the slots held, by slot.
    pub fn context(&self) -> &Value {
        self.input.get("context").unwrap_or(&Value::Null)
    }

    /// The last message of the user, empty if there is none.
    pub fn prompt(&self) -> &str {
        self.messages
            .iter()
            .rev()
            .find(|message| message.role == Role::User)
            .map_or("", |message| message.content.as_str())
    }
}

/// What a model said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub text: String,
    #[serde(default)]
    pub usage: Usage,
    /// As the provider says it, for instance `stop` or `length`; empty if it does not.
    #[serde(default)]
    pub finish_reason: String,
    /// From asking to this, repeated requests included, as the run saw it.
    #[serde(default)]
    pub milliseconds: u64,
    /// Name of the model that answered in the place of the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<String>,
}

/// Tokens as the provider counted them; absent where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: Option<u64>,
    pub output_tokens: Option<u64>,
}

impl Usage {
    /// Both together: what one does not say does not count.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let sum = |left: Option<u64>, right: Option<u64>| match (left, right) {
            (Some(left), Some(right)) => Some(left.saturating_add(right)),
            (left, right) => left.or(right),
        };
        Self {
            input_tokens: sum(self.input_tokens, other.input_tokens),
            output_tokens: sum(self.output_tokens, other.output_tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_canonical_json_as_it_is_written() {
        let message = Message::new(Role::User, "a \"b\"\n");
        let written = serde_json::to_string(&message).unwrap();
        let sorted = serde_json::to_value(&message).unwrap().to_string();
        assert_eq!(written, sorted);
        assert_eq!(written, r#"{"content":"a \"b\"\n","role":"user"}"#);
    }
}
