//! Calls that a person decides about: the run waits without holding anything, and goes on once, whatever happens meanwhile.

use crate::bed::{Bed, DEADLINE, Follow, Seen, until};
use crate::flight;
use crate::life::each_once;
use crate::tools::{Asking, BOOK, Desk, booking};
use headwater_engine::approval::{Answer, Entry};
use headwater_runtime::stage::Handle;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TOPIC: &str = "agent.helper.approvals";

/// The agent of the tools, whose bookings a person decides about, unless the question is "free".
fn asking(bed: &mut Bed, timeout_ms: u64, desk: Desk) -> (Value, Arc<Desk>) {
    let model = Asking::new(&[(BOOK.0, BOOK.1())]);
    let (mut stage, _, desk) = booking(bed, "Never", model, desk);
    let topic = bed.topic(TOPIC);
    let agent = &mut stage["role"]["agent"];
    agent["topics"]["approvals"] = json!(topic);
    agent["tools"]["approval"] = json!({"timeoutMs": timeout_ms, "requests": null});
    let ask = json!({"name": "dear", "tools": ["book"], "when": "event.text != 'free'",
        "action": "RequireApproval", "message": "Book {{ call.arguments.seat }}?"});
    agent["tools"]["policy"].as_array_mut().unwrap().push(ask);
    agent["outputs"][0]["value"] = json!(
        "{'text': result.text, 'asked': event.text, 'calls': calls.map(c, [c.outcome, c.approved_by])}"
    );
    (stage, desk)
}

/// Questions that were put, by the text of none: each is its record's key and value.
fn questions(seen: &[Seen]) -> Vec<Value> {
    seen.iter()
        .filter_map(|seen| seen.value.get("asked").cloned())
        .collect()
}

fn asked(approvals: &mut Follow, count: usize) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let found = questions(&approvals.seen);
        if found.len() >= count {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "{found:?}");
        approvals.look();
    }
}

/// Answers, as `headwater approvals` does: beside the question.
fn answer(bed: &Bed, question: &Value, approve: bool, by: &str) {
    let id = question["approval"].as_str().unwrap();
    let answer = Entry::Answer(Answer {
        approve,
        by: by.to_owned(),
        reason: (!approve).then(|| "too dear".to_owned()),
    });
    let partition = question["partition"].as_i64().unwrap();
    let partition = i32::try_from(partition).unwrap();
    let record = answer.record(&bed.topic(TOPIC), partition, id).unwrap();
    bed.writer().write(&[record]).unwrap();
}

/// The question with its partition, which is that of the key that it was asked for.
fn placed(question: &Value, session: &str) -> Value {
    use headwater_engine::key::partition_of;
    let mut placed = question.clone();
    placed["partition"] = json!(partition_of(session.as_bytes(), crate::bed::PARTITIONS));
    placed
}

async fn idle(bed: &Bed, agent: &Handle) {
    until(agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
}

pub async fn a_run_waits_for_a_person_and_its_key_goes_on(mut bed: Bed) {
    let (stage, desk) = asking(&mut bed, 600_000, Desk::new());
    let mut writer = bed.writer();
    let mut approvals = bed.follow(TOPIC);
    let agent = bed.started(&stage).await;
    writer.write(&[bed.question("s", "dear", "HW1")]).unwrap();
    let question = asked(&mut approvals, 1)[0].clone();
    assert_eq!(question["message"], "Book 34K?");
    assert_eq!(
        question["arguments"],
        json!({"seat": "34K", "session": "s"})
    );
    // What is not over is in no output and no audit, and holds neither its key nor the offset.
    writer.write(&[bed.question("s", "free", "HW1")]).unwrap();
    let mut answers = bed.follow("answers");
    assert_eq!(answers.wait(1)[0].value["asked"], "free");
    idle(&bed, &agent).await;
    assert_eq!(bed.read("agent.helper.runs").len(), 1);
    assert_eq!(desk.made().len(), 1);
    agent.crash().await;
    // Neither a restart nor another question asks again.
    let agent = bed.started(&stage).await;
    idle(&bed, &agent).await;
    answer(&bed, &placed(&question, "s"), true, "ana");
    let last = answers.wait(2)[1].clone();
    assert_eq!(last.value["asked"], "dear");
    assert_eq!(last.value["calls"], json!([["Done", "ana"]]));
    idle(&bed, &agent).await;
    let made = desk.made();
    assert_eq!(made.len(), 2);
    assert_eq!(json!(made[1].0), question["approval"]);
    approvals.look();
    assert_eq!(questions(&approvals.seen).len(), 1);
    let runs = bed.read("agent.helper.runs");
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[1].value["calls"][0]["approvedBy"], "ana");
    // Its turn comes behind the one that did not wait.
    let turns: Vec<_> = bed
        .read("agent.helper.conversation")
        .iter()
        .map(|turn| turn.value["user"].clone())
        .collect();
    assert_eq!(turns, [json!("free"), json!("dear")]);
    agent.crash().await;
}

pub async fn silence_denies_also_while_nobody_was_there(mut bed: Bed) {
    let (stage, desk) = asking(&mut bed, 1_500, Desk::new());
    let mut writer = bed.writer();
    let mut approvals = bed.follow(TOPIC);
    let mut answers = bed.follow("answers");
    let agent = bed.started(&stage).await;
    writer.write(&[bed.question("s", "one", "HW1")]).unwrap();
    let denied = answers.wait(1)[0].clone();
    assert_eq!(denied.value["calls"], json!([["Denied", null]]));
    let text = denied.value["text"].as_str().unwrap();
    assert!(text.contains("nobody approved this call in time"), "{text}");
    // The next one's time is over while the agent is away.
    writer.write(&[bed.question("s", "two", "HW1")]).unwrap();
    let second = asked(&mut approvals, 2)[1].clone();
    agent.crash().await;
    let expires = second["expiresAt"].as_i64().unwrap();
    let begun = Instant::now();
    while jiff::Timestamp::now().as_millisecond() <= expires + 300 {
        assert!(begun.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Too late.
    answer(&bed, &placed(&second, "s"), true, "ana");
    let agent = bed.started(&stage).await;
    assert_eq!(answers.wait(2)[1].value["calls"], json!([["Denied", null]]));
    assert_eq!(desk.made(), []);
    idle(&bed, &agent).await;
    agent.crash().await;
}

pub async fn the_first_answer_counts_and_only_one_that_is_in_time(mut bed: Bed) {
    let (stage, desk) = asking(&mut bed, 600_000, Desk::new());
    let mut writer = bed.writer();
    let mut approvals = bed.follow(TOPIC);
    let mut answers = bed.follow("answers");
    let agent = bed.started(&stage).await;
    writer.write(&[bed.question("s", "dear", "HW1")]).unwrap();
    let question = placed(&asked(&mut approvals, 1)[0], "s");
    // Both while the agent is away: in the order of the log.
    agent.crash().await;
    answer(&bed, &question, false, "ana");
    answer(&bed, &question, true, "bo");
    let agent = bed.started(&stage).await;
    let denied = answers.wait(1)[0].clone();
    assert_eq!(denied.value["calls"], json!([["Denied", null]]));
    let text = denied.value["text"].as_str().unwrap();
    assert!(text.contains("ana denied this call: too dear"), "{text}");
    // Words of a user approve nothing.
    let told = format!("approve {}", question["approval"]);
    writer.write(&[bed.question("s", &told, "HW1")]).unwrap();
    assert_eq!(asked(&mut approvals, 2).len(), 2);
    idle(&bed, &agent).await;
    assert_eq!(bed.read("answers").len(), 1);
    assert_eq!(desk.made(), []);
    agent.crash().await;
}

pub async fn an_answer_in_time_counts_though_nobody_was_there(mut bed: Bed) {
    let (stage, desk) = asking(&mut bed, 2_000, Desk::new());
    let mut writer = bed.writer();
    let mut approvals = bed.follow(TOPIC);
    let agent = bed.started(&stage).await;
    writer.write(&[bed.question("s", "dear", "HW1")]).unwrap();
    let question = placed(&asked(&mut approvals, 1)[0], "s");
    agent.crash().await;
    answer(&bed, &question, true, "ana");
    let expires = question["expiresAt"].as_i64().unwrap();
    let now = jiff::Timestamp::now().as_millisecond();
    assert!(now < expires, "the machine is too slow for this test");
    let begun = Instant::now();
    while jiff::Timestamp::now().as_millisecond() <= expires + 300 {
        assert!(begun.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Its time is over, and the answer was there before.
    let agent = bed.started(&stage).await;
    let mut answers = bed.follow("answers");
    assert_eq!(answers.wait(1)[0].value["calls"], json!([["Done", "ana"]]));
    assert_eq!(desk.made().len(), 1);
    idle(&bed, &agent).await;
    agent.crash().await;
}

pub async fn rules_are_asked_again_after_an_approval(mut bed: Bed) {
    let (stage, desk) = asking(&mut bed, 600_000, Desk::new());
    let mut writer = bed.writer();
    let mut approvals = bed.follow(TOPIC);
    let mut answers = bed.follow("answers");
    writer.write(&[flight(&bed, "HW1", "A1")]).unwrap();
    let agent = bed.started(&stage).await;
    writer.write(&[bed.question("s", "dear", "HW1")]).unwrap();
    let question = placed(&asked(&mut approvals, 1)[0], "s");
    writer.write(&[flight(&bed, "HW1", "closed")]).unwrap();
    answer(&bed, &question, true, "ana");
    let denied = answers.wait(1)[0].clone();
    assert_eq!(denied.value["calls"], json!([["Denied", null]]));
    let text = denied.value["text"].as_str().unwrap();
    assert!(text.contains("the gate is closed"), "{text}");
    assert_eq!(desk.made(), []);
    idle(&bed, &agent).await;
    agent.crash().await;
}

pub async fn answers_survive_whatever_ends_the_process(mut bed: Bed) {
    const QUESTIONS: usize = 60;
    const ROUNDS: usize = 6;
    let mut desk = Desk::new();
    desk.delay = Duration::from_millis(3);
    let (mut stage, desk) = asking(&mut bed, 600_000, desk);
    stage["role"]["agent"]["delivery"]["maxAttempts"] = json!(20);
    let mut writer = bed.writer();
    let mut approvals = bed.follow(TOPIC);
    let mut answers = bed.follow("answers");
    let session = |n: usize| format!("session-{}", n % 12);
    let mut settled = BTreeSet::new();
    let each = QUESTIONS / ROUNDS;
    for round in 0..ROUNDS {
        let agent = bed.start(&stage);
        let some: Vec<_> = (round * each..(round + 1) * each)
            .map(|n| bed.question(&session(n), &format!("q{n}"), "HW1"))
            .collect();
        writer.write(&some).unwrap();
        // Some of these, and of those of before, are answered; then it crashes in the middle.
        asked(&mut approvals, round * each + each / 2);
        settle(&bed, &approvals, &mut settled, round * each + each / 3);
        answers.wait((round * each).saturating_sub(each) / 2);
        agent.crash().await;
    }
    let agent = bed.started(&stage).await;
    let begun = Instant::now();
    while settled.len() < QUESTIONS {
        assert!(begun.elapsed() < DEADLINE, "{} were asked", settled.len());
        approvals.look();
        settle(&bed, &approvals, &mut settled, QUESTIONS);
    }
    answers.wait(QUESTIONS);
    idle(&bed, &agent).await;
    // One question each, one outcome each, and no call twice.
    let put = questions(&approvals.seen);
    let runs: BTreeSet<String> = put.iter().map(|it| it["run"].to_string()).collect();
    assert_eq!((put.len(), runs.len()), (QUESTIONS, QUESTIONS));
    let seen = bed.read("answers");
    each_once(&seen, QUESTIONS);
    assert_eq!(bed.read("agent.helper.runs").len(), QUESTIONS);
    let counts = desk.counts();
    let (mut denied, mut unknown) = (0, 0);
    for answer in &seen {
        let key = format!("{}-1-1", answer.headers["headwater-run"]);
        let made = counts.get(&key).copied().unwrap_or(0);
        match answer.value["calls"][0][0].as_str().unwrap() {
            "Done" => assert_eq!(made, 1, "{answer:?}"),
            "Denied" => {
                denied += 1;
                assert_eq!(made, 0, "{answer:?}");
            }
            "Unknown" => {
                unknown += 1;
                assert!(made <= 1, "{answer:?}");
            }
            other => panic!("{other}: {answer:?}"),
        }
    }
    assert_eq!(denied, QUESTIONS / 5);
    assert!(unknown < QUESTIONS / 3, "{unknown} calls are not known of");
    println!("{unknown} of {QUESTIONS} calls were left open by {ROUNDS} crashes");
    agent.crash().await;
}

/// Answers so many of what was asked, and each once: one of five is denied.
fn settle(bed: &Bed, approvals: &Follow, settled: &mut BTreeSet<String>, count: usize) {
    for question in questions(&approvals.seen) {
        if settled.len() >= count {
            return;
        }
        let id = question["approval"].as_str().unwrap().to_owned();
        if settled.contains(&id) {
            continue;
        }
        let session = question["arguments"]["session"].as_str().unwrap();
        let approve = settled.len() % 5 != 4;
        answer(bed, &placed(&question, session), approve, "ana");
        settled.insert(id);
    }
}

pub async fn a_run_that_failed_after_it_waited_may_be_triggered_again(mut bed: Bed) {
    let (mut stage, desk) = asking(&mut bed, 600_000, Desk::new());
    let agent = &mut stage["role"]["agent"];
    agent["trigger"]["once"] = json!({"key": "event.text", "withinMs": 3_600_000});
    agent["delivery"]["maxAttempts"] = json!(1);
    // It cannot be written once the call was denied.
    agent["outputs"][0]["value"] =
        json!("{'asked': event.text, 'made': calls.filter(c, c.outcome == 'Done')[0].tool}");
    let mut writer = bed.writer();
    let mut approvals = bed.follow(TOPIC);
    let agent = bed.started(&stage).await;
    writer.write(&[bed.question("s", "dear", "HW1")]).unwrap();
    let first = placed(&asked(&mut approvals, 1)[0], "s");
    // As long as it waits, the same would be a repetition.
    writer.write(&[bed.question("s", "dear", "HW1")]).unwrap();
    let mut runs = bed.follow("agent.helper.runs");
    assert_eq!(runs.wait(1)[0].value["outcome"], "Duplicate");
    answer(&bed, &first, false, "ana");
    assert_eq!(runs.wait(2)[1].value["outcome"], "Failed");
    writer.write(&[bed.question("s", "dear", "HW1")]).unwrap();
    let second = placed(&asked(&mut approvals, 2)[1], "s");
    answer(&bed, &second, true, "ana");
    assert_eq!(bed.follow("answers").wait(1)[0].value["made"], "book");
    assert_eq!(desk.made().len(), 1);
    idle(&bed, &agent).await;
    agent.crash().await;
}
