//! The records of an agent's own input log.
//!
//! A record of it is the record that triggers, with its own bytes and headers, under the run's key; three headers
//! after its own say what it was: its key, the row that the run is for, and where it stood. So whoever reads the log
//! has the trigger as it came, and decodes it as one that was never taken in.
//!
//! A record that starts no run because it is refused goes through the log all the same, with the reason, so that it
//! ends in the audit of the partition's owner as every other trigger does.

use crate::fault::{Fault, Reason};
use crate::key::{Key, partition_of};
use crate::names::header;
use crate::record::{Header, NewRecord, Record};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;

/// The most that a record of the log may take, in bytes, headers and all; Kafka's own framing is beside it.
const BYTES_MAX: usize = 1_000_000;
/// The headers after the record's own.
const OWN: usize = 3;

/// Where records go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Log<'a> {
    pub(super) topic: &'a str,
    pub(super) partitions: i32,
}

/// What a run is for, where one trigger starts several.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Tells it from the trigger's other rows.
    pub(super) id: String,
    /// The variable `match`.
    pub(super) value: Value,
}

/// The last header: what the record was where it stood.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    partition: i32,
    offset: i64,
    timestamp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    row: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

impl Log<'_> {
    /// A trigger to be run under `key`; without one anywhere, as it has no order.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(super) fn trigger(
        &self,
        record: &Record<'_>,
        key: Option<&Key>,
        row: Option<&Row>,
    ) -> Result<NewRecord, Fault> {
        let taken = self.put(record, key, row, None, false)?;
        let bytes = size(&taken);
        if bytes > BYTES_MAX {
            return Err(Fault::new(
                Reason::TooLarge,
                format!(
                    "the trigger takes {bytes} bytes in the agent's input log, with its headers and the row that it is for; the limit is {BYTES_MAX}"
                ),
            ));
        }
        Ok(taken)
    }

    /// A record that starts no run, and why. What is too large goes without its value, or without its headers too.
    ///
    /// # Errors
    /// None that data can cause: an envelope is always JSON.
    pub(super) fn refused(&self, record: &Record<'_>, fault: &Fault) -> Result<NewRecord, Fault> {
        let whole = self.put(record, None, None, Some(fault), false)?;
        if size(&whole) <= BYTES_MAX {
            return Ok(whole);
        }
        let cut = self.put(record, None, None, Some(fault), true)?;
        if size(&cut) <= BYTES_MAX {
            return Ok(cut);
        }
        let bare = Record {
            key: None,
            headers: &[],
            ..*record
        };
        self.put(&bare, None, None, Some(fault), true)
    }

    fn put(
        &self,
        record: &Record<'_>,
        key: Option<&Key>,
        row: Option<&Row>,
        fault: Option<&Fault>,
        cut: bool,
    ) -> Result<NewRecord, Fault> {
        let envelope = Envelope {
            topic: record.topic.into(),
            partition: record.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            row: row.map(|row| row.id.clone()),
            fault: fault.cloned(),
            cut: cut && record.value.is_some(),
        };
        let unwritable = |error: serde_json::Error| {
            Fault::new(
                Reason::InvalidInternalRecord,
                format!("a trigger cannot be written to the agent's input log: {error}"),
            )
        };
        let envelope = serde_json::to_vec(&envelope).map_err(unwritable)?;
        let row = row.map(|row| serde_json::to_vec(&row.value)).transpose();
        let mut headers: Vec<(String, Option<Vec<u8>>)> = record
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)))
            .collect();
        headers.push((header::TAKEN_KEY.to_owned(), record.key.map(<[u8]>::to_vec)));
        headers.push((header::TAKEN_ROW.to_owned(), row.map_err(unwritable)?));
        headers.push((header::TAKEN.to_owned(), Some(envelope)));
        let partition = match key {
            Some(key) => partition_of(key.as_bytes(), self.partitions),
            None => i32::try_from(record.offset.rem_euclid(i64::from(self.partitions.max(1))))
                .unwrap_or(0),
        };
        Ok(NewRecord {
            topic: self.topic.to_owned(),
            partition: Some(partition),
            key: key.map(|key| key.as_bytes().to_vec()),
            value: record.value.filter(|_| !cut).map(<[u8]>::to_vec),
            headers,
            timestamp: None,
        })
    }
}

fn size(record: &NewRecord) -> usize {
    let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let headers = record.headers.iter();
    bytes(&record.key)
        + bytes(&record.value)
        + headers
            .map(|(name, value)| name.len() + bytes(value))
            .sum::<usize>()
}

/// A record of the log, opened.
pub(super) struct Opened<'a> {
    envelope: Envelope<'a>,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [Header<'a>],
    row: Option<Row>,
}

/// # Errors
/// `InvalidInternalRecord`: the record is none of the log's.
pub(super) fn open<'a>(record: &'a Record<'_>) -> Result<Opened<'a>, Fault> {
    let invalid = |what: &str| {
        Fault::new(
            Reason::InvalidInternalRecord,
            format!("{}: {what}", record.position()),
        )
    };
    let Some((headers, [key, row, envelope])) = record.headers.split_last_chunk::<OWN>() else {
        return Err(invalid("not written by the agent's intake"));
    };
    let names = [
        (key, header::TAKEN_KEY),
        (row, header::TAKEN_ROW),
        (envelope, header::TAKEN),
    ];
    if names.iter().any(|((name, _), own)| name != own) {
        return Err(invalid("not written by the agent's intake"));
    }
    let mut envelope: Envelope<'_> = serde_json::from_slice(envelope.1.unwrap_or_default())
        .map_err(|error| invalid(&format!("header {}: {error}", header::TAKEN)))?;
    let value = row.1.map(serde_json::from_slice).transpose();
    let value =
        value.map_err(|error| invalid(&format!("header {}: {error}", header::TAKEN_ROW)))?;
    let row = envelope.row.take().zip(value);
    Ok(Opened {
        envelope,
        key: key.1,
        value: record.value,
        headers,
        row: row.map(|(id, value)| Row { id, value }),
    })
}

impl Opened<'_> {
    /// The record that was taken in, as it stood in its own log.
    pub(super) fn record(&self) -> Record<'_> {
        Record {
            topic: &self.envelope.topic,
            partition: self.envelope.partition,
            offset: self.envelope.offset,
            timestamp: self.envelope.timestamp,
            key: self.key,
            value: self.value,
            headers: self.headers,
        }
    }

    /// Why it starts no run.
    pub(super) fn fault(&self) -> Option<&Fault> {
        self.envelope.fault.as_ref()
    }

    /// Its value was left out, being too large.
    pub(super) fn is_cut(&self) -> bool {
        self.envelope.cut
    }

    /// The row that the run is for.
    pub(super) fn row(&self) -> Option<&Row> {
        self.row.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::OwnedRecord;
    use proptest::prelude::*;
    use serde_json::json;

    const LOG: Log<'_> = Log {
        topic: "shop.agent.helper.in",
        partitions: 6,
    };

    fn bytes(most: usize) -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..most))
    }

    /// Names of headers, ours among them: a trigger may itself have been taken in.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z-]{0,8}",
            Just(header::TAKEN.to_owned()),
            Just(header::TAKEN_KEY.to_owned()),
            Just(header::TAKEN_ROW.to_owned()),
            Just(header::ROOT.to_owned()),
        ]
    }

    fn record() -> impl Strategy<Value = NewRecord> {
        (
            bytes(40),
            bytes(200),
            proptest::collection::vec((name(), bytes(20)), 0..5),
            0..40i32,
            any::<i64>(),
        )
            .prop_map(|(key, value, headers, partition, timestamp)| NewRecord {
                topic: "shop.questions".into(),
                partition: Some(partition),
                key,
                value,
                headers,
                timestamp: Some(timestamp),
            })
    }

    fn row() -> impl Strategy<Value = Option<Row>> {
        proptest::option::of(("[a-z]{0,6}", any::<i64>(), "\\PC{0,8}").prop_map(
            |(id, number, text)| Row {
                value: json!({"_key": id, "n": number, "t": text}),
                id,
            },
        ))
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_taken_in(
            record in record(),
            offset in 0..i64::MAX,
            key in "[a-z]{0,6}",
            row in row(),
        ) {
            let key = Key::from_text(&key).unwrap();
            let taken = record
                .lend(offset, |record| LOG.trigger(record, key.as_ref(), row.as_ref()))
                .unwrap();
            prop_assert_eq!(taken.key.as_deref(), key.as_ref().map(Key::as_bytes));
            let partition = taken.partition.unwrap();
            prop_assert!((0..LOG.partitions).contains(&partition));
            if let Some(key) = &key {
                prop_assert_eq!(partition, partition_of(key.as_bytes(), LOG.partitions));
            }
            taken.lend(7, |taken| {
                let opened = open(taken).unwrap();
                prop_assert_eq!(OwnedRecord::new(&opened.record()), record.lend(offset, OwnedRecord::new));
                prop_assert_eq!(opened.fault(), None);
                prop_assert!(!opened.is_cut());
                prop_assert_eq!(opened.row(), row.as_ref());
                Ok(())
            })?;
        }

        #[test]
        fn a_refused_record_keeps_its_bytes_and_its_reason(record in record(), offset in 0..i64::MAX) {
            let fault = Fault::new(Reason::NotJson, "ends early");
            let taken = record.lend(offset, |record| LOG.refused(record, &fault)).unwrap();
            taken.lend(7, |taken| {
                let opened = open(taken).unwrap();
                prop_assert_eq!(OwnedRecord::new(&opened.record()), record.lend(offset, OwnedRecord::new));
                prop_assert_eq!(opened.fault(), Some(&fault));
                Ok(())
            })?;
        }

        #[test]
        fn no_other_record_is_taken_for_one(record in record(), offset in 0..i64::MAX) {
            let last = record.headers.last().map(|(name, _)| name.as_str());
            prop_assume!(last != Some(header::TAKEN));
            let reason = record.lend(offset, |record| open(record).map(|_| ()).unwrap_err().reason);
            prop_assert_eq!(reason, Reason::InvalidInternalRecord);
        }
    }

    #[test]
    fn what_is_too_large_is_refused_and_goes_without_its_value() {
        let record = NewRecord {
            value: Some(vec![b'x'; BYTES_MAX]),
            headers: vec![("trace".into(), Some(b"1".to_vec()))],
            ..NewRecord::default()
        };
        let fault = record
            .lend(3, |record| LOG.trigger(record, None, None))
            .unwrap_err();
        assert_eq!(fault.reason, Reason::TooLarge);
        let taken = record
            .lend(3, |record| LOG.refused(record, &fault))
            .unwrap();
        assert!(size(&taken) < 1_000);
        taken.lend(0, |taken| {
            let opened = open(taken).unwrap();
            assert!(opened.is_cut());
            assert_eq!(opened.record().headers.len(), 1);
        });
        let headers = NewRecord {
            headers: vec![("trace".into(), Some(vec![b'x'; BYTES_MAX]))],
            ..NewRecord::default()
        };
        let taken = headers
            .lend(3, |record| LOG.refused(record, &fault))
            .unwrap();
        assert!(size(&taken) < 1_000);
    }
}
