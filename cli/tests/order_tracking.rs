//! The example of joins, as its README tells it, on the memory log and on a real Kafka: what its views come to is computed here from the
//! files of events, apart from the engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use support::*;

const ANSWERS: [(&str, &str); 5] = [
    (
        "ines",
        "Order O-501 (Ash chair, Orla desk lamp) is out for delivery at Bristol, goes to 12 Quay Street, Bristol and is due 2026-11-24.",
    ),
    (
        "ines",
        "Order O-501 (Ash chair, Orla desk lamp) was delivered to 12 Quay Street, Bristol. Order O-506 (Wall shelf) is packed at Fernhill, goes to 4 Hill Road, Bath and is due 2026-11-26.",
    ),
    ("nora", "Nora Quist, there is no order of yours."),
    (
        "oskar",
        "Order O-502 (Wall shelf) waits for you: the payment was refused.",
    ),
    (
        "tom",
        "I do not know you. Which address did you order with?",
    ),
];

const NOTICES: [(&str, &str, &str); 2] = [
    (
        "31",
        "O-503",
        "Dear Priya Nair, please do not use Orla desk lamp of order O-503, sent to 88 Park Row, Leeds: its cable can overheat.",
    ),
    (
        "7",
        "O-501",
        "Dear Ines Moreau, please do not use Orla desk lamp of order O-501, sent to 12 Quay Street, Bristol: its cable can overheat.",
    ),
];

fn folder() -> PathBuf {
    root().join("examples/order-tracking")
}

/// The events of a source, in the order of their times.
fn events(source: &str) -> Vec<Value> {
    let file = folder().join(format!("events/{source}.ndjson"));
    let text = std::fs::read_to_string(file).unwrap();
    let mut events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    events.sort_by_key(time);
    events
}

fn time(event: &Value) -> String {
    event["timestamp"].as_str().unwrap().to_owned()
}

/// The customer table at a time, by the change events until then.
fn customer(id: &Value, at: &str) -> Option<Value> {
    let mut found = None;
    for change in events("customers") {
        let key: Value = serde_json::from_str(change["key"].as_str().unwrap()).unwrap();
        if key["id"] == *id && time(&change).as_str() <= at {
            let row = &change["value"]["after"];
            found = row.is_object().then(|| row.clone());
        }
    }
    found
}

/// Every order that stands, with the customer of its moment; and those of nobody.
fn orders() -> (BTreeMap<String, Value>, BTreeSet<String>) {
    let (mut rows, mut refused) = (BTreeMap::new(), BTreeSet::new());
    for event in events("orders") {
        let order = &event["value"];
        let id = order["order_id"].as_str().unwrap().to_owned();
        let customer = customer(&order["customer_id"], &time(&event));
        match customer {
            _ if order["state"] == "Withdrawn" => {
                rows.remove(&id);
            }
            Some(customer) => {
                let row = json!({
                    "order_id": id, "customer_id": order["customer_id"], "items": order["items"],
                    "name": customer["name"], "ship_to": customer["address"], "tier": customer["tier"],
                });
                rows.insert(id, row);
            }
            None => {
                refused.insert(id);
            }
        }
    }
    (rows, refused)
}

/// How far each order is: fields by whoever said them last, of orders that were placed and not withdrawn.
fn progress() -> BTreeMap<String, Value> {
    let mut fields: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut placed: BTreeSet<String> = BTreeSet::new();
    for event in events("orders") {
        let id = event["value"]["order_id"].as_str().unwrap().to_owned();
        if event["value"]["state"] == "Withdrawn" {
            placed.remove(&id);
        } else {
            fields
                .entry(id.clone())
                .or_default()
                .insert("order_id".to_owned(), json!(id));
            placed.insert(id);
        }
    }
    for (source, names) in [
        ("payments", &["payment"][..]),
        ("scans", &["parcel", "status", "place", "due"]),
    ] {
        for event in events(source) {
            let value = &event["value"];
            let id = value["order_id"]
                .as_str()
                .or(value["label"]["order_id"].as_str())
                .unwrap();
            let row = fields.entry(id.to_owned()).or_default();
            for name in names {
                if let Some(found) = value.get(name) {
                    row.insert((*name).to_owned(), found.clone());
                }
            }
        }
    }
    fields
        .into_iter()
        .filter(|(id, _)| placed.contains(id))
        .map(|(id, row)| (id, Value::Object(row)))
        .collect()
}

/// The rows of a view, as its own topic holds them.
fn rows(user: &User, out: &Path, namespace: &str, view: &str) -> BTreeMap<String, Value> {
    let state = state_topic(user, &folder(), namespace, view);
    let mut rows = BTreeMap::new();
    for record in topic(out, &state) {
        let key = record["key"].as_str().unwrap().to_owned();
        if key.starts_with('\0') {
            continue;
        }
        if record["value"].is_null() {
            rows.remove(&key);
        } else {
            rows.insert(key, record["value"].clone());
        }
    }
    rows
}

/// Runs the example to its end and checks everything that it wrote.
fn run(user: &User, namespace: &str, more: &[&str]) {
    let out = user.run_folder(&folder(), more);
    let path = out.path();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let answers: BTreeSet<(String, String)> = topic(path, &format!("{namespace}.answers"))
        .iter()
        .map(|answer| (text(&answer["key"]), text(&answer["value"]["text"])))
        .collect();
    let expected = ANSWERS.map(|(key, text)| (key.to_owned(), text.to_owned()));
    assert_eq!(answers, BTreeSet::from(expected));
    let notices: BTreeSet<(String, String, String)> = topic(path, &format!("{namespace}.notices"))
        .iter()
        .map(|notice| {
            let value = &notice["value"];
            (
                text(&notice["key"]),
                text(&value["order_id"]),
                text(&value["text"]),
            )
        })
        .collect();
    let expected =
        NOTICES.map(|(key, order, text)| (key.to_owned(), order.to_owned(), text.to_owned()));
    assert_eq!(notices, BTreeSet::from(expected));

    let (orders, refused) = orders();
    assert_eq!((orders.len(), refused.len()), (5, 1));
    assert_eq!(rows(user, path, namespace, "orders"), orders);
    let dead = topic(path, &format!("{namespace}.view.orders.dead"));
    let dead: BTreeSet<String> = dead
        .iter()
        .map(|letter| {
            assert_eq!(letter["headers"]["headwater-reason"], "AbsentField");
            text(&letter["value"]["order_id"])
        })
        .collect();
    assert_eq!(dead, refused);

    // A merged row that lacks a required source is kept, and not seen.
    let mut merged = rows(user, path, namespace, "progress");
    assert!(merged.remove("O-999").is_some());
    assert_eq!(merged, progress());

    let customers = rows(user, path, namespace, "customers");
    let now = "2026-11-24T23:00:00Z";
    let expected: BTreeMap<String, Value> = [7, 12, 31, 44, 52]
        .into_iter()
        .filter_map(|id| {
            let row = customer(&json!(id), now)?;
            let kept = json!({"name": row["name"], "address": row["address"], "tier": row["tier"]});
            Some((id.to_string(), kept))
        })
        .collect();
    assert_eq!(expected.len(), 4);
    assert_eq!(customers, expected);
}

#[test]
fn everything_is_as_the_events_say() {
    run(&User::new(), "default", &[]);
}

#[test]
fn on_kafka_everything_is_the_same() {
    let kafka = headwater_testbed::kafka().unwrap();
    let namespace = format!("orders-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));
    run(
        &User::new(),
        &namespace,
        &["--kafka", kafka.bootstrap(), "--namespace", &namespace],
    );
}

#[test]
fn a_customer_who_moves_takes_no_parcel_along() {
    let user = User::new();
    let up = user.up(&folder(), &[]);
    let ask = || {
        let with = r#"{"customer_id": 12}"#;
        let done = user.run(&[
            "chat",
            "order-desk",
            "--with",
            with,
            "When does my shelf come?",
        ]);
        done.ok().to_owned()
    };
    let send = |arguments: &[&str]| {
        let mut all = vec!["send"];
        all.extend(arguments);
        user.run(&all).ok();
    };
    assert_eq!(ask(), ANSWERS[3].1);
    send(&[
        "payments",
        r#"{"order_id": "O-502", "payment": "Paid"}"#,
        "--key",
        "O-502",
    ]);
    let scan = r#"{"parcel": "P-9010", "label": {"order_id": "O-502"}, "scanned_at": "2026-11-24T11:30:00Z", "status": "Packed", "place": "Fernhill", "due": "2026-11-27"}"#;
    send(&["scans", scan]);
    let packed = "Order O-502 (Wall shelf) is packed at Fernhill, goes to 3 Mill Lane, York and is due 2026-11-27.";
    assert_eq!(ask(), packed);
    let moved = r#"{"op": "u", "before": null, "after": {"id": 12, "name": "Oskar Lind", "address": "70 High Street, Hull", "tier": "Standard"}}"#;
    send(&["customers", "--key", r#"{"id": 12}"#, moved]);
    assert_eq!(ask(), packed);
    // The next order goes to where he lives now.
    let order = r#"{"order_id": "O-510", "customer_id": 12, "items": [{"sku": "LAMP-8", "name": "Fenn floor lamp"}]}"#;
    send(&["orders", order, "--key", "O-510"]);
    let both = format!(
        "{packed} Order O-510 (Fenn floor lamp) is not packed yet and will go to 70 High Street, Hull."
    );
    assert_eq!(ask(), both);
    assert_eq!(up.interrupt(), 0);
}
