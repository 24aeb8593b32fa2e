//! From a record to an event: value, key, headers, time, and where it came from.
//!
//! Everybody who reads a source decodes it here, so that views, triggers and replay see the same event.
//! A record that does not decode is a [`Fault`]; what happens to it is the reader's, by the source's
//! `invalidRecords`.

mod debezium;
mod lent;

pub use lent::Lent;

use crate::config;
use crate::expr::{Expression, Names, Shape, Variable, Variables, Wanted};
use crate::fault::{Fault, Reason};
use crate::json;
use crate::key::Key;
use crate::names::header;
use crate::problem::{CompileError, reason};
use crate::record::{Position, Record};
use crate::schema::Schema;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// How far an event time may be past its record's timestamp: further, and it would expire all else.
pub const AHEAD_MS_MAX: i64 = 3_600_000;
/// The times that a calendar of four digits holds, in milliseconds.
const TIME_MS: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// One event: a decoded record. The variables `event`, `key`, `headers` and `time` of expressions.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Null for a delete.
    pub value: Value,
    /// Whether the record is a delete: a value that is JSON's null is none.
    pub null: bool,
    /// The row that a delete took away, where its envelope says it; else null.
    pub before: Value,
    pub key: Option<Key>,
    /// An object of texts.
    pub headers: Value,
    /// Milliseconds since the epoch.
    pub time: i64,
    pub position: Position,
    /// The first event of the chain; its own position if no agent wrote it.
    pub root: Position,
    /// How many agents the chain has passed through.
    pub hops: u32,
    /// The value before the change that this is; absent where it is none. The variable `previous`.
    pub previous: Option<Value>,
    /// The row that a run was started for, with `_key`; absent where there is none. The variable `match`.
    pub row: Option<Value>,
}

impl Variables for Event {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        Some(match name {
            "event" => Variable::Json(&self.value),
            "key" => match &self.key {
                Some(key) => Variable::Text(key.as_str()),
                None => Variable::Null,
            },
            "headers" => Variable::Json(&self.headers),
            "time" => Variable::Timestamp(self.time),
            "previous" => Variable::Json(self.previous.as_ref()?),
            "match" => Variable::Json(self.row.as_ref()?),
            _ => return None,
        })
    }
}

/// What a source's own expressions see: the key as it was decoded.
struct Decoded<'a> {
    event: &'a Value,
    key: &'a Value,
    headers: &'a Value,
    time: i64,
}

impl Variables for Decoded<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        Some(match name {
            "event" => Variable::Json(self.event),
            "key" => Variable::Json(self.key),
            "headers" => Variable::Json(self.headers),
            "time" => Variable::Timestamp(self.time),
            _ => return None,
        })
    }
}

/// A source, ready to decode. Shared between threads.
#[derive(Debug)]
pub struct Source {
    name: String,
    topic: Arc<str>,
    format: config::Format,
    key_format: config::Format,
    envelope: config::Envelope,
    schema: Option<Schema>,
    shape: Shape,
    lending: lent::Lending,
    /// SHA-256 of the configuration: what decodes alike has the same.
    identity: [u8; 32],
    key: Option<Expression>,
    event_time: Option<Expression>,
    invalid_records: config::InvalidRecords,
}

impl Source {
    /// Compiles schema and expressions; paths of problems are those of an EventSource's spec.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn compile(config: &config::Source) -> Result<Self, CompileError> {
        let mut problems = CompileError::default();
        if config.envelope == config::Envelope::Debezium && config.format == config::Format::Text {
            problems.add(
                "spec.envelope",
                reason::INVALID_SPEC,
                "a Debezium envelope is an object: set format to Json",
            );
        }
        let shape = shape_of(config);
        let schema = config.schema.as_ref().and_then(|schema| {
            let compiled = Schema::compile(schema);
            problems.take("spec.schema", reason::INVALID_SCHEMA, compiled)
        });
        let own = Names::new(&["key", "headers"])
            .shape("event", shape.clone())
            .shape("time", Shape::Timestamp);
        let mut expression = |path: &str, text: &Option<String>, wanted| {
            text.as_ref().and_then(|text| {
                let compiled = Expression::compile_for(text, &own, wanted);
                problems.take(path, reason::INVALID_EXPRESSION, compiled)
            })
        };
        let key = expression("spec.key", &config.key, Wanted::Key);
        let event_time = expression("spec.eventTime", &config.event_time, Wanted::Time);
        problems.finish()?;
        let mut lending = lent::Lending::of(&key, &event_time);
        lending.plain = config.format == config::Format::Json
            && config.key_format == config::Format::Text
            && config.envelope == config::Envelope::None
            && schema.is_none();
        // A configuration always has a JSON form.
        let identity = Sha256::digest(serde_json::to_vec(config).unwrap_or_default()).into();
        Ok(Self {
            lending,
            identity,
            name: config.name.clone(),
            topic: config.topic.as_str().into(),
            format: config.format,
            key_format: config.key_format,
            envelope: config.envelope,
            schema,
            shape,
            key,
            event_time,
            invalid_records: config.invalid_records,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn invalid_records(&self) -> config::InvalidRecords {
        self.invalid_records
    }

    /// What is known of `event`.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The variables of an event of this source, as `from` and agents see them.
    pub fn names(&self) -> Names {
        Names::new(&["headers"])
            .shape("event", self.shape.clone())
            .shape("key", Shape::Any)
            .shape("time", Shape::Timestamp)
    }

    /// Whether an event's key is its record's key: the topic is partitioned by it.
    pub fn key_is_record_key(&self) -> bool {
        self.key.is_none() && self.key_format == config::Format::Text
    }

    /// # Errors
    /// A fault for a record that is not valid: see [`Reason`].
    pub fn decode(&self, record: &Record<'_>) -> Result<Event, Fault> {
        let Opened {
            value,
            null,
            before,
            op,
            time: default_time,
        } = self.open(record)?;
        let mut headers = headers_of(record);
        if let Some(op) = op
            && let Value::Object(headers) = &mut headers
        {
            headers.insert("op".to_owned(), op);
        }
        // A delete has no fields; its key can be that of the row that it took away.
        let row = if null { &before } else { &value };
        let unknown = null && row.is_null();
        let reads_row = |expression: &Expression| !(unknown && expression.reads("event"));
        let needs_record_key = match &self.key {
            None => true,
            Some(key) => key.reads("key") || !reads_row(key),
        } || self
            .event_time
            .as_ref()
            .is_some_and(|time| time.reads("key"));
        let record_key = if needs_record_key {
            self.decode_key(record.key)?
        } else {
            Value::Null
        };
        let decoded = Decoded {
            event: row,
            key: &record_key,
            headers: &headers,
            time: default_time,
        };
        let time = match &self.event_time {
            // The time of a delete is not a field of the row that it took away.
            Some(expression) if !(null && expression.reads("event")) => {
                expression.timestamp_ms(&decoded)?
            }
            _ => default_time,
        };
        if self.event_time.is_some() || time != record.timestamp {
            check_time(time, record.timestamp)?;
        }
        let key = match &self.key {
            Some(expression) if reads_row(expression) => expression.key(&decoded)?,
            _ if self.envelope == config::Envelope::Debezium => {
                Key::from_json(&debezium::default_key(&record_key))?
            }
            _ => Key::from_json(&record_key)?,
        };
        let position = self.position(record);
        Ok(Event {
            null,
            before,
            key,
            time,
            root: header_text(record, header::ROOT)
                .and_then(|root| root.parse().ok())
                .unwrap_or_else(|| position.clone()),
            hops: header_text(record, header::HOPS)
                .and_then(|hops| hops.parse().ok())
                .unwrap_or(0),
            position,
            headers,
            value,
            previous: None,
            row: None,
        })
    }

    /// Shares the topic's name between all events of it.
    fn position(&self, record: &Record<'_>) -> Position {
        let topic = if record.topic == &*self.topic {
            Arc::clone(&self.topic)
        } else {
            record.topic.into()
        };
        Position {
            topic,
            partition: record.partition,
            offset: record.offset,
        }
    }

    /// The record's value without its envelope.
    fn open(&self, record: &Record<'_>) -> Result<Opened, Fault> {
        let debezium = self.envelope == config::Envelope::Debezium;
        let mut opened = Opened {
            value: Value::Null,
            null: true,
            before: Value::Null,
            // A tombstone has no operation, but whoever asks for it need not fail.
            op: debezium.then_some(Value::Null),
            time: record.timestamp,
        };
        let Some(bytes) = record.value else {
            return Ok(opened);
        };
        let value = self.parse(bytes)?;
        if !debezium {
            opened.value = self.conform(value)?;
            opened.null = false;
            return Ok(opened);
        }
        let change = debezium::open(value)?;
        opened.null = change.deleted();
        opened.op = Some(Value::from(change.op));
        opened.time = change.time.unwrap_or(record.timestamp);
        if opened.null {
            // As much of the row as the database logged: its schema is not asked of it.
            opened.before = change.before;
            if let Some(schema) = &self.schema {
                schema.widen(&mut opened.before);
            }
        } else {
            opened.value = self.conform(change.row)?;
        }
        Ok(opened)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Value, Fault> {
        match self.format {
            config::Format::Text => Ok(Value::String(json::decode_text(bytes)?.to_owned())),
            config::Format::Json => json::decode(bytes),
        }
    }

    /// The event as its schema has it.
    fn conform(&self, value: Value) -> Result<Value, Fault> {
        match &self.schema {
            Some(schema) => schema.conform(value),
            None => Ok(value),
        }
    }

    fn decode_key(&self, key: Option<&[u8]>) -> Result<Value, Fault> {
        let Some(bytes) = key else {
            return Ok(Value::Null);
        };
        match self.key_format {
            config::Format::Text => Ok(match Key::from_bytes(bytes)? {
                Some(key) => Value::String(key.as_str().to_owned()),
                None => Value::Null,
            }),
            config::Format::Json => {
                let key = json::decode(bytes).map_err(|fault| fault.at("key"))?;
                Ok(match self.envelope {
                    config::Envelope::None => key,
                    config::Envelope::Debezium => debezium::open_key(key),
                })
            }
        }
    }
}

/// A record's value without its envelope, and what the envelope said.
struct Opened {
    value: Value,
    null: bool,
    before: Value,
    /// What `headers.op` is; `None` where there is no envelope.
    op: Option<Value>,
    /// The event time of a source that does not say another.
    time: i64,
}

fn shape_of(config: &config::Source) -> Shape {
    match (&config.schema, config.format) {
        (Some(schema), _) => Shape::of_schema(schema),
        (None, config::Format::Text) => Shape::Text,
        (None, config::Format::Json) => Shape::Any,
    }
}

/// An event time has to be one that a calendar holds, and at most an hour past the record's timestamp.
fn check_time(time: i64, timestamp: i64) -> Result<(), Fault> {
    if !TIME_MS.contains(&time) {
        return Err(Fault::new(
            Reason::InvalidEventTime,
            "the event time is beyond the years 1 to 9999",
        ));
    }
    let ahead = time.saturating_sub(timestamp);
    if ahead > AHEAD_MS_MAX {
        return Err(Fault::new(
            Reason::InvalidEventTime,
            format!(
                "the event time is {} s past the record's timestamp, the limit is an hour",
                ahead / 1_000
            ),
        ));
    }
    Ok(())
}

/// Headers as an object of texts; of the same name the last counts.
pub(crate) fn headers_of(record: &Record<'_>) -> Value {
    Value::Object(
        record
            .headers
            .iter()
            .map(|(name, value)| {
                let value = value.map_or(Value::Null, |value| {
                    Value::String(String::from_utf8_lossy(value).into_owned())
                });
                ((*name).to_owned(), value)
            })
            .collect::<Map<_, _>>(),
    )
}

pub(crate) fn header_text<'a>(record: &'a Record<'_>, name: &str) -> Option<&'a str> {
    record
        .header(name)
        .and_then(|value| std::str::from_utf8(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> config::Source {
        config::Source {
            name: "flights".into(),
            topic: "shop.flights".into(),
            format: config::Format::Json,
            key_format: config::Format::Text,
            envelope: config::Envelope::None,
            schema: None,
            key: None,
            event_time: None,
            invalid_records: config::InvalidRecords::DeadLetter,
        }
    }

    fn record<'a>(value: Option<&'a [u8]>) -> Record<'a> {
        Record {
            topic: "shop.flights",
            partition: 0,
            offset: 5,
            timestamp: 10_000_000,
            key: Some(b"k"),
            value,
            headers: &[],
        }
    }

    #[test]
    fn an_event_has_value_key_headers_time_and_origin() {
        let source = Source::compile(&config::Source {
            key: Some("event.id".into()),
            event_time: Some("timestampMillis(event.at)".into()),
            ..config()
        })
        .unwrap();
        let headers = [
            ("a", Some(b"1".as_slice())),
            ("a", Some(b"2".as_slice())),
            (header::ROOT, Some(b"x-y-1-2".as_slice())),
            (header::HOPS, Some(b"3".as_slice())),
        ];
        let event = source
            .decode(&Record {
                headers: &headers,
                ..record(Some(br#"{"id":7,"at":9000000}"#))
            })
            .unwrap();
        assert_eq!(event.key, Key::from_text("7").unwrap());
        assert_eq!(event.time, 9_000_000);
        assert_eq!(event.headers["a"], json!("2"));
        assert_eq!(event.root.to_string(), "x-y-1-2");
        assert_eq!(
            (event.hops, event.position.to_string().as_str()),
            (3, "shop.flights-0-5")
        );

        // A delete has its record's key and timestamp where the expressions read `event`.
        let delete = source.decode(&record(None)).unwrap();
        assert!(delete.null && delete.value.is_null());
        assert_eq!(delete.key, Key::from_text("k").unwrap());
        assert_eq!(delete.time, 10_000_000);
    }

    #[test]
    fn bad_records_are_faults_with_a_reason() {
        let schema = json!({"type": "object", "required": ["id"], "additionalProperties": false,
            "properties": {"id": {"type": "string", "pattern": "^[a-z]+$"}, "n": {"type": "integer"}, "at": {}}});
        let source = |key: Option<&str>, time: Option<&str>, with_schema: bool| {
            Source::compile(&config::Source {
                key: key.map(Into::into),
                event_time: time.map(Into::into),
                schema: with_schema.then(|| schema.clone()),
                ..config()
            })
            .unwrap_or_else(|error| panic!("{error}"))
        };
        for (source, value, reason, message) in [
            (
                source(None, None, false),
                "{",
                Reason::NotJson,
                "line 1 column 1",
            ),
            (
                source(None, None, true),
                r#"{"s3cret":1}"#,
                Reason::SchemaMismatch,
                "",
            ),
            (
                source(None, None, true),
                r#"{"id":"a","s3cret":1}"#,
                Reason::SchemaMismatch,
                "the value: has 1 fields that the schema does not allow",
            ),
            (
                source(None, None, true),
                r#"{"id":"S3CRET"}"#,
                Reason::SchemaMismatch,
                "`/id`: value does not match",
            ),
            (
                source(None, None, true),
                r#"{"id":"a","n":"s3cret"}"#,
                Reason::SchemaMismatch,
                "`/n`: value is not of type",
            ),
            (
                source(Some("event.id"), None, false),
                r#"{"id":1.5}"#,
                Reason::InvalidKey,
                "`event.id`: a key is a double",
            ),
            (
                source(Some("event.id"), None, false),
                r#"{}"#,
                Reason::AbsentField,
                "`event` has no field `id`",
            ),
            (
                source(None, Some("timestamp(event.at)"), false),
                r#"{"at":"s3cret"}"#,
                Reason::ExpressionFailed,
                "RFC 3339",
            ),
            (
                source(None, Some("event.at"), false),
                r#"{"at":13600001}"#,
                Reason::InvalidEventTime,
                "3600 s past",
            ),
            (
                source(None, Some("event.at"), false),
                r#"{"at":-999999999999999}"#,
                Reason::InvalidEventTime,
                "years 1 to 9999",
            ),
        ] {
            let fault = source.decode(&record(Some(value.as_bytes()))).unwrap_err();
            assert_eq!(fault.reason, reason, "{value}: {fault}");
            assert!(fault.message.contains(message), "{value}: {fault}");
            assert!(!fault.message.to_lowercase().contains("s3cret"), "{fault}");
        }
        let plain = source(None, None, false);
        let with_key = |key| Record {
            key: Some(key),
            ..record(Some(b"1"))
        };
        assert_eq!(
            plain.decode(&with_key(b"\xff")).unwrap_err().reason,
            Reason::InvalidKey
        );
        assert_eq!(
            plain.decode(&with_key(b"\0m")).unwrap_err().reason,
            Reason::ReservedKey
        );
        assert!(
            source(None, Some("event.at"), false)
                .decode(&record(Some(br#"{"at":13600000}"#)))
                .is_ok()
        );
    }

    #[test]
    fn semantics_2_an_empty_key_is_none() {
        let source = Source::compile(&config()).unwrap();
        let event = source
            .decode(&Record {
                key: Some(b""),
                ..record(Some(b"1"))
            })
            .unwrap();
        assert_eq!(event.key, None);
    }

    #[test]
    fn semantics_3_a_number_of_a_schema_is_a_double() {
        let source = Source::compile(&config::Source {
            schema: Some(json!({"type": "object", "properties": {
                "price": {"type": "number"}, "seats": {"type": "integer"},
                "legs": {"type": "array", "items": {"type": "object", "properties": {"fare": {"type": "number"}}}}}})),
            ..config()
        })
        .unwrap();
        let event = source
            .decode(&record(Some(
                br#"{"price":7,"seats":7,"legs":[{"fare":1},{"fare":1.5}]}"#,
            )))
            .unwrap();
        assert_eq!(
            event.value.to_string(),
            r#"{"legs":[{"fare":1.0},{"fare":1.5}],"price":7.0,"seats":7}"#
        );
    }

    #[test]
    fn text_and_json_keys_are_formats() {
        let text = Source::compile(&config::Source {
            format: config::Format::Text,
            ..config()
        })
        .unwrap();
        assert_eq!(
            text.decode(&record(Some(b"hello"))).unwrap().value,
            json!("hello")
        );
        assert_eq!(
            text.decode(&record(Some(b"\xff"))).unwrap_err().reason,
            Reason::NotUtf8
        );
        let keyed = Source::compile(&config::Source {
            key_format: config::Format::Json,
            key: Some("key.id".into()),
            ..config()
        })
        .unwrap();
        let event = keyed
            .decode(&Record {
                key: Some(br#"{"id":["a",1]}"#),
                ..record(Some(b"1"))
            })
            .unwrap();
        assert_eq!(event.key, Key::from_text(r#"["a","1"]"#).unwrap());
        assert!(!keyed.key_is_record_key());
    }

    #[test]
    fn what_cannot_work_is_said_at_its_place() {
        let error = Source::compile(&config::Source {
            schema: Some(json!({"type": "object", "properties": {"id": {"type": "nonsense"}}})),
            key: Some("event.idd".into()),
            event_time: Some("'2026'".into()),
            ..config()
        })
        .unwrap_err();
        let paths: Vec<&str> = error
            .problems
            .iter()
            .map(|problem| problem.path.as_str())
            .collect();
        assert_eq!(paths, ["spec.schema", "spec.key", "spec.eventTime"]);
        let large = Source::compile(&config::Source {
            schema: Some(
                json!({"type": "object", "description": "x".repeat(crate::schema::BYTES_MAX)}),
            ),
            ..config()
        });
        assert!(
            large
                .unwrap_err()
                .to_string()
                .contains("the limit is 16384")
        );
        let remote = Source::compile(&config::Source {
            schema: Some(json!({"$ref": "http://example.invalid/schema.json"})),
            ..config()
        });
        assert_eq!(remote.unwrap_err().problems[0].path, "spec.schema");
    }
}
