//! View and agent stages, held to what they promise, on the memory log and on a real Kafka alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "stages/bed.rs"]
mod bed;
#[path = "stages/models.rs"]
mod models;

use bed::{Bed, DEADLINE, Kind, PARTITIONS, Seen, ready, until};
use headwater_runtime::stage::{self, Handle, Phase};
use models::{Counting, Troubled};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

macro_rules! on_both_logs {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Bed::new(super::Kind::Memory)).await; })*
        }
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Bed::new(super::Kind::Kafka)).await; })*
        }
    };
}

on_both_logs!(
    two_turns_remember,
    an_update_is_in_the_next_answer,
    bad_records_are_dead_letters,
    a_failing_model_is_given_up_and_the_next_key_goes_on,
    every_trigger_is_answered_once_across_crashes,
    a_view_goes_on_from_its_checkpoint,
    several_sources_are_one_view,
    of_what_waits_in_several_sources_the_oldest_goes_first,
    a_zombie_is_fenced,
    shutdown_finishes_what_is_in_flight,
    where_a_new_agent_begins_is_fixed_once,
    stop_stands_still_at_a_bad_record,
    two_replicas_share_and_hand_over,
    a_record_that_cannot_be_written_fails_its_run_alone,
    lost_positions_are_not_guessed,
    idle_is_when_nothing_is_left,
);

fn text(seen: &Seen) -> &str {
    seen.value["text"].as_str().unwrap()
}

fn flight(bed: &Bed, number: &str, gate: &str) -> headwater_engine::record::NewRecord {
    bed.record("flights", number, &json!({"gate": gate}))
}

async fn two_turns_remember(bed: Bed) {
    let agent = bed.started(&bed.agent()).await;
    let (mut writer, mut answers) = (bed.writer(), bed.follow("answers"));
    writer.write(&[flight(&bed, "LH1", "A1")]).unwrap();
    writer
        .write(&[bed.question("ann", "which gate?", "LH1")])
        .unwrap();
    assert_eq!(text(&answers.wait(1)[0]), "gate A1 turns 1");
    writer
        .write(&[bed.question("ann", "and now?", "LH1")])
        .unwrap();
    // Its own turn, and both sides of the one before.
    assert_eq!(text(&answers.wait(2)[1]), "gate A1 turns 3");
    writer
        .write(&[bed.question("bob", "hello", "none")])
        .unwrap();
    assert_eq!(text(&answers.wait(3)[2]), "gate none turns 1");
    let seen = &answers.seen[1];
    assert_eq!(seen.key, "ann");
    let header = |name: &str| seen.headers[name].clone();
    assert_eq!(
        header("headwater-agent"),
        format!("{}/helper", bed.namespace)
    );
    assert!(header("headwater-trigger").starts_with(&bed.topic("questions-")));
    assert_eq!(header("headwater-root"), header("headwater-trigger"));
    assert_eq!(header("headwater-hops"), "1");
    let audits = bed.read("agent.helper.runs");
    assert_eq!(audits.len(), 3);
    let audit = audits
        .iter()
        .find(|audit| audit.key == header("headwater-run"))
        .unwrap();
    assert_eq!(audit.value["outcome"], "Done");
    assert_eq!(audit.value["slots"][0]["staleSeconds"], 0);
    assert_eq!(audit.value["slots"][0]["rows"][0]["key"], "LH1");
    agent.crash().await;
}

/// The promise that sets the product apart: an update that was acknowledged before the question is in.
async fn an_update_is_in_the_next_answer(bed: Bed) {
    let rounds = if bed.kind == Kind::Memory { 200 } else { 100 };
    let agent = bed.started(&bed.agent()).await;
    let (mut writer, mut answers) = (bed.writer(), bed.follow("answers"));
    let mut took = Vec::new();
    for round in 0..rounds {
        writer
            .write(&[flight(&bed, "LH1", &format!("G{round}"))])
            .unwrap();
        let asked = Instant::now();
        let session = format!("session-{round}");
        writer
            .write(&[bed.question(&session, "which gate?", "LH1")])
            .unwrap();
        let answer = answers.wait(round + 1).last().unwrap();
        took.push(asked.elapsed());
        assert_eq!(text(answer), format!("gate G{round} turns 1"));
    }
    took.sort();
    let at = |percent: usize| took[took.len() * percent / 100];
    println!(
        "{:?}: question to answer p50 {:?} p90 {:?} p99 {:?}",
        bed.kind,
        at(50),
        at(90),
        at(99)
    );
    assert_eq!(agent.status().stale_runs, 0);
    // Far above what it takes, far below what a poll that is not woken would: 100 ms and more.
    assert!(at(50) < Duration::from_millis(60), "{:?}", at(50));
    agent.crash().await;
}

async fn bad_records_are_dead_letters(bed: Bed) {
    let agent = bed.started(&bed.agent()).await;
    let view = bed.started(&bed.view("flights")).await;
    let mut writer = bed.writer();
    let mut raw = bed.record("questions", "ann", &json!(null));
    raw.value = Some(b"{\"text\":".to_vec());
    let at = writer
        .write(&[raw, bed.question("ann", "fine", "LH1")])
        .unwrap();
    let mut dead = bed.follow("agent.helper.dead");
    let letter = dead.wait(1)[0].clone();
    assert_eq!(letter.headers["headwater-reason"], "NotJson");
    assert_eq!(
        letter.headers["headwater-position"],
        format!("{}-{}", at[0].0, at[0].1)
    );
    assert_eq!(letter.key, letter.headers["headwater-position"]);
    assert_eq!(letter.value, json!("{\"text\":"));
    assert_eq!(bed.follow("answers").wait(1).len(), 1);

    // The view's: one that is no JSON, one that does not fit the schema; a good one after them counts.
    let mut broken = flight(&bed, "LH1", "");
    broken.value = Some(b"nonsense".to_vec());
    let unfit = bed.record("flights", "LH1", &json!({"door": 7}));
    let at = writer
        .write(&[broken, unfit, flight(&bed, "LH1", "B2")])
        .unwrap();
    // A checkpoint writes them.
    let mut dead = bed.follow("view.flights.dead");
    let letters = dead.wait(2).to_vec();
    let reasons: Vec<_> = letters
        .iter()
        .map(|letter| letter.headers["headwater-reason"].as_str())
        .collect();
    assert_eq!(reasons, ["NotJson", "SchemaMismatch"]);
    assert_eq!(letters[1].key, format!("{}-{}", at[1].0, at[1].1));
    assert_eq!(view.status().dead_letters, 2);
    assert_eq!(agent.status().dead_letters, 1);
    // Not again after a restart.
    view.crash().await;
    agent.crash().await;
    let view = bed.started(&bed.view("flights")).await;
    writer
        .write(&[bed.record("flights", "LH9", &json!(1))])
        .unwrap();
    assert_eq!(
        dead.wait(3)[2].headers["headwater-reason"],
        "SchemaMismatch"
    );
    assert_eq!(bed.read("view.flights.dead").len(), 3);
    view.crash().await;
}

async fn a_failing_model_is_given_up_and_the_next_key_goes_on(mut bed: Bed) {
    let mut stage = bed.agent();
    let agent = &mut stage["role"]["agent"];
    agent["delivery"]["attemptTimeoutMs"] = json!(800);
    agent["model"]["requestTimeoutMs"] = json!(150);
    agent["outputs"].as_array_mut().unwrap().push(json!({
        "name": "sorry", "source": "answers", "topic": bed.topic("answers"), "format": "Json", "outcome": "Failed",
        "when": null, "items": null, "key": null, "value": "{'text': failure.reason}",
    }));
    let (model, asked) = Troubled::client(&agent["model"]);
    bed.models.insert("chat".to_owned(), model);
    let handle = bed.started(&stage).await;
    let mut writer = bed.writer();
    let troubles = ["429", "500", "garbage", "hang", "401", "panic"];
    let mut records: Vec<_> = troubles
        .iter()
        .map(|trouble| bed.question(trouble, trouble, ""))
        .collect();
    records.push(bed.question("fine", "fine", ""));
    // Behind the one that fails, of the same key.
    records.push(bed.question("429", "fine after all", ""));
    writer.write(&records).unwrap();
    let mut answers = bed.follow("answers");
    let texts: BTreeMap<String, Vec<String>> =
        answers
            .wait(records.len())
            .iter()
            .fold(BTreeMap::new(), |mut texts, seen| {
                texts
                    .entry(seen.key.clone())
                    .or_default()
                    .push(text(seen).to_owned());
                texts
            });
    assert_eq!(texts["fine"], ["well"]);
    assert_eq!(texts["429"], ["ModelFailed", "well"]);
    assert_eq!(texts["panic"], ["Crashed"]);
    for trouble in ["500", "garbage", "hang", "401"] {
        assert_eq!(texts[trouble], ["ModelFailed"], "{trouble}");
    }
    let letters: BTreeMap<String, String> = bed
        .read("agent.helper.dead")
        .into_iter()
        .map(|letter| {
            assert_eq!(
                letter.value["text"],
                letter.headers["headwater-key"].as_str()
            );
            (
                letter.headers["headwater-key"].clone(),
                letter.headers["headwater-message"].clone(),
            )
        })
        .collect();
    assert_eq!(letters.len(), troubles.len());
    assert!(letters["429"].contains("answered 429"), "{letters:?}");
    assert!(letters["500"].contains("answered 500"));
    assert!(letters["garbage"].contains("makes no sense"));
    assert!(letters["hang"].contains("no answer within 150 ms"));
    let asked = asked.lock().unwrap();
    // Two requests an attempt, two attempts; a refusal is final.
    for (trouble, times) in [
        ("429", 4),
        ("500", 4),
        ("garbage", 4),
        ("hang", 4),
        ("401", 1),
        ("fine", 1),
    ] {
        assert_eq!(asked[trouble], times, "{trouble} {letters:?}");
    }
    drop(asked);
    handle.crash().await;
}

async fn every_trigger_is_answered_once_across_crashes(mut bed: Bed) {
    const QUESTIONS: usize = 240;
    const SESSIONS: usize = 20;
    let (model, _) = Counting::new(Duration::from_millis(3));
    bed.models.insert("chat".to_owned(), model);
    let mut stage = bed.agent();
    stage["role"]["agent"]["outputs"][0]["value"] =
        json!("{'text': result.text, 'asked': event.text, 'turns': size(conversation)}");
    let mut writer = bed.writer();
    let questions: Vec<_> = (0..QUESTIONS)
        .map(|n| bed.question(&format!("session-{}", n % SESSIONS), &format!("q{n}"), ""))
        .collect();
    let mut answers = bed.follow("answers");
    for (round, questions) in questions.chunks(QUESTIONS / 4).enumerate() {
        let agent = bed.start(&stage);
        writer.write(questions).unwrap();
        // In the middle of it.
        answers.wait(round * questions.len() + questions.len() / 3);
        agent.crash().await;
    }
    let agent = bed.started(&stage).await;
    answers.wait(QUESTIONS);
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    let answers = bed.read("answers");
    let asked: BTreeSet<&str> = answers
        .iter()
        .map(|seen| seen.value["asked"].as_str().unwrap())
        .collect();
    assert_eq!((answers.len(), asked.len()), (QUESTIONS, QUESTIONS));
    for session in 0..SESSIONS {
        let key = format!("session-{session}");
        let of: Vec<_> = answers.iter().filter(|seen| seen.key == key).collect();
        let order: Vec<_> = of
            .iter()
            .map(|seen| seen.value["asked"].as_str().unwrap().to_owned())
            .collect();
        let expected: Vec<_> = (session..QUESTIONS)
            .step_by(SESSIONS)
            .map(|n| format!("q{n}"))
            .collect();
        assert_eq!(order, expected, "runs of a key are in order");
        // Turn n+1 sees turns 1 to n, whatever crashed in between.
        let turns: Vec<_> = of
            .iter()
            .map(|seen| seen.value["turns"].as_u64().unwrap())
            .collect();
        let expected: Vec<_> = (0..of.len() as u64).map(|n| 2 * n).collect();
        assert_eq!(turns, expected, "{key}");
    }
    let runs = bed.read("agent.helper.runs");
    assert_eq!(runs.len(), QUESTIONS);
    agent.crash().await;
}

async fn a_view_goes_on_from_its_checkpoint(bed: Bed) {
    let mut writer = bed.writer();
    let flights = |gate: &str| {
        (0..100)
            .map(|n| flight(&bed, &format!("F{n}"), gate))
            .collect::<Vec<_>>()
    };
    writer.write(&flights("old")).unwrap();
    let token = CancellationToken::new();
    let services = stage::Services {
        shutdown: token.clone(),
        ..bed.services()
    };
    let view = bed.start_with(&bed.view("flights"), services);
    ready(&view).await;
    let mut half = flights("new");
    half.truncate(50);
    writer.write(&half).unwrap();
    until(&view, "caught up", |view| {
        view.caught_up(&*bed.log).unwrap()
    })
    .await;
    token.cancel();
    assert_eq!(view.join().await.phase, Phase::Stopped);

    let state = bed.read("view.flights.000001");
    let marks: Vec<_> = state.iter().filter(|seen| seen.key == "\0m").collect();
    assert!(marks.len() >= PARTITIONS as usize);
    let mut last: BTreeMap<&str, &Seen> = BTreeMap::new();
    last.extend(
        state
            .iter()
            .filter(|seen| seen.key != "\0m")
            .map(|seen| (seen.key.as_str(), seen)),
    );
    assert_eq!(last.len(), 100);
    assert_eq!(last["F0"].value["gate"], "new");
    assert_eq!(last["F99"].value["gate"], "old");

    // An agent restores from it, and folds only what came after.
    writer.write(&[flight(&bed, "F99", "newest")]).unwrap();
    let mut happenings = bed.observer.watch();
    let agent = bed.started(&bed.agent()).await;
    let mut folded = 0;
    while let Ok(happening) = happenings.try_recv() {
        if let headwater_runtime::observe::Happening::Folded { records, .. } = &*happening {
            folded += records;
        }
    }
    assert_eq!(folded, 1);
    let asked = ["F0", "F60", "F99"].map(|number| bed.question(number, "gate?", number));
    writer.write(&asked).unwrap();
    let mut answers = bed.follow("answers");
    let texts: BTreeMap<_, _> = answers
        .wait(3)
        .iter()
        .map(|seen| (seen.key.clone(), text(seen).to_owned()))
        .collect();
    assert_eq!(texts["F0"], "gate new turns 1");
    assert_eq!(texts["F60"], "gate old turns 1");
    assert_eq!(texts["F99"], "gate newest turns 1");
    // So does the view stage.
    let view = bed.started(&bed.view("flights")).await;
    until(&view, "caught up", |view| {
        view.caught_up(&*bed.log).unwrap()
    })
    .await;
    view.crash().await;
    agent.crash().await;
}

async fn several_sources_are_one_view(bed: Bed) {
    let rounds = 25;
    let mut stage = bed.agent();
    let agent = &mut stage["role"]["agent"];
    agent["slots"][0]["lookup"]["view"] = json!("board");
    agent["model"]["provider"]["scripted"]["rules"][0]["reply"] =
        json!("{{ request.context.flight.gate }} late {{ request.context.flight.minutes }}");
    let view = bed.started(&bed.view("board")).await;
    let agent = bed.started(&stage).await;
    let (mut writer, mut answers) = (bed.writer(), bed.follow("answers"));
    for round in 0..rounds {
        let delay = json!({"flight": "LH1", "minutes": round});
        writer
            .write(&[
                flight(&bed, "LH1", &format!("G{round}")),
                bed.record("delays", "any", &delay),
            ])
            .unwrap();
        writer
            .write(&[bed.question(&format!("s{round}"), "?", "LH1")])
            .unwrap();
        assert_eq!(
            text(answers.wait(round + 1).last().unwrap()),
            format!("G{round} late {round}")
        );
    }
    assert_eq!(
        agent.status().stale_runs,
        0,
        "the barrier reaches through the view's own input log"
    );
    // A bad record of one source is one dead letter, whoever else reads the topic.
    writer
        .write(&[bed.record("delays", "any", &json!({"minutes": 1}))])
        .unwrap();
    let mut dead = bed.follow("view.board.dead");
    assert_eq!(dead.wait(1)[0].headers["headwater-reason"], "AbsentField");
    // A crash neither loses nor doubles what is in the input log.
    let input = |bed: &Bed| {
        bed.read("view.board.000001-in")
            .iter()
            .filter(|seen| seen.key != "\0m")
            .count()
    };
    assert_eq!(input(&bed), 2 * rounds);
    view.crash().await;
    writer.write(&[flight(&bed, "LH1", "Z9")]).unwrap();
    let view = bed.started(&bed.view("board")).await;
    writer.write(&[bed.question("last", "?", "LH1")]).unwrap();
    assert_eq!(
        text(answers.wait(rounds + 1).last().unwrap()),
        format!("Z9 late {}", rounds - 1)
    );
    assert_eq!(input(&bed), 2 * rounds + 1);
    view.crash().await;
    agent.crash().await;
}

async fn of_what_waits_in_several_sources_the_oldest_goes_first(bed: Bed) {
    const KEYS: usize = 60;
    let mut stage = bed.view("board");
    for from in stage["views"]["board"]["from"].as_array_mut().unwrap() {
        from["value"] = json!("{'gate': event.gate}");
    }
    let mut writer = bed.writer();
    let base = jiff::Timestamp::now().as_millisecond() - 60_000;
    let mut write = |topic: &str, n: usize, later: i64| {
        let key = format!("F{n}");
        let value = json!({"flight": key, "gate": topic});
        let record = headwater_engine::record::NewRecord {
            timestamp: Some(base + later),
            ..bed.record(topic, &key, &value)
        };
        writer.write(&[record]).unwrap();
    };
    // A backlog: what is younger was written first.
    (0..KEYS).for_each(|n| write("delays", n, 1_000));
    (0..KEYS).for_each(|n| write("flights", n, 0));
    let view = bed.started(&stage).await;
    until(&view, "idle", |view| view.caught_up(&*bed.log).unwrap()).await;
    // And live: what is older was acknowledged before the younger was sent.
    for n in KEYS..2 * KEYS {
        write("flights", n, 2_000);
        write("delays", n, 3_000);
    }
    until(&view, "idle", |view| view.caught_up(&*bed.log).unwrap()).await;
    let mut order: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for seen in bed.read("view.board.000001-in") {
        if seen.key != "\0m" {
            order
                .entry(seen.key)
                .or_default()
                .push(seen.value["gate"].clone());
        }
    }
    assert_eq!(order.len(), 2 * KEYS);
    for (key, gates) in order {
        assert_eq!(gates, ["flights", "delays"], "{key}");
    }
    view.crash().await;
}

async fn a_zombie_is_fenced(mut bed: Bed) {
    // The first is slow to answer, and still at it when the second takes its place.
    let (slow, slow_asked) = Counting::new(Duration::from_millis(1_500));
    bed.models.insert("chat".to_owned(), slow);
    let zombie = bed.started(&bed.agent()).await;
    let mut writer = bed.writer();
    let questions: Vec<_> = (0..6)
        .map(|n| bed.question(&format!("s{n}"), &format!("q{n}"), ""))
        .collect();
    writer.write(&questions).unwrap();
    until(&zombie, "asking", |_| {
        slow_asked.load(Ordering::Relaxed) == 6
    })
    .await;
    let (fast, _) = Counting::new(Duration::ZERO);
    bed.models.insert("chat".to_owned(), fast);
    let second = bed.started(&bed.agent()).await;
    let mut answers = bed.follow("answers");
    answers.wait(6);
    until(&zombie, "fenced", |zombie| {
        zombie.status().phase == Phase::Failed
    })
    .await;
    let problems = zombie.status().problems;
    assert!(
        problems.iter().any(|problem| problem.reason == "Fenced"),
        "{problems:?}"
    );
    let status = tokio::time::timeout(DEADLINE, zombie.join()).await.unwrap();
    assert_eq!(status.phase, Phase::Failed);
    until(&second, "idle", |second| {
        second.caught_up(&*bed.log).unwrap()
    })
    .await;
    assert_eq!(bed.read("answers").len(), 6);
    assert_eq!(bed.read("agent.helper.runs").len(), 6);
    second.crash().await;
}

async fn shutdown_finishes_what_is_in_flight(mut bed: Bed) {
    let (model, asked) = Counting::new(Duration::from_millis(400));
    bed.models.insert("chat".to_owned(), model);
    let mut stage = bed.agent();
    stage["role"]["agent"]["concurrency"] = json!(4);
    let token = CancellationToken::new();
    let services = stage::Services {
        shutdown: token.clone(),
        ..bed.services()
    };
    let agent = bed.start_with(&stage, services);
    ready(&agent).await;
    let mut writer = bed.writer();
    let questions: Vec<_> = (0..12)
        .map(|n| bed.question(&format!("s{n}"), &format!("q{n}"), ""))
        .collect();
    writer.write(&questions).unwrap();
    until(&agent, "asking", |_| asked.load(Ordering::Relaxed) >= 4).await;
    token.cancel();
    let status = tokio::time::timeout(DEADLINE, agent.join()).await.unwrap();
    assert_eq!(status.phase, Phase::Stopped, "{status:#?}");
    let begun = asked.load(Ordering::Relaxed);
    assert!(begun < 12, "nothing new begins");
    // Whatever is a prefix of its partition is answered; the next start does the rest, at once: it left
    // its group in order.
    let answered = bed.read("answers").len();
    assert!(answered > 0);
    let left = Instant::now();
    let agent = bed.started(&stage).await;
    assert!(
        left.elapsed() < Duration::from_secs(8),
        "took its session's time: {:?}",
        left.elapsed()
    );
    bed.follow("answers").wait(12);
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    assert_eq!(bed.read("answers").len(), 12);
    agent.crash().await;
}

async fn where_a_new_agent_begins_is_fixed_once(bed: Bed) {
    let mut stage = bed.agent();
    stage["role"]["agent"]["trigger"]["startFrom"] = json!("Latest");
    let mut writer = bed.writer();
    writer.write(&[bed.question("old", "before", "")]).unwrap();
    let agent = bed.started(&stage).await;
    agent.crash().await;
    // It has answered nothing yet, but where it begins is fixed.
    writer
        .write(&[bed.question("new", "while away", "")])
        .unwrap();
    let agent = bed.started(&stage).await;
    writer
        .write(&[
            bed.question("old", "after", ""),
            bed.question("x", "ignore", ""),
        ])
        .unwrap();
    let mut answers = bed.follow("answers");
    let asked: BTreeSet<_> = answers
        .wait(2)
        .iter()
        .map(|seen| seen.value["asked"].to_string())
        .collect();
    assert_eq!(
        asked,
        BTreeSet::from(["\"after\"".to_owned(), "\"while away\"".to_owned()])
    );
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    assert_eq!(bed.read("answers").len(), 2);
    agent.crash().await;
}

async fn stop_stands_still_at_a_bad_record(bed: Bed) {
    let mut stage = bed.agent();
    stage["sources"]["questions"]["invalidRecords"] = json!("Stop");
    let agent = bed.started(&stage).await;
    let mut writer = bed.writer();
    let mut bad = bed.question("ann", "", "");
    bad.value = Some(b"?".to_vec());
    let at = writer
        .write(&[
            bed.question("ann", "one", ""),
            bad,
            bed.question("ann", "two", ""),
        ])
        .unwrap();
    let mut answers = bed.follow("answers");
    answers.wait(1);
    until(&agent, "stopped", |agent| {
        !agent.status().problems.is_empty()
    })
    .await;
    let problem = agent.status().problems[0].clone();
    assert_eq!(
        (problem.reason.as_str(), problem.at),
        ("Stopped", format!("{}-{}", at[1].0, at[1].1))
    );
    // Other partitions go on, and a restart comes back to the record.
    let other = (0..).map(|n| format!("k{n}")).find(|key| {
        headwater_engine::key::partition_of(key.as_bytes(), PARTITIONS) != at[0].0.partition
    });
    writer
        .write(&[bed.question(&other.unwrap(), "elsewhere", "")])
        .unwrap();
    answers.wait(2);
    agent.crash().await;
    let agent = bed.start(&stage);
    until(&agent, "stopped again", |agent| {
        agent
            .status()
            .problems
            .iter()
            .any(|problem| problem.reason == "Stopped")
    })
    .await;
    assert_eq!(bed.read("answers").len(), 2);
    assert_eq!(bed.read("agent.helper.dead").len(), 0);
    agent.crash().await;
    // Mended: the record is let go to the dead letters.
    let agent = bed.started(&bed.agent()).await;
    answers.wait(3);
    assert_eq!(bed.read("agent.helper.dead").len(), 1);
    agent.crash().await;
}

async fn two_replicas_share_and_hand_over(mut bed: Bed) {
    let (model, _) = Counting::new(Duration::from_millis(2));
    bed.models.insert("chat".to_owned(), model);
    let config = |stage: &Value| serde_json::from_value(stage.clone()).unwrap();
    let stage = bed.agent();
    let token = CancellationToken::new();
    let leaving = stage::Services {
        shutdown: token.clone(),
        ..bed.services()
    };
    let first = stage::start(config(&stage), 0, leaving).unwrap();
    ready(&first).await;
    let mut writer = bed.writer();
    let batch = |from: usize| {
        (from..from + 60)
            .map(|n| bed.question(&format!("s{}", n % 12), &format!("q{n}"), ""))
            .collect::<Vec<_>>()
    };
    writer.write(&batch(0)).unwrap();
    let second = stage::start(config(&stage), 1, bed.services()).unwrap();
    let owns = |handle: &Handle| {
        let status = handle.status();
        status.parts["runs"].positions.len()
    };
    until(&second, "given partitions", |second| owns(second) > 0).await;
    writer.write(&batch(60)).unwrap();
    token.cancel();
    assert_eq!(first.join().await.phase, Phase::Stopped);
    writer.write(&batch(120)).unwrap();
    until(&second, "given all partitions", |second| {
        owns(second) == PARTITIONS as usize
    })
    .await;
    bed.follow("answers").wait(180);
    until(&second, "idle", |second| {
        second.caught_up(&*bed.log).unwrap()
    })
    .await;
    let answers = bed.read("answers");
    let asked: BTreeSet<_> = answers
        .iter()
        .map(|seen| seen.value["asked"].to_string())
        .collect();
    assert_eq!((answers.len(), asked.len()), (180, 180));
    second.crash().await;
}

async fn a_record_that_cannot_be_written_fails_its_run_alone(bed: Bed) {
    let mut stage = bed.agent();
    stage["role"]["agent"]["model"]["provider"]["scripted"]["rules"] = json!([
        {"when": "request.prompt == 'much'", "reply": "{{ 'x' * 3000000 }}"},
        {"reply": "well"},
    ]);
    stage["role"]["agent"]["conversation"] = Value::Null;
    let agent = bed.started(&stage).await;
    bed.writer()
        .write(&[
            bed.question("a", "much", ""),
            bed.question("b", "little", ""),
            bed.question("a", "after", ""),
        ])
        .unwrap();
    let mut answers = bed.follow("answers");
    let asked: BTreeSet<_> = answers
        .wait(2)
        .iter()
        .map(|seen| seen.value["asked"].to_string())
        .collect();
    assert_eq!(
        asked,
        BTreeSet::from(["\"after\"".to_owned(), "\"little\"".to_owned()])
    );
    let letter = bed.follow("agent.helper.dead").wait(1)[0].clone();
    assert_eq!(letter.headers["headwater-reason"], "OutputFailed");
    assert_eq!(letter.value["text"], "much");
    agent.crash().await;
}

async fn lost_positions_are_not_guessed(bed: Bed) {
    // Audit records of runs, and no group: as after a week of being suspended.
    bed.writer()
        .write(&[bed.record("agent.helper.runs", "run", &json!({}))])
        .unwrap();
    bed.writer().write(&[bed.question("a", "?", "")]).unwrap();
    let agent = bed.start(&bed.agent());
    until(&agent, "stalled", |agent| {
        !agent.status().problems.is_empty()
    })
    .await;
    let status = agent.status();
    assert_eq!(status.problems[0].reason, "PositionsLost");
    assert!(!status.ready);
    assert_eq!(bed.read("answers").len(), 0);
    agent.crash().await;
}

async fn idle_is_when_nothing_is_left(mut bed: Bed) {
    let (model, _) = Counting::new(Duration::from_millis(20));
    bed.models.insert("chat".to_owned(), model);
    let view = bed.started(&bed.view("board")).await;
    let flights = bed.started(&bed.view("flights")).await;
    let agent = bed.started(&bed.agent()).await;
    let stages = [&view, &flights, &agent];
    let mut writer = bed.writer();
    for round in 0..5 {
        let records: Vec<_> = (0..10)
            .flat_map(|n| {
                [
                    flight(&bed, &format!("F{n}"), "A"),
                    bed.question(&format!("s{n}"), "?", "F1"),
                ]
            })
            .collect();
        writer.write(&records).unwrap();
        let begun = Instant::now();
        while !stage::idle(stages, &*bed.log).unwrap() {
            assert!(
                begun.elapsed() < DEADLINE,
                "{:#?}",
                stages.map(Handle::status)
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(
            bed.read("answers").len(),
            10 * (round + 1),
            "idle too early"
        );
    }
    for stage in [view, flights, agent] {
        stage.crash().await;
    }
}
