//! The port of a stage's pod: health, readiness, metrics and status. It shows no event and no prompt.
//!
//! It knows stages only through [`Probe`]; whoever runs several stages in one process serves them all
//! on one port.

use crate::metrics::Metrics;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the port asks of a stage. Answers at once, from memory.
pub trait Probe: Send + Sync {
    /// Its threads are at work; else the pod is to be started again.
    fn alive(&self) -> bool;
    /// Restored, a member of its group, and caught up once.
    fn ready(&self) -> bool;
    fn status(&self) -> serde_json::Value;
}

#[derive(Clone)]
struct Shared {
    probes: Arc<[Arc<dyn Probe>]>,
    metrics: Arc<Metrics>,
}

pub fn router(probes: Vec<Arc<dyn Probe>>, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(text))
        .route("/status", get(status))
        .with_state(Shared {
            probes: probes.into(),
            metrics,
        })
}

/// Binds now, serves in a task until `shutdown`, then finishes what is in flight.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) -> std::io::Result<(SocketAddr, tokio::task::JoinHandle<std::io::Result<()>>)> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    Ok((bound, tokio::spawn(served.into_future())))
}

fn answer(good: bool) -> (StatusCode, &'static str) {
    if good {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not yet; see /status\n")
    }
}

async fn healthz(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    answer(shared.probes.iter().all(|probe| probe.alive()))
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    answer(
        shared
            .probes
            .iter()
            .all(|probe| probe.alive() && probe.ready()),
    )
}

async fn text(State(shared): State<Shared>) -> Response {
    match shared.metrics.text() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// One stage's status where there is one stage, else a list.
async fn status(State(shared): State<Shared>) -> Json<serde_json::Value> {
    let mut all: Vec<_> = shared.probes.iter().map(|probe| probe.status()).collect();
    Json(match all.len() {
        1 => all.remove(0),
        _ => all.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Stage {
        alive: AtomicBool,
        ready: AtomicBool,
    }

    impl Probe for Stage {
        fn alive(&self) -> bool {
            self.alive.load(Ordering::Relaxed)
        }

        fn ready(&self) -> bool {
            self.ready.load(Ordering::Relaxed)
        }

        fn status(&self) -> serde_json::Value {
            json!({"ready": self.ready()})
        }
    }

    #[tokio::test]
    async fn answers_from_the_stage_until_shut_down() {
        let stage = Arc::new(Stage::default());
        let shutdown = CancellationToken::new();
        let router = router(vec![Arc::clone(&stage) as _], Arc::new(Metrics::new()));
        let (address, server) = serve("127.0.0.1:0".parse().unwrap(), router, shutdown.clone())
            .await
            .unwrap();
        let code = async |path: &str| {
            let url = format!("http://{address}{path}");
            reqwest::get(url).await.unwrap().status().as_u16()
        };
        assert_eq!((code("/healthz").await, code("/readyz").await), (503, 503));
        stage.alive.store(true, Ordering::Relaxed);
        assert_eq!((code("/healthz").await, code("/readyz").await), (200, 503));
        stage.ready.store(true, Ordering::Relaxed);
        assert_eq!((code("/readyz").await, code("/metrics").await), (200, 200));
        let status: serde_json::Value = reqwest::get(format!("http://{address}/status"))
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(status, json!({"ready": true}));
        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
