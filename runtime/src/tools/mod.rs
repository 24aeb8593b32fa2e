//! Tools: what servers have, and one call, made or not made, as often as may be.
//!
//! A [`Server`] lists its tools and makes one call; [`Tools`] keeps the list, and decides whether a call that
//! did not come back well is made again. What is asked and what came of it are the engine's types.
//!
//! No error of this module shows a credential: what a server says is scrubbed, cut and cleaned first.

mod mcp;
mod scripted;

pub use mcp::Mcp;
pub use scripted::Scripted;

use crate::backoff::{Backoff, Random};
use crate::clock::Clock;
use crate::metrics::{self, Metrics};
use futures::future::{BoxFuture, join_all};
use headwater_engine::agent::{Agent, Invocation, Listed, Listing, Offer};
use headwater_engine::config::{self, Repeat, ToolProvider};
use headwater_engine::fault::{Fault, Reason};
use headwater_engine::model::Called;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

/// A list of tools is asked for again after this.
const LIST_EVERY: Duration = Duration::from_secs(60);
/// How often a call is tried that was not made, or that may be repeated.
const TRIES: u32 = 3;
const BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(250),
    max: Duration::from_secs(4),
};

/// One request to a server, no more.
pub trait Server: Send + Sync {
    /// Its tools, by name.
    fn list(&self, within: Duration) -> BoxFuture<'_, Result<BTreeMap<String, Listed>, Error>>;

    /// Makes a call. `key` is the same whenever the same call is made.
    fn call<'a>(
        &'a self,
        tool: &'a str,
        arguments: &'a Map<String, Value>,
        key: &'a str,
        within: Duration,
    ) -> BoxFuture<'a, Result<Answer, Error>>;
}

/// What a tool said.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub result: Value,
    /// It says that it failed.
    pub failed: bool,
}

/// Why a tool gave no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The call was certainly not made. `again`: it may be another time.
    #[error("{why}")]
    NotMade {
        why: String,
        again: bool,
        retry_after: Option<Duration>,
    },
    /// It may have been made.
    #[error("{why}")]
    Unknown { why: String },
}

impl Error {
    fn not_made(why: impl Into<String>) -> Self {
        Self::NotMade {
            why: why.into(),
            again: true,
            retry_after: None,
        }
    }

    fn refused(why: impl Into<String>) -> Self {
        Self::NotMade {
            why: why.into(),
            again: false,
            retry_after: None,
        }
    }

    fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown { why: why.into() }
    }
}

/// Why a server cannot be set up from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("ToolServer '{server}': the tools cannot work: {reason}")]
    Tools { server: String, reason: String },
    #[error("ToolServer '{server}': '{url}' is no URL of a server: {reason}")]
    Url {
        server: String,
        url: String,
        reason: String,
    },
    #[error("ToolServer '{server}': cannot make an HTTP client: {source}")]
    Http {
        server: String,
        #[source]
        source: reqwest::Error,
    },
}

/// The server of a configuration.
///
/// # Errors
/// When its URL or an expression cannot work.
pub fn for_config(
    config: &config::ToolServer,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Server>, SetupError> {
    Ok(match &config.provider {
        ToolProvider::Mcp { url, headers } => {
            Arc::new(Mcp::new(&config.name, url, headers, clock)?)
        }
        ToolProvider::Scripted { tools } => Arc::new(Scripted::new(&config.name, tools)?),
    })
}

/// The tools of one agent.
pub struct Tools {
    agent: Arc<Agent>,
    servers: BTreeMap<String, Held>,
    random: Random,
    metrics: Arc<Metrics>,
    offered: Mutex<Option<Offered>>,
}

struct Held {
    server: Arc<dyn Server>,
    /// Of one call.
    within: Duration,
}

struct Offered {
    listing: Listing,
    offer: Arc<Offer>,
    at: Instant,
}

impl Tools {
    /// `given`: servers that are there already, by name.
    ///
    /// # Errors
    /// When a server cannot be set up.
    pub fn new(
        agent: Arc<Agent>,
        config: &config::Tools,
        given: &BTreeMap<String, Arc<dyn Server>>,
        clock: &Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, SetupError> {
        let mut servers = BTreeMap::new();
        for (name, config) in &config.servers {
            let server = match given.get(name) {
                Some(given) => Arc::clone(given),
                None => for_config(config, Arc::clone(clock))?,
            };
            let within = Duration::from_millis(config.timeout_ms);
            servers.insert(name.clone(), Held { server, within });
        }
        Ok(Self {
            agent,
            servers,
            random: Random::unseeded(),
            metrics,
            offered: Mutex::new(None),
        })
    }

    /// What the model is told, as the servers had it when they were asked last: at first now, later each minute and
    /// beside the runs. Where they do not answer then, what they had before counts on.
    ///
    /// # Errors
    /// `ToolFailed`: a server's tools are not known, or it lacks one that the agent names.
    pub async fn offer(self: &Arc<Self>) -> Result<Arc<Offer>, Fault> {
        // Others wait meanwhile, and find what was asked for.
        let mut offered = self.offered.lock().await;
        if let Some(offered) = &mut *offered {
            if offered.at.elapsed() >= LIST_EVERY {
                offered.at = Instant::now();
                let (this, listing) = (Arc::clone(self), offered.listing.clone());
                tokio::spawn(async move { this.renew(listing).await });
            }
            return Ok(Arc::clone(&offered.offer));
        }
        let listing = self.list(&Listing::new()).await?;
        let offer = Arc::new(self.agent.offer(&listing)?);
        *offered = Some(Offered {
            listing,
            offer: Arc::clone(&offer),
            at: Instant::now(),
        });
        Ok(offer)
    }

    /// Takes over what changed at the servers.
    async fn renew(&self, before: Listing) {
        let Ok(listing) = self.list(&before).await else {
            return;
        };
        if listing == before {
            return;
        }
        match self.agent.offer(&listing) {
            Ok(offer) => {
                tracing::warn!(
                    agent = self.agent.name(),
                    "tools changed at their servers; models are told of them as they are now"
                );
                *self.offered.lock().await = Some(Offered {
                    listing,
                    offer: Arc::new(offer),
                    at: Instant::now(),
                });
            }
            Err(fault) => {
                tracing::warn!(agent = self.agent.name(), %fault, "tools changed at their servers and cannot be used so; as they were they count on");
            }
        }
    }

    async fn list(&self, before: &Listing) -> Result<Listing, Fault> {
        let names = self.agent.tool_servers();
        let asked = names.iter().filter_map(|name| {
            let held = self.servers.get(*name)?;
            Some(async move {
                let listed = timeout(held.within, held.server.list(held.within)).await;
                let listed = listed.unwrap_or_else(|_| {
                    let within = held.within.as_millis();
                    Err(Error::unknown(format!("no answer within {within} ms")))
                });
                ((*name).to_owned(), listed)
            })
        });
        let mut listing = Listing::new();
        for (name, listed) in join_all(asked).await {
            let tools = match (listed, before.get(&name)) {
                (Ok(tools), _) => tools,
                (Err(error), Some(before)) => {
                    tracing::warn!(server = name, error = %error, "tools cannot be listed; those of before count on");
                    before.clone()
                }
                (Err(error), None) => {
                    return Err(Fault::new(
                        Reason::ToolFailed,
                        format!("ToolServer '{name}' does not say what tools it has: {error}"),
                    ));
                }
            };
            listing.insert(name, tools);
        }
        Ok(listing)
    }

    /// Makes a call, if it can still be made before `deadline`. `unsure`: it may have been made already.
    pub async fn call(&self, invocation: Invocation, unsure: bool, deadline: Instant) -> Called {
        let began = Instant::now();
        let called = self.calls(invocation, unsure, deadline, began).await;
        let label = metrics::ToolCall {
            agent: self.agent.name().to_owned(),
            tool: called.tool.clone(),
            outcome: called.outcome.as_str(),
        };
        self.metrics
            .tool_call_seconds
            .get_or_create(&label)
            .observe(began.elapsed().as_secs_f64());
        called
    }

    async fn calls(
        &self,
        invocation: Invocation,
        unsure: bool,
        deadline: Instant,
        began: Instant,
    ) -> Called {
        let took = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if unsure && invocation.repeat == Repeat::Never {
            return invocation.unknown(
                "this process or another one ended while it was under way",
                0,
            );
        }
        let Some(held) = self.servers.get(&invocation.server) else {
            return invocation.not_made("its server is not configured", 0);
        };
        let mut tried = 0;
        // Whether any try may have been made.
        let mut doubt = unsure;
        loop {
            tried += 1;
            let within = held
                .within
                .min(deadline.saturating_duration_since(Instant::now()));
            let Invocation {
                tool,
                arguments,
                key,
                ..
            } = &invocation;
            let answer = timeout(within, held.server.call(tool, arguments, key, within)).await;
            let error = match answer {
                Ok(Ok(Answer { result, failed })) => {
                    return invocation.answered(result, failed, took());
                }
                Ok(Err(error)) => error,
                Err(_) => Error::unknown(format!("no answer within {} ms", within.as_millis())),
            };
            let (again, wait) = match &error {
                Error::NotMade {
                    again, retry_after, ..
                } => (*again, *retry_after),
                Error::Unknown { .. } => {
                    doubt = true;
                    (invocation.repeat == Repeat::Always, None)
                }
            };
            let wait = BACKOFF
                .after(tried, &self.random)
                .max(wait.unwrap_or_default());
            if !again || tried >= TRIES || Instant::now() + wait >= deadline {
                let why = error.to_string();
                return if doubt {
                    invocation.unknown(&why, took())
                } else {
                    invocation.not_made(&why, took())
                };
            }
            tracing::info!(server = invocation.server, tool, tried, error = %error, "tool is called again");
            sleep(wait).await;
        }
    }
}
