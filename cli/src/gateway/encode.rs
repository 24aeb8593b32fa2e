//! From what people type to a record, in the formats of its source.

use crate::control::Ask;
use crate::error::Error;
use crate::gateway::now_ms;
use headwater_engine::config::{self, Format};
use headwater_engine::record::{NewRecord, Record};
use headwater_engine::source::Source;
use serde_json::Value;

/// A body as people type it, in the source's format.
pub(super) fn parse(source: &config::Source, body: &str) -> Result<Value, Error> {
    match source.format {
        Format::Text => Ok(Value::String(body.to_owned())),
        Format::Json => serde_json::from_str(body).map_err(|error| {
            Error::refused(format!(
                "source '{}' takes JSON, and this is none: {error}",
                source.name
            ))
        }),
    }
}

/// An event of a chat: the JSON given with the text as its field `text`, or the text alone.
pub(super) fn compose(source: &config::Source, ask: &Ask) -> Result<Value, Error> {
    match (source.format, &ask.with, &ask.text) {
        (Format::Text, _, Some(text)) => Ok(Value::String(text.clone())),
        (Format::Json, Value::Object(with), Some(text)) => {
            let mut event = with.clone();
            event.insert("text".to_owned(), Value::String(text.clone()));
            Ok(Value::Object(event))
        }
        (Format::Json, with, None) if !with.is_null() => Ok(with.clone()),
        (Format::Json, Value::Null, Some(text)) => Ok(serde_json::json!({ "text": text })),
        _ => Err(Error::refused(
            "--with takes a JSON object, e.g. --with '{\"customer_id\": \"c-1\"}'",
        )),
    }
}

/// The record of an event, its key from the source's expression where none is given.
pub(super) fn record(
    source: &config::Source,
    value: Option<&Value>,
    key: Option<&str>,
) -> Result<NewRecord, Error> {
    let bytes = value.map(|value| match (source.format, value) {
        (Format::Text, Value::String(text)) => text.clone().into_bytes(),
        _ => value.to_string().into_bytes(),
    });
    let mut record = NewRecord {
        topic: source.topic.clone(),
        key: key.map(|key| key_bytes(source, key)),
        value: bytes,
        ..NewRecord::default()
    };
    let compiled = Source::compile(source).map_err(|error| Error::refused(error.to_string()))?;
    let event = compiled.decode(&borrowed(&record)).map_err(|fault| {
        Error::refused(format!(
            "source '{}' does not take this event: {}: {}",
            source.name, fault.reason, fault.message
        ))
    })?;
    if record.key.is_none() {
        record.key = event
            .key
            .as_ref()
            .map(|key| key_bytes(source, key.as_str()));
    }
    Ok(record)
}

/// A key that is typed is text; where keys are JSON it is put in quotes unless it is JSON already.
pub(super) fn key_bytes(source: &config::Source, key: &str) -> Vec<u8> {
    match source.key_format {
        Format::Json if serde_json::from_str::<Value>(key).is_err() => {
            Value::String(key.to_owned()).to_string().into_bytes()
        }
        _ => key.as_bytes().to_vec(),
    }
}

/// The record as a stage would read it, from a place that no log has.
pub(super) fn borrowed(record: &NewRecord) -> Record<'_> {
    Record {
        topic: &record.topic,
        partition: 0,
        offset: 0,
        timestamp: record.timestamp.unwrap_or_else(now_ms),
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &[],
    }
}
