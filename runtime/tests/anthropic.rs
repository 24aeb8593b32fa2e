//! The client of Anthropic's Messages API: what it sends, what it reads, and servers that behave badly.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use headwater_engine::config::{HttpHeader, HttpHeaderValue, Limits, Model, Provider, Retry};
use headwater_engine::model::{
    CallOutcome, Called, Message, Reply, Request, Role, Said, ToolCall, ToolSpec, Usage,
};
use headwater_runtime::clock::System;
use headwater_runtime::metrics::Metrics;
use headwater_runtime::model::{self, Error, Limiters};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

const KEY: &str = "sk-ant-very-secret";

struct Setup {
    base_url: String,
    parameters: Value,
    key_file: Option<String>,
    schema: Option<Value>,
    said: Vec<Said>,
    tools: Vec<ToolSpec>,
    may_call: bool,
    messages: Vec<Message>,
}

impl Setup {
    fn new(server: &MockServer) -> Self {
        Self {
            base_url: server.uri(),
            parameters: json!({}),
            key_file: None,
            schema: None,
            said: Vec::new(),
            tools: Vec::new(),
            may_call: true,
            messages: vec![
                Message::new(Role::System, "be brief"),
                Message::new(Role::User, "where is HW117?"),
                Message::new(Role::Assistant, "at gate B12"),
                Message::new(Role::User, "and now?"),
            ],
        }
    }

    fn config(&self) -> Model {
        Model {
            name: "chat".into(),
            provider: Provider::Anthropic {
                base_url: format!("{}/v1", self.base_url),
                api_key_file: self.key_file.clone(),
                headers: vec![HttpHeader {
                    name: "anthropic-beta".into(),
                    value: HttpHeaderValue::Text("something-2026".into()),
                }],
            },
            model: "claude".into(),
            parameters: self.parameters.as_object().unwrap().clone(),
            context_window_tokens: 1_000,
            max_output_tokens: 77,
            request_timeout_ms: 5_000,
            retry: Retry {
                max_attempts: 2,
                initial_backoff_ms: 1,
                max_backoff_ms: 5,
            },
            limits: Limits::default(),
            fallback: None,
        }
    }

    fn model(&self) -> Arc<dyn model::Model> {
        model::for_config(
            &self.config(),
            Arc::new(System),
            Arc::new(Metrics::new()),
            &Limiters::default(),
        )
        .unwrap()
    }

    async fn ask(&self, model: &dyn model::Model) -> Result<Reply, Error> {
        let config = self.config();
        let request = Request {
            messages: self.messages.clone().into(),
            model: config.model.clone(),
            parameters: config.parameters.clone(),
            max_output_tokens: config.max_output_tokens,
            schema: self.schema.clone().map(Arc::new),
            said: self.said.clone(),
            tools: self.tools.clone().into(),
            may_call: self.may_call,
            input: Arc::new(json!({})),
            idempotency_key: "run-0".into(),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        model.answer(&request, deadline).await
    }
}

fn message(text: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({
        "type": "message", "role": "assistant",
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 5, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 100, "output_tokens": 3},
    }))
}

/// Gives the first answer so often, and then another.
async fn after(times: u64, first: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    if times > 0 {
        Mock::given(method("POST"))
            .respond_with(first)
            .up_to_n_times(times)
            .mount(&server)
            .await;
    }
    Mock::given(method("POST"))
        .and(path("/v1/messages"))
        .and(header("anthropic-version", "2023-06-01"))
        .and(header("anthropic-beta", "something-2026"))
        .and(header("idempotency-key", "run-0"))
        .respond_with(message("late"))
        .mount(&server)
        .await;
    server
}

async fn bodies(server: &MockServer) -> Vec<Value> {
    let received = server.received_requests().await.unwrap();
    let body = |request: &wiremock::Request| serde_json::from_slice(&request.body).unwrap();
    received.iter().map(body).collect()
}

fn cached(text: &str) -> Value {
    json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}})
}

#[tokio::test]
async fn asks_with_a_prefix_to_be_cached_and_counts_all_tokens() {
    let server = after(0, message("")).await;
    let mut setup = Setup::new(&server);
    setup.parameters = json!({"temperature": 0.5, "tools": [1]});
    setup.messages.insert(1, Message::new(Role::System, ""));
    setup
        .messages
        .push(Message::new(Role::System, "it is noon"));
    let reply = setup.ask(&*setup.model()).await.unwrap();
    assert_eq!(
        reply,
        Reply {
            text: "late".into(),
            usage: Usage {
                input_tokens: Some(135),
                output_tokens: Some(3)
            },
            finish_reason: "end_turn".into(),
            ..Reply::default()
        }
    );
    assert_eq!(
        bodies(&server).await,
        [json!({
            "model": "claude", "max_tokens": 77, "temperature": 0.5,
            "system": [{"type": "text", "text": "be brief"}, cached("it is noon")],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "where is HW117?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "at gate B12"}]},
                {"role": "user", "content": [cached("and now?")]},
            ],
        })]
    );
}

#[tokio::test]
async fn a_schema_is_asked_for_natively_until_that_is_refused() {
    let refusal = ResponseTemplate::new(400).set_body_json(json!({
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "output_config: Extra inputs are not permitted"},
    }));
    let server = after(1, refusal).await;
    let mut setup = Setup::new(&server);
    setup.schema = Some(json!({"type": "object"}));
    setup.parameters = json!({"output_config": {"effort": "low"}});
    let model = setup.model();
    for _ in 0..2 {
        assert_eq!(setup.ask(&*model).await.unwrap().text, "late");
    }
    let asked: Vec<Value> = bodies(&server)
        .await
        .iter()
        .map(|body| body["output_config"].clone())
        .collect();
    let format =
        json!({"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}});
    let without = json!({"effort": "low"});
    assert_eq!(asked, [format, without.clone(), without]);
}

#[tokio::test]
async fn overload_is_tried_again_and_told_without_the_key() {
    let overloaded = ResponseTemplate::new(529).set_body_json(json!({
        "type": "error", "error": {"type": "overloaded_error", "message": format!("Overloaded, {KEY}")},
    }));
    let file = std::env::temp_dir().join(format!("headwater-x-api-key-{}", std::process::id()));
    std::fs::write(&file, KEY).unwrap();
    let server = after(1, overloaded.clone()).await;
    let mut setup = Setup::new(&server);
    setup.key_file = Some(file.to_str().unwrap().to_owned());
    assert_eq!(setup.ask(&*setup.model()).await.unwrap().text, "late");
    let received = server.received_requests().await.unwrap();
    assert!(received.iter().all(|it| it.headers["x-api-key"] == KEY));

    let server = after(9, overloaded).await;
    setup.base_url = server.uri();
    let error = setup.ask(&*setup.model()).await.unwrap_err();
    assert!(
        matches!(error, Error::Status { status: 529, .. }),
        "{error}"
    );
    assert!(error.is_outage());
    assert!(error.to_string().contains("Overloaded"), "{error}");
    assert!(!error.to_string().contains(KEY), "{error}");
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn what_is_no_message_is_tried_again_and_named() {
    for (body, told) in [
        ("<html>", "not a message"),
        ("{}", "not a message"),
        ("{\"content\": []}", "no text"),
    ] {
        let server = after(9, ResponseTemplate::new(200).set_body_string(body)).await;
        let setup = Setup::new(&server);
        let error = setup.ask(&*setup.model()).await.unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(bodies(&server).await.len(), 2);
    }
}

fn events(events: &[Value]) -> ResponseTemplate {
    let event = |event: &Value| {
        format!(
            "event: {}\ndata: {event}\n\n",
            event["type"].as_str().unwrap()
        )
    };
    let body: String = events.iter().map(event).collect();
    ResponseTemplate::new(200).set_body_raw(body, "text/event-stream; charset=utf-8")
}

fn piece(text: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

#[tokio::test]
async fn a_stream_is_one_reply() {
    let start = json!({"type": "message_start", "message": {"usage": {"input_tokens": 7, "cache_read_input_tokens": 20, "output_tokens": 1}}});
    let stop = json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": {"output_tokens": 9}});
    let thinking = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}});
    let told = [
        start.clone(),
        json!({"type": "ping"}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        thinking,
        piece("at gate "),
        piece("B14"),
        json!({"type": "content_block_stop", "index": 0}),
        stop.clone(),
        json!({"type": "message_stop"}),
    ];
    let server = after(1, events(&told)).await;
    let mut setup = Setup::new(&server);
    setup.parameters = json!({"stream": true});
    let reply = setup.ask(&*setup.model()).await.unwrap();
    assert_eq!(reply.text, "at gate B14");
    assert_eq!(reply.finish_reason, "max_tokens");
    assert_eq!(
        reply.usage,
        Usage {
            input_tokens: Some(27),
            output_tokens: Some(9)
        }
    );

    // One that ends before the message does is none, and neither is one that says what went wrong.
    let server = after(9, events(&[start.clone(), piece("at ga"), stop])).await;
    setup.base_url = server.uri();
    let error = setup.ask(&*setup.model()).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    let failure =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let server = after(1, events(&[start.clone(), piece("at ga"), failure])).await;
    setup.base_url = server.uri();
    assert_eq!(setup.ask(&*setup.model()).await.unwrap().text, "late");
    let failure =
        json!({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}});
    let server = after(1, events(&[start, failure])).await;
    setup.base_url = server.uri();
    let error = setup.ask(&*setup.model()).await.unwrap_err();
    assert!(
        matches!(error, Error::Status { status: 400, .. }),
        "{error}"
    );
}

fn tool() -> ToolSpec {
    ToolSpec {
        name: "rebook".into(),
        description: "Rebooks.".into(),
        parameters: json!({"type": "object", "properties": {"seat": {"type": "string"}}}),
    }
}

fn call(arguments: &str) -> ToolCall {
    ToolCall {
        id: "t1".into(),
        tool: "rebook".into(),
        arguments: arguments.into(),
    }
}

#[tokio::test]
async fn tools_and_what_came_of_calls_are_told() {
    let server = after(0, message("")).await;
    let mut setup = Setup::new(&server);
    let result = |outcome, result: Value| Called {
        id: "t1".into(),
        tool: "rebook".into(),
        arguments: json!({}),
        outcome,
        result,
        rule: None,
        approved_by: None,
        milliseconds: 3,
    };
    setup.messages.truncate(2);
    setup.tools = vec![tool()];
    setup.may_call = false;
    setup.said = vec![
        Said::Reply {
            text: "One moment.".into(),
            // What it wrote may be no object, which it takes alone.
            calls: vec![call("{\"seat\": \"34K\"}"), call("{")],
        },
        Said::Results(vec![
            result(CallOutcome::Done, json!({"fee": 0})),
            result(CallOutcome::Denied, json!("no")),
        ]),
    ];
    setup.ask(&*setup.model()).await.unwrap();
    let received = server.received_requests().await.unwrap();
    let body: Value = serde_json::from_slice(&received[0].body).unwrap();
    assert_eq!(
        body["tools"],
        json!([{"name": "rebook", "description": "Rebooks.", "input_schema": tool().parameters}])
    );
    assert_eq!(body["tool_choice"], json!({"type": "none"}));
    assert_eq!(
        body["messages"].as_array().unwrap()[1..],
        [
            json!({"role": "assistant", "content": [
                {"type": "text", "text": "One moment."},
                {"type": "tool_use", "id": "t1", "name": "rebook", "input": {"seat": "34K"}},
                {"type": "tool_use", "id": "t1", "name": "rebook", "input": {}},
            ]}),
            json!({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "{\"fee\":0}", "is_error": false},
                {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": true,
                    "cache_control": {"type": "ephemeral"}},
            ]}),
        ]
    );
}

#[tokio::test]
async fn calls_are_read_whole_and_in_pieces() {
    let whole = json!({"type": "message", "role": "assistant", "stop_reason": "tool_use", "usage": {},
        "content": [{"type": "text", "text": "One "}, {"type": "tool_use", "id": "t1", "name": "rebook", "input": {"seat": "34K"}}, {"type": "text", "text": "moment."}]});
    let server = after(1, ResponseTemplate::new(200).set_body_json(whole)).await;
    let setup = Setup::new(&server);
    let reply = setup.ask(&*setup.model()).await.unwrap();
    assert_eq!(reply.text, "One moment.");
    assert_eq!(reply.calls, [call(r#"{"seat":"34K"}"#)]);
    let events = [
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 5}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Well."}}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t1", "name": "rebook", "input": {}}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"seat\":"}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": " \"34K\"}"}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}}),
        json!({"type": "message_stop"}),
    ];
    let stream: String = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    let server = after(
        1,
        ResponseTemplate::new(200).set_body_raw(stream, "text/event-stream"),
    )
    .await;
    let mut setup = Setup::new(&server);
    setup.parameters = json!({"stream": true});
    let reply = setup.ask(&*setup.model()).await.unwrap();
    assert_eq!(
        (reply.text.as_str(), reply.finish_reason.as_str()),
        ("Well.", "tool_use")
    );
    assert_eq!(reply.calls, [call(r#"{"seat": "34K"}"#)]);
}
