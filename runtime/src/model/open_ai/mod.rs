//! Chat completions of any server that speaks OpenAI's protocol, streamed or not.
//!
//! `parameters` of the model are merged into the request; `model` and `messages` are always ours, and
//! tools are never asked for here. With `stream: true` among the parameters the answer is read as
//! server-sent events and put together to the same reply. An answer that has to fit a schema is asked for
//! as `response_format`; a server that refuses that is asked without, then and from then on. No redirect is followed (a credential would
//! go with it), no more than [`LIMIT`] bytes are read, and the key is read from its file each time.

mod answer;
mod format;

use super::sse::Decoder;
use super::{Error, Provider, SetupError};
use crate::clock::Clock;
use crate::secret::Secret;
use answer::{Completion, Piece, message};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::config::{HttpHeader, HttpHeaderValue};
use headwater_engine::model::{Reply, Request};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, Url, redirect};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes of an answer, decompressed.
pub const LIMIT: usize = 10 << 20;
/// Characters of a provider's message that are passed on.
const HINT: usize = 300;
const CONNECT: Duration = Duration::from_secs(10);

pub struct OpenAi {
    name: String,
    http: Client,
    url: Url,
    api_key_file: Option<String>,
    headers: Vec<HttpHeader>,
    clock: Arc<dyn Clock>,
    /// The server refused to be asked for a format.
    without_format: AtomicBool,
}

impl OpenAi {
    /// # Errors
    /// When `base_url` is not an `http` or `https` URL.
    pub fn new(
        name: &str,
        base_url: &str,
        api_key_file: Option<String>,
        headers: Vec<HttpHeader>,
        query: &BTreeMap<String, String>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT)
            .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| SetupError::Http {
                model: name.to_owned(),
                source,
            })?;
        Ok(Self {
            name: name.to_owned(),
            http,
            url: url(name, base_url, query)?,
            api_key_file,
            headers,
            clock,
            without_format: AtomicBool::new(false),
        })
    }

    async fn ask(&self, request: &Request, within: Duration) -> Result<Reply, Error> {
        let format = match &request.schema {
            Some(schema) if !self.without_format.load(Ordering::Relaxed) => {
                format::response_format(schema)
            }
            _ => None,
        };
        let asked = format.is_some();
        match self.once(request, format, within).await {
            Err(Error::Status { status, hint, .. })
                if asked && format::is_refused(status, &hint) =>
            {
                tracing::info!(
                    model = self.name,
                    status,
                    hint,
                    "the server takes no response_format and is asked without"
                );
                self.without_format.store(true, Ordering::Relaxed);
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
        let (headers, secrets) = self.headers(request)?;
        let mut body = body(request);
        if let Some(format) = format {
            body.insert("response_format".to_owned(), format);
        }
        let streamed = body.get("stream") == Some(&Value::Bool(true));
        let response = self
            .http
            .post(self.url.clone())
            .headers(headers)
            .timeout(within)
            .json(&body)
            .send()
            .await
            .map_err(|error| self.transport(&error, within, &secrets))?;
        if !response.status().is_success() {
            return Err(self.refusal(response, &secrets).await);
        }
        // A server that does not stream answers a streamed request whole.
        let events = response
            .headers()
            .get(reqwest::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if streamed && events {
            self.streamed(response, within, &secrets).await
        } else {
            let bytes = self.whole(response, within, &secrets).await?;
            let answer: Completion = serde_json::from_slice(&bytes)
                .map_err(|_| self.malformed("it is not a chat completion"))?;
            answer
                .reply()
                .map_err(|reason| self.malformed(&secrets.clean(&reason)))
        }
    }

    fn headers(&self, request: &Request) -> Result<(HeaderMap, Secrets), Error> {
        let mut headers = HeaderMap::new();
        let mut secrets = Secrets::default();
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if let Some(path) = &self.api_key_file {
            let key = self.secret(path)?;
            let value = format!("Bearer {}", key.expose());
            headers.insert(
                AUTHORIZATION,
                self.header(AUTHORIZATION.as_str(), &value, true)?,
            );
            secrets.0.push(key);
        }
        for HttpHeader { name, value } in &self.headers {
            let value = match value {
                HttpHeaderValue::Text(text) => self.header(name, text, false)?,
                HttpHeaderValue::File(path) => {
                    let secret = self.secret(path)?;
                    let value = self.header(name, secret.expose(), true)?;
                    secrets.0.push(secret);
                    value
                }
            };
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| self.credential(format!("'{name}' is no header's name")))?;
            headers.insert(name, value);
        }
        if !request.idempotency_key.is_empty() {
            let key = self.header("idempotency-key", &request.idempotency_key, false)?;
            headers.insert("idempotency-key", key);
        }
        Ok((headers, secrets))
    }

    fn secret(&self, path: &str) -> Result<Secret, Error> {
        Secret::read(path).map_err(|error| self.credential(error.to_string()))
    }

    fn header(&self, name: &str, value: &str, secret: bool) -> Result<HeaderValue, Error> {
        let mut header = HeaderValue::from_str(value).map_err(|_| {
            self.credential(format!(
                "the value of header '{name}' has characters that no header may have"
            ))
        })?;
        header.set_sensitive(secret);
        Ok(header)
    }

    async fn whole(
        &self,
        mut response: Response,
        within: Duration,
        secrets: &Secrets,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response, within, secrets).await? {
            self.within_limit(bytes.len() + chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    async fn streamed(
        &self,
        mut response: Response,
        within: Duration,
        secrets: &Secrets,
    ) -> Result<Reply, Error> {
        let mut decoder = Decoder::default();
        let mut reply = Reply::default();
        let mut read = 0;
        while let Some(chunk) = self.chunk(&mut response, within, secrets).await? {
            read += chunk.len();
            self.within_limit(read)?;
            for data in decoder.feed(&chunk) {
                if data == b"[DONE]" {
                    return Ok(reply);
                }
                let piece: Piece = serde_json::from_slice(&data).map_err(|_| {
                    self.malformed("a streamed event is not a piece of a chat completion")
                })?;
                piece
                    .add_to(&mut reply)
                    .map_err(|reason| self.malformed(&secrets.clean(&reason)))?;
            }
        }
        // Some servers close the stream without the last event; a finish reason is an end too.
        if reply.finish_reason.is_empty() {
            return Err(self.malformed("the stream ended before the answer did"));
        }
        Ok(reply)
    }

    async fn chunk(
        &self,
        response: &mut Response,
        within: Duration,
        secrets: &Secrets,
    ) -> Result<Option<bytes::Bytes>, Error> {
        response
            .chunk()
            .await
            .map_err(|error| self.transport(&error, within, secrets))
    }

    fn within_limit(&self, bytes: usize) -> Result<(), Error> {
        if bytes > LIMIT {
            return Err(Error::TooLarge {
                model: self.name.clone(),
                limit: LIMIT,
            });
        }
        Ok(())
    }

    async fn refusal(&self, mut response: Response, secrets: &Secrets) -> Error {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| retry_after(text, self.clock.now_ms()));
        // The message is a courtesy: what cannot be read of it does not matter.
        let mut bytes = Vec::new();
        while bytes.len() < 16 << 10
            && let Ok(Some(chunk)) = response.chunk().await
        {
            bytes.extend_from_slice(&chunk);
        }
        Error::Status {
            model: self.name.clone(),
            status,
            hint: secrets.clean(&message(&bytes)),
            retry_after,
        }
    }

    fn transport(&self, error: &reqwest::Error, within: Duration, secrets: &Secrets) -> Error {
        let model = self.name.clone();
        if error.is_timeout() {
            return Error::Timeout {
                model,
                within_ms: within.as_millis(),
            };
        }
        let mut reason = String::new();
        let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
        while let Some(cause) = source {
            reason = cause.to_string();
            source = cause.source();
        }
        let reason = if reason.is_empty() {
            "the request failed".to_owned()
        } else {
            reason
        };
        Error::Connection {
            model,
            reason: secrets.clean(&reason),
        }
    }

    fn malformed(&self, reason: &str) -> Error {
        Error::Malformed {
            model: self.name.clone(),
            reason: reason.to_owned(),
        }
    }

    fn credential(&self, reason: String) -> Error {
        Error::Credential {
            model: self.name.clone(),
            reason,
        }
    }
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

/// The credentials of one request, to be taken out of whatever comes back.
#[derive(Default)]
struct Secrets(Vec<Secret>);

impl Secrets {
    /// One bounded line without credentials and control characters.
    fn clean(&self, text: &str) -> String {
        let scrubbed = self
            .0
            .iter()
            .fold(text.to_owned(), |text, secret| secret.scrub(&text));
        let line: String = scrubbed
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(HINT)
            .collect();
        line.trim().to_owned()
    }
}

fn url(name: &str, base_url: &str, query: &BTreeMap<String, String>) -> Result<Url, SetupError> {
    let failed = |reason: String| SetupError::BaseUrl {
        model: name.to_owned(),
        url: base_url.to_owned(),
        reason,
    };
    let mut url = Url::parse(base_url).map_err(|error| failed(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(failed(format!("its scheme is '{}'", url.scheme())));
    }
    url.path_segments_mut()
        .map_err(|()| failed("it has no path".to_owned()))?
        .pop_if_empty()
        .extend(["chat", "completions"]);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(url)
}

fn body(request: &Request) -> Map<String, Value> {
    let mut body = request.parameters.clone();
    body.remove("tools");
    body.insert("model".to_owned(), json!(request.model));
    body.insert("messages".to_owned(), json!(request.messages.as_ref()));
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

/// Seconds, or an HTTP date; in the past it is no wait.
fn retry_after(text: &str, now_ms: i64) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()?;
    let wait = date.as_millisecond().saturating_sub(now_ms);
    Some(Duration::from_millis(u64::try_from(wait).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = 784_111_777_000; // Sun, 06 Nov 1994 08:49:37 GMT
        for (text, expected) in [
            ("3", Some(Duration::from_secs(3))),
            ("0.5", Some(Duration::from_millis(500))),
            (
                "Sun, 06 Nov 1994 08:49:47 GMT",
                Some(Duration::from_secs(10)),
            ),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(Duration::ZERO)),
            ("-3", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(text, now), expected, "{text}");
        }
    }

    #[test]
    fn base_urls() {
        let query = BTreeMap::from([("api-version".to_owned(), "1 2".to_owned())]);
        for (base, expected) in [
            (
                "http://a:1/v1",
                "http://a:1/v1/chat/completions?api-version=1+2",
            ),
            (
                "https://a/v1/",
                "https://a/v1/chat/completions?api-version=1+2",
            ),
            ("https://a", "https://a/chat/completions?api-version=1+2"),
        ] {
            assert_eq!(url("m", base, &query).unwrap().as_str(), expected);
        }
        for bad in ["a:1/v1", "ftp://a/v1", "", "/v1"] {
            let error = url("m", bad, &query).unwrap_err().to_string();
            assert!(error.contains("model 'm'"), "{error}");
        }
    }
}
