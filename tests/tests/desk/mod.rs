//! A help desk, run by agents, for tests of what runs promise: its topics and configuration, its customers, the model behind it, and a
//! naive check of what the topics have to say.
//!
//! `questions` trigger the agent `helper`, which reads the views `facts` (folded from the source) and `notes` (through an input log of
//! its own), remembers its customers, asks a model for JSON, which it may have to ask twice, calls tools where the model wants it, and
//! which people have to approve where it is dear,
//! writes `answers`, `offers` (one record an item) and, of runs that failed, `alarms`. `answers` trigger the agent `archive`, which has no model. `calls` trigger the agent
//! `caller` through an input log of its own, once for each row of the view `rows` that a call names; it writes `called`.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "shared by test binaries, which use parts of it; a test fails by panicking, and draws small numbers"
)]

pub mod agent;
pub mod approvals;
pub mod check;
pub mod context;
pub mod memory;
pub mod model;

use crate::draw::Draw;
use serde_json::{Value, json};

/// Name and partitions. `notes` has one, so that its order is the log's.
pub const SOURCES: [(&str, i32); 10] = [
    ("facts", 3),
    ("notes", 1),
    ("questions", 4),
    ("answers", 4),
    ("offers", 2),
    ("alarms", 2),
    ("archive", 2),
    ("rows", 2),
    ("calls", 3),
    ("called", 2),
];
pub const GENERATION: &str = "000001";
/// Of the view `notes`' own input log.
const NOTES: i32 = 3;
/// Those that have a stage; `rows` is folded by who reads it alone.
pub const VIEWS: [&str; 2] = ["facts", "notes"];
/// Of the agent `caller`'s own input log.
const CALLS: i32 = 4;
/// A group, with the namespace left out, and the topic whose end it has to reach.
pub const GROUPS: [(&str, &str); 4] = [
    ("agent.helper.runs", "questions"),
    ("agent.archive.runs", "answers"),
    ("agent.caller.intake", "calls"),
    ("agent.caller.runs", "agent.caller.in"),
];
/// Where people are asked, with the namespace left out.
pub const APPROVALS: &str = "agent.helper.approvals";
/// How long they have.
const APPROVAL_MS: u64 = 8_000;
/// Rows that calls may name; they are the first records, and stay.
pub const ROWS: u64 = 8;
/// Far more often than any run's process is killed: no run is to be taken for what kills it.
const ATTEMPTS: u32 = 100;
/// Turns of a conversation.
pub const TURNS: usize = 4;
const CUSTOMERS: usize = 30;
const FACTS: usize = 25;

/// What a question is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Left out by the filter, or a delete.
    Ignored,
    /// No event at all.
    Refused,
    /// `when` is false.
    Skipped,
    /// The model refuses it for good.
    Failed,
    Done,
}

/// Name, partitions, and whether it is compacted.
pub fn topics(namespace: &str) -> Vec<(String, i32, bool)> {
    let partitions = |source: &str| partitions(source);
    let mut topics: Vec<_> = SOURCES
        .iter()
        .map(|(name, count)| (format!("{namespace}.{name}"), *count, false))
        .collect();
    let mut topic = |name: String, count, compacted| {
        topics.push((format!("{namespace}.{name}"), count, compacted));
    };
    topic(
        format!("view.facts.{GENERATION}"),
        partitions("facts"),
        true,
    );
    topic(format!("view.notes.{GENERATION}"), NOTES, true);
    topic(format!("view.notes.{GENERATION}-in"), NOTES, false);
    topic(format!("view.rows.{GENERATION}"), partitions("rows"), true);
    for view in ["facts", "notes", "rows"] {
        topic(format!("view.{view}.dead"), 1, false);
    }
    topic("agent.caller.in".to_owned(), CALLS, false);
    topic("agent.caller.journal".to_owned(), CALLS, true);
    topic("agent.caller.runs".to_owned(), CALLS, false);
    topic("agent.caller.dead".to_owned(), 1, false);
    for (agent, trigger) in [("helper", "questions"), ("archive", "answers")] {
        topic(format!("agent.{agent}.journal"), partitions(trigger), true);
        topic(format!("agent.{agent}.runs"), partitions(trigger), false);
        topic(format!("agent.{agent}.dead"), 1, false);
    }
    topic(
        "agent.helper.conversation".to_owned(),
        partitions("questions"),
        true,
    );
    topic(APPROVALS.to_owned(), partitions("questions"), false);
    topics
}

pub fn partitions(source: &str) -> i32 {
    let found = SOURCES.iter().find(|(name, _)| *name == source);
    found.unwrap().1
}

/// Configuration of a view's stage.
pub fn view(namespace: &str, kafka: &Value, name: &str) -> Value {
    stage(namespace, kafka, &json!({"view": {"name": name}}))
}

/// Configuration of the agent `helper`, whose model is at `provider` and whose tools are at `tools`.
pub fn helper(namespace: &str, kafka: &Value, provider: &Value, tools: &Value) -> Value {
    let topic = |name: &str| format!("{namespace}.{name}");
    let slot = |name: &str, key: &str| {
        json!({
            "name": name,
            "lookup": {"view": format!("{name}s"), "by": {"key": key}, "index": null, "where": null,
                "orderBy": null, "order": "Ascending", "limit": 20},
            "required": false, "budgetTokens": null, "priority": 0, "maxStalenessMs": null,
            "onStale": "Mark",
        })
    };
    let agent = json!({
        "name": "helper",
        "trigger": {"from": {"source": "questions"}, "startFrom": "Earliest", "deletes": "Ignore",
            "filter": "event.kind != 'ignore'", "key": null},
        "slots": [slot("fact", "event.fact"), slot("note", "event.customer")],
        "freshnessWaitMs": 5_000,
        "when": "event.kind != 'skip'",
        "conversation": {"turns": TURNS, "expireAfterMs": 86_400_000, "userText": null},
        "prompt": {
            "system": "You answer in one word.",
            "user": "n={{ event.n }} kind={{ event.kind }} fact={{ context.fact.v if context.fact else 'none' }} note={{ context.note.n if context.note else 'none' }}",
        },
        "model": {
            "name": "chat", "provider": provider, "model": "scripted", "parameters": {},
            "contextWindowTokens": 32_768, "maxOutputTokens": 1_024, "requestTimeoutMs": 10_000,
            "retry": {"maxAttempts": 2, "initialBackoffMs": 10, "maxBackoffMs": 20},
        },
        "resultSchema": {"type": "object", "required": ["call"], "properties": {"call": {"type": "integer"}}},
        "tools": {
            "maxRounds": 2,
            "servers": {"desk": {"name": "desk", "provider": tools, "timeoutMs": 10_000}},
            "tools": [tool(model::BOOK, "Never"), tool(model::MARK, "Always")],
            "policy": [{"name": "dear", "tools": [model::BOOK], "when": "event.kind == 'dear'",
                "action": "RequireApproval", "message": "Book {{ event.n }}?"}],
            "approval": {"timeoutMs": APPROVAL_MS, "requests": null},
        },
        "outputs": [
            output(namespace, "answers", "Done", Some("event.to"), "{'n': event.n, 'call': result.json.call}", None),
            output(namespace, "offers", "Done", Some("item"), "{'n': event.n, 'offer': item, 'call': result.json.call}", Some("event.offers")),
            output(namespace, "alarms", "Failed", Some("event.to"), "{'n': event.n, 'reason': failure.reason}", None),
        ],
        "delivery": {"maxAttempts": ATTEMPTS, "attemptTimeoutMs": 20_000, "maxHops": 16, "onFailure": "DeadLetter"},
        "audit": "Full",
        "concurrency": 32,
        "topics": {
            "conversation": topic("agent.helper.conversation"), "journal": topic("agent.helper.journal"),
            "runs": topic("agent.helper.runs"), "dead": topic("agent.helper.dead"),
            "approvals": topic(APPROVALS),
        },
    });
    stage(namespace, kafka, &json!({"agent": agent}))
}

/// Configuration of the agent `archive`.
pub fn archive(namespace: &str, kafka: &Value) -> Value {
    let topic = |name: &str| format!("{namespace}.{name}");
    let agent = json!({
        "name": "archive",
        "trigger": {"from": {"source": "answers"}, "startFrom": "Earliest", "deletes": "Ignore",
            "filter": null, "key": null},
        "slots": [], "freshnessWaitMs": 250, "when": null, "conversation": null, "prompt": null,
        "model": null,
        "outputs": [output(namespace, "archive", "Done", None, "{'n': event.n}", None)],
        "delivery": {"maxAttempts": ATTEMPTS, "attemptTimeoutMs": 20_000, "maxHops": 16, "onFailure": "DeadLetter"},
        "audit": "Full", "concurrency": 16,
        "topics": {"conversation": null, "journal": topic("agent.archive.journal"),
            "runs": topic("agent.archive.runs"), "dead": topic("agent.archive.dead")},
    });
    stage(namespace, kafka, &json!({"agent": agent}))
}

/// Configuration of the agent `caller`.
pub fn caller(namespace: &str, kafka: &Value) -> Value {
    let topic = |name: &str| format!("{namespace}.{name}");
    let agent = json!({
        "name": "caller",
        "trigger": {"from": {"source": "calls"}, "startFrom": "Earliest", "deletes": "Ignore",
            "filter": null, "key": null, "input": topic("agent.caller.in"),
            "forEach": {"view": "rows", "by": {"keys": "event.rows"}, "index": null, "where": null,
                "orderBy": null, "order": "Ascending", "limit": 1}},
        "slots": [], "freshnessWaitMs": 250, "when": null, "conversation": null, "prompt": null,
        "model": null,
        "outputs": [output(namespace, "called", "Done", None, "{'n': event.n, 'row': match.r}", None)],
        "delivery": {"maxAttempts": ATTEMPTS, "attemptTimeoutMs": 20_000, "maxHops": 16, "onFailure": "DeadLetter"},
        "audit": "Full", "concurrency": 16,
        "topics": {"conversation": null, "journal": topic("agent.caller.journal"),
            "runs": topic("agent.caller.runs"), "dead": topic("agent.caller.dead")},
    });
    stage(namespace, kafka, &json!({"agent": agent}))
}

fn tool(name: &str, repeat: &str) -> Value {
    json!({"name": name, "description": null, "fixed": {"customer": "event.customer"},
        "does": {"server": {"server": "desk", "tool": name, "repeat": repeat}}})
}

/// The tools as their server lists them: name, description and schema.
pub fn listed() -> [(&'static str, &'static str, Value); 2] {
    let schema = json!({"type": "object", "required": ["n", "customer"],
        "properties": {"n": {"type": "integer"}, "customer": {"type": "string"}}});
    [
        (model::BOOK, "Books.", schema.clone()),
        (model::MARK, "Marks.", schema),
    ]
}

fn output(
    namespace: &str,
    name: &str,
    outcome: &str,
    key: Option<&str>,
    value: &str,
    items: Option<&str>,
) -> Value {
    json!({
        "name": name, "source": name, "topic": format!("{namespace}.{name}"), "format": "Json",
        "outcome": outcome, "when": null, "items": items, "key": key, "value": value,
    })
}

fn stage(namespace: &str, kafka: &Value, role: &Value) -> Value {
    let sources = SOURCES.iter().map(|(name, _)| {
        let source = json!({
            "name": name, "topic": format!("{namespace}.{name}"), "format": "Json",
            "keyFormat": "Text", "schema": null, "key": null, "eventTime": null,
            "invalidRecords": "DeadLetter",
        });
        ((*name).to_owned(), source)
    });
    let state = |name: &str| format!("{namespace}.view.{name}.{GENERATION}");
    let view = |name: &str, key: Option<&str>, input: Value| {
        json!({
            "name": name, "generation": GENERATION,
            "from": [{"name": name, "source": name, "required": false, "filter": null, "key": key,
                "value": null, "delete": null}],
            "fold": {"latest": {"merge": "Replace"}}, "indexes": [], "input": input,
            "stateTopic": state(name), "deadTopic": format!("{namespace}.view.{name}.dead"),
        })
    };
    let source = |name: &str| json!({"source": {"topic": format!("{namespace}.{name}")}});
    let notes = json!({"own": {"topic": format!("{}-in", state("notes"))}});
    json!({
        "namespace": namespace, "kafka": kafka,
        "sources": sources.collect::<serde_json::Map<_, _>>(),
        "views": {
            "facts": view("facts", None, source("facts")),
            "rows": view("rows", None, source("rows")),
            "notes": view("notes", Some("event.customer"), notes),
        },
        "role": role,
    })
}

/// Record `n` of the applications: its source, key and value. All up to `acknowledged` are in the log for sure.
pub fn event(
    draw: &mut Draw,
    n: u64,
    acknowledged: u64,
) -> (&'static str, Option<String>, Option<String>) {
    if n <= ROWS {
        return (
            "rows",
            Some(row(n - 1)),
            Some(json!({"r": n - 1}).to_string()),
        );
    }
    let customer = format!("c-{}", draw.below(CUSTOMERS));
    match draw.below(100) {
        0..8 if acknowledged >= ROWS => {
            // One that there is not, now and then.
            let rows: Vec<_> = (0..=ROWS).filter(|_| draw.percent(25)).map(row).collect();
            let value = json!({"n": n, "rows": rows});
            ("calls", Some(format!("k-{n}")), Some(value.to_string()))
        }
        0..30 => {
            let key = Some(format!("f-{}", draw.below(FACTS)));
            let value = (!draw.percent(5)).then(|| json!({"v": n}).to_string());
            ("facts", key, value)
        }
        30..45 => {
            let value = json!({"n": n, "customer": customer});
            ("notes", Some(format!("n-{n}")), Some(value.to_string()))
        }
        _ => question(draw, n, acknowledged, customer),
    }
}

fn row(number: u64) -> String {
    format!("r-{number}")
}

fn question(
    draw: &mut Draw,
    n: u64,
    acknowledged: u64,
    customer: String,
) -> (&'static str, Option<String>, Option<String>) {
    let kind = match draw.below(100) {
        0 => return ("questions", Some(customer), Some(format!("{{{n}"))),
        1 => return ("questions", Some(customer), None),
        2..7 => "ignore",
        7..13 => "skip",
        13..16 => "fail",
        16..21 => "flaky",
        21..23 => "odd",
        23..27 => "slow",
        27..35 => "unfit",
        35..42 => "book",
        42..45 => "dear",
        45..58 => "many",
        _ => "plain",
    };
    let offers = if kind == "many" { draw.below(4) } else { 0 };
    let offers: Vec<_> = (0..offers).map(|it| format!("{n}-{it}")).collect();
    let key = (!draw.percent(3)).then(|| customer.clone());
    // Its run ends when people have answered, and others of its key in between: of no order.
    let key = key.filter(|_| kind != "dear");
    let value = json!({
        "n": n, "kind": kind, "fact": format!("f-{}", draw.below(FACTS)), "customer": customer,
        "to": customer, "offers": offers, "seen": acknowledged,
    });
    ("questions", key, Some(value.to_string()))
}

/// What is to become of a record of `questions`.
pub fn class_of(event: Option<&Value>, is_delete: bool) -> Class {
    if is_delete {
        return Class::Ignored;
    }
    let Some(event) = event else {
        return Class::Refused;
    };
    match event["kind"].as_str().unwrap() {
        "ignore" => Class::Ignored,
        "skip" => Class::Skipped,
        "fail" => Class::Failed,
        _ => Class::Done,
    }
}
