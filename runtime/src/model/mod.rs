//! Models: one call, answered or failed, with the retries that the model's configuration allows.
//!
//! A [`Provider`] makes one request; [`Client`] repeats it. What is asked and what came back are the
//! engine's types. Runs have attempts of their own above this; they are the stage's.
//!
//! No error of this module shows a credential: what a provider says is scrubbed, cut and cleaned first.

mod anthropic;
mod client;
mod fallback;
mod http;
mod limiter;
mod native;
mod open_ai;
mod scripted;
mod sse;

pub use crate::outgoing::LIMIT;
pub use anthropic::Anthropic;
pub use client::Client;
pub use fallback::Fallback;
pub(crate) use http::retry_after;
pub use limiter::{Limiter, Limiters};
pub use open_ai::OpenAi;
pub use scripted::Scripted;

use crate::backoff::Random;
use crate::clock::Clock;
use crate::metrics::Metrics;
use futures::future::BoxFuture;
use headwater_engine::config;
use headwater_engine::model::{Reply, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What a model is, to a run.
pub trait Model: Send + Sync {
    /// Answers before `deadline`, or fails.
    fn answer<'a>(
        &'a self,
        request: &'a Request,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Reply, Error>>;
}

/// One request to a provider, no more.
pub trait Provider: Send + Sync {
    fn ask<'a>(
        &'a self,
        request: &'a Request,
        within: Duration,
    ) -> BoxFuture<'a, Result<Reply, Error>>;
}

/// Why a model did not answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("model '{model}': the provider answered {status}: {hint}")]
    Status {
        model: String,
        status: u16,
        hint: String,
        retry_after: Option<Duration>,
    },
    #[error("model '{model}': no connection to the provider: {reason}")]
    Connection { model: String, reason: String },
    #[error("model '{model}': no answer within {within_ms} ms")]
    Timeout { model: String, within_ms: u128 },
    #[error("model '{model}': the answer makes no sense: {reason}")]
    Malformed { model: String, reason: String },
    #[error("model '{model}': the answer is larger than {limit} bytes")]
    TooLarge { model: String, limit: usize },
    #[error("model '{model}': {reason}. Check the Secret and the model's headers")]
    Credential { model: String, reason: String },
    /// A scripted model has no answer; the reason names model and rule.
    #[error("{reason}")]
    Script { reason: String },
    #[error(
        "model '{model}': the model's limits leave no room for another request by the end of this attempt"
    )]
    Limited { model: String },
}

impl Error {
    /// Whether the same request may succeed later; else the configuration or the request has to change.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 409 | 429 | 500..=599),
            Self::Connection { .. }
            | Self::Timeout { .. }
            | Self::Malformed { .. }
            | Self::Limited { .. } => true,
            Self::TooLarge { .. } | Self::Credential { .. } | Self::Script { .. } => false,
        }
    }

    /// Whether it says nothing of the request: the provider is away, or lets nobody in for now.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Connection { .. }
                | Self::Limited { .. }
                | Self::Status {
                    status: 429 | 500..=599,
                    ..
                }
        )
    }

    /// How long the provider asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Label of metrics: a closed list.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Status { status: 429, .. } => "rate_limited",
            Self::Status {
                status: 500..=599, ..
            } => "server_error",
            Self::Status { .. } => "refused",
            Self::Connection { .. } => "connection",
            Self::Timeout { .. } => "timeout",
            Self::Malformed { .. } => "malformed",
            Self::TooLarge { .. } => "too_large",
            Self::Credential { .. } => "credential",
            Self::Script { .. } => "script",
            Self::Limited { .. } => "limited",
        }
    }
}

/// Why a model cannot be set up from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("model '{model}': '{url}' is no base URL: {reason}. It looks like http://host:port/v1")]
    BaseUrl {
        model: String,
        url: String,
        reason: String,
    },
    #[error("model '{model}': cannot make an HTTP client: {source}")]
    Http {
        model: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("model '{model}': the rules cannot work: {reason}")]
    Rules { model: String, reason: String },
}

/// The model of a configuration, with its retries and what is asked in its place.
///
/// # Errors
/// When the base URL or a rule cannot work.
pub fn for_config(
    config: &config::Model,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    limiters: &Limiters,
) -> Result<Arc<dyn Model>, SetupError> {
    let provider: Box<dyn Provider> = match &config.provider {
        config::Provider::OpenAi {
            base_url,
            api_key_file,
            headers,
            query,
        } => Box::new(OpenAi::new(
            &config.name,
            base_url,
            api_key_file.clone(),
            headers,
            query,
            Arc::clone(&clock),
        )?),
        config::Provider::Anthropic {
            base_url,
            api_key_file,
            headers,
        } => Box::new(Anthropic::new(
            &config.name,
            base_url,
            api_key_file.clone(),
            headers,
            Arc::clone(&clock),
        )?),
        config::Provider::Scripted { rules } => Box::new(Scripted::new(&config.name, rules)?),
    };
    let own = Client::new(config, provider, Random::unseeded(), Arc::clone(&metrics))
        .limited(limiters.of(&config.name, config.limits));
    Ok(match &config.fallback {
        None => Arc::new(own),
        Some(fallback) => {
            let other = for_config(fallback, clock, metrics, limiters)?;
            Arc::new(Fallback::new(own, (**fallback).clone(), other))
        }
    })
}
