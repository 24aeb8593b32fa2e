//! Repeats a provider's request: exponential backoff with jitter, obeying `Retry-After`, until the
//! attempts or the time are used up.

use super::{Error, Limiter, Model, Provider};
use crate::backoff::{Backoff, Random};
use crate::metrics::{self, Metrics};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::config;
use headwater_engine::model::{Reply, Request};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

pub struct Client {
    name: String,
    provider: Box<dyn Provider>,
    attempts: u32,
    backoff: Backoff,
    /// For one request, all its phases together.
    within: Duration,
    random: Random,
    metrics: Arc<Metrics>,
    limiter: Arc<Limiter>,
}

impl Client {
    pub fn new(
        config: &config::Model,
        provider: Box<dyn Provider>,
        random: Random,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            name: config.name.clone(),
            provider,
            attempts: config.retry.max_attempts.max(1),
            backoff: Backoff {
                initial: Duration::from_millis(config.retry.initial_backoff_ms),
                max: Duration::from_millis(config.retry.max_backoff_ms),
            },
            within: Duration::from_millis(config.request_timeout_ms),
            random,
            metrics,
            limiter: Arc::new(Limiter::new(config.limits)),
        }
    }

    /// With a limiter whose limits change.
    #[must_use]
    pub fn limited(self, limiter: Arc<Limiter>) -> Self {
        Self { limiter, ..self }
    }

    async fn answer(&self, request: &Request, deadline: Instant) -> Result<Reply, Error> {
        let mut attempt = 1;
        loop {
            let error = match self.once(request, deadline).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if attempt >= self.attempts || !error.is_transient() {
                return Err(error);
            }
            let wait = self
                .backoff
                .after(attempt, &self.random)
                .max(error.retry_after().unwrap_or_default());
            // Nothing is won by waiting for longer than the run may take.
            if Instant::now() + wait >= deadline {
                return Err(error);
            }
            tracing::info!(
                model = self.name,
                attempt,
                wait_ms = wait.as_millis(),
                error = %error,
                "model is asked again"
            );
            self.metrics
                .model_retries
                .get_or_create(&metrics::Model {
                    model: self.name.clone(),
                })
                .inc();
            sleep(wait).await;
            attempt += 1;
        }
    }

    async fn once(&self, request: &Request, deadline: Instant) -> Result<Reply, Error> {
        let waiting = Instant::now();
        let tokens = || u64::try_from(request.tokens()).unwrap_or(u64::MAX);
        let Some(permit) = self.limiter.admit(tokens, deadline).await else {
            let model = self.name.clone();
            return Err(Error::Limited { model });
        };
        self.waited(waiting.elapsed());
        let started = Instant::now();
        let within = self.within.min(deadline.saturating_duration_since(started));
        let answer = timeout(within, self.provider.ask(request, within))
            .await
            .unwrap_or_else(|_| {
                Err(Error::Timeout {
                    model: self.name.clone(),
                    within_ms: within.as_millis(),
                })
            });
        self.count(&answer, started.elapsed());
        if let Ok(reply) = &answer {
            let usage = reply.usage;
            if let Some(input) = usage.input_tokens {
                permit.used(input.saturating_add(usage.output_tokens.unwrap_or_default()));
            }
        }
        answer
    }

    fn waited(&self, time: Duration) {
        let label = metrics::Model {
            model: self.name.clone(),
        };
        self.metrics
            .model_limit_wait_seconds
            .get_or_create(&label)
            .observe(time.as_secs_f64());
    }

    fn count(&self, answer: &Result<Reply, Error>, took: Duration) {
        let outcome = answer.as_ref().err().map_or("ok", Error::kind);
        self.metrics
            .model_request_seconds
            .get_or_create(&metrics::Request {
                model: self.name.clone(),
                outcome,
            })
            .observe(took.as_secs_f64());
        let Ok(reply) = answer else { return };
        for (direction, tokens) in [
            ("input", reply.usage.input_tokens),
            ("output", reply.usage.output_tokens),
        ] {
            if let Some(tokens) = tokens {
                self.metrics
                    .model_tokens
                    .get_or_create(&metrics::Tokens {
                        model: self.name.clone(),
                        direction,
                    })
                    .inc_by(tokens);
            }
        }
    }
}

impl Model for Client {
    fn answer<'a>(
        &'a self,
        request: &'a Request,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.answer(request, deadline).boxed()
    }
}
