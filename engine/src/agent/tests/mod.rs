//! Agents through their front door: configuration and records in, completions out.

mod again;
mod approval;
mod budget;
mod compile;
mod endings;
mod injections;
mod prompts;
mod replay;
mod slots;
mod steps;
mod taken;
mod tools;

use super::*;
use crate::agent::{Assembly, Context, Freshness, Ready};
use crate::conversation::{Past, Store};
use crate::fault::{Fault, Reason};
use crate::key::Key;
use crate::lookup::Views;
use crate::model::Reply;
use crate::record::{Header, Record};
use crate::view::{Definition, View};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;

/// 2026-11-23T10:00:00Z.
const T: i64 = 1_795_428_000_000;

const STAGE: &str = r"
namespace: shop
kafka: {}
sources:
  questions: {}
  bookings: {}
  flights: {}
views:
  bookings: {from: bookings, indexes: [{name: byCustomer, key: {one: value.customer}}]}
  flights: {from: flights}
  updates: {from: flights, fold: {history: {limit: 3, withinMs: 3600000}}}
role:
  agent:
    name: helper
    trigger: {from: {source: questions}, startFrom: Latest, deletes: Ignore, filter: null, key: null}
    slots: []
    freshnessWaitMs: 250
    when: null
    conversation: null
    prompt: null
    model: null
    outputs: []
    delivery: {maxAttempts: 5, attemptTimeoutMs: 120000, maxHops: 16, onFailure: DeadLetter}
    audit: Full
    concurrency: 64
    topics: {conversation: shop.agent.helper.conversation, journal: shop.agent.helper.journal, runs: shop.agent.helper.runs, dead: shop.agent.helper.dead}
";

const MODEL: &str = r"
{name: chat, provider: {scripted: {rules: []}}, model: gpt, parameters: {temperature: 0.2},
 contextWindowTokens: 32768, maxOutputTokens: 4096, requestTimeoutMs: 30000,
 retry: {maxAttempts: 4, initialBackoffMs: 250, maxBackoffMs: 8000}}
";

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// `with` over `base`, objects field by field.
fn merge(base: &mut Value, with: Value) {
    match (base, with) {
        (Value::Object(base), Value::Object(with)) => {
            for (name, value) in with {
                merge(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, with) => *base = with,
    }
}

fn with_defaults(mut defaults: Value, given: Value) -> Value {
    merge(&mut defaults, given);
    defaults
}

/// A stage from what a test says of its agent; the rest has the defaults of the resource.
fn stage(agent: &str) -> config::Stage {
    let mut stage = yaml(STAGE);
    for (name, source) in stage["sources"].as_object_mut().unwrap() {
        let defaults = json!({
            "name": name, "topic": format!("shop.{name}"), "format": "Json", "keyFormat": "Text",
            "schema": null, "key": null, "eventTime": null, "invalidRecords": "DeadLetter",
        });
        *source = with_defaults(defaults, source.take());
    }
    for (name, view) in stage["views"].as_object_mut().unwrap() {
        let from = view["from"].take();
        let topic = format!("shop.{}", from.as_str().unwrap());
        let defaults = json!({
            "name": name, "generation": "a1b2c3", "fold": {"latest": {"merge": "Replace"}},
            "indexes": [], "input": {"source": {"topic": topic}}, "stateTopic": "view.000001",
            "deadTopic": format!("shop.view.{name}.dead"),
        });
        let mut given = view.take();
        given["from"] = json!([{
            "name": from, "source": from, "filter": null, "key": null, "value": null,
            "delete": null, "required": false,
        }]);
        let mut full = defaults;
        full.as_object_mut()
            .unwrap()
            .extend(given.as_object().unwrap().clone());
        *view = full;
    }
    let own = &mut stage["role"]["agent"];
    merge(own, yaml(agent));
    for slot in own["slots"].as_array_mut().unwrap() {
        let defaults = json!({
            "required": false, "budgetTokens": null, "priority": 0, "maxStalenessMs": null,
            "onStale": "Mark",
            "lookup": {"by": "all", "index": null, "where": null, "orderBy": null,
                "order": "Ascending", "limit": 20},
        });
        *slot = with_defaults(defaults, slot.take());
    }
    for output in own["outputs"].as_array_mut().unwrap() {
        let topic = format!("shop.{}", output["source"].as_str().unwrap());
        let defaults = json!({
            "topic": topic, "format": "Json", "outcome": "Done", "when": null, "items": null,
            "key": null, "value": null,
        });
        *output = with_defaults(defaults, output.take());
    }
    serde_json::from_value(stage).unwrap_or_else(|error| panic!("{error}"))
}

/// An agent with its views and conversations, driven as a stage drives it.
struct Bed {
    agent: Agent,
    views: BTreeMap<String, View>,
    topics: BTreeMap<String, String>,
    store: Option<Store>,
    freshness: Freshness,
    offset: Cell<i64>,
}

impl Views for Bed {
    fn read(&self, name: &str, f: &mut dyn FnMut(&View)) {
        if let Some(view) = self.views.get(name) {
            f(view);
        }
    }
}

/// A record that a test makes up.
#[derive(Clone, Default)]
struct Feed<'a> {
    key: Option<&'a str>,
    value: Option<&'a [u8]>,
    headers: Vec<Header<'a>>,
    time: i64,
}

impl Bed {
    fn new(agent: &str) -> Self {
        Self::of(&stage(agent))
    }

    fn of(stage: &config::Stage) -> Self {
        let agent = Agent::compile(stage).unwrap_or_else(|error| panic!("{error}"));
        let views = stage.views.iter().map(|(name, view)| {
            let definition = Definition::compile(view, &stage.sources).unwrap();
            (name.clone(), View::new(definition))
        });
        let topics = stage
            .views
            .iter()
            .map(|(name, view)| (name.clone(), view.input.topic().to_owned()));
        Self {
            store: agent.conversation().map(Store::new),
            agent,
            views: views.collect(),
            topics: topics.collect(),
            freshness: Freshness::default(),
            offset: Cell::new(0),
        }
    }

    /// Lets every view of the topic fold a record.
    fn feed(&mut self, source: &str, key: &str, value: &Value, time: i64) {
        let topic = format!("shop.{source}");
        let bytes = value.to_string();
        let record = Record {
            topic: &topic,
            partition: 0,
            offset: self.offset.replace(self.offset.get() + 1),
            timestamp: time,
            key: Some(key.as_bytes()),
            value: (!value.is_null()).then_some(bytes.as_bytes()),
            headers: &[],
        };
        for (name, view) in &mut self.views {
            if self.topics[name] == topic {
                let folded = view.partition_mut(0).fold(&record);
                assert_eq!(folded.fault, None);
            }
        }
    }

    fn ask<T>(&self, feed: &Feed<'_>, f: impl FnOnce(&Record<'_>) -> T) -> T {
        f(&Record {
            topic: "shop.questions",
            partition: 3,
            offset: 41,
            timestamp: feed.time,
            key: feed.key.map(str::as_bytes),
            value: feed.value,
            headers: &feed.headers,
        })
    }

    /// The trigger of a question of `c1` at [`T`].
    fn trigger(&self, value: &Value) -> Trigger {
        self.trigger_at(value, T)
    }

    fn trigger_at(&self, value: &Value, time: i64) -> Trigger {
        let bytes = value.to_string();
        let feed = Feed {
            key: Some("c1"),
            value: Some(bytes.as_bytes()),
            time,
            ..Feed::default()
        };
        self.ask(&feed, |record| self.agent.trigger(record))
            .unwrap()
            .unwrap()
    }

    fn past(&self, trigger: &Trigger) -> Past {
        match (&self.store, &trigger.key) {
            (Some(store), Some(key)) => store.past(key, trigger.time),
            _ => Past::default(),
        }
    }

    /// Assembles 2 s after the trigger's time.
    fn assemble(&self, trigger: &Trigger) -> Result<Assembly, Fault> {
        self.agent.assemble(
            trigger,
            &Context {
                views: self,
                conversation: &self.past(trigger),
                freshness: &self.freshness,
                assembled_at: trigger.time + 2_000,
                attempt: 1,
            },
        )
    }

    fn ready(&self, trigger: &Trigger) -> Ready {
        match self
            .assemble(trigger)
            .unwrap_or_else(|fault| panic!("{fault}"))
        {
            Assembly::Ready(ready) => ready,
            Assembly::Skipped(_) => panic!("skipped"),
        }
    }

    /// What the last message of the prompt says.
    fn user(&self, question: &Value) -> String {
        let ready = self.ready(&self.trigger(question));
        let prompt = ready.prompt.unwrap();
        prompt.messages.last().unwrap().content.clone()
    }

    /// A whole run that the model answers, committed.
    fn run(&mut self, question: &Value, time: i64, answer: &str) -> Completion {
        let trigger = self.trigger_at(question, time);
        let ready = self.ready(&trigger);
        let reply = reply(answer);
        let completion = self
            .agent
            .complete(&trigger, &ready, Some(&reply), time + 3_000)
            .unwrap();
        if let (Some(store), Some(turn)) = (&mut self.store, completion.turn.clone()) {
            store.apply(turn);
        }
        completion
    }
}

fn reply(text: &str) -> Reply {
    Reply {
        text: text.to_owned(),
        finish_reason: "stop".to_owned(),
        ..Reply::default()
    }
}

/// Records as a snapshot shows them.
fn shown(records: &[NewRecord]) -> Value {
    let text = |bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => match serde_json::from_slice::<Value>(bytes) {
            Ok(mut value) => {
                // It changes with every field that configurations get.
                if let Some(hash) = value.get_mut("specHash") {
                    *hash = json!(format!("{} characters", hash.as_str().unwrap().len()));
                }
                value
            }
            Err(_) => String::from_utf8_lossy(bytes)
                .escape_debug()
                .to_string()
                .into(),
        },
        None => Value::Null,
    };
    records
        .iter()
        .map(|record| {
            let headers: Vec<String> = record
                .headers
                .iter()
                .map(|(name, value)| {
                    let value = value.as_deref().map(String::from_utf8_lossy);
                    format!("{name}: {}", value.unwrap_or("null".into()))
                })
                .collect();
            json!({"topic": record.topic, "partition": record.partition, "key": text(&record.key),
                "value": text(&record.value), "headers": headers})
        })
        .collect()
}

fn with_model(agent: &str) -> String {
    format!("{agent}\nmodel: {}", MODEL.replace('\n', " "))
}
