//! Groups whose offsets were forgotten while nobody was there, as a week after an agent was suspended: it goes on where it stopped.

use crate::bed::{Bed, Seen, until};
use crate::life::each_once;
use crate::models::Counting;
use crate::triggers;
use headwater_engine::names::{self, Owner};
use headwater_engine::record::NewRecord;
use headwater_runtime::stage::{Handle, Services};
use serde_json::{Value, json};
use std::time::Duration;
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

async fn forget(bed: &Bed, role: &str) {
    let group = names::group(&bed.namespace, Owner::Agent, "helper", None, role);
    bed.forget(&group).await;
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
