//! Talks to a running `up`.

use super::registry::Running;
use super::{
    Answer, Ask, Decide, Decided, Letter, Letters, Look, Open, Past, Problem, Question, Replay,
    Replayed, Resume, Resumed, Retried, Retry, Seen, Send, Sent, ViewFigures, Views,
};
use crate::error::Error;
use headwater_engine::audit;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

pub(crate) struct Client {
    running: Running,
    http: reqwest::Client,
}

/// Above what the `up` itself waits, so that its own message comes first.
const SLACK: Duration = Duration::from_secs(10);

impl Client {
    pub(crate) fn new(running: Running) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::failed(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { running, http })
    }

    pub(crate) async fn send(&self, event: &Send) -> Result<Sent, Error> {
        self.post("send", event, Duration::from_secs(30)).await
    }

    pub(crate) async fn ask(&self, ask: &Ask) -> Result<Answer, Error> {
        self.post("ask", ask, Duration::from_secs(ask.timeout_seconds))
            .await
    }

    pub(crate) async fn past(&self, past: &Past) -> Result<Vec<audit::Record>, Error> {
        self.post("past", past, Duration::from_secs(30)).await
    }

    pub(crate) async fn replay(&self, replay: &Replay) -> Result<Replayed, Error> {
        self.post("replay", replay, Duration::from_secs(600)).await
    }

    pub(crate) async fn views(&self, views: &Views) -> Result<Vec<ViewFigures>, Error> {
        self.post("views", views, Duration::from_secs(30)).await
    }

    pub(crate) async fn look(&self, look: &Look) -> Result<Seen, Error> {
        self.post("look", look, Duration::from_secs(30)).await
    }

    pub(crate) async fn letters(&self, letters: &Letters) -> Result<Vec<Letter>, Error> {
        self.post("letters", letters, Duration::from_secs(60)).await
    }

    pub(crate) async fn questions(&self, open: &Open) -> Result<Vec<Question>, Error> {
        self.post("questions", open, Duration::from_secs(60)).await
    }

    pub(crate) async fn decide(&self, decide: &Decide) -> Result<Decided, Error> {
        self.post("decide", decide, Duration::from_secs(60)).await
    }

    pub(crate) async fn retry(&self, retry: &Retry) -> Result<Vec<Retried>, Error> {
        self.post("retry", retry, Duration::from_secs(300)).await
    }

    pub(crate) async fn resume(&self, resume: &Resume) -> Result<Vec<Resumed>, Error> {
        self.post("resume", resume, Duration::from_secs(60)).await
    }

    async fn post<Answer: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        wait: Duration,
    ) -> Result<Answer, Error> {
        let cannot = |error: reqwest::Error| {
            let reason = if error.is_timeout() {
                "it does not answer"
            } else {
                "the connection failed"
            };
            Error::failed(format!(
                "cannot talk to 'up' of {} at {}: {reason}; is it still running?",
                self.running.name, self.running.address
            ))
        };
        let response = self
            .http
            .post(format!("http://{}/v1/{path}", self.running.address))
            .bearer_auth(&self.running.token)
            .timeout(wait + SLACK)
            .json(body)
            .send()
            .await
            .map_err(cannot)?;
        if response.status().is_success() {
            return response.json().await.map_err(cannot);
        }
        let status = response.status();
        match response.json::<Problem>().await {
            Ok(problem) if problem.failed => Err(Error::Failed(problem.message)),
            Ok(problem) => Err(Error::Refused(problem.message)),
            Err(_) => Err(Error::failed(format!(
                "what listens at {} is no 'headwater up' of this version (HTTP {status})",
                self.running.address
            ))),
        }
    }
}
