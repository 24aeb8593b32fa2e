//! Anthropic's Messages API, streamed or not, with prompt caching.
//!
//! `parameters` of the model are merged into the request. System messages become `system`, wherever they stand. Two places are
//! marked for the cache: the end of `system`, and the end of the conversation: the next turn begins with both. An answer that
//! has to fit a schema is asked for as `output_config.format`; a server or model that refuses that is asked without, then and from
//! then on. Source: the provider's reference of `POST /v1/messages`, version 2023-06-01.

mod answer;

use super::http::{Answer, Credential, Endpoint, Http};
use super::native::Native;
use super::sse::Decoder;
use super::{Error, Provider, SetupError};
use crate::clock::Clock;
use answer::{Event, Told, Whole};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::config::HttpHeader;
use headwater_engine::model::{Message, Reply, Request, Role, Said};
use reqwest::header::HeaderName;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const VERSION: (HeaderName, &str) = (HeaderName::from_static("anthropic-version"), "2023-06-01");
const KEY: HeaderName = HeaderName::from_static("x-api-key");

pub struct Anthropic {
    http: Http,
    native: Native,
}

impl Anthropic {
    /// # Errors
    /// When `base_url` is not an `http` or `https` URL.
    pub fn new(
        name: &str,
        base_url: &str,
        api_key_file: Option<String>,
        headers: &[HttpHeader],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let endpoint = Endpoint {
            base_url,
            path: &["messages"],
            query: &BTreeMap::new(),
            credential: api_key_file.map(|file| Credential {
                header: KEY,
                scheme: "",
                file,
            }),
            fixed: &[VERSION],
            headers,
        };
        Ok(Self {
            http: Http::new(name, endpoint, clock)?,
            native: Native::default(),
        })
    }

    async fn ask(&self, request: &Request, within: Duration) -> Result<Reply, Error> {
        let schema = self.native.wanted(request.schema.as_deref());
        match self.once(request, schema, within).await {
            Err(error) if schema.is_some() && self.native.is_refused(&error) => {
                self.once(request, None, within).await
            }
            other => other,
        }
    }

    async fn once(
        &self,
        request: &Request,
        schema: Option<&Value>,
        within: Duration,
    ) -> Result<Reply, Error> {
        let body = body(request, schema);
        let streamed = body.get("stream") == Some(&Value::Bool(true));
        let key = &request.idempotency_key;
        let mut answer = self.http.post(&body, key, within).await?;
        if streamed && answer.is_streamed() {
            return self::streamed(&mut answer).await;
        }
        let bytes = answer.whole().await?;
        let whole: Whole =
            serde_json::from_slice(&bytes).map_err(|_| answer.malformed("it is not a message"))?;
        whole.reply().map_err(|reason| answer.malformed(&reason))
    }
}

async fn streamed(answer: &mut Answer<'_>) -> Result<Reply, Error> {
    let mut decoder = Decoder::default();
    let mut told = Told::default();
    while let Some(events) = answer.events(&mut decoder).await? {
        for data in events {
            let event: Event = serde_json::from_slice(&data)
                .map_err(|_| answer.malformed("a streamed event is none of a message"))?;
            if let Event::Error { error } = event {
                return Err(match error.status() {
                    Some(status) => answer.told(status, &error.message),
                    None => answer.malformed(&format!("it says {}", error.message)),
                });
            }
            if told.take(event) {
                return Ok(told.reply());
            }
        }
    }
    Err(answer.malformed("the stream ended before the answer did"))
}

impl Provider for Anthropic {
    fn ask<'a>(
        &'a self,
        request: &'a Request,
        within: Duration,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.ask(request, within).boxed()
    }
}

fn body(request: &Request, schema: Option<&Value>) -> Map<String, Value> {
    let mut body = request.parameters.clone();
    body.remove("tools");
    body.insert("model".to_owned(), json!(request.model));
    body.entry("max_tokens")
        .or_insert_with(|| json!(request.max_output_tokens));
    let (system, said): (Vec<&Message>, Vec<&Message>) = request
        .messages
        .iter()
        // It refuses a block without text.
        .filter(|message| !message.content.is_empty())
        .partition(|message| message.role == Role::System);
    let mut system: Vec<Value> = system.into_iter().map(block).collect();
    if let Some(last) = system.last_mut() {
        cache(last);
        body.insert("system".to_owned(), Value::Array(system));
    }
    let prompt = said
        .into_iter()
        .map(|message| (message.role, vec![block(message)]));
    let mut messages: Vec<(Role, Vec<Value>)> = prompt
        .chain(request.said.iter().map(self::said))
        // It refuses a message without content.
        .filter(|(_, blocks)| !blocks.is_empty())
        .collect();
    if let Some(last) = messages
        .last_mut()
        .and_then(|(_, blocks)| blocks.last_mut())
    {
        cache(last);
    }
    let messages = messages
        .into_iter()
        .map(|(role, content)| json!({"role": role, "content": content}));
    body.insert("messages".to_owned(), messages.collect());
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({
                "name": tool.name,
                "description": tool.description,
                "input_schema": tool.parameters,
            })
        });
        body.insert("tools".to_owned(), tools.collect());
        if !request.may_call {
            body.insert("tool_choice".to_owned(), json!({"type": "none"}));
        }
    }
    if let Some(schema) = schema {
        let config = body.entry("output_config").or_insert_with(|| json!({}));
        if let Value::Object(config) = config {
            let format = json!({"type": "json_schema", "schema": schema});
            config.insert("format".to_owned(), format);
        }
    }
    body
}

fn block(message: &Message) -> Value {
    text(&message.content)
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

/// The message of what was said after the prompt.
fn said(said: &Said) -> (Role, Vec<Value>) {
    match said {
        Said::Again(again) => (Role::User, vec![text(again)]),
        Said::Reply {
            text: written,
            calls,
        } => {
            let written = (!written.is_empty()).then(|| text(written));
            let calls = calls.iter().map(|call| {
                // It takes an object and no text; what the model wrote may be none.
                let input: Value = serde_json::from_str(&call.arguments).unwrap_or(Value::Null);
                let input = if input.is_object() { input } else { json!({}) };
                json!({"type": "tool_use", "id": call.id, "name": call.tool, "input": input})
            });
            (Role::Assistant, written.into_iter().chain(calls).collect())
        }
        Said::Results(called) => {
            let results = called.iter().map(|called| {
                json!({
                    "type": "tool_result",
                    "tool_use_id": called.id,
                    "content": called.content(),
                    "is_error": !called.is_done(),
                })
            });
            (Role::User, results.collect())
        }
    }
}

/// What comes up to the end of this block may be kept for the next request.
fn cache(block: &mut Value) {
    block["cache_control"] = json!({"type": "ephemeral"});
}
