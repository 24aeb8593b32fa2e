//! What a chat completion looks like on the wire, whole or in pieces.

use headwater_engine::model::{Reply, ToolCall, Usage};
use serde::Deserialize;
use serde_json::Value;

/// Calls of one answer; no model asks for so many.
const CALLS: usize = 1_000;

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
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
}

/// A call, or a piece of one.
#[derive(Deserialize)]
struct Call {
    /// Of the call that a piece belongs to.
    #[serde(default)]
    index: Option<usize>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    function: Function,
}

#[derive(Default, Deserialize)]
struct Function {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    arguments: Option<Arguments>,
}

/// Text by the protocol; some servers give the object itself.
#[derive(Deserialize)]
#[serde(untagged)]
enum Arguments {
    Text(String),
    Object(Value),
}

impl Call {
    fn add_to(self, call: &mut ToolCall) {
        let Function { name, arguments } = self.function;
        call.id.push_str(&self.id.unwrap_or_default());
        call.tool.push_str(&name.unwrap_or_default());
        match arguments {
            Some(Arguments::Text(text)) => call.arguments.push_str(&text),
            Some(Arguments::Object(object)) => call.arguments = object.to_string(),
            None => {}
        }
    }
}

fn empty() -> ToolCall {
    ToolCall {
        id: String::new(),
        tool: String::new(),
        arguments: String::new(),
    }
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
        let Said {
            content,
            refusal,
            tool_calls,
        } = choice.message;
        let calls: Vec<ToolCall> = tool_calls
            .into_iter()
            .flatten()
            .map(|call| {
                let mut whole = empty();
                call.add_to(&mut whole);
                whole
            })
            .collect();
        let text = match content.or(refusal) {
            Some(text) => text,
            None if !calls.is_empty() => String::new(),
            None => return Err("its message has no text".to_owned()),
        };
        Ok(Reply {
            text,
            calls,
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
            for call in choice.delta.tool_calls.into_iter().flatten() {
                // Pieces without a place go on with the last one, unless they begin another.
                let begins = call.id.as_ref().is_some_and(|id| !id.is_empty());
                let last = reply.calls.len().saturating_sub(usize::from(!begins));
                let place = call.index.unwrap_or(last);
                if place > CALLS {
                    return Err("it has too many calls".to_owned());
                }
                while reply.calls.len() <= place {
                    reply.calls.push(empty());
                }
                call.add_to(&mut reply.calls[place]);
            }
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
