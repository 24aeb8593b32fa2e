//! Values while an expression runs.
//!
//! JSON stays where it is: an object or a list of an event is a reference, and only what an expression
//! builds is allocated. Numbers follow semantics 3: an integer is an int, all else a double; they
//! compare by value, and arithmetic mixes nothing.

use super::{Variable, Variables};
use data_encoding::BASE64;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why an evaluation failed; holds names and types, never values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) message: Cow<'static, str>,
    /// A field was read that is not there.
    pub(super) absent: bool,
}

impl Failure {
    /// A field or an item that is read is not there.
    pub(super) fn absent(message: String) -> Self {
        Self {
            message: Cow::Owned(message),
            absent: true,
        }
    }
}

impl From<&'static str> for Failure {
    fn from(message: &'static str) -> Self {
        Self {
            message: Cow::Borrowed(message),
            absent: false,
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self {
            message: Cow::Owned(message),
            absent: false,
        }
    }
}

#[derive(Clone)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'a, str>),
    Bytes(Arc<[u8]>),
    Timestamp(Timestamp),
    Duration(SignedDuration),
    /// An array or an object, as it stands in an event.
    Json(&'a Value),
    /// An object whose fields are looked up by name alone.
    Object(&'a dyn Variables),
    List(Arc<Vec<Val<'a>>>),
    Map(Arc<BTreeMap<MapKey, Val<'a>>>),
    Optional(Option<Arc<Val<'a>>>),
    Type(&'static str),
}

/// Key of a map that an expression built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MapKey {
    Bool(bool),
    Int(i128),
    Text(String),
}

impl<'a> From<&'a Value> for Val<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(bool) => Self::Bool(*bool),
            Value::Number(number) => {
                if let Some(int) = number.as_i64() {
                    Self::Int(int)
                } else if let Some(uint) = number.as_u64() {
                    Self::Uint(uint)
                } else {
                    Self::Double(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::String(text) => Self::Text(Cow::Borrowed(text)),
            Value::Array(_) | Value::Object(_) => Self::Json(value),
        }
    }
}

impl<'a> From<Variable<'a>> for Val<'a> {
    fn from(variable: Variable<'a>) -> Self {
        match variable {
            Variable::Json(value) => Self::from(value),
            Variable::Text(text) => Self::Text(Cow::Borrowed(text)),
            Variable::Timestamp(milliseconds) => {
                Timestamp::from_millisecond(milliseconds).map_or(Self::Null, Self::Timestamp)
            }
            Variable::Int(int) => Self::Int(int),
            Variable::Bool(bool) => Self::Bool(bool),
            Variable::Null => Self::Null,
            Variable::Object(object) => Self::Object(object),
        }
    }
}

impl<'a> Val<'a> {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(Cow::Owned(text.into()))
    }

    pub(super) fn list(items: Vec<Val<'a>>) -> Self {
        Self::List(Arc::new(items))
    }

    pub(super) fn some(value: Val<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The type, as `type(x)` and messages name it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Json(Value::Array(_)) | Self::List(_) => "list",
            Self::Json(_) | Self::Object(_) | Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
        }
    }

    /// The type with its article, for messages.
    pub(super) fn described(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Uint(_) => "a uint",
            Self::Double(_) => "a double",
            Self::Text(_) => "a string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "a timestamp",
            Self::Duration(_) => "a duration",
            Self::Json(Value::Array(_)) | Self::List(_) => "a list",
            Self::Json(_) | Self::Object(_) | Self::Map(_) => "an object",
            Self::Optional(_) => "an optional",
            Self::Type(_) => "a type",
        }
    }

    /// The items of a list, else nothing.
    pub(super) fn items(&self) -> Option<Items<'a>> {
        match self {
            Self::Json(Value::Array(items)) => Some(Items::Json(items)),
            Self::List(items) => Some(Items::Built(Arc::clone(items))),
            _ => None,
        }
    }

    /// The value of a field or of a map's key; the outer `None` says that this has no fields.
    pub(super) fn field(&self, name: &str) -> Option<Option<Val<'a>>> {
        match self {
            Self::Json(Value::Object(object)) => Some(object.get(name).map(Val::from)),
            Self::Object(object) => Some(object.get(name).map(Val::from)),
            Self::Map(map) => Some(map.get(&MapKey::Text(name.to_owned())).cloned()),
            _ => None,
        }
    }

    /// # Errors
    /// Where a value has no JSON: NaN and infinity, a type, an object known by its fields alone.
    pub(super) fn into_json(self) -> Result<Value, Failure> {
        Ok(match self {
            Self::Null | Self::Optional(None) => Value::Null,
            Self::Bool(bool) => Value::Bool(bool),
            Self::Int(int) => int.into(),
            Self::Uint(uint) => uint.into(),
            Self::Double(double) => Number::from_f64(double)
                .map(Value::Number)
                .ok_or("the result holds a double that is no JSON number (NaN or infinity)")?,
            Self::Text(text) => Value::String(text.into_owned()),
            Self::Bytes(bytes) => Value::String(BASE64.encode(&bytes)),
            Self::Timestamp(timestamp) => Value::String(timestamp.to_string()),
            Self::Duration(duration) => Value::String(duration_text(duration)),
            Self::Json(value) => value.clone(),
            Self::List(items) => Value::Array(
                Arc::unwrap_or_clone(items)
                    .into_iter()
                    .map(Self::into_json)
                    .collect::<Result<_, _>>()?,
            ),
            Self::Map(map) => Value::Object(
                Arc::unwrap_or_clone(map)
                    .into_iter()
                    .map(|(key, value)| Ok((key.into_text(), value.into_json()?)))
                    .collect::<Result<_, Failure>>()?,
            ),
            Self::Optional(Some(value)) => Arc::unwrap_or_clone(value).into_json()?,
            Self::Object(_) => {
                return Err("a variable is used as a whole; name one of its fields".into());
            }
            Self::Type(_) => return Err("the result holds a type, which is no JSON".into()),
        })
    }

    /// Whether two values are equal; values of different types are not, but for numbers.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::Text(left), Self::Text(right)) => left == right,
            (Self::Bytes(left), Self::Bytes(right)) => left == right,
            (Self::Timestamp(left), Self::Timestamp(right)) => left == right,
            (Self::Duration(left), Self::Duration(right)) => left == right,
            (Self::Type(left), Self::Type(right)) => left == right,
            (Self::Optional(left), Self::Optional(right)) => match (left, right) {
                (Some(left), Some(right)) => left.equals(right),
                (None, None) => true,
                _ => false,
            },
            (Self::Int(left), Self::Int(right)) => left == right,
            (Self::Json(left), Self::Json(right)) => json_equals(left, right),
            (left, right) if left.is_number() && right.is_number() => {
                left.compare_numbers(right) == Some(Ordering::Equal)
            }
            (left, right) => match (left.items(), right.items()) {
                (Some(left), Some(right)) => {
                    left.len() == right.len()
                        && (0..left.len()).all(|index| match (left.get(index), right.get(index)) {
                            (Some(left), Some(right)) => left.equals(&right),
                            _ => false,
                        })
                }
                (None, None) => match (left.entries(), right.entries()) {
                    (Some(left), Some(right)) => {
                        left.len() == right.len()
                            && left.iter().all(|(key, value)| {
                                right.get(key).is_some_and(|other| value.equals(other))
                            })
                    }
                    _ => false,
                },
                _ => false,
            },
        }
    }

    /// The entries of an object or map.
    pub(super) fn entries(&self) -> Option<Cow<'_, BTreeMap<MapKey, Val<'a>>>> {
        match self {
            Self::Map(map) => Some(Cow::Borrowed(map)),
            Self::Json(Value::Object(object)) => Some(Cow::Owned(
                object
                    .iter()
                    .map(|(key, value)| (MapKey::Text(key.clone()), Val::from(value)))
                    .collect(),
            )),
            _ => None,
        }
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Uint(_) | Self::Double(_))
    }

    /// Order by value; `None` with NaN.
    fn compare_numbers(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Double(left), Self::Double(right)) => left.partial_cmp(right),
            (Self::Double(left), right) => compare_double(*left, right.as_integer()?),
            (left, Self::Double(right)) => {
                compare_double(*right, left.as_integer()?).map(Ordering::reverse)
            }
            (left, right) => Some(left.as_integer()?.cmp(&right.as_integer()?)),
        }
    }

    /// An int or uint by value.
    pub(super) fn as_integer(&self) -> Option<i128> {
        match self {
            Self::Int(int) => Some((*int).into()),
            Self::Uint(uint) => Some((*uint).into()),
            _ => None,
        }
    }

    /// Order of two values that have one.
    ///
    /// # Errors
    /// Where they have none: different types, lists, objects, null, NaN.
    pub(super) fn compare(&self, other: &Self) -> Result<Ordering, Failure> {
        match (self, other) {
            (Self::Bool(left), Self::Bool(right)) => Ok(left.cmp(right)),
            (Self::Text(left), Self::Text(right)) => Ok(left.cmp(right)),
            (Self::Bytes(left), Self::Bytes(right)) => Ok(left.cmp(right)),
            (Self::Timestamp(left), Self::Timestamp(right)) => Ok(left.cmp(right)),
            (Self::Duration(left), Self::Duration(right)) => Ok(left.cmp(right)),
            (left, right) if left.is_number() && right.is_number() => left
                .compare_numbers(right)
                .ok_or(Failure::from("NaN has no order")),
            (left, right) => Err(format!(
                "{} and {} have no order",
                left.described(),
                right.described()
            )
            .into()),
        }
    }
}

/// Equality of JSON where it stands; numbers by value.
fn json_equals(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| json_equals(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| {
                    right
                        .get(key)
                        .is_some_and(|other| json_equals(value, other))
                })
        }
        (Value::Number(_), Value::Number(_)) => Val::from(left).equals(&Val::from(right)),
        (left, right) => left == right,
    }
}

/// A double against an integer, exactly: 2^53 + 1 is not 2^53.
fn compare_double(left: f64, right: i128) -> Option<Ordering> {
    const BEYOND: f64 = 1e30;
    if left.is_nan() {
        return None;
    }
    if left.abs() > BEYOND {
        return Some(if left > 0.0 {
            Ordering::Greater
        } else {
            Ordering::Less
        });
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "within 1e30, and truncated first"
    )]
    let whole = left.trunc() as i128;
    Some(
        whole
            .cmp(&right)
            .then_with(|| left.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal)),
    )
}

/// `90s`, `1.5s`: as CEL and Protobuf's JSON print durations.
pub(super) fn duration_text(duration: SignedDuration) -> String {
    let nanoseconds = duration.subsec_nanos().unsigned_abs();
    let sign = if duration.is_negative() { "-" } else { "" };
    let seconds = duration.as_secs().unsigned_abs();
    if nanoseconds == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{nanoseconds:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

impl MapKey {
    /// # Errors
    /// Where a value cannot be a key of a map.
    pub(super) fn of(value: &Val<'_>) -> Result<Self, Failure> {
        match value {
            Val::Bool(bool) => Ok(Self::Bool(*bool)),
            Val::Text(text) => Ok(Self::Text(text.clone().into_owned())),
            Val::Int(_) | Val::Uint(_) => Ok(Self::Int(value.as_integer().unwrap_or_default())),
            Val::Double(double) if double.fract() == 0.0 && double.abs() < 9.0e18 => {
                #[allow(clippy::cast_possible_truncation, reason = "whole and within i64")]
                let whole = *double as i128;
                Ok(Self::Int(whole))
            }
            other => Err(format!("{} is no key of a map", other.described()).into()),
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Bool(bool) => bool.to_string(),
            Self::Int(int) => int.to_string(),
            Self::Text(text) => text,
        }
    }

    pub(super) fn to_val<'a>(&self) -> Val<'a> {
        match self {
            Self::Bool(bool) => Val::Bool(*bool),
            Self::Int(int) => i64::try_from(*int).map_or_else(
                |_| u64::try_from(*int).map_or(Val::Null, Val::Uint),
                Val::Int,
            ),
            Self::Text(text) => Val::text(text.as_str()),
        }
    }
}

/// The items of a list, wherever they are.
pub(super) enum Items<'a> {
    Json(&'a [Value]),
    Built(Arc<Vec<Val<'a>>>),
}

impl<'a> Items<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Json(items) => items.len(),
            Self::Built(items) => items.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Val<'a>> {
        match self {
            Self::Json(items) => items.get(index).map(Val::from),
            Self::Built(items) => items.get(index).cloned(),
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Val<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}
