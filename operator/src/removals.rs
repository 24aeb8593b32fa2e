//! Topics of generations that nobody reads any more, deleted in the background.
//!
//! By the ids that were recorded when they were created, and only once the generation's stage is gone. What
//! could not be deleted stays on record and is tried again.

use crate::brokers::{Brokers, Key};
use crate::kafka::Connection;
use crate::topics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::{JoinError, JoinSet};

/// Least time between two attempts for one resource.
const PACE: Duration = Duration::from_secs(2);

/// Topics of one resource that are gone, or are somebody else's by now.
pub(crate) struct Removed {
    pub(crate) uid: String,
    pub(crate) topics: Vec<String>,
}

/// The attempts of one namespace.
#[derive(Default)]
pub(crate) struct Removals {
    under_way: JoinSet<Removed>,
    /// When the last attempt of each resource began, and whether it is over.
    attempts: BTreeMap<String, (Instant, bool)>,
}

impl Removals {
    /// Begins to delete topics of a resource, unless an attempt is under way or was just made.
    pub(crate) fn begin(
        &mut self,
        uid: &str,
        topics: BTreeMap<String, String>,
        key: Key,
        connection: Connection,
        brokers: Arc<Brokers>,
    ) {
        let paced = self
            .attempts
            .get(uid)
            .is_some_and(|(began, over)| !over || began.elapsed() < PACE);
        if paced || topics.is_empty() {
            return;
        }
        self.attempts
            .insert(uid.to_owned(), (Instant::now(), false));
        let uid = uid.to_owned();
        self.under_way.spawn(async move {
            let Connection { settings, version } = connection;
            let all = topics.clone();
            let left = brokers
                .with(&key, &version, &settings, move |admin| {
                    topics::delete(admin, &all)
                })
                .await
                .unwrap_or_else(|error| {
                    tracing::warn!(namespace = key.namespace, cluster = key.cluster, %error, "deleting topics of a former generation");
                    topics.clone()
                });
            let gone = topics.into_keys().filter(|topic| !left.contains_key(topic));
            Removed {
                uid,
                topics: gone.collect(),
            }
        });
    }

    /// The next attempt that is over; waits for ever where none is under way.
    pub(crate) async fn next(&mut self) -> Option<Removed> {
        match self.under_way.join_next().await {
            Some(over) => self.over(over),
            None => std::future::pending().await,
        }
    }

    fn over(&mut self, over: Result<Removed, JoinError>) -> Option<Removed> {
        match over {
            Ok(removed) => {
                if let Some((_, over)) = self.attempts.get_mut(&removed.uid) {
                    *over = true;
                }
                Some(removed)
            }
            Err(error) => {
                tracing::error!(%error, "deleting topics broke off");
                if self.under_way.is_empty() {
                    self.attempts.clear();
                }
                None
            }
        }
    }
}
