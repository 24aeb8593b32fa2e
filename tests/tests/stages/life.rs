//! Crashes, zombies, hand-overs, shutdown, idleness: every trigger is answered once.

use crate::bed::{Bed, DEADLINE, PARTITIONS, Seen, ready, until};
use crate::faulty::Faulty;
use crate::flight;
use crate::models::Counting;
use headwater_engine::record::NewRecord;
use headwater_runtime::backoff::Random;
use headwater_runtime::stage::{self, Handle, Phase};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Asks while the agent crashes four times, each in the middle of answering, and waits until it has no more to do.
pub async fn across_crashes(bed: &Bed, stage: &Value, questions: &[NewRecord]) -> Handle {
    let (mut writer, mut answers) = (bed.writer(), bed.follow("answers"));
    for (round, some) in questions.chunks(questions.len() / 4).enumerate() {
        let agent = bed.start(stage);
        writer.write(some).unwrap();
        // In the middle of it.
        answers.wait(round * some.len() + some.len() / 3);
        agent.crash().await;
    }
    let agent = bed.started(stage).await;
    answers.wait(questions.len());
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    agent
}

/// There is one answer to each question.
pub fn each_once(answers: &[Seen], questions: usize) {
    let asked: BTreeSet<&str> = answers
        .iter()
        .map(|seen| seen.value["asked"].as_str().unwrap())
        .collect();
    assert_eq!((answers.len(), asked.len()), (questions, questions));
}

pub async fn every_trigger_is_answered_once_across_crashes(mut bed: Bed) {
    const QUESTIONS: usize = 240;
    const SESSIONS: usize = 20;
    let (model, _) = Counting::model(Duration::from_millis(3));
    bed.models.insert("chat".to_owned(), model);
    let mut stage = bed.agent();
    // One may be under way at each crash, and is not what ends its process.
    stage["role"]["agent"]["delivery"]["maxAttempts"] = json!(9);
    stage["role"]["agent"]["outputs"][0]["value"] =
        json!("{'text': result.text, 'asked': event.text, 'turns': size(conversation)}");
    let questions: Vec<_> = (0..QUESTIONS)
        .map(|n| bed.question(&format!("session-{}", n % SESSIONS), &format!("q{n}"), ""))
        .collect();
    let agent = across_crashes(&bed, &stage, &questions).await;
    let answers = bed.read("answers");
    each_once(&answers, QUESTIONS);
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

pub async fn a_zombie_is_fenced(mut bed: Bed) {
    // The first is slow to answer, and still at it when the second takes its place.
    let (slow, slow_asked) = Counting::model(Duration::from_millis(1_500));
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
    let (fast, _) = Counting::model(Duration::ZERO);
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

pub async fn shutdown_finishes_what_is_in_flight(mut bed: Bed) {
    let (model, asked) = Counting::model(Duration::from_millis(400));
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

pub async fn two_replicas_share_and_hand_over(mut bed: Bed) {
    let (model, _) = Counting::model(Duration::from_millis(2));
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

pub async fn idle_is_when_nothing_is_left(mut bed: Bed) {
    let (model, _) = Counting::model(Duration::from_millis(20));
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

/// Aborts, requests without answer, and commits of which it is not known whether they were made.
pub async fn transactions_that_go_wrong_are_applied_once(mut bed: Bed) {
    const QUESTIONS: usize = 120;
    const SESSIONS: usize = 10;
    let (model, _) = Counting::model(Duration::ZERO);
    bed.models.insert("chat".to_owned(), model);
    let mut stage = bed.agent();
    stage["role"]["agent"]["outputs"][0]["value"] =
        json!("{'asked': event.text, 'turns': size(conversation)}");
    let faulty = |seed: u64| stage::Services {
        log: Arc::new(Faulty {
            inner: Arc::clone(&bed.log),
            random: Arc::new(Random::seeded(seed)),
            fenced: Arc::default(),
        }),
        ..bed.services()
    };
    let agent = bed.start_with(&stage, faulty(1));
    let board = bed.start_with(&bed.view("board"), faulty(2));
    ready(&agent).await;
    ready(&board).await;
    let mut writer = bed.writer();
    for n in 0..QUESTIONS {
        let mut bad = bed.record("delays", "any", &json!({"minutes": n}));
        bad.value = Some(b"?".to_vec());
        let records = [
            bed.question(&format!("s{}", n % SESSIONS), &format!("q{n}"), ""),
            flight(&bed, &format!("F{n}"), "A"),
            bad,
        ];
        writer.write(&records).unwrap();
    }
    bed.follow("answers").wait(QUESTIONS);
    let stages = [&agent, &board];
    let begun = Instant::now();
    while !stage::idle(stages, &*bed.log).unwrap() {
        assert!(
            begun.elapsed() < DEADLINE,
            "{:#?}",
            stages.map(Handle::status)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answers = bed.read("answers");
    let asked: BTreeSet<String> = answers
        .iter()
        .map(|seen| seen.value["asked"].to_string())
        .collect();
    assert_eq!((answers.len(), asked.len()), (QUESTIONS, QUESTIONS));
    assert_eq!(bed.read("agent.helper.runs").len(), QUESTIONS);
    for session in 0..SESSIONS {
        let key = format!("s{session}");
        let of = answers.iter().filter(|seen| seen.key == key);
        let turns: Vec<u64> = of
            .map(|seen| seen.value["turns"].as_u64().unwrap())
            .collect();
        let expected: Vec<u64> = (0..turns.len() as u64).map(|n| 2 * n).collect();
        assert_eq!(turns, expected, "{key}");
    }
    let input = bed.read("view.board.000001-in");
    let events: Vec<&str> = input
        .iter()
        .filter(|seen| seen.key != "\0m")
        .map(|seen| seen.key.as_str())
        .collect();
    let distinct: BTreeSet<&&str> = events.iter().collect();
    assert_eq!((events.len(), distinct.len()), (QUESTIONS, QUESTIONS));
    let letters = bed.read("view.board.dead");
    let distinct: BTreeSet<&String> = letters.iter().map(|letter| &letter.key).collect();
    assert_eq!((letters.len(), distinct.len()), (QUESTIONS, QUESTIONS));
    agent.crash().await;
    board.crash().await;
}
