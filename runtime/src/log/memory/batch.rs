//! Batches: what one append put into one partition, packed into one buffer and never changed again.
//!
//! Readers share batches by reference count, so that reading copies no payload. A batch keeps the
//! offset of each of its records relative to its base: a compacted one may have gaps.

use headwater_engine::record::{Header, NewRecord, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes that a record takes on Kafka beside key, value and headers.
const RECORD_OVERHEAD: usize = 70;

/// Whether a transaction's records count. Shared by all batches of the transaction.
#[derive(Debug, Default)]
pub(super) struct Outcome(AtomicU8);

impl Outcome {
    const COMMITTED: u8 = 1;
    const ABORTED: u8 = 2;

    pub(super) fn decide(&self, commit: bool) {
        let outcome = if commit {
            Self::COMMITTED
        } else {
            Self::ABORTED
        };
        self.0.store(outcome, Ordering::Release);
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::ABORTED
    }
}

/// A piece of the buffer; a null one is `None` in [`Batch::bytes`].
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    length: u32,
}

impl Span {
    const NULL: u32 = u32::MAX;
}

#[derive(Debug)]
struct Entry {
    delta: u32,
    headers: u32,
    timestamp: i64,
    key: Span,
    value: Span,
}

#[derive(Debug)]
pub(super) struct Batch {
    base: i64,
    /// Offset of the last record less the base, even where that record is compacted away.
    last_delta: u32,
    entries: Vec<Entry>,
    /// Name and value; an entry's end where the next entry's begin.
    headers: Vec<(Span, Span)>,
    buffer: Vec<u8>,
    /// `None`: written outside a transaction.
    pub(super) transaction: Option<Arc<Outcome>>,
}

impl Batch {
    /// A commit or abort marker: an offset without a record.
    pub(super) fn marker(base: i64) -> Self {
        Self {
            base,
            last_delta: 0,
            entries: Vec::new(),
            headers: Vec::new(),
            buffer: Vec::new(),
            transaction: None,
        }
    }

    pub(super) fn base(&self) -> i64 {
        self.base
    }

    /// The offset after the batch.
    pub(super) fn next(&self) -> i64 {
        self.base + i64::from(self.last_delta) + 1
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn offset(&self, index: usize) -> i64 {
        self.base + i64::from(self.entries[index].delta)
    }

    /// Index of the first record at or after an offset; [`Batch::len`] if there is none.
    pub(super) fn index_from(&self, offset: i64) -> usize {
        self.entries
            .partition_point(|entry| self.base + i64::from(entry.delta) < offset)
    }

    fn bytes(&self, span: Span) -> Option<&[u8]> {
        (span.length != Span::NULL).then(|| {
            let start = span.start as usize;
            &self.buffer[start..start + span.length as usize]
        })
    }

    /// Shows records `from..to`, by index; `headers` is room that is used again for each.
    pub(super) fn show<'a>(
        &'a self,
        place: (&'a str, i32),
        range: std::ops::Range<usize>,
        headers: &mut Vec<Header<'a>>,
        mut on: impl FnMut(&Record<'_>),
    ) {
        for index in range {
            let entry = &self.entries[index];
            let end = self
                .entries
                .get(index + 1)
                .map_or(self.headers.len(), |next| next.headers as usize);
            headers.clear();
            headers.extend(self.headers[entry.headers as usize..end].iter().map(
                |(name, value)| {
                    let name = self.bytes(*name).unwrap_or_default();
                    (
                        std::str::from_utf8(name).unwrap_or_default(),
                        self.bytes(*value),
                    )
                },
            ));
            on(&Record {
                topic: place.0,
                partition: place.1,
                offset: self.base + i64::from(entry.delta),
                timestamp: entry.timestamp,
                key: self.bytes(entry.key),
                value: self.bytes(entry.value),
                headers,
            });
        }
    }
}

/// Records on their way into one partition.
#[derive(Debug, Default)]
pub(super) struct Builder {
    entries: Vec<Entry>,
    headers: Vec<(Span, Span)>,
    buffer: Vec<u8>,
}

impl Builder {
    /// What the record comes to on Kafka, about.
    pub(super) fn size_of(record: &NewRecord) -> usize {
        let headers: usize = record
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len))
            .sum();
        RECORD_OVERHEAD
            + headers
            + record.key.as_ref().map_or(0, Vec::len)
            + record.value.as_ref().map_or(0, Vec::len)
    }

    /// The caller keeps a batch below 4 GiB.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a batch is bounded by the writer"
    )]
    pub(super) fn add(&mut self, record: &NewRecord, timestamp: i64) {
        let entry = Entry {
            delta: self.entries.len() as u32,
            headers: self.headers.len() as u32,
            timestamp,
            key: self.put(record.key.as_deref()),
            value: self.put(record.value.as_deref()),
        };
        for (name, value) in &record.headers {
            let header = (self.put(Some(name.as_bytes())), self.put(value.as_deref()));
            self.headers.push(header);
        }
        self.entries.push(entry);
    }

    #[allow(
        clippy::cast_possible_truncation,
        reason = "a batch is bounded by the writer"
    )]
    fn put(&mut self, bytes: Option<&[u8]>) -> Span {
        let start = self.buffer.len() as u32;
        let Some(bytes) = bytes else {
            return Span {
                start,
                length: Span::NULL,
            };
        };
        self.buffer.extend_from_slice(bytes);
        Span {
            start,
            length: bytes.len() as u32,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// `append_time`: overrides the records' own timestamps.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a batch is bounded by the writer"
    )]
    pub(super) fn build(
        mut self,
        base: i64,
        append_time: Option<i64>,
        transaction: Option<Arc<Outcome>>,
    ) -> Batch {
        if let Some(time) = append_time {
            for entry in &mut self.entries {
                entry.timestamp = time;
            }
        }
        Batch {
            base,
            last_delta: self.entries.len().saturating_sub(1) as u32,
            entries: self.entries,
            headers: self.headers,
            buffer: self.buffer,
            transaction,
        }
    }
}
