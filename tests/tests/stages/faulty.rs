//! A log whose transactions go wrong in every way that the contract allows, by a seed.

use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_runtime::backoff::Random;
use headwater_runtime::log::{
    Committed, Error, GroupMetadata, GroupOptions, GroupReader, Isolation, Log, Reader, Result,
    Scope, TopicInfo, TopicSpec, Transactional, Watermarks, Writer,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct Faulty {
    pub inner: Arc<dyn Log>,
    pub random: Arc<Random>,
    /// One transaction of all was fenced: who is, waits.
    pub fenced: Arc<AtomicBool>,
}

impl Log for Faulty {
    fn topics(&self, names: &[String]) -> Result<Vec<Option<TopicInfo>>> {
        self.inner.topics(names)
    }

    fn create(&self, topics: &[TopicSpec]) -> Result<()> {
        self.inner.create(topics)
    }

    fn ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>> {
        if self.random.next().is_multiple_of(5) {
            return Err(unavailable());
        }
        self.inner.ends(partitions)
    }

    fn stable_ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>> {
        self.inner.stable_ends(partitions)
    }

    fn watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Watermarks>> {
        self.inner.watermarks(partitions)
    }

    fn reader(&self, isolation: Isolation) -> Result<Box<dyn Reader>> {
        self.inner.reader(isolation)
    }

    fn group(&self, options: GroupOptions) -> Result<Box<dyn GroupReader>> {
        self.inner.group(options)
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        self.inner.writer()
    }

    fn transactional(&self, id: &str) -> Result<Box<dyn Transactional>> {
        if self.random.next().is_multiple_of(5) {
            return Err(unavailable());
        }
        Ok(Box::new(Transactions {
            inner: self.inner.transactional(id)?,
            random: Arc::clone(&self.random),
            fenced: Arc::clone(&self.fenced),
        }))
    }
}

struct Transactions {
    inner: Box<dyn Transactional>,
    random: Arc<Random>,
    fenced: Arc<AtomicBool>,
}

impl Transactional for Transactions {
    fn transact(
        &mut self,
        records: &[NewRecord],
        offsets: Option<(&GroupMetadata, &[(TopicPartition, Committed)])>,
    ) -> Result<()> {
        let undecided = || Error::Undecided {
            reason: "as the test wants it".to_owned(),
        };
        match self.random.next() % 8 {
            0 => Err(Error::Abort {
                reason: "as the test wants it".to_owned(),
            }),
            1 => Err(unavailable()),
            // It was not.
            2 => Err(undecided()),
            // It was.
            3 => {
                self.inner.transact(records, offsets)?;
                Err(undecided())
            }
            // As of a writer whose transaction was open for too long. It was committed all the same.
            4 if !self.fenced.swap(true, Ordering::Relaxed) => {
                self.inner.transact(records, offsets)?;
                Err(Error::Fenced {
                    reason: "as the test wants it".to_owned(),
                })
            }
            _ => self.inner.transact(records, offsets),
        }
    }

    fn sweep(&mut self, group: &GroupMetadata, scope: &Scope) -> Result<()> {
        self.inner.sweep(group, scope)
    }
}

fn unavailable() -> Error {
    Error::Unavailable {
        what: "a request".to_owned(),
        reason: "as the test wants it".to_owned(),
    }
}
