//! The example of windows and approvals, as its README tells it: what a person is asked, what becomes of the answer, and
//! that no transaction waits for it; on the memory log and on a real Kafka. And what its transactions come to, computed
//! here apart from the engine.

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
use support::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const MONTH: i64 = 30 * 24 * HOUR;

const ALERTS: [(&str, &str, &str, &str); 3] = [
    (
        "t-040",
        "4417",
        "Block",
        "Block: 749.0 SEK at PlayCredits came after 3 declined attempts within ten minutes.",
    ),
    (
        "t-041",
        "5102",
        "Block",
        "Block: the card paid in PL within an hour of PT, and Tomás Ferreira told us of no journey.",
    ),
    (
        "t-042",
        "3920",
        "Ask",
        "Ask: 1480.0 EUR at Brennan Jewellers is far more than the 323.7 that Imani Okafor pays on average.",
    ),
];

fn folder() -> PathBuf {
    root().join("examples/fraud-detection")
}

/// The example with some of it written otherwise.
fn changed(changes: &[(&str, &str, &str)]) -> tempfile::TempDir {
    changed_copy(&folder(), changes)
}

/// Runs the example to its end and checks everything that it wrote. Two of its runs wait then, and nothing waits for them.
fn run(user: &User, namespace: &str, more: &[&str]) {
    let out = user.run_folder(&folder(), more);
    let out = out.path();
    // What a person is asked about is decided later, and its alert says how.
    assert_eq!(
        alerts(out, namespace),
        BTreeMap::from([alert("t-042", Value::Null)])
    );
    assert_eq!(asked(out, namespace), ["4417", "5102"]);
    assert_eq!(blocked(user, out, namespace), BTreeMap::new());
    runs(out, namespace, 3);
    rows(user, out, namespace);
}

/// What was alerted, by transaction.
fn alerts(out: &Path, namespace: &str) -> BTreeMap<String, Value> {
    let records = topic(out, &format!("{namespace}.alerts"));
    let count = records.len();
    let written: BTreeMap<String, Value> = records
        .into_iter()
        .map(|record| {
            assert_eq!(record["key"], record["value"]["card"]);
            let transaction = record["value"]["transaction"].as_str().unwrap().to_owned();
            (transaction, record["value"].clone())
        })
        .collect();
    assert_eq!(written.len(), count, "a transaction was alerted twice");
    written
}

/// The alert of one of the example's transactions, and what became of the card.
fn alert(transaction: &str, block: Value) -> (String, Value) {
    let (_, card, action, text) = ALERTS
        .iter()
        .find(|(of, ..)| *of == transaction)
        .copied()
        .unwrap();
    let alert = json!({"transaction": transaction, "card": card, "action": action, "text": text, "block": block});
    (transaction.to_owned(), alert)
}

/// The cards that people were asked about, as a chat or a ticket system hears of it; one for each question.
fn asked(out: &Path, namespace: &str) -> Vec<String> {
    let mut ids = BTreeSet::new();
    let mut cards: Vec<String> = topic(out, &format!("{namespace}.approval-requests"))
        .iter()
        .map(|record| {
            let request = &record["value"];
            assert_eq!(record["key"], request["approval"]);
            assert!(ids.insert(request["approval"].to_string()), "{request}");
            assert_eq!(request["tool"], "block_card");
            assert!(time(&request["expires_at"]) > time(&record["timestamp"]));
            request["arguments"]["card"].as_str().unwrap().to_owned()
        })
        .collect();
    cards.sort();
    cards
}

/// The rows of the view of blocked cards, which are the events that the agent wrote: one for each card.
fn blocked(user: &User, out: &Path, namespace: &str) -> BTreeMap<String, Value> {
    let state = state_topic(user, &folder(), namespace, "blocked-cards");
    let rows: BTreeMap<String, Value> = topic(out, &state)
        .into_iter()
        .filter(|record| !record["key"].as_str().unwrap().starts_with('\0'))
        .map(|record| {
            let key = record["key"].as_str().unwrap().to_owned();
            (key, record["value"].clone())
        })
        .collect();
    let events = topic(out, &format!("{namespace}.blocked-cards"));
    assert_eq!(
        events.len(),
        rows.len(),
        "a card was blocked twice: {events:?}"
    );
    for event in events {
        assert_eq!(rows[event["key"].as_str().unwrap()], event["value"]);
    }
    rows
}

/// Every approved transaction is looked at once; five of them by the model, of which so many are over.
fn runs(out: &Path, namespace: &str, done: usize) {
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let mut fine = Vec::new();
    for run in topic(out, &format!("{namespace}.agent.fraud-watch.runs")) {
        let run = &run["value"];
        *outcomes
            .entry(run["outcome"].as_str().unwrap().to_owned())
            .or_default() += 1;
        if let Some(answer) = run["model"]["answer"].as_str()
            && answer.starts_with("Fine")
        {
            fine.push(answer.to_owned());
        }
    }
    let expected = [("Done".to_owned(), done), ("Skipped".to_owned(), 38)];
    assert_eq!(outcomes, BTreeMap::from(expected));
    fine.sort();
    assert_eq!(
        fine,
        [
            "Fine: Pavel Novák often pays at Nájem Vinohrady.",
            "Fine: Sofia Rossi told us of the journey.",
        ]
    );
}

/// The rows of the aggregate in the view's own topic are what the transactions come to, each as of its card's last.
fn rows(user: &User, out: &Path, namespace: &str) {
    let state = state_topic(user, &folder(), namespace, "spending");
    let mut written: BTreeMap<String, Value> = BTreeMap::new();
    for record in topic(out, &state) {
        let key = record["key"].as_str().unwrap();
        if !key.starts_with('\0') {
            written.insert(key.to_owned(), record["value"].clone());
        }
    }
    let mut events: Vec<(i64, Value)> = topic(out, &format!("{namespace}.transactions"))
        .into_iter()
        .map(|record| (time(&record["timestamp"]), record["value"].clone()))
        .collect();
    events.sort_by_key(|(time, _)| *time);
    let mut cards: BTreeMap<String, Vec<(i64, Value)>> = BTreeMap::new();
    for (time, event) in events {
        let card = event["card_id"].as_str().unwrap().to_owned();
        cards.entry(card).or_default().push((time, event));
    }
    assert_eq!(cards.len(), 5);
    let expected: BTreeMap<String, Value> = cards
        .into_iter()
        .map(|(card, events)| (card, row(&events, events.last().unwrap().0)))
        .collect();
    assert_eq!(written, expected);
}

/// A timestamp of `--out`.
fn time(value: &Value) -> i64 {
    let text = value.as_str().unwrap();
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// One card, from all its transactions, as of a time.
fn row(events: &[(i64, Value)], at: i64) -> Value {
    let approved = |within: Option<i64>| -> Vec<f64> {
        events
            .iter()
            .filter(|(time, event)| {
                event["status"] == "Approved" && within.is_none_or(|within| *time > at - within)
            })
            .map(|(_, event)| event["amount"].as_f64().unwrap())
            .collect()
    };
    let ever = approved(None);
    let mut merchants: BTreeMap<&str, i64> = BTreeMap::new();
    for (_, event) in events
        .iter()
        .filter(|(_, event)| event["status"] == "Approved")
    {
        *merchants
            .entry(event["merchant"].as_str().unwrap())
            .or_default() += 1;
    }
    let mut merchants: Vec<(&str, i64)> = merchants.into_iter().collect();
    merchants.sort_by_key(|(_, count)| -count);
    merchants.truncate(3);
    let countries: BTreeSet<&str> = events
        .iter()
        .filter(|(time, event)| event["present"] == true && *time > at - HOUR)
        .map(|(_, event)| event["country"].as_str().unwrap())
        .collect();
    let last_seen_in = events.iter().rfind(|(_, event)| event["present"] == true);
    let declined = events
        .iter()
        .filter(|(time, event)| event["status"] == "Declined" && *time > at - 10 * MINUTE)
        .count();
    let largest = approved(Some(MONTH)).into_iter().reduce(f64::max);
    // Of no numbers the sum is the int 0.
    let hour = approved(Some(HOUR))
        .into_iter()
        .reduce(|sum, amount| sum + amount);
    json!({
        "payments": ever.len(),
        "usual": ever.iter().sum::<f64>() / ever.len() as f64,
        "merchants": merchants.iter().map(|(value, count)| json!({"value": value, "count": count})).collect::<Vec<_>>(),
        "last_seen_in": last_seen_in.map(|(_, event)| event["country"].clone()),
        "largest_month": largest,
        "spent_hour": hour.map_or(json!(0), |hour| json!(hour)),
        "countries_hour": countries.len(),
        "declined_10_minutes": declined,
    })
}

/// Who answers questions, at a running `up` or beside it.
struct Desk<'a> {
    user: &'a User,
    to: &'a [&'a str],
    /// The name that answers have.
    by: &'a str,
}

impl Desk<'_> {
    fn run(&self, arguments: &[&str]) -> Done {
        let all = [arguments, self.to].concat();
        Done::new(self.user.headwater().args(all).output().unwrap())
    }

    /// What waits, by card: one question each.
    fn questions(&self) -> BTreeMap<String, Value> {
        let listed = self.run(&["approvals", "--output", "json"]);
        let listed: Vec<Value> = serde_json::from_str(listed.ok()).unwrap();
        let mut questions = BTreeMap::new();
        for question in listed {
            let card = question["arguments"]["card"].as_str().unwrap().to_owned();
            let other = questions.insert(card, question);
            assert_eq!(other, None, "asked twice");
        }
        questions
    }

    fn send(&self, transactions: &[Value]) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("transactions.ndjson");
        let lines: String = transactions
            .iter()
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&file, lines).unwrap();
        self.run(&["send", "transactions", "--file", file.to_str().unwrap()])
            .ok();
    }

    fn approve(&self, question: &Value) -> Done {
        self.run(&["approvals", "--approve", id(question)])
    }

    fn deny(&self, question: &Value, reason: &str) -> Done {
        self.run(&["approvals", "--deny", id(question), "--reason", reason])
    }
}

fn id(question: &Value) -> &str {
    question["approval"].as_str().unwrap()
}

fn transaction(card: &str, id: &str, amount: u32, status: &str, at: &str) -> Value {
    json!({
        "key": card,
        "value": {
            "id": id, "card_id": card, "amount": amount, "currency": "SEK", "merchant": "PlayCredits",
            "country": "CY", "present": false, "status": status
        },
        "timestamp": format!("2026-11-24T{at}Z"),
    })
}

/// Three declined attempts and a payment: a number that is tried out. After the example's own transactions.
fn misuse(card: &str, id: &str, hour: u32) -> Vec<Value> {
    let declined = |n: u32| {
        let (id, at) = (format!("{id}-{n}"), format!("{hour}:3{n}:00"));
        transaction(card, &id, 5, "Declined", &at)
    };
    let mut all: Vec<Value> = (0..3).map(declined).collect();
    let at = format!("{hour}:34:00");
    all.push(transaction(card, id, 499, "Approved", &at));
    all
}

/// The record of a transaction's run, once it is over.
fn over(up: &mut Up, transaction: &str) -> Value {
    loop {
        let record = up.wait_for("run")["record"].clone();
        if record["input"]["event"]["id"] == transaction {
            return record;
        }
    }
}

/// What came of a run's one call: outcome, rule, who approved it.
fn called(record: &Value) -> Value {
    let calls = record["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1, "{record}");
    let call = &calls[0];
    json!([call["outcome"], call["rule"], call["approvedBy"]])
}

fn done(by: Option<&str>) -> Value {
    json!({"outcome": "Done", "by": by, "why": null})
}

fn denied(why: &str) -> Value {
    json!({"outcome": "Denied", "by": null, "why": why})
}

/// A row of the view of blocked cards, by its key.
fn row_of_blocked(
    card: &str,
    customer: &str,
    of: &str,
    reason: &str,
    by: Option<&str>,
) -> (String, Value) {
    let row = json!({"card": card, "customer": customer, "transaction": of, "reason": reason, "approved_by": by});
    (card.to_owned(), row)
}

const TRIED_OUT: &str = "749 SEK at PlayCredits after 3 declined attempts within ten minutes.";
const ABROAD: &str = "The card itself was in 2 countries within an hour, and no journey was told.";

/// The whole of it, at a running `up`.
fn a_person_decides_and_the_stream_goes_on(desk: &Desk<'_>, namespace: &str, more: &[&str]) {
    let (user, by) = (desk.user, desk.by);
    let out = tempfile::tempdir().unwrap();
    let writes = ["--out", out.path().to_str().unwrap()];
    let mut up = user.up(&folder(), &[more, &writes].concat());

    // Each of the two cards is asked about once, with what would be sent.
    let waiting = desk.questions();
    assert_eq!(waiting.keys().collect::<Vec<_>>(), ["4417", "5102"]);
    let (first, other) = (&waiting["4417"], &waiting["5102"]);
    assert_eq!(
        first["arguments"],
        json!({"card": "4417", "customer": "c-2204", "reason": TRIED_OUT})
    );
    assert_eq!(
        first["message"],
        format!("Block card 4417 of Nora Lindqvist? {TRIED_OUT}")
    );
    assert_eq!(
        other["arguments"],
        json!({"card": "5102", "customer": "c-2217", "reason": ABROAD})
    );

    // A transaction of the card meanwhile is looked at like any other, by the model too.
    desk.send(&[transaction("4417", "t-101", 5_000, "Approved", "11:20:00")]);
    let meanwhile = over(&mut up, "t-101");
    assert_eq!(meanwhile["outcome"], "Done");
    let answer = meanwhile["model"]["answer"].as_str().unwrap();
    assert!(
        answer.starts_with("Ask: 5000.0 SEK at PlayCredits is far more than"),
        "{answer}"
    );
    assert_eq!(desk.questions(), waiting);

    // A second misuse asks for itself: nobody has decided about the first.
    desk.send(&misuse("4417", "t-102", 11));
    let second = up.wait_for("approval")["asked"].clone();
    assert_eq!(second["arguments"]["card"], "4417");
    assert_ne!(second["approval"], first["approval"]);

    // Approved: blocked, and known by whom. The first answer counts.
    let approved = desk.approve(first);
    assert!(
        approved
            .ok()
            .starts_with(&format!("approved by {by}: block_card ")),
        "{approved:?}"
    );
    assert_eq!(called(&over(&mut up, "t-040")), json!(["Done", null, by]));
    for again in [desk.approve(first), desk.deny(first, "Not this one.")] {
        let refused = again.refused(1);
        let settled = format!(
            "{by} approved {} already: the first answer counts",
            id(first)
        );
        assert!(refused.contains(&settled), "{refused}");
    }

    // Approved too late: the rules are asked again before the call, and the card is blocked by now.
    desk.approve(&second).ok();
    let late = over(&mut up, "t-102");
    assert_eq!(called(&late), json!(["Denied", "already-blocked", null]));

    // Denied: not blocked, and known why.
    desk.deny(other, "He called us from Warsaw.").ok();
    let kept = over(&mut up, "t-041");
    assert_eq!(called(&kept), json!(["Denied", "person-decides", null]));

    // Nobody is asked about a card that is blocked, nor where the holder wants it blocked at once.
    desk.send(&misuse("4417", "t-103", 12));
    let blocked_before = over(&mut up, "t-103");
    assert_eq!(
        called(&blocked_before),
        json!(["Denied", "already-blocked", null])
    );
    desk.send(&misuse("2871", "t-104", 12));
    let at_once = over(&mut up, "t-104");
    assert_eq!(called(&at_once), json!(["Done", null, null]));
    assert_eq!(desk.questions(), BTreeMap::new());
    assert_eq!(up.interrupt(), 0);

    let out = out.path();
    assert_eq!(asked(out, namespace), ["4417", "4417", "5102"]);
    let reason = "499 SEK at PlayCredits after 3 declined attempts within ten minutes.";
    assert_eq!(
        blocked(user, out, namespace),
        BTreeMap::from([
            row_of_blocked("2871", "c-2240", "t-104", reason, None),
            row_of_blocked("4417", "c-2204", "t-040", TRIED_OUT, Some(by)),
        ])
    );
    let mut written = alerts(out, namespace);
    let mut became = |transaction: &str| written.remove(transaction).unwrap()["block"].clone();
    assert_eq!(became("t-101"), Value::Null);
    let blocked_since = denied("The card is blocked since t-040.");
    assert_eq!(became("t-102"), blocked_since);
    assert_eq!(became("t-103"), blocked_since);
    assert_eq!(became("t-104"), done(None));
    let why = format!("{by} denied this call: He called us from Warsaw.");
    assert_eq!(
        written,
        BTreeMap::from([
            alert("t-040", done(Some(by))),
            alert("t-041", denied(&why)),
            alert("t-042", Value::Null),
        ])
    );
}

#[test]
fn in_memory_the_transactions_come_to_two_questions_and_an_alert() {
    run(&User::new(), "default", &[]);
}

#[test]
fn on_kafka_they_come_to_the_same_and_are_answered_while_nothing_runs() {
    let kafka = headwater_testbed::kafka().unwrap();
    let namespace = format!("fraud-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));
    let more = ["--kafka", kafka.bootstrap(), "--namespace", &namespace];
    let user = User::new();
    run(&user, &namespace, &more);

    let folder = folder();
    let resources = ["--resources", folder.to_str().unwrap()];
    let to = [&more[..], &resources].concat();
    let desk = Desk {
        user: &user,
        to: &to,
        by: "ana",
    };
    let waiting = desk.questions();
    assert_eq!(waiting.len(), 2);
    desk.approve(&waiting["4417"]).ok();
    desk.deny(&waiting["5102"], "He called us from Warsaw.")
        .ok();
    assert_eq!(desk.questions(), BTreeMap::new());

    // The answers are taken up by whoever runs next.
    let resources = changed(&[]);
    fs::remove_dir_all(resources.path().join("events")).unwrap();
    let out = user.run_folder(resources.path(), &more);
    let out = out.path();
    assert_eq!(
        alerts(out, &namespace),
        BTreeMap::from([
            alert("t-040", done(Some("ana"))),
            alert(
                "t-041",
                denied("ana denied this call: He called us from Warsaw.")
            ),
            alert("t-042", Value::Null),
        ])
    );
    let row = row_of_blocked("4417", "c-2204", "t-040", TRIED_OUT, Some("ana"));
    assert_eq!(blocked(&user, out, &namespace), BTreeMap::from([row]));
    runs(out, &namespace, 5);
    rows(&user, out, &namespace);
}

#[test]
fn in_memory_a_person_decides_and_the_stream_goes_on() {
    let user = User::new();
    // The one who answers is the one whose `up` it is.
    let desk = Desk {
        user: &user,
        to: &[],
        by: "ana",
    };
    a_person_decides_and_the_stream_goes_on(&desk, "default", &[]);
}

#[test]
fn on_kafka_a_person_decides_and_the_stream_goes_on() {
    let kafka = headwater_testbed::kafka().unwrap();
    let namespace = format!("fraud-asks-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));
    let more = ["--kafka", kafka.bootstrap(), "--namespace", &namespace];
    let folder = folder();
    let resources = ["--resources", folder.to_str().unwrap()];
    let to = [&more[..], &resources].concat();
    let user = User::new();
    let desk = Desk {
        user: &user,
        to: &to,
        by: "ana",
    };
    a_person_decides_and_the_stream_goes_on(&desk, &namespace, &more);
}

#[test]
fn a_changed_event_changes_who_is_asked_about() {
    let transactions = "events/transactions.ndjson";
    let cards = "events/cards.ndjson";
    let nora =
        r#""holder": "Nora Lindqvist", "country": "SE", "travels": [], "block_at_once": false"#;
    let tomas = r#""holder": "Tomás Ferreira", "country": "PT", "travels": []"#;
    let told = tomas.replace("[]", r#"["PL"]"#);
    let at_once = nora.replace("false", "true");
    let row = row_of_blocked("4417", "c-2204", "t-040", TRIED_OUT, None);
    for (file, from, to, expected, rows) in [
        // The first of three declined attempts was too long ago.
        (
            transactions,
            "2026-11-24T09:31:00Z",
            "2026-11-24T09:27:59Z",
            "5102",
            BTreeMap::new(),
        ),
        // He had told of the journey.
        (cards, tomas, told.as_str(), "4417", BTreeMap::new()),
        // She wants it blocked without asking anybody.
        (cards, nora, at_once.as_str(), "5102", BTreeMap::from([row])),
    ] {
        let folder = changed(&[(file, from, to)]);
        let user = User::new();
        let out = user.run_folder(folder.path(), &[]);
        assert_eq!(asked(out.path(), "default"), [expected], "{to}");
        assert_eq!(blocked(&user, out.path(), "default"), rows, "{to}");
    }
}

#[test]
fn silence_denies() {
    let folder = changed(&[("agent.yaml", "timeoutSeconds: 1800", "timeoutSeconds: 1")]);
    let user = User::new();
    let out = tempfile::tempdir().unwrap();
    let mut up = user.up(folder.path(), &["--out", out.path().to_str().unwrap()]);
    let desk = Desk {
        user: &user,
        to: &[],
        by: "nobody",
    };
    desk.send(&misuse("6644", "t-105", 12));
    let kept = over(&mut up, "t-105");
    assert_eq!(called(&kept), json!(["Denied", "person-decides", null]));
    let question = up.said("approval")["asked"].clone();
    assert_eq!(question["arguments"]["card"], "6644");
    let late = desk.approve(&question);
    assert!(
        late.refused(1).contains("was denied by then as nobody did"),
        "{late:?}"
    );
    assert_eq!(up.interrupt(), 0);
    assert_eq!(
        alerts(out.path(), "default")["t-105"]["block"],
        denied("nobody approved this call in time")
    );
    assert_eq!(blocked(&user, out.path(), "default"), BTreeMap::new());
}

/// A model that does what a transaction's text tells it to.
const OBEYS: &str = "
      - when: size(request.calls) == 0
        toolCalls:
          - {tool: block_card, arguments: \"{'card': '9999', 'customer': 'c-1', 'reason': 'As told.'}\"}
          - {tool: block_card, arguments: \"{'card': '9999', 'customer': 'c-1', 'reason': 'Once more.'}\"}
          - {tool: approve, arguments: \"{'approval': 'all'}\"}
      - reply: Done as told.
";

#[test]
fn a_model_that_obeys_an_attacker_asks_about_its_own_card_and_once() {
    let model = fs::read_to_string(folder().join("model.yaml")).unwrap();
    let (_, rules) = model.split_once("    rules:\n").unwrap();
    let folder = changed(&[("model.yaml", rules, &OBEYS[1..])]);
    let user = User::new();
    let out = user.run_folder(folder.path(), &[]);
    let out = out.path();
    // All that comes before the model but Sofia's, who wants her card blocked at once.
    assert_eq!(asked(out, "default"), ["3920", "4417", "5102", "6644"]);
    let row = row_of_blocked("2871", "c-2240", "t-043", "As told.", None);
    assert_eq!(blocked(&user, out, "default"), BTreeMap::from([row]));
    let run = topic(out, "default.agent.fraud-watch.runs")
        .into_iter()
        .find(|run| run["value"]["outcome"] == "Done")
        .unwrap();
    let calls: Vec<Value> = run["value"]["calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|call| json!([call["tool"], call["outcome"], call["rule"]]))
        .collect();
    assert_eq!(
        calls,
        [
            json!(["block_card", "Done", null]),
            json!(["block_card", "Denied", "asked-once"]),
            json!(["approve", "Denied", null]),
        ]
    );
}
