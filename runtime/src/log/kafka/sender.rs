//! Sending many records and waiting until each is acknowledged; what both producers share.

use super::Shared;
use super::errors::{admin, by_code, is_of_the_record};
use crate::log::{Error, Result};
use headwater_engine::record::NewRecord;
use headwater_kafka::producer::Producer;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// One wait for acknowledgements; there may be many.
const WAIT: Duration = Duration::from_millis(100);

/// Topics that were seen to exist: a broker may create what a producer asks for, so none is asked for blindly.
#[derive(Default)]
pub(super) struct KnownTopics(HashSet<String>);

impl KnownTopics {
    /// # Errors
    /// [`Error::Refused`] for the first record whose topic does not exist.
    pub(super) fn check(&mut self, shared: &Shared, records: &[NewRecord]) -> Result<()> {
        let mut unknown: Vec<(usize, &str)> = Vec::new();
        for (index, record) in records.iter().enumerate() {
            let topic = record.topic.as_str();
            if !self.0.contains(topic) && unknown.iter().all(|(_, it)| *it != topic) {
                unknown.push((index, topic));
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = unknown.iter().map(|(_, topic)| *topic).collect();
        let found = shared.admin.describe(&names).map_err(admin)?;
        for ((index, topic), found) in unknown.into_iter().zip(found) {
            if found.map_err(admin)?.is_none() {
                return Err(Error::Refused {
                    index,
                    topic: topic.to_owned(),
                    reason: "the topic does not exist".to_owned(),
                });
            }
            self.0.insert(topic.to_owned());
        }
        Ok(())
    }

    /// What became of records says that a topic may have been deleted.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// Numbers the sendings of one producer, so that a late acknowledgement is not taken for another's.
#[derive(Default)]
pub(super) struct Numbers(u32);

/// Records on their way, and what became of them.
pub(super) struct Sending<'a> {
    producer: &'a Producer,
    number: u32,
    records: &'a [NewRecord],
    outcomes: Vec<Option<std::result::Result<(i32, i64), Code>>>,
    open: usize,
}

impl<'a> Sending<'a> {
    /// Hands all records to librdkafka.
    ///
    /// # Errors
    /// As [`Sending::finish`], for a record that librdkafka does not even take; those before it are
    /// acknowledged by then.
    pub(super) fn start(
        producer: &'a Producer,
        numbers: &mut Numbers,
        records: &'a [NewRecord],
        deadline: Instant,
    ) -> Result<Self> {
        numbers.0 = numbers.0.wrapping_add(1);
        let mut sending = Self {
            producer,
            number: numbers.0,
            records,
            outcomes: vec![None; records.len()],
            open: 0,
        };
        for index in 0..records.len() {
            if let Err(error) = sending.send(index, deadline) {
                sending.settle(deadline);
                return Err(error);
            }
        }
        Ok(sending)
    }

    fn send(&mut self, index: usize, deadline: Instant) -> Result<()> {
        let record = &self.records[index];
        loop {
            let error = match self.producer.send(native(record, self.tag(index))) {
                Ok(()) => {
                    self.open += 1;
                    return Ok(());
                }
                Err(error) => error,
            };
            let code = error.rdkafka_error_code().unwrap_or(Code::InvalidArgument);
            if code != Code::QueueFull || Instant::now() >= deadline {
                return Err(self.failure(index, code));
            }
            self.take(WAIT);
        }
    }

    fn tag(&self, index: usize) -> usize {
        (self.number as usize) << 32 | index
    }

    fn take(&mut self, wait: Duration) {
        let first = self.tag(0);
        let Self {
            producer,
            outcomes,
            open,
            ..
        } = self;
        producer.deliveries(wait, &mut |delivery| {
            if let Some(outcome @ None) = outcomes.get_mut(delivery.tag ^ first) {
                *outcome = Some(delivery.outcome);
                *open -= 1;
            }
        });
    }

    fn settle(&mut self, deadline: Instant) {
        while self.open > 0 && Instant::now() < deadline {
            self.take(WAIT);
        }
    }

    /// Waits until every record is acknowledged: partition and offset, in the order given.
    ///
    /// # Errors
    /// The record's that is at fault, or else the first's that failed.
    pub(super) fn finish(mut self, deadline: Instant) -> Result<Vec<(i32, i64)>> {
        self.settle(deadline);
        let mut places = Vec::with_capacity(self.outcomes.len());
        for outcome in &self.outcomes {
            match outcome {
                Some(Ok(place)) => places.push(*place),
                Some(Err(_)) | None => break,
            }
        }
        if places.len() == self.outcomes.len() {
            return Ok(places);
        }
        let (index, code) = self.culprit();
        Err(self.failure(index, code))
    }

    /// A batch that is too large fails with all its records: the largest of them is at fault. Records that
    /// failed because another one did say less than that one.
    fn culprit(&self) -> (usize, Code) {
        let failed = || {
            let codes = self.outcomes.iter().enumerate();
            codes.filter_map(|(index, outcome)| match outcome {
                Some(Ok(_)) => None,
                Some(Err(code)) => Some((index, *code)),
                None => Some((index, Code::MessageTimedOut)),
            })
        };
        let size = |index: usize| {
            let record = &self.records[index];
            record.value.as_ref().map_or(0, Vec::len) + record.key.as_ref().map_or(0, Vec::len)
        };
        failed()
            .filter(|(_, code)| *code == Code::MessageSizeTooLarge)
            .max_by_key(|(index, _)| size(*index))
            .or_else(|| failed().find(|(_, code)| is_of_the_record(*code)))
            .or_else(|| {
                failed().find(|(_, code)| !matches!(code, Code::PurgeQueue | Code::PurgeInflight))
            })
            .or_else(|| failed().next())
            .unwrap_or((0, Code::Fail))
    }

    fn failure(&self, index: usize, code: Code) -> Error {
        let topic = self.records[index].topic.clone();
        let reason = code.to_string();
        if is_of_the_record(code) {
            return Error::Refused {
                index,
                topic,
                reason,
            };
        }
        by_code(&format!("write to topic '{topic}'"), code, reason)
    }
}

fn native(record: &NewRecord, tag: usize) -> BaseRecord<'_, [u8], [u8], usize> {
    let mut native = BaseRecord::with_opaque_to(&record.topic, tag);
    native.partition = record.partition;
    native.key = record.key.as_deref();
    native.payload = record.value.as_deref();
    native.timestamp = record.timestamp;
    if !record.headers.is_empty() {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        native.headers = Some(
            record
                .headers
                .iter()
                .fold(headers, |headers, (key, value)| {
                    headers.insert(Header {
                        key,
                        value: value.as_ref(),
                    })
                }),
        );
    }
    native
}
