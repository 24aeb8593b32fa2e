//! The example, as its README tells it: run to the end, run and talked to, on the memory log and on a
//! real Kafka.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use support::*;

/// The answers of both turns, from what `--out` wrote.
fn answers(out: &Path, namespace: &str) -> Vec<String> {
    let mut runs = topic(out, &format!("{namespace}.agent.flight-assistant.runs"));
    runs.sort_by_key(|run| run["offset"].as_i64());
    let in_order: Vec<String> = runs
        .iter()
        .map(|run| run["value"]["model"]["answer"].as_str().unwrap().to_owned())
        .collect();
    let written: BTreeSet<String> = topic(out, &format!("{namespace}.answers"))
        .iter()
        .map(|answer| answer["value"]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(in_order.iter().cloned().collect::<BTreeSet<_>>(), written);
    in_order
}

#[test]
fn both_turns_are_answered_and_every_topic_is_written() {
    let user = User::new();
    let out = tempfile::tempdir().unwrap();
    let folder = example();
    let done = user.run(&[
        "up",
        folder.to_str().unwrap(),
        "--until-idle",
        "--out",
        out.path().to_str().unwrap(),
    ]);
    done.ok();
    assert_eq!(answers(out.path(), "default"), [DELAYED, OFFER]);
    // A newcomer's screen: events, origin of the context, the prompt, the answer.
    for part in [
        "171 events in",
        "default.flight-updates-",
        "# Booked flights",
        "│ Can you get me on another one",
        "1 turn of the conversation",
    ] {
        assert!(
            done.stdout.contains(part),
            "no {part:?} in:\n{}",
            done.stdout
        );
    }
    assert!(
        !done.stdout.contains('\x1b'),
        "colours go to terminals only"
    );

    let plan = user.run(&["explain", folder.to_str().unwrap(), "--output", "json"]);
    let plan: serde_json::Value = serde_json::from_str(plan.ok()).unwrap();
    for planned in plan["namespaces"][0]["topics"].as_array().unwrap() {
        topic(out.path(), planned["name"].as_str().unwrap());
    }
    let answer = &topic(out.path(), "default.answers")[0];
    for field in [
        "partition",
        "offset",
        "timestamp",
        "key",
        "value",
        "headers",
    ] {
        assert!(answer.get(field).is_some(), "no {field} in {answer}");
    }
    assert!(
        answer["headers"]["headwater-trigger"]
            .as_str()
            .unwrap()
            .starts_with("default.questions-")
    );
    // State, marks included, and the conversation are there to be read too.
    assert!(!topic(out.path(), "default.agent.flight-assistant.conversation").is_empty());
}

#[test]
fn an_event_sent_changes_the_next_answer_and_back() {
    let user = User::new();
    let up = user.up(&example(), &[]);
    changes_and_back(&user, &[]);
    assert_eq!(up.interrupt(), 0);
}

/// Asks, changes the flight, asks again, changes it back.
fn changes_and_back(user: &User, to: &[&str]) {
    let ask = |text: &str| {
        let mut arguments = vec!["--with", MAYA, text];
        arguments.extend(to);
        user.chat(&arguments).ok().to_owned()
    };
    let send = |update: &str| {
        let mut arguments = vec!["send", "flight-updates", update];
        arguments.extend(to);
        let done = user.run(&arguments);
        assert!(done.ok().contains(".flight-updates-"), "{done:?}");
    };
    assert_eq!(ask(IS_IT_ON_TIME), DELAYED);
    send(r#"{"flight_id": "LK103-2026-11-24", "status": "OnTime"}"#);
    assert_eq!(ask(IS_IT_ON_TIME), ON_TIME);
    send(r#"{"flight_id": "LK103-2026-11-24", "status": "Delayed"}"#);
    assert_eq!(ask(IS_IT_ON_TIME), DELAYED);
}

#[test]
fn each_customer_gets_what_their_data_and_fare_allow() {
    let user = User::new();
    let _up = user.up(&example(), &[]);
    let ask = |customer: &str, text: &str| {
        let with = format!(r#"{{"customer_id": "{customer}"}}"#);
        user.chat(&["--with", &with, text]).ok().to_owned()
    };
    let starts = |customer: &str, expected: &str| {
        let answer = ask(customer, ANOTHER_ONE);
        assert!(answer.starts_with(expected), "{customer}: {answer}");
        answer
    };
    starts("c-1030", "I am afraid not. Basic fares cannot be changed.");
    starts(
        "c-1033",
        "I am sorry: no later flight from San Francisco to New York that day has a window seat left.",
    );
    let flex = starts("c-1007", "Yes: LK 309 leaves Boston");
    assert!(flex.contains("can be changed without a fee"), "{flex}");
    let cancelled = starts("c-1058", "Yes: LK 307 leaves Boston");
    assert!(
        cancelled.contains("is waived, as LK 305 is cancelled"),
        "{cancelled}"
    );
    starts("c-1090", "I find no booking of yours");
    assert!(ask("c-1007", "Is my flight on time?").starts_with("Yes: LK 307 from Boston (BOS)"));

    // The seat that is offered is one that is free: once it is taken, another one.
    let seats = r#"{"flight_id": "LK107-2026-11-24", "free": {"window": [], "aisle": ["29C"], "middle": []}}"#;
    user.run(&["send", "seats", "--key", "LK107-2026-11-24", seats])
        .ok();
    let later = starts("c-1042", "Yes: LK 123 leaves London (LHR) at 15:50");
    assert!(later.contains("window seat 42A"), "{later}");
}

#[test]
fn a_conversation_remembers_and_another_one_does_not() {
    let user = User::new();
    let _up = user.up(&example(), &[]);
    let ask = |key: &str, text: &str| {
        user.chat(&["--with", MAYA, "--key", key, text])
            .ok()
            .to_owned()
    };
    // Maya flies to New York and back to London: which one is meant, only the conversation knows.
    let london = "My flight to London, is it on time?";
    assert!(ask("one", london).starts_with("Yes: LK 102 from New York (JFK)"));
    let rebooked = ask("one", ANOTHER_ONE);
    assert!(
        rebooked.starts_with("Yes: LK 104 leaves New York (JFK)"),
        "{rebooked}"
    );
    assert_eq!(ask("two", ANOTHER_ONE), OFFER);
}

#[test]
fn lines_of_standard_input_are_one_conversation() {
    use std::io::Write as _;
    let user = User::new();
    let _up = user.up(&example(), &[]);
    let mut child = user
        .headwater()
        .args(["chat", "flight-assistant", "--with", MAYA])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let questions = format!("{IS_IT_ON_TIME}\n\n{ANOTHER_ONE}\n");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(questions.as_bytes())
        .unwrap();
    let done = Done::new(child.wait_with_output().unwrap());
    assert_eq!(done.ok(), format!("{DELAYED}\n{OFFER}"));
    let past = user.run(&[
        "prompts",
        "flight-assistant",
        "--limit",
        "1",
        "--show",
        "full",
    ]);
    assert!(
        past.ok().contains("│ Can you get me on another one"),
        "{past:?}"
    );
    assert!(
        past.stdout.contains("1 turn of the conversation"),
        "{past:?}"
    );
}

#[test]
fn on_kafka_the_answers_are_the_same() {
    let kafka = headwater_testbed::kafka().unwrap();
    let user = User::new();
    let folder = example();
    let folder = folder.to_str().unwrap();
    let namespace = format!("cli-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));
    let on_kafka = ["--kafka", kafka.bootstrap(), "--namespace", &namespace];
    let out = tempfile::tempdir().unwrap();
    let mut arguments = vec![
        "up",
        folder,
        "--until-idle",
        "--out",
        out.path().to_str().unwrap(),
    ];
    arguments.extend(on_kafka);
    user.run(&arguments).ok();
    assert_eq!(answers(out.path(), &namespace), [DELAYED, OFFER]);

    // The same topics again: what is there is found, what is fed again changes nothing.
    let up = user.up(Path::new(folder), &on_kafka);
    let direct = [
        "--kafka",
        kafka.bootstrap(),
        "--namespace",
        &namespace,
        "--resources",
        folder,
    ];
    changes_and_back(&user, &direct);
    assert_eq!(up.interrupt(), 0);
}
