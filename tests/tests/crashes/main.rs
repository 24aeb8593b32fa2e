//! Rounds of real faults on a real Kafka: replicas of view stages, as pods run them, and the broker are killed, held, scaled and stormed
//! while applications go on writing. After each round the topics, read by a plain consumer, equal a naive fold of the sources.
//!
//! A few rounds by default. `HEADWATER_ROUNDS=50` asks for more: first one of each kind, then as the seed draws. `HEADWATER_SEED` repeats
//! a run's draws, `HEADWATER_KINDS=Zombie,Storm` bounds them, and `HEADWATER_BINARY` names the binary under test. Logs of the replicas
//! stay in the folder that is printed, where a round fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test fails by panicking, and says what it measured"
)]

mod check;
mod events;
mod fleet;
#[path = "../naive/mod.rs"]
mod naive;
#[path = "../rounds/mod.rs"]
mod rounds;
mod views;

use check::ViewCheck;
use fleet::{Fleet, Kind};
use rounds::Rounds;
use rounds::draw::Draw;
use rounds::load::Load;
use rounds::reader::Topic;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The first kinds of fault, in less than three minutes.
const ROUNDS: usize = 6;
/// Sessions end, transactions time out, a checkpoint is due: 10 s, 10 s and 5 s.
const SETTLE: Duration = Duration::from_secs(90);

#[test]
fn after_each_fault_the_topics_hold_the_fold_of_the_sources() {
    rounds::play("crashes", ROUNDS, &Kind::ALL, |seed, folder| {
        Run::new(Fleet::start(&rounds::binary(), folder), seed)
    });
}

struct Run {
    // Before the fleet, whose broker it writes to.
    load: Load,
    fleet: Fleet,
    checks: Vec<ViewCheck>,
    sources: Vec<(String, Topic)>,
    records: u64,
    times: rounds::Times<Kind>,
}

impl Run {
    fn new(mut fleet: Fleet, seed: u64) -> Self {
        let bootstrap = fleet.kafka.bootstrap().to_owned();
        fleet.well().unwrap();
        let checks = views::views();
        let sources = fleet.sources.iter().map(|(name, count)| {
            let topic = format!("{}.{name}", fleet.namespace);
            (name.clone(), Topic::new(&bootstrap, &topic, *count))
        });
        Self {
            load: Load::start(
                &bootstrap,
                &fleet.namespace,
                seed,
                events::PACE,
                events::next,
            ),
            checks: checks
                .into_iter()
                .map(|view| ViewCheck::new(view, &bootstrap, &fleet.namespace))
                .collect(),
            sources: sources.collect(),
            records: 0,
            times: rounds::Times::new(),
            fleet,
        }
    }
}

impl Rounds for Run {
    type Kind = Kind;

    fn round(&mut self, round: usize, kind: Kind, draw: &mut Draw) {
        let began = Instant::now();
        let (ended, before) = (self.fleet.ended_by_themselves(), self.records);
        self.load.resume();
        self.fleet.disturb(kind, draw);
        let name = format!("round {round}, {kind:?}");
        let recovery = self.fleet.well();
        let recovery = recovery.unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        let settled = self.settle(&name);
        println!(
            "{name}: {} records, ready after {:.1} s, settled {:.1} s after the load, {} replicas ended by themselves, {:.0} s in all",
            self.records - before,
            recovery.as_secs_f64(),
            settled.as_secs_f64(),
            self.fleet.ended_by_themselves() - ended,
            began.elapsed().as_secs_f64(),
        );
        self.times.add(kind, recovery, settled);
    }

    /// Pauses the load, and waits until every topic says what it should. Panics where one says what it should not.
    fn settle(&mut self, name: &str) -> Duration {
        self.records = self.load.pause();
        let began = Instant::now();
        let mut ends = BTreeMap::new();
        let mut read = 0;
        for (source, topic) in &mut self.sources {
            let count = self.fleet.sources[source.as_str()];
            if topic.ends().len() != count as usize {
                topic.grow(count);
            }
            let records = topic.read();
            read += records.len();
            for check in &mut self.checks {
                check.source(source, &records);
            }
            ends.insert(source.clone(), topic.ends());
        }
        let all: i64 = ends.values().flatten().sum();
        assert_eq!(
            all as u64, self.records,
            "{name}: records of the load in the sources"
        );
        assert!(read > 0, "{name}: nothing was written");
        loop {
            let mut missing = None;
            for check in &mut self.checks {
                let found = check.read(&ends).unwrap_or_else(|wrong| {
                    panic!(
                        "{name}: view {}: {wrong}; logs in {}",
                        check.view.name,
                        self.fleet.folder.display()
                    )
                });
                missing = missing.or(found.map(|it| format!("view {}: {it}", check.view.name)));
            }
            let Some(missing) = missing else { break };
            assert!(
                began.elapsed() < SETTLE,
                "{name}: after {SETTLE:?}: {missing}; logs in {}",
                self.fleet.folder.display()
            );
            self.fleet
                .well()
                .unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        }
        began.elapsed()
    }

    fn report(&self) {
        self.times.report();
        println!(
            "{} records, {} replicas ended by themselves",
            self.records,
            self.fleet.ended_by_themselves()
        );
    }
}
