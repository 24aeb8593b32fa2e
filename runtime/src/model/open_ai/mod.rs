//! Chat completions of any server that speaks OpenAI's protocol, streamed or not.
//!
//! `parameters` of the model are merged into the request; `model`, `messages` and `tools` are always ours. Where
//! tools may be called no more, they stand in the request all the same, with `tool_choice: none`: some servers
//! refuse messages about tools that they do not know. With `stream: true` among the parameters the answer is read as
//! server-sent events and put together to the same reply. An answer that has to fit a schema is asked for
//! as `response_format`; a server that refuses that is asked without, then and from then on.

mod answer;
mod format;

use super::http::{Answer, Credential, Endpoint, Http};
use super::native::Native;
use super::sse::Decoder;
use super::{Error, Provider, SetupError};
use crate::clock::Clock;
use answer::{Completion, Piece};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::config::HttpHeader;
use headwater_engine::model::{Reply, Request, Role, Said};
use reqwest::header::AUTHORIZATION;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub struct OpenAi {
    http: Http,
    native: Native,
}

impl OpenAi {
    /// # Errors
    /// When `base_url` is not an `http` or `https` URL.
    pub fn new(
        name: &str,
        base_url: &str,
        api_key_file: Option<String>,
        headers: &[HttpHeader],
        query: &BTreeMap<String, String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let endpoint = Endpoint {
            base_url,
            path: &["chat", "completions"],
            query,
            credential: api_key_file.map(|file| Credential {
                header: AUTHORIZATION,
                scheme: "Bearer ",
                file,
            }),
            fixed: &[],
            headers,
        };
        Ok(Self {
            http: Http::new(name, endpoint, clock)?,
            native: Native::default(),
        })
    }

    async fn ask(&self, request: &Request, within: Duration) -> Result<Reply, Error> {
        let schema = self.native.wanted(request.schema.as_deref());
        let format = schema.and_then(format::response_format);
        let asked = format.is_some();
        match self.once(request, format, within).await {
            Err(error) if asked && self.native.is_refused(&error) => {
                self.once(request, None, within).await
            }
            other => other,
        }
    }

    async fn once(
        &self,
        request: &Request,
        format: Option<Value>,
        within: Duration,
    ) -> Result<Reply, Error> {
        let mut body = body(request);
        if let Some(format) = format {
            body.insert("response_format".to_owned(), format);
        }
        let streamed = body.get("stream") == Some(&Value::Bool(true));
        let key = &request.idempotency_key;
        let mut answer = self.http.post(&body, key, within).await?;
        if streamed && answer.is_streamed() {
            return self::streamed(&mut answer).await;
        }
        let bytes = answer.whole().await?;
        let completion: Completion = serde_json::from_slice(&bytes)
            .map_err(|_| answer.malformed("it is not a chat completion"))?;
        completion
            .reply()
            .map_err(|reason| answer.malformed(&reason))
    }
}

async fn streamed(answer: &mut Answer<'_>) -> Result<Reply, Error> {
    let mut decoder = Decoder::default();
    let mut reply = Reply::default();
    'stream: while let Some(events) = answer.events(&mut decoder).await? {
        for data in events {
            if data == b"[DONE]" {
                break 'stream;
            }
            let piece: Piece = serde_json::from_slice(&data).map_err(|_| {
                answer.malformed("a streamed event is not a piece of a chat completion")
            })?;
            piece
                .add_to(&mut reply)
                .map_err(|reason| answer.malformed(&reason))?;
        }
    }
    // Some servers close the stream without the last event, and some send it where they break an answer off for
    // another request: an end is what has a reason.
    if reply.finish_reason.is_empty() {
        return Err(answer.malformed("the stream ended before the answer did"));
    }
    Ok(reply)
}

impl Provider for OpenAi {
    fn ask<'a>(
        &'a self,
        request: &'a Request,
        within: Duration,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.ask(request, within).boxed()
    }
}

fn body(request: &Request) -> Map<String, Value> {
    let mut body = request.parameters.clone();
    body.remove("tools");
    body.insert("model".to_owned(), json!(request.model));
    let prompt = request.messages.iter().map(|message| json!(message));
    let said = request.said.iter().flat_map(said);
    body.insert("messages".to_owned(), prompt.chain(said).collect());
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({"type": "function", "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters,
            }})
        });
        body.insert("tools".to_owned(), tools.collect());
        if !request.may_call {
            body.insert("tool_choice".to_owned(), json!("none"));
        }
    }
    // Newer models know only the second name; whoever gives it as a parameter is obeyed.
    if !body.contains_key("max_tokens") && !body.contains_key("max_completion_tokens") {
        body.insert("max_tokens".to_owned(), json!(request.max_output_tokens));
    }
    if body.get("stream") == Some(&Value::Bool(true)) {
        body.entry("stream_options")
            .or_insert_with(|| json!({"include_usage": true}));
    }
    body
}

/// Messages of what was said after the prompt.
fn said(said: &Said) -> Vec<Value> {
    match said {
        Said::Again(text) => vec![json!({"role": Role::User, "content": text})],
        Said::Reply { text, calls } if calls.is_empty() => {
            vec![json!({"role": Role::Assistant, "content": text})]
        }
        Said::Reply { text, calls } => {
            let calls = calls.iter().map(|call| {
                let function = json!({"name": call.tool, "arguments": call.arguments});
                json!({"id": call.id, "type": "function", "function": function})
            });
            let calls: Value = calls.collect();
            // Empty rather than null: some servers take nothing but text.
            vec![json!({"role": Role::Assistant, "content": text, "tool_calls": calls})]
        }
        Said::Results(called) => called
            .iter()
            .map(|called| {
                json!({"role": "tool", "tool_call_id": called.id, "content": called.content()})
            })
            .collect(),
    }
}
