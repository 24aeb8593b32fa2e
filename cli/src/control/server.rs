//! Serves the door: checks who comes, hands over to the [`Gateway`].

use super::{Ask, Decide, Letters, Look, Open, Past, Problem, Replay, Resume, Retry, Send, Views};
use crate::error::Error;
use crate::gateway::Gateway;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Serialize;
use std::sync::Arc;

/// Largest body, in bytes: a record of Kafka's usual limit, and its wrapping.
const LARGEST_BODY: usize = 2 * 1024 * 1024;

#[derive(Clone)]
struct Door {
    gateway: Arc<Gateway>,
    token: Arc<str>,
    port: u16,
}

pub(crate) fn router(gateway: Arc<Gateway>, token: &str, port: u16) -> Router {
    let door = Door {
        gateway,
        token: token.into(),
        port,
    };
    Router::new()
        .route("/v1/send", post(send))
        .route("/v1/ask", post(ask))
        .route("/v1/past", post(past))
        .route("/v1/replay", post(replay))
        .route("/v1/views", post(views))
        .route("/v1/look", post(look))
        .route("/v1/letters", post(letters))
        .route("/v1/retry", post(retry))
        .route("/v1/resume", post(resume))
        .route("/v1/questions", post(questions))
        .route("/v1/decide", post(decide))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(from_fn_with_state(door.clone(), check))
        .with_state(door)
}

/// Host first: a page that a browser was led to by a name that points here has another one.
async fn check(State(door): State<Door>, request: Request, next: Next) -> Response {
    match refusal(request.headers(), &door.token, door.port) {
        Some(status) => status.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(headers: &HeaderMap, token: &str, port: u16) -> Option<StatusCode> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    if !text(header::HOST).is_some_and(|host| hosts.iter().any(|own| own == host)) {
        return Some(StatusCode::MISDIRECTED_REQUEST);
    }
    if headers.contains_key(header::ORIGIN) {
        return Some(StatusCode::FORBIDDEN);
    }
    let given = text(header::AUTHORIZATION)
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    (!equal(given.as_bytes(), token.as_bytes())).then_some(StatusCode::UNAUTHORIZED)
}

/// In the same time wherever they differ.
fn equal(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len()
        && given
            .iter()
            .zip(wanted)
            .fold(0, |all, (a, b)| all | (a ^ b))
            == 0
}

async fn send(State(door): State<Door>, Json(event): Json<Send>) -> Response {
    answer(door.gateway, move |gateway| gateway.send(&event)).await
}

async fn ask(State(door): State<Door>, Json(ask): Json<Ask>) -> Response {
    answer(door.gateway, move |gateway| gateway.ask(&ask)).await
}

async fn past(State(door): State<Door>, Json(past): Json<Past>) -> Response {
    answer(door.gateway, move |gateway| gateway.past(&past)).await
}

async fn replay(State(door): State<Door>, Json(replay): Json<Replay>) -> Response {
    answer(door.gateway, move |gateway| gateway.replay(&replay)).await
}

async fn views(State(door): State<Door>, Json(views): Json<Views>) -> Response {
    answer(door.gateway, move |gateway| gateway.views(&views)).await
}

async fn look(State(door): State<Door>, Json(look): Json<Look>) -> Response {
    answer(door.gateway, move |gateway| gateway.look(&look)).await
}

async fn letters(State(door): State<Door>, Json(letters): Json<Letters>) -> Response {
    answer(door.gateway, move |gateway| gateway.letters(&letters)).await
}

async fn retry(State(door): State<Door>, Json(retry): Json<Retry>) -> Response {
    answer(door.gateway, move |gateway| gateway.retry(&retry)).await
}

async fn questions(State(door): State<Door>, Json(open): Json<Open>) -> Response {
    answer(door.gateway, move |gateway| gateway.questions(&open)).await
}

async fn decide(State(door): State<Door>, Json(decide): Json<Decide>) -> Response {
    answer(door.gateway, move |gateway| {
        gateway.answer_question(&decide)
    })
    .await
}

async fn resume(State(door): State<Door>, Json(resume): Json<Resume>) -> Response {
    answer(door.gateway, move |gateway| gateway.resume(&resume)).await
}

/// The gateway waits for the log, so it has a thread of its own.
async fn answer<Done, Work>(gateway: Arc<Gateway>, work: Work) -> Response
where
    Done: Serialize + std::marker::Send + 'static,
    Work: FnOnce(&Gateway) -> Result<Done, Error> + std::marker::Send + 'static,
{
    let done = tokio::task::spawn_blocking(move || work(&gateway)).await;
    let error = match done {
        Ok(Ok(done)) => return Json(done).into_response(),
        Ok(Err(error)) => error,
        Err(_) => Error::internal("the request broke off"),
    };
    let failed = matches!(error, Error::Failed(_) | Error::File { .. });
    let status = if failed {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let problem = Problem {
        message: error.to_string(),
        failed,
    };
    (status, Json(problem)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().expect("a header")))
            .collect()
    }

    #[test]
    fn only_who_has_the_token_and_no_browser_comes_in() {
        let good = [
            (header::HOST, "127.0.0.1:7420"),
            (header::AUTHORIZATION, "Bearer abc"),
        ];
        let with = |changed: &[(HeaderName, &str)]| {
            let mut map = headers(&good);
            map.extend(headers(changed));
            refusal(&map, "abc", 7420)
        };
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[(header::HOST, "localhost:7420")]), None);
        assert_eq!(
            with(&[(header::HOST, "evil.example:7420")]),
            Some(StatusCode::MISDIRECTED_REQUEST)
        );
        assert_eq!(
            with(&[(header::HOST, "127.0.0.1:80")]),
            Some(StatusCode::MISDIRECTED_REQUEST)
        );
        assert_eq!(
            with(&[(header::ORIGIN, "http://127.0.0.1:7420")]),
            Some(StatusCode::FORBIDDEN)
        );
        for wrong in [
            "Bearer abd",
            "Bearer ab",
            "Bearer abcd",
            "abc",
            "Basic abc",
            "",
        ] {
            assert_eq!(
                with(&[(header::AUTHORIZATION, wrong)]),
                Some(StatusCode::UNAUTHORIZED),
                "{wrong}"
            );
        }
        assert_eq!(
            refusal(&headers(&good[..1]), "abc", 7420),
            Some(StatusCode::UNAUTHORIZED)
        );
    }
}
