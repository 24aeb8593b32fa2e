//! The thread that folds the views which a stage holds: has them restored from their state topics, goes on
//! with their input logs, and tells how far it is.
//!
//! Many records go by for each thing that changes here, so a record costs no allocation, no look at a map of
//! names and no lock of its own: views are numbered, and locked for [`LOCKED`] records at a time.

use super::super::context::Context;
use super::super::life::Life;
use super::super::reading::{partitions, persist};
use super::super::status::{Part, Processed};
use super::super::{Error, Stall};
use super::inputs::{Input, Inputs, Reading};
use super::roots::Roots;
use super::{Held, One, passed, restore};
use crate::log::{self, Isolation, Reader, Start};
use crate::metrics;
use crate::observe::Happening;
use headwater_engine::config::InvalidRecords;
use headwater_engine::record::TopicPartition;
use headwater_engine::view::{Folded, Partition, View, fold_each};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLockWriteGuard};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_secs(10);
/// How often it is asked whether a view's stage went past a record that is stood still at.
const FOLLOW: Duration = Duration::from_secs(1);
/// Records after which readers get their turn, some tens of microseconds.
const LOCKED: usize = 64;

/// What the thread has.
pub(in crate::stage) struct Folder {
    context: Arc<Context>,
    life: Arc<Life>,
    held: Arc<Held>,
    views: Vec<Folding>,
    inputs: Inputs,
    restored_percent: u8,
    follow_at: Instant,
    /// `None` once the views hold what they had to when the stage began.
    roots: Option<Roots>,
    /// Of the stage, as the status names it.
    part: &'static str,
}

/// A view, and what is counted of it.
struct Folding {
    one: Arc<One>,
    label: metrics::Held,
    /// Of the turn under way.
    records: usize,
    changes: usize,
}

impl Folder {
    pub(in crate::stage) fn new(context: Arc<Context>, life: Arc<Life>, held: Arc<Held>) -> Self {
        let folding = |(name, one): (&String, &Arc<One>)| Folding {
            one: Arc::clone(one),
            label: metrics::Held {
                kind: context.kind_label(),
                name: context.name.clone(),
                view: name.clone(),
            },
            records: 0,
            changes: 0,
        };
        Self {
            views: held.views.iter().map(folding).collect(),
            context,
            life,
            held,
            inputs: Inputs::default(),
            restored_percent: 0,
            follow_at: Instant::now(),
            roots: None,
            part: "views",
        }
    }

    /// The name of its part of the stage, where one stage has several.
    pub(in crate::stage) fn named(mut self, part: &'static str) -> Self {
        self.part = part;
        self
    }

    pub(in crate::stage) fn run(mut self) -> Result<(), Error> {
        if self.views.is_empty() {
            self.restored_percent = 100;
            self.held.become_ready();
            self.publish();
            return self.idle();
        }
        match self.begin() {
            Ok(mut reader) => {
                while !self.life.stopping() || (self.held.is_read() && !self.life.abandoned()) {
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
        let counts = self.find_inputs()?;
        self.restore(&counts)?;
        let log = Arc::clone(&self.context.services.log);
        let mut reader = log.reader(Isolation::ReadCommitted)?;
        self.life.woken_by(reader.waker());
        self.held.when_unread(reader.waker());
        self.assign(&mut *reader)?;
        let views = self.views.iter().map(|folding| &folding.one);
        self.roots = Some(Roots::ask(&*log, &self.life, views)?);
        Ok(reader)
    }

    /// Nothing to fold, but a part of the stage all the same.
    fn idle(&self) -> Result<(), Error> {
        while !self.life.stopping() {
            self.life.wait(Duration::from_secs(3_600));
        }
        Ok(())
    }

    /// Partition counts by topic, of inputs and states.
    fn find_inputs(&mut self) -> Result<BTreeMap<String, i32>, Error> {
        let topics: BTreeSet<String> = self
            .views
            .iter()
            .map(|folding| &folding.one.config)
            .flat_map(|config| [config.input.topic().to_owned(), config.state_topic.clone()])
            .collect();
        let topics: Vec<String> = topics.into_iter().collect();
        let counts = partitions(&*self.context.services.log, &self.life, &topics)?;
        let counts: BTreeMap<String, i32> = topics.into_iter().zip(counts).collect();
        for (place, folding) in self.views.iter().enumerate() {
            let config = &folding.one.config;
            let of = |topic: &str| counts.get(topic).copied().unwrap_or(0);
            // A source's partitions that came later are no part of the view: keys moved between them.
            let count = of(config.input.topic()).min(of(&config.state_topic));
            let stops = self.context.invalid_records(config) == InvalidRecords::Stop;
            self.inputs.add(config.input.topic(), count, place, stops);
            // Made now, so that `covered` of an own input log counts partitions that nothing came from yet.
            folding.one.write(|view| {
                for partition in 0..count {
                    view.partition_mut(partition);
                }
            });
        }
        Ok(counts)
    }

    fn restore(&mut self, counts: &BTreeMap<String, i32>) -> Result<(), Error> {
        let mut jobs = Vec::new();
        for folding in &self.views {
            let topic: Arc<str> = folding.one.config.state_topic.as_str().into();
            let count = counts.get(&*topic).copied().unwrap_or(0);
            jobs.extend((0..count).map(|partition| restore::Job {
                one: Arc::clone(&folding.one),
                state: TopicPartition::new(Arc::clone(&topic), partition),
            }));
        }
        let log = Arc::clone(&self.context.services.log);
        let life = Arc::clone(&self.life);
        restore::all(&*log, &life, jobs, |percent| {
            self.restored_percent = percent.min(99);
            self.publish();
        })?;
        self.restored_percent = 100;
        Ok(())
    }

    fn assign(&mut self, reader: &mut dyn Reader) -> Result<(), Error> {
        let partitions: Vec<TopicPartition> =
            self.inputs.iter().map(|input| input.at.clone()).collect();
        let log = Arc::clone(&self.context.services.log);
        let bounds = persist(&self.life, "watermarks", || log.watermarks(&partitions))?;
        let mut assignment = Vec::new();
        for input in self.inputs.iter_mut() {
            let bounds = bounds
                .get(&input.at)
                .copied()
                .unwrap_or(log::Watermarks { low: 0, high: 0 });
            input.target = bounds.high;
            let mut first = None;
            for reading in &input.views {
                let one = &self.views[reading.view].one;
                let next = one.write(|view| view.partition_mut(input.at.partition).next());
                let resource = format!("view/{}", one.config.name);
                let start =
                    Stall::check(&resource, &input.at, next, bounds).map_err(Error::Stalled)?;
                let offset = match start {
                    Start::Offset(offset) => offset,
                    Start::Earliest | Start::Latest => bounds.low,
                };
                first = Some(first.map_or(offset, |first: i64| first.min(offset)));
            }
            let start = first.map_or(Start::Earliest, Start::Offset);
            assignment.push((input.at.clone(), start));
        }
        Ok(reader.assign(&assignment)?)
    }

    fn turn(&mut self, reader: &mut dyn Reader) -> Result<(), Error> {
        let wait = if self.held.is_ready() && self.roots.is_none() {
            if self.inputs.any_stopped() {
                FOLLOW
            } else {
                POLL
            }
        } else {
            Duration::from_millis(100)
        };
        let (read, stop) = self.read(reader, wait)?;
        for (place, offset) in stop {
            self.stop(reader, place, offset)?;
        }
        self.follow(reader)?;
        // Whoever waits for a record waits no longer than this; a position past markers comes after.
        if read > 0 {
            self.held.progress.send_modify(|turns| *turns += 1);
        }
        self.advance(reader);
        self.held.progress.send_modify(|turns| *turns += 1);
        if !self.held.is_ready() && self.caught_up() {
            self.held.become_ready();
        }
        if self.held.is_ready() && self.roots.as_ref().is_some_and(Roots::are_held) {
            self.roots = None;
        }
        self.count();
        self.publish();
        Ok(())
    }

    /// Folds what is there. Gives how many records, and the inputs that have to stand still.
    fn read(
        &mut self,
        reader: &mut dyn Reader,
        wait: Duration,
    ) -> Result<(usize, Vec<(usize, i64)>), Error> {
        let mut stop: Vec<(usize, i64)> = Vec::new();
        let ones: Vec<Arc<One>> = self
            .views
            .iter()
            .map(|folding| Arc::clone(&folding.one))
            .collect();
        let mut locked = Locked {
            ones: &ones,
            guards: ones.iter().map(|_| None).collect(),
            left: LOCKED,
        };
        let (inputs, views) = (&mut self.inputs, &mut self.views);
        let (context, life) = (&self.context, &self.life);
        let read = reader.poll(wait, &mut |record| {
            let Some((place, input)) = inputs.of(record) else {
                return;
            };
            if input.stopped.is_some() || stop.iter().any(|(stopped, _)| *stopped == place) {
                return;
            }
            let mut refused = None;
            let mut took = |place: usize, folded: Folded| {
                let reading = &input.views[place];
                let folding = &mut views[reading.view];
                folding.records += 1;
                folding.changes += usize::from(folded.changed);
                if reading.stops
                    && let Some(fault) = folded.fault
                {
                    refused = Some((fault, reading.view));
                }
            };
            if let [reading] = input.views.as_slice() {
                let view = locked.view(reading.view);
                took(0, view.partition_mut(record.partition).fold(record));
            } else {
                let mut states = locked.states(&input.views, record.partition);
                fold_each(&mut states, record, &mut took);
            }
            if let Some((fault, view)) = refused {
                let resource = format!("view/{}", ones[view].config.name);
                context.stopped(life, record, &fault, &resource);
                stop.push((place, record.offset));
            }
            locked.turn();
        })?;
        Ok((read, stop))
    }

    fn stop(&mut self, reader: &mut dyn Reader, place: usize, offset: i64) -> Result<(), Error> {
        self.inputs.stop(place, offset);
        self.reassign(reader)
    }

    /// Reads those that do not stand still, each from where it is.
    fn reassign(&self, reader: &mut dyn Reader) -> Result<(), Error> {
        let active = self.inputs.iter().filter(|input| input.stopped.is_none());
        let assignment: Vec<_> = active
            .map(|input| {
                let folded = input
                    .views
                    .iter()
                    .filter_map(|reading| self.views[reading.view].one.next(input.at.partition));
                let start = reader
                    .position(&input.at)
                    .or_else(|| folded.min())
                    .map_or(Start::Earliest, Start::Offset);
                (input.at.clone(), start)
            })
            .collect();
        Ok(reader.assign(&assignment)?)
    }

    /// Goes on where the views' own stages went past the record that is stood still at.
    fn follow(&mut self, reader: &mut dyn Reader) -> Result<(), Error> {
        if !self.inputs.any_stopped() || Instant::now() < self.follow_at {
            return Ok(());
        }
        self.follow_at = Instant::now() + FOLLOW;
        let log = &*self.context.services.log;
        let mut any = false;
        for input in self.inputs.iter_mut() {
            let Some(offset) = input.stopped else {
                continue;
            };
            let passed = |reading: &Reading| {
                let topic = self.views[reading.view].one.config.state_topic.as_str();
                let state = TopicPartition::new(topic, input.at.partition);
                // Asked again soon, if it cannot be said now.
                matches!(passed::marked(log, &state), Ok(Some(next)) if next > offset)
            };
            if input
                .views
                .iter()
                .filter(|reading| reading.stops)
                .all(passed)
            {
                let at = format!("{}-{offset}", input.at);
                tracing::info!(at, "goes past the record, as the view's stage did");
                self.life.board.solved("Stopped", &at);
                input.stopped = None;
                any = true;
            }
        }
        if any {
            self.reassign(reader)?;
        }
        Ok(())
    }

    /// Takes note of positions past records that are no data.
    fn advance(&self, reader: &mut dyn Reader) {
        for input in self.inputs.iter().filter(|input| input.stopped.is_none()) {
            let Some(position) = reader.position(&input.at) else {
                continue;
            };
            let number = input.at.partition;
            for reading in &input.views {
                let one = &self.views[reading.view].one;
                if one.next(number).is_some_and(|next| next < position) {
                    one.write(|view| view.partition_mut(number).advance(position));
                }
            }
        }
    }

    fn caught_up(&self) -> bool {
        self.inputs.iter().all(|input| {
            let reached = |one: &One| {
                one.next(input.at.partition)
                    .is_some_and(|next| next >= input.target)
            };
            input.stopped.is_some()
                || input
                    .views
                    .iter()
                    .all(|reading| reached(&self.views[reading.view].one))
        })
    }

    fn count(&mut self) {
        let metrics = &self.context.services.metrics;
        for folding in self.views.iter_mut().filter(|folding| folding.records > 0) {
            let (records, changes) = (folding.records, folding.changes);
            (folding.records, folding.changes) = (0, 0);
            let label = &folding.label;
            metrics
                .records_folded
                .get_or_create(label)
                .inc_by(records as u64);
            let (keys, bytes) = folding.one.read(|view| (view.keys(), view.bytes()));
            let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
            metrics.view_keys.get_or_create(label).set(gauge(keys));
            metrics.view_bytes.get_or_create(label).set(gauge(bytes));
            self.context.services.observer.tell(|| Happening::Folded {
                stage: self.context.name.clone(),
                view: label.view.clone(),
                records,
                changes,
            });
        }
    }

    fn publish(&self) {
        let position = |input: &Input| {
            let reading = input.views.first()?;
            Some(Processed {
                topic: input.at.topic.to_string(),
                partition: input.at.partition,
                next: self.views[reading.view].one.next(input.at.partition)?,
                stopped: input.stopped.is_some(),
            })
        };
        self.life.board.part(
            self.part,
            Part {
                joined: true,
                restored_percent: self.restored_percent,
                caught_up: self.held.is_ready() && self.roots.is_none(),
                waiting: 0,
                in_flight: 0,
                positions: self.inputs.iter().filter_map(position).collect(),
            },
        );
    }
}

/// Views locked for writing, for some records at a time.
struct Locked<'a> {
    ones: &'a [Arc<One>],
    guards: Vec<Option<RwLockWriteGuard<'a, View>>>,
    left: usize,
}

impl Locked<'_> {
    fn view(&mut self, place: usize) -> &mut View {
        let one = &self.ones[place];
        self.guards[place].get_or_insert_with(|| one.lock())
    }

    /// The views' states of a partition, in the order of `views`, which is that of their places.
    fn states(&mut self, views: &[Reading], partition: i32) -> Vec<&mut Partition> {
        let mut views = views.iter().peekable();
        let mut states = Vec::with_capacity(views.len());
        for (place, (one, guard)) in self.ones.iter().zip(&mut self.guards).enumerate() {
            if views.next_if(|reading| reading.view == place).is_some() {
                let view = guard.get_or_insert_with(|| one.lock());
                states.push(view.partition_mut(partition));
            }
        }
        states
    }

    /// One record was folded.
    fn turn(&mut self) {
        self.left -= 1;
        if self.left == 0 {
            self.left = LOCKED;
            self.guards.fill_with(|| None);
        }
    }
}
