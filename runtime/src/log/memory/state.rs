//! Everything that the log holds, behind one lock: topics, transactions, groups.
//!
//! One lock keeps the order of all that happens a total one, which a simulation from a seed needs.
//! It is held for moments only: packing records and showing them happen outside.

use super::group::Group;
use super::partition::Partition;
use super::topic::{Meta, Topic};
use super::transaction::{Marker, Producer};
use crate::log::{Error, Result, TopicSpec};
use headwater_engine::record::TopicPartition;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) topics: BTreeMap<Arc<str>, Topic>,
    pub(super) producers: HashMap<String, Producer>,
    pub(super) groups: BTreeMap<String, Group>,
    /// Of transactions that are decided.
    pub(super) markers: Vec<Marker>,
    pub(super) delay: Option<Delay>,
    /// Ids of topics, incarnations of producers and members: never given twice.
    last_id: u64,
}

/// How many milliseconds the next marker is late.
pub(super) struct Delay(Box<dyn Fn() -> i64 + Send>);

impl Delay {
    pub(super) fn new(delay: impl Fn() -> i64 + Send + 'static) -> Self {
        Self(Box::new(delay))
    }

    pub(super) fn next(&self) -> i64 {
        (self.0)()
    }
}

impl std::fmt::Debug for Delay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Delay")
    }
}

impl State {
    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Whether it is new.
    pub(super) fn create(&mut self, spec: &TopicSpec) -> Result<bool> {
        if self.topics.contains_key(spec.name.as_str()) {
            return Ok(false);
        }
        let id = format!("memory-{:015}", self.next_id());
        let meta = Meta::new(spec, id)?;
        let partitions = (0..spec.partitions).map(|_| Partition::default()).collect();
        let topic = Topic {
            meta: Arc::new(meta),
            partitions,
        };
        self.topics.insert(Arc::clone(&topic.meta.name), topic);
        for group in self.groups.values_mut() {
            group.topic_changed(&spec.name);
        }
        Ok(true)
    }

    pub(super) fn delete(&mut self, name: &str) {
        let Some(topic) = self.topics.remove(name) else {
            return;
        };
        for partition in &topic.partitions {
            partition.wake();
        }
        for group in self.groups.values_mut() {
            group.topic_changed(name);
        }
    }

    pub(super) fn partition(&self, at: &TopicPartition) -> Result<&Partition> {
        usize::try_from(at.partition)
            .ok()
            .and_then(|index| self.topics.get(&at.topic)?.partitions.get(index))
            .ok_or_else(|| Error::UnknownTopic(at.topic.to_string()))
    }

    pub(super) fn partition_mut(&mut self, at: &TopicPartition) -> Result<&mut Partition> {
        usize::try_from(at.partition)
            .ok()
            .and_then(|index| self.topics.get_mut(&at.topic)?.partitions.get_mut(index))
            .ok_or_else(|| Error::UnknownTopic(at.topic.to_string()))
    }

    /// What time brings by itself: transactions that nobody ends, markers on their way, members that died.
    pub(super) fn tick(&mut self, now: i64) {
        self.end_expired(now);
        self.land_due(now);
        for group in self.groups.values_mut() {
            group.remove_expired(now);
            group.complete(&self.topics);
        }
    }
}
