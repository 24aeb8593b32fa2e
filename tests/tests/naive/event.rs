//! From a source's record to what it does to a key.

use super::{Change, Fault, Maybe, Origin, Raw};
use serde_json::Value;

const HOUR_MS: i64 = 3_600_000;

/// A decoded record.
#[derive(Clone, Debug)]
pub struct Event {
    pub key: Option<String>,
    pub value: Value,
    /// The record had no value: a tombstone.
    pub null: bool,
    pub time: i64,
}

/// An expression: its CEL text, and the same as a closure.
pub struct Expression<T> {
    pub text: &'static str,
    pub reads_event: bool,
    pub call: fn(&Event) -> Maybe<T>,
}

impl<T> Clone for Expression<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Expression<T> {}

/// A JSON source whose keys are text.
#[derive(Clone, Copy, Default)]
pub struct Source {
    pub key: Option<Expression<Value>>,
    pub event_time: Option<Expression<i64>>,
}

/// One entry of a view's `from`.
#[derive(Clone, Copy, Default)]
pub struct Entry {
    pub filter: Option<Expression<bool>>,
    pub key: Option<Expression<Value>>,
    pub value: Option<Expression<Value>>,
    pub delete: Option<Expression<bool>>,
    pub required: bool,
}

/// How the fold takes what is not plainly a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taste {
    /// A tombstone deletes its key.
    Latest,
    /// As `Latest`, and every value has to be an object.
    Fields,
    /// Tombstones are ignored.
    Events,
}

impl Source {
    pub fn decode(&self, raw: &Raw) -> Maybe<Event> {
        let record_key = raw
            .key
            .as_ref()
            .map(|bytes| String::from_utf8(bytes.clone()).map_err(|_| Fault));
        let (value, null) = match &raw.value {
            Some(bytes) => (serde_json::from_slice(bytes).map_err(|_| Fault)?, false),
            None => (Value::Null, true),
        };
        let mut event = Event {
            key: None,
            value,
            null,
            time: raw.timestamp,
        };
        // A tombstone has no fields: its time and key are the record's.
        if let Some(time) = self.event_time.filter(|_| !null) {
            event.time = (time.call)(&event)?;
            if event.time - raw.timestamp > HOUR_MS {
                return Err(Fault);
            }
        }
        event.key = match self.key.filter(|_| !null) {
            Some(key) => key_text(&(key.call)(&event)?)?,
            None => match record_key.transpose()? {
                Some(text) => key_text(&Value::String(text))?,
                None => None,
            },
        };
        Ok(event)
    }
}

impl Entry {
    /// What a record does; `None`: nothing.
    pub fn project(
        &self,
        source: &Source,
        taste: Taste,
        from: u32,
        raw: &Raw,
    ) -> Maybe<Option<Change>> {
        let event = source.decode(raw)?;
        if event.null {
            if taste == Taste::Events || self.key.is_some_and(|key| key.reads_event) {
                return Ok(None);
            }
        } else if let Some(filter) = self.filter
            && !(filter.call)(&event)?
        {
            return Ok(None);
        }
        let key = match self.key {
            Some(key) => key_text(&(key.call)(&event)?)?,
            None => event.key.clone(),
        }
        .ok_or(Fault)?;
        let dropped = event.null
            || match self.delete {
                Some(delete) => (delete.call)(&event)?,
                None => false,
            };
        let value = match self.value {
            _ if dropped => None,
            Some(value) => Some((value.call)(&event)?),
            None => Some(event.value.clone()),
        };
        if taste == Taste::Fields && value.as_ref().is_some_and(|value| !value.is_object()) {
            return Err(Fault);
        }
        Ok(Some(Change {
            key,
            value,
            time: event.time,
            origin: Origin {
                from,
                partition: raw.partition,
                offset: raw.offset,
            },
        }))
    }
}

/// The text of a key; null and the empty text are no key.
pub fn key_text(value: &Value) -> Maybe<Option<String>> {
    let scalar = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(bool) => Ok(bool.to_string()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        _ => Err(Fault),
    };
    let text = match value {
        Value::Null => return Ok(None),
        Value::Array(parts) if parts.is_empty() => return Err(Fault),
        Value::Array(parts) => {
            let texts: Vec<String> = parts.iter().map(scalar).collect::<Maybe<_>>()?;
            serde_json::to_string(&texts).unwrap()
        }
        other => scalar(other)?,
    };
    if text.starts_with('\0') {
        return Err(Fault);
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A field of an object, as CEL finds it.
pub fn field<'a>(value: &'a Value, name: &str) -> Maybe<&'a Value> {
    value.as_object().and_then(|it| it.get(name)).ok_or(Fault)
}
