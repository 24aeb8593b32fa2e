//! The example of an agent that a view triggers, as its README tells it, on the memory log and on a real Kafka: what is
//! to be recommended, and when, is computed here from the files of events, apart from the engine.

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

/// What every customer is shown at the end.
const SHOWN: [(&str, Option<&str>); 5] = [
    ("ada", Some("T-200")),
    ("bruno", Some("T-200")),
    ("cleo", Some("S-20")),
    ("dana", None),
    ("eli", None),
];

fn folder() -> PathBuf {
    root().join("examples/stock-recommendations")
}

/// An event of a file, with its source.
struct Event {
    source: &'static str,
    time: String,
    key: String,
    value: Value,
}

/// All events of the day, in the order of their times.
fn day() -> Vec<Event> {
    let mut day = Vec::new();
    for source in ["wishes", "products", "stock"] {
        let file = folder().join(format!("events/{source}.ndjson"));
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            day.push(Event {
                source,
                time: line["timestamp"].as_str().unwrap().to_owned(),
                key: line["key"].as_str().unwrap().to_owned(),
                value: line["value"].clone(),
            });
        }
    }
    day.sort_by(|one, other| one.time.cmp(&other.time));
    day
}

/// The shop as a person would tell it.
#[derive(Default)]
struct Shop {
    products: BTreeMap<String, Value>,
    left: BTreeMap<String, i64>,
    wishes: BTreeMap<String, Value>,
}

impl Shop {
    /// The article, if it can be sold.
    fn article(&self, sku: &str) -> Option<Value> {
        let left = self.left.get(sku).copied().unwrap_or(0);
        self.products.get(sku).filter(|_| left > 0).cloned()
    }

    /// The dearest that can be sold and that the customer would pay for.
    fn best(&self, wish: &Value) -> Option<Value> {
        let skus = self.products.keys();
        skus.filter_map(|sku| self.article(sku))
            .filter(|article| article["category"] == wish["category"])
            .filter(|article| article["price"].as_i64() <= wish["most"].as_i64())
            .max_by_key(|article| article["price"].as_i64())
    }

    /// What it makes of an event: the records that have to be written for it, by customer.
    fn take(&mut self, event: &Event) -> BTreeMap<String, Value> {
        let before = self.article(&event.key);
        match event.source {
            "products" => {
                self.products.insert(event.key.clone(), event.value.clone());
            }
            "stock" => {
                let left = event.value["left"].as_i64().unwrap();
                self.left.insert(event.key.clone(), left);
            }
            _ if event.value.is_null() => {
                self.wishes.remove(&event.key);
            }
            _ => {
                self.wishes.insert(event.key.clone(), event.value.clone());
            }
        }
        let after = self.article(&event.key);
        if before == after || event.source == "wishes" {
            return BTreeMap::new();
        }
        let (article, what) = match (&before, &after) {
            (_, None) => (before.as_ref(), "is sold out"),
            (None, _) => (after.as_ref(), "is in stock"),
            _ => (after.as_ref(), "has changed"),
        };
        let article = article.unwrap();
        let because = format!("{} {what}", article["name"].as_str().unwrap());
        let concerned = self
            .wishes
            .iter()
            .filter(|(_, wish)| wish["category"] == article["category"]);
        concerned
            .map(|(customer, wish)| {
                let record = match self.best(wish) {
                    Some(best) => {
                        let name = best["name"].as_str().unwrap();
                        let text = format!("{name} for {} EUR", best["price"]);
                        json!({"sku": best["sku"], "text": text, "because": because})
                    }
                    None => {
                        let text = "We tell you when there is something for you.";
                        json!({"sku": null, "text": text, "because": because})
                    }
                };
                (customer.clone(), record)
            })
            .collect()
    }
}

/// What has to be written on that day: position of the event that it comes from, customer, record.
fn expected(out: &Path, namespace: &str) -> (Vec<(String, String, Value)>, Shop) {
    let mut positions: BTreeMap<(String, String), String> = BTreeMap::new();
    for source in ["products", "stock"] {
        let topic_name = format!("{namespace}.{source}");
        for record in topic(out, &topic_name) {
            let position = format!("{topic_name}-{}-{}", record["partition"], record["offset"]);
            let place = (
                record["key"].as_str().unwrap().to_owned(),
                record["value"].to_string(),
            );
            assert_eq!(positions.insert(place, position), None, "{record}");
        }
    }
    let (mut shop, mut expected) = (Shop::default(), Vec::new());
    for event in day() {
        for (customer, record) in shop.take(&event) {
            let place = (event.key.clone(), event.value.to_string());
            expected.push((positions[&place].clone(), customer, record));
        }
    }
    (expected, shop)
}

/// Runs the example to its end and checks everything that it wrote.
fn run(user: &User, namespace: &str, more: &[&str]) {
    let out = user.run_folder(&folder(), more);
    let out = out.path();
    let (expected, shop) = expected(out, namespace);
    let mut shown: BTreeMap<String, Value> = BTreeMap::new();
    let mut written: Vec<(String, String, Value)> = Vec::new();
    for record in topic(out, &format!("{namespace}.recommendations")) {
        let customer = record["key"].as_str().unwrap().to_owned();
        let root = record["headers"]["headwater-root"].as_str().unwrap();
        assert_eq!(record["headers"]["headwater-hops"], "1");
        written.push((root.to_owned(), customer.clone(), record["value"].clone()));
        shown.insert(customer, record["value"].clone());
    }
    // Those of one customer are in one partition, and in order there.
    for customer in shop.wishes.keys() {
        let of = |all: &[(String, String, Value)]| -> Vec<(String, Value)> {
            let own = all.iter().filter(|(_, other, _)| other == customer);
            own.map(|(root, _, record)| (root.clone(), record.clone()))
                .collect()
        };
        assert_eq!(of(&written), of(&expected), "{customer}");
    }
    assert_eq!(written.len(), expected.len());
    let shown: BTreeMap<&str, Option<&str>> = shown
        .iter()
        .map(|(customer, record)| (customer.as_str(), record["sku"].as_str()))
        .collect();
    assert_eq!(shown, BTreeMap::from(SHOWN));
    for (customer, sku) in shown {
        // What is shown can be bought, and nothing is held back.
        let best = shop.best(&shop.wishes[customer]);
        assert_eq!(
            sku,
            best.as_ref().map(|best| best["sku"].as_str().unwrap()),
            "{customer}"
        );
    }
    for part in ["agent.recommender", "view.shelf", "view.wishes"] {
        let dead = topic(out, &format!("{namespace}.{part}.dead"));
        assert_eq!(dead, Vec::<Value>::new());
    }
    // A sale that leaves some changes no row, and starts nothing.
    let runs = topic(out, &format!("{namespace}.agent.recommender.runs"));
    let roots: BTreeSet<&str> = runs
        .iter()
        .filter_map(|record| record["value"]["root"].as_str())
        .collect();
    let told: BTreeSet<&str> = expected.iter().map(|(root, _, _)| root.as_str()).collect();
    assert_eq!(roots, told);
}

#[test]
fn in_memory_what_is_sold_out_is_never_recommended() {
    run(&User::new(), "default", &[]);
}

#[test]
fn on_kafka_what_is_sold_out_is_never_recommended() {
    let kafka = headwater_testbed::kafka().unwrap();
    let namespace = format!("stock-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));
    let more = ["--kafka", kafka.bootstrap(), "--namespace", &namespace];
    run(&User::new(), &namespace, &more);
}

/// The next run for a customer, as `up` tells it.
fn next(up: &mut Up, customer: &str) -> Value {
    loop {
        let run = up.wait_for("run")["record"].clone();
        if run["trigger"]["key"] == *customer {
            return run;
        }
    }
}

#[test]
fn a_sale_changes_what_is_recommended_and_a_delivery_changes_it_back() {
    let user = User::new();
    let mut up = user.up(&folder(), &[]);
    let send = |left: i64| {
        let stock = json!({"sku": "T-200", "left": left}).to_string();
        user.run(&["send", "stock", "--key", "T-200", &stock]).ok();
    };
    let recommended = |run: &Value| {
        assert_eq!(run["outcome"], "Done", "{run}");
        assert_eq!(run["outputs"][0]["topic"], "default.recommendations");
        let answer = run["model"]["answer"].as_str().unwrap();
        serde_json::from_str::<Value>(answer).unwrap()["sku"].clone()
    };
    // One of four is sold: nothing to say.
    send(3);
    send(0);
    let run = next(&mut up, "ada");
    assert_eq!(recommended(&run), "T-100");
    assert_eq!(run["input"]["event"], Value::Null);
    assert_eq!(run["input"]["previous"]["name"], "Lumen 2");
    send(2);
    let run = next(&mut up, "ada");
    assert_eq!(recommended(&run), "T-200");
    assert_eq!(run["input"]["previous"], Value::Null);
    assert_eq!(up.interrupt(), 0);
}
