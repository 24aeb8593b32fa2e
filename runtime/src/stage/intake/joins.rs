//! The views that an intake reads as events go, to join their rows or to start a run for each, and the wait before it reads them.
//!
//! It reads once, so it has to read late enough: after events came in, the logs are asked where those views' sources end, and
//! nothing goes before the held copies cover those ends. So whatever was acknowledged before an event was sent is in what is read for it. What comes
//! in during the wait is behind the fence and waits for a question of its own. The wait ends when it is over, however long that takes;
//! the status says for which view.

use super::super::Context;
use super::super::Error;
use super::super::ends::{Ends, LOOK_AGAIN, grown};
use super::super::held::{Found, Held};
use super::super::life::Life;
use super::super::reading::partitions;
use crate::log::Waker;
use headwater_engine::intake::Fence;
use headwater_engine::lookup::Views;
use headwater_engine::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// Reason of the problem that tells of the wait, one for each view that is waited for.
const WAITING: &str = "WaitingForJoin";
/// A wait shorter than this is nobody's concern.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the status says anew how far a view is.
const TELL_AGAIN: Duration = Duration::from_secs(5);

pub(in crate::stage) struct Joins {
    context: Arc<Context>,
    life: Arc<Life>,
    held: Arc<Held>,
    /// Partitions of the sources that the joined views come from.
    roots: Vec<TopicPartition>,
    /// When it was last looked whether there are more.
    looked: Instant,
    waker: Option<Waker>,
    barrier: Option<Barrier>,
    /// Views that the status says are waited for.
    told: BTreeSet<String>,
}

struct Barrier {
    asked: Instant,
    fence: Fence,
    ends: Ends,
    watch: Option<AbortHandle>,
}

impl Drop for Barrier {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

/// The wait is over.
pub(super) struct Passed {
    pub(super) fence: Fence,
    pub(super) waited: Duration,
}

impl Joins {
    pub(in crate::stage) fn new(context: Arc<Context>, life: Arc<Life>, held: Arc<Held>) -> Self {
        Self {
            context,
            life,
            held,
            roots: Vec::new(),
            looked: Instant::now(),
            waker: None,
            barrier: None,
            told: BTreeSet::new(),
        }
    }

    /// Waits until the topics of the joined views' sources are there; `waker` is called when a wait may be over.
    pub(super) fn open(&mut self, waker: Waker) -> Result<(), Error> {
        let topics = self.held.root_topics();
        let counts = partitions(&*self.context.services.log, &self.life, &topics)?;
        self.roots = topics
            .iter()
            .zip(counts)
            .flat_map(|(topic, count)| {
                let topic: Arc<str> = topic.as_str().into();
                (0..count).map(move |partition| TopicPartition::new(Arc::clone(&topic), partition))
            })
            .collect();
        self.held.when_ready(Arc::clone(&waker));
        self.waker = Some(waker);
        Ok(())
    }

    /// Partitions whose ends [`Joins::ask`] needs; none while a wait is under way.
    pub(super) fn asks(&self) -> &[TopicPartition] {
        match self.barrier {
            Some(_) => &[],
            None => &self.roots,
        }
    }

    /// Begins a wait: `fence` was drawn before `ends`, those of [`Joins::asks`], were asked.
    pub(super) fn ask(&mut self, fence: Fence, ends: &[i64]) {
        let ends = self.roots.iter().cloned().zip(ends.iter().copied());
        self.barrier = Some(Barrier {
            asked: Instant::now(),
            fence,
            ends: Arc::new(ends.collect()),
            watch: None,
        });
    }

    pub(super) fn is_asked(&self) -> bool {
        self.barrier.is_some()
    }

    /// What the wait was for is another's now, or is to be read again.
    pub(super) fn forget(&mut self) {
        self.barrier = None;
        self.tell(&BTreeMap::new());
    }

    /// The end of the wait, if it is over.
    pub(super) fn pass(&mut self) -> Option<Passed> {
        let barrier = self.barrier.as_mut()?;
        let waits = waits(&self.held, &barrier.ends);
        if waits.is_empty() {
            let passed = Passed {
                fence: barrier.fence.clone(),
                waited: barrier.asked.elapsed(),
            };
            self.forget();
            if self.looked.elapsed() >= LOOK_AGAIN {
                self.looked = Instant::now();
                self.roots = grown(&*self.context.services.log, std::mem::take(&mut self.roots));
            }
            return Some(passed);
        }
        if barrier.watch.is_none()
            && let Some(waker) = &self.waker
        {
            let (held, ends) = (Arc::clone(&self.held), Arc::clone(&barrier.ends));
            let waker = Arc::clone(waker);
            let watch = self.life.runtime.spawn(async move {
                held.reach(&ends).await;
                waker();
            });
            barrier.watch = Some(watch.abort_handle());
        }
        if barrier.asked.elapsed() >= PATIENCE {
            self.tell(&waits);
        }
        None
    }

    /// How long the wait may go on before the status has to be written.
    pub(super) fn quiet(&self) -> Option<Duration> {
        let barrier = self.barrier.as_ref()?;
        Some(if self.told.is_empty() {
            PATIENCE.saturating_sub(barrier.asked.elapsed())
        } else {
            TELL_AGAIN
        })
    }

    fn tell(&mut self, waits: &BTreeMap<String, String>) {
        for view in &self.told {
            if !waits.contains_key(view) {
                self.life.board.solved(WAITING, view);
            }
        }
        for (view, message) in waits {
            if !self.told.contains(view) {
                tracing::warn!(joined = view, "{message}");
            }
            self.life.board.problem(WAITING, view, message.clone());
        }
        self.told = waits.keys().cloned().collect();
    }

    pub(super) fn views(&self) -> &dyn Views {
        &*self.held
    }
}

/// The views that do not hold what they have to, and what they lack.
fn waits(held: &Held, ends: &Ends) -> BTreeMap<String, String> {
    let ready = held.is_ready();
    held.find(ends)
        .into_iter()
        .filter(|(_, found)| !ready || !found.behind.is_empty())
        .map(|(view, found)| {
            let message = message(&view, ready, &found);
            (view, message)
        })
        .collect()
}

fn message(view: &str, ready: bool, found: &Found) -> String {
    match found.behind.first() {
        Some(behind) if ready => format!(
            "events wait to be joined with view '{view}', which does not hold yet what was in the log when they came in: it is at {} of {} in '{}'. Nothing is lost; look at what keeps view '{view}'",
            behind.covered, behind.end, behind.partition
        ),
        _ => format!("events wait to be joined with view '{view}', which is being restored here"),
    }
}
