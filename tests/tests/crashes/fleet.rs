//! The bed of all rounds: a private broker, the topics, three replicas of every view's stage, and what disturbs them.

use crate::rounds::draw::Draw;
use crate::rounds::replica::Replica;
use crate::rounds::{self, Broker, SESSION};
use crate::views::{SOURCES, View, views};
use headwater_testbed::Kafka;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const REPLICAS: usize = 3;
/// What a pod's restart may take, and reading the state, on a machine that others use too.
const WELL: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillOne,
    BrokerKilled,
    Zombie,
    KillAll,
    Storm,
    KilledInRestore,
    BrokerHeld,
    Scale,
    BrokerRestarted,
    Growth,
    BrokerAway,
}

impl Kind {
    pub const ALL: [Self; 11] = [
        Self::KillOne,
        Self::BrokerKilled,
        Self::Zombie,
        Self::KillAll,
        Self::Storm,
        Self::KilledInRestore,
        Self::BrokerHeld,
        Self::Scale,
        Self::BrokerRestarted,
        Self::Growth,
        Self::BrokerAway,
    ];
}

pub struct Fleet {
    // Before the broker, which has to outlive them.
    /// By view, then ordinal.
    pub replicas: Vec<Vec<Replica>>,
    pub kafka: Kafka,
    pub namespace: String,
    pub folder: PathBuf,
    /// Partitions by source.
    pub sources: BTreeMap<String, i32>,
}

impl Fleet {
    pub fn start(binary: &Path, folder: &Path) -> Self {
        let kafka = Kafka::private().unwrap();
        let namespace = "crashes".to_owned();
        rounds::create_topics(kafka.bootstrap(), &topics(&namespace));
        let replicas = views().into_iter().map(|view| {
            let config = view.stage(&namespace, kafka.bootstrap());
            let name = |ordinal| format!("{}-{ordinal}", view.name);
            (0..REPLICAS)
                .map(|ordinal| Replica::new(binary, folder, "view", name(ordinal), &config))
                .collect()
        });
        let mut fleet = Self {
            replicas: replicas.collect(),
            kafka,
            namespace,
            folder: folder.to_owned(),
            sources: SOURCES
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        };
        fleet.all(Replica::start);
        fleet
    }

    fn all(&mut self, mut what: impl FnMut(&mut Replica)) {
        self.replicas.iter_mut().flatten().for_each(&mut what);
    }

    /// Waits until every replica is ready and has no problem. Gives how long that took.
    pub fn well(&mut self) -> Result<Duration, String> {
        let began = Instant::now();
        loop {
            self.all(Replica::supervise);
            let unwell = self.replicas.iter().flatten().find(|it| !it.is_well());
            let Some(unwell) = unwell else {
                return Ok(began.elapsed());
            };
            if began.elapsed() > WELL {
                let status = unwell.status();
                return Err(format!(
                    "{} is not ready after {WELL:?}: {status:?}",
                    unwell.name
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn ended_by_themselves(&self) -> u32 {
        let replicas = self.replicas.iter().flatten();
        replicas.map(|replica| replica.ended_by_itself).sum()
    }

    /// One disturbance, of all views at once; over when it returns.
    pub fn disturb(&mut self, kind: Kind, draw: &mut Draw) {
        // In the middle of whatever is under way: checkpoints are up to 5 s apart.
        self.pass(Duration::from_secs(2) + draw.milliseconds(5_000));
        match kind {
            Kind::KillOne => {
                for replica in self.one_each(draw) {
                    replica.kill();
                    replica.start();
                }
            }
            Kind::KillAll => {
                self.all(Replica::kill);
                self.all(Replica::start);
            }
            Kind::Zombie => {
                let chosen: Vec<usize> = self.choose(draw);
                self.signal(&chosen, "-STOP");
                self.pass(SESSION + Duration::from_secs(5));
                self.signal(&chosen, "-CONT");
            }
            Kind::BrokerKilled => self.kill_broker(),
            Kind::BrokerRestarted => self.restart_broker(draw),
            Kind::BrokerHeld => self.hold_broker(draw),
            Kind::BrokerAway => {
                self.kafka.kill().unwrap();
                self.pass(Duration::from_secs(60));
                self.kafka.start().unwrap();
            }
            Kind::Storm => {
                for time in 0..7 {
                    for replica in self.one_each(draw) {
                        if replica.runs() {
                            replica.terminate();
                        } else {
                            replica.start();
                        }
                    }
                    // The last ones are not waited for.
                    if time < 6 {
                        self.pass(Duration::from_secs(2));
                    }
                }
                self.all(Replica::start);
            }
            Kind::Scale => {
                for view in &mut self.replicas {
                    view.iter_mut().skip(1).for_each(Replica::terminate);
                }
                self.pass(Duration::from_secs(4));
                self.all(Replica::start);
            }
            Kind::KilledInRestore => {
                let chosen = self.choose(draw);
                for _ in 0..3 {
                    for (view, ordinal) in self.replicas.iter_mut().zip(&chosen) {
                        view[*ordinal].kill();
                        view[*ordinal].start();
                    }
                    self.pass(Duration::from_millis(100) + draw.milliseconds(1_500));
                }
            }
            Kind::Growth => {
                let count = self.sources.get_mut("shipments").unwrap();
                *count += 1;
                let topic = format!("{}.shipments", self.namespace);
                let (admin, count) = (rounds::admin(self.kafka.bootstrap()), *count);
                admin.grow(&topic, count).unwrap();
                // The load finds the new partition, and writes to it.
                self.pass(Duration::from_secs(6));
            }
        }
    }

    /// An ordinal for each view.
    fn choose(&self, draw: &mut Draw) -> Vec<usize> {
        self.replicas.iter().map(|_| draw.below(REPLICAS)).collect()
    }

    fn one_each(&mut self, draw: &mut Draw) -> Vec<&mut Replica> {
        let chosen = self.choose(draw);
        let views = self.replicas.iter_mut().zip(chosen);
        views.map(|(view, ordinal)| &mut view[ordinal]).collect()
    }

    fn signal(&self, chosen: &[usize], signal: &str) {
        for (view, ordinal) in self.replicas.iter().zip(chosen) {
            view[*ordinal].signal(signal);
        }
    }
}

/// Name, partitions, and whether it is compacted.
fn topics(namespace: &str) -> Vec<(String, i32, bool)> {
    let sources = SOURCES.iter();
    let mut topics: Vec<_> = sources
        .map(|(name, count)| (format!("{namespace}.{name}"), *count, false))
        .collect();
    let of = |view: &View| {
        let mut topics = vec![
            (view.state(namespace), view.partitions(), true),
            (view.dead(namespace), 1, false),
        ];
        if let Some(count) = view.own {
            topics.push((view.input(namespace), count, false));
        }
        topics
    };
    topics.extend(views().iter().flat_map(of));
    topics
}

impl Broker for Fleet {
    fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    fn supervise(&mut self) {
        self.all(Replica::supervise);
    }
}
