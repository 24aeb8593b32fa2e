//! What a message looks like on the wire, whole or in events.

use headwater_engine::model::{Reply, ToolCall, Usage};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Deserialize)]
pub(super) struct Whole {
    content: Vec<Block>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Counted,
}

/// Blocks that hold neither text nor a call, as of thinking, are passed over.
#[derive(Deserialize)]
pub(super) struct Block {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    text: Option<String>,
    /// Of a call.
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    input: Option<Value>,
}

impl Block {
    fn is_call(&self) -> bool {
        self.kind == "tool_use"
    }

    /// The call, with the arguments that it came with.
    fn call(self) -> ToolCall {
        ToolCall {
            id: self.id.unwrap_or_default(),
            tool: self.name.unwrap_or_default(),
            arguments: self
                .input
                .map(|input| input.to_string())
                .unwrap_or_default(),
        }
    }
}

/// What comes of a block, in pieces.
#[derive(Deserialize)]
pub(super) struct Delta {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    partial_json: Option<String>,
}

/// Tokens: what was read from the cache or written to it is not in `input_tokens`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Counted {
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    cache_creation_input_tokens: Option<u64>,
    #[serde(default)]
    cache_read_input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
}

impl Counted {
    /// The later counts, where it has some: those of an event are from the beginning of the message.
    fn or(self, former: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.or(former.input_tokens),
            cache_creation_input_tokens: self
                .cache_creation_input_tokens
                .or(former.cache_creation_input_tokens),
            cache_read_input_tokens: self
                .cache_read_input_tokens
                .or(former.cache_read_input_tokens),
            output_tokens: self.output_tokens.or(former.output_tokens),
        }
    }

    fn usage(self) -> Usage {
        let cached = [
            self.cache_creation_input_tokens,
            self.cache_read_input_tokens,
        ];
        let cached: u64 = cached.into_iter().flatten().sum();
        Usage {
            input_tokens: self
                .input_tokens
                .map(|tokens| tokens.saturating_add(cached)),
            output_tokens: self.output_tokens,
        }
    }
}

impl Whole {
    pub(super) fn reply(self) -> Result<Reply, String> {
        let (calls, texts): (Vec<Block>, Vec<Block>) =
            self.content.into_iter().partition(Block::is_call);
        let text: String = texts.into_iter().filter_map(|block| block.text).collect();
        let calls: Vec<ToolCall> = calls.into_iter().map(Block::call).collect();
        let finish_reason = self.stop_reason.unwrap_or_default();
        if text.is_empty() && calls.is_empty() && finish_reason.is_empty() {
            return Err("its message has no text".to_owned());
        }
        Ok(Reply {
            text,
            calls,
            usage: self.usage.usage(),
            finish_reason,
            ..Reply::default()
        })
    }
}

/// One event of a streamed message.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        #[serde(default)]
        index: usize,
        content_block: Block,
    },
    ContentBlockDelta {
        #[serde(default)]
        index: usize,
        delta: Delta,
    },
    MessageDelta {
        delta: Stop,
        #[serde(default)]
        usage: Counted,
    },
    MessageStop,
    Error {
        error: Failure,
    },
    /// `ping`, the bounds of blocks, and whatever comes to be.
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct Start {
    #[serde(default)]
    usage: Counted,
}

#[derive(Deserialize)]
pub(super) struct Stop {
    #[serde(default)]
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Failure {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    pub(super) message: String,
}

impl Failure {
    /// The status that comes with such an error outside of a stream; `None`: none is known.
    pub(super) fn status(&self) -> Option<u16> {
        Some(match self.kind.as_str() {
            "invalid_request_error" => 400,
            "authentication_error" => 401,
            "permission_error" => 403,
            "not_found_error" => 404,
            "request_too_large" => 413,
            "rate_limit_error" => 429,
            "api_error" => 500,
            "timeout_error" => 504,
            "overloaded_error" => 529,
            _ => return None,
        })
    }
}

/// A message as its events came.
#[derive(Default)]
pub(super) struct Told {
    text: String,
    /// By the block's place.
    calls: BTreeMap<usize, ToolCall>,
    finish_reason: String,
    usage: Counted,
}

impl Told {
    /// True where it is over.
    pub(super) fn take(&mut self, event: Event) -> bool {
        match event {
            Event::MessageStart { message } => self.usage = message.usage.or(self.usage),
            Event::ContentBlockStart {
                index,
                content_block,
            } if content_block.is_call() => {
                let call = ToolCall {
                    // They follow in pieces.
                    arguments: String::new(),
                    ..content_block.call()
                };
                self.calls.insert(index, call);
            }
            Event::ContentBlockDelta { index, delta } => {
                self.text
                    .push_str(delta.text.as_deref().unwrap_or_default());
                if let (Some(call), Some(piece)) = (self.calls.get_mut(&index), delta.partial_json)
                {
                    call.arguments.push_str(&piece);
                }
            }
            Event::MessageDelta { delta, usage } => {
                self.usage = usage.or(self.usage);
                if let Some(reason) = delta.stop_reason {
                    self.finish_reason = reason;
                }
            }
            Event::MessageStop => return true,
            Event::ContentBlockStart { .. } | Event::Error { .. } | Event::Other => {}
        }
        false
    }

    pub(super) fn reply(self) -> Reply {
        Reply {
            text: self.text,
            calls: self.calls.into_values().collect(),
            usage: self.usage.usage(),
            finish_reason: self.finish_reason,
            ..Reply::default()
        }
    }
}
