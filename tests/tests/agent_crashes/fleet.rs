//! The bed of all rounds: a private broker behind a proxy, the topics, the desk's stages as pods run them, and what disturbs them.

use crate::desk;
use crate::rounds::draw::Draw;
use crate::rounds::proxy::{Act, Moment, Proxy, Request, Rule};
use crate::rounds::replica::Replica;
use crate::rounds::{self, Broker, SESSION};
use crate::server::{self, Server};
use headwater_testbed::Kafka;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Of `helper`, which is disturbed; they come first.
const HELPERS: usize = 3;
const ARCHIVES: usize = 1;
const CALLERS: usize = 2;
const AGENTS: usize = HELPERS + ARCHIVES + CALLERS;
/// What a pod's restart may take, and reading the state, on a machine that others use too.
const WELL: Duration = Duration::from_secs(60);
/// Until a step is seen: a partition that was taken from one who died comes back only after its session.
const STEP: Duration = Duration::from_secs(25);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    AtEachStep,
    RepliesLost,
    Zombie,
    BrokerKilled,
    Storm,
    MarkersLate,
    KillAll,
    BrokerRestarted,
    KilledInTakeover,
    BrokerHeld,
    Scale,
    KillOne,
}

impl Kind {
    pub const ALL: [Self; 12] = [
        Self::AtEachStep,
        Self::RepliesLost,
        Self::Zombie,
        Self::BrokerKilled,
        Self::Storm,
        Self::MarkersLate,
        Self::KillAll,
        Self::BrokerRestarted,
        Self::KilledInTakeover,
        Self::BrokerHeld,
        Self::Scale,
        Self::KillOne,
    ];
}

/// The steps of a transaction, as the broker sees them.
const STEPS: [Request; 5] = [
    Request::AddPartitionsToTxn,
    Request::Produce,
    Request::AddOffsetsToTxn,
    Request::TxnOffsetCommit,
    Request::EndTxn,
];

pub struct Fleet {
    // Before the broker, which has to outlive them.
    pub replicas: Vec<Replica>,
    pub kafka: Kafka,
    proxy: Proxy,
    server: Server,
    pub namespace: String,
    pub folder: PathBuf,
    /// By what was to happen in a round: how often it did.
    pub cuts: u32,
}

impl Fleet {
    pub fn start(binary: &Path, folder: &Path, ledger: desk::model::Ledger) -> Self {
        let proxy = Proxy::listen();
        let kafka = Kafka::private_behind(proxy.address()).unwrap();
        proxy.forward_to(kafka.bootstrap());
        let namespace = "desk".to_owned();
        rounds::create_topics(proxy.address(), &desk::topics(&namespace));
        let server = Server::start(ledger);
        let broker = json!({"bootstrapServers": [proxy.address()]});
        let mut replicas = Vec::new();
        let mut add = |command, name: String, config: &serde_json::Value| {
            let on_start = server.born(&name);
            let mut replica = Replica::new(binary, folder, command, name, config);
            replica.on_start = Box::new(on_start);
            replicas.push(replica);
        };
        for ordinal in 0..HELPERS {
            let name = format!("helper-{ordinal}");
            let (model, tools) = (server.provider(&name), server.tools(&name));
            let config = desk::helper(&namespace, &broker, &model, &tools);
            add("agent", name, &config);
        }
        for ordinal in 0..ARCHIVES {
            let config = desk::archive(&namespace, &broker);
            add("agent", format!("archive-{ordinal}"), &config);
        }
        for ordinal in 0..CALLERS {
            let config = desk::caller(&namespace, &broker);
            add("agent", format!("caller-{ordinal}"), &config);
        }
        for view in desk::VIEWS {
            let config = desk::view(&namespace, &broker, view);
            add("view", format!("{view}-0"), &config);
        }
        let mut fleet = Self {
            replicas,
            kafka,
            proxy,
            server,
            namespace,
            folder: folder.to_owned(),
            cuts: 0,
        };
        fleet.all(Replica::start);
        fleet
    }

    /// Of the agent `helper`, as one replica has it.
    pub fn helper(&self) -> serde_json::Value {
        let name = &self.replicas[0].name;
        let (model, tools) = (self.server.provider(name), self.server.tools(name));
        desk::helper(&self.namespace, &json!({}), &model, &tools)
    }

    pub fn bootstrap(&self) -> &str {
        self.proxy.address()
    }

    fn all(&mut self, what: impl FnMut(&mut Replica)) {
        self.replicas.iter_mut().for_each(what);
    }

    /// Waits until every replica is ready and has no problem. Gives how long that took.
    pub fn well(&mut self) -> Result<Duration, String> {
        let began = Instant::now();
        loop {
            self.all(Replica::supervise);
            let Some(unwell) = self.replicas.iter().find(|it| !it.is_well()) else {
                return Ok(began.elapsed());
            };
            if began.elapsed() > WELL {
                let (name, status) = (&unwell.name, unwell.status());
                return Err(format!("{name} is not ready after {WELL:?}: {status:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn ended_by_themselves(&self) -> u32 {
        self.replicas.iter().map(|it| it.ended_by_itself).sum()
    }

    /// One disturbance; over when it returns.
    pub fn disturb(&mut self, kind: Kind, draw: &mut Draw) {
        // In the middle of whatever is under way.
        self.pass(Duration::from_secs(1) + draw.milliseconds(2_000));
        match kind {
            Kind::AtEachStep => self.at_each_step(draw),
            Kind::RepliesLost => self.replies_lost(draw),
            Kind::MarkersLate => self.markers_late(),
            Kind::KilledInTakeover => self.killed_in_takeover(draw),
            Kind::KillOne => {
                let place = draw.below(self.replicas.len());
                self.again(place);
            }
            Kind::KillAll => {
                self.all(Replica::kill);
                self.all(Replica::start);
            }
            Kind::Zombie => {
                let chosen = [draw.below(HELPERS), AGENTS - 1 - draw.below(CALLERS)];
                chosen
                    .iter()
                    .for_each(|place| self.replicas[*place].signal("-STOP"));
                self.pass(SESSION + Duration::from_secs(5));
                chosen
                    .iter()
                    .for_each(|place| self.replicas[*place].signal("-CONT"));
            }
            Kind::BrokerKilled => self.kill_broker(),
            Kind::BrokerRestarted => self.restart_broker(draw),
            Kind::BrokerHeld => self.hold_broker(draw),
            Kind::Storm => {
                for _ in 0..7 {
                    let place = draw.below(AGENTS);
                    let replica = &mut self.replicas[place];
                    if replica.runs() {
                        replica.terminate();
                    } else {
                        replica.start();
                    }
                    self.pass(Duration::from_millis(500) + draw.milliseconds(2_000));
                }
                self.all(Replica::start);
            }
            Kind::Scale => {
                let helpers = &mut self.replicas[..HELPERS];
                helpers.iter_mut().skip(1).for_each(Replica::terminate);
                self.pass(Duration::from_secs(4));
                self.all(Replica::start);
            }
        }
    }

    /// Kills a replica and starts it.
    fn again(&mut self, place: usize) {
        self.replicas[place].kill();
        self.replicas[place].start();
    }

    /// Kills a replica of `helper` at each step of its runs and their transactions.
    fn at_each_step(&mut self, draw: &mut Draw) {
        let moments = [
            server::Moment::Asked,
            server::Moment::Answered,
            server::Moment::AskedAgain,
            server::Moment::Called,
            server::Moment::Gave,
        ];
        for moment in moments {
            let place = draw.below(HELPERS);
            self.pass_until_it_runs(place);
            let replica = &self.replicas[place];
            let process = replica.process().unwrap();
            let sprung = self.server.kill_at(&replica.name, process, moment, STEP);
            assert!(sprung, "{}: no {moment:?} in {STEP:?}", replica.name);
            self.cuts += 1;
            self.again(place);
        }
        for request in STEPS {
            for moment in [Moment::Before, Moment::Answered] {
                let place = draw.below(HELPERS);
                self.pass_until_it_runs(place);
                let process = self.replicas[place].process().unwrap();
                self.step(place, request, moment, Act::Kill(process));
                self.again(place);
            }
        }
    }

    /// Cuts connections at the steps of transactions, so that it is not known whether they took place.
    fn replies_lost(&mut self, draw: &mut Draw) {
        for request in STEPS.into_iter().chain([Request::EndTxn; 4]) {
            for moment in [Moment::Before, Moment::Answered] {
                let place = draw.below(HELPERS);
                self.pass_until_it_runs(place);
                self.step(place, request, moment, Act::Cut);
                self.pass(Duration::from_millis(200));
            }
        }
    }

    /// Lets something happen at a step, and waits until it did.
    fn step(&mut self, place: usize, request: Request, moment: Moment, act: Act) {
        let rule = Rule {
            client: format!("{}.agent.helper.{place}", self.namespace),
            request,
            moment,
            act,
        };
        let set = self.proxy.set(rule.clone(), 1);
        assert!(set.obeyed(STEP), "no such request in {STEP:?}: {rule:?}");
        self.cuts += 1;
    }

    /// The markers of transactions reach their partitions long after the commit's return.
    fn markers_late(&mut self) {
        for (time, times) in [(400, 20), (2_000, 3), (5_000, 1)] {
            let rule = Rule {
                client: String::new(),
                request: Request::WriteTxnMarkers,
                moment: Moment::Before,
                act: Act::Hold(Duration::from_millis(time)),
            };
            let set = self.proxy.set(rule, times);
            self.pass(Duration::from_secs(8));
            assert!(set.count() > 0, "no markers were written");
            self.cuts += set.count();
        }
    }

    /// Kills a replica as it opens its transactional id, and as it asks where its partitions go on.
    fn killed_in_takeover(&mut self, draw: &mut Draw) {
        for request in [Request::InitProducerId, Request::OffsetFetch] {
            for moment in [Moment::Before, Moment::Answered] {
                let place = draw.below(HELPERS);
                self.again(place);
                let process = self.replicas[place].process().unwrap();
                self.step(place, request, moment, Act::Kill(process));
                self.again(place);
                self.pass(Duration::from_millis(draw.below(800) as u64));
            }
        }
    }

    /// Until a replica has partitions, and so something to do.
    fn pass_until_it_runs(&mut self, place: usize) {
        let deadline = Instant::now() + WELL;
        while !self.replicas[place].is_well() {
            assert!(
                Instant::now() < deadline,
                "{} is not ready",
                self.replicas[place].name
            );
            self.pass(Duration::from_millis(50));
        }
    }
}

impl Broker for Fleet {
    fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    fn supervise(&mut self) {
        self.all(Replica::supervise);
    }
}
