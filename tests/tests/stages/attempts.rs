//! Runs that end their process, and partitions that are left in order.

use crate::bed::{Bed, DEADLINE, Seen, ready, until};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::model::{Reply, Request};
use headwater_runtime::model::{Error, Model};
use headwater_runtime::stage::{self, Services};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Ends whatever process asks it.
const KILL: &str = "kill";

/// Holds its answers back.
struct Holding {
    asked: Mutex<Vec<String>>,
    /// One for each answer that is no longer held back.
    answers: Semaphore,
    delay: Duration,
}

impl Holding {
    fn count(&self, text: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| *asked == text).count()
    }

    fn total(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let begun = std::time::Instant::now();
        while !condition(self) {
            let asked = self.asked.lock().unwrap().clone();
            assert!(begun.elapsed() < DEADLINE, "not {what}: {asked:?}");
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn say(&self, request: &Request) -> Result<Reply, Error> {
        let text = request.prompt();
        self.asked.lock().unwrap().push(text.to_owned());
        if text == KILL {
            std::future::pending::<()>().await;
        }
        self.answers.acquire().await.unwrap().forget();
        sleep(self.delay).await;
        Ok(Reply {
            text: "yes".to_owned(),
            ..Reply::default()
        })
    }
}

impl Model for Holding {
    fn answer<'a>(
        &'a self,
        request: &'a Request,
        _deadline: Instant,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.say(request).boxed()
    }
}

fn holding(bed: &mut Bed, delay: Duration) -> (Value, Arc<Holding>) {
    let model = bed.asks(Holding {
        asked: Mutex::default(),
        answers: Semaphore::new(0),
        delay,
    });
    (bed.agent(), model)
}

/// The last record of each key that the journal has.
fn journal(bed: &Bed) -> BTreeMap<String, Value> {
    let records = bed.read("agent.helper.journal").into_iter();
    records
        .map(|Seen { key, value, .. }| (key, value))
        .filter(|(key, _)| !key.starts_with('\0'))
        .collect()
}

pub async fn a_run_that_ends_its_process_is_given_up_and_those_beside_it_are_not(mut bed: Bed) {
    const BESIDE: usize = 7;
    let (stage, model) = holding(&mut bed, Duration::from_millis(150));
    let mut questions: Vec<_> = (0..BESIDE)
        .map(|n| bed.question(&format!("s{n}"), &format!("q{n}"), ""))
        .collect();
    questions.insert(BESIDE / 2, bed.question("killer", KILL, ""));
    bed.writer().write(&questions).unwrap();

    // Nothing tells yet which of them it is.
    for round in 1..=2 {
        let agent = bed.start(&stage);
        let all = round * (BESIDE + 1);
        model.until("begun", |model| model.total() == all).await;
        let held = journal(&bed);
        assert_eq!(held.len(), if round == 1 { 0 } else { BESIDE + 1 });
        assert!(held.values().all(|begun| begun["count"] == 1), "{held:?}");
        agent.crash().await;
    }
    // Each alone.
    model.answers.add_permits(1_000);
    let agent = bed.start(&stage);
    model
        .until("begun again", |model| model.count(KILL) == 3)
        .await;
    agent.crash().await;

    let agent = bed.started(&stage).await;
    let letter = bed.follow("agent.helper.dead").wait(1)[0].clone();
    assert_eq!(letter.headers["headwater-reason"], "Crashed");
    assert_eq!(letter.value["text"], KILL);
    bed.follow("answers").wait(BESIDE);
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    assert_eq!(model.count(KILL), 3);
    assert_eq!(bed.read("answers").len(), BESIDE);
    let runs = bed.read("agent.helper.runs");
    assert_eq!(runs.len(), BESIDE + 1);
    let failed: Vec<_> = runs
        .iter()
        .filter(|run| run.value["outcome"] == "Failed")
        .collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].value["failure"]["reason"], "Crashed");
    assert_eq!(failed[0].value["attempt"], 2);
    let held = journal(&bed);
    assert!(held.values().all(Value::is_null), "{held:?}");
    agent.crash().await;
}

pub async fn partitions_that_are_left_in_order_tell_so(mut bed: Bed) {
    const QUESTIONS: usize = 12;
    let (stage, model) = holding(&mut bed, Duration::ZERO);
    let config = || serde_json::from_value(stage.clone()).unwrap();
    let token = CancellationToken::new();
    let leaving = Services {
        shutdown: token.clone(),
        ..bed.services()
    };
    let first = stage::start(config(), 0, leaving).unwrap();
    ready(&first).await;
    let questions: Vec<_> = (0..QUESTIONS)
        .map(|n| bed.question(&format!("s{n}"), &format!("q{n}"), ""))
        .collect();
    bed.writer().write(&questions).unwrap();
    model
        .until("asked", |model| model.total() == QUESTIONS)
        .await;

    // It gets some of them, and what does not end in time is begun again there.
    let second = stage::start(config(), 1, bed.services()).unwrap();
    model
        .until("asked elsewhere", |model| model.total() > QUESTIONS)
        .await;
    // Whatever ends in time is committed by who began it.
    model.answers.add_permits(1_000);
    bed.follow("answers").wait(QUESTIONS);
    token.cancel();
    tokio::time::timeout(DEADLINE, first.join()).await.unwrap();
    bed.writer().write(&questions).unwrap();
    bed.follow("answers").wait(2 * QUESTIONS);
    until(&second, "idle", |second| {
        second.caught_up(&*bed.log).unwrap()
    })
    .await;
    assert_eq!(bed.read("answers").len(), 2 * QUESTIONS);
    assert_eq!(bed.read("agent.helper.runs").len(), 2 * QUESTIONS);
    // No process ended, so none of them is suspected.
    assert_eq!(journal(&bed), BTreeMap::new());
    second.crash().await;
}

pub async fn runs_of_a_revoked_partition_have_time_to_end(mut bed: Bed) {
    const QUESTIONS: usize = 12;
    // Longer than a member takes to hear of another, and shorter than it may take then.
    let (stage, model) = holding(&mut bed, Duration::from_millis(4_500));
    model.answers.add_permits(1_000);
    let config = || serde_json::from_value(stage.clone()).unwrap();
    let first = stage::start(config(), 0, bed.services()).unwrap();
    ready(&first).await;
    let questions: Vec<_> = (0..QUESTIONS)
        .map(|n| bed.question(&format!("s{n}"), &format!("q{n}"), ""))
        .collect();
    bed.writer().write(&questions).unwrap();
    model
        .until("asked", |model| model.total() == QUESTIONS)
        .await;
    let second = stage::start(config(), 1, bed.services()).unwrap();
    until(&second, "an owner", |second| {
        let status = second.status();
        let runs = status.parts.get("runs");
        runs.is_some_and(|runs| !runs.positions.is_empty())
    })
    .await;
    bed.follow("answers").wait(QUESTIONS);
    for agent in [first, second] {
        until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
        agent.crash().await;
    }
    // Nothing was broken off.
    assert_eq!(model.total(), QUESTIONS);
    assert_eq!(bed.read("answers").len(), QUESTIONS);
}
