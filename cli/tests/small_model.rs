//! A real model behind a real server: whatever speaks OpenAI's protocol is asked, answers and is counted, whole and
//! streamed. A small model talks nonsense, so what it says is not judged.
//!
//! Only on request, as the first run downloads the server and the model. `HEADWATER_SMALL_MODEL` names another server,
//! like `--model` does: `http://localhost:11434/v1#llama3.2`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use headwater_engine::config;
use headwater_engine::model::{Called, Message, Reply, Request, Role, Said, ToolCall, ToolSpec};
use headwater_runtime::clock::System;
use headwater_runtime::metrics::Metrics;
use headwater_runtime::model;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use support::*;

/// Longer than the download takes on a slow line.
const INSTALL: Duration = Duration::from_secs(900);
/// Longer than a small model takes on a slow machine.
const ANSWER: Duration = Duration::from_secs(120);

struct Server {
    /// `http://HOST:PORT/v1`.
    url: String,
    /// What it calls the model.
    model: String,
    /// Unless it is another's.
    process: Option<Child>,
}

/// The one of all tests. If it was started here, it ends with this process.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let (url, process) = match std::env::var("HEADWATER_SMALL_MODEL") {
            Ok(url) => (url, None),
            Err(_) => start(),
        };
        let (url, model) = url
            .split_once('#')
            .unwrap_or((url.as_str(), "smollm2-135m-instruct"));
        wait_for_models(url);
        Server {
            url: url.to_owned(),
            model: model.to_owned(),
            process,
        }
    })
}

/// Starts it on a port that is free; it tells its address once it answers.
fn start() -> (String, Option<Child>) {
    let mut serve = Command::new(root().join("scripts/small-model/serve"))
        .arg("0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(serve.stdout.take().unwrap());
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    match lines.recv_timeout(INSTALL) {
        Ok(url) => (url, Some(serve)),
        Err(error) => {
            let _ = serve.kill();
            panic!("no address from the server: {error}, {:?}", serve.wait());
        }
    }
}

fn wait_for_models(url: &str) {
    let deadline = Instant::now() + ANSWER;
    loop {
        let answer = http(url, "GET", "/models", "");
        if let Ok((head, _)) = &answer
            && head.starts_with("HTTP/1.1 200 ")
        {
            return;
        }
        assert!(Instant::now() < deadline, "no models at {url}: {answer:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A request made by hand: the head of the answer, and what follows it.
fn http(url: &str, method: &str, path: &str, body: &str) -> std::io::Result<(String, String)> {
    let address = url.strip_prefix("http://").expect("an http:// URL");
    let (host, base) = address.split_once('/').unwrap_or((address, ""));
    let base = base.trim_end_matches('/');
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let length = body.len();
    let request = format!(
        "{method} /{base}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, rest) = answer
        .split_once("\r\n\r\n")
        .unwrap_or((answer.as_str(), ""));
    Ok((head.to_owned(), rest.to_owned()))
}

/// The one run of an agent, as its audit has it.
fn run(out: &Path, agent: &str) -> Value {
    let runs = topic(out, &format!("default.agent.{agent}.runs"));
    let mut runs = runs.iter().map(|record| &record["value"]);
    let run = runs.find(|run| run["outcome"].is_string());
    run.unwrap_or_else(|| panic!("{agent} has no run")).clone()
}

/// The values that an agent wrote to a source.
fn written(out: &Path, source: &str, agent: &str) -> Vec<Value> {
    let from = format!("default/{agent}");
    topic(out, &format!("default.{source}"))
        .iter()
        .filter(|record| record["headers"]["headwater-agent"] == from.as_str())
        .map(|record| record["value"].clone())
        .collect()
}

/// Every answer of the run ended for a reason and was counted, and so was the run.
#[track_caller]
fn counted(run: &Value) {
    let answers = run["model"]["calls"].as_array().unwrap();
    assert!(!answers.is_empty(), "{run:#}");
    for count in ["input_tokens", "output_tokens"] {
        let tokens = |of: &Value| of["usage"][count].as_u64().unwrap_or(0);
        assert!(answers.iter().all(|answer| tokens(answer) > 0), "{run:#}");
        let all: u64 = answers.iter().map(tokens).sum();
        assert_eq!(tokens(&run["model"]), all, "{run:#}");
    }
    for answer in answers {
        let reason = answer["finishReason"].as_str().unwrap_or_default();
        assert!(!reason.is_empty(), "{run:#}");
    }
}

#[test]
#[ignore = "downloads 130 MB at first: cargo test -p headwater-cli --test small_model -- --ignored"]
fn agents_are_answered() {
    agents_are_answered_with("{temperature: 0}");
}

#[test]
#[ignore = "downloads 130 MB at first: cargo test -p headwater-cli --test small_model -- --ignored"]
fn agents_are_answered_in_pieces() {
    agents_are_answered_with("{temperature: 0, stream: true}");
}

/// The folder, with other parameters of its model.
fn folder(parameters: &str) -> tempfile::TempDir {
    let folder = root().join("cli/tests/folders/small-model");
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("events")).unwrap();
    for file in ["events/flights.ndjson", "events/questions.ndjson"] {
        fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    let resources = fs::read_to_string(folder.join("resources.yaml")).unwrap();
    let own = "parameters: {temperature: 0}";
    assert!(resources.contains(own), "{resources}");
    let resources = resources.replace(own, &format!("parameters: {parameters}"));
    fs::write(copy.path().join("resources.yaml"), resources).unwrap();
    copy
}

fn agents_are_answered_with(parameters: &str) {
    let Server { url, model, .. } = server();
    let model = format!("chat={url}#{model}");
    let folder = folder(parameters);
    let out = User::new().run_folder(folder.path(), &["--model", &model]);
    let out = out.path();

    // For text.
    let helper = run(out, "helper");
    assert_eq!(helper["outcome"], "Done", "{helper:#}");
    counted(&helper);
    let system = helper["prompt"]["messages"][0]["content"].as_str().unwrap();
    assert!(system.contains(r#""status":"Delayed""#), "{system}");
    let answer = helper["model"]["answer"].as_str().unwrap();
    assert!(!answer.trim().is_empty(), "{helper:#}");
    assert_eq!(written(out, "answers", "helper"), [json!({"text": answer})]);

    // For what fits a schema: it does, or the run says that it does not.
    let judge = run(out, "judge");
    counted(&judge);
    let moods = written(out, "moods", "judge");
    if judge["outcome"] == "Done" {
        let [mood] = &moods[..] else {
            panic!("not one mood: {moods:?}")
        };
        assert_eq!(mood.as_object().unwrap().len(), 2, "{mood}");
        assert!(["calm", "worried", "angry"].contains(&mood["mood"].as_str().unwrap()));
        assert!(mood["urgent"].is_boolean(), "{mood}");
    } else {
        assert_eq!(judge["outcome"], "Failed", "{judge:#}");
        assert_eq!(judge["failure"]["reason"], "InvalidResult", "{judge:#}");
        // It was sent back once.
        assert_eq!(judge["model"]["calls"].as_array().unwrap().len(), 2);
        let failures = written(out, "failures", "judge");
        assert_eq!(failures, [json!({"reason": "InvalidResult"})]);
        assert!(moods.is_empty(), "{moods:?}");
    }

    // With a tool, whether it calls it or not.
    let clerk = run(out, "clerk");
    assert_eq!(clerk["outcome"], "Done", "{clerk:#}");
    counted(&clerk);
    let calls = clerk["calls"].as_array().map_or(0, Vec::len);
    let expected = json!({"text": clerk["model"]["answer"], "calls": calls});
    assert_eq!(written(out, "answers", "clerk"), [expected]);
}

/// What an agent asks of a model.
fn request(said: Vec<Said>, tools: Vec<ToolSpec>, schema: Option<Value>) -> Request {
    Request {
        messages: vec![
            Message::new(Role::System, "You answer customers in one sentence."),
            Message::new(Role::User, "My flight LK103 to New York, is it late?"),
        ]
        .into(),
        said,
        tools: tools.into(),
        may_call: false,
        model: server().model.clone(),
        parameters: serde_json::Map::new(),
        max_output_tokens: 96,
        schema: schema.map(Arc::new),
        input: Arc::new(json!({})),
        idempotency_key: String::new(),
    }
}

/// Asks with the client that agents have.
async fn ask(mut request: Request, parameters: Value) -> Reply {
    let Server { url, model, .. } = server();
    let config: config::Model = serde_json::from_value(json!({
        "name": "chat",
        "provider": {"openAi": {"apiKeyFile": null, "baseUrl": url, "headers": [], "query": {}}},
        "model": model,
        "parameters": parameters,
        "contextWindowTokens": 8_192,
        "maxOutputTokens": request.max_output_tokens,
        "requestTimeoutMs": 120_000,
        "retry": {"maxAttempts": 1, "initialBackoffMs": 1, "maxBackoffMs": 1},
    }))
    .unwrap();
    request.parameters = config.parameters.clone();
    let model = model::for_config(
        &config,
        Arc::new(System),
        Arc::new(Metrics::new()),
        &model::Limiters::default(),
    )
    .unwrap();
    let deadline = tokio::time::Instant::now() + ANSWER;
    model.answer(&request, deadline).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "downloads 130 MB at first: cargo test -p headwater-cli --test small_model -- --ignored"]
async fn an_answer_in_pieces_is_the_whole_one() {
    // Ready before anything is asked: from here on only answers are waited for.
    let server = tokio::task::spawn_blocking(server).await.unwrap();
    let called: Called = serde_json::from_value(json!({
        "id": "call-1",
        "tool": "flight",
        "arguments": {"key": "LK103"},
        "outcome": "Done",
        "result": {"status": "Delayed", "minutes": 145},
    }))
    .unwrap();
    let call = ToolCall {
        id: "call-1".to_owned(),
        tool: "flight".to_owned(),
        arguments: r#"{"key": "LK103"}"#.to_owned(),
    };
    let text = String::new();
    let after_a_call = vec![
        Said::Reply {
            text,
            calls: vec![call],
        },
        Said::Results(vec![called]),
    ];
    let flight = ToolSpec {
        name: "flight".to_owned(),
        description: "What is known of a flight, by its number.".to_owned(),
        parameters: json!({
            "type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"],
        }),
    };
    let schema = json!({
        "type": "object",
        "properties": {"late": {"type": "boolean"}},
        "required": ["late"],
        "additionalProperties": false,
    });
    for request in [
        request(Vec::new(), Vec::new(), None),
        request(Vec::new(), Vec::new(), Some(schema)),
        // Tools that may be called no more stand in the request all the same.
        request(after_a_call, vec![flight], None),
    ] {
        let whole = ask(request.clone(), json!({"temperature": 0})).await;
        let pieces = ask(request, json!({"temperature": 0, "stream": true})).await;
        for reply in [&whole, &pieces] {
            assert!(!reply.text.trim().is_empty(), "{reply:?}");
            assert!(reply.calls.is_empty(), "{reply:?}");
            assert!(!reply.finish_reason.is_empty(), "{reply:?}");
            assert!(reply.usage.output_tokens > Some(0), "{reply:?}");
        }
        // The same prompt, however it is answered.
        assert!(whole.usage.input_tokens > Some(0), "{whole:?}");
        assert_eq!(whole.usage.input_tokens, pieces.usage.input_tokens);
        // On one slot and on the processor, what is likeliest is the same each time; other servers need not.
        if server.process.is_some() {
            assert_eq!(whole.text, pieces.text);
            assert_eq!(whole.usage, pieces.usage);
            assert_eq!(whole.finish_reason, pieces.finish_reason);
        }
    }
    // It did stream: an answer that comes whole where pieces were asked for would have been taken too.
    let body = json!({
        "model": server.model,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 8,
        "stream": true,
    });
    let (head, events) = http(&server.url, "POST", "/chat/completions", &body.to_string()).unwrap();
    assert!(
        head.to_lowercase()
            .contains("content-type: text/event-stream"),
        "{head}"
    );
    assert!(events.matches("data: ").count() > 2, "{events}");
}
