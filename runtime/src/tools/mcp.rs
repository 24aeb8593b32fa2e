//! A server that speaks MCP over streamable HTTP.
//!
//! The connection is made when it is needed and kept. No redirect is followed, since a credential would go with
//! it; no answer over [`LIMIT`] is read; credentials are read from their files for each connection, and a
//! connection that a server does not let in any more is made anew with what they hold then. What a server asks
//! for by itself (a model's answer, a person's input) is refused; links in results are not fetched.
//! Source: the Model Context Protocol's specification of transports and tools, 2025-11-25.

use super::{Answer, Error, Server, SetupError};
use crate::clock::Clock;
use crate::model::retry_after;
use crate::outgoing::{self, LIMIT, REFUSAL};
use crate::secret::Secrets;
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::agent::Listed;
use headwater_engine::config::{HttpHeader, HttpHeaderValue};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, Url};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, MetaObject,
    RequestMetaObject,
};
use rmcp::service::{RoleClient, RunningService, ServiceError};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClientTransportConfig, StreamableHttpError,
};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Where a call says that it is the same as one before.
const KEY: &str = "headwater.dev/idempotency-key";

type Service = RunningService<RoleClient, ()>;

pub struct Mcp {
    name: String,
    url: Url,
    headers: Vec<HttpHeader>,
    client: Client,
    clock: Arc<dyn Clock>,
    session: Mutex<Option<Arc<Session>>>,
}

struct Session {
    service: Service,
    secrets: Secrets,
}

impl Mcp {
    /// # Errors
    /// When `url` is no `http` or `https` URL.
    pub fn new(
        name: &str,
        url: &str,
        headers: &[HttpHeader],
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let failed = |reason: String| SetupError::Url {
            server: name.to_owned(),
            url: url.to_owned(),
            reason,
        };
        let url = outgoing::url(url).map_err(failed)?;
        let client = outgoing::client().map_err(|source| SetupError::Http {
            server: name.to_owned(),
            source,
        })?;
        Ok(Self {
            name: name.to_owned(),
            url,
            headers: headers.to_vec(),
            client,
            clock,
            session: Mutex::new(None),
        })
    }

    /// The session as it stands, or a new one.
    async fn session(&self, within: Duration) -> Result<Arc<Session>, Error> {
        let mut held = self.session.lock().await;
        if let Some(session) = &*held
            && !session.service.is_closed()
        {
            return Ok(Arc::clone(session));
        }
        let (headers, secrets) = self.headers()?;
        let config = StreamableHttpClientTransportConfig::with_uri(self.url.as_str())
            .custom_headers(headers)
            .max_sse_event_size(LIMIT)
            .max_json_response_size(LIMIT)
            .max_error_response_size(REFUSAL);
        let transport = StreamableHttpClientTransport::with_client(self.client.clone(), config);
        let service = match timeout(within, rmcp::serve_client((), transport)).await {
            Ok(Ok(service)) => service,
            Ok(Err(error)) => {
                let why = secrets.clean(&chain(&error));
                return Err(Error::not_made(format!(
                    "no session with the server: {why}"
                )));
            }
            Err(_) => {
                return Err(Error::not_made(format!(
                    "no session with the server within {} ms",
                    within.as_millis()
                )));
            }
        };
        let session = Arc::new(Session { service, secrets });
        *held = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Another call gets another session.
    async fn leave(&self, session: &Arc<Session>) {
        let mut held = self.session.lock().await;
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, session)) {
            *held = None;
        }
    }

    fn headers(&self) -> Result<(HashMap<HeaderName, HeaderValue>, Secrets), Error> {
        let wrong = |reason: String| {
            Error::refused(format!(
                "{reason}. Check the Secret and the headers of ToolServer '{}'",
                self.name
            ))
        };
        let mut secrets = Secrets::default();
        let mut headers = HashMap::new();
        for HttpHeader { name, value } in &self.headers {
            let (text, secret) = match value {
                HttpHeaderValue::Text(text) => (text.clone(), false),
                HttpHeaderValue::File(path) => {
                    let value = secrets
                        .read(path)
                        .map_err(|error| wrong(error.to_string()))?;
                    (value, true)
                }
            };
            let named = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| wrong(format!("'{name}' is no header's name")))?;
            let mut value = HeaderValue::from_str(&text).map_err(|_| {
                wrong(format!(
                    "the value of header '{name}' has characters that no header may have"
                ))
            })?;
            value.set_sensitive(secret);
            headers.insert(named, value);
        }
        Ok((headers, secrets))
    }

    async fn listed(&self, within: Duration) -> Result<BTreeMap<String, Listed>, Error> {
        let session = self.session(within).await?;
        let tools = match session.service.list_all_tools().await {
            Ok(tools) => tools,
            Err(error) => {
                self.leave(&session).await;
                return Err(self.trouble(&error, &session.secrets));
            }
        };
        let listed = tools.into_iter().map(|tool| {
            let listed = Listed {
                description: tool.description.unwrap_or_default().into_owned(),
                schema: Value::Object(tool.input_schema.as_ref().clone()),
            };
            (tool.name.into_owned(), listed)
        });
        Ok(listed.collect())
    }

    async fn called(
        &self,
        tool: &str,
        arguments: &Map<String, Value>,
        key: &str,
        within: Duration,
    ) -> Result<Answer, Error> {
        let session = self.session(within).await?;
        let meta = MetaObject(Map::from_iter([(KEY.to_owned(), Value::from(key))]));
        let mut params =
            CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments.clone());
        params.meta = Some(RequestMetaObject(meta));
        match session.service.call_tool_once(params).await {
            Ok(CallToolResponse::Complete(result)) => Ok(answer(result, &session.secrets)),
            Ok(_) => Ok(Answer {
                result: Value::from(
                    "the tool asks for more than its arguments, which it is not given",
                ),
                failed: true,
            }),
            // It answered, and says that it did not.
            Err(ServiceError::McpError(error)) => Ok(Answer {
                result: Value::String(session.secrets.clean(&error.message)),
                failed: true,
            }),
            Err(error) => {
                self.leave(&session).await;
                Err(self.trouble(&error, &session.secrets))
            }
        }
    }

    /// Whether the request was certainly not carried out.
    fn trouble(&self, error: &ServiceError, secrets: &Secrets) -> Error {
        let why = secrets.clean(&chain(error));
        let ServiceError::TransportSend(error) = error else {
            return Error::unknown(why);
        };
        let Some(error) = error
            .error
            .downcast_ref::<StreamableHttpError<reqwest::Error>>()
        else {
            return Error::unknown(why);
        };
        match error {
            StreamableHttpError::Client(error) if error.is_connect() => Error::not_made(why),
            StreamableHttpError::HttpStatus(status) if status.status == 429 => Error::NotMade {
                why,
                again: true,
                retry_after: status
                    .retry_after
                    .as_deref()
                    .and_then(|text| retry_after(text, self.clock.now_ms())),
            },
            StreamableHttpError::AuthRequired(_)
            | StreamableHttpError::InsufficientScope(_)
            | StreamableHttpError::SessionExpired => Error::not_made(why),
            StreamableHttpError::UnexpectedServerResponse(said) if is_refusal(said) => {
                Error::refused(why)
            }
            _ => Error::unknown(why),
        }
    }
}

/// A redirect, or a status that says that the request is at fault.
fn is_refusal(said: &str) -> bool {
    said.strip_prefix("HTTP ")
        .is_some_and(|status| status.starts_with(['3', '4']))
}

/// What an error and what caused it say.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_said = cause.to_string();
        if !said.contains(&cause_said) {
            said = format!("{said}: {cause_said}");
        }
        source = cause.source();
    }
    said
}

/// What is structured counts; else the text, as JSON where it is an object or a list.
fn answer(result: CallToolResult, secrets: &Secrets) -> Answer {
    let failed = result.is_error.unwrap_or(false);
    let value = result.structured_content.unwrap_or_else(|| {
        let parts: Vec<String> = result.content.into_iter().map(text).collect();
        let text = parts.join("\n");
        match serde_json::from_str(&text) {
            Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
            _ => Value::String(text),
        }
    });
    Answer {
        result: secrets.scrub_value(value),
        failed,
    }
}

/// Of what is no text only that it was there.
fn text(block: ContentBlock) -> String {
    match block {
        ContentBlock::Text(text) => text.text,
        ContentBlock::Image(_) => "[an image, left out]".to_owned(),
        ContentBlock::Audio(_) => "[a sound, left out]".to_owned(),
        ContentBlock::Resource(_) | ContentBlock::ResourceLink(_) => {
            "[a resource, not fetched]".to_owned()
        }
        _ => "[left out]".to_owned(),
    }
}

impl Server for Mcp {
    fn list(&self, within: Duration) -> BoxFuture<'_, Result<BTreeMap<String, Listed>, Error>> {
        self.listed(within).boxed()
    }

    fn call<'a>(
        &'a self,
        tool: &'a str,
        arguments: &'a Map<String, Value>,
        key: &'a str,
        within: Duration,
    ) -> BoxFuture<'a, Result<Answer, Error>> {
        self.called(tool, arguments, key, within).boxed()
    }
}
