//! Views that are changed while their sources, their readers and a view that joins them go on.
//!
//! The second version counts every event a thousandfold, so that a value tells by which version it was folded, and
//! one that is folded partly by each is a value of neither. Generations, topics and stages are the operator's
//! plan; readers are moved in its order: what is changed is built beside the old, readers roll one by one, then what
//! joins it is built over it, and readers roll again. No question is asked twice, none is left out, and each answer is exactly what the
//! version that its audit record names gives of the sources up to the record that it names.

use crate::bed::{Bed, DEADLINE, Follow, Running, Seen, sources, stage_of, until};
use headwater_engine::config::Stage;
use headwater_engine::names::Owner;
use headwater_engine::record::Position;
use headwater_operator::plan::Plan;
use headwater_runtime::http;
use headwater_runtime::stage::Handle;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const KEYS: usize = 5;
const REPLICAS: u32 = 2;
/// Answers that each pair of generations has to give before readers are moved on.
const EACH: usize = 60;
/// What one event counts, in the first version and in the second.
const WEIGHTS: [u64; 2] = [1, 1_000];
/// Between two records of a writer: load, and not all that the machine can do.
const PACE: Duration = Duration::from_millis(2);

fn resources(weight: u64) -> String {
    let sources = sources(&["flights", "delays", "questions", "answers"]);
    format!(
        "{sources}
---
kind: ContextView
apiVersion: headwater.dev/v1alpha1
metadata: {{name: tally}}
spec:
  from: [{{name: all, sourceRef: {{name: flights}}, value: \"{{'w': {weight}}}\"}}]
  aggregate: {{fields: [{{name: events, compute: Count}}, {{name: total, compute: Sum, of: value.w}}]}}
  serve: {{http: {{path: /tally, auth: None}}}}
---
kind: ContextView
apiVersion: headwater.dev/v1alpha1
metadata: {{name: board}}
spec:
  from:
    - {{name: schedule, sourceRef: {{name: flights}}, value: \"{{'gate': event.n * {weight}}}\"}}
    - {{name: delays, sourceRef: {{name: delays}}, value: \"{{'minutes': event.n * {weight}}}\"}}
  latest: {{merge: Fields}}
---
kind: ContextView
apiVersion: headwater.dev/v1alpha1
metadata: {{name: tickets}}
spec:
  from:
    - name: all
      sourceRef: {{name: delays}}
      joins: [{{name: tally, viewRef: {{name: tally}}, key: event.flight}}]
      value: \"{{'n': event.n, 'seen': joined.tally == null ? 0 : joined.tally.total}}\"
---
kind: Agent
apiVersion: headwater.dev/v1alpha1
metadata: {{name: desk}}
spec:
  trigger: {{sourceRef: {{name: questions}}, startFrom: Earliest}}
  context:
    - {{name: tally, viewRef: {{name: tally}}, key: event.flight}}
    - {{name: board, viewRef: {{name: board}}, key: event.flight}}
    - {{name: tickets, viewRef: {{name: tickets}}, key: event.flight}}
  freshnessWaitMilliseconds: 30000
  replicas: {REPLICAS}
  outputs:
    - {{name: answer, sourceRef: {{name: answers}}, value: \"{{'n': event.n, 'tally': context.tally, 'board': context.board, 'tickets': context.tickets}}\"}}
"
    )
}

/// What was acknowledged, by key. A source's n-th event of a key holds n, from 1.
#[derive(Default)]
struct Ledger {
    /// Offsets of the flights of a key, in their order.
    flights: BTreeMap<String, Vec<i64>>,
    /// For each delay of a key, how many of its flights were acknowledged before it was sent.
    delays: BTreeMap<String, Vec<usize>>,
    /// For each question, its key, and how many flights and delays of it were acknowledged before it was sent.
    questions: Vec<(String, usize, usize)>,
}

impl Ledger {
    fn flights(&self, key: &str) -> usize {
        self.flights.get(key).map_or(0, Vec::len)
    }

    fn delays(&self, key: &str) -> usize {
        self.delays.get(key).map_or(0, Vec::len)
    }
}

type Shared = Arc<Mutex<Ledger>>;

fn key(n: usize) -> String {
    format!("F{}", n % KEYS)
}

/// Writes flights and delays in turn, each acknowledged before the next.
fn feed(bed: &Bed, ledger: &Shared, stop: &AtomicBool) {
    let mut writer = bed.log.writer().unwrap();
    for round in 0.. {
        // Every key has some of each before anybody asks.
        if stop.load(Ordering::Relaxed) && round > 4 * KEYS {
            return;
        }
        let key = key(round / 2);
        let (n, seen) = {
            let ledger = ledger.lock().unwrap();
            (
                [ledger.flights(&key), ledger.delays(&key)][round % 2] + 1,
                ledger.flights(&key),
            )
        };
        let topic = ["flights", "delays"][round % 2];
        let event = json!({"n": n, "flight": key});
        let written = writer.write(&[bed.record(topic, &key, &event)]).unwrap();
        let mut ledger = ledger.lock().unwrap();
        if round % 2 == 0 {
            ledger.flights.entry(key).or_default().push(written[0].1);
        } else {
            ledger.delays.entry(key).or_default().push(seen);
        }
        drop(ledger);
        thread::sleep(PACE);
    }
}

fn ask(bed: &Bed, ledger: &Shared, stop: &AtomicBool) {
    let mut writer = bed.log.writer().unwrap();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = key(n);
        {
            let mut ledger = ledger.lock().unwrap();
            let (flights, delays) = (ledger.flights(&key), ledger.delays(&key));
            ledger.questions.push((key.clone(), flights, delays));
        }
        let question = json!({"n": n, "flight": key});
        let session = format!("session-{}", n % 16);
        writer
            .write(&[bed.record("questions", &session, &question)])
            .unwrap();
        thread::sleep(PACE);
    }
}

/// Rows by HTTP from whatever the view's Service leads to; counts how many answers each version gave.
async fn look(
    ledger: Shared,
    mut service: watch::Receiver<(String, usize)>,
    counts: Arc<[AtomicUsize; 2]>,
    stop: Arc<AtomicBool>,
) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (url, version) = service.borrow_and_update().clone();
        let key = key(n);
        let acknowledged = ledger.lock().unwrap().flights(&key) as u64;
        let response = client.get(format!("{url}/{key}")).send().await.unwrap();
        let stale = response.headers()["headwater-stale-ms"].clone();
        let row: Value = response.json().await.unwrap();
        let (events, total) = (number(&row["events"]), number(&row["total"]));
        assert_eq!(total, events * WEIGHTS[version], "{key}: {row}");
        assert!(stale != "0" || events >= acknowledged, "{key}: {row}");
        counts[version].fetch_add(1, Ordering::Relaxed);
    }
}

/// Follows the audit, until these generations of `tally` and `tickets` have answered often enough, and by HTTP too.
async fn answered(
    follow: &mut Follow,
    audits: &mut Vec<Seen>,
    generations: [&str; 2],
    looked: &AtomicUsize,
) {
    let begun = Instant::now();
    let by = |audit: &Value| {
        let of = |view: &str| slot(audit, view)["generation"].as_str().unwrap().to_owned();
        [of("tally"), of("tickets")] == generations
    };
    let mut count = 0;
    let before = looked.load(Ordering::Relaxed);
    while count < EACH || looked.load(Ordering::Relaxed) - before < EACH {
        let new = follow.poll(Duration::from_millis(20));
        count += new.iter().filter(|seen| by(&seen.value)).count();
        audits.extend(new);
        assert!(begun.elapsed() < DEADLINE, "{count} answers");
        tokio::task::yield_now().await;
    }
    println!("{generations:?}: {count} answers in {:?}", begun.elapsed());
}

/// As a StatefulSet rolls its pods: the last first, and each ready before the next one ends.
async fn roll(bed: &Bed, pods: &mut [Option<Running>], config: &Stage) {
    for ordinal in (0..REPLICAS).rev() {
        let pod = &mut pods[ordinal as usize];
        pod.take().unwrap().end().await;
        *pod = Some(bed.started(config, ordinal).await);
    }
}

async fn serve(pod: &Running, shutdown: &CancellationToken) -> String {
    let router = pod.handle.rows().unwrap().router();
    let address = "127.0.0.1:0".parse().unwrap();
    let served = http::serve(address, router, shutdown.clone()).await;
    format!("http://{}/tally", served.unwrap().0)
}

fn slot<'a>(audit: &'a Value, name: &str) -> &'a Value {
    let mut slots = audit["slots"].as_array().unwrap().iter();
    slots.find(|slot| slot["slot"] == name).unwrap()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

fn generation<'a>(plan: &'a Plan, view: &str) -> &'a str {
    &stage_of(plan, Owner::View, view).views[view].generation
}

pub async fn a_view_changed_under_load_shows_what_one_of_its_versions_gives(bed: Bed) {
    let plans = WEIGHTS.map(|weight| bed.plan(&resources(weight)));
    let view = |version: usize, name: &str| stage_of(&plans[version], Owner::View, name);
    let agent = |version: usize| stage_of(&plans[version], Owner::Agent, "desk");
    bed.create(&plans[0]);
    let bed = Arc::new(bed);
    let ledger = Shared::default();
    let stop = Arc::new(AtomicBool::new(false));
    let load = |work: fn(&Bed, &Shared, &AtomicBool)| {
        let (bed, ledger, stop) = (Arc::clone(&bed), Arc::clone(&ledger), Arc::clone(&stop));
        thread::spawn(move || work(&bed, &ledger, &stop))
    };
    let feeding = load(feed);
    while ledger.lock().unwrap().delays.values().flatten().count() < 2 * KEYS {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let asking = load(ask);

    let tally = bed.started(view(0, "tally"), 0).await;
    let board = bed.started(view(0, "board"), 0).await;
    let tickets = bed.started(view(0, "tickets"), 0).await;
    let mut pods = Vec::new();
    for ordinal in 0..REPLICAS {
        pods.push(Some(bed.started(agent(0), ordinal).await));
    }
    let shutdown = CancellationToken::new();
    let (service, served) = watch::channel((serve(&tally, &shutdown).await, 0));
    let looked: Arc<[AtomicUsize; 2]> = Arc::default();
    let looking = tokio::spawn(look(
        Arc::clone(&ledger),
        served,
        Arc::clone(&looked),
        Arc::clone(&stop),
    ));
    let (mut runs, mut audits) = (bed.follow("agent.desk.runs"), Vec::new());
    let old = [
        generation(&plans[0], "tally"),
        generation(&plans[0], "tickets"),
    ];
    answered(&mut runs, &mut audits, old, &looked[0]).await;

    // The other version is built beside; then its readers move, but for what joins it.
    bed.create(&plans[1]);
    let new_tally = bed.started(view(1, "tally"), 0).await;
    let new_board = bed.started(view(1, "board"), 0).await;
    service
        .send((serve(&new_tally, &shutdown).await, 1))
        .unwrap();
    let mut between = agent(1).clone();
    let former = agent(0).views["tickets"].clone();
    between.views.insert("tickets".to_owned(), former);
    let new_tickets = bed.start(view(1, "tickets"), 0);
    roll(&bed, &mut pods, &between).await;
    board.end().await;
    let new = [
        generation(&plans[1], "tally"),
        generation(&plans[1], "tickets"),
    ];
    answered(&mut runs, &mut audits, [new[0], old[1]], &looked[1]).await;

    until("ready", &new_tickets, Handle::is_ready).await;
    roll(&bed, &mut pods, agent(1)).await;
    tickets.end().await;
    tally.end().await;
    answered(&mut runs, &mut audits, new, &looked[1]).await;

    stop.store(true, Ordering::Relaxed);
    feeding.join().unwrap();
    asking.join().unwrap();
    looking.await.unwrap();
    let asked = ledger.lock().unwrap().questions.len();
    let begun = Instant::now();
    while audits.len() < asked {
        audits.extend(runs.poll(Duration::from_millis(100)));
        assert!(begun.elapsed() < DEADLINE, "{} of {asked}", audits.len());
    }
    check(&bed, &ledger.lock().unwrap(), &audits, &plans);
    println!("{:?}: {asked} answers, {looked:?} by HTTP", bed.kind);
    shutdown.cancel();
    for running in [new_tally, new_board, new_tickets] {
        running.end().await;
    }
    for pod in pods.into_iter().flatten() {
        pod.end().await;
    }
}

/// Each question was answered once, with what its audit record says, and that is what one version gives.
fn check(bed: &Bed, ledger: &Ledger, audits: &[Seen], plans: &[Plan; 2]) {
    let by_run: BTreeMap<&str, &Value> = audits
        .iter()
        .map(|audit| (audit.key.as_str(), &audit.value))
        .collect();
    let answers = bed.read("answers");
    let asked = ledger.questions.len();
    assert_eq!(
        (answers.len(), audits.len(), by_run.len()),
        (asked, asked, asked)
    );
    let mut seen = vec![false; asked];
    for answer in &answers {
        let audit = by_run[answer.headers["headwater-run"].as_str()];
        let n = usize::try_from(number(&answer.value["n"])).unwrap();
        assert!(
            !std::mem::replace(&mut seen[n], true),
            "{n} was answered twice"
        );
        let weight = |view: &str| {
            let slot = slot(audit, view);
            assert_eq!(slot["staleSeconds"], 0, "{slot}");
            let version = plans
                .iter()
                .position(|plan| slot["generation"] == generation(plan, view));
            WEIGHTS[version.unwrap()]
        };
        let (key, flights, delays) = &ledger.questions[n];
        let of = |view: &str, field: &str| number(&answer.value[view][field]);

        let position = slot(audit, "tally")["rows"][0]["position"]
            .as_str()
            .unwrap();
        let position: Position = position.parse().unwrap();
        let offsets = &ledger.flights[key];
        let folded = offsets.partition_point(|offset| *offset <= position.offset);
        let expected = json!({"events": folded, "total": folded as u64 * weight("tally")});
        assert_eq!(answer.value["tally"], expected, "question {n}");
        assert!(folded >= *flights, "question {n}: {folded} of {flights}");

        // The newest event of each source, as the version gives it, and no older than what was acknowledged.
        for (field, least, all) in [
            ("gate", *flights, ledger.flights(key)),
            ("minutes", *delays, ledger.delays(key)),
        ] {
            let value = of("board", field);
            let event = value / weight("board");
            assert_eq!(value, event * weight("board"), "question {n}: {field}");
            assert!(
                (least as u64..=all as u64).contains(&event),
                "question {n}: {field} {event}"
            );
        }

        // As the joined version gives it of the flights that were acknowledged before the delay, or more.
        let delay = usize::try_from(of("tickets", "n")).unwrap();
        assert!(delay >= *delays, "question {n}");
        let seen = of("tickets", "seen");
        let events = seen / weight("tickets");
        assert_eq!(seen, events * weight("tickets"), "question {n}: tickets");
        let least = ledger.delays[key][delay - 1] as u64;
        assert!(
            (least..=offsets.len() as u64).contains(&events),
            "question {n}: {events}"
        );
    }
}
