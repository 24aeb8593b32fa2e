//! Records that nobody would send on purpose: each has the outcome that docs/semantics.md states.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use headwater_engine::config;
use headwater_engine::fault::Reason;
use headwater_engine::key::Key;
use headwater_engine::record::Record;
use headwater_engine::view::{Definition, View};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const TIMESTAMP: i64 = 1_700_000_000_000;

fn view(source: &Value, value: Option<&str>) -> View {
    let mut full = json!({
        "name": "s", "topic": "t", "format": "Json", "keyFormat": "Text", "schema": null, "key": null,
        "eventTime": null, "invalidRecords": "DeadLetter",
    });
    full.as_object_mut()
        .unwrap()
        .extend(source.as_object().unwrap().clone());
    let source: config::Source = serde_json::from_value(full).unwrap();
    let view: config::View = serde_json::from_value(json!({
        "name": "v", "generation": "000000", "fold": {"latest": {"merge": "Replace"}}, "indexes": [],
        "from": [{"name": "s", "source": "s", "filter": null, "key": null, "value": value, "delete": null, "required": false}],
        "input": {"source": {"topic": "t"}}, "stateTopic": "state", "deadTopic": "dead",
    }))
    .unwrap();
    let sources = BTreeMap::from([("s".to_owned(), source)]);
    View::new(Definition::compile(&view, &sources).unwrap())
}

fn fold(view: &mut View, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Reason> {
    let offset = view.partition_mut(0).next();
    let folded = view.partition_mut(0).fold(&Record {
        topic: "t",
        partition: 0,
        offset,
        timestamp: TIMESTAMP,
        key,
        value,
        headers: &[],
    });
    // Whatever it is, it is done with.
    assert_eq!(view.partition_mut(0).next(), offset + 1);
    match folded.fault {
        None => Ok(()),
        Some(fault) => {
            assert!(!folded.changed);
            assert!(!fault.message.contains("s3cret"), "{fault}");
            Err(fault.reason)
        }
    }
}

fn row(view: &View) -> Option<Value> {
    let key = Key::from_text("k").unwrap().unwrap();
    view.get(&key, TIMESTAMP).map(|row| row.value)
}

/// What a view makes of one value under the key `k`, which held `1` before.
fn outcome(source: &Value, value: &[u8]) -> Result<Option<Value>, Reason> {
    let mut view = view(source, None);
    fold(&mut view, Some(b"k"), Some(b"1")).unwrap_or(());
    let before = row(&view);
    let folded = fold(&mut view, Some(b"k"), Some(value));
    if folded.is_err() {
        assert_eq!(row(&view), before, "a refused event leaves all as it was");
    }
    folded.map(|()| row(&view))
}

#[test]
fn values() {
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let text = |bytes: usize| format!("\"{}\"", "a".repeat(bytes - 2));
    let plain = json!({});
    for (value, expected) in [
        (b"".to_vec(), Err(Reason::NotJson)),
        (b" ".to_vec(), Err(Reason::NotJson)),
        (b"{\"a\":".to_vec(), Err(Reason::NotJson)),
        (b"1 2".to_vec(), Err(Reason::NotJson)),
        (b"\xef\xbb\xbf1".to_vec(), Err(Reason::NotJson)),
        (b"NaN".to_vec(), Err(Reason::NotJson)),
        (b"{\"a\":NaN}".to_vec(), Err(Reason::NotJson)),
        (b"[Infinity]".to_vec(), Err(Reason::NotJson)),
        (b"[-1e999]".to_vec(), Err(Reason::NotJson)),
        (b"\"\\ud800\"".to_vec(), Err(Reason::NotJson)),
        (b"\"a\nb\"".to_vec(), Err(Reason::NotJson)),
        (b"{\"s3cret\":01}".to_vec(), Err(Reason::NotJson)),
        (b"\"\xff\"".to_vec(), Err(Reason::NotUtf8)),
        (b"{\"\xff\":1}".to_vec(), Err(Reason::NotUtf8)),
        (
            nested(64).into_bytes(),
            Ok(Some(serde_json::from_str(&nested(64)).unwrap())),
        ),
        (nested(65).into_bytes(), Err(Reason::TooDeep)),
        (nested(200_000).into_bytes(), Err(Reason::TooDeep)),
        (vec![b'['; 200_000], Err(Reason::TooDeep)),
        (
            text(900 * 1_024).into_bytes(),
            Ok(Some(json!("a".repeat(900 * 1_024 - 2)))),
        ),
        (text(900 * 1_024 + 1).into_bytes(), Err(Reason::TooLarge)),
        (text(1_048_577).into_bytes(), Err(Reason::TooLarge)),
        // An event whose value is null; only a record without value is a delete.
        (b"null".to_vec(), Ok(Some(Value::Null))),
        (
            b"{\"a\":1,\"b\":2,\"a\":3}".to_vec(),
            Ok(Some(json!({"a": 3, "b": 2}))),
        ),
        (b"\"\\u0000\"".to_vec(), Ok(Some(json!("\0")))),
        (b"18446744073709551615".to_vec(), Ok(Some(json!(u64::MAX)))),
        (b"-0.0".to_vec(), Ok(Some(json!(-0.0)))),
    ] {
        let shown = String::from_utf8_lossy(&value[..value.len().min(40)]).into_owned();
        let found = outcome(&plain, &value);
        // The parser may give up on deep nesting before it sees that the text is cut off.
        assert!(found == expected, "{shown}: {:?}", found.map(|_| "a row"));
    }
}

#[test]
fn keys() {
    for (key, expected) in [
        (None, Err(Reason::NullKey)),
        (Some(b"".as_slice()), Err(Reason::NullKey)),
        (Some(b"\xff"), Err(Reason::InvalidKey)),
        (Some(b"\0"), Err(Reason::ReservedKey)),
        (Some(b"\0m"), Err(Reason::ReservedKey)),
        (Some(b" "), Ok(())),
        (Some("schlüssel".as_bytes()), Ok(())),
    ] {
        let mut one = view(&json!({}), None);
        assert_eq!(fold(&mut one, key, Some(b"1")), expected, "{key:?}");
        assert_eq!(one.keys(), usize::from(expected.is_ok()));
        // A delete by such a key is none.
        assert_eq!(fold(&mut one, key, None), expected, "{key:?}");
        assert_eq!(one.keys(), 0);
    }
    let json_key = |key: &[u8]| {
        let mut one = view(&json!({"keyFormat": "Json"}), None);
        fold(&mut one, Some(key), Some(b"1"))
    };
    assert_eq!(json_key(b"7"), Ok(()));
    assert_eq!(json_key(b"[\"a\",1]"), Ok(()));
    assert_eq!(json_key(b"null"), Err(Reason::NullKey));
    assert_eq!(json_key(b"\"\""), Err(Reason::NullKey));
    assert_eq!(json_key(b"1.5"), Err(Reason::InvalidKey));
    assert_eq!(json_key(b"{\"id\":1}"), Err(Reason::InvalidKey));
    assert_eq!(json_key(b"\"\\u0000m\""), Err(Reason::ReservedKey));
    assert_eq!(json_key(b"{"), Err(Reason::NotJson));
    assert_eq!(json_key(b"\xff"), Err(Reason::NotUtf8));
}

#[test]
fn times() {
    let at = |time: &str| {
        let source = json!({"eventTime": "event"});
        outcome(&source, time.as_bytes()).map(drop)
    };
    let hour = 3_600_000;
    assert_eq!(at(&(TIMESTAMP + hour).to_string()), Ok(()));
    assert_eq!(
        at(&(TIMESTAMP + hour + 1).to_string()),
        Err(Reason::InvalidEventTime)
    );
    assert_eq!(at("4102444800000"), Err(Reason::InvalidEventTime));
    assert_eq!(at(&i64::MAX.to_string()), Err(Reason::InvalidEventTime));
    assert_eq!(at(&i64::MIN.to_string()), Err(Reason::InvalidEventTime));
    assert_eq!(at("-62135596800000"), Ok(()));
    assert_eq!(at("\"s3cret\""), Err(Reason::ExpressionFailed));
}

#[test]
fn schemas_and_expressions() {
    let schema = json!({"schema": {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}});
    assert_eq!(outcome(&schema, b"{}"), Err(Reason::SchemaMismatch));
    assert_eq!(
        outcome(&schema, b"{\"id\":\"s3cret\"}"),
        Err(Reason::SchemaMismatch)
    );
    assert_eq!(outcome(&schema, b"null"), Err(Reason::SchemaMismatch));
    assert_eq!(outcome(&schema, b"{\"id\":1}"), Ok(Some(json!({"id": 1}))));
    let with = |value: &[u8]| {
        let mut one = view(&json!({}), Some("{'sum': event.a + event.b}"));
        fold(&mut one, Some(b"k"), Some(value))
    };
    assert_eq!(with(b"{\"a\":1}"), Err(Reason::AbsentField));
    assert_eq!(
        with(b"{\"a\":1,\"b\":\"s3cret\"}"),
        Err(Reason::ExpressionFailed)
    );
    assert_eq!(
        with(b"{\"a\":9223372036854775807,\"b\":1}"),
        Err(Reason::ExpressionFailed)
    );
    assert_eq!(with(b"{\"a\":1,\"b\":2}"), Ok(()));
    let envelope = json!({"envelope": "Debezium"});
    assert_eq!(
        outcome(&envelope, b"{\"id\":1}"),
        Err(Reason::InvalidEnvelope)
    );
    assert_eq!(
        outcome(&envelope, b"{\"op\":\"t\"}"),
        Err(Reason::InvalidEnvelope)
    );
}
