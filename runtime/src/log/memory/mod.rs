//! The log in this process: what Kafka promises, without Kafka.
//!
//! For `headwater up`, tests and simulation. Nothing is ever on disk. It keeps what a consumer can
//! tell apart on Kafka: control records with offsets, the last stable offset, aborted records that
//! stay hidden, fencing of transactional ids and static members, offsets that wait for their
//! transaction, generations and cooperative rebalances. It does not compact, and nothing expires by itself.
//!
//! Time is a function given at the start; `poll`'s waiting is the only use of the machine's clock.

mod assignor;
mod batch;
mod cursor;
mod group;
mod member;
mod offsets;
mod partition;
mod reader;
mod signal;
mod state;
#[cfg(test)]
mod tests;
mod topic;
mod transaction;
mod writer;

pub use writer::{Open, Producer};

use super::{
    GroupOptions, GroupReader, Isolation, Log, Reader, Result, TopicInfo, TopicSpec, Transactional,
    Watermarks, Writer,
};
use crate::clock::{self, Clock};
use headwater_engine::record::{Record, TopicPartition};
use signal::Signal;
use state::{Delay, State};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest wait without looking at what time has brought.
const TICK: Duration = Duration::from_secs(1);

/// A log of its own; clones are the same log.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

/// Proof of membership: which process, in which generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    group: String,
    member: String,
    incarnation: u64,
    generation: u64,
}

struct Shared {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn now(&self) -> i64 {
        self.clock.now_ms()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ticked(&self) -> MutexGuard<'_, State> {
        let now = self.now();
        let mut state = self.lock();
        state.tick(now);
        state
    }

    /// Waits for the signal, and then lets time do its part.
    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        signal: &Signal,
        most: Duration,
    ) -> MutexGuard<'a, State> {
        let marker = state.next_marker().map_or(TICK, |due| {
            Duration::from_millis(u64::try_from(due.saturating_sub(self.now())).unwrap_or(0))
        });
        let mut state = signal.wait(state, most.min(TICK).min(marker));
        state.tick(self.now());
        state
    }
}

impl Memory {
    /// On the system's clock.
    pub fn new() -> Self {
        Self::with_clock(Arc::new(clock::System))
    }

    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                clock,
            }),
        }
    }

    /// A transactional producer whose transactions can be held open.
    pub fn producer(&self, id: &str) -> Producer {
        Producer::open(Arc::clone(&self.shared), id)
    }

    /// Does nothing where the topic does not exist.
    pub fn delete(&self, topic: &str) {
        self.shared.lock().delete(topic);
    }

    /// Ends the session of a group's member as if its process had hung: it loses its partitions.
    pub fn expire(&self, group: &str, member: &str) {
        let mut state = self.shared.lock();
        if let Some(group) = state.groups.get_mut(group) {
            group.expire(member);
        }
    }

    /// Forgets what a group has committed, as a log does a while after its last member left. False where it has members.
    pub fn forget(&self, group: &str) -> bool {
        let mut state = self.shared.lock_ticked();
        let group = state.groups.get_mut(group);
        group.is_none_or(group::Group::forget)
    }

    /// Lets the markers of transactions reach their partitions, and a group's offsets, so many
    /// milliseconds after the decision as `delay` says of each: until then readers of committed records
    /// stop before it, and committed offsets wait, as on a broker that is busy.
    pub fn delay_markers(&self, delay: impl Fn() -> i64 + Send + 'static) {
        self.shared.lock().delay = Some(Delay::new(delay));
    }

    /// Takes away the records of a partition below an offset, as retention or `DeleteRecords` would. Does nothing
    /// where the partition does not exist.
    pub fn cut(&self, partition: &TopicPartition, below: i64) {
        if let Ok(partition) = self.shared.lock().partition_mut(partition) {
            partition.cut(below);
        }
    }

    /// Names of all topics, sorted.
    pub fn topic_names(&self) -> Vec<Arc<str>> {
        self.shared.lock().topics.keys().cloned().collect()
    }

    /// Shows every committed record of a topic, by partition and offset, as it stands now.
    ///
    /// # Errors
    /// [`super::Error::UnknownTopic`].
    pub fn dump(&self, topic: &str, mut on: impl FnMut(&Record<'_>)) -> Result<()> {
        let mut taken = Vec::new();
        let name = {
            let state = self.shared.lock_ticked();
            let topic = state
                .topics
                .get(topic)
                .ok_or_else(|| super::Error::UnknownTopic(topic.to_owned()))?;
            for (index, partition) in topic.partitions.iter().enumerate() {
                partition.read(
                    partition.low(),
                    Isolation::ReadCommitted,
                    usize::MAX,
                    (index, &mut taken),
                );
            }
            Arc::clone(&topic.meta.name)
        };
        let mut headers = Vec::new();
        for slice in &taken {
            let partition = i32::try_from(slice.cursor).unwrap_or(i32::MAX);
            slice.batch.show(
                (&name, partition),
                slice.range.clone(),
                &mut headers,
                &mut on,
            );
        }
        Ok(())
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Log for Memory {
    fn topics(&self, names: &[String]) -> Result<Vec<Option<TopicInfo>>> {
        let state = self.shared.lock();
        let info = |name: &String| {
            state.topics.get(name.as_str()).map(|topic| TopicInfo {
                id: topic.meta.id.clone(),
                partitions: topic.meta.partitions,
            })
        };
        Ok(names.iter().map(info).collect())
    }

    fn create(&self, topics: &[TopicSpec]) -> Result<()> {
        let mut state = self.shared.lock();
        for topic in topics {
            state.create(topic)?;
        }
        Ok(())
    }

    fn ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>> {
        let state = self.shared.lock_ticked();
        partitions
            .iter()
            .map(|at| Ok(state.partition(at)?.high()))
            .collect()
    }

    fn stable_ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>> {
        let state = self.shared.lock_ticked();
        partitions
            .iter()
            .map(|at| Ok(state.partition(at)?.end(Isolation::ReadCommitted)))
            .collect()
    }

    fn watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Watermarks>> {
        let state = self.shared.lock_ticked();
        let both = |at: &TopicPartition| {
            let partition = state.partition(at)?;
            let watermarks = Watermarks {
                low: partition.low(),
                high: partition.high(),
            };
            Ok((at.clone(), watermarks))
        };
        partitions.iter().map(both).collect()
    }

    fn reader(&self, isolation: Isolation) -> Result<Box<dyn Reader>> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(reader::MemoryReader::new(shared, isolation)))
    }

    fn group(&self, options: GroupOptions) -> Result<Box<dyn GroupReader>> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(member::MemoryMember::join(shared, options)))
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(writer::MemoryWriter::new(shared)))
    }

    fn transactional(&self, id: &str) -> Result<Box<dyn Transactional>> {
        Ok(Box::new(self.producer(id)))
    }
}
