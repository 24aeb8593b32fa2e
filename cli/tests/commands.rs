//! What commands say and how they end: mistakes of every kind, and who may talk to a running `up`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use support::*;

#[test]
fn what_does_not_exist_is_named_with_what_does() {
    let user = User::new();
    let nobody = user.chat(&["--with", MAYA, "hello"]);
    assert!(
        nobody
            .refused(1)
            .contains("no 'headwater up' is running for this user"),
        "{nobody:?}"
    );

    let _up = user.up(&example(), &[]);
    let agent = user.run(&["chat", "flight-asistant", "--with", MAYA, "hello"]);
    assert!(
        agent
            .refused(1)
            .contains("there is no agent 'flight-asistant'; did you mean 'flight-assistant'?"),
        "{agent:?}"
    );
    let source = user.run(&["send", "flight-update", "{}"]);
    assert!(
        source
            .refused(1)
            .contains("there is no source 'flight-update'; did you mean 'flight-updates'?"),
        "{source:?}"
    );
    let other = user.run(&["send", "flights", "{}", "--to", "shop"]);
    assert!(
        other
            .refused(1)
            .contains("no 'headwater up' is named 'shop'; running: flight-assistant (port "),
        "{other:?}"
    );
}

#[test]
fn an_event_that_does_not_fit_is_refused_and_not_sent() {
    let user = User::new();
    let _up = user.up(&example(), &[]);
    let send = |event: &str| user.run(&["send", "flight-updates", event]);
    let schema = send(r#"{"flight_id": "LK103-2026-11-24", "status": "Lost"}"#);
    assert!(
        schema.refused(1).contains("SchemaMismatch: `/status`"),
        "{schema:?}"
    );
    let syntax = send(r#"{"flight_id": "#);
    assert!(
        syntax.refused(1).contains("takes JSON, and this is none"),
        "{syntax:?}"
    );
    let keyless = user.run(&[
        "send",
        "seats",
        r#"{"flight_id": "x", "free": {"window": [], "aisle": [], "middle": []}}"#,
    ]);
    assert!(keyless.refused(1).contains("needs a key"), "{keyless:?}");
    // The first one that fits has the offset after the example's own: none of the others is in the log.
    let sent = send(r#"{"flight_id": "LK103-2026-11-24", "status": "OnTime"}"#);
    assert_eq!(sent.ok(), "default.flight-updates-1-8");
}

#[test]
fn a_run_that_fails_says_why_and_what_was_written() {
    let user = User::new();
    let _up = user.up(&example(), &[]);
    let unknown = user.chat(&["--with", r#"{"customer_id": "c-0"}"#, IS_IT_ON_TIME]);
    assert!(
        unknown
            .refused(3)
            .contains("RequiredSlotEmpty: slot 'customer'"),
        "{unknown:?}"
    );
    assert_eq!(
        unknown.stdout.trim(),
        "I cannot answer this now. Please ask at the desk."
    );
}

#[test]
fn events_come_from_files_too() {
    let user = User::new();
    let _up = user.up(&example(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("updates.ndjson");
    let file = file.to_str().unwrap();
    let lines = "{\"value\": {\"flight_id\": \"LK103-2026-11-24\", \"status\": \"OnTime\"}, \"timestamp\": \"2026-11-24T10:30:00Z\"}\n";
    std::fs::write(file, lines).unwrap();
    user.run(&["send", "flight-updates", "--file", file]).ok();
    assert_eq!(user.chat(&["--with", MAYA, IS_IT_ON_TIME]).ok(), ON_TIME);
    std::fs::write(file, "{\"value\": 1}\n{\"valeu\": 1}\n").unwrap();
    let wrong = user.run(&["send", "flight-updates", "--file", file]);
    assert!(
        wrong
            .refused(2)
            .contains("updates.ndjson:2:8: not an event: unknown field `valeu`"),
        "{wrong:?}"
    );
}

#[test]
fn two_at_once_are_told_apart_and_one_port_is_had_once() {
    let user = User::new();
    let folder = example();
    let first = user.up(&folder, &[]);
    let second = user.up(&folder, &[]);
    let update = r#"{"flight_id": "LK103-2026-11-24", "status": "OnTime"}"#;
    let port = |up: &Up| up.address.rsplit(':').next().unwrap().to_owned();
    user.run(&["send", "flight-updates", update, "--to", &port(&first)])
        .ok();
    let ask = |up: &Up| {
        user.chat(&["--with", MAYA, IS_IT_ON_TIME, "--to", &port(up)])
            .ok()
            .to_owned()
    };
    assert_eq!(
        (ask(&first).as_str(), ask(&second).as_str()),
        (ON_TIME, DELAYED)
    );
    // Without --to it is the one started last.
    assert_eq!(user.chat(&["--with", MAYA, IS_IT_ON_TIME]).ok(), DELAYED);
    let taken = user.run(&["up", folder.to_str().unwrap(), "--listen", &first.address]);
    assert!(
        taken
            .refused(3)
            .contains("is another 'headwater up' running?"),
        "{taken:?}"
    );
    assert_eq!(second.interrupt(), 0);
    assert_eq!(user.chat(&["--with", MAYA, IS_IT_ON_TIME]).ok(), ON_TIME);
}

/// Status of a request made by hand.
fn status(address: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    let body = r#"{"source": "flight-updates", "body": "{}"}"#;
    let request = format!(
        "POST /v1/send HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn nobody_comes_in_without_the_token() {
    let user = User::new();
    let up = user.up(&example(), &[]);
    let host = format!("Host: {}\r\n", up.address);
    assert_eq!(status(&up.address, &host), 401);
    assert_eq!(
        status(
            &up.address,
            &format!("{host}Authorization: Bearer wrong\r\n")
        ),
        401
    );
    assert_eq!(
        status(
            &up.address,
            &format!("{host}Origin: http://evil.example\r\n")
        ),
        403
    );
    assert_eq!(status(&up.address, "Host: evil.example\r\n"), 421);
    let outside = user.run(&["up", "examples/flight-assistant", "--listen", "0.0.0.0:0"]);
    assert!(
        outside
            .refused(2)
            .contains("is not an address of this machine alone"),
        "{outside:?}"
    );
}

#[test]
fn broken_resources_start_nothing() {
    let user = User::new();
    let done = user.run(&[
        "up",
        "cli/tests/validate/unknown-reference.yaml",
        "--until-idle",
    ]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("unknown-reference.yaml:"), "{done:?}");
    assert!(done.stderr.ends_with("nothing was started\n"), "{done:?}");
    let empty = tempfile::tempdir().unwrap();
    let none = user.run(&["validate", empty.path().to_str().unwrap()]);
    assert!(
        none.refused(2)
            .contains("holds no .yaml, .yml or .json file"),
        "{none:?}"
    );
    let gone = user.run(&["validate", "no/such/folder"]);
    assert!(
        gone.refused(3).contains("cannot read no/such/folder"),
        "{gone:?}"
    );
}

#[test]
fn a_kafka_that_does_not_answer_is_named() {
    let user = User::new();
    // A port that was free a moment ago, and that nobody listens on.
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let done = user.run(&["up", "examples/flight-assistant", "--kafka", &address]);
    assert!(done.refused(3).contains("kafka did not answer"), "{done:?}");
}

#[test]
fn bad_records_are_said_and_kept_and_stop_nothing() {
    let user = User::new();
    let out = tempfile::tempdir().unwrap();
    let folder = "cli/tests/folders/bad-records";
    let done = user.run(&[
        "up",
        folder,
        "--until-idle",
        "--out",
        out.path().to_str().unwrap(),
    ]);
    done.ok();
    let refused = "! view facts: the record at default.facts-";
    assert_eq!(done.stdout.matches(refused).count(), 2, "{done:?}");
    assert!(!done.stdout.contains('\x1b'), "{done:?}");
    let reasons = |name: &str| -> Vec<String> {
        let letters = topic(out.path(), name);
        letters
            .iter()
            .map(|letter| {
                letter["headers"]["headwater-reason"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    assert_eq!(reasons("default.view.facts.dead"), ["SchemaMismatch"; 2]);
    assert_eq!(reasons("default.agent.notary.dead"), ["AbsentField"]);
    // Of four questions one was asked about a fact, one found none, one is not for the agent.
    let notes = topic(out.path(), "default.notes");
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0]["value"], "Fact a");
    assert!(
        done.stdout.contains("notary skipped default.questions-"),
        "{done:?}"
    );
}

#[test]
fn secrets_come_from_the_environment_and_are_missed_by_name() {
    let user = User::new();
    let folder = "cli/tests/folders/secret";
    let missing = user.run(&["up", folder, "--until-idle"]);
    assert_eq!(missing.code, 1, "{missing:?}");
    assert!(
        missing.stderr.contains("Secret 'openai' not found"),
        "{missing:?}"
    );
    assert!(
        missing.stderr.contains("HEADWATER_SECRET_OPENAI_API_KEY"),
        "{missing:?}"
    );
    let output = user
        .headwater()
        .args(["up", folder, "--until-idle"])
        .env("HEADWATER_SECRET_OPENAI_API_KEY", "never-shown")
        .output()
        .unwrap();
    let there = Done::new(output);
    there.ok();
    assert!(!format!("{there:?}").contains("never-shown"));
}

#[test]
fn the_definitions_are_six() {
    let user = User::new();
    let printed = user.run(&["crds"]);
    assert_eq!(
        printed
            .ok()
            .matches("kind: CustomResourceDefinition")
            .count(),
        6
    );
    let out = tempfile::tempdir().unwrap();
    user.run(&["crds", "--out", out.path().to_str().unwrap()])
        .ok();
    let mut files: Vec<_> = std::fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert_eq!(
        files,
        [
            "agents.yaml",
            "contextviews.yaml",
            "eventsources.yaml",
            "kafkaclusters.yaml",
            "models.yaml",
            "toolservers.yaml"
        ]
    );
}
