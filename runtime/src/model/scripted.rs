//! Answers from a scripted model's rules, as a provider would give them: after the rule's delay, and
//! with its error's status, so that retries, timeouts and dead letters can be tried without a network.
//!
//! Which rule holds and what it says is the engine's.

use super::{Error, Provider, SetupError};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::config::Rule;
use headwater_engine::model::scripted::{self, Outcome};
use headwater_engine::model::{Reply, Request};
use std::time::Duration;
use tokio::time::sleep;

pub struct Scripted {
    name: String,
    rules: scripted::Scripted,
}

impl Scripted {
    /// # Errors
    /// When an expression or a template of a rule cannot be compiled.
    pub fn new(name: &str, rules: &[Rule]) -> Result<Self, SetupError> {
        let rules =
            scripted::Scripted::compile(name, rules).map_err(|error| SetupError::Rules {
                model: name.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            name: name.to_owned(),
            rules,
        })
    }

    async fn ask(&self, request: &Request) -> Result<Reply, Error> {
        let answer = self.rules.answer(request).map_err(|fault| Error::Script {
            reason: fault.message,
        })?;
        // The timer's tick is a millisecond: no delay must not become one.
        if answer.delay_ms > 0 {
            sleep(Duration::from_millis(answer.delay_ms)).await;
        }
        match answer.outcome {
            Outcome::Reply(reply) => Ok(reply),
            Outcome::Error { status } => Err(Error::Status {
                model: self.name.clone(),
                status,
                hint: "as the rule says".to_owned(),
                retry_after: None,
            }),
        }
    }
}

impl Provider for Scripted {
    fn ask<'a>(
        &'a self,
        request: &'a Request,
        _within: Duration,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.ask(request).boxed()
    }
}
