//! Bad records, bad models, records that cannot be written: kept, told, and nobody else's trouble.

use crate::bed::{Bed, PARTITIONS, until};
use crate::models::Troubled;
use crate::{flight, text};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub async fn bad_records_are_dead_letters(bed: Bed) {
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

pub async fn a_failing_model_is_given_up_and_the_next_key_goes_on(mut bed: Bed) {
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
    let asked = asked.lock().unwrap().clone();
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
    handle.crash().await;
}

pub async fn stop_stands_still_at_a_bad_record(bed: Bed) {
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

pub async fn a_record_that_cannot_be_written_fails_its_run_alone(bed: Bed) {
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

pub async fn lost_positions_are_not_guessed(bed: Bed) {
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
