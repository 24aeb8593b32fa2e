//! The member of a consumer group.
//!
//! Partitions that the group gives are not handed to librdkafka's fetcher until they are started, so they
//! need no pause. A revocation is answered with the poll after the one that told of it.

use super::errors::{by_code, client};
use super::orphans::{Act, Orphans};
use super::reader::{Trouble, record, trouble};
use super::start::{Started, resolve};
use super::{Shared, TopicPartition};
use crate::log::{
    Committed, Error, GroupEvent, GroupMetadata, GroupMetadataInner, GroupOptions, GroupReader,
    Isolation, RECORDS_PER_POLL, Result, Start, Waker,
};
use headwater_kafka::Context;
use headwater_kafka::consumer::{Consumer, Event, Rebalance};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// As long as `committed` waits for a transaction's decision: a transaction times out before.
const DECISION_WAIT: Duration = Duration::from_secs(15);
const LEAVE_WAIT: Duration = Duration::from_secs(5);

pub(super) struct KafkaMember {
    shared: Arc<Shared>,
    consumer: Consumer,
    assigned: BTreeSet<TopicPartition>,
    started: Started,
    paused: BTreeSet<TopicPartition>,
    /// Told as revoked; they go with the next poll.
    leaving: Vec<TopicPartition>,
    /// Why this process is no member any more.
    fatal: Option<(Code, String)>,
    topics: Vec<String>,
    orphans: Orphans,
}

impl KafkaMember {
    pub(super) fn join(shared: Arc<Shared>, options: &GroupOptions) -> Result<Self> {
        let mut config = shared.consumer_config(&options.group, Isolation::ReadCommitted);
        config.set("group.protocol", "classic");
        config.set("group.instance.id", &options.member);
        config.set("partition.assignment.strategy", "cooperative-sticky");
        config.set("session.timeout.ms", "10000");
        config.set("max.poll.interval.ms", "300000");
        config.set("topic.metadata.refresh.interval.ms", "30000");
        let what = format!("join group '{}'", options.group);
        let consumer = Consumer::new(&config).map_err(|error| client(&what, &error))?;
        let topics: Vec<&str> = options.topics.iter().map(String::as_str).collect();
        consumer
            .base()
            .subscribe(&topics)
            .map_err(|error| client(&what, &error))?;
        Ok(Self {
            shared,
            consumer,
            assigned: BTreeSet::new(),
            started: Started::default(),
            paused: BTreeSet::new(),
            leaving: Vec::new(),
            fatal: None,
            orphans: Orphans::new(&options.group, &options.member, &options.topics),
            topics: options.topics.clone(),
        })
    }

    /// Sees to partitions that nobody has.
    fn look_for_orphans(&mut self) -> Result<()> {
        let base = self.consumer.base();
        match self.orphans.look(&self.shared, base) {
            Act::Nothing => Ok(()),
            Act::Leave => {
                base.unsubscribe();
                Ok(())
            }
            Act::Join => {
                let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
                base.subscribe(&topics)
                    .map_err(|error| client("join the group again", &error))
            }
        }
    }

    fn answer_revocation(&mut self) -> Result<()> {
        if self.leaving.is_empty() {
            return Ok(());
        }
        let leaving = std::mem::take(&mut self.leaving);
        self.give_up(&leaving)
    }

    /// Takes partitions away from the fetcher, which answers their revocation.
    fn give_up(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        let mut fetched = Vec::new();
        for at in partitions {
            self.assigned.remove(at);
            self.paused.remove(at);
            if self.started.0.remove(at).is_some() {
                fetched.push((&*at.topic, at.partition));
            }
        }
        self.consumer
            .unassign(&fetched)
            .map_err(|error| client("give up partitions", &error))
    }

    fn rebalanced(
        &mut self,
        kind: Rebalance,
        partitions: Vec<TopicPartition>,
        on: &mut dyn FnMut(GroupEvent<'_>),
    ) -> Result<()> {
        match kind {
            Rebalance::Assign => {
                self.consumer
                    .assign_more(&[])
                    .map_err(|error| client("take partitions", &error))?;
                self.assigned.extend(partitions.iter().cloned());
                on(GroupEvent::Assigned(&partitions));
            }
            Rebalance::Revoke => {
                on(GroupEvent::Revoked(&partitions));
                self.leaving = partitions;
            }
            Rebalance::Lost => {
                self.give_up(&partitions)?;
                on(GroupEvent::Lost(&partitions));
            }
        }
        Ok(())
    }

    fn list(partitions: &[TopicPartition]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for at in partitions {
            list.add_partition(&at.topic, at.partition);
        }
        list
    }

    fn check_assigned(&self, what: &str, partitions: &[TopicPartition]) -> Result<()> {
        match partitions.iter().find(|at| !self.assigned.contains(at)) {
            None => Ok(()),
            Some(at) => Err(Error::Fatal {
                what: format!("{what} '{at}'"),
                reason: "it is not assigned to this member".to_owned(),
            }),
        }
    }

    fn started_of(&self, partitions: &[TopicPartition]) -> TopicPartitionList {
        let started = partitions
            .iter()
            .filter(|at| self.started.0.contains_key(at));
        Self::list(&started.cloned().collect::<Vec<_>>())
    }
}

impl GroupReader for KafkaMember {
    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(GroupEvent<'_>)) -> Result<usize> {
        if let Some((code, reason)) = &self.fatal {
            return Err(by_code("be a member of the group", *code, reason.clone()));
        }
        self.answer_revocation()?;
        self.look_for_orphans()?;
        let mut events = 0;
        let mut rebalance = None;
        let mut found = None;
        let mut fatal = false;
        self.consumer
            .poll(wait, RECORDS_PER_POLL, &mut |event| match event {
                Event::Message(message) => {
                    events += 1;
                    on(GroupEvent::Record(&record(&message)));
                }
                Event::Rebalance(kind, partitions) => rebalance = Some((kind, partitions)),
                Event::Error { fatal: true, .. } => fatal = true,
                Event::Error {
                    code,
                    reason,
                    partition,
                    ..
                } => found = found.take().or(trouble(code, reason, partition)),
            });
        if let Some((kind, partitions)) = rebalance {
            events += 1;
            let partitions = partitions
                .into_iter()
                .map(|(topic, partition)| TopicPartition::new(topic, partition))
                .collect();
            self.rebalanced(kind, partitions, on)?;
        }
        if fatal {
            self.fatal = self.consumer.base().client().fatal_error();
            let lost: Vec<_> = self.assigned.iter().cloned().collect();
            if !lost.is_empty() {
                self.assigned.clear();
                self.started = Started::default();
                on(GroupEvent::Lost(&lost));
                events += 1;
            }
        }
        match found {
            None => Ok(events),
            Some(Trouble::Other(error)) => Err(error),
            Some(Trouble::OutOfRange(at)) => {
                Err(self.started.out_of_range(&self.shared, &self.consumer, at))
            }
        }
    }

    fn start(&mut self, partition: &TopicPartition, at: Start) -> Result<()> {
        self.check_assigned("start", std::slice::from_ref(partition))?;
        let place = (&*partition.topic, partition.partition);
        let what = format!("start '{partition}'");
        let failed = |error| client(&what, &error);
        let offsets = resolve(&self.shared, &[(partition.clone(), at)])?;
        if self.started.0.remove(partition).is_some() {
            self.consumer.unassign(&[place]).map_err(failed)?;
        }
        for offset in offsets {
            self.consumer
                .assign_more(&[(place.0, place.1, offset)])
                .map_err(failed)?;
            self.started.0.insert(partition.clone(), offset);
        }
        if self.paused.contains(partition) {
            let list = Self::list(std::slice::from_ref(partition));
            self.consumer.base().pause(&list).map_err(failed)?;
        }
        Ok(())
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_assigned("pause", partitions)?;
        self.paused.extend(partitions.iter().cloned());
        self.consumer
            .base()
            .pause(&self.started_of(partitions))
            .map_err(|error| client("pause partitions", &error))
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.check_assigned("resume", partitions)?;
        for at in partitions {
            self.paused.remove(at);
        }
        self.consumer
            .base()
            .resume(&self.started_of(partitions))
            .map_err(|error| client("resume partitions", &error))
    }

    fn position(&mut self, partition: &TopicPartition) -> Option<i64> {
        self.started.position(&self.consumer, partition)
    }

    fn waker(&self) -> Waker {
        self.consumer.waker()
    }

    fn committed(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Option<Committed>>> {
        let found = committed(self.consumer.base(), partitions);
        if found.is_err() {
            self.consumer.look_for_brokers();
        }
        found
    }

    fn metadata(&self) -> Result<GroupMetadata> {
        let metadata = self.consumer.base().group_metadata();
        metadata
            .map(|it| GroupMetadata(GroupMetadataInner::Kafka(Arc::new(it))))
            .ok_or_else(|| Error::Fatal {
                what: "ask for the membership".to_owned(),
                reason: "the consumer has no group".to_owned(),
            })
    }

    fn leave(mut self: Box<Self>) -> Result<()> {
        if self.fatal.is_some() {
            return Ok(());
        }
        self.answer_revocation()?;
        self.consumer
            .leave(LEAVE_WAIT)
            .map_err(|error| client("leave the group", &error))
    }
}

/// What the group of a consumer has committed.
pub(super) fn committed(
    consumer: &BaseConsumer<Context>,
    partitions: &[TopicPartition],
) -> Result<HashMap<TopicPartition, Option<Committed>>> {
    if partitions.is_empty() {
        return Ok(HashMap::new());
    }
    let what = "ask for committed offsets";
    let list = consumer
        .committed_offsets(KafkaMember::list(partitions), DECISION_WAIT)
        .map_err(|error| client(what, &error))?;
    list.elements()
        .iter()
        .map(|it| {
            it.error().map_err(|error| client(what, &error))?;
            let committed = match it.offset() {
                Offset::Offset(offset) => Some(Committed {
                    offset,
                    metadata: it.metadata().to_owned(),
                }),
                _ => None,
            };
            Ok((TopicPartition::new(it.topic(), it.partition()), committed))
        })
        .collect()
}

impl Drop for KafkaMember {
    /// librdkafka's close waits for an answer that is due.
    fn drop(&mut self) {
        if let Err(error) = self.answer_revocation() {
            tracing::debug!(target: "headwater::kafka", %error, "while closing");
        }
    }
}
