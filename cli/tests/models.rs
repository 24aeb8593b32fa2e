//! `--model`: the same example, answered by a server that speaks the OpenAI protocol.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use support::*;
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_asked_with_the_prompt_that_was_assembled() {
    let server = MockServer::start().await;
    let answer = json!({
        "choices": [{"message": {"role": "assistant", "content": "It is late.\u{1b}[2J"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 900, "completion_tokens": 4}
    });
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .and(header("authorization", "Bearer very-secret"))
        .respond_with(ResponseTemplate::new(200).set_body_json(answer))
        .expect(2)
        .mount(&server)
        .await;
    let model = format!("chat={}/v1#llama3.2", server.uri());
    let done = tokio::task::spawn_blocking(move || {
        let user = User::new();
        let output = user
            .headwater()
            .args([
                "up",
                "examples/flight-assistant",
                "--until-idle",
                "--model",
                &model,
            ])
            .env("HEADWATER_SECRET_CHAT_API_KEY", "very-secret")
            .output()
            .unwrap();
        Done::new(output)
    });
    let done = done.await.unwrap();
    done.ok();
    // What a model says is shown, and cannot do anything to the terminal.
    assert_eq!(
        done.stdout.matches("  It is late.\n").count(),
        2,
        "{done:?}"
    );
    assert!(!format!("{done:?}").contains("very-secret"));

    let requests = server.received_requests().await.unwrap();
    let bodies: Vec<Value> = requests
        .iter()
        .map(|request| request.body_json().unwrap())
        .collect();
    for body in &bodies {
        assert_eq!(body["model"], "llama3.2");
        let system = body["messages"][0]["content"].as_str().unwrap();
        assert!(
            system.contains("LK 103 (LK103-2026-11-24), Delayed by 145 minutes"),
            "{system}"
        );
    }
    let roles: Vec<&str> = bodies[1]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
}

/// The model takes so long that the last chair is sold meanwhile: it is sold while the answer is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_sees_what_happened_while_the_model_thought() {
    let server = MockServer::start().await;
    let user = Arc::new(User::new());
    let buyer = Arc::clone(&user);
    Mock::given(method("POST"))
        .respond_with(move |_: &wiremock::Request| {
            let sold = r#"{"left": 0}"#;
            buyer.run(&["send", "stock", "--key", "chair", sold]).ok();
            let choice = json!({"message": {"role": "assistant", "content": "Take the chair."}, "finish_reason": "stop"});
            ResponseTemplate::new(200).set_body_json(json!({"choices": [choice]}))
        })
        .mount(&server)
        .await;
    let model = format!("chat={}/v1#llama3.2", server.uri());
    let asked = tokio::task::spawn_blocking(move || {
        let mut up = user.up(
            &root().join("cli/tests/folders/shelf"),
            &["--model", &model],
        );
        let question = ["chat", "seller", "Which one shall I take?"];
        let first = user.run(&question).ok().to_owned();
        let record = up.wait_for("run")["record"].clone();
        (first, record)
    });
    let (first, record) = asked.await.unwrap();
    assert_eq!(first, "Sold out.");
    let told = record["prompt"]["messages"][0]["content"].as_str().unwrap();
    assert!(told.ends_with("There are 1 chairs."), "{told}");
    let (then, now) = (&record["slots"][0], &record["now"][0]);
    assert_eq!(then["rows"][0]["position"], "default.stock-0-0");
    assert_eq!(now["rows"][0]["position"], "default.stock-0-1");
    assert_eq!(now["staleSeconds"], 0);
}

#[test]
fn a_model_that_nobody_uses_is_named() {
    let user = User::new();
    let done = user.run(&[
        "up",
        "examples/flight-assistant",
        "--model",
        "chta=http://localhost:1/v1",
    ]);
    assert!(
        done.refused(2)
            .contains("no agent uses a model 'chta'; used: chat"),
        "{done:?}"
    );
    let done = user.run(&["up", "examples/flight-assistant", "--model", "chat"]);
    assert!(done.refused(2).contains("write NAME=URL"), "{done:?}");
}

/// The values of the `offers` that `up` wrote for a folder.
fn seats(out: &std::path::Path) -> Vec<String> {
    topic(out, "default.offers")
        .iter()
        .map(|record| record["value"]["seat"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_answer_that_does_not_fit_its_schema_is_sent_back_once() {
    let user = User::new();
    let out = tempfile::tempdir().unwrap();
    let written = out.path().to_str().unwrap();
    let folder = "cli/tests/folders/offers";
    user.run(&["up", folder, "--until-idle", "--out", written])
        .ok();
    assert_eq!(seats(out.path()), ["12A", "12B"]);
    let runs = topic(out.path(), "default.agent.seller.runs");
    let done = runs.iter().find(|run| run["value"]["outcome"] == "Done");
    let calls = &done.unwrap()["value"]["model"]["calls"];
    assert_eq!(calls[0]["answer"], "Seats 12A and 12B are free.");
    assert_eq!(calls.as_array().unwrap().len(), 2);
    // The step was kept while the run went on, and went with it.
    let journal = topic(out.path(), "default.agent.seller.journal");
    let of_step = |record: &&Value| record["key"].as_str().unwrap().ends_with("/1");
    let kept: Vec<bool> = journal
        .iter()
        .filter(of_step)
        .map(|record| !record["value"].is_null())
        .collect();
    assert_eq!(kept, [true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_asked_for_what_fits_the_schema_and_the_repair_has_a_key_of_its_own() {
    let server = MockServer::start().await;
    let answer = |text: &str| {
        ResponseTemplate::new(200).set_body_json(json!({
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        }))
    };
    Mock::given(method("POST"))
        .respond_with(answer("12A is free."))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .respond_with(answer("```json\n{\"offers\": [\"12A\"]}\n```"))
        .mount(&server)
        .await;
    let model = format!("chat={}/v1#small", server.uri());
    let seats = tokio::task::spawn_blocking(move || {
        let user = User::new();
        let out = tempfile::tempdir().unwrap();
        let written = out.path().to_str().unwrap();
        let folder = "cli/tests/folders/offers";
        let arguments = [
            "up",
            folder,
            "--until-idle",
            "--out",
            written,
            "--model",
            &model,
        ];
        user.run(&arguments).ok();
        seats(out.path())
    });
    assert_eq!(seats.await.unwrap(), ["12A"]);
    let requests = server.received_requests().await.unwrap();
    let keys: Vec<&str> = requests
        .iter()
        .map(|request| request.headers["idempotency-key"].to_str().unwrap())
        .collect();
    let run = keys[0].strip_suffix("-1").unwrap();
    assert_eq!(keys, [format!("{run}-1"), format!("{run}-2")]);
    for request in &requests {
        let body: Value = request.body_json().unwrap();
        let format = &body["response_format"]["json_schema"];
        assert_eq!(format["strict"], true);
        assert_eq!(format["schema"]["required"], json!(["offers"]));
    }
}
