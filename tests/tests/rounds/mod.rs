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

use headwater_kafka::Settings;
use headwater_kafka::admin::{Admin, NewTopic};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const ASK: Duration = Duration::from_secs(20);

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
        config: BTreeMap::from([(
            "cleanup.policy".to_owned(),
            if *compacted { "compact" } else { "delete" }.to_owned(),
        )]),
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
