//! Agents with an input log of their own: a key that is not the record's, and a run for each row of a view.

use crate::bed::{Bed, DEADLINE, PARTITIONS, Seen, ready, until};
use crate::faulty::Faulty;
use crate::flight;
use crate::life::each_once;
use crate::models::Counting;
use headwater_engine::record::NewRecord;
use headwater_runtime::backoff::Random;
use headwater_runtime::stage::{self, Handle};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SESSIONS: usize = 5;

/// The agent with an input log, and with this of its trigger.
fn agent(bed: &Bed, trigger: &Value) -> Value {
    let input = bed.topic("agent.helper.in");
    if bed.log.topics(std::slice::from_ref(&input)).unwrap()[0].is_none() {
        bed.log
            .create(&[bed.spec("agent.helper.in", PARTITIONS)])
            .unwrap();
    }
    let mut stage = bed.agent();
    stage["views"]["flights"]["indexes"] =
        json!([{"name": "byGate", "key": {"one": "value.gate"}}]);
    let own = &mut stage["role"]["agent"];
    own["trigger"]["input"] = json!(input);
    // No run is to be given up because its process was killed a few times.
    own["delivery"]["maxAttempts"] = json!(50);
    for (name, value) in trigger.as_object().unwrap() {
        own["trigger"][name] = value.clone();
    }
    own["outputs"][0]["value"] = json!("{'asked': event.text, 'turns': size(conversation)}");
    stage
}

/// One whose runs have the session as key, which is not the record's.
pub fn by_session(bed: &Bed) -> Value {
    agent(bed, &json!({"key": "event.session"}))
}

/// One that runs for each flight at the gate that is asked for.
fn by_flight(bed: &Bed) -> Value {
    let lookup = json!({
        "view": "flights", "by": {"key": "event.gate"}, "index": "byGate", "where": "!has(value.closed)",
        "orderBy": null, "order": "Ascending", "limit": 1,
    });
    let mut stage = agent(bed, &json!({"forEach": lookup}));
    stage["role"]["agent"]["outputs"][0]["value"] =
        json!("{'asked': event.text, 'flight': match._key, 'said': match.gate}");
    stage
}

pub fn question(bed: &Bed, n: usize) -> NewRecord {
    let session = format!("s{}", n % SESSIONS);
    let value = json!({"text": format!("q{n}"), "session": session, "flight": "none"});
    bed.record("questions", &format!("k{n}"), &value)
}

async fn idle(bed: &Bed, handle: &Handle) {
    let begun = Instant::now();
    while !stage::idle([handle], &*bed.log).unwrap() {
        assert!(begun.elapsed() < DEADLINE, "{:#?}", handle.status());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Each question is answered once, and each session remembers all that was said in it before.
fn check_sessions(bed: &Bed, questions: usize) {
    let answers = bed.read("answers");
    each_once(&answers, questions);
    for session in 0..SESSIONS {
        let key = format!("s{session}");
        let of: Vec<&Seen> = answers.iter().filter(|seen| seen.key == key).collect();
        let turns: Vec<_> = of
            .iter()
            .map(|seen| seen.value["turns"].as_u64().unwrap())
            .collect();
        let expected: Vec<u64> = (0..turns.len() as u64).map(|n| 2 * n).collect();
        assert_eq!(turns, expected, "{key}");
        assert_eq!(of.len(), questions / SESSIONS, "{key}");
    }
    let taken = bed.read("agent.helper.in");
    let distinct: BTreeSet<String> = taken
        .iter()
        .map(|seen| seen.value["text"].to_string())
        .collect();
    assert_eq!((taken.len(), distinct.len()), (questions, questions));
}

pub async fn a_key_that_is_not_the_records_orders_runs_across_crashes(mut bed: Bed) {
    const QUESTIONS: usize = 120;
    let (model, _) = Counting::model(Duration::from_millis(1));
    bed.models.insert("chat".to_owned(), model);
    let stage = by_session(&bed);
    let mut writer = bed.writer();
    for round in 0..4 {
        let handle = bed.start(&stage);
        let of = QUESTIONS / 4;
        for n in round * of..(round + 1) * of {
            writer.write(&[question(&bed, n)]).unwrap();
        }
        // Somewhere in the middle of the round.
        bed.follow("answers").wait(round * of + 3);
        handle.crash().await;
    }
    let handle = bed.started(&stage).await;
    bed.follow("answers").wait(QUESTIONS);
    idle(&bed, &handle).await;
    check_sessions(&bed, QUESTIONS);
    let audits = bed.read("agent.helper.runs");
    let runs: BTreeSet<_> = audits.iter().map(|audit| &audit.key).collect();
    assert_eq!((audits.len(), runs.len()), (QUESTIONS, QUESTIONS));
    let answer = &bed.read("answers")[0];
    // Who asks where it came from is led to the event, not to the copy.
    let trigger = &answer.headers["headwater-trigger"];
    assert!(trigger.starts_with(&bed.topic("questions-")), "{trigger}");
    assert_eq!(&answer.headers["headwater-root"], trigger);
    assert!(
        audits
            .iter()
            .any(|audit| audit.value["trigger"]["position"] == json!(trigger))
    );
    handle.crash().await;
}

pub async fn events_are_taken_in_once_when_transactions_go_wrong(mut bed: Bed) {
    const QUESTIONS: usize = 100;
    let (model, _) = Counting::model(Duration::ZERO);
    bed.models.insert("chat".to_owned(), model);
    let services = stage::Services {
        log: Arc::new(Faulty {
            inner: Arc::clone(&bed.log),
            random: Arc::new(Random::seeded(7)),
            fenced: Arc::default(),
        }),
        ..bed.services()
    };
    let handle = bed.start_with(&by_session(&bed), services);
    ready(&handle).await;
    let mut writer = bed.writer();
    for n in 0..QUESTIONS {
        writer.write(&[question(&bed, n)]).unwrap();
    }
    bed.follow("answers").wait(QUESTIONS);
    idle(&bed, &handle).await;
    check_sessions(&bed, QUESTIONS);
    handle.crash().await;
}

pub async fn where_an_agent_with_an_input_log_begins_is_fixed_once(bed: Bed) {
    let mut stage = by_session(&bed);
    stage["role"]["agent"]["trigger"]["startFrom"] = json!("Latest");
    let mut writer = bed.writer();
    writer.write(&[question(&bed, 0)]).unwrap();
    let handle = bed.started(&stage).await;
    handle.crash().await;
    writer.write(&[question(&bed, 1)]).unwrap();
    let handle = bed.started(&stage).await;
    writer.write(&[question(&bed, 2)]).unwrap();
    bed.follow("answers").wait(2);
    idle(&bed, &handle).await;
    let answers = bed.read("answers");
    let asked: BTreeSet<&str> = answers
        .iter()
        .map(|seen| seen.value["asked"].as_str().unwrap())
        .collect();
    assert_eq!(asked, BTreeSet::from(["q1", "q2"]));
    handle.crash().await;
}

pub async fn a_trigger_runs_for_each_row_that_was_acknowledged_before_it(bed: Bed) {
    const GATES: usize = 20;
    let handle = bed.started(&by_flight(&bed)).await;
    let mut writer = bed.writer();
    for gate in 0..GATES {
        let flights: Vec<_> = (0..gate)
            .map(|n| flight(&bed, &format!("G{gate}F{n}"), &format!("G{gate}")))
            .chain([bed.record(
                "flights",
                &format!("closed{gate}"),
                &json!({"gate": format!("G{gate}"), "closed": true}),
            )])
            .collect();
        writer.write(&flights).unwrap();
        let value =
            json!({"text": format!("q{gate}"), "gate": format!("G{gate}"), "flight": "none"});
        writer
            .write(&[bed.record("questions", "any", &value)])
            .unwrap();
    }
    // One for each of its flights: more than `limit`, none that is closed, and none of a gate without flights.
    let count = (0..GATES).sum();
    bed.follow("answers").wait(count);
    idle(&bed, &handle).await;
    let answers = bed.read("answers");
    assert_eq!(answers.len(), count);
    let mut triggers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for answer in &answers {
        let (flight, gate) = (&answer.value["flight"], &answer.value["said"]);
        // The row's key is the run's, and so the output's.
        assert_eq!(*flight, json!(answer.key));
        let asked = format!("q{}", &gate.as_str().unwrap()[1..]);
        assert_eq!(answer.value["asked"], json!(asked));
        triggers
            .entry(&answer.headers["headwater-trigger"])
            .or_default()
            .insert(&answer.headers["headwater-run"]);
    }
    let runs: usize = triggers.values().map(BTreeSet::len).sum();
    assert_eq!((triggers.len(), runs), (GATES - 1, count));
    handle.crash().await;
}

pub async fn what_an_intake_refuses_ends_as_every_trigger_does(bed: Bed) {
    let handle = bed.started(&by_flight(&bed)).await;
    let mut writer = bed.writer();
    let mut bad = bed.record("questions", "bad", &Value::Null);
    bad.value = Some(b"{".to_vec());
    bad.headers = vec![("trace".to_owned(), Some(b"7".to_vec()))];
    let gateless = bed.record("questions", "gateless", &json!({"text": "where?"}));
    let good = bed.record(
        "questions",
        "good",
        &json!({"text": "q", "gate": "G", "flight": "F"}),
    );
    let flights = [flight(&bed, "F", "G")];
    writer.write(&flights).unwrap();
    writer.write(&[bad, gateless, good]).unwrap();
    bed.follow("answers").wait(1);
    bed.follow("agent.helper.dead").wait(2);
    idle(&bed, &handle).await;
    assert_eq!(bed.read("answers").len(), 1);
    let mut letters = bed.read("agent.helper.dead");
    letters.sort_by(|a, b| a.headers["headwater-reason"].cmp(&b.headers["headwater-reason"]));
    let reasons: Vec<&str> = letters
        .iter()
        .map(|letter| letter.headers["headwater-reason"].as_str())
        .collect();
    assert_eq!(reasons, ["AbsentField", "NotJson"]);
    let letter = &letters[1];
    // As it came, and from where: nothing of how it went through the log.
    assert_eq!(letter.value, json!("{"));
    assert_eq!(letter.headers["trace"], "7");
    assert_eq!(letter.headers["headwater-key"], "bad");
    let position = &letter.headers["headwater-position"];
    assert!(position.starts_with(&bed.topic("questions-")), "{position}");
    assert!(letter.headers.keys().all(|name| !name.starts_with("hw-")));
    let audits = bed.read("agent.helper.runs");
    let mut outcomes: Vec<&str> = audits
        .iter()
        .map(|audit| audit.value["outcome"].as_str().unwrap())
        .collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["Done", "Failed", "Failed"]);
    assert_eq!(handle.status().dead_letters, 2);
    handle.crash().await;
}

pub async fn an_intake_stands_still_where_its_source_says_so(bed: Bed) {
    let mut stage = by_flight(&bed);
    stage["sources"]["questions"]["invalidRecords"] = json!("Stop");
    let handle = bed.started(&stage).await;
    let mut writer = bed.writer();
    writer.write(&[flight(&bed, "F", "G")]).unwrap();
    let good = |key: &str| {
        bed.record(
            "questions",
            key,
            &json!({"text": "q", "gate": "G", "flight": "F"}),
        )
    };
    let bad = bed.record(
        "questions",
        "bad",
        &json!({"text": "where?", "flight": "F"}),
    );
    writer.write(&[good("bad")]).unwrap();
    bed.follow("answers").wait(1);
    writer.write(&[bad]).unwrap();
    until(&handle, "stopped", |handle| {
        handle
            .status()
            .problems
            .iter()
            .any(|problem| problem.reason == "Stopped")
    })
    .await;
    // What comes after it waits; other partitions go on.
    writer.write(&[good("bad")]).unwrap();
    let other = (0..).map(|n| format!("k{n}")).find(|key| {
        let of = |key: &str| headwater_engine::key::partition_of(key.as_bytes(), PARTITIONS);
        of(key) != of("bad")
    });
    writer.write(&[good(&other.unwrap())]).unwrap();
    bed.follow("answers").wait(2);
    idle(&bed, &handle).await;
    assert_eq!(bed.read("answers").len(), 2);
    assert_eq!(bed.read("agent.helper.dead").len(), 0);
    handle.crash().await;
    // A definition that takes it goes on where it stood.
    stage["role"]["agent"]["trigger"]["forEach"]["by"] = json!({"key": "event.?gate.orValue('G')"});
    let handle = bed.started(&stage).await;
    bed.follow("answers").wait(4);
    idle(&bed, &handle).await;
    assert_eq!(bed.read("answers").len(), 4);
    handle.crash().await;
}

fn outcomes(bed: &Bed) -> BTreeMap<String, usize> {
    let mut outcomes = BTreeMap::new();
    for audit in bed.read("agent.helper.runs") {
        let Some(outcome) = audit.value["outcome"].as_str() else {
            continue;
        };
        *outcomes.entry(outcome.to_owned()).or_default() += 1;
    }
    outcomes
}

fn asked(bed: &Bed) -> BTreeSet<String> {
    let answers = bed.read("answers");
    let asked: BTreeSet<String> = answers
        .iter()
        .map(|seen| seen.value["asked"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(asked.len(), answers.len(), "{answers:?}");
    asked
}

pub async fn what_was_done_is_not_done_again_across_crashes(mut bed: Bed) {
    const ROUNDS: usize = 4;
    const SUBJECTS: usize = 3;
    let (model, _) = Counting::model(Duration::from_millis(1));
    bed.models.insert("chat".to_owned(), model);
    let stage = agent(
        &bed,
        &json!({"key": "event.session", "once": {"key": "event.about", "withinMs": 86_400_000}}),
    );
    let mut writer = bed.writer();
    let mut written = 0;
    for round in 0..ROUNDS {
        let handle = bed.start(&stage);
        for session in 0..SESSIONS {
            for subject in 0..SUBJECTS {
                let value = json!({
                    "text": format!("s{session} about {subject}, {round}"), "session": format!("s{session}"),
                    "about": subject, "flight": "none",
                });
                let record = bed.record("questions", &format!("k{written}"), &value);
                writer.write(&[record]).unwrap();
                written += 1;
            }
        }
        // Some are done, some are on their way.
        bed.follow("agent.helper.runs")
            .wait(round * SESSIONS * SUBJECTS + 5);
        handle.crash().await;
    }
    let handle = bed.started(&stage).await;
    idle(&bed, &handle).await;
    let done = SESSIONS * SUBJECTS;
    let expected = [("Done", done), ("Duplicate", written - done)];
    let expected = expected.map(|(outcome, count)| (outcome.to_owned(), count));
    assert_eq!(outcomes(&bed), BTreeMap::from(expected));
    let answers: BTreeSet<String> = asked(&bed)
        .iter()
        .map(|text| text.split(',').next().unwrap().to_owned())
        .collect();
    assert_eq!(answers.len(), done);
    // Each says which run it would have repeated.
    let audits = bed.read("agent.helper.runs");
    let outcome = |audit: &Seen, is: &str| audit.value["outcome"] == is;
    let runs: BTreeSet<&str> = audits
        .iter()
        .filter(|audit| outcome(audit, "Done"))
        .map(|audit| audit.key.as_str())
        .collect();
    for audit in audits.iter().filter(|audit| outcome(audit, "Duplicate")) {
        assert!(runs.contains(audit.value["instead"].as_str().unwrap()));
    }
    handle.crash().await;
}

pub async fn a_run_that_failed_may_be_tried_by_the_next_trigger(bed: Bed) {
    let mut stage = agent(
        &bed,
        &json!({"key": "event.session", "once": {"key": "event.about", "withinMs": 86_400_000}}),
    );
    let own = &mut stage["role"]["agent"];
    own["delivery"]["maxAttempts"] = json!(1);
    own["outputs"][0]["value"] = json!("{'asked': event.good}");
    let handle = bed.started(&stage).await;
    let ask = |more: Value| {
        let mut value = json!({"text": "?", "session": "s", "about": 1, "flight": "none"});
        value
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        bed.record("questions", "k", &value)
    };
    let records = [
        ask(json!({})),
        ask(json!({"good": "first"})),
        ask(json!({"good": "second"})),
    ];
    bed.writer().write(&records).unwrap();
    bed.follow("agent.helper.runs").wait(3);
    idle(&bed, &handle).await;
    assert_eq!(asked(&bed), BTreeSet::from(["first".to_owned()]));
    let expected = ["Done", "Duplicate", "Failed"].map(|outcome| (outcome.to_owned(), 1));
    assert_eq!(outcomes(&bed), BTreeMap::from(expected));
    handle.crash().await;
}

pub async fn of_triggers_that_wait_the_newest_runs(mut bed: Bed) {
    let (model, _) = Counting::model(Duration::ZERO);
    bed.models.insert("chat".to_owned(), model);
    let coalescing = |milliseconds: u64| {
        agent(
            &bed,
            &json!({"key": "event.session", "coalesceMs": milliseconds}),
        )
    };
    let mut writer = bed.writer();
    let ask = |session: &str, text: String| {
        let value = json!({"text": text, "session": session, "flight": "none"});
        bed.record("questions", session, &value)
    };
    // Nothing runs in this time, whatever comes: a crash loses none of it.
    let handle = bed.started(&coalescing(3_600_000)).await;
    let burst: Vec<_> = (0..6).map(|n| ask("a", format!("a{n}"))).collect();
    writer.write(&burst).unwrap();
    bed.follow("agent.helper.runs").wait(5);
    handle.crash().await;
    assert_eq!(asked(&bed), BTreeSet::new());
    let handle = bed.started(&coalescing(100)).await;
    writer.write(&[ask("b", "b0".to_owned())]).unwrap();
    bed.follow("answers").wait(2);
    idle(&bed, &handle).await;
    let expected = ["a5", "b0"].map(str::to_owned);
    assert_eq!(asked(&bed), BTreeSet::from(expected));
    let expected = [("Coalesced", 5), ("Done", 2)];
    let expected = expected.map(|(outcome, count)| (outcome.to_owned(), count));
    assert_eq!(outcomes(&bed), BTreeMap::from(expected));
    // Triggers that never stop coming do not put the run off for ever.
    let mut answers = bed.follow("answers");
    let before = answers.wait(2).len();
    let begun = Instant::now();
    let mut n = 0;
    while answers.seen.len() == before {
        writer.write(&[ask("c", format!("c{n}"))]).unwrap();
        answers.look();
        n += 1;
        assert!(begun.elapsed() < DEADLINE, "{:#?}", handle.status());
    }
    idle(&bed, &handle).await;
    handle.crash().await;
}

pub async fn triggers_wait_for_their_keys_run_and_the_newest_of_them_is_next(mut bed: Bed) {
    let (model, asks) = Counting::model(Duration::from_millis(500));
    bed.models.insert("chat".to_owned(), model);
    let stage = agent(&bed, &json!({"key": "event.session", "coalesceMs": 1}));
    let handle = bed.started(&stage).await;
    let mut writer = bed.writer();
    writer.write(&[question(&bed, 0)]).unwrap();
    until(&handle, "asked", |_| asks.load(Ordering::SeqCst) > 0).await;
    // All of one session.
    let later: Vec<_> = (1..5).map(|n| question(&bed, n * SESSIONS)).collect();
    writer.write(&later).unwrap();
    bed.follow("answers").wait(2);
    idle(&bed, &handle).await;
    let expected = ["q0".to_owned(), format!("q{}", 4 * SESSIONS)];
    assert_eq!(asked(&bed), BTreeSet::from(expected));
    let answers = bed.read("answers");
    // The second knew the first.
    assert_eq!(answers[1].value["turns"], 2);
    handle.crash().await;
}
