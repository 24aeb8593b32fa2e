//! The views that an agent holds: folded from their input logs by a thread of its own, read by runs.
//!
//! A reader of an input log waits for no transaction and for no view stage: it restores what the last
//! checkpoint saved, and goes on from its mark. Runs wait here until a view holds what was in the log
//! when their trigger arrived; the folding thread wakes them.

use super::context::Context;
use super::ends::Ends;
use super::life::Life;
use super::reading::{partitions, persist, to_end};
use super::status::{Part, Processed};
use super::{Error, Stall};
use crate::log::{self, Isolation, Reader, Start, Waker};
use crate::metrics;
use crate::observe::Happening;
use headwater_engine::config::{Input, InvalidRecords, View};
use headwater_engine::fault::Fault;
use headwater_engine::lookup::Views;
use headwater_engine::record::{Record, TopicPartition};
use headwater_engine::view::{self, Definition};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

const POLL: Duration = Duration::from_secs(10);

pub(super) struct Held {
    views: BTreeMap<String, One>,
    /// Counts the turns of the folding thread.
    progress: watch::Sender<u64>,
    ready: AtomicBool,
    on_ready: Mutex<Option<Waker>>,
}

struct One {
    config: View,
    state: RwLock<view::View>,
    /// When a barrier last found the view to hold all that was in the log, milliseconds since the epoch.
    met_at: AtomicI64,
}

/// A root partition of which a view did not hold everything in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) partition: TopicPartition,
    pub(super) covered: i64,
    pub(super) end: i64,
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
                (name, one)
            })
            .collect();
        Self {
            views,
            progress: watch::Sender::new(0),
            ready: AtomicBool::new(false),
            on_ready: Mutex::new(None),
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

    /// Waits until every view holds all below `ends`, at most until `deadline`.
    pub(super) async fn barrier(
        &self,
        ends: &Ends,
        deadline: Instant,
        now_ms: impl Fn() -> i64,
    ) -> BTreeMap<String, Found> {
        let mut progress = self.progress.subscribe();
        loop {
            // Marked as seen before the views are looked at: a turn in between wakes again.
            progress.mark_unchanged();
            let found = self.find(ends);
            let late =
                found.values().all(|found| found.behind.is_empty()) || Instant::now() >= deadline;
            // An error of the channel would be its end, which outlives every run.
            if late || !matches!(timeout_at(deadline, progress.changed()).await, Ok(Ok(()))) {
                return self.judge(found, now_ms());
            }
        }
    }

    fn find(&self, ends: &Ends) -> BTreeMap<String, Found> {
        self.views
            .iter()
            .map(|(name, one)| (name.clone(), one.find(ends)))
            .collect()
    }

    fn judge(&self, mut found: BTreeMap<String, Found>, now_ms: i64) -> BTreeMap<String, Found> {
        for (name, found) in &mut found {
            let Some(one) = self.views.get(name) else {
                continue;
            };
            if found.behind.is_empty() {
                one.met_at.fetch_max(now_ms, Ordering::Relaxed);
            } else {
                let met = one.met_at.load(Ordering::Relaxed);
                found.stale_ms = now_ms.saturating_sub(met).max(1);
            }
        }
        found
    }

    fn met(&self, now_ms: i64) {
        for one in self.views.values() {
            one.met_at.fetch_max(now_ms, Ordering::Relaxed);
        }
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
        f(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
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

/// The folding thread.
pub(super) struct Folder {
    context: Arc<Context>,
    life: Arc<Life>,
    held: Arc<Held>,
    /// Which views fold a partition.
    inputs: BTreeMap<TopicPartition, Vec<String>>,
    stopped: BTreeSet<TopicPartition>,
    /// Caught up once the inputs are here.
    targets: HashMap<TopicPartition, i64>,
    restored_percent: u8,
}

impl Folder {
    pub(super) fn new(context: Arc<Context>, life: Arc<Life>, held: Arc<Held>) -> Self {
        Self {
            context,
            life,
            held,
            inputs: BTreeMap::new(),
            stopped: BTreeSet::new(),
            targets: HashMap::new(),
            restored_percent: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<(), Error> {
        // Half a second that the first run would wait for otherwise.
        headwater_engine::tokens::prepare();
        if self.held.views.is_empty() {
            self.restored_percent = 100;
            self.held.become_ready();
            self.publish();
            return self.idle();
        }
        match self.begin() {
            Ok(mut reader) => {
                while !self.life.stopping() {
                    self.turn(&mut *reader)?;
                }
                Ok(())
            }
            // A restart would come to the same: somebody has to read the status, and decide.
            Err(Error::Stalled(stall)) => {
                stall.tell(&self.life);
                self.idle()
            }
            Err(error) => Err(error),
        }
    }

    /// Restores, and begins to read where the states end.
    fn begin(&mut self) -> Result<Box<dyn Reader>, Error> {
        let inputs = self.find_inputs()?;
        self.restore(&inputs)?;
        let log = Arc::clone(&self.context.services.log);
        let mut reader = log.reader(Isolation::ReadCommitted)?;
        self.life.woken_by(reader.waker());
        self.assign(&mut *reader)?;
        Ok(reader)
    }

    /// Nothing to fold, but a part of the stage all the same.
    fn idle(&self) -> Result<(), Error> {
        while !self.life.stopping() {
            self.life.wait(Duration::from_secs(3_600));
        }
        Ok(())
    }

    /// Partition counts by input topic.
    fn find_inputs(&mut self) -> Result<BTreeMap<String, i32>, Error> {
        let topics: BTreeSet<String> = self
            .held
            .views
            .values()
            .flat_map(|one| {
                [
                    Some(one.config.input.topic().to_owned()),
                    one.config.state_topic.clone(),
                ]
            })
            .flatten()
            .collect();
        let topics: Vec<String> = topics.into_iter().collect();
        let counts = partitions(&*self.context.services.log, &self.life, &topics)?;
        let counts: BTreeMap<String, i32> = topics.into_iter().zip(counts).collect();
        for (name, one) in &self.held.views {
            let topic: Arc<str> = one.config.input.topic().into();
            for partition in 0..counts.get(&*topic).copied().unwrap_or(0) {
                self.inputs
                    .entry(TopicPartition::new(Arc::clone(&topic), partition))
                    .or_default()
                    .push(name.clone());
                // Made now, so that `covered` of an own input log counts partitions that nothing came from yet.
                one.write(|view| {
                    view.partition_mut(partition);
                });
            }
        }
        Ok(counts)
    }

    fn restore(&mut self, counts: &BTreeMap<String, i32>) -> Result<(), Error> {
        let mut views: HashMap<String, String> = HashMap::new();
        let mut states = Vec::new();
        for (name, one) in &self.held.views {
            let Some(topic) = &one.config.state_topic else {
                continue;
            };
            views.insert(topic.clone(), name.clone());
            let topic_name: Arc<str> = topic.as_str().into();
            states.extend(
                (0..counts.get(topic).copied().unwrap_or(0))
                    .map(|partition| TopicPartition::new(Arc::clone(&topic_name), partition)),
            );
        }
        let held = Arc::clone(&self.held);
        let mut bad: Option<(TopicPartition, Fault)> = None;
        let log = Arc::clone(&self.context.services.log);
        let life = Arc::clone(&self.life);
        let mut told = 0;
        to_end(
            &*log,
            &life,
            &states,
            &mut |percent| {
                if percent != told {
                    told = percent;
                    self.restored_percent = percent.min(99);
                    self.publish();
                }
            },
            &mut |record| {
                let Some(one) = views
                    .get(record.topic)
                    .and_then(|name| held.views.get(name))
                else {
                    return;
                };
                let restored =
                    one.write(|view| view.partition_mut(record.partition).restore(record));
                if let Err(fault) = restored {
                    let partition = TopicPartition::new(record.topic, record.partition);
                    bad.get_or_insert((partition, fault.at(record.position())));
                }
            },
        )?;
        if let Some((partition, fault)) = bad {
            return Err(Error::Stalled(Stall::state(&partition, &fault)));
        }
        self.restored_percent = 100;
        Ok(())
    }

    fn assign(&mut self, reader: &mut dyn Reader) -> Result<(), Error> {
        let partitions: Vec<TopicPartition> = self.inputs.keys().cloned().collect();
        let log = Arc::clone(&self.context.services.log);
        let bounds = persist(&self.life, "watermarks", || log.watermarks(&partitions))?;
        let mut assignment = Vec::new();
        for (partition, views) in &self.inputs {
            let bounds = bounds
                .get(partition)
                .copied()
                .unwrap_or(log::Watermarks { low: 0, high: 0 });
            self.targets.insert(partition.clone(), bounds.high);
            let mut first = None;
            for one in views.iter().filter_map(|name| self.held.views.get(name)) {
                let next = one.write(|view| view.partition_mut(partition.partition).next());
                let start = Stall::check(partition, next, bounds).map_err(Error::Stalled)?;
                let offset = match start {
                    Start::Offset(offset) => offset,
                    Start::Earliest | Start::Latest => bounds.low,
                };
                first = Some(first.map_or(offset, |first: i64| first.min(offset)));
            }
            let start = first.map_or(Start::Earliest, Start::Offset);
            assignment.push((partition.clone(), start));
        }
        Ok(reader.assign(&assignment)?)
    }

    fn turn(&mut self, reader: &mut dyn Reader) -> Result<(), Error> {
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        let mut stop = Vec::new();
        let wait = if self.held.is_ready() {
            POLL
        } else {
            Duration::from_millis(100)
        };
        reader.poll(wait, &mut |record| {
            if let Some(stopped) = self.fold(record, &mut counts) {
                stop.push(stopped);
            }
        })?;
        for partition in stop {
            self.stop(reader, partition)?;
        }
        for (partition, views) in &self.inputs {
            if self.stopped.contains(partition) {
                continue;
            }
            let Some(position) = reader.position(partition) else {
                continue;
            };
            for one in views.iter().filter_map(|name| self.held.views.get(name)) {
                let behind = one.read(|view| {
                    let mut states = view.partitions();
                    states.any(|(number, state)| {
                        number == partition.partition && state.next() < position
                    })
                });
                if behind {
                    one.write(|view| view.partition_mut(partition.partition).advance(position));
                }
            }
        }
        self.held.progress.send_modify(|turns| *turns += 1);
        if !self.held.is_ready() && self.caught_up() {
            self.held.met(self.context.services.clock.now_ms());
            self.held.become_ready();
        }
        self.count(&counts);
        self.publish();
        Ok(())
    }

    /// Gives the partition where it has to stand still at this record.
    fn fold(
        &self,
        record: &Record<'_>,
        counts: &mut HashMap<String, (usize, usize)>,
    ) -> Option<TopicPartition> {
        let partition = TopicPartition::new(record.topic, record.partition);
        if self.stopped.contains(&partition) {
            return None;
        }
        let mut stop = None;
        for name in self.inputs.get(&partition).into_iter().flatten() {
            let Some(one) = self.held.views.get(name) else {
                continue;
            };
            let stops = matches!(&one.config.input, Input::Source { topic }
                if self.context.invalid_of_topic(topic) == InvalidRecords::Stop);
            let folded = one.write(|view| view.partition_mut(record.partition).fold(record));
            let count = counts.entry(name.clone()).or_default();
            count.0 += 1;
            count.1 += usize::from(folded.changed);
            if let Some(fault) = folded.fault
                && stops
            {
                self.context.stopped(&self.life, record, &fault);
                stop = Some(partition.clone());
            }
        }
        stop
    }

    fn stop(&mut self, reader: &mut dyn Reader, partition: TopicPartition) -> Result<(), Error> {
        self.stopped.insert(partition);
        let left: Vec<_> = self
            .inputs
            .keys()
            .filter(|partition| !self.stopped.contains(*partition))
            .map(|partition| {
                let start = reader
                    .position(partition)
                    .map_or(Start::Earliest, Start::Offset);
                (partition.clone(), start)
            })
            .collect();
        Ok(reader.assign(&left)?)
    }

    fn caught_up(&self) -> bool {
        self.inputs.iter().all(|(partition, views)| {
            let target = self.targets.get(partition).copied().unwrap_or(0);
            self.stopped.contains(partition)
                || views
                    .iter()
                    .filter_map(|name| self.held.views.get(name))
                    .all(|one| {
                        one.read(|view| {
                            view.partitions().any(|(number, state)| {
                                number == partition.partition && state.next() >= target
                            })
                        })
                    })
        })
    }

    fn label(&self, view: &str) -> metrics::Held {
        metrics::Held {
            kind: "agent",
            name: self.context.name.clone(),
            view: view.to_owned(),
        }
    }

    fn count(&self, counts: &HashMap<String, (usize, usize)>) {
        let metrics = &self.context.services.metrics;
        for (view, (records, changes)) in counts {
            let label = self.label(view);
            metrics
                .records_folded
                .get_or_create(&label)
                .inc_by(*records as u64);
            if let Some(one) = self.held.views.get(view) {
                let (keys, bytes) = one.read(|view| (view.keys(), view.bytes()));
                let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
                metrics.view_keys.get_or_create(&label).set(gauge(keys));
                metrics.view_bytes.get_or_create(&label).set(gauge(bytes));
            }
            self.context.services.observer.tell(|| Happening::Folded {
                stage: self.context.name.clone(),
                view: view.clone(),
                records: *records,
                changes: *changes,
            });
        }
    }

    fn publish(&self) {
        let positions = self
            .inputs
            .iter()
            .filter_map(|(partition, views)| {
                let one = views.iter().find_map(|name| self.held.views.get(name))?;
                let next = one.read(|view| {
                    let mut states = view.partitions();
                    states
                        .find(|(number, _)| *number == partition.partition)
                        .map(|(_, state)| state.next())
                })?;
                Some(Processed {
                    topic: partition.topic.to_string(),
                    partition: partition.partition,
                    next,
                    stopped: self.stopped.contains(partition),
                })
            })
            .collect();
        self.life.board.part(
            "views",
            Part {
                joined: true,
                restored_percent: self.restored_percent,
                caught_up: self.held.is_ready(),
                waiting: 0,
                in_flight: 0,
                positions,
            },
        );
    }
}
