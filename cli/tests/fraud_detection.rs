//! The example of aggregates, as its README tells it: the same alerts and the same rows on the memory log
//! and on a real Kafka, and what its transactions come to, computed here apart from the engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use support::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const MONTH: i64 = 30 * 24 * HOUR;

const ALERTS: [(&str, &str, &str, &str); 3] = [
    (
        "t-040",
        "4417",
        "Block",
        "Block: 749.0 SEK at PlayCredits came after 3 declined attempts within ten minutes.",
    ),
    (
        "t-041",
        "5102",
        "Block",
        "Block: the card paid in PL within an hour of PT, and Tomás Ferreira told us of no journey.",
    ),
    (
        "t-042",
        "3920",
        "Ask",
        "Ask: 1480.0 EUR at Brennan Jewellers is far more than the 323.7 that Imani Okafor pays on average.",
    ),
];

fn folder() -> PathBuf {
    root().join("examples/fraud-detection")
}

/// Runs the example to its end and checks everything that it wrote.
fn run(user: &User, namespace: &str, more: &[&str]) {
    let out = user.run_folder(&folder(), more);
    alerts(out.path(), namespace);
    runs(out.path(), namespace);
    rows(user, out.path(), namespace);
}

fn alerts(out: &Path, namespace: &str) {
    let written: BTreeMap<String, Value> = topic(out, &format!("{namespace}.alerts"))
        .into_iter()
        .map(|record| {
            assert_eq!(record["key"], record["value"]["card"]);
            let transaction = record["value"]["transaction"].as_str().unwrap().to_owned();
            (transaction, record["value"].clone())
        })
        .collect();
    let expected: BTreeMap<String, Value> = ALERTS
        .iter()
        .map(|(transaction, card, action, text)| {
            let alert =
                json!({"transaction": transaction, "card": card, "action": action, "text": text});
            ((*transaction).to_owned(), alert)
        })
        .collect();
    assert_eq!(written, expected);
}

/// Every approved transaction is looked at once; five of them by the model.
fn runs(out: &Path, namespace: &str) {
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let mut fine = Vec::new();
    for run in topic(out, &format!("{namespace}.agent.fraud-watch.runs")) {
        let run = &run["value"];
        *outcomes
            .entry(run["outcome"].as_str().unwrap().to_owned())
            .or_default() += 1;
        if let Some(answer) = run["model"]["answer"].as_str()
            && answer.starts_with("Fine")
        {
            fine.push(answer.to_owned());
        }
    }
    let expected = [("Done".to_owned(), 5), ("Skipped".to_owned(), 38)];
    assert_eq!(outcomes, BTreeMap::from(expected));
    fine.sort();
    assert_eq!(
        fine,
        [
            "Fine: Pavel Novák often pays at Nájem Vinohrady.",
            "Fine: Sofia Rossi told us of the journey.",
        ]
    );
}

/// The rows of the aggregate in the view's own topic are what the transactions come to, each as of its card's last.
fn rows(user: &User, out: &Path, namespace: &str) {
    let state = state_topic(user, &folder(), namespace, "spending");
    let mut written: BTreeMap<String, Value> = BTreeMap::new();
    for record in topic(out, &state) {
        let key = record["key"].as_str().unwrap();
        if !key.starts_with('\0') {
            written.insert(key.to_owned(), record["value"].clone());
        }
    }
    let mut events: Vec<(i64, Value)> = topic(out, &format!("{namespace}.transactions"))
        .into_iter()
        .map(|record| (time(&record["timestamp"]), record["value"].clone()))
        .collect();
    events.sort_by_key(|(time, _)| *time);
    let mut cards: BTreeMap<String, Vec<(i64, Value)>> = BTreeMap::new();
    for (time, event) in events {
        let card = event["card_id"].as_str().unwrap().to_owned();
        cards.entry(card).or_default().push((time, event));
    }
    assert_eq!(cards.len(), 5);
    let expected: BTreeMap<String, Value> = cards
        .into_iter()
        .map(|(card, events)| (card, row(&events, events.last().unwrap().0)))
        .collect();
    assert_eq!(written, expected);
}

/// A timestamp of `--out`.
fn time(value: &Value) -> i64 {
    let text = value.as_str().unwrap();
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// One card, from all its transactions, as of a time.
fn row(events: &[(i64, Value)], at: i64) -> Value {
    let approved = |within: Option<i64>| -> Vec<f64> {
        events
            .iter()
            .filter(|(time, event)| {
                event["status"] == "Approved" && within.is_none_or(|within| *time > at - within)
            })
            .map(|(_, event)| event["amount"].as_f64().unwrap())
            .collect()
    };
    let ever = approved(None);
    let mut merchants: BTreeMap<&str, i64> = BTreeMap::new();
    for (_, event) in events
        .iter()
        .filter(|(_, event)| event["status"] == "Approved")
    {
        *merchants
            .entry(event["merchant"].as_str().unwrap())
            .or_default() += 1;
    }
    let mut merchants: Vec<(&str, i64)> = merchants.into_iter().collect();
    merchants.sort_by_key(|(_, count)| -count);
    merchants.truncate(3);
    let countries: BTreeSet<&str> = events
        .iter()
        .filter(|(time, event)| event["present"] == true && *time > at - HOUR)
        .map(|(_, event)| event["country"].as_str().unwrap())
        .collect();
    let last_seen_in = events.iter().rfind(|(_, event)| event["present"] == true);
    let declined = events
        .iter()
        .filter(|(time, event)| event["status"] == "Declined" && *time > at - 10 * MINUTE)
        .count();
    let largest = approved(Some(MONTH)).into_iter().reduce(f64::max);
    // Of no numbers the sum is the int 0.
    let hour = approved(Some(HOUR))
        .into_iter()
        .reduce(|sum, amount| sum + amount);
    json!({
        "payments": ever.len(),
        "usual": ever.iter().sum::<f64>() / ever.len() as f64,
        "merchants": merchants.iter().map(|(value, count)| json!({"value": value, "count": count})).collect::<Vec<_>>(),
        "last_seen_in": last_seen_in.map(|(_, event)| event["country"].clone()),
        "largest_month": largest,
        "spent_hour": hour.map_or(json!(0), |hour| json!(hour)),
        "countries_hour": countries.len(),
        "declined_10_minutes": declined,
    })
}

#[test]
fn in_memory_the_transactions_come_to_three_alerts() {
    run(&User::new(), "default", &[]);
}

#[test]
fn on_kafka_they_come_to_the_same() {
    let kafka = headwater_testbed::kafka().unwrap();
    let namespace = format!("fraud-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));
    let more = ["--kafka", kafka.bootstrap(), "--namespace", &namespace];
    run(&User::new(), &namespace, &more);
}
