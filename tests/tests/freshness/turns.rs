//! A conversation that goes on over replicas: each turn knows all before it, whoever answered them.
//!
//! Every session asks its next question as soon as the answer to the one before is there, while replicas join, leave
//! in order, crash and come back.

use crate::bed::{Bed, DEADLINE, Running, sources, stage_of};
use headwater_engine::config::Stage;
use headwater_engine::names::Owner;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SESSIONS: usize = 9;
/// Answers that are awaited between two changes of the replicas.
const EACH: usize = 40;
/// What becomes of the replicas; the first is there when it begins.
const STEPS: [Step; 7] = [
    Step::Comes(1),
    Step::Leaves(0),
    Step::Comes(0),
    Step::Crashes(1),
    Step::Leaves(1),
    Step::Comes(1),
    Step::Crashes(0),
];

/// Of the replica of this ordinal.
#[derive(Clone, Copy, Debug)]
enum Step {
    Comes(u32),
    Leaves(u32),
    /// And comes back.
    Crashes(u32),
}

fn resources() -> String {
    sources(&["questions", "answers"])
        + "
---
kind: Model
apiVersion: headwater.dev/v1alpha1
metadata: {name: chat}
spec: {scripted: {rules: [{reply: \"re: {{ request.prompt }}\"}]}}
---
kind: Agent
apiVersion: headwater.dev/v1alpha1
metadata: {name: desk}
spec:
  trigger: {sourceRef: {name: questions}, startFrom: Earliest}
  conversation: {turns: 1000, userText: event.text}
  prompt: {system: You help., user: \"{{ event.text }}\"}
  modelRef: {name: chat}
  outputs: [{name: answer, sourceRef: {name: answers}, value: \"{'n': event.n, 'messages': prompt.messages}\"}]
"
}

fn text(session: &str, n: u64) -> String {
    format!("{session} asks {n}")
}

/// Asks, and asks the next one at each answer, until `answered` says that it is enough; checks every answer.
fn talk(bed: &Bed, answered: &AtomicUsize, enough: usize) -> BTreeMap<String, u64> {
    let mut writer = bed.log.writer().unwrap();
    let mut answers = bed.follow("answers");
    let mut ask = |session: &str, n: u64| {
        let question = json!({"n": n, "text": text(session, n)});
        writer
            .write(&[bed.record("questions", session, &question)])
            .unwrap();
    };
    let mut turns: BTreeMap<String, u64> = BTreeMap::new();
    for session in 0..SESSIONS {
        let session = format!("s{session}");
        ask(&session, 0);
        turns.insert(session, 0);
    }
    let mut last = Instant::now();
    while answered.load(Ordering::Relaxed) < enough {
        for answer in answers.poll(Duration::from_millis(100)) {
            last = Instant::now();
            let turn = turns.get_mut(&answer.key).unwrap();
            check(&answer.key, *turn, &answer.value);
            *turn += 1;
            ask(&answer.key, *turn);
            answered.fetch_add(1, Ordering::Relaxed);
        }
        assert!(last.elapsed() < DEADLINE, "no answers any more: {turns:?}");
    }
    turns
}

/// The prompt of the n-th turn has all before it, in their order, and nothing else.
fn check(session: &str, n: u64, answer: &Value) {
    assert_eq!(answer["n"], n, "{session}: {answer}");
    let message = |role: &str, content: String| json!({"role": role, "content": content});
    let mut expected = vec![message("system", "You help.".to_owned())];
    for turn in 0..n {
        let said = text(session, turn);
        expected.push(message("user", said.clone()));
        expected.push(message("assistant", format!("re: {said}")));
    }
    expected.push(message("user", text(session, n)));
    assert_eq!(
        answer["messages"],
        Value::Array(expected),
        "{session}: turn {n}"
    );
}

pub async fn a_turn_knows_the_turn_before_whoever_answered_it(bed: Bed) {
    let plan = bed.plan(&resources());
    bed.create(&plan);
    let config: &Stage = stage_of(&plan, Owner::Agent, "desk");
    let bed = Arc::new(bed);
    let answered = Arc::new(AtomicUsize::new(0));
    let talking = thread::spawn({
        let (bed, answered) = (Arc::clone(&bed), Arc::clone(&answered));
        move || talk(&bed, &answered, EACH * (STEPS.len() + 1))
    });
    let mut pods: [Option<Running>; 2] = [Some(bed.started(config, 0).await), None];
    for (number, step) in (1..).zip(STEPS) {
        while answered.load(Ordering::Relaxed) < EACH * number {
            assert!(!talking.is_finished(), "somebody stopped asking");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (Step::Comes(ordinal) | Step::Leaves(ordinal) | Step::Crashes(ordinal)) = step;
        let pod = &mut pods[ordinal as usize];
        match (step, pod.take()) {
            (Step::Leaves(_), Some(running)) => {
                running.end().await;
                continue;
            }
            (Step::Crashes(_), Some(running)) => running.crash().await,
            (Step::Comes(_), None) => {}
            _ => panic!("{step:?} of a replica that is not so"),
        }
        *pod = Some(bed.started(config, ordinal).await);
    }
    let turns = talking.join().unwrap();
    println!("{:?}: turns {turns:?}", bed.kind);
    for pod in pods.into_iter().flatten() {
        pod.end().await;
    }
}
