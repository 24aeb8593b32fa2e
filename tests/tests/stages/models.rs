//! Models that behave as a test needs it.

use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::model::{Reply, Request};
use headwater_runtime::backoff::Random;
use headwater_runtime::metrics::Metrics;
use headwater_runtime::model::{Client, Error, Model, Provider};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Answers well after a delay, and counts.
pub struct Counting {
    delay: Duration,
    asked: Arc<AtomicUsize>,
}

impl Counting {
    pub fn model(delay: Duration) -> (Arc<dyn Model>, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let model = Self {
            delay,
            asked: Arc::clone(&asked),
        };
        (Arc::new(model), asked)
    }
}

impl Model for Counting {
    fn answer<'a>(
        &'a self,
        _request: &'a Request,
        _deadline: Instant,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        async {
            self.asked.fetch_add(1, Ordering::Relaxed);
            sleep(self.delay).await;
            Ok(well())
        }
        .boxed()
    }
}

/// Fails as the prompt says.
pub struct Troubled {
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Troubled {
    /// With the retries and timeouts of a model's configuration.
    #[allow(clippy::type_complexity, reason = "a pair")]
    pub fn client(config: &Value) -> (Arc<dyn Model>, Arc<Mutex<BTreeMap<String, usize>>>) {
        let asked = Arc::new(Mutex::new(BTreeMap::new()));
        let provider = Self {
            asked: Arc::clone(&asked),
        };
        let config = serde_json::from_value(config.clone()).unwrap();
        let metrics = Arc::new(Metrics::new());
        let client = Client::new(&config, Box::new(provider), Random::seeded(1), metrics);
        (Arc::new(client), asked)
    }
}

impl Provider for Troubled {
    fn ask<'a>(
        &'a self,
        request: &'a Request,
        _within: Duration,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        async {
            let prompt = request.prompt();
            *self
                .asked
                .lock()
                .unwrap()
                .entry(prompt.to_owned())
                .or_default() += 1;
            let model = "chat".to_owned();
            match prompt {
                "429" | "500" | "401" => Err(Error::Status {
                    model,
                    status: prompt.parse().unwrap(),
                    hint: String::new(),
                    retry_after: None,
                }),
                "garbage" => Err(Error::Malformed {
                    model,
                    reason: "it is garbage".to_owned(),
                }),
                "hang" => {
                    sleep(Duration::from_secs(3_600)).await;
                    Ok(well())
                }
                "panic" => panic!("as asked"),
                _ => Ok(well()),
            }
        }
        .boxed()
    }
}

fn well() -> Reply {
    Reply {
        text: "well".to_owned(),
        ..Reply::default()
    }
}
