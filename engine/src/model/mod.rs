//! What is asked of a model and what it says, whoever the provider is.
//!
//! A [`Request`] is data: the runtime sends it and gives back a [`Reply`], which may ask for calls of tools
//! instead of ending the run. [`scripted`] answers from rules, without any network.

pub mod scripted;

use crate::prompt::message_tokens;
use crate::{template, tokens};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
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

/// A tool as a model is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    pub name: String,
    pub description: String,
    /// JSON Schema of the arguments, an object's.
    pub parameters: Value,
}

/// A call that a model asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Tells the calls of one reply apart.
    pub id: String,
    pub tool: String,
    /// As the model wrote them: meant to be a JSON object.
    pub arguments: String,
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CallOutcome {
    Done,
    /// A rule of the policy, or what the model asked for, kept it from being made.
    Denied,
    /// It was not made, or the tool says that it failed.
    Failed,
    /// It may have been made; nobody knows.
    Unknown,
}

impl CallOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "Done",
            Self::Denied => "Denied",
            Self::Failed => "Failed",
            Self::Unknown => "Unknown",
        }
    }
}

/// A call, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Called {
    /// That of the [`ToolCall`].
    pub id: String,
    pub tool: String,
    /// As they were sent, with what is fixed; null where they were no object.
    pub arguments: Value,
    pub outcome: CallOutcome,
    /// What the tool gave, or why the call was not made.
    pub result: Value,
    /// The rule of the policy that denied it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Who approved it, where a rule required that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<String>,
    /// From asking the tool to its answer; 0 where it was not asked.
    #[serde(default)]
    pub milliseconds: u64,
}

impl Called {
    /// What the model is told: the result as text, in which nothing ends or starts a message.
    pub fn content(&self) -> String {
        let text = match &self.result {
            Value::String(text) => Cow::Borrowed(text.as_str()),
            other => Cow::Owned(other.to_string()),
        };
        template::without_markers(&text).into_owned()
    }

    pub fn is_done(&self) -> bool {
        self.outcome == CallOutcome::Done
    }
}

/// What was said after the prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// By the model; no text is empty.
    Reply { text: String, calls: Vec<ToolCall> },
    /// What came of the calls of the reply before, in their order.
    Results(Vec<Called>),
    /// In the user's place: why an answer is not taken.
    Again(String),
}

/// One call of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The prompt.
    pub messages: Arc<[Message]>,
    /// What was said since.
    pub said: Vec<Said>,
    pub tools: Arc<[ToolSpec]>,
    /// Whether tools may be called now; where not, those of former calls are told all the same.
    pub may_call: bool,
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
        let again = self.said.iter().rev().find_map(|said| match said {
            Said::Again(text) => Some(text.as_str()),
            Said::Reply { .. } | Said::Results(_) => None,
        });
        let users = self
            .messages
            .iter()
            .rev()
            .filter(|message| message.role == Role::User);
        again
            .or_else(|| users.map(|message| message.content.as_str()).next())
            .unwrap_or_default()
    }

    /// All calls so far, oldest first.
    pub fn calls(&self) -> impl Iterator<Item = &Called> {
        self.said.iter().flat_map(|said| match said {
            Said::Results(called) => called.as_slice(),
            Said::Reply { .. } | Said::Again(_) => &[],
        })
    }

    /// Tokens of the whole request: as a prompt has them, with those of tools and of what was said since.
    pub fn tokens(&self) -> usize {
        let tools: usize = self
            .tools
            .iter()
            .map(|tool| {
                message_tokens(&tool.description) + tokens::count(&tool.parameters.to_string())
            })
            .sum();
        let said: usize = self.said.iter().map(Said::tokens).sum();
        let prompt: usize = self
            .messages
            .iter()
            .map(|message| message_tokens(&message.content))
            .sum();
        prompt + said + tools + tokens::REPLY_OVERHEAD
    }
}

impl Said {
    fn tokens(&self) -> usize {
        match self {
            Self::Again(text) => message_tokens(text),
            Self::Reply { text, calls } => {
                let calls: usize = calls
                    .iter()
                    .map(|call| message_tokens(&call.tool) + tokens::count(&call.arguments))
                    .sum();
                message_tokens(text) + calls
            }
            Self::Results(called) => called
                .iter()
                .map(|called| message_tokens(&called.content()))
                .sum(),
        }
    }
}

/// What a model said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub text: String,
    /// Tools that it wants called before it goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
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
