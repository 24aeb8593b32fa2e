//! Whether held views hold what was in their sources when the stage began.
//!
//! A view with an input log of its own may be behind its sources although its input is read to the end:
//! the view's stage was not through yet. A pod is ready only once the views hold what one before it held,
//! so that a rolling update takes nothing back from readers. Runs do not wait for it, they have the barrier.

use super::super::Error;
use super::super::ends::Ends;
use super::super::life::Life;
use super::super::reading::{partitions, persist};
use super::One;
use crate::log::Log;
use headwater_engine::config::Input;
use headwater_engine::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A source that is stopped at a bad record is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(60);

/// What has to be held.
pub(super) struct Roots {
    views: Vec<Arc<One>>,
    ends: Ends,
    asked: Instant,
}

impl Roots {
    /// Asks where the sources of the views with input logs of their own end.
    pub(super) fn ask<'a>(
        log: &dyn Log,
        life: &Life,
        views: impl Iterator<Item = &'a Arc<One>>,
    ) -> Result<Self, Error> {
        let views: Vec<Arc<One>> = views
            .filter(|one| matches!(one.config.input, Input::Own { .. }))
            .cloned()
            .collect();
        let topics: BTreeSet<String> = views.iter().flat_map(|one| one.source_topics()).collect();
        let topics: Vec<String> = topics.into_iter().collect();
        let ends = if topics.is_empty() {
            BTreeMap::new()
        } else {
            let counts = partitions(log, life, &topics)?;
            let all: Vec<TopicPartition> = topics
                .iter()
                .zip(counts)
                .flat_map(|(topic, count)| {
                    let topic: Arc<str> = topic.as_str().into();
                    (0..count)
                        .map(move |partition| TopicPartition::new(Arc::clone(&topic), partition))
                })
                .collect();
            let ends = persist(life, "ends", || log.ends(&all))?;
            all.into_iter().zip(ends).collect()
        };
        Ok(Self {
            views,
            ends: Arc::new(ends),
            asked: Instant::now(),
        })
    }

    pub(super) fn are_held(&self) -> bool {
        let held = |one: &Arc<One>| one.find(&self.ends).behind.is_empty();
        if self.views.iter().all(held) {
            return true;
        }
        let late = self.asked.elapsed() >= PATIENCE;
        if late {
            tracing::warn!(
                "the views do not hold what was in their sources; the pod is ready all the same"
            );
        }
        late
    }
}
