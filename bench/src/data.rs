//! The events that benchmarks fold, and the views that they are folded into.

use crate::Result;
use headwater_engine::config;
use headwater_engine::view::Definition;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An event of about 220 bytes and its key; those of every tenth key are to be filtered out.
pub fn event(number: usize, keys: usize) -> (String, String) {
    let archived = number % keys % 10 == 9;
    flight(number, keys, if archived { "archived" } else { "active" })
}

/// As [`event`], and none is to be filtered out; each differs from the one of its key before it.
pub fn active(number: usize, keys: usize) -> (String, String) {
    flight(number, keys, "active")
}

fn flight(number: usize, keys: usize, status: &str) -> (String, String) {
    let key = format!("flight-{:07}", number % keys);
    let value = format!(
        r#"{{"flight_id":"{key}","status":"{status}","gate":"B{:02}","origin":"London Heathrow","destination":"New York JFK","scheduled":"2026-11-24T11:40:00Z","delay_minutes":{},"aircraft":"A330-900","seats_free":{},"tz":"UTC"}}"#,
        number % 60,
        number % 199,
        number % 293
    );
    (key, value)
}

/// How many of so many keys are not filtered out.
pub fn kept(keys: usize) -> usize {
    keys - keys / 10
}

/// A view with a filter and a key in CEL, whose source is its input log.
pub fn view(name: &str, topic: &str, state_topic: &str, fold: &Value) -> Result<config::View> {
    Ok(serde_json::from_value(json!({
        "name": name, "generation": "000000",
        "from": [{
            "name": "flights", "source": "flights", "filter": "event.status != 'archived'", "key": null,
            "value": null, "delete": null, "required": false,
        }],
        "fold": fold, "indexes": [],
        "input": {"source": {"topic": topic}}, "stateTopic": state_topic, "deadTopic": "bench.dead",
    }))?)
}

pub fn source(topic: &str) -> Result<config::Source> {
    Ok(serde_json::from_value(json!({
        "name": "flights", "topic": topic, "format": "Json", "keyFormat": "Text", "schema": null,
        "key": "event.flight_id", "eventTime": null, "invalidRecords": "DeadLetter",
    }))?)
}

pub fn definition(topic: &str, fold: &Value) -> Result<Arc<Definition>> {
    let sources = BTreeMap::from([("flights".to_owned(), source(topic)?)]);
    Ok(Definition::compile(
        &view("flights", topic, "bench.state", fold)?,
        &sources,
    )?)
}

pub fn latest() -> Value {
    json!({"latest": {"merge": "Replace"}})
}

pub fn history() -> Value {
    json!({"history": {"limit": 20, "withinMs": null}})
}

/// Three fields.
pub fn aggregate() -> Value {
    let field = |name: &str, compute: &str, of: Option<&str>| json!({"name": name, "compute": compute, "of": of, "where": null, "withinMs": null, "limit": 0});
    json!({"aggregate": {"fields": [
        field("events", "Count", None),
        field("delay", "Sum", Some("value.delay_minutes")),
        field("seats", "Max", Some("value.seats_free")),
    ]}})
}
