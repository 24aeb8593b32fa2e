//! Runs of several steps: what was journaled is not repeated, whatever crashes in between.

use crate::bed::{Bed, DEADLINE, Seen, until};
use crate::flight;
use crate::life::{across_crashes, each_once};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::model::{Reply, Request};
use headwater_runtime::model::{Error, Model};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const BAD: &str = "Your offer: 7";
const GOOD: &str = r#"{"offer": 7}"#;

/// Says what does not fit, and in the repair what does, once it may.
struct Repairing {
    /// Keys of all requests, in order.
    asked: Mutex<Vec<String>>,
    repairs: Semaphore,
    /// What the first answer is.
    bad: String,
    /// What its repair is.
    good: &'static str,
    delay: Duration,
    /// Repairs that fail first.
    failures: Mutex<usize>,
}

impl Repairing {
    fn new(good: &'static str) -> Self {
        Self {
            asked: Mutex::default(),
            repairs: Semaphore::new(1_000_000),
            bad: BAD.to_owned(),
            good,
            delay: Duration::ZERO,
            failures: Mutex::new(0),
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How often each step was asked for, whichever run it is of.
    fn count(&self, step: &str) -> usize {
        let asked = self.asked();
        asked.iter().filter(|key| key.ends_with(step)).count()
    }

    async fn until_asked(&self, step: &str) {
        let begun = std::time::Instant::now();
        while self.count(step) == 0 {
            assert!(begun.elapsed() < DEADLINE, "{step} was never asked for");
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn say(&self, request: &Request) -> Result<Reply, Error> {
        self.asked
            .lock()
            .unwrap()
            .push(request.idempotency_key.clone());
        sleep(self.delay).await;
        let repair = request.prompt().starts_with("Your answer does not fit");
        assert_eq!(repair, request.idempotency_key.ends_with("-2"));
        if !repair {
            return Ok(said(&self.bad));
        }
        self.repairs.acquire().await.unwrap().forget();
        let fails = {
            let mut left = self.failures.lock().unwrap();
            let fails = *left > 0;
            *left = left.saturating_sub(1);
            fails
        };
        if fails {
            return Err(Error::Status {
                model: "chat".to_owned(),
                status: 500,
                hint: String::new(),
                retry_after: None,
            });
        }
        Ok(said(self.good))
    }
}

fn said(text: &str) -> Reply {
    Reply {
        text: text.to_owned(),
        ..Reply::default()
    }
}

impl Model for Repairing {
    fn answer<'a>(
        &'a self,
        request: &'a Request,
        _deadline: Instant,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.say(request).boxed()
    }
}

/// The agent with a schema for its result, and its model.
fn offering(bed: &mut Bed, model: Repairing) -> (Value, Arc<Repairing>) {
    let model = bed.asks(model);
    let mut stage = bed.agent();
    let agent = &mut stage["role"]["agent"];
    agent["resultSchema"] = json!({
        "type": "object", "required": ["offer"], "properties": {"offer": {"type": "integer"}},
    });
    agent["outputs"][0]["value"] = json!(
        "{'offer': result.json.offer, 'asked': event.text, 'gate': context.?flight.?gate.orValue(''), 'turns': size(conversation)}"
    );
    (stage, model)
}

/// What the journal has of each step: all values that were ever committed, and whether it is over.
fn journal(bed: &Bed) -> BTreeMap<String, (usize, bool)> {
    let mut held = everything(bed);
    held.retain(|key, _| !key.ends_with("/attempts"));
    held
}

/// The same of attempts too. How far partitions were read is no step.
fn everything(bed: &Bed) -> BTreeMap<String, (usize, bool)> {
    let mut held: BTreeMap<String, (usize, bool)> = BTreeMap::new();
    for Seen { key, value, .. } in bed.read("agent.helper.journal") {
        if key.starts_with('\0') {
            continue;
        }
        let of = held.entry(key).or_default();
        of.1 = value.is_null();
        of.0 += usize::from(!value.is_null());
    }
    held
}

pub async fn a_journaled_step_is_not_repeated_after_a_crash(mut bed: Bed) {
    let mut model = Repairing::new(GOOD);
    model.repairs = Semaphore::new(0);
    let (stage, model) = offering(&mut bed, model);
    let mut writer = bed.writer();
    writer.write(&[flight(&bed, "HW1", "A1")]).unwrap();
    writer.write(&[bed.question("s", "which?", "HW1")]).unwrap();
    let agent = bed.started(&stage).await;
    model.until_asked("-2").await;
    // The second step begins once the first is committed.
    let held = journal(&bed);
    let keys: Vec<&str> = held.keys().map(String::as_str).collect();
    let run = keys[0].strip_suffix("/1").unwrap().to_owned();
    assert_eq!(held, BTreeMap::from([(format!("{run}/1"), (1, false))]));
    assert_eq!(bed.read("agent.helper.runs").len(), 0);
    agent.crash().await;

    // What the run was told before stays what it was told.
    writer.write(&[flight(&bed, "HW1", "B2")]).unwrap();
    model.repairs.add_permits(1_000);
    let agent = bed.started(&stage).await;
    let mut answers = bed.follow("answers");
    let first = answers.wait(1)[0].clone();
    assert_eq!(
        first.value,
        json!({"offer": 7, "asked": "which?", "gate": "A1", "turns": 0})
    );
    assert_eq!(first.headers["headwater-run"], run);
    let [one, two, again] = &model.asked()[..] else {
        panic!("{:?}", model.asked())
    };
    assert_eq!(*one, format!("{run}-1"));
    assert_eq!((two, again), (&format!("{run}-2"), two));

    // The next run of the key has a step of its own, and sees the turn.
    writer
        .write(&[bed.question("s", "and now?", "HW1")])
        .unwrap();
    let second = answers.wait(2)[1].value.clone();
    assert_eq!(
        second,
        json!({"offer": 7, "asked": "and now?", "gate": "B2", "turns": 2})
    );
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    let held = journal(&bed);
    assert_eq!(held.len(), 2);
    assert!(held.values().all(|of| *of == (1, true)), "{held:?}");
    let runs = bed.read("agent.helper.runs");
    let calls = runs[0].value["model"]["calls"].as_array().unwrap().clone();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0]["answer"], BAD);
    assert_eq!(runs[0].value["model"]["answer"], GOOD);
    agent.crash().await;
}

pub async fn steps_are_journaled_once_across_crashes(mut bed: Bed) {
    const QUESTIONS: usize = 160;
    const SESSIONS: usize = 16;
    let mut model = Repairing::new(GOOD);
    model.delay = Duration::from_millis(4);
    let (mut stage, model) = offering(&mut bed, model);
    // More than there are crashes: none is given up for having been there each time.
    stage["role"]["agent"]["delivery"]["maxAttempts"] = json!(9);
    let questions: Vec<_> = (0..QUESTIONS)
        .map(|n| bed.question(&format!("session-{}", n % SESSIONS), &format!("q{n}"), ""))
        .collect();
    let agent = across_crashes(&bed, &stage, &questions).await;
    let answers = bed.read("answers");
    each_once(&answers, QUESTIONS);
    for session in 0..SESSIONS {
        let key = format!("session-{session}");
        let of: Vec<_> = answers.iter().filter(|seen| seen.key == key).collect();
        let turns: Vec<_> = of.iter().map(|seen| seen.value["turns"].clone()).collect();
        let expected: Vec<_> = (0..of.len()).map(|n| json!(2 * n)).collect();
        assert_eq!(turns, expected, "{key}");
    }
    assert_eq!(bed.read("agent.helper.runs").len(), QUESTIONS);
    // A step that was asked for again after its commit would have been journaled again.
    let held = journal(&bed);
    assert_eq!(held.len(), QUESTIONS);
    assert!(held.values().all(|of| *of == (1, true)), "{held:?}");
    assert!(everything(&bed).values().all(|(_, over)| *over));
    assert!(model.count("-1") >= QUESTIONS);
    agent.crash().await;
}

pub async fn a_retry_goes_on_after_the_journaled_step(mut bed: Bed) {
    let model = Repairing::new(GOOD);
    *model.failures.lock().unwrap() = 1;
    let (stage, model) = offering(&mut bed, model);
    let mut writer = bed.writer();
    writer.write(&[bed.question("s", "which?", "")]).unwrap();
    let agent = bed.started(&stage).await;
    let mut answers = bed.follow("answers");
    assert_eq!(answers.wait(1)[0].value["offer"], 7);
    assert_eq!((model.count("-1"), model.count("-2")), (1, 2));
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    assert_eq!(bed.read("agent.helper.runs")[0].value["attempt"], 2);
    agent.crash().await;
}

pub async fn a_repair_that_does_not_fit_fails_the_run_at_once(mut bed: Bed) {
    let (stage, model) = offering(&mut bed, Repairing::new("no JSON either"));
    let mut writer = bed.writer();
    writer
        .write(&[
            bed.question("s", "which?", ""),
            bed.question("s", "and then?", ""),
        ])
        .unwrap();
    let agent = bed.started(&stage).await;
    let mut letters = bed.follow("agent.helper.dead");
    for letter in letters.wait(2) {
        assert_eq!(letter.headers["headwater-reason"], "InvalidResult");
    }
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    assert_eq!((model.count("-1"), model.count("-2")), (2, 2));
    let held = journal(&bed);
    assert!(
        held.len() == 2 && held.values().all(|of| *of == (1, true)),
        "{held:?}"
    );
    for run in bed.read("agent.helper.runs") {
        assert_eq!(run.value["failure"]["reason"], "InvalidResult");
        assert_eq!(run.value["model"]["calls"][1]["answer"], "no JSON either");
    }
    assert_eq!(bed.read("answers").len(), 0);
    agent.crash().await;
}

pub async fn a_step_that_is_too_large_is_not_journaled_and_the_run_goes_on(mut bed: Bed) {
    let mut model = Repairing::new(GOOD);
    model.bad = "x".repeat(950 * 1_024);
    let (mut stage, model) = offering(&mut bed, model);
    // The model has room for it.
    stage["role"]["agent"]["model"]["contextWindowTokens"] = json!(2_000_000);
    let mut writer = bed.writer();
    writer.write(&[bed.question("s", "which?", "")]).unwrap();
    let agent = bed.started(&stage).await;
    let mut answers = bed.follow("answers");
    assert_eq!(answers.wait(1)[0].value["offer"], 7);
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    assert_eq!((model.count("-1"), model.count("-2")), (1, 1));
    assert_eq!(journal(&bed), BTreeMap::new());
    agent.crash().await;
}
