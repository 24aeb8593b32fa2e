//! Lookups over folded views: which rows, in which order, with what beside them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use headwater_engine::config;
use headwater_engine::expr::Names;
use headwater_engine::fault::Reason;
use headwater_engine::lookup::{Lookup, Read, Views};
use headwater_engine::record::Record;
use headwater_engine::view::{Definition, View};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const HOUR: i64 = 3_600_000;

struct Held(BTreeMap<String, View>);

impl Views for Held {
    fn read(&self, name: &str, f: &mut dyn FnMut(&View)) {
        if let Some(view) = self.0.get(name) {
            f(view);
        }
    }
}

fn source() -> config::Source {
    config::Source {
        name: "s".into(),
        topic: "shop.s".into(),
        format: config::Format::Json,
        key_format: config::Format::Text,
        envelope: config::Envelope::None,
        schema: None,
        key: None,
        event_time: None,
        invalid_records: config::InvalidRecords::DeadLetter,
    }
}

/// A view over the source `s`, with these records folded: key, value, event time.
fn view(fold: config::Fold, indexes: &[(&str, &str)], records: &[(&str, Value, i64)]) -> View {
    let indexes = indexes
        .iter()
        .map(|(name, key)| config::Index {
            name: (*name).into(),
            key: config::IndexKey::One((*key).into()),
        })
        .collect();
    let config = config::View {
        name: "v".into(),
        generation: "000000".into(),
        from: vec![config::From {
            name: "s".into(),
            source: "s".into(),
            filter: None,
            key: None,
            value: None,
            delete: None,
            joins: Vec::new(),
            required: false,
        }],
        fold,
        indexes,
        input: config::Input::Source {
            topic: "shop.s".into(),
        },
        state_topic: "shop.view.v.000000".into(),
        dead_topic: "shop.view.v.dead".into(),
        changes_topic: None,
        expire_after_ms: None,
        serve: None,
        sources: BTreeMap::new(),
    };
    let definition =
        Definition::compile(&config, &BTreeMap::from([("s".to_owned(), source())])).unwrap();
    let mut view = View::new(definition);
    for (offset, (key, value, time)) in (0..).zip(records) {
        let value = value.to_string();
        let folded = view.partition_mut(0).fold(&Record {
            topic: "shop.s",
            partition: 0,
            offset,
            timestamp: *time,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
        });
        assert_eq!(folded.fault, None);
    }
    view
}

fn latest() -> config::Fold {
    config::Fold::Latest {
        merge: config::Merge::Replace,
    }
}

fn flights() -> Held {
    let rows = [
        ("f3", json!({"to": "NYC", "at": 30, "seats": 4}), 1),
        ("f1", json!({"to": "NYC", "at": 10, "seats": 0}), 2),
        ("f2", json!({"to": "BOS", "at": 20}), 3),
        ("f4", json!({"to": null, "seats": 9}), 4),
        ("f5", json!("cancelled"), 5),
    ];
    Held(BTreeMap::from([
        (
            "flights".to_owned(),
            view(latest(), &[("byTo", "value.?to")], &rows),
        ),
        (
            "updates".to_owned(),
            view(
                config::Fold::History {
                    limit: 3,
                    within_ms: Some(HOUR),
                },
                &[],
                &[
                    ("f1", json!({"n": 1}), HOUR),
                    ("f1", json!({"n": 2}), 2 * HOUR),
                    ("f1", json!({"n": 3}), 2 * HOUR + 5),
                    ("f2", json!({"n": 4}), 2 * HOUR + 5),
                ],
            ),
        ),
    ]))
}

fn lookup(by: config::By) -> config::Lookup {
    config::Lookup {
        view: "flights".into(),
        by,
        index: None,
        filter: None,
        order_by: None,
        order: config::Order::Ascending,
        limit: 20,
    }
}

fn read(lookup: &config::Lookup, event: Value) -> Read {
    read_at(lookup, event, 2 * HOUR + 10)
}

fn read_at(lookup: &config::Lookup, event: Value, at: i64) -> Read {
    let compiled =
        Lookup::compile(lookup, &Names::new(&["event"]), "spec.context[name=x]").unwrap();
    let variables = Map::from_iter([("event".to_owned(), event)]);
    compiled.read(&variables, &flights(), at).unwrap()
}

fn by_key(text: &str) -> config::Lookup {
    lookup(config::By::Key(text.into()))
}

fn by_keys(text: &str) -> config::Lookup {
    lookup(config::By::Keys(text.into()))
}

fn row_keys(read: &Read) -> Vec<&str> {
    read.rows.iter().map(|row| row.key.as_str()).collect()
}

#[test]
fn a_key_gives_the_value_or_null_with_its_origin() {
    let found = read(&by_key("event.id"), json!({"id": "f2"}));
    assert!(found.one && found.missing.is_empty());
    assert_eq!(found.value, json!({"to": "BOS", "at": 20}));
    assert_eq!(found.rows[0].position.to_string(), "shop.s-0-2");
    assert_eq!(found.rows[0].time, 3);
    let absent = read(&by_key("event.id"), json!({"id": "f9"}));
    assert_eq!(absent.value, Value::Null);
    assert_eq!(absent.missing[0].as_str(), "f9");
    assert!(absent.rows.is_empty());
}

#[test]
fn semantics_2_a_null_or_empty_key_reads_nothing() {
    for id in [json!(null), json!("")] {
        let one = read(&by_key("event.id"), json!({"id": id}));
        assert_eq!(
            (one.value, one.rows.len(), one.missing.len()),
            (Value::Null, 0, 0)
        );
        let list = read(&by_keys("[event.id, 'f2']"), json!({"id": id}));
        assert_eq!(row_keys(&list), ["f2"]);
        let indexed = config::Lookup {
            index: Some("byTo".into()),
            ..by_key("event.id")
        };
        assert_eq!(read(&indexed, json!({"id": id})).value, json!([]));
    }
    assert_eq!(
        read(&by_keys("event.ids"), json!({"ids": null})).value,
        json!([])
    );
    // A row whose index key is null is under none.
    let indexed = config::Lookup {
        index: Some("byTo".into()),
        ..by_keys("['NYC', 'BOS', 'null', '']")
    };
    assert_eq!(row_keys(&read(&indexed, json!({}))), ["f1", "f3", "f2"]);
}

#[test]
fn semantics_9_rows_carry_their_key_and_what_is_no_object_its_value() {
    let found = read(&by_keys("['f5', 'f2']"), json!({}));
    assert_eq!(
        found.value,
        json!([{"_key": "f5", "_value": "cancelled"}, {"_key": "f2", "to": "BOS", "at": 20}])
    );
}

#[test]
fn semantics_9_keys_stand_as_given_and_once_each() {
    let found = read(&by_keys("['f3', 'f9', 'f1', 'f3', 7]"), json!({}));
    assert_eq!(row_keys(&found), ["f3", "f1"]);
    let missing: Vec<&str> = found.missing.iter().map(|key| key.as_str()).collect();
    assert_eq!(missing, ["f9", "7"]);
}

#[test]
fn semantics_9_an_index_orders_by_key() {
    let indexed = config::Lookup {
        index: Some("byTo".into()),
        ..by_key("'NYC'")
    };
    let found = read(&indexed, json!({}));
    assert!(!found.one);
    assert_eq!(row_keys(&found), ["f1", "f3"]);
}

#[test]
fn semantics_9_first_where_then_order_then_limit() {
    let all = config::Lookup {
        filter: Some("type(value) == map && value.?seats.orValue(1) > event.least".into()),
        order_by: Some("value.at".into()),
        order: config::Order::Descending,
        limit: 2,
        ..lookup(config::By::All)
    };
    let found = read(&all, json!({"least": 0}));
    // f4 has no `at`: it comes last, whatever the order, and the limit leaves it out.
    assert_eq!(row_keys(&found), ["f3", "f2"]);
    assert_eq!(found.beyond_limit, 1);
    let ascending = config::Lookup {
        order: config::Order::Ascending,
        limit: 20,
        ..all
    };
    assert_eq!(
        row_keys(&read(&ascending, json!({"least": 0}))),
        ["f2", "f3", "f4"]
    );
    assert_eq!(
        row_keys(&read(&lookup(config::By::All), json!({}))),
        ["f1", "f2", "f3", "f4", "f5"]
    );
}

#[test]
fn semantics_9_a_history_is_newest_first_and_as_of_the_trigger() {
    let history = config::Lookup {
        view: "updates".into(),
        ..by_key("'f1'")
    };
    let numbers = |at: i64| -> Vec<Value> {
        let found = read_at(&history, json!({}), at);
        assert!(!found.one);
        let items = found.value.as_array().unwrap();
        items.iter().map(|item| item["n"].clone()).collect()
    };
    assert_eq!(numbers(2 * HOUR + 10), [json!(3), json!(2)]);
    // Younger than T - within: an entry of exactly that age is gone, later events are in.
    assert_eq!(numbers(2 * HOUR), [json!(3), json!(2)]);
    assert_eq!(numbers(2 * HOUR - 1), [json!(3), json!(2), json!(1)]);
    assert_eq!(numbers(3 * HOUR + 5), [] as [Value; 0]);
}

#[test]
fn an_expression_that_fails_on_a_row_is_a_fault_without_its_values() {
    let lookup = config::Lookup {
        filter: Some("value.seats > 1".into()),
        ..by_key("'f5'")
    };
    let compiled = Lookup::compile(&lookup, &Names::new(&["event"]), "p").unwrap();
    let variables: Map<String, Value> = Map::new();
    let fault = compiled.read(&variables, &flights(), 0).unwrap_err();
    assert_eq!(fault.reason, Reason::ExpressionFailed);
    assert!(
        fault
            .message
            .contains("`value.seats > 1`: `value` is a string"),
        "{fault}"
    );
    assert!(!fault.message.contains("cancelled"));
}

#[test]
fn what_cannot_work_is_said_at_its_place() {
    let lookup = config::Lookup {
        filter: Some("valeu.seats > 1".into()),
        order_by: Some("value.at +".into()),
        ..by_key("evnt.id")
    };
    let error =
        Lookup::compile(&lookup, &Names::new(&["event"]), "spec.context[name=x]").unwrap_err();
    let paths: Vec<&str> = error
        .problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "spec.context[name=x].key",
            "spec.context[name=x].where",
            "spec.context[name=x].orderBy"
        ]
    );
}
