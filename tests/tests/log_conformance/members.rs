//! A group's member as a test drives it: what it was told, what it owns, what it read.

use crate::bed::{Bed, PATIENCE, at, value};
use headwater_engine::record::TopicPartition;
use headwater_runtime::log::{GroupEvent, GroupOptions, GroupReader, Result};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    Lost(Vec<i32>),
}

pub struct Member {
    pub group: String,
    pub reader: Box<dyn GroupReader>,
    pub told: Vec<Told>,
    pub owned: BTreeSet<TopicPartition>,
    pub read: Vec<(i32, i64, String)>,
}

fn numbers(partitions: &[TopicPartition]) -> Vec<i32> {
    let mut numbers: Vec<i32> = partitions.iter().map(|it| it.partition).collect();
    numbers.sort_unstable();
    numbers
}

impl Member {
    /// Of the bed's one group.
    pub fn join(bed: &Bed, name: &str, topics: &[&str]) -> Self {
        let group = bed.name("group");
        let options = GroupOptions {
            member: format!("{group}.{name}"),
            group: group.clone(),
            topics: topics.iter().map(|it| (*it).to_owned()).collect(),
        };
        Self {
            group,
            reader: bed.log.group(options).unwrap(),
            told: Vec::new(),
            owned: BTreeSet::new(),
            read: Vec::new(),
        }
    }

    /// One poll; how many events it gave.
    pub fn poll(&mut self, wait: Duration) -> Result<usize> {
        let Self {
            reader,
            told,
            owned,
            read,
            ..
        } = self;
        let mut seen = 0;
        let count = reader.poll(wait, &mut |event| {
            seen += 1;
            match event {
                GroupEvent::Assigned(partitions) => {
                    assert!(partitions.iter().all(|it| owned.insert(it.clone())));
                    told.push(Told::Assigned(numbers(partitions)));
                }
                GroupEvent::Revoked(partitions) => {
                    assert!(partitions.iter().all(|it| owned.remove(it)));
                    told.push(Told::Revoked(numbers(partitions)));
                }
                GroupEvent::Lost(partitions) => {
                    for it in partitions {
                        owned.remove(it);
                    }
                    told.push(Told::Lost(numbers(partitions)));
                }
                GroupEvent::Record(record) => {
                    read.push((record.partition, record.offset, value(record)));
                }
            }
        })?;
        assert_eq!(count, seen);
        Ok(count)
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "{what}: told {:?}, read {:?}",
                self.told,
                self.read
            );
            self.poll(Duration::from_millis(50)).unwrap();
        }
    }

    pub fn until_assigned(&mut self, topic: &str, partitions: &[i32]) {
        let expected: BTreeSet<_> = partitions.iter().map(|it| at(topic, *it)).collect();
        self.until("assignment", |member| member.owned == expected);
    }

    pub fn owns(&self) -> Vec<i32> {
        self.owned.iter().map(|it| it.partition).collect()
    }
}

/// Polls all members in turn until the condition holds.
pub fn until(members: &mut [Member], what: &str, mut done: impl FnMut(&[Member]) -> bool) {
    let deadline = Instant::now() + 2 * PATIENCE;
    while !done(members) {
        let told: Vec<_> = members.iter().map(|it| &it.told).collect();
        assert!(Instant::now() < deadline, "{what}: told {told:?}");
        for member in &mut *members {
            member.poll(Duration::from_millis(20)).unwrap();
        }
    }
}
