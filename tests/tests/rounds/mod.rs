//! What rounds of real faults on a real Kafka share: replicas as pods run them, a proxy that cuts in at a request, a load that does
//! not let up, a plain reader, and the figures at the end.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "shared by test binaries, which use parts of it; a test fails by panicking, and says what it measured"
)]

pub mod draw;
pub mod load;
pub mod proxy;
pub mod reader;
pub mod replica;

use draw::Draw;
use headwater_kafka::Settings;
use headwater_kafka::admin::{Admin, NewTopic};
use headwater_testbed::Kafka;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ASK: Duration = Duration::from_secs(20);

/// One round after the other.
pub trait Rounds {
    type Kind: Copy + Debug;

    /// Waits until every topic says what it should. Panics where one says what it should not.
    fn settle(&mut self, name: &str) -> Duration;
    /// Disturbs everything in this way, and waits until it has settled.
    fn round(&mut self, round: usize, kind: Self::Kind, draw: &mut Draw);
    fn report(&self);
}

/// As many rounds as `HEADWATER_ROUNDS` says, else `count`: first one of each kind, then as the seed draws. `begin` gets the seed,
/// and the folder for the logs of the replicas, named after `what`, which stays where a round fails.
pub fn play<R: Rounds>(
    what: &str,
    count: usize,
    all: &[R::Kind],
    begin: impl FnOnce(u64, &Path) -> R,
) {
    let rounds = number("HEADWATER_ROUNDS").map_or(count, |rounds| rounds as usize);
    let seed = seed();
    let kinds = kinds(all);
    let folder = std::env::temp_dir().join(format!("headwater-{what}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    println!("seed {seed}, {rounds} rounds, logs in {}", folder.display());

    let mut draw = Draw::new(seed);
    let mut run = begin(seed, &folder);
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

/// How long a member may be silent.
pub const SESSION: Duration = Duration::from_secs(10);

/// Faults of the broker, for whoever has processes on it.
pub trait Broker {
    fn kafka(&self) -> &Kafka;

    /// Starts again what has ended.
    fn supervise(&mut self);

    /// Lets time pass, and starts again what ends meanwhile.
    fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.supervise();
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill_broker(&mut self) {
        self.kafka().kill().unwrap();
        self.kafka().start().unwrap();
    }

    fn restart_broker(&mut self, draw: &mut Draw) {
        self.kafka().stop().unwrap();
        self.pass(draw.milliseconds(3_000));
        self.kafka().start().unwrap();
    }

    /// Longer than a transaction may stay open, and than a session.
    fn hold_broker(&mut self, draw: &mut Draw) {
        self.kafka().pause().unwrap();
        self.pass(SESSION + Duration::from_secs(3) + draw.milliseconds(4_000));
        self.kafka().resume().unwrap();
    }
}

/// A number that the environment gives.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `HEADWATER_SEED`, else one that no run had before.
pub fn seed() -> u64 {
    number("HEADWATER_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    })
}

/// Those that `HEADWATER_KINDS` names, or all.
pub fn kinds<K: Copy + Debug>(all: &[K]) -> Vec<K> {
    let Ok(named) = std::env::var("HEADWATER_KINDS") else {
        return all.to_vec();
    };
    let find = |name: &str| {
        let found = all.iter().find(|kind| format!("{kind:?}") == name);
        *found.unwrap_or_else(|| panic!("no kind of fault '{name}'"))
    };
    named.split(',').map(find).collect()
}

/// `HEADWATER_BINARY`, else built now.
pub fn binary() -> PathBuf {
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

pub fn admin(bootstrap: &str) -> Admin {
    let settings = Settings {
        bootstrap_servers: vec![bootstrap.to_owned()],
        client_id: "crashes".to_owned(),
        ..Settings::default()
    };
    Admin::new(&settings, ASK).unwrap()
}

/// Name, partitions, and whether it is compacted.
pub fn create_topics(bootstrap: &str, topics: &[(String, i32, bool)]) {
    let topic = |(name, partitions, compacted): &(String, i32, bool)| NewTopic {
        name: name.clone(),
        partitions: Some(*partitions),
        replication_factor: Some(1),
        config: BTreeMap::from([
            (
                "cleanup.policy".to_owned(),
                if *compacted { "compact" } else { "delete" }.to_owned(),
            ),
            (
                "message.timestamp.type".to_owned(),
                // As the operator has it: what is in time is the log's to say.
                if name.ends_with(".approvals") {
                    "LogAppendTime"
                } else {
                    "CreateTime"
                }
                .to_owned(),
            ),
        ]),
    };
    let topics: Vec<NewTopic> = topics.iter().map(topic).collect();
    for created in admin(bootstrap).create(&topics).unwrap() {
        created.unwrap();
    }
}

/// By kind: until every replica was ready, and from the end of the load until every topic said what it should.
pub struct Times<K>(BTreeMap<K, Vec<(Duration, Duration)>>);

impl<K: Copy + Debug + Ord> Times<K> {
    pub fn new() -> Self {
        Self(BTreeMap::new())
    }

    pub fn add(&mut self, kind: K, recovery: Duration, settled: Duration) {
        self.0.entry(kind).or_default().push((recovery, settled));
    }

    pub fn report(&self) {
        let show = |what: &str, mut times: Vec<Duration>| {
            times.sort();
            let (p50, max) = (times.get(times.len() / 2), times.last());
            let (p50, max) = (p50.unwrap().as_secs_f64(), max.unwrap().as_secs_f64());
            format!("{what} p50 {p50:.1} s, at most {max:.1} s")
        };
        let all: Vec<_> = self.0.values().flatten().copied().collect();
        let kinds = self.0.iter();
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
    }
}
