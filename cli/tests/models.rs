//! `--model`: the same example, answered by a server that speaks the OpenAI protocol.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::{Value, json};
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
