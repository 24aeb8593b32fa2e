//! The example of personalisation, as its README tells it: what each visitor is offered, what of that hangs on one event
//! of theirs, and what is never offered, whatever the model says; on the memory log and on a real Kafka.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::*;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

/// What is offered in each session, in order.
type Offers = BTreeMap<String, Vec<Value>>;

fn folder() -> PathBuf {
    root().join("examples/personalisation")
}

/// The example with some of it written otherwise; what is changed stands there once.
fn changed(changes: &[(&str, &str, &str)]) -> tempfile::TempDir {
    for (file, from, _) in changes {
        let text = fs::read_to_string(folder().join(file)).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {file}");
    }
    changed_copy(&folder(), changes)
}

/// The events of a source, in the order of their times.
fn events(folder: &Path, source: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(format!("events/{source}.ndjson"))).unwrap();
    let mut events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    events.sort_by_key(|event| text_of(&event["timestamp"]));
    events
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// A session is called after its visitor, and numbered.
fn offer(session: &str, page: &str, sku: &str, reason: &str, text: &str) -> Value {
    let (visitor, _) = session.split_once('-').unwrap();
    json!({"visitor": visitor, "session": session, "page": page, "sku": sku, "reason": reason, "text": text})
}

fn folder_90(session: &str) -> Value {
    let text = "More locks: Folder 90, 65 EUR.";
    offer(session, "K-4", "K-3", "Interest", text)
}

fn fortress(session: &str) -> Value {
    let text = "More locks: Fortress, 110 EUR.";
    offer(session, "K-4", "K-5", "Interest", text)
}

/// The tables of the README.
fn told() -> Offers {
    let cable = "More locks: Cable 6, 20 EUR.";
    let came_back = "Cable 6, which you opened 2 times today: 20 EUR.";
    let spark = "More lights: Spark 40, 25 EUR.";
    let u_lock = "More locks: U-Lock Pro, 95 EUR.";
    let offers = [
        folder_90("ada-1"),
        offer("ada-1", "L-2", "K-1", "Interest", cable),
        offer("ada-1", "L-3", "L-1", "Interest", spark),
        fortress("ben-2"),
        offer("chloe-3", "K-4", "K-1", "CameBack", came_back),
        fortress("dev-1"),
        fortress("ema-1"),
        offer("finn-1", "K-3", "K-4", "Interest", u_lock),
        folder_90("hana-2"),
    ];
    by_session(offers.into())
}

fn by_session(offers: Vec<Value>) -> Offers {
    let mut sessions = Offers::new();
    for offer in offers {
        let session = text_of(&offer["session"]);
        sessions.entry(session).or_default().push(offer);
    }
    sessions
}

/// What was offered. Those of one visitor are in one partition, and in order there.
fn offers(out: &Path, namespace: &str) -> Offers {
    let records = topic(out, &format!("{namespace}.offers"));
    for record in &records {
        assert_eq!(record["key"], record["value"]["visitor"]);
    }
    let values = records.iter().map(|record| record["value"].clone());
    by_session(values.collect())
}

/// Every offer could be bought when it was made, was in no cart, and was new to the session.
fn lawful(folder: &Path, offers: &Offers) {
    let (clicks, stock, carts) = (
        events(folder, "clicks"),
        events(folder, "stock"),
        events(folder, "carts"),
    );
    for (session, offers) in offers {
        let pages: Vec<&Value> = clicks
            .iter()
            .filter(|click| click["key"] == *session)
            .collect();
        let mut offered = BTreeSet::new();
        for offer in offers {
            let click = pages
                .iter()
                .find(|click| click["value"]["sku"] == offer["page"])
                .unwrap_or_else(|| panic!("{session} did not open {}", offer["page"]));
            assert_eq!(click["value"]["visitor"], offer["visitor"]);
            let at = text_of(&click["timestamp"]);
            let before = |event: &&Value| text_of(&event["timestamp"]) <= at;
            let last = |events: &[Value], key: &Value| {
                let mut until = events.iter().filter(before);
                until.rfind(|event| event["key"] == *key).cloned()
            };
            let left = last(&stock, &offer["sku"]).unwrap();
            assert!(left["value"]["left"].as_i64() > Some(0), "{offer}");
            let cart = last(&carts, &offer["visitor"]).unwrap_or_default();
            let skus = cart["value"]["skus"].as_array().cloned();
            assert!(!skus.unwrap_or_default().contains(&offer["sku"]), "{offer}");
            assert_ne!(offer["sku"], offer["page"]);
            assert!(offered.insert(text_of(&offer["sku"])), "{offer} again");
            if offer["reason"] == "Interest" {
                let mut opened = pages.iter().copied().filter(before);
                assert!(
                    opened.all(|click| click["value"]["sku"] != offer["sku"]),
                    "{offer}"
                );
            }
        }
    }
}

fn runs(out: &Path, namespace: &str) -> Vec<Value> {
    topic(out, &format!("{namespace}.agent.merchandiser.runs"))
        .into_iter()
        .map(|record| record["value"].clone())
        .filter(|run| run["outcome"].is_string())
        .collect()
}

/// What became of each session's clicks, in order.
fn outcomes(runs: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut outcomes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for run in runs {
        let session = text_of(&run["trigger"]["key"]);
        outcomes
            .entry(session)
            .or_default()
            .push(text_of(&run["outcome"]));
    }
    outcomes
}

/// What the run of a click was shown.
fn shown<'a>(runs: &'a [Value], session: &str, page: &str) -> &'a Value {
    let run = runs
        .iter()
        .find(|run| {
            run["trigger"]["key"] == session
                && run["outcome"] == "Done"
                && run["input"]["event"]["sku"] == page
        })
        .unwrap_or_else(|| panic!("no run of {session} on {page} in {runs:#?}"));
    for slot in run["slots"].as_array().unwrap() {
        assert_eq!(slot["staleSeconds"], 0, "{slot}");
    }
    &run["input"]["context"]
}

/// The pages of the session that a run was shown, the newest first.
fn pages(context: &Value) -> Vec<String> {
    let pages = context["session"].as_array().unwrap();
    pages.iter().map(|page| text_of(&page["sku"])).collect()
}

fn as_told(out: &Path, namespace: &str) {
    let offers = offers(out, namespace);
    assert_eq!(offers, told());
    lawful(&folder(), &offers);
    let runs = runs(out, namespace);
    let expected = [
        ("ada-1", &["Skipped", "Done", "Done", "Done"][..]),
        ("ben-1", &["Skipped"]),
        ("ben-2", &["Skipped", "Done"]),
        ("chloe-1", &["Skipped"]),
        ("chloe-2", &["Skipped"]),
        ("chloe-3", &["Skipped", "Done"]),
        ("dev-1", &["Skipped", "Done"]),
        ("ema-1", &["Skipped", "Done", "Duplicate"]),
        ("finn-1", &["Coalesced", "Coalesced", "Done"]),
        ("gwen-1", &["Skipped", "Done"]),
        ("hana-1", &["Skipped"]),
        ("hana-2", &["Skipped", "Done"]),
    ]
    .map(|(session, outcomes)| {
        let outcomes: Vec<String> = outcomes
            .iter()
            .map(|outcome| (*outcome).to_owned())
            .collect();
        (session.to_owned(), outcomes)
    });
    assert_eq!(outcomes(&runs), BTreeMap::from(expected));

    // The click itself is in both views, and the one before it: one by session, the other by visitor.
    let ada = shown(&runs, "ada-1", "K-4");
    assert_eq!(pages(ada), ["K-4", "K-2"]);
    let of_day = |context: &Value| {
        let day = &context["day"];
        json!([day["pages"], day["sessions"], day["price"]])
    };
    assert_eq!(of_day(ada), json!([2, 1, 67.5]));
    // The same two pages in the session, and another day.
    for (session, day) in [
        ("ben-2", json!([3, 2, 95.0])),
        ("chloe-3", json!([4, 3, 43.75])),
        // What is older than a day is not in it.
        ("hana-2", json!([2, 1, 67.5])),
    ] {
        let context = shown(&runs, session, "K-4");
        assert_eq!(pages(context), ["K-4", "K-2"], "{session}");
        assert_eq!(of_day(context), day, "{session}");
    }
    let chloe = shown(&runs, "chloe-3", "K-4");
    assert_eq!(
        chloe["day"]["products"][0],
        json!({"value": "K-1", "count": 2})
    );
    // The one run of three clicks knows them all.
    assert_eq!(pages(shown(&runs, "finn-1", "K-3")), ["K-3", "K-2", "K-1"]);
    // What may not be offered is not shown to the model either.
    for (session, page) in [("dev-1", "K-4"), ("ema-1", "K-4"), ("ada-1", "L-2")] {
        let context = shown(&runs, session, page);
        let choices = context["choices"].as_array().unwrap();
        assert!(!choices.is_empty(), "{session}");
        assert!(
            choices.iter().all(|choice| choice["sku"] != "K-3"),
            "{session}: {choices:?}"
        );
    }
    for part in [
        "agent.merchandiser",
        "view.session",
        "view.day",
        "view.carts",
        "view.products",
        "view.offered",
    ] {
        let dead = topic(out, &format!("{namespace}.{part}.dead"));
        assert_eq!(dead, Vec::<Value>::new());
    }
}

#[test]
fn the_same_two_pages_and_what_stands_beside_the_second() {
    as_told(User::new().run_folder(&folder(), &[]).path(), "default");
}

#[test]
fn on_kafka_it_comes_to_the_same() {
    let kafka = headwater_testbed::kafka().unwrap();
    let namespace = format!("personalisation-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));
    let more = ["--kafka", kafka.bootstrap(), "--namespace", &namespace];
    as_told(User::new().run_folder(&folder(), &more).path(), &namespace);
}

/// What is offered in the example as it was changed.
fn offered_in(changes: &[(&str, &str, &str)]) -> Offers {
    let folder = changed(changes);
    let out = User::new().run_folder(folder.path(), &[]);
    let offers = offers(out.path(), "default");
    lawful(folder.path(), &offers);
    offers
}

#[test]
fn one_event_of_a_visitor_changes_what_they_are_offered_and_nobody_else() {
    let clicks = "events/clicks.ndjson";
    let offers = offered_in(&[
        // Ada's first page was in a session before.
        (
            clicks,
            r#"{"key": "ada-1", "value": {"visitor": "ada", "session": "ada-1", "sku": "K-2""#,
            r#"{"key": "ada-0", "value": {"visitor": "ada", "session": "ada-0", "sku": "K-2""#,
        ),
        // One of the two looks at the Cable 6 was somebody else's.
        (
            clicks,
            r#""visitor": "chloe", "session": "chloe-2""#,
            r#""visitor": "cleo", "session": "chloe-2""#,
        ),
        // In the cart is what he was offered.
        ("events/carts.ndjson", "K-3", "K-5"),
        // She opened it this morning.
        (clicks, "2026-11-22T18:00:00Z", "2026-11-24T08:00:00Z"),
    ]);
    let mut expected = told();
    // The second page is the first of its session: nothing stands there. The third sees one lock and a newer light.
    let comet = "More lights: Comet 80, 70 EUR.";
    let spark = "More lights: Spark 40, 25 EUR.";
    for offers in [
        vec![
            offer("ada-1", "L-2", "L-3", "Interest", comet),
            offer("ada-1", "L-3", "L-1", "Interest", spark),
        ],
        vec![folder_90("chloe-3")],
        vec![folder_90("dev-1")],
        vec![fortress("hana-2")],
    ] {
        expected.extend(by_session(offers));
    }
    assert_eq!(offers, expected);
}

#[test]
fn what_is_sold_out_is_offered_to_nobody() {
    let offers = offered_in(&[(
        "events/stock.ndjson",
        r#""K-3", "value": {"left": 2}"#,
        r#""K-3", "value": {"left": 0}"#,
    )]);
    let mut expected = told();
    expected.get_mut("ada-1").unwrap()[0] = fortress("ada-1");
    expected.extend(by_session(vec![fortress("hana-2")]));
    assert_eq!(offers, expected);
}

/// The README's last suggestion: an average without a window remembers for ever.
#[test]
fn without_a_window_what_is_long_past_counts() {
    let offers = offered_in(&[(
        "clicks.yaml",
        "        of: value.price\n        withinSeconds: 86400\n",
        "        of: value.price\n",
    )]);
    let mut expected = told();
    expected.extend(by_session(vec![fortress("hana-2")]));
    assert_eq!(offers, expected);
}

/// Opens the page of a product, as the catalogue has it.
fn open(user: &User, visitor: &str, session: &str, sku: &str) {
    let catalogue = events(&folder(), "products");
    let product = catalogue
        .iter()
        .find(|product| product["key"] == sku)
        .unwrap();
    let mut click = product["value"].clone();
    click["visitor"] = json!(visitor);
    click["session"] = json!(session);
    user.run(&["send", "clicks", "--key", session, &click.to_string()])
        .ok();
}

/// The next run of a session that asked the model, as `up` tells it.
fn next(up: &mut Up, session: &str) -> Value {
    loop {
        let run = up.wait_for("run")["record"].clone();
        if run["trigger"]["key"] == session && run["outcome"] == "Done" {
            return run;
        }
    }
}

fn chosen(run: &Value) -> String {
    assert_eq!(run["outputs"][0]["topic"], "default.offers", "{run}");
    let answer = run["model"]["answer"].as_str().unwrap();
    text_of(&serde_json::from_str::<Value>(answer).unwrap()["sku"])
}

/// The example before anybody came: with the catalogue, the stock and the carts, and without clicks. What is sent then has
/// the time of the test, whatever the clock says, and nothing that was earlier or later.
fn nobody_yet() -> tempfile::TempDir {
    let folder = changed(&[]);
    fs::remove_file(folder.path().join("events/clicks.ndjson")).unwrap();
    folder
}

#[test]
fn a_click_that_follows_at_once_sees_the_one_before() {
    let (user, folder) = (User::new(), nobody_yet());
    let mut up = user.up(folder.path(), &[]);
    open(&user, "gil", "gil-1", "K-2");
    open(&user, "gil", "gil-1", "K-4");
    let run = next(&mut up, "gil-1");
    assert_eq!(pages(&run["input"]["context"]), ["K-4", "K-2"]);
    assert_eq!(chosen(&run), "K-5");

    user.run(&["send", "stock", "--key", "K-3", r#"{"left": 2}"#])
        .ok();
    open(&user, "gil", "gil-1", "K-1");
    let run = next(&mut up, "gil-1");
    assert_eq!(pages(&run["input"]["context"]), ["K-1", "K-4", "K-2"]);
    assert_eq!(chosen(&run), "K-3");

    // The session is new, and the day is not.
    open(&user, "gil", "gil-2", "K-2");
    open(&user, "gil", "gil-2", "B-2");
    let run = next(&mut up, "gil-2");
    let context = &run["input"]["context"];
    assert_eq!(pages(context), ["B-2", "K-2"]);
    assert_eq!(context["day"]["pages"], 5);
    assert_eq!(context["day"]["sessions"], 2);
    assert_eq!(chosen(&run), "K-2");
    assert_eq!(up.interrupt(), 0);
}

/// What a model says, what happens while it thinks, and whether it is offered. Each to a visitor of their own.
const THOUGHTS: [(&str, &str, &[&str], bool); 5] = [
    (
        "sold",
        "K-5",
        &["send", "stock", "--key", "K-5", r#"{"left": 0}"#],
        false,
    ),
    (
        "bought",
        "K-1",
        &["send", "carts", "--key", "bought", r#"{"skus": ["K-1"]}"#],
        false,
    ),
    (
        "offered",
        "K-1",
        &[
            "send",
            "offers",
            "--key",
            "offered",
            r#"{"visitor": "offered", "session": "offered", "page": "K-2", "sku": "K-1", "reason": "Interest", "text": ""}"#,
        ],
        false,
    ),
    // Long sold out, and not among the choices that it was shown.
    ("made-up", "K-3", &[], false),
    ("plain", "K-1", &[], true),
];

/// Answers with this product, after the command has ended.
fn answer(
    user: Arc<User>,
    sku: &'static str,
    meanwhile: &'static [&'static str],
) -> impl Fn(&wiremock::Request) -> ResponseTemplate + Send + Sync + 'static {
    move |_: &wiremock::Request| {
        if !meanwhile.is_empty() {
            user.run(meanwhile).ok();
        }
        let content = json!({"sku": sku, "reason": "Interest", "text": "This one."}).to_string();
        let choice =
            json!({"message": {"role": "assistant", "content": content}, "finish_reason": "stop"});
        ResponseTemplate::new(200).set_body_json(json!({"choices": [choice]}))
    }
}

/// The rules of the prompt do not bind a model, and it may be right when it is asked and wrong when it has answered.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_model_says_what_cannot_be_had_is_not_offered() {
    let server = MockServer::start().await;
    let user = Arc::new(User::new());
    for (_, sku, meanwhile, _) in THOUGHTS {
        Mock::given(method("POST"))
            .respond_with(answer(Arc::clone(&user), sku, meanwhile))
            .up_to_n_times(1)
            .mount(&server)
            .await;
    }
    let model = format!("picker={}/v1#small", server.uri());
    let runs = tokio::task::spawn_blocking(move || {
        let folder = nobody_yet();
        let mut up = user.up(folder.path(), &["--model", &model]);
        THOUGHTS.map(|(visitor, ..)| {
            open(&user, visitor, visitor, "K-2");
            open(&user, visitor, visitor, "K-4");
            next(&mut up, visitor)
        })
    });
    for (run, (visitor, sku, meanwhile, offered)) in runs.await.unwrap().iter().zip(THOUGHTS) {
        // It was there to be chosen when the model was asked, unless it made it up.
        let choices = run["input"]["context"]["choices"].as_array().unwrap();
        let seen = choices.iter().any(|choice| choice["sku"] == sku);
        assert_eq!(seen, offered || !meanwhile.is_empty(), "{visitor}: {run}");
        let written = run["outputs"].as_array().map_or(0, Vec::len);
        assert_eq!(written, usize::from(offered), "{visitor}: {run}");
    }
}
