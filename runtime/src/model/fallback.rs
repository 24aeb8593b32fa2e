//! A model with another one that is asked where it gives no answer.

use super::{Client, Error, Model};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::config;
use headwater_engine::model::{Reply, Request};
use std::sync::Arc;
use tokio::time::Instant;

pub struct Fallback {
    first: Client,
    /// Of the other one.
    config: config::Model,
    other: Arc<dyn Model>,
}

impl Fallback {
    pub fn new(first: Client, config: config::Model, other: Arc<dyn Model>) -> Self {
        Self {
            first,
            config,
            other,
        }
    }

    async fn answer(&self, request: &Request, deadline: Instant) -> Result<Reply, Error> {
        let error = match self.first.answer(request, deadline).await {
            Ok(reply) => return Ok(reply),
            Err(error) => error,
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        let config = &self.config;
        tracing::warn!(error = %error, instead = config.name, "another model is asked instead");
        let request = Request {
            model: config.model.clone(),
            parameters: config.parameters.clone(),
            max_output_tokens: config.max_output_tokens,
            // Both may be behind one gateway.
            idempotency_key: format!("{}-{}", request.idempotency_key, config.name),
            ..request.clone()
        };
        match self.other.answer(&request, deadline).await {
            Ok(reply) => Ok(Reply {
                answered_by: reply.answered_by.or_else(|| Some(config.name.clone())),
                ..reply
            }),
            Err(second) => {
                tracing::warn!(error = %second, "it gives no answer either");
                // That of the model that is to answer decides what becomes of the run.
                Err(error)
            }
        }
    }
}

impl Model for Fallback {
    fn answer<'a>(
        &'a self,
        request: &'a Request,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.answer(request, deadline).boxed()
    }
}
