//! Tools of MCP servers: one that behaves, and ones that misbehave in every way that a run must survive.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use headwater_engine::config::{HttpHeader, HttpHeaderValue, ToolProvider, ToolServer};
use headwater_runtime::clock::System;
use headwater_runtime::tools::{Answer, Error, Server, for_config};
use rmcp::ErrorData;
use rmcp::handler::server::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::StreamableHttpService;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wiremock::matchers::{body_partial_json, method};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

const WITHIN: Duration = Duration::from_secs(5);
const KEY: &str = "Bearer very-secret";

fn server(url: &str, headers: Vec<HttpHeader>) -> Arc<dyn Server> {
    let config = ToolServer {
        name: "desk".to_owned(),
        provider: ToolProvider::Mcp {
            url: url.to_owned(),
            headers,
        },
        timeout_ms: 5_000,
    };
    for_config(&config, Arc::new(System)).unwrap()
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other}"),
    }
}

async fn call(server: &dyn Server, tool: &str) -> Result<Answer, Error> {
    server
        .call(tool, &map(json!({"seat": "34K"})), "run-1-1", WITHIN)
        .await
}

/// A desk as anybody would build one.
#[derive(Clone, Default)]
struct Desk {
    /// Arguments and `_meta` of each call.
    seen: Arc<Mutex<Vec<(Value, Value)>>>,
}

impl ServerHandler for Desk {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = map(json!({"type": "object", "properties": {"seat": {"type": "string"}}}));
        let tool = |name: &'static str| Tool::new(name, "Rebooks.", Arc::new(schema.clone()));
        Ok(ListToolsResult::with_all_items(vec![
            tool("rebook"),
            tool("refuse"),
        ]))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let meta = serde_json::to_value(&context.meta).unwrap();
        let arguments = Value::Object(request.arguments.clone().unwrap_or_default());
        self.seen.lock().unwrap().push((arguments, meta));
        match request.name.as_ref() {
            "rebook" => Ok(CallToolResult::structured(json!({"fee": 0})).into()),
            "refuse" => Ok(CallToolResult::error(vec![ContentBlock::text("34K is taken")]).into()),
            _ => Err(ErrorData::invalid_params("no such tool", None)),
        }
    }
}

async fn desk(desk: Desk) -> String {
    let service = StreamableHttpService::new(
        move || Ok(desk.clone()),
        Arc::new(LocalSessionManager::default()),
        Default::default(),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let router = axum::Router::new().nest_service("/mcp", service);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test]
async fn tools_are_listed_and_called_with_a_key_that_stays() {
    let own = Desk::default();
    let url = desk(own.clone()).await;
    let server = server(&url, Vec::new());
    let listed = server.list(WITHIN).await.unwrap();
    assert_eq!(listed.keys().collect::<Vec<_>>(), ["rebook", "refuse"]);
    assert_eq!(listed["rebook"].description, "Rebooks.");
    assert_eq!(
        listed["rebook"].schema["properties"]["seat"]["type"],
        "string"
    );
    let done = Answer {
        result: json!({"fee": 0}),
        failed: false,
    };
    assert_eq!(call(&*server, "rebook").await, Ok(done.clone()));
    assert_eq!(call(&*server, "rebook").await, Ok(done));
    let seen = own.seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    for (arguments, meta) in seen {
        assert_eq!(arguments, json!({"seat": "34K"}));
        assert_eq!(meta["headwater.dev/idempotency-key"], "run-1-1");
    }
    let refused = Answer {
        result: json!("34K is taken"),
        failed: true,
    };
    assert_eq!(call(&*server, "refuse").await, Ok(refused));
    let unknown = call(&*server, "gone").await.unwrap();
    assert!(
        unknown.failed && unknown.result == json!("no such tool"),
        "{unknown:?}"
    );
}

/// Answers a JSON-RPC request with this result, or this error.
struct Says(Value);

impl Respond for Says {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        let mut body = json!({"jsonrpc": "2.0", "id": asked["id"]});
        body.as_object_mut()
            .unwrap()
            .extend(self.0.as_object().unwrap().clone());
        ResponseTemplate::new(200).set_body_json(body)
    }
}

/// A server that answers calls so; everything else as it should.
async fn odd(answer: impl Respond + 'static) -> MockServer {
    let server = MockServer::start().await;
    let on =
        |name: &str| Mock::given(method("POST")).and(body_partial_json(json!({"method": name})));
    let begun = json!({"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
        "serverInfo": {"name": "odd", "version": "1"}}});
    on("initialize")
        .respond_with(Says(begun))
        .mount(&server)
        .await;
    on("notifications/initialized")
        .respond_with(ResponseTemplate::new(202))
        .mount(&server)
        .await;
    on("tools/call").respond_with(answer).mount(&server).await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(405))
        .mount(&server)
        .await;
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(202))
        .with_priority(200)
        .mount(&server)
        .await;
    server
}

async fn answered(answer: impl Respond + 'static) -> Result<Answer, Error> {
    let server = odd(answer).await;
    call(&*self::server(&server.uri(), Vec::new()), "rebook").await
}

async fn calls(server: &MockServer) -> usize {
    let received = server.received_requests().await.unwrap();
    received
        .iter()
        .filter(|request| request.body.windows(10).any(|part| part == b"tools/call"))
        .count()
}

#[tokio::test]
async fn results_are_structured_or_text_and_what_is_no_text_is_left_out() {
    let content = |content: Value| Says(json!({"result": {"content": content}}));
    for (answer, expected) in [
        (
            Says(json!({"result": {"content": [], "structuredContent": {"a": 1}}})),
            json!({"a": 1}),
        ),
        (
            content(json!([{"type": "text", "text": "{\"a\": 1}"}])),
            json!({"a": 1}),
        ),
        (
            content(json!([{"type": "text", "text": "12"}])),
            json!("12"),
        ),
        (
            content(json!([{"type": "text", "text": "a"},
                {"type": "image", "data": "QUJD", "mimeType": "image/png"},
                {"type": "resource_link", "uri": "http://169.254.169.254/", "name": "x"}])),
            json!("a\n[an image, left out]\n[a resource, not fetched]"),
        ),
        (content(json!([])), json!("")),
    ] {
        let answer = answered(answer).await.unwrap();
        assert_eq!((answer.result, answer.failed), (expected, false));
    }
}

#[tokio::test]
async fn what_was_certainly_not_done_is_told_apart_from_what_nobody_knows() {
    let status = |status: u16| ResponseTemplate::new(status);
    // Not made, and worth another try.
    let limited = status(429).insert_header("retry-after", "7");
    let Err(Error::NotMade {
        again: true,
        retry_after: Some(after),
        ..
    }) = answered(limited).await
    else {
        panic!("429")
    };
    assert_eq!(after, Duration::from_secs(7));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", closed.local_addr().unwrap());
    drop(closed);
    let none = call(&*server(&url, Vec::new()), "rebook").await;
    assert!(
        matches!(&none, Err(Error::NotMade { again: true, .. })),
        "{none:?}"
    );
    // Not made, and not another time either.
    for code in [302, 307, 400, 404, 413] {
        let elsewhere = status(code).insert_header("location", "http://169.254.169.254/");
        let refused = answered(elsewhere).await;
        assert!(
            matches!(&refused, Err(Error::NotMade { again: false, .. })),
            "{code}: {refused:?}"
        );
    }
    // Nobody knows.
    for broken in [
        status(500),
        status(503),
        status(200).set_body_string("<html>"),
        status(200).set_body_raw("{\"jsonrpc\":", "application/json"),
        status(200).set_body_raw("", "text/event-stream"),
        status(200).set_body_raw("data: {\"jsonrpc\": \"2.0\", \"resu", "text/event-stream"),
        status(200).set_body_raw(vec![b' '; 11 << 20], "application/json"),
    ] {
        let unknown = tokio::time::timeout(WITHIN * 2, answered(broken)).await;
        // A stream without an answer is waited for as long as the caller likes.
        if let Ok(unknown) = unknown {
            assert!(
                matches!(&unknown, Err(Error::Unknown { .. })),
                "{unknown:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_call_is_sent_once_whatever_comes_of_it() {
    for answer in [
        ResponseTemplate::new(500),
        ResponseTemplate::new(429),
        ResponseTemplate::new(307).insert_header("location", "/"),
        ResponseTemplate::new(200).set_body_string("<html>"),
    ] {
        let server = odd(answer).await;
        let _ = call(&*self::server(&server.uri(), Vec::new()), "rebook").await;
        assert_eq!(calls(&server).await, 1);
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_left() {
    let server = odd(ResponseTemplate::new(200).set_delay(Duration::from_secs(60))).await;
    let client = self::server(&server.uri(), Vec::new());
    let began = Instant::now();
    let left = tokio::time::timeout(Duration::from_millis(300), call(&*client, "rebook")).await;
    assert!(left.is_err());
    assert!(began.elapsed() < Duration::from_secs(5));
    // And asked again by the next.
    server.reset().await;
    assert!(client.list(Duration::from_millis(300)).await.is_err());
}

#[tokio::test]
async fn what_a_server_asks_for_itself_is_refused() {
    let asks = json!({"result": {"resultType": "input_required",
        "inputRequests": {"a": {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}}}});
    let answer = answered(Says(asks)).await;
    match answer {
        Ok(answer) => assert!(answer.failed, "{answer:?}"),
        Err(error) => assert!(matches!(error, Error::Unknown { .. }), "{error:?}"),
    }
}

#[tokio::test]
async fn credentials_go_to_the_server_and_nowhere_else() {
    let file = std::env::temp_dir().join(format!("headwater-mcp-{}", std::process::id()));
    std::fs::write(&file, KEY).unwrap();
    let headers = vec![HttpHeader {
        name: "Authorization".to_owned(),
        value: HttpHeaderValue::File(file.to_str().unwrap().to_owned()),
    }];
    let echo = json!({"result": {"content": [{"type": "text", "text": format!("you are {KEY}")}]}});
    let server = odd(Says(echo)).await;
    let client = self::server(&server.uri(), headers.clone());
    let answer = call(&*client, "rebook").await.unwrap();
    assert_eq!(answer.result, json!("you are [secret]"));
    for request in server.received_requests().await.unwrap() {
        assert_eq!(request.headers["authorization"], KEY);
    }
    let error = json!({"error": {"code": -32000, "message": format!("bad {KEY}")}});
    let server = odd(Says(error)).await;
    let client = self::server(&server.uri(), headers.clone());
    let answer = call(&*client, "rebook").await.unwrap();
    assert_eq!(answer.result, json!("bad [secret]"));
    std::fs::remove_file(&file).unwrap();
    let client = self::server(&server.uri(), headers);
    let Err(Error::NotMade {
        why, again: false, ..
    }) = call(&*client, "rebook").await
    else {
        panic!("it has no key")
    };
    assert!(why.contains("Check the Secret"), "{why}");
}
