//! Replicas of view stages on a memory log with everything going wrong that may, by a seed; and then the same comparison as ever.
//!
//! To be survived, in any order and at any call: the death of a process, with a transaction open or committed unknown to it; a
//! process that stands still while its session ends, and comes back; two processes under one id; replicas added and taken away;
//! requests without answer, aborts, commits of unknown outcome; markers and offsets that come late; foreign transactions that are
//! held open, or aborted. The log's clock runs fast, so that sessions and transactions time out within a run.

use crate::catalogue::{self, ViewSpec};
use crate::chaos::{self, Chaos, Fates, Process};
use crate::compare::Compared;
use crate::events::Draw;
use crate::folds::{self, Kind};
use crate::records;
use crate::world::{DEADLINE, World};
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_runtime::backoff::Random;
use headwater_runtime::clock::Clock;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::stage::{self, Handle, Phase, Problem, Services};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const REPLICAS: u32 = 3;
/// How much faster the log's clock runs.
const PACE: i64 = 20;
/// The latest that a marker lands after the decision, by the log's clock.
const MARKER_MS: u64 = 2_000;
const CHECKPOINT_EVERY: Duration = Duration::from_millis(8);

struct Fast {
    base: i64,
    begun: Instant,
}

impl Clock for Fast {
    fn now_ms(&self) -> i64 {
        self.base + self.begun.elapsed().as_millis() as i64 * PACE
    }
}

struct Running {
    handle: Handle,
    process: Arc<Process>,
    token: CancellationToken,
}

impl Running {
    async fn crash(self) {
        self.process.kill();
        self.handle.crash().await;
    }
}

/// The places where replicas run; one that is empty is down.
struct Fleet<'a> {
    world: &'a World,
    memory: &'a Memory,
    views: &'a [ViewSpec],
    seed: u64,
    started: u64,
    calm: Arc<AtomicBool>,
    fates: Arc<Fates>,
    places: Vec<Option<Running>>,
    /// Those that are started again when they end.
    wanted: Vec<usize>,
    /// Whose id somebody else has by now.
    zombies: Vec<Running>,
}

impl Fleet<'_> {
    fn start(&mut self, place: usize) {
        self.started += 1;
        let seed = self
            .seed
            .wrapping_mul(0x9e37_79b9)
            .wrapping_add(self.started);
        let process = Process::new(self.memory, seed, &self.calm, &self.fates);
        let token = CancellationToken::new();
        let services = Services {
            shutdown: token.clone(),
            checkpoint_every: CHECKPOINT_EVERY,
            ..Services::new(Arc::new(Chaos::new(&process)))
        };
        let view = &self.views[place / REPLICAS as usize];
        let ordinal = place as u32 % REPLICAS;
        let running = Running {
            handle: self.world.start(view, ordinal, services),
            process,
            token,
        };
        self.zombies.extend(self.places[place].replace(running));
    }

    /// Takes away those that died or ended.
    async fn bury(&mut self) {
        for place in &mut self.places {
            let gone = place.as_ref().is_some_and(|it| {
                it.process.is_dead()
                    || matches!(it.handle.status().phase, Phase::Failed | Phase::Stopped)
            });
            if gone && let Some(it) = place.take() {
                it.crash().await;
            }
        }
    }

    async fn act(&mut self, draw: &Draw) {
        self.bury().await;
        let place = draw.below(self.places.len());
        match (&self.places[place], draw.below(100)) {
            (None, 0..70) => self.start(place),
            (Some(it), 0..8) => {
                it.process.fates.crashes.fetch_add(1, Ordering::Relaxed);
                self.places[place].take().unwrap().crash().await;
            }
            (Some(_), 8..14) => {
                // It ends in its own time, while somebody else may be started under its id.
                let it = self.places[place].take().unwrap();
                it.token.cancel();
                self.zombies.push(it);
            }
            (Some(_), 14..22) => self.start(place),
            (Some(it), 22..30) => it.process.expire(),
            _ => {}
        }
    }

    /// Whether somebody has each partition, and nothing is left to do.
    fn is_idle(&self) -> bool {
        let handles = || self.places.iter().flatten().map(|it| &it.handle);
        let all_run = self.wanted.iter().all(|place| {
            self.places[*place]
                .as_ref()
                .is_some_and(|it| !it.process.is_dead())
        });
        if !all_run || !stage::idle(handles(), &*self.world.log).unwrap() {
            return false;
        }
        let had: BTreeSet<(String, i32)> = handles()
            .flat_map(|handle| handle.status().parts.into_values())
            .flat_map(|part| part.positions)
            .map(|it| (it.topic, it.partition))
            .collect();
        self.views
            .iter()
            .flat_map(|view| view.inputs(&self.world.prefix))
            .all(|partition| had.contains(&partition))
            && self.views.iter().all(|view| self.is_written(view))
    }

    /// Whether the marks cover the whole input: what a process holds and never wrote is nobody's.
    fn is_written(&self, view: &ViewSpec) -> bool {
        let prefix = &self.world.prefix;
        let state = self.world.read(&view.state_topic(prefix));
        let input: Arc<str> = view.input_topic(prefix).into();
        let partitions: Vec<_> = (0..view.partitions)
            .map(|it| TopicPartition::new(Arc::clone(&input), it))
            .collect();
        let ends = self.world.log.ends(&partitions).unwrap();
        ends.iter().zip(0..).all(|(end, partition)| {
            let last = state.get(&partition).and_then(|records| records.last());
            last.map_or(0, |raw| records::mark(raw).next) >= *end
        })
    }

    async fn until_idle(&mut self) {
        let begun = Instant::now();
        while !self.is_idle() {
            self.bury().await;
            for place in self.wanted.clone() {
                if self.places[place].is_none() {
                    self.start(place);
                }
            }
            assert!(
                begun.elapsed() < DEADLINE,
                "seed {}: not idle after {DEADLINE:?}: {:#?}",
                self.seed,
                self.places
                    .iter()
                    .flatten()
                    .map(|it| it.handle.status())
                    .collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// Brings everybody back and waits until nothing is left to do.
    async fn settle(&mut self) {
        self.calm.store(true, Ordering::SeqCst);
        // Those who stand still just now still have that before them.
        tokio::time::sleep(chaos::STANDSTILL).await;
        for zombie in self.zombies.drain(..) {
            zombie.crash().await;
        }
        self.wanted = (0..self.places.len()).collect();
        self.until_idle().await;
    }
}

pub struct Outcome {
    pub compared: Compared,
    pub fates: Arc<Fates>,
}

pub async fn check(seed: u64) -> Outcome {
    let draw = Draw::new(seed ^ 0x5eed);
    let (own, direct): (Vec<_>, Vec<_>) = catalogue::views(&draw)
        .into_iter()
        .partition(|view| view.own);
    let views = [draw.one_of(&own).clone(), draw.one_of(&direct).clone()];
    let clock = Fast {
        base: jiff::Timestamp::now().as_millisecond(),
        begun: Instant::now(),
    };
    let memory = Memory::with_clock(Arc::new(clock));
    let world = World::memory(memory.clone(), &views);
    let late = Random::seeded(seed);
    memory.delay_markers(move || match late.next() % 100 {
        0..60 => 0,
        60..92 => (late.next() % 200) as i64,
        // Longer than any poll waits.
        _ => (late.next() % MARKER_MS) as i64,
    });
    let places = views.len() * REPLICAS as usize;
    let mut fleet = Fleet {
        world: &world,
        memory: &memory,
        views: &views,
        seed,
        started: 0,
        calm: Arc::default(),
        fates: Arc::default(),
        places: (0..places).map(|_| None).collect(),
        wanted: Vec::new(),
        zombies: Vec::new(),
    };
    (0..places)
        .step_by(REPLICAS as usize)
        .for_each(|place| fleet.start(place));
    for batch in folds::batches(&draw, &world, 120, 12) {
        write(&draw, &world, &memory, &batch).await;
        for _ in 0..draw.below(6) {
            fleet.act(&draw).await;
            tokio::time::sleep(Duration::from_micros(draw.below(8_000) as u64)).await;
        }
    }
    fleet.settle().await;
    // Down to one replica of each.
    fleet
        .wanted
        .retain(|place| place.is_multiple_of(REPLICAS as usize));
    for place in 0..places {
        if !fleet.wanted.contains(&place) {
            stop(fleet.places[place].take().unwrap(), seed).await;
        }
    }
    fleet.until_idle().await;
    for running in fleet.places.drain(..).flatten() {
        stop(running, seed).await;
    }
    let fates = Arc::clone(&fleet.fates);
    memory.delay_markers(|| 0);
    // What is on its way has landed by then.
    tokio::time::sleep(Duration::from_millis(MARKER_MS / PACE as u64 + 5)).await;
    let mut all = Compared::default();
    for view in &views {
        let one = folds::compare(&world, view, false, Kind::Simulation, seed);
        all.keys += one.keys;
        all.reads += one.reads;
        all.letters += one.letters;
    }
    Outcome {
        compared: all,
        fates,
    }
}

async fn stop(running: Running, seed: u64) {
    running.token.cancel();
    let status = running.handle.join().await;
    // A call of somebody who crashed under its id may have come through only now, and taken it.
    let replaced = |problem: &Problem| problem.reason == "Fenced";
    let fenced = status.phase == Phase::Failed && status.problems.iter().all(replaced);
    assert!(
        fenced || status.phase == Phase::Stopped,
        "seed {seed}: {status:#?}"
    );
}

/// Writes a batch as somebody else would: plainly, or in a transaction that is open for a while, perhaps after one that was aborted.
async fn write(draw: &Draw, world: &World, memory: &Memory, batch: &[NewRecord]) {
    if batch.is_empty() {
        return;
    }
    if !draw.percent(30) {
        world.write(batch);
        return;
    }
    let mut producer = memory.producer("somebody-else");
    if draw.percent(50) {
        let mut open = producer.begin().unwrap();
        open.write(batch).unwrap();
        tokio::time::sleep(Duration::from_micros(draw.below(5_000) as u64)).await;
        open.abort();
    }
    let mut open = producer.begin().unwrap();
    open.write(batch).unwrap();
    tokio::time::sleep(Duration::from_micros(draw.below(5_000) as u64)).await;
    // On a machine that is busy it may have timed out: then nothing of it counts.
    if open.commit().is_err() {
        world.write(batch);
    }
}
