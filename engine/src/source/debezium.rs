//! The Debezium envelope, as JSON: a change of a database row, around the row.
//!
//! A value is `{op, before, after, source, ts_ms, ...}`, alone or as the `payload` beside its `schema`, as Kafka Connect's JSON converter
//! writes it with `schemas.enable`. Creation (`c`), snapshot (`r`) and update (`u`) give the row after the change, deletion (`d`) gives
//! none. A truncation (`t`) names no row and a logical message (`m`) has none: both are refused, as is what is no change event.
//! Keys are objects of the primary key's columns: of one column its value is the key, of several the list of them by name.
//!
//! Left to the caller: bytes, limits, the row's schema, and tombstones, which have no envelope.

use crate::fault::{Fault, Reason};
use serde_json::Value;

/// One change event without its envelope.
#[derive(Debug, PartialEq)]
pub(super) struct Change {
    /// The row after the change; null for a deletion.
    pub(super) row: Value,
    /// The row that a deletion took away, as far as the database logs it; null otherwise.
    pub(super) before: Value,
    /// `c`, `r`, `u` or `d`.
    pub(super) op: &'static str,
    /// When the database made the change, milliseconds since the epoch; `None` where the connector does not know.
    pub(super) time: Option<i64>,
}

impl Change {
    pub(super) fn deleted(&self) -> bool {
        self.op == "d"
    }
}

/// Takes the envelope off a value.
///
/// # Errors
/// `InvalidEnvelope`.
pub(super) fn open(value: Value) -> Result<Change, Fault> {
    let Value::Object(mut envelope) = payload(value) else {
        return Err(invalid(
            "the value is no change event: an object with `op` was expected",
        ));
    };
    let op = match envelope.get("op").and_then(Value::as_str) {
        Some("c") => "c",
        Some("r") => "r",
        Some("u") => "u",
        Some("d") => "d",
        Some("t") => {
            return Err(invalid(
                "the change is a truncation (`t`), which names no rows. Let the connector leave them out: skipped.operations",
            ));
        }
        Some("m") => {
            return Err(invalid(
                "the change is a logical message (`m`), which has no row",
            ));
        }
        Some(_) => return Err(invalid("`op` is none of c, r, u and d")),
        None => {
            return Err(invalid(
                "the value has no text `op`, so it is no change event. Is it a row without envelope? Then set envelope to None",
            ));
        }
    };
    let time = envelope
        .get("source")
        .and_then(|source| source.get("ts_ms"))
        .and_then(Value::as_i64)
        // What the connector does not know it writes as 0.
        .filter(|time| *time > 0);
    let mut take = |field: &str| envelope.remove(field).unwrap_or_default();
    let (row, before) = if op == "d" {
        (Value::Null, take("before"))
    } else {
        (take("after"), Value::Null)
    };
    if op != "d" && !row.is_object() {
        return Err(invalid(
            "`after` is no object: a change of `op` c, r or u needs the row",
        ));
    }
    if !before.is_object() && !before.is_null() {
        return Err(invalid("`before` is neither an object nor null"));
    }
    Ok(Change {
        row,
        before,
        op,
        time,
    })
}

/// What a source's expressions see as `key`: the columns of the primary key.
pub(super) fn open_key(key: Value) -> Value {
    payload(key)
}

/// The key of an event whose source says no other, of [`open_key`]'s columns.
pub(super) fn default_key(columns: &Value) -> Value {
    match columns {
        Value::Object(columns) if columns.len() == 1 => {
            columns.values().next().cloned().unwrap_or_default()
        }
        Value::Object(columns) => columns.values().cloned().collect(),
        other => other.clone(),
    }
}

/// Without the JSON converter's `{schema, payload}`.
fn payload(value: Value) -> Value {
    match value {
        Value::Object(mut object)
            if object.len() == 2
                && object.contains_key("schema")
                && object.contains_key("payload") =>
        {
            object.remove("payload").unwrap_or_default()
        }
        other => other,
    }
}

fn invalid(message: &str) -> Fault {
    Fault::new(Reason::InvalidEnvelope, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::key::Key;
    use crate::record::Record;
    use crate::source::{Event, Source};
    use serde_json::json;

    const TIMESTAMP: i64 = 1_700_000_000_900;

    fn source(more: Value) -> Source {
        let mut config = json!({
            "name": "customers", "topic": "shop.public.customers", "format": "Json", "keyFormat": "Json", "envelope": "Debezium",
            "schema": null, "key": null, "eventTime": null, "invalidRecords": "DeadLetter",
        });
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let config: config::Source = serde_json::from_value(config).unwrap();
        Source::compile(&config).unwrap_or_else(|error| panic!("{error}"))
    }

    fn decode(source: &Source, key: &Value, value: Option<&Value>) -> Result<Event, Fault> {
        let (key, value) = (key.to_string(), value.map(ToString::to_string));
        source.decode(&Record {
            topic: "shop.public.customers",
            partition: 0,
            offset: 3,
            timestamp: TIMESTAMP,
            key: Some(key.as_bytes()),
            value: value.as_deref().map(str::as_bytes),
            headers: &[],
        })
    }

    /// As the PostgreSQL connector of Debezium 3 writes it, with `schemas.enable: false`.
    fn postgres(op: &str, before: Value, after: Value) -> Value {
        json!({
            "before": before,
            "after": after,
            "source": {
                "version": "3.0.4.Final", "connector": "postgresql", "name": "shop", "ts_ms": 1_700_000_000_123i64, "snapshot": "false",
                "db": "shop", "sequence": "[\"24023119\",\"24023128\"]", "ts_us": 1_700_000_000_123_456i64, "ts_ns": 1_700_000_000_123_456_000i64,
                "schema": "public", "table": "customers", "txId": 555, "lsn": 24_023_128, "xmin": null
            },
            "transaction": null,
            "op": op,
            "ts_ms": 1_700_000_000_789i64, "ts_us": 1_700_000_000_789_012i64, "ts_ns": 1_700_000_000_789_012_345i64
        })
    }

    /// As the MySQL connector of Debezium 2 writes it, with `schemas.enable: true`.
    fn mysql(op: &str, before: Value, after: Value) -> Value {
        let row = |field: &str| {
            json!({"type": "struct", "optional": true, "name": "shop.shop.customers.Value", "field": field, "fields": [
                {"type": "int32", "optional": false, "field": "id"},
                {"type": "string", "optional": false, "field": "name"},
            ]})
        };
        json!({
            "schema": {
                "type": "struct", "optional": false, "name": "shop.shop.customers.Envelope", "version": 1,
                "fields": [row("before"), row("after"), {"type": "string", "optional": false, "field": "op"}]
            },
            "payload": {
                "before": before,
                "after": after,
                "source": {
                    "version": "2.7.3.Final", "connector": "mysql", "name": "shop", "ts_ms": 1_700_000_000_000i64, "snapshot": "false",
                    "db": "shop", "sequence": null, "table": "customers", "server_id": 223_344, "gtid": null, "file": "mysql-bin.000003",
                    "pos": 484, "row": 0, "thread": 7, "query": null
                },
                "transaction": null,
                "op": op,
                "ts_ms": 1_700_000_000_250i64
            }
        })
    }

    fn key(text: &str) -> Option<Key> {
        Key::from_text(text).unwrap()
    }

    #[test]
    fn creation_snapshot_and_update_give_the_row_after() {
        let row = json!({"id": 7, "name": "Ada"});
        let source = source(json!({}));
        for op in ["c", "r", "u"] {
            let bare = decode(
                &source,
                &json!({"id": 7}),
                Some(&postgres(op, Value::Null, row.clone())),
            )
            .unwrap();
            assert_eq!((&bare.value, bare.null), (&row, false), "{op}");
            assert_eq!(bare.headers["op"], json!(op));
            assert_eq!(bare.time, 1_700_000_000_123);
            assert_eq!(bare.key, key("7"));
            let key_with_schema = json!({
                "schema": {"type": "struct", "fields": [{"type": "int32", "optional": false, "field": "id"}], "optional": false, "name": "shop.shop.customers.Key"},
                "payload": {"id": 7}
            });
            let before = json!({"id": 7, "name": "ada"});
            let wrapped = decode(
                &source,
                &key_with_schema,
                Some(&mysql(op, before, row.clone())),
            )
            .unwrap();
            assert_eq!(
                (&wrapped.value, wrapped.null, wrapped.key),
                (&row, false, key("7")),
                "{op}"
            );
            assert_eq!(wrapped.time, 1_700_000_000_000);
            assert_eq!(wrapped.before, Value::Null);
        }
    }

    #[test]
    fn a_deletion_and_the_tombstone_after_it_are_deletes() {
        let source = source(json!({}));
        let before = json!({"id": 7, "name": "Ada"});
        for value in [
            postgres("d", before.clone(), Value::Null),
            mysql("d", before.clone(), Value::Null),
        ] {
            let deleted = decode(&source, &json!({"id": 7}), Some(&value)).unwrap();
            assert!(deleted.null && deleted.value.is_null());
            assert_eq!((deleted.key, deleted.before), (key("7"), before.clone()));
            assert_eq!(deleted.headers["op"], json!("d"));
        }
        let tombstone = decode(&source, &json!({"id": 7}), None).unwrap();
        assert!(tombstone.null && tombstone.before.is_null());
        assert_eq!((tombstone.key, tombstone.time), (key("7"), TIMESTAMP));
        assert_eq!(tombstone.headers["op"], Value::Null);
    }

    #[test]
    fn keys_are_the_columns_of_the_primary_key() {
        let row = json!({"id": 7, "shop": "north", "email": "a@b"});
        let change = postgres("u", Value::Null, row);
        let of = |more: Value, key: Value| decode(&source(more), &key, Some(&change)).unwrap().key;
        // Of several columns the list, by name, whatever the order in the key.
        assert_eq!(
            of(json!({}), json!({"shop": "north", "id": 7})),
            key(r#"["7","north"]"#)
        );
        assert_eq!(
            of(
                json!({"key": "[key.shop, key.id]"}),
                json!({"id": 7, "shop": "north"})
            ),
            key(r#"["north","7"]"#)
        );
        assert_eq!(
            of(json!({"key": "event.email"}), json!({"id": 7})),
            key("a@b")
        );
        // A connector that writes plain keys.
        assert_eq!(of(json!({"keyFormat": "Text"}), json!(7)), key("7"));
        // A table without a primary key has none.
        assert_eq!(of(json!({}), Value::Null), None);
    }

    #[test]
    fn a_key_of_the_row_is_for_a_deletion_that_of_the_row_before() {
        let source = source(json!({"key": "event.email"}));
        let full = json!({"id": 7, "email": "a@b"});
        let deleted = decode(
            &source,
            &json!({"id": 7}),
            Some(&postgres("d", full, Value::Null)),
        )
        .unwrap();
        assert_eq!(deleted.key, key("a@b"));
        // PostgreSQL's default replica identity logs the primary key alone.
        let poor = json!({"id": 7, "email": null});
        let deleted = decode(
            &source,
            &json!({"id": 7}),
            Some(&postgres("d", poor, Value::Null)),
        )
        .unwrap();
        assert_eq!(deleted.key, None);
        let nothing = decode(
            &source,
            &json!({"id": 7}),
            Some(&postgres("d", Value::Null, Value::Null)),
        )
        .unwrap();
        assert_eq!(nothing.key, key("7"));
    }

    #[test]
    fn the_schema_is_the_rows_and_the_time_may_be_the_rows_too() {
        let source = source(json!({
            "schema": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}, "credit": {"type": "number"}, "at": {"type": "integer"}}},
            "eventTime": "timestampMillis(event.at)",
        }));
        let row = json!({"id": 7, "credit": 5, "at": 1_700_000_000_500i64});
        let event = decode(
            &source,
            &json!({"id": 7}),
            Some(&postgres("u", Value::Null, row.clone())),
        )
        .unwrap();
        assert_eq!(event.time, 1_700_000_000_500);
        assert_eq!(event.value["credit"], json!(5.0));
        let bad = decode(
            &source,
            &json!({"id": 7}),
            Some(&postgres("u", Value::Null, json!({"id": "x"}))),
        )
        .unwrap_err();
        assert_eq!(bad.reason, Reason::SchemaMismatch);
        // What the database logs of a row that is gone need not fit, and its fields are not the time it went.
        let gone = decode(
            &source,
            &json!({"id": 7}),
            Some(&postgres("d", json!({"credit": 5}), Value::Null)),
        )
        .unwrap();
        assert_eq!(
            (gone.time, &gone.before["credit"]),
            (1_700_000_000_123, &json!(5.0))
        );
        // A clock of the database that is far ahead would expire all else.
        let mut ahead = postgres("u", Value::Null, row);
        ahead["after"]["at"] = json!(TIMESTAMP + 3_600_001);
        let fault = decode(&source, &json!({"id": 7}), Some(&ahead)).unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidEventTime);
    }

    #[test]
    fn a_time_that_the_connector_does_not_know_is_the_records() {
        let source = source(json!({}));
        let mut snapshot = postgres("r", Value::Null, json!({"id": 7}));
        for time in [json!(0), Value::Null, json!("soon")] {
            snapshot["source"]["ts_ms"] = time;
            let event = decode(&source, &json!({"id": 7}), Some(&snapshot)).unwrap();
            assert_eq!(event.time, TIMESTAMP);
        }
        snapshot["source"]["ts_ms"] = json!(TIMESTAMP + 3_600_001);
        let fault = decode(&source, &json!({"id": 7}), Some(&snapshot)).unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidEventTime);
    }

    #[test]
    fn what_is_no_change_of_a_row_is_a_fault_that_says_so() {
        let source = source(json!({}));
        let row = json!({"id": 7, "name": "s3cret"});
        let mut message = postgres("m", Value::Null, Value::Null);
        message["message"] = json!({"prefix": "p", "content": "czNjcmV0"});
        for (value, says) in [
            (postgres("t", Value::Null, Value::Null), "truncation"),
            (message, "logical message"),
            (
                postgres("s3cret", Value::Null, row.clone()),
                "none of c, r, u and d",
            ),
            (
                postgres("u", row.clone(), Value::Null),
                "`after` is no object",
            ),
            (
                postgres("u", Value::Null, json!("{\"_id\": 1}")),
                "`after` is no object",
            ),
            (
                postgres("d", json!("s3cret"), Value::Null),
                "`before` is neither",
            ),
            (row, "Is it a row without envelope?"),
            (json!({"schema": null, "payload": null}), "no change event"),
            (json!([1]), "no change event"),
            (json!({"op": 1}), "no text `op`"),
        ] {
            let fault = decode(&source, &json!({"id": 7}), Some(&value)).unwrap_err();
            assert_eq!(fault.reason, Reason::InvalidEnvelope, "{value}");
            assert!(fault.message.contains(says), "{fault}");
            assert!(!fault.message.contains("s3cret"), "{fault}");
        }
        let fault = source
            .decode(&Record {
                topic: "shop.public.customers",
                partition: 0,
                offset: 0,
                timestamp: 0,
                key: Some(br#"{"id":7}"#),
                value: Some(b"{"),
                headers: &[],
            })
            .unwrap_err();
        assert_eq!(fault.reason, Reason::NotJson);
    }
}
