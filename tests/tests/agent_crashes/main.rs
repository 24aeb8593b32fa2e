//! Rounds of real faults on a real Kafka: replicas of agents, as pods run them, are killed at each step of a run and of its transaction,
//! held and stormed, answers of the broker are lost and its markers late, the broker is killed and held, while customers go on asking.
//! After each round the topics, read by a plain consumer, say of every question what they should: see [`desk::check`].
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
    reason = "a test fails by panicking, and says what it measured"
)]

#[path = "../desk/mod.rs"]
mod desk;
mod fleet;
#[path = "../naive/mod.rs"]
mod naive;
mod people;
#[path = "../rounds/mod.rs"]
mod rounds;
mod server;

use desk::check::Check;
use desk::model::Ledger;
use fleet::{Fleet, Kind};
use naive::Raw;
use people::People;
use rounds::Rounds;
use rounds::draw::{self, Draw};
use rounds::load::{Load, Sent};
use rounds::reader::{Topic, committed};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The first kinds of fault, in less than four minutes.
const ROUNDS: usize = 5;
/// Records each 20 ms; half of them are questions.
const PACE: usize = 4;
/// So long nothing may go on: sessions end, and transactions time out. How long all takes is the machine's.
const SETTLE: Duration = Duration::from_secs(90);

#[test]
fn after_each_fault_every_question_was_answered_once() {
    rounds::play("agents", ROUNDS, &Kind::ALL, |seed, folder| {
        let pace = rounds::number("HEADWATER_PACE").map_or(PACE, |pace| pace as usize);
        let ledger = Ledger::default();
        let fleet = Fleet::start(&rounds::binary(), folder, ledger.clone());
        Run::new(fleet, ledger, seed, pace)
    });
}

struct Run {
    // Before the fleet, whose broker it writes to.
    load: Load,
    /// Answer what they are asked until the end.
    _people: People,
    fleet: Fleet,
    ledger: Ledger,
    check: Check,
    /// By name without the namespace.
    topics: BTreeMap<String, Topic>,
    records: u64,
    times: rounds::Times<Kind>,
}

impl Run {
    fn new(mut fleet: Fleet, ledger: Ledger, seed: u64, pace: usize) -> Self {
        fleet.well().unwrap();
        let (bootstrap, namespace) = (fleet.bootstrap().to_owned(), fleet.namespace.clone());
        let topics = desk::topics(&namespace)
            .into_iter()
            .map(|(name, count, _)| {
                let short = name.strip_prefix(&format!("{namespace}.")).unwrap();
                (short.to_owned(), Topic::new(&bootstrap, &name, count))
            });
        Self {
            check: Check::new(&namespace, &fleet.helper(), ledger.clone()),
            topics: topics.collect(),
            load: Load::start(&bootstrap, &namespace, seed, pace, |draw, place| {
                let (source, key, value) = desk::event(draw, place.number, place.acknowledged);
                Sent { source, key, value }
            }),
            _people: People::start(&bootstrap, &namespace),
            ledger,
            records: 0,
            times: rounds::Times::new(),
            fleet,
        }
    }

    /// At rest the groups' offsets are at the ends of their topics.
    fn uncommitted(&self) -> Option<String> {
        let (namespace, bootstrap) = (&self.fleet.namespace, self.fleet.bootstrap());
        desk::GROUPS.into_iter().find_map(|(group, topic)| {
            let ends = self.topics[topic].ends();
            let count = i32::try_from(ends.len()).unwrap();
            let (full, name) = (
                format!("{namespace}.{group}"),
                format!("{namespace}.{topic}"),
            );
            match committed(bootstrap, &full, &name, count) {
                Ok(found) if found == ends => None,
                Ok(found) => Some(format!("{group} has committed {found:?} of {ends:?}")),
                Err(error) => Some(error),
            }
        })
    }
}

impl Rounds for Run {
    type Kind = Kind;

    fn round(&mut self, round: usize, kind: Kind, draw: &mut Draw) {
        let began = Instant::now();
        let (ended, records) = (self.fleet.ended_by_themselves(), self.records);
        let (cuts, (calls, again)) = (self.fleet.cuts, self.ledger.counts());
        self.load.resume();
        self.fleet.disturb(kind, draw);
        let name = format!("round {round}, {kind:?}");
        let recovery = self.fleet.well();
        let recovery = recovery.unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        let settled = self.settle(&name);
        let (calls_now, again_now) = self.ledger.counts();
        println!(
            "{name}: {} records, {} calls, {} of them again, {} cuts, ready after {:.1} s, settled {:.1} s after the load, {} replicas ended by themselves, {:.0} s in all",
            self.records - records,
            calls_now - calls,
            again_now - again,
            self.fleet.cuts - cuts,
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
        let (mut ended, mut moved) = (0, began);
        loop {
            let topics = &mut self.topics;
            let mut read = |topic: &str| -> Vec<Raw> { topics.get_mut(topic).unwrap().read() };
            let found = self
                .check
                .read(&mut read)
                .map(|missing| missing.or_else(|| self.uncommitted()));
            let logs = self.fleet.folder.display();
            let missing = found.unwrap_or_else(|wrong| panic!("{name}: {wrong}; logs in {logs}"));
            let Some(missing) = missing else { break };
            if self.check.progress() > ended {
                (ended, moved) = (self.check.progress(), Instant::now());
            }
            assert!(
                moved.elapsed() < SETTLE,
                "{name}: nothing went on for {SETTLE:?}: {missing}; logs in {logs}"
            );
            let well = self.fleet.well();
            well.unwrap_or_else(|wrong| panic!("{name}: {wrong}"));
        }
        began.elapsed()
    }

    fn report(&self) {
        self.times.report();
        let (calls, again) = self.ledger.counts();
        let (used, twice) = self.ledger.used_counts();
        println!(
            "{} records, {calls} calls of the model, {again} of them again; runs by their end: {:?}; {} needed more than one attempt, {} a repair, {} were named as stale, {} prompts were rendered again; {} runs called tools, {used} times in all, {twice} of them under a key for the second time or more, {} do not know what came of it; people approved {} calls, denied {}, and said nothing in time to {}; {} replicas ended by themselves",
            self.records,
            self.check.counts(),
            self.check.repeated,
            self.check.repaired,
            self.check.stale,
            self.check.replayed,
            self.check.called,
            self.check.unknown,
            self.check.approved,
            self.check.denied,
            self.check.expired,
            self.fleet.ended_by_themselves()
        );
    }
}
