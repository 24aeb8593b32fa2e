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
mod draw;
mod fleet;
mod load;
#[path = "../naive/mod.rs"]
mod naive;
mod reader;
mod replica;
mod views;

use check::ViewCheck;
use draw::Draw;
use fleet::{Fleet, Kind};
use load::Load;
use reader::Topic;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The first kinds of fault, in less than three minutes.
const ROUNDS: usize = 6;
/// Sessions end, transactions time out, a checkpoint is due: 10 s, 10 s and 5 s.
const SETTLE: Duration = Duration::from_secs(90);

#[test]
fn after_each_fault_the_topics_hold_the_fold_of_the_sources() {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let rounds = number("HEADWATER_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    let seed = number("HEADWATER_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    });
    let kinds = kinds();
    let folder = std::env::temp_dir().join(format!("headwater-crashes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    println!("seed {seed}, {rounds} rounds, logs in {}", folder.display());

    let mut draw = Draw::new(seed);
    let fleet = Fleet::start(&binary(), &folder);
    let mut run = Run::new(fleet, seed);
    run.settle("at the beginning");
    for round in 0..rounds {
        let kind = match kinds.get(round) {
            Some(kind) => *kind,
            None => kinds[draw.below(kinds.len())],
        };
        run.round(round, kind, &mut draw);
    }
    run.report();
    std::fs::remove_dir_all(&folder).unwrap();
}

struct Run {
    // Before the fleet, whose broker it writes to.
    load: Load,
    fleet: Fleet,
    checks: Vec<ViewCheck>,
    sources: Vec<(String, Topic)>,
    records: u64,
    /// By kind: until every replica was ready, and from the end of the load until every topic said what it should.
    times: BTreeMap<Kind, Vec<(Duration, Duration)>>,
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
            load: Load::start(&bootstrap, &fleet.namespace, seed),
            checks: checks
                .into_iter()
                .map(|view| ViewCheck::new(view, &bootstrap, &fleet.namespace))
                .collect(),
            sources: sources.collect(),
            records: 0,
            times: BTreeMap::new(),
            fleet,
        }
    }

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
        let times = self.times.entry(kind).or_default();
        times.push((recovery, settled));
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
        let show = |what: &str, mut times: Vec<Duration>| {
            times.sort();
            let (p50, max) = (times.get(times.len() / 2), times.last());
            let (p50, max) = (p50.unwrap().as_secs_f64(), max.unwrap().as_secs_f64());
            format!("{what} p50 {p50:.1} s, at most {max:.1} s")
        };
        let all: Vec<_> = self.times.values().flatten().copied().collect();
        let kinds = self.times.iter();
        let mut lines: Vec<_> = kinds
            .map(|(kind, times)| (format!("{kind:?}"), times.clone()))
            .collect();
        lines.push(("in all".to_owned(), all));
        for (name, times) in lines {
            let (ready, settled) = times.iter().copied().unzip();
            println!(
                "{name}: {} rounds, {}, {}",
                times.len(),
                show("ready after", ready),
                show("settled after", settled)
            );
        }
        println!(
            "{} records, {} replicas ended by themselves",
            self.records,
            self.fleet.ended_by_themselves()
        );
    }
}

/// Those that `HEADWATER_KINDS` names, or all.
fn kinds() -> Vec<Kind> {
    let Ok(named) = std::env::var("HEADWATER_KINDS") else {
        return Kind::ALL.to_vec();
    };
    let find = |name: &str| {
        let found = Kind::ALL
            .into_iter()
            .find(|kind| format!("{kind:?}") == name);
        found.unwrap_or_else(|| panic!("no kind of fault '{name}'"))
    };
    named.split(',').map(find).collect()
}

/// `HEADWATER_BINARY`, else built now.
fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("HEADWATER_BINARY") {
        return binary.into();
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "-p", "headwater-cli"])
        .current_dir(&root)
        .status()
        .unwrap();
    assert!(built.success(), "headwater does not build");
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), PathBuf::from)
        .join("debug/headwater")
}
