//! What an agent answers: from the views as they stand, with the memory of the conversation.

use crate::bed::{Bed, Kind, until};
use crate::{flight, text};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub async fn two_turns_remember(bed: Bed) {
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
pub async fn an_update_is_in_the_next_answer(bed: Bed) {
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

pub async fn where_a_new_agent_begins_is_fixed_once(bed: Bed) {
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
