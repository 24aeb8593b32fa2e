//! The views that a stage reads, an agent's or those that a view joins: folded from their input logs by a thread of its own, read by runs.
//!
//! A reader of an input log waits for no transaction and for no view stage: it restores what the last
//! checkpoint saved, and goes on from its mark. Runs wait here until a view holds what was in the log
//! when their trigger arrived ([`Held::barrier`]); the folding thread wakes them.

mod barrier;
mod folder;
mod inputs;
mod passed;
mod readers;
mod restore;
mod roots;

pub(super) use folder::Folder;

use super::ends::Ends;
use crate::log::Waker;
use headwater_engine::config::View;
use headwater_engine::lookup::Views;
use headwater_engine::record::TopicPartition;
use headwater_engine::view::{self, Definition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use tokio::sync::watch;

pub(super) struct Held {
    views: BTreeMap<String, Arc<One>>,
    /// Counts the turns of the folding thread.
    progress: watch::Sender<u64>,
    ready: AtomicBool,
    on_ready: Mutex<Option<Waker>>,
    readers: readers::Readers,
}

struct One {
    config: View,
    state: RwLock<view::View>,
    /// When the view was last found to hold all that was in the log, milliseconds since the epoch; 0 before.
    met_at: AtomicI64,
}

/// A root partition of which a view did not hold everything in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) partition: TopicPartition,
    pub(super) covered: i64,
    pub(super) end: i64,
    /// What is missing belongs to transactions that were not decided or not marked.
    pub(super) undecided: bool,
}

/// What the barrier found of one view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) covered: BTreeMap<TopicPartition, i64>,
    pub(super) behind: Vec<Behind>,
    /// Milliseconds since the view last held everything; 0 where it does.
    pub(super) stale_ms: i64,
}

impl Held {
    pub(super) fn new(definitions: BTreeMap<String, (View, Arc<Definition>)>) -> Self {
        let views = definitions
            .into_iter()
            .map(|(name, (config, definition))| {
                let one = One {
                    config,
                    state: RwLock::new(view::View::new(definition)),
                    met_at: AtomicI64::new(0),
                };
                (name, Arc::new(one))
            })
            .collect();
        Self {
            views,
            progress: watch::Sender::new(0),
            ready: AtomicBool::new(false),
            on_ready: Mutex::new(None),
            readers: readers::Readers::default(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Called once, when the views have caught up for the first time, or at once if they have.
    pub(super) fn when_ready(&self, waker: Waker) {
        let mut slot = self.on_ready.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_ready() {
            waker();
        } else {
            *slot = Some(waker);
        }
    }

    fn become_ready(&self) {
        let mut slot = self.on_ready.lock().unwrap_or_else(PoisonError::into_inner);
        self.ready.store(true, Ordering::Release);
        if let Some(waker) = slot.take() {
            waker();
        }
    }

    /// Topics that the views come from in the end: the sources'.
    pub(super) fn root_topics(&self) -> Vec<String> {
        let topics: BTreeSet<String> = self
            .views
            .values()
            .flat_map(|one| one.source_topics())
            .collect();
        topics.into_iter().collect()
    }

    /// How far each view is, now.
    pub(super) fn find(&self, ends: &Ends) -> BTreeMap<String, Found> {
        self.views
            .iter()
            .map(|(name, one)| (name.clone(), one.find(ends)))
            .collect()
    }
}

impl One {
    fn source_topics(&self) -> Vec<String> {
        self.read(|view| {
            view.definition()
                .source_topics()
                .map(ToOwned::to_owned)
                .collect()
        })
    }

    fn read<T>(&self, f: impl FnOnce(&view::View) -> T) -> T {
        f(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, f: impl FnOnce(&mut view::View) -> T) -> T {
        f(&mut self.lock())
    }

    fn lock(&self) -> RwLockWriteGuard<'_, view::View> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn met(&self, now_ms: i64) {
        self.met_at.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// When the view last held everything, as far as this process knows. Before it ever saw that, the time of the
    /// newest record that was folded: the view held everything then, or later.
    fn met_at(&self) -> i64 {
        match self.met_at.load(Ordering::Relaxed) {
            0 => self.read(|view| {
                let read = view.partitions().map(|(_, state)| state.read_at());
                read.max().unwrap_or(0).max(0)
            }),
            met => met,
        }
    }

    /// The offset of an input partition that is to be folded next.
    fn next(&self, partition: i32) -> Option<i64> {
        self.read(|view| {
            let mut states = view.partitions();
            states
                .find(|(number, _)| *number == partition)
                .map(|(_, state)| state.next())
        })
    }

    fn find(&self, ends: &Ends) -> Found {
        self.read(|view| {
            let roots: Vec<&str> = view.definition().source_topics().collect();
            let mut found = Found {
                covered: BTreeMap::new(),
                behind: Vec::new(),
                stale_ms: 0,
            };
            for (partition, end) in &**ends {
                if !roots.contains(&&*partition.topic) {
                    continue;
                }
                let covered = view.covered(&partition.topic, partition.partition);
                found.covered.insert(partition.clone(), covered);
                if covered < *end {
                    found.behind.push(Behind {
                        partition: partition.clone(),
                        covered,
                        end: *end,
                        undecided: false,
                    });
                }
            }
            found
        })
    }
}

impl Views for Held {
    fn read(&self, name: &str, f: &mut dyn FnMut(&view::View)) {
        if let Some(one) = self.views.get(name) {
            one.read(f);
        }
    }
}
