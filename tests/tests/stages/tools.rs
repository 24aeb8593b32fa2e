//! Tools of runs: what a crash leaves open is not made again, or under the same key; what came of calls stays what it was.

use crate::bed::{Bed, DEADLINE, Seen, until};
use crate::flight;
use crate::life::{across_crashes, each_once};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::agent::Listed;
use headwater_engine::model::{Reply, Request, ToolCall};
use headwater_runtime::model::{self, Model};
use headwater_runtime::stage::Handle;
use headwater_runtime::tools::{Answer, Error, Server};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

/// Asks for a booking, and says what came of it, once it may.
pub struct Asking {
    pub answers: Semaphore,
    calls: Vec<(&'static str, Value)>,
}

impl Asking {
    pub fn new(calls: &[(&'static str, Value)]) -> Self {
        Self {
            answers: Semaphore::new(1_000_000),
            calls: calls.to_vec(),
        }
    }

    async fn say(&self, request: &Request) -> Reply {
        if request.said.is_empty() {
            let call = |(tool, arguments): &(&str, Value)| ToolCall {
                id: (*tool).to_owned(),
                tool: (*tool).to_owned(),
                arguments: arguments.to_string(),
            };
            return Reply {
                calls: self.calls.iter().map(call).collect(),
                ..Reply::default()
            };
        }
        self.answers.acquire().await.unwrap().forget();
        let said: Vec<String> = request
            .calls()
            .map(|called| format!("{} {}", called.outcome.as_str(), called.result))
            .collect();
        Reply {
            text: said.join("; "),
            ..Reply::default()
        }
    }
}

impl Model for Asking {
    fn answer<'a>(
        &'a self,
        request: &'a Request,
        _deadline: Instant,
    ) -> BoxFuture<'a, Result<Reply, model::Error>> {
        self.say(request).map(Ok).boxed()
    }
}

/// Books seats, once it may.
pub struct Desk {
    /// Key and arguments of each call.
    made: Mutex<Vec<(String, Value)>>,
    pub bookings: Semaphore,
    pub delay: Duration,
    /// Lists that it gives before it gives none for a while.
    away: Mutex<usize>,
}

impl Desk {
    pub fn new() -> Self {
        Self {
            made: Mutex::default(),
            bookings: Semaphore::new(1_000_000),
            delay: Duration::ZERO,
            away: Mutex::new(0),
        }
    }

    pub fn made(&self) -> Vec<(String, Value)> {
        self.made.lock().unwrap().clone()
    }

    /// How often each call was made, by its key.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (key, _) in self.made() {
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    pub async fn until_made(&self, count: usize) {
        let begun = std::time::Instant::now();
        while self.made().len() < count {
            assert!(begun.elapsed() < DEADLINE, "{:?}", self.made());
            sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Server for Desk {
    fn list(&self, _within: Duration) -> BoxFuture<'_, Result<BTreeMap<String, Listed>, Error>> {
        let mut away = self.away.lock().unwrap();
        if *away > 0 {
            *away -= 1;
            let why = "it is not there yet".to_owned();
            return std::future::ready(Err(Error::Unknown { why })).boxed();
        }
        let schema = json!({"type": "object", "required": ["seat", "session"],
            "properties": {"seat": {"type": "string"}, "session": {"type": "string"}}});
        let book = Listed {
            description: "Books.".to_owned(),
            schema,
        };
        std::future::ready(Ok(BTreeMap::from([("book".to_owned(), book)]))).boxed()
    }

    fn call<'a>(
        &'a self,
        _tool: &'a str,
        arguments: &'a Map<String, Value>,
        key: &'a str,
        _within: Duration,
    ) -> BoxFuture<'a, Result<Answer, Error>> {
        async move {
            let made = (key.to_owned(), Value::Object(arguments.clone()));
            self.made.lock().unwrap().push(made);
            sleep(self.delay).await;
            self.bookings.acquire().await.unwrap().forget();
            Ok(Answer {
                result: json!("booked"),
                failed: false,
            })
        }
        .boxed()
    }
}

pub const BOOK: (&str, fn() -> Value) =
    ("book", || json!({"seat": "34K", "session": "of another"}));

/// The agent with its tools; `repeat` is that of the desk's.
pub fn booking(
    bed: &mut Bed,
    repeat: &str,
    model: Asking,
    desk: Desk,
) -> (Value, Arc<Asking>, Arc<Desk>) {
    let model = bed.asks(model);
    let desk = Arc::new(desk);
    let of_stage = Arc::clone(&desk) as Arc<dyn Server>;
    bed.tool_servers.insert("desk".to_owned(), of_stage);
    let mut stage = bed.agent();
    let topic = bed.topic("delays");
    let agent = &mut stage["role"]["agent"];
    agent["tools"] = json!({
        "maxRounds": 3,
        "servers": {"desk": {"name": "desk", "provider": {"mcp": {"url": "http://desk/mcp", "headers": []}}, "timeoutMs": 15_000}},
        "tools": [
            {"name": "book", "description": null, "fixed": {"session": "key"},
                "does": {"server": {"server": "desk", "tool": "book", "repeat": repeat}}},
            {"name": "gate", "description": "The gate of a flight.",
                "does": {"view": {"lookup": {"view": "flights", "by": "all", "index": null, "where": null, "orderBy": null, "order": "Ascending", "limit": 20}}}},
            {"name": "report", "description": "Reports a delay.",
                "does": {"emit": {"source": "delays", "topic": topic, "format": "Json", "key": "event.flight", "schema": null}}},
        ],
        "policy": [
            {"name": "closed", "tools": ["book"], "when": "now.flight != null && now.flight.gate == 'closed'", "action": "Deny", "message": "the gate is closed"},
        ],
    });
    agent["outputs"][0]["value"] =
        json!("{'text': result.text, 'asked': event.text, 'calls': calls.map(c, c.outcome)}");
    (stage, model, desk)
}

/// An agent that crashed while its tool was called, and was started again.
async fn crashed_in_a_call(bed: &mut Bed, repeat: &str) -> (Handle, Arc<Desk>) {
    let mut desk = Desk::new();
    desk.bookings = Semaphore::new(0);
    let model = Asking::new(&[(BOOK.0, BOOK.1())]);
    let (stage, _, desk) = booking(bed, repeat, model, desk);
    let mut writer = bed.writer();
    writer.write(&[bed.question("s", "book!", "HW1")]).unwrap();
    let agent = bed.started(&stage).await;
    desk.until_made(1).await;
    agent.crash().await;
    desk.bookings.add_permits(1_000);
    (bed.started(&stage).await, desk)
}

pub async fn a_call_that_a_crash_left_open_is_not_made_again(mut bed: Bed) {
    let (agent, desk) = crashed_in_a_call(&mut bed, "Never").await;
    let mut writer = bed.writer();
    let mut answers = bed.follow("answers");
    let answer = answers.wait(1)[0].clone();
    assert_eq!(answer.value["calls"], json!(["Unknown"]));
    let text = answer.value["text"].as_str().unwrap();
    assert!(text.contains("not known whether"), "{text}");
    assert_eq!(desk.made().len(), 1);
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    let run = bed.read("agent.helper.runs")[0].value.clone();
    assert_eq!(
        run["calls"][0]["arguments"],
        json!({"seat": "34K", "session": "s"})
    );
    // The next run of the key calls for itself.
    writer.write(&[bed.question("s", "again!", "HW1")]).unwrap();
    assert_eq!(answers.wait(2)[1].value["calls"], json!(["Done"]));
    assert_eq!(desk.made().len(), 2);
    agent.crash().await;
}

pub async fn a_call_that_may_be_repeated_is_made_again_under_its_key(mut bed: Bed) {
    let (agent, desk) = crashed_in_a_call(&mut bed, "Always").await;
    let mut answers = bed.follow("answers");
    let answer = answers.wait(1)[0].clone();
    assert_eq!(answer.value["text"], "Done \"booked\"");
    let run = &answer.headers["headwater-run"];
    let counts = BTreeMap::from([(format!("{run}-1-1"), 2)]);
    assert_eq!(desk.counts(), counts);
    agent.crash().await;
}

pub async fn what_a_tool_gave_is_not_asked_for_again_after_a_crash(mut bed: Bed) {
    let mut model = Asking::new(&[
        (BOOK.0, BOOK.1()),
        ("gate", json!({"key": "HW1"})),
        ("report", json!({"flight": "HW1", "minutes": 5})),
    ]);
    model.answers = Semaphore::new(0);
    let (stage, model, desk) = booking(&mut bed, "Never", model, Desk::new());
    let mut writer = bed.writer();
    writer.write(&[flight(&bed, "HW1", "A1")]).unwrap();
    writer.write(&[bed.question("s", "book!", "HW1")]).unwrap();
    let agent = bed.started(&stage).await;
    let mut journal = bed.follow("agent.helper.journal");
    let steps = |seen: &[Seen]| {
        let is_step = |seen: &&Seen| seen.key.ends_with("/1") || seen.key.ends_with("/2");
        seen.iter().filter(is_step).count()
    };
    let begun = std::time::Instant::now();
    while steps(&journal.seen) < 2 {
        journal.look();
        assert!(begun.elapsed() < DEADLINE, "the results are not journaled");
    }
    agent.crash().await;
    // Nothing that a run which is not over has done is seen.
    assert_eq!(bed.read("delays").len(), 0);
    writer.write(&[flight(&bed, "HW1", "B2")]).unwrap();
    model.answers.add_permits(1_000);
    let agent = bed.started(&stage).await;
    let mut answers = bed.follow("answers");
    let answer = answers.wait(1)[0].clone();
    assert_eq!(answer.value["calls"], json!(["Done", "Done", "Done"]));
    // What it was told before.
    let text = answer.value["text"].as_str().unwrap();
    assert!(text.contains("{\"gate\":\"A1\"}"), "{text}");
    assert_eq!(desk.made().len(), 1);
    let reports = bed.read("delays");
    assert_eq!(reports.len(), 1);
    assert_eq!(
        (reports[0].key.as_str(), &reports[0].value),
        ("HW1", &json!({"flight": "HW1", "minutes": 5}))
    );
    assert_eq!(
        reports[0].headers["headwater-run"],
        answer.headers["headwater-run"]
    );
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    agent.crash().await;
}

pub async fn calls_are_made_once_at_most_across_crashes(mut bed: Bed) {
    const QUESTIONS: usize = 160;
    let model = Asking::new(&[
        (BOOK.0, BOOK.1()),
        ("report", json!({"flight": "HW1", "minutes": 5})),
    ]);
    let mut desk = Desk::new();
    desk.delay = Duration::from_millis(3);
    let (mut stage, _, desk) = booking(&mut bed, "Never", model, desk);
    stage["role"]["agent"]["delivery"]["maxAttempts"] = json!(9);
    let questions: Vec<_> = (0..QUESTIONS)
        .map(|n| bed.question(&format!("session-{}", n % 16), &format!("q{n}"), "HW1"))
        .collect();
    let agent = across_crashes(&bed, &stage, &questions).await;
    let answers = bed.read("answers");
    each_once(&answers, QUESTIONS);
    let counts = desk.counts();
    let mut unknown = 0;
    for answer in &answers {
        let key = format!("{}-1-1", answer.headers["headwater-run"]);
        let made = counts.get(&key).copied().unwrap_or(0);
        match answer.value["calls"][0].as_str().unwrap() {
            "Done" => assert_eq!(made, 1, "{answer:?}"),
            "Unknown" => {
                unknown += 1;
                assert!(made <= 1, "{answer:?}");
            }
            other => panic!("{other}: {answer:?}"),
        }
    }
    assert!(unknown < QUESTIONS / 2, "{unknown} calls are not known of");
    assert!(counts.values().all(|made| *made == 1), "{counts:?}");
    // Each in its run's transaction.
    assert_eq!(bed.read("delays").len(), QUESTIONS);
    for (_, arguments) in desk.made() {
        let session = arguments["session"].as_str().unwrap();
        assert!(session.starts_with("session-"), "{arguments}");
    }
    println!("{unknown} of {QUESTIONS} calls were left open by four crashes");
    agent.crash().await;
}

pub async fn rules_are_asked_about_the_moment_of_the_call(mut bed: Bed) {
    let mut model = Asking::new(&[("gate", json!({"key": "HW1"})), (BOOK.0, BOOK.1())]);
    model.answers = Semaphore::new(1_000);
    let (stage, _, desk) = booking(&mut bed, "Never", model, Desk::new());
    let mut writer = bed.writer();
    writer.write(&[flight(&bed, "HW1", "A1")]).unwrap();
    let agent = bed.started(&stage).await;
    let mut answers = bed.follow("answers");
    writer.write(&[bed.question("s", "one", "HW1")]).unwrap();
    assert_eq!(answers.wait(1)[0].value["calls"], json!(["Done", "Done"]));
    // Acknowledged before the question: whoever is asked from then on knows it.
    writer.write(&[flight(&bed, "HW1", "closed")]).unwrap();
    writer.write(&[bed.question("s", "two", "HW1")]).unwrap();
    let denied = answers.wait(2)[1].clone();
    assert_eq!(denied.value["calls"], json!(["Done", "Denied"]));
    let text = denied.value["text"].as_str().unwrap();
    assert!(
        text.contains("{\"gate\":\"closed\"}") && text.ends_with("Denied \"the gate is closed\""),
        "{text}"
    );
    assert_eq!(desk.made().len(), 1);
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    let run = bed.read("agent.helper.runs")[1].value.clone();
    assert_eq!(run["calls"][1]["rule"], "closed");
    agent.crash().await;
}

pub async fn runs_wait_for_tools_that_are_not_known_yet(mut bed: Bed) {
    let desk = Desk::new();
    *desk.away.lock().unwrap() = 2;
    let model = Asking::new(&[(BOOK.0, BOOK.1())]);
    let (stage, _, desk) = booking(&mut bed, "Never", model, desk);
    let mut writer = bed.writer();
    let agent = bed.started(&stage).await;
    writer.write(&[bed.question("s", "one", "HW1")]).unwrap();
    let problem = |agent: &Handle| {
        let problems = agent.status().problems;
        problems
            .into_iter()
            .find(|it| it.reason == "ToolsUnavailable")
    };
    until(&agent, "a problem", |agent| problem(agent).is_some()).await;
    let message = problem(&agent).unwrap().message;
    assert!(
        message.contains("'desk'") && message.contains("it is not there yet"),
        "{message}"
    );
    let mut answers = bed.follow("answers");
    assert_eq!(answers.wait(1)[0].value["calls"], json!(["Done"]));
    assert!(problem(&agent).is_none());
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    assert_eq!(bed.read("agent.helper.runs")[0].value["attempt"], 1);
    assert_eq!(desk.made().len(), 1);
    agent.crash().await;
}
