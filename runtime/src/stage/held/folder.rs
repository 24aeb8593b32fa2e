//! The thread that folds the views which a stage holds: restores each from its state topic, goes on with
//! its input log, and tells how far it is.

use super::super::context::Context;
use super::super::life::Life;
use super::super::reading::{partitions, persist, to_end};
use super::super::status::{Part, Processed};
use super::super::{Error, Stall};
use super::Held;
use crate::log::{self, Isolation, Reader, Start};
use crate::metrics;
use crate::observe::Happening;
use headwater_engine::config::{Input, InvalidRecords};
use headwater_engine::fault::Fault;
use headwater_engine::record::{Record, TopicPartition};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

const POLL: Duration = Duration::from_secs(10);

/// What the thread has.
pub(in crate::stage) struct Folder {
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
    pub(in crate::stage) fn new(context: Arc<Context>, life: Arc<Life>, held: Arc<Held>) -> Self {
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

    pub(in crate::stage) fn run(mut self) -> Result<(), Error> {
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
                    one.config.input.topic().to_owned(),
                    one.config.state_topic.clone(),
                ]
            })
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
            let topic = &one.config.state_topic;
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
                let resource = format!("view/{}", one.config.name);
                let start =
                    Stall::check(&resource, partition, next, bounds).map_err(Error::Stalled)?;
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
                let resource = format!("view/{name}");
                self.context.stopped(&self.life, record, &fault, &resource);
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
            kind: self.context.kind_label(),
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
