//! Replicas of stages on a memory log with everything going wrong that may, by a seed.
//!
//! To be survived, in any order and at any call: the death of a process, with a transaction open or committed unknown to it; a
//! process that stands still while its session ends, and comes back; two processes under one id; replicas added and taken away;
//! requests without answer, aborts, commits of unknown outcome; markers and offsets that come late; foreign transactions that are
//! held open, or aborted. The log's clock runs fast, so that sessions and transactions time out within a run.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "shared by test binaries, which use parts of it; a test fails by panicking, and draws small numbers"
)]

pub mod chaos;

use crate::naive::Raw;
use chaos::{Chaos, Fates, Process};
use futures::StreamExt;
use headwater_engine::record::{NewRecord, Record};
use headwater_runtime::backoff::Random;
use headwater_runtime::clock::Clock;
use headwater_runtime::log::Log as _;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::stage::{Handle, Phase, Problem, Services};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub const DEADLINE: Duration = Duration::from_secs(90);
/// How much faster the log's clock runs.
const PACE: i64 = 20;
/// The latest that a marker lands after the decision, by the log's clock.
const MARKER_MS: u64 = 2_000;
const CHECKPOINT_EVERY: Duration = Duration::from_millis(8);
/// So many seeds at a time: most of a run is waiting.
const AT_A_TIME: usize = 12;

struct Fast {
    base: i64,
    begun: Instant,
}

impl Clock for Fast {
    fn now_ms(&self) -> i64 {
        self.base + self.begun.elapsed().as_millis() as i64 * PACE
    }
}

/// A record of the log as an independent reader sees it.
pub fn raw(record: &Record<'_>) -> Raw {
    Raw {
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.map(<[u8]>::to_vec),
        headers: record
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)))
            .collect(),
    }
}

/// A log whose clock runs fast.
pub fn memory() -> Memory {
    Memory::with_clock(Arc::new(Fast {
        base: jiff::Timestamp::now().as_millisecond(),
        begun: Instant::now(),
    }))
}

/// Markers are late from now on, some by longer than any poll waits.
pub fn late_markers(memory: &Memory, seed: u64) {
    let late = Random::seeded(seed);
    memory.delay_markers(move || match late.next() % 100 {
        0..60 => 0,
        60..92 => (late.next() % 200) as i64,
        _ => (late.next() % MARKER_MS) as i64,
    });
}

/// Markers are in time again, and those on their way have landed.
pub async fn markers_in_time(memory: &Memory) {
    memory.delay_markers(|| 0);
    tokio::time::sleep(Duration::from_millis(MARKER_MS / PACE as u64 + 5)).await;
}

/// `HEADWATER_SEED`, or those of `HEADWATER_SEEDS` (so many, or from one to another, `501-1000`), or `count`.
pub fn seeds(count: u64) -> Vec<u64> {
    let text = |name: &str| std::env::var(name).ok();
    let number = |text: &str| -> u64 { text.parse().unwrap() };
    match (text("HEADWATER_SEED"), text("HEADWATER_SEEDS")) {
        (Some(seed), _) => vec![number(&seed)],
        (None, None) => (1..=count).collect(),
        (None, Some(seeds)) => match seeds.split_once('-') {
            Some((first, last)) => (number(first)..=number(last)).collect(),
            None => (1..=number(&seeds)).collect(),
        },
    }
}

/// Runs every seed, and gives what each came to.
pub async fn every<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    seeds: &[u64],
    check: impl Fn(u64) -> F,
) -> Vec<T> {
    let begun = Instant::now();
    let runs = seeds.iter().map(|seed| {
        let (seed, run) = (*seed, check(*seed));
        // A task of its own, so that the log of a run that panics names the seed.
        async move {
            let run = tokio::spawn(run).await;
            run.unwrap_or_else(|error| panic!("seed {seed}: {error}"))
        }
    });
    let mut outcomes = Vec::new();
    let mut running = futures::stream::iter(runs).buffer_unordered(AT_A_TIME);
    while let Some(outcome) = running.next().await {
        outcomes.push(outcome);
        if outcomes.len().is_multiple_of(500) {
            println!("{} seeds after {:.0?}", outcomes.len(), begun.elapsed());
        }
    }
    outcomes
}

/// How often what happened in all runs; panics where something never did in many.
pub fn told(fates: &[Arc<Fates>]) {
    let sum = |of: fn(&Fates) -> &std::sync::atomic::AtomicU64| -> u64 {
        fates.iter().map(|it| of(it).load(Ordering::Relaxed)).sum()
    };
    let all = [
        ("crashes", sum(|it| &it.crashes)),
        ("zombies", sum(|it| &it.zombies)),
        ("no answer", sum(|it| &it.unavailable)),
        ("aborts", sum(|it| &it.aborts)),
        ("undecided", sum(|it| &it.undecided)),
    ];
    println!("{all:?}");
    assert!(
        fates.len() < 20 || all.iter().all(|(_, count)| *count > 0),
        "the simulation is too kind"
    );
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

/// Starts the stage of a place.
pub type Start<'a> = Box<dyn Fn(usize, Services) -> Handle + Send + Sync + 'a>;

/// The places where replicas run; one that is empty is down.
pub struct Fleet<'a> {
    memory: &'a Memory,
    seed: u64,
    start: Start<'a>,
    started: u64,
    calm: Arc<AtomicBool>,
    pub fates: Arc<Fates>,
    places: Vec<Option<Running>>,
    /// Those that are started again when they end.
    wanted: Vec<usize>,
    /// Whose id somebody else has by now.
    zombies: Vec<Running>,
}

impl<'a> Fleet<'a> {
    pub fn new(memory: &'a Memory, seed: u64, places: usize, start: Start<'a>) -> Self {
        Self {
            memory,
            seed,
            start,
            started: 0,
            calm: Arc::default(),
            fates: Arc::default(),
            places: (0..places).map(|_| None).collect(),
            wanted: Vec::new(),
            zombies: Vec::new(),
        }
    }

    pub fn start(&mut self, place: usize) {
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
        let running = Running {
            handle: (self.start)(place, services),
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

    /// Does something to some place; `below` draws.
    pub async fn act(&mut self, below: &mut (dyn FnMut(usize) -> usize + Send)) {
        self.bury().await;
        let place = below(self.places.len());
        match (&self.places[place], below(100)) {
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

    pub fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.places.iter().flatten().map(|it| &it.handle)
    }

    /// Whether all who are wanted run.
    pub fn is_complete(&self) -> bool {
        self.wanted.iter().all(|place| {
            self.places[*place]
                .as_ref()
                .is_some_and(|it| !it.process.is_dead())
        })
    }

    /// Starts who is wanted and not there.
    pub async fn supervise(&mut self) {
        self.bury().await;
        for place in self.wanted.clone() {
            if self.places[place].is_none() {
                self.start(place);
            }
        }
    }

    /// No more bad luck: brings everybody back.
    pub async fn calm(&mut self) {
        self.calm.store(true, Ordering::SeqCst);
        // Those who stand still just now still have that before them.
        tokio::time::sleep(chaos::STANDSTILL).await;
        for zombie in self.zombies.drain(..) {
            zombie.crash().await;
        }
        self.wanted = (0..self.places.len()).collect();
        self.supervise().await;
    }

    /// Ends in order those who are not to stay.
    pub async fn keep(&mut self, stays: impl Fn(usize) -> bool) {
        self.wanted.retain(|place| stays(*place));
        for place in 0..self.places.len() {
            if !stays(place) {
                self.stop(place).await;
            }
        }
    }

    /// Ends everybody in order.
    pub async fn end(&mut self) {
        self.wanted.clear();
        for place in 0..self.places.len() {
            if self.places[place].is_some() {
                self.stop(place).await;
            }
        }
    }

    async fn stop(&mut self, place: usize) {
        let running = self.places[place].take().unwrap();
        running.token.cancel();
        let status = running.handle.join().await;
        // A call of somebody who crashed under its id may have come through only now, and taken it.
        let replaced = |problem: &Problem| problem.reason == "Fenced";
        let fenced = status.phase == Phase::Failed && status.problems.iter().all(replaced);
        assert!(
            fenced || status.phase == Phase::Stopped,
            "seed {}: {status:#?}",
            self.seed
        );
    }

    pub fn statuses(&self) -> String {
        let all: Vec<_> = self.handles().map(Handle::status).collect();
        format!("{all:#?}")
    }
}

/// Writes a batch as somebody else would: plainly, or in a transaction that is open for a while, perhaps after one that was aborted.
pub async fn write(
    memory: &Memory,
    batch: &[NewRecord],
    below: &mut (dyn FnMut(usize) -> usize + Send),
) {
    let plainly = || memory.writer().unwrap().write(batch).unwrap();
    if batch.is_empty() {
        return;
    }
    if below(100) >= 30 {
        plainly();
        return;
    }
    let mut producer = memory.producer("somebody-else");
    if below(100) < 50 {
        let mut open = producer.begin().unwrap();
        open.write(batch).unwrap();
        tokio::time::sleep(Duration::from_micros(below(5_000) as u64)).await;
        open.abort();
    }
    let mut open = producer.begin().unwrap();
    open.write(batch).unwrap();
    tokio::time::sleep(Duration::from_micros(below(5_000) as u64)).await;
    // On a machine that is busy it may have timed out: then nothing of it counts.
    if open.commit().is_err() {
        plainly();
    }
}
