//! How far the runs of a partition are, as the group's committed offset says it: the lowest that is not finished,
//! and in the offset's metadata what is finished above it.
//!
//! The metadata is `1:` and, in base64url without padding (RFC 4648), a sequence of LEB128 numbers: flags (1: no run is
//! under way); that of the transaction, so that whoever lost the answer to a commit can tell whether it was made; then of each finished
//! stretch, lowest first, how far it begins after the former one's end (the first: after the offset), and its
//! length. Kafka allows 4,096 bytes; [`STRETCHES_MAX`] keeps below that.

use crate::log::Committed;
use data_encoding::BASE64URL_NOPAD;
use std::ops::Range;

/// Stretches that fit for certain, if none is longer than 2^35 offsets: 2 numbers of 5 bytes each, in base64.
pub(super) const STRETCHES_MAX: usize = 250;

const VERSION: &str = "1:";

/// Set where no run is under way.
const CLEAN: u64 = 1;

/// Offset, and what is finished above: stretches in order that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) next: i64,
    pub(super) finished: Vec<Range<i64>>,
    /// No run has been begun, or its owner left with none under way.
    pub(super) clean: bool,
}

impl Progress {
    /// As it is committed in the transaction of this number.
    pub(super) fn metadata(&self, transaction: u64) -> String {
        let mut bytes = Vec::new();
        put(&mut bytes, if self.clean { CLEAN } else { 0 });
        put(&mut bytes, transaction);
        let mut end = self.next;
        for stretch in &self.finished {
            put(&mut bytes, stretch.start.abs_diff(end));
            put(&mut bytes, stretch.end.abs_diff(stretch.start));
            end = stretch.end;
        }
        format!("{VERSION}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Whether more is finished than the other says, of which this one is a later state.
    pub(super) fn is_beyond(&self, other: &Self) -> bool {
        let finished = |progress: &Self| -> i64 {
            let stretches = progress.finished.iter();
            stretches.map(|stretch| stretch.end - stretch.start).sum()
        };
        self.next > other.next || self.next == other.next && finished(self) > finished(other)
    }

    /// `None`: the metadata was written by another version, and what is finished cannot be told.
    pub(super) fn read(committed: &Committed, metadata: &str) -> Option<Self> {
        let mut finished = Vec::new();
        let mut clean = true;
        if !metadata.is_empty() {
            let bytes = BASE64URL_NOPAD
                .decode(metadata.strip_prefix(VERSION)?.as_bytes())
                .ok()?;
            let mut rest = bytes.as_slice();
            clean = match take(&mut rest)? {
                0 => false,
                CLEAN => true,
                _ => return None,
            };
            let _transaction = take(&mut rest)?;
            let mut end = committed.offset;
            while !rest.is_empty() {
                let start = end.checked_add_unsigned(take(&mut rest)?)?;
                end = start.checked_add_unsigned(take(&mut rest)?)?;
                finished.push(start..end);
            }
        }
        Some(Self {
            next: committed.offset,
            finished,
            clean,
        })
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        let low = u64::from(first & 0x7f);
        if shift == 63 && low > 1 {
            return None;
        }
        number |= low << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn committed(offset: i64) -> Committed {
        Committed {
            offset,
            metadata: String::new(),
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(
            next in 0..i64::MAX / 2,
            clean in any::<bool>(),
            transaction in any::<u64>(),
            stretches in prop::collection::vec((0..1i64 << 35, 1..1i64 << 35), 0..=STRETCHES_MAX),
        ) {
            let mut end = next;
            let finished = stretches.iter().map(|(gap, length)| {
                let start = end + gap;
                end = start + length;
                start..end
            });
            let progress = Progress { next, finished: finished.collect(), clean };
            let metadata = progress.metadata(transaction);
            prop_assert!(metadata.len() < 4_096);
            prop_assert_eq!(Progress::read(&committed(next), &metadata), Some(progress.clone()));
            prop_assert_ne!(progress.metadata(transaction ^ 1), metadata);
        }

        #[test]
        fn what_is_no_progress_is_told(metadata in ".{1,40}") {
            // Whatever it is, it is read as it would be written, or not at all.
            if let Some(progress) = Progress::read(&committed(5), &metadata) {
                prop_assert!(metadata.starts_with(VERSION));
                prop_assert_eq!(progress.next, 5);
            }
        }
    }

    #[test]
    fn an_offset_without_metadata_has_nothing_above() {
        let progress = Progress::read(&committed(7), "").unwrap();
        assert_eq!((progress.next, progress.finished.len()), (7, 0));
        assert!(progress.clean);
        assert_eq!(Progress::read(&committed(7), "2:AAAA"), None);
        // A flag that this version does not know.
        assert_eq!(Progress::read(&committed(7), "1:AgA"), None);
        assert_eq!(Progress::read(&committed(7), "1:gA"), None);
    }
}
