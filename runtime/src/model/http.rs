//! The one HTTP client of model providers: JSON out; JSON or server-sent events back.
//!
//! No redirect is followed, since a credential would go with it; no more than [`LIMIT`] bytes are read; credentials are
//! read from their files for each request, and taken out of whatever is told of an answer.

use super::sse::Decoder;
use super::{Error, SetupError};
use crate::clock::Clock;
use crate::outgoing::{self, LIMIT, REFUSAL};
use crate::secret::Secrets;
use headwater_engine::config::{HttpHeader, HttpHeaderValue};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, Url};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Where the key goes that a provider knows its customers by.
pub(super) struct Credential {
    pub(super) header: HeaderName,
    /// What stands before it.
    pub(super) scheme: &'static str,
    pub(super) file: String,
}

/// What a provider's protocol has in each request.
pub(super) struct Endpoint<'a> {
    pub(super) base_url: &'a str,
    /// After the base URL.
    pub(super) path: &'a [&'static str],
    pub(super) query: &'a BTreeMap<String, String>,
    pub(super) credential: Option<Credential>,
    pub(super) fixed: &'a [(HeaderName, &'static str)],
    /// The user's; they win over those of the protocol.
    pub(super) headers: &'a [HttpHeader],
}

pub(super) struct Http {
    model: String,
    client: Client,
    url: Url,
    credential: Option<Credential>,
    fixed: Vec<(HeaderName, &'static str)>,
    headers: Vec<HttpHeader>,
    clock: Arc<dyn Clock>,
}

impl Http {
    /// # Errors
    /// When the base URL is not an `http` or `https` URL.
    pub(super) fn new(
        model: &str,
        endpoint: Endpoint<'_>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SetupError> {
        let client = outgoing::client().map_err(|source| SetupError::Http {
            model: model.to_owned(),
            source,
        })?;
        Ok(Self {
            model: model.to_owned(),
            client,
            url: url(model, &endpoint)?,
            credential: endpoint.credential,
            fixed: endpoint.fixed.to_vec(),
            headers: endpoint.headers.to_vec(),
            clock,
        })
    }

    /// Sends the request; gives an answer that the provider does not call a refusal.
    ///
    /// # Errors
    /// Every [`Error`] but `Malformed` and `Script`.
    pub(super) async fn post(
        &self,
        body: &Map<String, Value>,
        idempotency_key: &str,
        within: Duration,
    ) -> Result<Answer<'_>, Error> {
        let (headers, secrets) = self.headers(idempotency_key)?;
        let sent = self
            .client
            .post(self.url.clone())
            .headers(headers)
            .timeout(within)
            .json(body)
            .send()
            .await;
        let response = sent.map_err(|error| self.transport(&error, within, &secrets))?;
        let answer = Answer {
            http: self,
            response,
            secrets,
            within,
            read: 0,
        };
        if answer.response.status().is_success() {
            Ok(answer)
        } else {
            Err(answer.refusal().await)
        }
    }

    /// Of an error that a provider tells within an answer, or that is in none.
    pub(super) fn status(&self, status: u16, hint: &str) -> Error {
        Error::Status {
            model: self.model.clone(),
            status,
            hint: hint.to_owned(),
            retry_after: None,
        }
    }

    fn headers(&self, idempotency_key: &str) -> Result<(HeaderMap, Secrets), Error> {
        let mut headers = HeaderMap::new();
        let mut secrets = Secrets::default();
        let accepted = HeaderValue::from_static("application/json, text/event-stream");
        headers.insert(ACCEPT, accepted);
        for (name, value) in &self.fixed {
            headers.insert(name.clone(), HeaderValue::from_static(value));
        }
        if let Some(Credential {
            header,
            scheme,
            file,
        }) = &self.credential
        {
            let key = self.secret(&mut secrets, file)?;
            let value = format!("{scheme}{key}");
            let value = self.header(header.as_str(), &value, true)?;
            headers.insert(header.clone(), value);
        }
        for HttpHeader { name, value } in &self.headers {
            let value = match value {
                HttpHeaderValue::Text(text) => self.header(name, text, false)?,
                HttpHeaderValue::File(path) => {
                    let secret = self.secret(&mut secrets, path)?;
                    self.header(name, &secret, true)?
                }
            };
            let name = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| self.credential_error(format!("'{name}' is no header's name")))?;
            headers.insert(name, value);
        }
        if !idempotency_key.is_empty() {
            let key = self.header("idempotency-key", idempotency_key, false)?;
            headers.insert("idempotency-key", key);
        }
        Ok((headers, secrets))
    }

    fn secret(&self, secrets: &mut Secrets, path: &str) -> Result<String, Error> {
        secrets
            .read(path)
            .map_err(|error| self.credential_error(error.to_string()))
    }

    fn header(&self, name: &str, value: &str, secret: bool) -> Result<HeaderValue, Error> {
        let mut header = HeaderValue::from_str(value).map_err(|_| {
            self.credential_error(format!(
                "the value of header '{name}' has characters that no header may have"
            ))
        })?;
        header.set_sensitive(secret);
        Ok(header)
    }

    fn credential_error(&self, reason: String) -> Error {
        Error::Credential {
            model: self.model.clone(),
            reason,
        }
    }

    fn transport(&self, error: &reqwest::Error, within: Duration, secrets: &Secrets) -> Error {
        let model = self.model.clone();
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
}

/// An answer whose body is still to be read.
pub(super) struct Answer<'a> {
    http: &'a Http,
    response: Response,
    secrets: Secrets,
    within: Duration,
    read: usize,
}

impl Answer<'_> {
    /// Whether it comes as server-sent events; a server that does not stream answers a streamed request whole.
    pub(super) fn is_streamed(&self) -> bool {
        self.response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
    }

    pub(super) async fn whole(&mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// The data of each event that came since; `None` where the stream ended.
    pub(super) async fn events(
        &mut self,
        decoder: &mut Decoder,
    ) -> Result<Option<Vec<Vec<u8>>>, Error> {
        let chunk = self.chunk().await?;
        Ok(chunk.map(|chunk| decoder.feed(&chunk)))
    }

    /// That it makes no sense; `reason` may hold some of it.
    pub(super) fn malformed(&self, reason: &str) -> Error {
        Error::Malformed {
            model: self.http.model.clone(),
            reason: self.secrets.clean(reason),
        }
    }

    /// An error that stands in a stream, with the status that it would have had before it.
    pub(super) fn told(&self, status: u16, hint: &str) -> Error {
        self.http.status(status, &self.secrets.clean(hint))
    }

    async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        let chunk = self.response.chunk().await;
        let chunk =
            chunk.map_err(|error| self.http.transport(&error, self.within, &self.secrets))?;
        self.read += chunk.as_ref().map_or(0, bytes::Bytes::len);
        if self.read > LIMIT {
            return Err(Error::TooLarge {
                model: self.http.model.clone(),
                limit: LIMIT,
            });
        }
        Ok(chunk)
    }

    async fn refusal(mut self) -> Error {
        let status = self.response.status().as_u16();
        let retry_after = self
            .response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| retry_after(text, self.http.clock.now_ms()));
        // The message is a courtesy: what cannot be read of it does not matter.
        let mut bytes = Vec::new();
        while bytes.len() < REFUSAL
            && let Ok(Some(chunk)) = self.response.chunk().await
        {
            bytes.extend_from_slice(&chunk);
        }
        Error::Status {
            model: self.http.model.clone(),
            status,
            hint: self.secrets.clean(&message(&bytes)),
            retry_after,
        }
    }
}

fn url(model: &str, endpoint: &Endpoint<'_>) -> Result<Url, SetupError> {
    let failed = |reason: String| SetupError::BaseUrl {
        model: model.to_owned(),
        url: endpoint.base_url.to_owned(),
        reason,
    };
    let mut url = outgoing::url(endpoint.base_url).map_err(failed)?;
    url.path_segments_mut()
        .map_err(|()| failed("it has no path".to_owned()))?
        .pop_if_empty()
        .extend(endpoint.path);
    if !endpoint.query.is_empty() {
        url.query_pairs_mut().extend_pairs(endpoint.query);
    }
    Ok(url)
}

/// Seconds, or an HTTP date; in the past it is no wait.
pub(crate) fn retry_after(text: &str, now_ms: i64) -> Option<Duration> {
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

/// What a provider says went wrong: its `error.message`, or the text itself.
fn message(bytes: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(bytes)
        .ok()
        .and_then(|body| {
            let error = body.get("error")?;
            let text = error.get("message").unwrap_or(error).as_str()?;
            Some(text.to_owned())
        });
    match said {
        Some(text) => text,
        None if bytes.iter().all(u8::is_ascii_whitespace) => "without a message".to_owned(),
        None => String::from_utf8_lossy(bytes).into_owned(),
    }
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

    fn completions(base_url: &str, query: &BTreeMap<String, String>) -> Result<Url, SetupError> {
        let endpoint = Endpoint {
            base_url,
            path: &["chat", "completions"],
            query,
            credential: None,
            fixed: &[],
            headers: &[],
        };
        url("m", &endpoint)
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
            assert_eq!(completions(base, &query).unwrap().as_str(), expected);
        }
        for bad in ["a:1/v1", "ftp://a/v1", "", "/v1"] {
            let error = completions(bad, &query).unwrap_err().to_string();
            assert!(error.contains("model 'm'"), "{error}");
        }
    }
}
