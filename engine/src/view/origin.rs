//! Where a value comes from, and how far a state covers its input: as headers and marks in internal topics.

use crate::config::From;
use crate::fault::{Fault, Reason};
use crate::names::header;
use crate::record::Record;
use serde::{Deserialize, Serialize};

/// The source record that caused a value. `from` is the place of its entry in the view's `from`, sorted by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    pub from: u32,
    pub partition: i32,
    pub offset: i64,
}

impl Origin {
    /// The header `hw-s`: three unsigned LEB128 varints.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12);
        for number in [
            u64::from(self.from),
            u64::from(self.partition.cast_unsigned()),
            self.offset.cast_unsigned(),
        ] {
            put_varint(&mut bytes, number);
        }
        bytes
    }

    /// # Errors
    /// `InvalidInternalRecord` where the bytes are not what [`Origin::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let mut rest = bytes;
        let from = take_varint(&mut rest).and_then(|n| u32::try_from(n).ok());
        let partition = take_varint(&mut rest).and_then(|n| i32::try_from(n).ok());
        let offset = take_varint(&mut rest).and_then(|n| i64::try_from(n).ok());
        match (from, partition, offset, rest) {
            (Some(from), Some(partition), Some(offset), []) => Ok(Self {
                from,
                partition,
                offset,
            }),
            _ => Err(invalid(header::SOURCE)),
        }
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// `hw-s` and `hw-t` of a value's record.
pub(super) fn provenance_headers(origin: Origin, time: i64) -> Vec<(String, Option<Vec<u8>>)> {
    vec![
        (header::SOURCE.to_owned(), Some(origin.encode())),
        (header::TIME.to_owned(), Some(time.to_string().into_bytes())),
    ]
}

pub(super) fn provenance(record: &Record<'_>) -> Result<(Origin, i64), Fault> {
    let origin = Origin::decode(
        record
            .header(header::SOURCE)
            .ok_or_else(|| invalid(header::SOURCE))?,
    )?;
    let time = record
        .header(header::TIME)
        .and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok())
        .ok_or_else(|| invalid(header::TIME))?;
    Ok((origin, time))
}

pub(super) fn invalid(what: &str) -> Fault {
    Fault::new(
        Reason::InvalidInternalRecord,
        format!(
            "'{what}' is missing or not in the form that this version writes. Was the topic written by something else?"
        ),
    )
}

/// How far one partition of one root source is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    pub from: u32,
    pub partition: i32,
    /// Every record below this offset precedes the mark.
    pub next: i64,
    /// The highest event time taken from this partition, milliseconds; `i64::MIN` before any.
    pub time: i64,
    /// Nothing more was there when the mark was written, so its clock waits for nothing from here.
    pub idle: bool,
}

impl Serialize for Covered {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.from, self.partition, self.next, self.time, self.idle).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Covered {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (from, partition, next, time, idle) = Deserialize::deserialize(deserializer)?;
        Ok(Self {
            from,
            partition,
            next,
            time,
            idle,
        })
    }
}

/// The value of a mark, under the key `\0m`: in a state topic it says what the values before it are the fold of; in an input
/// log, how far that log covers the sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The input's next offset; 0 in an input log.
    pub next: i64,
    /// Timestamp of the input's record `next - 1`, milliseconds.
    pub at: i64,
    /// The fold's clock: event time, milliseconds.
    pub clock: i64,
    pub covered: Vec<Covered>,
}

/// The entries of `from` in the order that [`Origin::from`] counts: by name, since their order in a resource means nothing.
pub(super) fn sorted(from: &[From]) -> Vec<&From> {
    let mut sorted: Vec<&From> = from.iter().collect();
    sorted.sort_by(|left, right| left.name.cmp(&right.name));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_survives_its_header() {
        for origin in [
            Origin {
                from: 0,
                partition: 0,
                offset: 0,
            },
            Origin {
                from: 63,
                partition: i32::MAX,
                offset: i64::MAX,
            },
            Origin {
                from: 1,
                partition: 300,
                offset: 127,
            },
        ] {
            assert_eq!(Origin::decode(&origin.encode()), Ok(origin));
        }
        for bad in [&[][..], &[0], &[0, 0], &[0, 0, 0, 0], &[0x80], &[0xff; 40]] {
            let fault = Origin::decode(bad).unwrap_err();
            assert_eq!(fault.reason, Reason::InvalidInternalRecord, "{bad:?}");
        }
    }
}
