//! What a view lacks when the wait is over is named, and the slot is stale as its agent wants that shown.

use crate::asked::resources;
use crate::bed::{Bed, DEADLINE, Follow, Running, Seen, stage_of, until};
use headwater_engine::key::partition_of;
use headwater_engine::names::Owner;
use headwater_operator::plan::Plan;
use headwater_runtime::stage::Handle;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Far more than a run takes that waits for nothing, far less than the wait that it is allowed.
const SOON: Duration = Duration::from_secs(8);
const ANSWERS: [&str; 3] = ["Mark", "Omit", "Fail"];

/// One agent for each way to show what is stale, named by it, with outputs of their own.
fn agents(wait: &str) -> String {
    let agent = |on_stale: &str| {
        let name = on_stale.to_lowercase();
        format!(
            "
---
kind: EventSource
apiVersion: headwater.dev/v1alpha1
metadata: {{name: {name}}}
spec: {{}}
---
kind: Agent
apiVersion: headwater.dev/v1alpha1
metadata: {{name: {name}}}
spec:
  trigger: {{sourceRef: {{name: questions}}, startFrom: Earliest}}
  context:
    - {{name: flight, viewRef: {{name: flights}}, key: event.flight, maxStalenessSeconds: 0, onStale: {on_stale}}}
    - {{name: late, viewRef: {{name: late}}, key: event.flight, maxStalenessSeconds: 0, onStale: {on_stale}}}
  {wait}
  delivery: {{maxAttempts: 1}}
  outputs:
    - {{name: answer, sourceRef: {{name: {name}}}, value: \"{{'flight': context.flight, 'late': context.late, 'meta': meta}}\"}}
    - {{name: failure, sourceRef: {{name: {name}}}, outcome: Failed, value: \"{{'failure': failure.reason}}\"}}
"
        )
    };
    resources(&ANSWERS.map(agent).concat())
}

/// The agents, and what they answered.
struct Desk {
    bed: Bed,
    plan: Plan,
    agents: Vec<Running>,
    answers: Vec<Follow>,
    audits: Vec<Follow>,
}

/// What one agent came to.
struct Answer {
    value: Value,
    audit: Value,
}

impl Answer {
    fn slot(&self, name: &str) -> &Value {
        let mut slots = self.audit["slots"].as_array().unwrap().iter();
        slots.find(|slot| slot["slot"] == name).unwrap()
    }

    fn stale_seconds(&self, slot: &str) -> u64 {
        self.slot(slot)["staleSeconds"].as_u64().unwrap()
    }
}

impl Desk {
    async fn open(bed: Bed, wait: &str) -> Self {
        let plan = bed.plan(&agents(wait));
        bed.create(&plan);
        let mut agents = Vec::new();
        let (mut answers, mut audits) = (Vec::new(), Vec::new());
        for name in ANSWERS.map(str::to_lowercase) {
            agents.push(bed.started(stage_of(&plan, Owner::Agent, &name), 0).await);
            answers.push(bed.follow(&name));
            audits.push(bed.follow(&format!("agent.{name}.runs")));
        }
        Self {
            bed,
            plan,
            agents,
            answers,
            audits,
        }
    }

    async fn view(&self, name: &str) -> Running {
        let config = stage_of(&self.plan, Owner::View, name);
        self.bed.started(config, 0).await
    }

    /// Writes an event of this number to both sources, to their first partition.
    fn tell(&self, n: u64) {
        let mut writer = self.bed.log.writer().unwrap();
        writer.write(&self.events(n)).unwrap();
    }

    fn events(&self, n: u64) -> [headwater_engine::record::NewRecord; 2] {
        ["flights", "delays"].map(|topic| {
            let event = json!({"n": n, "flight": "F1"});
            self.bed.record(topic, "F1", &event)
        })
    }

    /// Asks all; gives their answers in the order of [`ANSWERS`].
    fn ask(&mut self) -> [Answer; 3] {
        let question = self.bed.record("questions", "q", &json!({"flight": "F1"}));
        let mut writer = self.bed.log.writer().unwrap();
        writer.write(&[question]).unwrap();
        let mut both = self.answers.iter_mut().zip(&mut self.audits);
        std::array::from_fn(|_| {
            let (answers, audits) = both.next().unwrap();
            Answer {
                value: next(answers).value,
                audit: next(audits).value,
            }
        })
    }

    fn partition(&self, topic: &str) -> String {
        let partition = partition_of(b"F1", 3);
        format!("{}-{partition}", self.bed.topic(topic))
    }

    /// With the views' stages; the topics go last.
    async fn close(self, views: [Running; 2]) {
        for running in self.agents.into_iter().chain(views) {
            running.end().await;
        }
    }
}

fn next(follow: &mut Follow) -> Seen {
    let begun = Instant::now();
    loop {
        let mut seen = follow.poll(Duration::from_millis(50));
        if let Some(first) = seen.pop() {
            assert!(seen.is_empty(), "{seen:?}");
            return first;
        }
        assert!(begun.elapsed() < DEADLINE, "no answer");
    }
}

fn check_fresh(answers: &[Answer; 3], n: u64) {
    for answer in answers {
        assert_eq!(
            (&answer.value["flight"]["n"], &answer.value["late"]["n"]),
            (&json!(n), &json!(n))
        );
        for slot in ["flight", "late"] {
            let slot = answer.slot(slot);
            assert_eq!(
                (&slot["staleSeconds"], &slot["behind"]),
                (&json!(0), &json!([]))
            );
        }
    }
}

/// `slot` is shown as the agents' `onStale` says, with the value of the event before.
fn check_stale(answers: &[Answer; 3], slot: &str, before: u64, behind: &Value) {
    let [mark, omit, fail] = answers;
    assert_eq!(mark.value[slot]["n"], before);
    assert!(
        mark.value["meta"][slot]["stale_seconds"].as_u64() >= Some(1),
        "{}",
        mark.value
    );
    assert_eq!(omit.value[slot], Value::Null);
    assert_eq!(omit.value["meta"][slot]["omitted"], 1);
    for answer in [mark, omit] {
        assert_eq!(&answer.slot(slot)["behind"], behind);
        assert_eq!(answer.slot(slot)["stale"], true);
        assert!(answer.stale_seconds(slot) >= 1);
    }
    assert_eq!(fail.value["failure"], "StaleSlot");
    assert_eq!(fail.audit["outcome"], "Failed");
}

pub async fn a_stopped_stage_is_named_and_its_slot_is_stale(bed: Bed) {
    // The default wait.
    let mut desk = Desk::open(bed, "audit: {}").await;
    let (flights, late) = (desk.view("flights").await, desk.view("late").await);
    desk.tell(1);
    // The first time the stages may be slower than the wait.
    let fresh = |answers: &[Answer; 3]| {
        answers
            .iter()
            .all(|answer| answer.value["late"]["n"] == 1 && answer.stale_seconds("late") == 0)
    };
    let mut answers = desk.ask();
    while !fresh(&answers) {
        answers = desk.ask();
    }
    check_fresh(&answers, 1);
    let held = Instant::now();
    // Time in which nobody asks: the views hold everything all the same.
    tokio::time::sleep(Duration::from_secs(4)).await;
    late.end().await;
    desk.tell(2);
    let asked = Instant::now();
    let answers = desk.ask();
    let took = asked.elapsed();
    let covered = 1;
    check_stale(
        &answers,
        "late",
        1,
        &json!([{"partition": desk.partition("delays"), "position": covered, "end": covered + 1}]),
    );
    assert!(took < SOON, "{took:?}");
    for answer in &answers[..2] {
        assert_eq!(
            answer.value["flight"]["n"], 2,
            "what is not behind is fresh"
        );
        assert_eq!(answer.stale_seconds("flight"), 0);
        let stale = Duration::from_secs(answer.stale_seconds("late"));
        assert!(
            stale < held.elapsed(),
            "{stale:?} of {:?}: it held everything while nobody asked",
            held.elapsed()
        );
    }
    let late = desk.view("late").await;
    let log = std::sync::Arc::clone(&desk.bed.log);
    until("caught up", &late, |view: &Handle| {
        view.caught_up(&*log).unwrap()
    })
    .await;
    let mut answers = desk.ask();
    while answers[0].value["late"]["n"] != 2 {
        answers = desk.ask();
    }
    desk.close([flights, late]).await;
}

pub async fn a_foreign_open_transaction_is_named_and_not_waited_for(bed: Bed) {
    // A wait that would outlast the transaction.
    let mut desk = Desk::open(bed, "freshnessWaitMilliseconds: 30000").await;
    let (flights, late) = (desk.view("flights").await, desk.view("late").await);
    desk.tell(1);
    check_fresh(&desk.ask(), 1);
    let open = desk.events(2);
    let (place, id) = (
        desk.bed.place.clone(),
        format!("{}.foreign", desk.bed.namespace),
    );
    let during = async || {
        // Acknowledged, but behind what is open: nobody who reads committed records can see it.
        desk.tell(3);
        let asked = Instant::now();
        let answers = desk.ask();
        let took = asked.elapsed();
        for (slot, topic) in [("flight", "flights"), ("late", "delays")] {
            let behind = json!([{"partition": desk.partition(topic), "position": 1, "end": 3, "undecided": true}]);
            check_stale(&answers, slot, 1, &behind);
        }
        assert!(took < SOON, "{took:?}");
    };
    place.foreign(&id, &open, during).await;
    check_fresh(&desk.ask(), 3);
    desk.close([flights, late]).await;
}
