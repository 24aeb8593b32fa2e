//! Looking into a view of a running stage: its keys, a key's rows, and how far they are.
//!
//! A question goes to the thread that folds, which answers it between two polls, so that a value is read from the
//! partition that is folded, together with how far that is. A replica knows the partitions that it owns, no others.

use super::context::Context;
use super::lag;
use super::life::Life;
use super::serve::Rows;
use super::status::Status;
use crate::log;
use headwater_engine::config::View;
use headwater_engine::key::Key;
use headwater_engine::view::{Partition, Row};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::time::Duration;

/// A checkpoint under way comes first.
const WAIT: Duration = Duration::from_secs(20);

/// What is done with the partitions at hand, on the thread that folds them.
type Question = Box<dyn for<'a> FnOnce(&'a [(i32, &'a Partition)]) + Send>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the stage of view '{view}' has ended")]
    Ended { view: String },
    #[error(
        "view '{view}' did not answer in {} s: it waits for its topics, or for Kafka",
        WAIT.as_secs()
    )]
    Busy { view: String },
    #[error(transparent)]
    Log(#[from] log::Error),
}

/// The fold's end of the mailbox.
pub(super) struct Mailbox(Receiver<Question>);

impl Mailbox {
    pub(super) fn new() -> (Sender<Question>, Self) {
        let (sender, receiver) = channel();
        (sender, Self(receiver))
    }

    /// Answers what waits; `partitions` is asked for only if something does.
    pub(super) fn answer<'a>(&self, partitions: impl Fn() -> Vec<(i32, &'a Partition)>) {
        for question in self.0.try_iter() {
            question(&partitions());
        }
    }
}

/// Where questions about one view go.
#[derive(Clone)]
pub struct Look {
    context: Arc<Context>,
    life: Arc<Life>,
    view: View,
    questions: Sender<Question>,
}

/// A key as a partition holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub key: Key,
    /// The input log's partition.
    pub partition: i32,
    /// Every record of that partition below this offset is folded.
    pub next: i64,
    /// One, or a history's events, newest first; none of a key that readers do not see (expired, or without what a
    /// required source has to give).
    pub rows: Vec<Row>,
}

/// What a view's stage gives to others, before it runs.
pub(super) struct Desk {
    pub(super) view: View,
    pub(super) questions: Sender<Question>,
    /// Where the view is served.
    pub(super) rows: Option<Rows>,
}

impl Look {
    pub(super) fn new(context: &Arc<Context>, life: &Arc<Life>, desk: Desk) -> Self {
        Self {
            context: Arc::clone(context),
            life: Arc::clone(life),
            view: desk.view,
            questions: desk.questions,
        }
    }

    pub fn namespace(&self) -> &str {
        &self.context.config.namespace
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// The status, with how far the view is behind measured now.
    ///
    /// # Errors
    /// When the log does not say where it ends.
    pub fn status(&self) -> Result<Status, Error> {
        lag::behind(&*self.context.services.log, &self.life.board)?;
        Ok(self.life.board.status())
    }

    /// The first `limit` keys, in order, with their rows as of `at`, milliseconds. Blocks.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Busy`].
    pub fn keys(&self, limit: usize, at: i64) -> Result<Vec<Held>, Error> {
        self.ask(move |partitions| first(partitions, limit, at))
    }

    /// A key in the partitions that hold it as of `at`, milliseconds: one, unless the source's writers spread keys over
    /// partitions; none where there is no such key. Blocks.
    ///
    /// # Errors
    /// As [`Look::keys`].
    pub fn key(&self, key: &Key, at: i64) -> Result<Vec<Held>, Error> {
        let key = key.clone();
        self.ask(move |partitions| held(partitions, &key, at))
    }

    fn ask<T: Send + 'static>(
        &self,
        question: impl for<'a> FnOnce(&'a [(i32, &'a Partition)]) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let view = || self.view.name.clone();
        let (sender, answer) = sync_channel(1);
        let question: Question = Box::new(move |partitions| {
            // Whoever asked may have gone.
            let _ = sender.send(question(partitions));
        });
        self.questions
            .send(question)
            .map_err(|_| Error::Ended { view: view() })?;
        self.life.wake();
        answer.recv_timeout(WAIT).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => Error::Busy { view: view() },
            std::sync::mpsc::RecvTimeoutError::Disconnected => Error::Ended { view: view() },
        })
    }
}

/// The first `limit` keys, in order, wherever they are.
pub fn first(partitions: &[(i32, &Partition)], limit: usize, at: i64) -> Vec<Held> {
    let mut first: Vec<(Key, i32, &Partition)> = partitions
        .iter()
        .flat_map(|(number, partition)| {
            let keys = partition.first_keys(limit).into_iter();
            keys.map(move |key| (key, *number, *partition))
        })
        .collect();
    first.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    first.truncate(limit);
    first
        .into_iter()
        .map(|(key, number, partition)| Held {
            rows: partition.rows(&key, at),
            key,
            partition: number,
            next: partition.next(),
        })
        .collect()
}

/// A key in the partitions where readers see it.
pub fn held(partitions: &[(i32, &Partition)], key: &Key, at: i64) -> Vec<Held> {
    let found = partitions.iter().map(|(number, partition)| Held {
        key: key.clone(),
        partition: *number,
        next: partition.next(),
        rows: partition.rows(key, at),
    });
    found.filter(|held| !held.rows.is_empty()).collect()
}
