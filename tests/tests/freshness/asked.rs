//! Whoever writes what is to be known, awaits the acknowledgement, and asks, is answered from it.
//!
//! Several askers do so at once, through a view on its source's own log and through one behind an intake, while others
//! write what does not concern them. An asker leaves a key alone until its question is answered, so that the
//! answer has to hold exactly what was written before it. `HEADWATER_QUESTIONS` says how many there are.

use crate::bed::{Bed, DEADLINE, sources, stage_of};
use headwater_engine::names::Owner;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

const ASKERS: usize = 4;
/// Keys of an asker: so many of its questions may be under way.
const KEYS: usize = 8;
const QUESTIONS: usize = 400;
/// Between two writes of whoever makes the load.
const PACE: Duration = Duration::from_millis(2);
/// Records that such a write has for each source.
const LOAD: usize = 10;

/// A view on its source's log, one behind an intake, and an agent that reads both.
pub fn resources(agent: &str) -> String {
    sources(&["flights", "delays", "questions", "answers"])
        + &format!(
            "
---
kind: ContextView
apiVersion: headwater.dev/v1alpha1
metadata: {{name: flights}}
spec: {{from: [{{name: all, sourceRef: {{name: flights}}}}]}}
---
kind: ContextView
apiVersion: headwater.dev/v1alpha1
metadata: {{name: late}}
spec: {{from: [{{name: all, sourceRef: {{name: delays}}, key: event.flight}}]}}
{agent}"
        )
}

const AGENT: &str = "
---
kind: Agent
apiVersion: headwater.dev/v1alpha1
metadata: {name: desk}
spec:
  trigger: {sourceRef: {name: questions}, startFrom: Earliest}
  context:
    - {name: flight, viewRef: {name: flights}, key: event.flight}
    - {name: late, viewRef: {name: late}, key: event.flight}
  freshnessWaitMilliseconds: 5000
  outputs:
    - {name: answer, sourceRef: {name: answers}, value: \"{'n': event.n, 'asker': event.asker, 'flight': context.flight, 'late': context.late}\"}
";

struct Asker {
    number: usize,
    bed: Arc<Bed>,
    /// The number of the next question, of all askers.
    next: Arc<AtomicUsize>,
    count: usize,
    answered: Receiver<String>,
}

impl Asker {
    fn run(self) {
        let bed = &self.bed;
        let mut writer = bed.log.writer().unwrap();
        let mut free: VecDeque<String> = (0..KEYS)
            .map(|key| format!("F{}-{key}", self.number))
            .collect();
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.count {
                return;
            }
            free.extend(self.answered.try_iter());
            let key = free.pop_front().unwrap_or_else(|| {
                self.answered
                    .recv_timeout(DEADLINE)
                    .expect("no question of this asker is answered")
            });
            let event = json!({"n": n, "flight": key, "asker": self.number});
            // The delay's own key says nothing of the flight: it comes by another partition.
            let elsewhere = format!("d{n}");
            writer
                .write(&[bed.record("flights", &key, &event)])
                .unwrap();
            writer
                .write(&[bed.record("delays", &elsewhere, &event)])
                .unwrap();
            writer
                .write(&[bed.record("questions", &key, &event)])
                .unwrap();
        }
    }
}

/// Context events that no question is about.
fn load(bed: &Bed, stop: &AtomicBool) {
    let mut writer = bed.log.writer().unwrap();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let records: Vec<_> = (0..LOAD)
            .flat_map(|_| {
                n += 1;
                let key = format!("other-{}", n % 1_000);
                let event = json!({"n": n, "flight": key});
                ["flights", "delays"].map(|topic| bed.record(topic, &key, &event))
            })
            .collect();
        writer.write(&records).unwrap();
        thread::sleep(PACE);
    }
}

pub async fn what_was_acknowledged_before_a_question_is_in_its_answer(bed: Bed) {
    let count = std::env::var("HEADWATER_QUESTIONS").map_or(QUESTIONS, |count| {
        count.parse().expect("HEADWATER_QUESTIONS is a number")
    });
    let plan = bed.plan(&resources(AGENT));
    bed.create(&plan);
    let bed = Arc::new(bed);
    let mut stages = Vec::new();
    for view in ["flights", "late"] {
        let config = stage_of(&plan, Owner::View, view);
        stages.push(bed.started(config, 0).await);
    }
    let config = stage_of(&plan, Owner::Agent, "desk");
    for ordinal in 0..2 {
        stages.push(bed.started(config, ordinal).await);
    }
    let mut answers = bed.follow("answers");
    let stop = Arc::new(AtomicBool::new(false));
    let loading = thread::spawn({
        let (bed, stop) = (Arc::clone(&bed), Arc::clone(&stop));
        move || load(&bed, &stop)
    });
    let next = Arc::new(AtomicUsize::new(0));
    let (tell, askers): (Vec<Sender<String>>, Vec<_>) = (0..ASKERS)
        .map(|number| {
            let (sender, answered) = channel();
            let asker = Asker {
                number,
                bed: Arc::clone(&bed),
                next: Arc::clone(&next),
                count,
                answered,
            };
            (sender, thread::spawn(move || asker.run()))
        })
        .unzip();

    let begun = Instant::now();
    let mut last = Instant::now();
    let (mut seen, mut fresh) = (vec![false; count], 0);
    let mut wrong: Vec<Value> = Vec::new();
    while seen.iter().any(|seen| !seen) {
        for answer in answers.poll(Duration::from_millis(20)) {
            last = Instant::now();
            let value = answer.value;
            let n = usize::try_from(value["n"].as_u64().unwrap()).unwrap();
            assert!(!std::mem::replace(&mut seen[n], true), "{n} twice");
            let exact = |slot: &str| value[slot]["n"] == value["n"];
            if exact("flight") && exact("late") {
                fresh += 1;
            } else {
                wrong.push(value.clone());
            }
            let asker = usize::try_from(value["asker"].as_u64().unwrap()).unwrap();
            // An asker that has asked all it had to is gone.
            let _ = tell[asker].send(answer.key);
        }
        assert!(last.elapsed() < DEADLINE, "no answers any more: {fresh}");
    }
    let took = begun.elapsed();
    for asker in askers {
        asker.join().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    loading.join().unwrap();
    println!(
        "{:?}: {fresh} of {count} answered from what was just acknowledged, in {took:?}",
        bed.kind
    );
    assert!(wrong.is_empty(), "{} of {count}: {wrong:?}", wrong.len());

    // None of them waited in vain: nothing is said to be missing.
    let audits = bed.read("agent.desk.runs");
    let slots = audits
        .iter()
        .flat_map(|audit| audit.value["slots"].as_array().unwrap());
    let stale = slots.filter(|slot| slot["staleSeconds"] != 0 || slot["behind"] != json!([]));
    assert_eq!(stale.collect::<Vec<_>>(), Vec::<&Value>::new());
    for stage in stages {
        stage.end().await;
    }
}
