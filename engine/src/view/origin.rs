//! Where a value comes from, and how far a state covers its input: as headers and marks in internal topics.

use crate::config::From;
use crate::fault::{Fault, Reason};
use crate::names::header;
use crate::record::Record;
use serde::{Deserialize, Serialize};

/// The source record that caused a value. `from` is the place of its entry in the view's `from`, sorted by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    pub from: u32,
    pub partition: i32,
    pub offset: i64,
}

impl Origin {
    /// The header `hw-s`: three unsigned LEB128 varints.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = [0; 3 * VARINT_BYTES_MAX];
        let length = self.put(&mut bytes);
        bytes[..length].to_vec()
    }

    fn put(self, bytes: &mut [u8]) -> usize {
        let mut length = 0;
        for number in [
            u64::from(self.from),
            u64::from(self.partition.cast_unsigned()),
            self.offset.cast_unsigned(),
        ] {
            length += put_varint(&mut bytes[length..], number);
        }
        length
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            from: u32::try_from(take_varint(bytes)?).ok()?,
            partition: i32::try_from(take_varint(bytes)?).ok()?,
            offset: i64::try_from(take_varint(bytes)?).ok()?,
        })
    }

    /// # Errors
    /// `InvalidInternalRecord` where the bytes are not what [`Origin::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let mut rest = bytes;
        match Self::take(&mut rest) {
            Some(origin) if rest.is_empty() => Ok(origin),
            _ => Err(invalid(header::SOURCE)),
        }
    }
}

/// Bytes of the longest varint.
pub(super) const VARINT_BYTES_MAX: usize = 10;
/// Bytes of the longest provenance.
pub(super) const PROVENANCE_BYTES_MAX: usize = 4 * VARINT_BYTES_MAX;

/// Writes an unsigned LEB128 varint; gives its length.
pub(super) fn put_varint(bytes: &mut [u8], mut number: u64) -> usize {
    for (place, byte) in bytes.iter_mut().enumerate() {
        if number < 0x80 {
            *byte = number as u8;
            return place + 1;
        }
        *byte = (number & 0x7f) as u8 | 0x80;
        number >>= 7;
    }
    bytes.len()
}

pub(super) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
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

/// Origin and time as the store keeps them; gives their length.
pub(super) fn put_provenance(bytes: &mut [u8], origin: Origin, time: i64) -> usize {
    let length = origin.put(bytes);
    // The sign in the lowest bit, so that small numbers are short.
    let time = (time << 1 ^ time >> 63).cast_unsigned();
    length + put_varint(&mut bytes[length..], time)
}

pub(super) fn take_provenance(bytes: &mut &[u8]) -> Option<(Origin, i64)> {
    let origin = Origin::take(bytes)?;
    let time = take_varint(bytes)?;
    Some((
        origin,
        (time >> 1).cast_signed() ^ -(time & 1).cast_signed(),
    ))
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
    Ok((origin, number(record, header::TIME)?))
}

/// A header that is an ASCII decimal.
pub(super) fn number(record: &Record<'_>, header: &str) -> Result<i64, Fault> {
    record
        .header(header)
        .and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok())
        .ok_or_else(|| invalid(header))
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
    fn a_provenance_survives_the_store() {
        for time in [0, -1, 1, i64::MIN, i64::MAX, 1_795_000_000_000] {
            let origin = Origin {
                from: 63,
                partition: 7,
                offset: i64::MAX,
            };
            let mut bytes = [0; PROVENANCE_BYTES_MAX];
            let length = put_provenance(&mut bytes, origin, time);
            let mut rest = &bytes[..length];
            assert_eq!(take_provenance(&mut rest), Some((origin, time)));
            assert_eq!(rest, [] as [u8; 0]);
        }
    }

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
