//! A view's rows by HTTP, for web applications: `GET <path>/KEY` and `GET <path>?index=I&key=K`.
//!
//! Every replica holds the view whole, as agents do, so each answers for every key. A read waits, for a bounded time,
//! until the view holds all that was in the log when the request came, and says in headers how it stands. Nothing else
//! is served here: health, metrics and status have a port of their own.

mod ask;
mod tokens;

pub use ask::{INDEX_ROWS_MAX, KEY_BYTES_MAX};

use super::context::Context;
use super::ends::{Ends, Service};
use super::held::{Found, Held};
use super::life::Life;
use super::reading::partitions;
use super::{Error, Phase};
use ask::{Ask, Refusal};
use axum::Router;
use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use headwater_engine::config::{self, By, IndexKey, Order, Serve, View};
use headwater_engine::expr::{Names, Variable, Variables};
use headwater_engine::lookup::{Lookup, Read};
use headwater_engine::record::TopicPartition;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokens::{Access, Tokens};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// The most that a read waits for the view to hold what was in the log.
const FRESHNESS: Duration = Duration::from_millis(250);
/// Requests answered at once; more are asked to come again.
const CONCURRENT: usize = 256;

/// Answers requests; clones answer from the same rows.
#[derive(Clone)]
pub struct Rows(Arc<Shared>);

struct Shared {
    context: Arc<Context>,
    name: String,
    path: String,
    tokens: Option<Tokens>,
    held: Arc<Held>,
    by_key: Lookup,
    by_index: BTreeMap<String, Lookup>,
    room: Semaphore,
    /// Set once the stage runs.
    running: OnceLock<Running>,
}

struct Running {
    life: Arc<Life>,
    ends: Service,
}

/// The key that was asked for, as the lookups' expressions see it.
struct Asked<'a>(&'a str);

impl Variables for Asked<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        (name == "key").then_some(Variable::Text(self.0))
    }
}

impl Rows {
    /// # Errors
    /// None that a validated view causes.
    pub(super) fn new(
        context: &Arc<Context>,
        view: &View,
        serve: &Serve,
        held: Arc<Held>,
    ) -> Result<Self, Error> {
        let lookup = |index: Option<&str>| {
            let lookup = config::Lookup {
                view: view.name.clone(),
                by: By::Key("key".to_owned()),
                index: index.map(ToOwned::to_owned),
                filter: None,
                order_by: None,
                order: Order::Ascending,
                limit: INDEX_ROWS_MAX,
            };
            Lookup::compile(&lookup, &Names::new(&["key"]), "spec.serve")
        };
        let mut by_index = BTreeMap::new();
        for index in &view.indexes {
            let (IndexKey::One(_) | IndexKey::Many(_)) = &index.key;
            by_index.insert(index.name.clone(), lookup(Some(&index.name))?);
        }
        Ok(Self(Arc::new(Shared {
            context: Arc::clone(context),
            name: view.name.clone(),
            path: serve.path.trim_end_matches('/').to_owned(),
            tokens: serve.token_file.clone().map(Tokens::new),
            held,
            by_key: lookup(None)?,
            by_index,
            room: Semaphore::new(CONCURRENT),
            running: OnceLock::new(),
        })))
    }

    /// Path of the rows.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// Name of the view.
    pub fn view(&self) -> &str {
        &self.0.name
    }

    /// Finds the logs that reads are to be as fresh as.
    pub(super) fn begin(&self, life: &Arc<Life>) -> Result<(), Error> {
        let log = Arc::clone(&self.0.context.services.log);
        let topics = self.0.held.root_topics();
        let counts = partitions(&*log, life, &topics)?;
        let roots = topics.iter().zip(counts).flat_map(|(topic, count)| {
            let topic: Arc<str> = topic.as_str().into();
            (0..count).map(move |partition| TopicPartition::new(Arc::clone(&topic), partition))
        });
        let (held, clock) = (
            Arc::clone(&self.0.held),
            Arc::clone(&self.0.context.services.clock),
        );
        let idle = move |ends: &Ends| held.note(ends, clock.now_ms());
        let ends = Service::start(log, Arc::clone(life), roots.collect(), idle)?;
        let running = Running {
            life: Arc::clone(life),
            ends,
        };
        // Begun once: there is nothing to be taken back.
        let _ = self.0.running.set(running);
        Ok(())
    }

    /// All requests of a port.
    pub fn router(self) -> Router {
        Router::new().fallback(move |request: Request<Body>| {
            let rows = self.clone();
            async move { rows.answer(request).await }
        })
    }

    /// Answers one request. It never fails: what is wrong is in the response.
    pub async fn answer(&self, request: Request<Body>) -> Response {
        // A body is not looked at.
        let (request, _) = request.into_parts();
        let mut response = match self.0.respond(&request).await {
            Ok(response) => response,
            Err(refusal) => refusal.response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        response
    }
}

impl Shared {
    async fn respond(&self, request: &Parts) -> Result<Response, Refusal> {
        // Who may not read learns nothing, not even which paths there are.
        if let Some(tokens) = &self.tokens {
            match tokens.check(&request.headers) {
                Access::Granted => {}
                Access::Refused => return Err(Refusal::unauthorized()),
                Access::Broken => {
                    return Err(Refusal::unavailable(
                        "the tokens cannot be read; see the stage's log",
                    ));
                }
            }
        }
        if request.method != Method::GET && request.method != Method::HEAD {
            return Err(Refusal::method());
        }
        let ask = Ask::of(&request.uri, &self.path, self.by_index.keys())?;
        let Ok(_room) = self.room.try_acquire() else {
            return Err(Refusal::unavailable("too many requests are under way"));
        };
        let running = self
            .running
            .get()
            .filter(|_| self.held.is_ready())
            .filter(|running| running.life.board.status().phase == Phase::Running)
            .ok_or_else(|| Refusal::unavailable("the view is being restored"))?;
        let fresh = self.barrier(running).await?;
        let (lookup, key, limit) = match &ask {
            Ask::Key(key) => (Some(&self.by_key), key, None),
            Ask::Index { index, key, limit } => (self.by_index.get(index), key, Some(*limit)),
        };
        let lookup = lookup.ok_or_else(|| Refusal::no_index(self.by_index.keys()))?;
        let now = self.context.services.clock.now_ms();
        let read = lookup
            .read(&Asked(key), &*self.held, now)
            .map_err(|fault| Refusal::bad(&fault.message))?;
        if limit.is_none() && read.rows.is_empty() {
            let mut response = Refusal::no_key().response();
            fresh.tell(&mut response);
            return Ok(response);
        }
        let mut response = rows(read, limit);
        fresh.tell(&mut response);
        Ok(response)
    }

    async fn barrier(&self, running: &Running) -> Result<Fresh, Refusal> {
        let until = Instant::now() + FRESHNESS;
        let ends: Option<Ends> = match timeout_at(until, running.ends.ask()).await {
            Ok(Ok(ends)) => Some(ends),
            Ok(Err(_)) => return Err(Refusal::unavailable("the stage ends")),
            // Kafka does not say where its logs end: nobody knows how fresh the view is.
            Err(_) => None,
        };
        let Some(ends) = ends else {
            return Ok(Fresh(None));
        };
        let clock = &self.context.services.clock;
        let held = &self.held;
        let mut found = held
            .barrier(&ends, &running.ends, until, || clock.now_ms())
            .await;
        Ok(Fresh(found.remove(&self.name)))
    }
}

/// How the view stood when it was read; `None` where the log did not say.
struct Fresh(Option<Found>);

impl Fresh {
    fn tell(&self, response: &mut Response) {
        let Some(found) = &self.0 else {
            set(response, "headwater-stale-ms", "unknown");
            return;
        };
        set(response, "headwater-stale-ms", &found.stale_ms.to_string());
        let covered: Vec<String> = found
            .covered
            .iter()
            .map(|(partition, next)| format!("{partition}={next}"))
            .collect();
        set(response, "headwater-covered", &covered.join(","));
    }
}

fn rows(read: Read, limit: Option<usize>) -> Response {
    let position = match (limit, read.rows.first()) {
        (None, Some(row)) => Some(row.position.to_string()),
        _ => None,
    };
    let value = match (read.value, limit) {
        (Value::Array(mut rows), Some(limit)) => {
            rows.truncate(limit);
            Value::Array(rows)
        }
        (value, _) => value,
    };
    let mut response = Response::new(Body::from(value.to_string()));
    set(&mut response, "content-type", "application/json");
    if let Some(position) = position {
        set(&mut response, "headwater-position", &position);
    }
    response
}

/// Headers are made of names of topics and numbers, which headers can hold.
fn set(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

impl Refusal {
    fn response(self) -> Response {
        let status = self.status;
        let body = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        set(&mut response, "content-type", "application/problem+json");
        match status {
            StatusCode::UNAUTHORIZED => set(&mut response, "www-authenticate", "Bearer"),
            StatusCode::SERVICE_UNAVAILABLE => set(&mut response, "retry-after", "1"),
            StatusCode::METHOD_NOT_ALLOWED => set(&mut response, "allow", "GET, HEAD"),
            _ => {}
        }
        response
    }
}
