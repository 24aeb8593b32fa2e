//! The example of agents that pass work to each other, as its README tells it, on the memory log and on a real Kafka:
//! every reply, the way that each ticket took, and the circle that was ended.

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

/// Ticket, EUR, reply; those of one ticket in the order in which they are given.
const REPLIES: [(&str, i64, &str); 5] = [
    (
        "t-1",
        49,
        "N-402 and N-401 are both for November: you get 49 EUR back within three days.",
    ),
    (
        "t-1",
        0,
        "It is not you: Uploads from the north are slow since 07:40; files that failed are sent again by themselves.",
    ),
    (
        "t-2",
        0,
        "It is not you: Uploads from the north are slow since 07:40; files that failed are sent again by themselves.",
    ),
    (
        "t-3",
        0,
        "Aoife Byrne, a colleague looks at your refund today and writes to you.",
    ),
    (
        "t-5",
        0,
        "We find one invoice for November, N-415 over 9 EUR, and no second one.",
    ),
];

const AGENTS: [&str; 3] = ["dispatcher", "specialist", "reviewer"];

fn folder() -> PathBuf {
    root().join("examples/triage")
}

/// Runs the example to its end and checks everything that it wrote.
fn run(user: &User, namespace: &str, more: &[&str]) {
    let out = user.run_folder(&folder(), more);
    replies(out.path(), namespace);
    let chains = chains(out.path(), namespace);
    ways(&chains, out.path(), namespace);
    circle(&chains, out.path(), namespace);
}

fn replies(out: &Path, namespace: &str) {
    let mut written: Vec<(String, i64, String)> = topic(out, &format!("{namespace}.replies"))
        .iter()
        .map(|record| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let refund = record["value"]["refund"].as_i64().unwrap();
            (text(&record["key"]), refund, text(&record["value"]["text"]))
        })
        .collect();
    // One ticket is one key, so that its replies keep their order.
    written.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = REPLIES.map(|(ticket, refund, text)| (ticket.into(), refund, text.into()));
    assert_eq!(written, expected);
}

/// The runs of each chain, by the ticket that it began with: agent, hops, outcome.
fn chains(out: &Path, namespace: &str) -> BTreeMap<String, Vec<(String, u64, String)>> {
    let tickets: BTreeMap<String, String> = topic(out, &format!("{namespace}.tickets"))
        .into_iter()
        .map(|record| {
            let position = format!(
                "{namespace}.tickets-{}-{}",
                record["partition"], record["offset"]
            );
            (position, record["key"].as_str().unwrap().to_owned())
        })
        .collect();
    let mut chains: BTreeMap<String, Vec<(String, u64, String)>> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for agent in AGENTS {
        for record in topic(out, &format!("{namespace}.agent.{agent}.runs")) {
            let run = &record["value"];
            // A runs topic also has where the agent stood.
            let Some(id) = run["run"].as_str() else {
                continue;
            };
            assert!(ids.insert(id.to_owned()), "run {id} ended twice");
            let root = run["root"].as_str().unwrap();
            chains.entry(tickets[root].clone()).or_default().push((
                agent.to_owned(),
                run["hops"].as_u64().unwrap(),
                run["outcome"].as_str().unwrap().to_owned(),
            ));
        }
    }
    for runs in chains.values_mut() {
        runs.sort_by_key(|(agent, hops, _)| (*hops, agent.clone()));
    }
    chains
}

fn way(steps: &[(&str, u64)]) -> Vec<(String, u64, String)> {
    let step = |(agent, hops): &(&str, u64)| ((*agent).to_owned(), *hops, "Done".to_owned());
    steps.iter().map(step).collect()
}

/// Which agents each ticket passed, and that what they wrote says so in its headers.
fn ways(chains: &BTreeMap<String, Vec<(String, u64, String)>>, out: &Path, namespace: &str) {
    let straight = way(&[("dispatcher", 1), ("specialist", 2), ("reviewer", 3)]);
    assert_eq!(chains["t-2"], straight);
    assert_eq!(chains["t-5"], straight);
    // Two concerns are two cases, each with a draft of its own.
    let twice = [
        ("dispatcher", 1),
        ("specialist", 2),
        ("specialist", 2),
        ("reviewer", 3),
        ("reviewer", 3),
    ];
    assert_eq!(chains["t-1"], way(&twice));
    // The reviewer objected to the first draft.
    let again = [
        ("dispatcher", 1),
        ("specialist", 2),
        ("reviewer", 3),
        ("specialist", 4),
        ("reviewer", 5),
    ];
    assert_eq!(chains["t-3"], way(&again));
    for (source, agent) in [
        ("cases", "dispatcher"),
        ("drafts", "specialist"),
        ("replies", "reviewer"),
    ] {
        for record in topic(out, &format!("{namespace}.{source}")) {
            let headers = &record["headers"];
            let hops: u64 = headers["headwater-hops"].as_str().unwrap().parse().unwrap();
            let by = headers["headwater-agent"].as_str().unwrap();
            // What came back to the cases was the reviewer's.
            let objected = record["value"]["objection"].is_string();
            let expected = if objected { "reviewer" } else { agent };
            assert_eq!(by, format!("{namespace}/{expected}"));
            assert!((1..=6).contains(&hops), "{record}");
        }
    }
}

/// The ticket that no desk wants goes round until it has passed six agents, and ends in one dead letter.
fn circle(chains: &BTreeMap<String, Vec<(String, u64, String)>>, out: &Path, namespace: &str) {
    let mut expected = way(&[
        ("dispatcher", 1),
        ("specialist", 2),
        ("dispatcher", 3),
        ("specialist", 4),
        ("dispatcher", 5),
        ("specialist", 6),
    ]);
    expected.push(("dispatcher".to_owned(), 7, "Failed".to_owned()));
    assert_eq!(chains["t-4"], expected);
    let letters = topic(out, &format!("{namespace}.agent.dispatcher.dead"));
    assert_eq!(letters.len(), 1, "{letters:?}");
    let headers = &letters[0]["headers"];
    assert_eq!(headers["headwater-reason"], "TooManyHops");
    assert_eq!(headers["headwater-key"], "t-4");
    assert_eq!(letters[0]["value"]["customer"], "c-2");
    for agent in ["specialist", "reviewer"] {
        assert_eq!(
            topic(out, &format!("{namespace}.agent.{agent}.dead")),
            Vec::<Value>::new()
        );
    }
}

#[test]
fn in_memory_every_ticket_is_answered_or_ended() {
    run(&User::new(), "default", &[]);
}

#[test]
fn on_kafka_every_ticket_is_answered_or_ended() {
    let kafka = headwater_testbed::kafka().unwrap();
    let namespace = format!("triage-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));
    let more = ["--kafka", kafka.bootstrap(), "--namespace", &namespace];
    run(&User::new(), &namespace, &more);
}

#[test]
fn what_changes_changes_the_next_reply() {
    let user = User::new();
    let mut up = user.up(&folder(), &[]);
    let resolved = r#"{"component": "uploads", "state": "Resolved", "text": "Uploads are back."}"#;
    user.run(&["send", "incidents", "--key", "inc-7", resolved])
        .ok();
    let ticket = r#"{"customer": "c-2", "text": "My upload fails again."}"#;
    user.run(&["send", "tickets", "--key", "t-6", ticket]).ok();
    let reply = loop {
        let run = up.wait_for("run")["record"].clone();
        if run["agent"] == "default/reviewer" && run["trigger"]["key"] == "t-6" {
            break run;
        }
    };
    assert_eq!(reply["outputs"][0]["topic"], "default.replies");
    let draft = reply["input"]["event"]["reply"].clone();
    assert_eq!(
        draft,
        json!("We see no trouble with uploads. Please send us the name of a file that fails.")
    );
}
