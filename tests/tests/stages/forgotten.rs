//! Groups whose offsets were forgotten while nobody was there, as a week after an agent was suspended: it goes on where it stopped.

use crate::bed::{Bed, DEADLINE, PARTITIONS, Seen, until};
use crate::life::each_once;
use crate::models::Counting;
use crate::triggers;
use headwater_engine::key::partition_of;
use headwater_engine::names::{self, Owner};
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_runtime::log::{Committed, Error};
use headwater_runtime::stage::resume::Intent;
use headwater_runtime::stage::{Handle, Services};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const SESSIONS: usize = 7;

fn agent(bed: &mut Bed) -> Value {
    let (model, _) = Counting::model(Duration::from_millis(2));
    bed.models.insert("chat".to_owned(), model);
    let mut stage = bed.agent();
    let own = &mut stage["role"]["agent"];
    // One may be under way at each crash, and is not what ends its process.
    own["delivery"]["maxAttempts"] = json!(9);
    own["outputs"][0]["value"] = json!("{'asked': event.text, 'turns': size(conversation)}");
    stage
}

fn questions(bed: &Bed, numbers: std::ops::Range<usize>) -> Vec<NewRecord> {
    numbers
        .map(|n| bed.question(&format!("s{}", n % SESSIONS), &format!("q{n}"), ""))
        .collect()
}

/// Runs the agent until it has nothing to do, and ends it in order.
async fn run(bed: &Bed, stage: &Value) {
    let token = CancellationToken::new();
    let services = Services {
        shutdown: token.clone(),
        ..bed.services()
    };
    let agent = bed.start_with(stage, services);
    idle(bed, &agent).await;
    token.cancel();
    agent.join().await;
}

async fn idle(bed: &Bed, agent: &Handle) {
    until(agent, "idle", |agent| {
        agent.is_ready() && agent.caught_up(&*bed.log).unwrap()
    })
    .await;
}

fn group(bed: &Bed, role: &str) -> String {
    names::group(&bed.namespace, Owner::Agent, "helper", None, role)
}

async fn forget(bed: &Bed, role: &str) {
    bed.forget(&group(bed, role)).await;
}

fn partitions(bed: &Bed, topic: &str) -> Vec<TopicPartition> {
    let topic = bed.topic(topic);
    (0..PARTITIONS)
        .map(|it| TopicPartition::new(topic.as_str(), it))
        .collect()
}

/// Waits until the runs' group has committed all that was read.
async fn committed(bed: &Bed, agent: &Handle) {
    let all = partitions(bed, "questions");
    let group = group(bed, "runs");
    until(agent, "committed", |_| {
        let ends = bed.log.ends(&all).unwrap();
        let committed = bed.offsets.committed(&group, &all).unwrap();
        all.iter().zip(ends).all(|(of, end)| {
            let at = committed.get(of).and_then(Option::as_ref);
            at.is_some_and(|at| at.offset >= end)
        })
    })
    .await;
}

/// Every question has one answer, and those of a session are in order, each with the turns before it.
fn check(answers: &[Seen], questions: usize) {
    each_once(answers, questions);
    for session in 0..SESSIONS {
        let key = format!("s{session}");
        let of = answers.iter().filter(|seen| seen.key == key);
        let of: Vec<_> = of
            .map(|seen| seen.value["asked"].as_str().unwrap())
            .collect();
        let expected = (session..questions).step_by(SESSIONS);
        let expected: Vec<_> = expected.map(|n| format!("q{n}")).collect();
        assert_eq!(of, expected, "{key}");
    }
}

pub async fn an_agent_whose_group_was_forgotten_goes_on_where_it_stopped(mut bed: Bed) {
    let stage = agent(&mut bed);
    let mut writer = bed.writer();
    writer.write(&questions(&bed, 0..30)).unwrap();
    run(&bed, &stage).await;
    check(&bed.read("answers"), 30);
    // The audit is kept for a while only, too.
    for (gone, number) in [(false, 30), (true, 60), (true, 90)] {
        writer.write(&questions(&bed, number..number + 30)).unwrap();
        forget(&bed, "runs").await;
        if gone {
            bed.empty("agent.helper.runs").await;
        }
        run(&bed, &stage).await;
        check(&bed.read("answers"), number + 30);
    }
}

pub async fn an_agent_that_crashed_before_its_group_was_forgotten_repeats_nothing(mut bed: Bed) {
    let stage = agent(&mut bed);
    let (mut writer, mut answers) = (bed.writer(), bed.follow("answers"));
    for round in 0..3 {
        let asked = round * 40;
        let agent = bed.start(&stage);
        writer.write(&questions(&bed, asked..asked + 40)).unwrap();
        answers.wait(asked + 15);
        agent.crash().await;
        forget(&bed, "runs").await;
    }
    let agent = bed.started(&stage).await;
    answers.wait(120);
    idle(&bed, &agent).await;
    agent.crash().await;
    check(&bed.read("answers"), 120);
    assert_eq!(bed.read("agent.helper.runs").len(), 120);

    // Without the audit nobody can tell what ran since the agent began to run.
    forget(&bed, "runs").await;
    bed.empty("agent.helper.runs").await;
    let agent = bed.start(&stage);
    until(&agent, "stalled", |agent| {
        let problems = agent.status().problems;
        problems.iter().any(|it| it.reason == "PositionsLost")
    })
    .await;
    agent.crash().await;
}

pub async fn a_partition_whose_offset_is_gone_goes_on_where_it_stopped(mut bed: Bed) {
    let stage = agent(&mut bed);
    let (mut writer, mut answers) = (bed.writer(), bed.follow("answers"));
    let group = group(&bed, "runs");
    let mut asked = 0;
    let mut ask = || {
        writer.write(&questions(&bed, asked..asked + 30)).unwrap();
        asked += 30;
        asked
    };
    for partition in partitions(&bed, "questions") {
        ask();
        run(&bed, &stage).await;
        bed.forget_partition(&group, &partition).await;
        // After an end in order, and once after a crash.
        if partition.partition == PARTITIONS - 1 {
            let agent = bed.start(&stage);
            let asked = ask();
            answers.wait(asked - 20);
            agent.crash().await;
            bed.forget_partition(&group, &partition).await;
        }
        let asked = ask();
        run(&bed, &stage).await;
        check(&bed.read("answers"), asked);
    }

    // Where nothing tells where it stopped, that partition stands still, and the others go on.
    let agent = bed.started(&stage).await;
    let asked = ask();
    answers.wait(asked);
    agent.crash().await;
    let [lost, ..] = &partitions(&bed, "questions")[..] else {
        panic!("no partitions")
    };
    bed.forget_partition(&group, lost).await;
    bed.empty("agent.helper.runs").await;
    let agent = bed.start(&stage);
    until(&agent, "stalled", |agent| {
        let problems = agent.status().problems;
        let mut lost_there = problems
            .iter()
            .filter(|it| it.reason == "PositionsLost" && it.at == lost.to_string());
        lost_there.next().is_some()
    })
    .await;
    let others = questions(&bed, asked..asked + 30).into_iter();
    let key = |it: &NewRecord| it.key.clone().unwrap();
    let others: Vec<_> = others
        .filter(|it| partition_of(&key(it), PARTITIONS) != lost.partition)
        .collect();
    writer.write(&others).unwrap();
    answers.wait(asked + others.len());
    agent.crash().await;
    assert_eq!(bed.read("answers").len(), asked + others.len());
}

/// One that reads for long what starts no run.
pub async fn an_agent_that_passed_records_over_goes_on_behind_them(mut bed: Bed) {
    let stage = agent(&mut bed);
    let mut writer = bed.writer();
    let ignored = |n| bed.question(&format!("s{n}"), "ignore", "");
    let ignored: Vec<_> = (0..SESSIONS).map(ignored).collect();
    let mut asked = 0;
    for first_run in [false, true] {
        writer.write(&ignored).unwrap();
        let agent = bed.started(&stage).await;
        committed(&bed, &agent).await;
        // What is passed over may be gone by the time that it comes back.
        if first_run {
            writer.write(&questions(&bed, asked..asked + 30)).unwrap();
            asked += 30;
            idle(&bed, &agent).await;
        } else {
            bed.empty("questions").await;
        }
        agent.crash().await;
        forget(&bed, "runs").await;
        writer.write(&questions(&bed, asked..asked + 30)).unwrap();
        asked += 30;
        run(&bed, &stage).await;
        check(&bed.read("answers"), asked);
    }
}

/// Commits for the group once it has no members.
async fn set(bed: &Bed, group: &str, offsets: &[(TopicPartition, Committed)]) {
    let end = Instant::now() + DEADLINE;
    while let Err(error) = bed.offsets.commit(group, offsets) {
        assert!(matches!(error, Error::GroupInUse { .. }), "{error}");
        assert!(Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// As it is where a broker comes back from a crash without the marker of a commit.
pub async fn what_ran_is_not_repeated_where_a_group_has_former_offsets(mut bed: Bed) {
    let stage = agent(&mut bed);
    let mut writer = bed.writer();
    let group = group(&bed, "runs");
    let all = partitions(&bed, "questions");
    let mut asked = 0;
    for crash in [false, true] {
        let mut ask = |count| {
            writer
                .write(&questions(&bed, asked..asked + count))
                .unwrap();
            asked += count;
        };
        let token = CancellationToken::new();
        let services = Services {
            shutdown: token.clone(),
            ..bed.services()
        };
        let agent = bed.start_with(&stage, services);
        ask(30);
        idle(&bed, &agent).await;
        let committed = bed.offsets.committed(&group, &all).unwrap();
        let former: Vec<_> = committed
            .into_iter()
            .filter_map(|(of, at)| Some((of, at?)))
            .collect();
        ask(30);
        idle(&bed, &agent).await;
        if crash {
            agent.crash().await;
        } else {
            token.cancel();
            agent.join().await;
        }
        set(&bed, &group, &former).await;
    }
    run(&bed, &stage).await;
    check(&bed.read("answers"), asked);
}

/// A position that somebody set counts, though the audit knows of later ones.
pub async fn what_somebody_decided_outlives_the_group_too(mut bed: Bed) {
    let stage = agent(&mut bed);
    let mut writer = bed.writer();
    writer.write(&questions(&bed, 0..30)).unwrap();
    run(&bed, &stage).await;
    let group = group(&bed, "runs");
    let from: Vec<_> = partitions(&bed, "questions")
        .into_iter()
        .map(|of| (of, Intent::From(0).committed(0)))
        .collect();
    bed.offsets.commit(&group, &from).unwrap();
    let (silent, told) = Counting::model(Duration::from_secs(3_600));
    let well = bed.models.insert("chat".to_owned(), silent).unwrap();
    let agent = bed.started(&stage).await;
    // Runs of every partition are under way, and nothing has ended since.
    until(&agent, "running", |_| {
        told.load(Ordering::Relaxed) == SESSIONS
    })
    .await;
    agent.crash().await;
    bed.models.insert("chat".to_owned(), well);
    forget(&bed, "runs").await;
    run(&bed, &stage).await;
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    for seen in bed.read("answers") {
        let text = seen.value["asked"].as_str().unwrap();
        *asked.entry(text.to_owned()).or_default() += 1;
    }
    assert_eq!(asked.len(), 30);
    assert!(asked.values().all(|times| *times == 2), "{asked:?}");
}

/// One that begins with what comes next, and to which nothing came.
pub async fn an_agent_that_never_ran_misses_nothing(mut bed: Bed) {
    let mut stage = agent(&mut bed);
    stage["role"]["agent"]["trigger"]["startFrom"] = json!("Latest");
    let mut writer = bed.writer();
    // From before its beginning.
    writer.write(&questions(&bed, 100..110)).unwrap();
    run(&bed, &stage).await;
    writer.write(&questions(&bed, 0..9)).unwrap();
    forget(&bed, "runs").await;
    run(&bed, &stage).await;
    check(&bed.read("answers"), 9);
}

pub async fn an_agent_with_an_input_log_takes_in_what_came_meanwhile(mut bed: Bed) {
    let (model, _) = Counting::model(Duration::from_millis(2));
    bed.models.insert("chat".to_owned(), model);
    let mut stage = triggers::by_session(&bed);
    stage["role"]["agent"]["trigger"]["startFrom"] = json!("Latest");
    let mut writer = bed.writer();
    run(&bed, &stage).await;
    for round in 0..3 {
        let some: Vec<_> = (round * 20..round * 20 + 20)
            .map(|n| triggers::question(&bed, n))
            .collect();
        writer.write(&some).unwrap();
        for role in ["intake", "runs"] {
            forget(&bed, role).await;
        }
        if round == 2 {
            bed.empty("agent.helper.runs").await;
            bed.empty("agent.helper.in").await;
        }
        run(&bed, &stage).await;
        each_once(&bed.read("answers"), round * 20 + 20);
    }
}
