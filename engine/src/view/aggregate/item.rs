//! A value that an aggregate keeps, in a total order.
//!
//! Bools, then numbers by value, then timestamps, then texts by their bytes, then lists and objects by their JSON text. Of numbers that are equal the
//! int comes before the double, so that two items are equal only where their JSON is.

use super::codec::{Bytes, put_text};
use crate::expr::Given;
use jiff::Timestamp;
use serde_json::{Number, Value};
use std::cmp::Ordering;

#[derive(Clone, Debug)]
pub(in crate::view) enum Item {
    Bool(bool),
    Int(i64),
    /// Over the range of ints.
    Uint(u64),
    /// Never NaN or infinite.
    Double(f64),
    /// What CEL's `timestamp` gives; seconds since the epoch, and nanoseconds of the same sign.
    Time(i64, i32),
    Text(Box<str>),
    /// A list or an object, compact and with sorted keys.
    Json(Box<str>),
}

impl Item {
    /// What an expression gave; `None` where that is null.
    ///
    /// # Errors
    /// A message: NaN and infinity are no values that can be kept.
    pub(super) fn of(given: Given<'_>) -> Result<Option<Self>, &'static str> {
        Ok(Some(match given {
            Given::Null => return Ok(None),
            Given::Bool(bool) => Self::Bool(bool),
            Given::Int(int) => Self::Int(int),
            Given::Uint(uint) => i64::try_from(uint).map_or(Self::Uint(uint), Self::Int),
            Given::Double(double) if double.is_finite() => Self::Double(double),
            Given::Double(_) => return Err("gives NaN or infinity"),
            Given::Time(time) => Self::Time(time.as_second(), time.subsec_nanosecond()),
            Given::Text(text) => Self::Text(text.into_owned().into_boxed_str()),
            Given::Json(value) => Self::Json(value.to_string().into_boxed_str()),
        }))
    }

    /// The same value in one form: a double that is whole is an int.
    pub(super) fn canonical(self) -> Self {
        const TWO_63: f64 = 9_223_372_036_854_775_808.0;
        match self {
            #[allow(clippy::cast_possible_truncation, reason = "whole and within i64")]
            Self::Double(double)
                if double.fract() == 0.0 && (-TWO_63..TWO_63).contains(&double) =>
            {
                Self::Int(double as i64)
            }
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "whole and within u64"
            )]
            Self::Double(double)
                if double.fract() == 0.0 && (TWO_63..2.0 * TWO_63).contains(&double) =>
            {
                Self::Uint(double as u64)
            }
            other => other,
        }
    }

    /// The kind with its article, for messages.
    pub(super) fn described(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a bool",
            Self::Int(_) | Self::Uint(_) => "an int",
            Self::Double(_) => "a double",
            Self::Time(..) => "a timestamp",
            Self::Text(_) => "a string",
            Self::Json(text) if text.starts_with('[') => "a list",
            Self::Json(_) => "an object",
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Int(int) => Value::from(*int),
            Self::Uint(uint) => Value::from(*uint),
            Self::Double(double) => Number::from_f64(*double).map_or(Value::Null, Value::Number),
            Self::Time(second, nanosecond) => Timestamp::new(*second, *nanosecond)
                .map_or(Value::Null, |time| time.to_string().into()),
            Self::Text(text) => Value::from(&**text),
            // Written by `of`, or checked when it was read back.
            Self::Json(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        }
    }

    /// Bytes that it takes at most, kept and shown.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Bool(_) | Self::Int(_) | Self::Uint(_) | Self::Double(_) | Self::Time(..) => 48,
            Self::Text(text) => {
                let escapes: usize = text
                    .bytes()
                    .map(|byte| match byte {
                        0..=0x1f => 5,
                        b'"' | b'\\' => 1,
                        _ => 0,
                    })
                    .sum();
                8 + 2 * text.len() + escapes
            }
            Self::Json(text) => 8 + 2 * text.len(),
        }
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bool(false) => bytes.push(0),
            Self::Bool(true) => bytes.push(1),
            Self::Int(int) => {
                bytes.push(2);
                bytes.extend(int.to_le_bytes());
            }
            Self::Uint(uint) => {
                bytes.push(3);
                bytes.extend(uint.to_le_bytes());
            }
            Self::Double(double) => {
                bytes.push(4);
                bytes.extend(double.to_bits().to_le_bytes());
            }
            Self::Time(second, nanosecond) => {
                bytes.push(7);
                bytes.extend(second.to_le_bytes());
                bytes.extend(i64::from(*nanosecond).to_le_bytes());
            }
            Self::Text(text) => {
                bytes.push(5);
                put_text(bytes, text);
            }
            Self::Json(text) => {
                bytes.push(6);
                put_text(bytes, text);
            }
        }
    }

    pub(super) fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(match bytes.byte()? {
            0 => Self::Bool(false),
            1 => Self::Bool(true),
            2 => Self::Int(bytes.int()?),
            3 => Self::Uint(bytes.uint()?),
            4 => Self::Double(bytes.double()?),
            5 => Self::Text(bytes.text()?.into()),
            6 => {
                let text = bytes.text()?;
                serde_json::from_str::<Value>(text).ok()?;
                Self::Json(text.into())
            }
            7 => {
                let (second, nanosecond) = (bytes.int()?, i32::try_from(bytes.int()?).ok()?);
                Timestamp::new(second, nanosecond).ok()?;
                Self::Time(second, nanosecond)
            }
            _ => return None,
        })
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Int(_) | Self::Uint(_) | Self::Double(_) => 1,
            Self::Time(..) => 2,
            Self::Text(_) => 3,
            Self::Json(_) => 4,
        }
    }

    fn whole(&self) -> Option<i128> {
        match self {
            Self::Int(int) => Some((*int).into()),
            Self::Uint(uint) => Some((*uint).into()),
            _ => None,
        }
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Int(left), Self::Int(right)) => left.cmp(right),
            (Self::Double(left), Self::Double(right)) => left.total_cmp(right),
            (Self::Text(left), Self::Text(right)) | (Self::Json(left), Self::Json(right)) => {
                left.cmp(right)
            }
            (Self::Bool(left), Self::Bool(right)) => left.cmp(right),
            (Self::Time(left, more), Self::Time(right, less)) => {
                left.cmp(right).then_with(|| more.cmp(less))
            }
            (left, right) => match (left.whole(), right.whole(), left, right) {
                (Some(left), Some(right), _, _) => left.cmp(&right),
                (Some(left), None, _, Self::Double(right)) => compare(left, *right),
                (None, Some(right), Self::Double(left), _) => compare(right, *left).reverse(),
                _ => left.rank().cmp(&right.rank()),
            },
        }
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Item {}

/// An integer against a double, exactly: 2^53 + 1 is not 2^53. The integer is the less of two that are equal.
fn compare(left: i128, right: f64) -> Ordering {
    const BEYOND: f64 = 1e30;
    if right.abs() > BEYOND {
        return if right > 0.0 {
            Ordering::Less
        } else {
            Ordering::Greater
        };
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "within 1e30, and truncated first"
    )]
    let whole = right.trunc() as i128;
    left.cmp(&whole).then(if right.fract() < 0.0 {
        Ordering::Greater
    } else {
        Ordering::Less
    })
}
