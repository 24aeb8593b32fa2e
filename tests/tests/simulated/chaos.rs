//! A memory log as a process with bad luck sees it, by a seed: requests without answer, transactions that are aborted, half written,
//! or of unknown outcome, a process that stands still while the group goes on without it, and one that dies in the middle of a call.
//!
//! Each handle has dice of its own, so that the n-th call of a part has the same fate in every run of a seed; how the threads of
//! several processes interleave between calls is the machine's.

use headwater_engine::record::{NewRecord, Record, TopicPartition};
use headwater_runtime::backoff::Random;
use headwater_runtime::log::memory::{Memory, Producer};
use headwater_runtime::log::{
    Committed, Error, GroupEvent, GroupMetadata, GroupOptions, GroupReader, Isolation, Log, Reader,
    Result, Scope, Start, TopicInfo, TopicSpec, Transactional, Waker, Watermarks, Writer,
};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The longest wait of a poll, so that a process that died is seen to be dead.
const POLL: Duration = Duration::from_millis(20);

/// The longest that a process stands still.
pub const STANDSTILL: Duration = Duration::from_millis(50);

/// One process: its luck, and whether it lives.
pub struct Process {
    memory: Memory,
    seed: u64,
    handles: AtomicU64,
    dead: AtomicBool,
    /// No more bad luck, for all processes of a run.
    calm: Arc<AtomicBool>,
    members: Mutex<Vec<(String, String)>>,
    pub fates: Arc<Fates>,
}

/// How often what happened, for all processes of a run.
#[derive(Debug, Default)]
pub struct Fates {
    pub crashes: AtomicU64,
    pub zombies: AtomicU64,
    pub unavailable: AtomicU64,
    pub aborts: AtomicU64,
    pub undecided: AtomicU64,
}

impl Process {
    pub fn new(
        memory: &Memory,
        seed: u64,
        calm: &Arc<AtomicBool>,
        fates: &Arc<Fates>,
    ) -> Arc<Self> {
        Arc::new(Self {
            memory: memory.clone(),
            seed,
            handles: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            calm: Arc::clone(calm),
            members: Mutex::default(),
            fates: Arc::clone(fates),
        })
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// From now on nothing of it reaches the log.
    pub fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }

    fn dice(self: &Arc<Self>, role: &str) -> Dice {
        let mut hasher = DefaultHasher::new();
        (
            self.seed,
            role,
            self.handles.fetch_add(1, Ordering::Relaxed),
        )
            .hash(&mut hasher);
        Dice {
            process: Arc::clone(self),
            random: Random::seeded(hasher.finish()),
        }
    }

    /// Its sessions end although it lives.
    pub fn expire(&self) {
        for (group, member) in self.members.lock().unwrap().iter() {
            self.memory.expire(group, member);
        }
    }
}

struct Dice {
    process: Arc<Process>,
    random: Random,
}

impl Dice {
    fn below(&self, end: u64) -> u64 {
        self.random.next() % end
    }

    fn calm(&self) -> bool {
        self.process.calm.load(Ordering::SeqCst)
    }

    fn alive(&self) -> Result<()> {
        if self.process.is_dead() {
            return Err(Error::Fatal {
                what: "anything".to_owned(),
                reason: "the process is gone".to_owned(),
            });
        }
        Ok(())
    }

    fn die(&self) -> Result<()> {
        self.process.kill();
        self.process.fates.crashes.fetch_add(1, Ordering::Relaxed);
        self.alive()
    }

    /// Before any call: the process may die, stand still for long, or be slow.
    fn step(&self) -> Result<()> {
        self.alive()?;
        if self.calm() {
            return Ok(());
        }
        match self.below(1_000) {
            0..4 => self.die(),
            4..9 => {
                self.process.fates.zombies.fetch_add(1, Ordering::Relaxed);
                self.process.expire();
                std::thread::sleep(STANDSTILL / 5 + Duration::from_millis(self.below(40)));
                self.alive()
            }
            9..120 => {
                std::thread::sleep(Duration::from_micros(self.below(2_000)));
                self.alive()
            }
            _ => Ok(()),
        }
    }

    /// As [`Dice::step`], for a call that may stay without answer.
    fn ask(&self) -> Result<()> {
        self.step()?;
        if !self.calm() && self.below(100) < 3 {
            self.process
                .fates
                .unavailable
                .fetch_add(1, Ordering::Relaxed);
            return Err(unavailable());
        }
        Ok(())
    }
}

fn unavailable() -> Error {
    Error::Unavailable {
        what: "a request".to_owned(),
        reason: "as the seed wants it".to_owned(),
    }
}

fn undecided() -> Error {
    Error::Undecided {
        reason: "as the seed wants it".to_owned(),
    }
}

/// The log as one process has it.
pub struct Chaos {
    process: Arc<Process>,
    dice: Dice,
}

impl Chaos {
    pub fn new(process: &Arc<Process>) -> Self {
        Self {
            dice: process.dice("log"),
            process: Arc::clone(process),
        }
    }
}

impl Log for Chaos {
    fn topics(&self, names: &[String]) -> Result<Vec<Option<TopicInfo>>> {
        self.dice.ask()?;
        self.process.memory.topics(names)
    }

    fn create(&self, topics: &[TopicSpec]) -> Result<()> {
        self.process.memory.create(topics)
    }

    fn ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>> {
        self.dice.ask()?;
        self.process.memory.ends(partitions)
    }

    fn stable_ends(&self, partitions: &[TopicPartition]) -> Result<Vec<i64>> {
        self.dice.ask()?;
        self.process.memory.stable_ends(partitions)
    }

    fn watermarks(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Watermarks>> {
        self.dice.ask()?;
        self.process.memory.watermarks(partitions)
    }

    fn reader(&self, isolation: Isolation) -> Result<Box<dyn Reader>> {
        self.dice.step()?;
        Ok(Box::new(ChaosReader {
            inner: self.process.memory.reader(isolation)?,
            dice: self.process.dice("reader"),
        }))
    }

    fn group(&self, options: GroupOptions) -> Result<Box<dyn GroupReader>> {
        self.dice.ask()?;
        let role = options.group.clone();
        self.process
            .members
            .lock()
            .unwrap()
            .push((options.group.clone(), options.member.clone()));
        Ok(Box::new(ChaosMember {
            inner: Some(self.process.memory.group(options)?),
            dice: self.process.dice(&role),
        }))
    }

    fn writer(&self) -> Result<Box<dyn Writer>> {
        self.process.memory.writer()
    }

    fn transactional(&self, id: &str) -> Result<Box<dyn Transactional>> {
        self.dice.ask()?;
        Ok(Box::new(ChaosTransactions {
            inner: self.process.memory.producer(id),
            dice: self.process.dice(id),
        }))
    }
}

struct ChaosReader {
    inner: Box<dyn Reader>,
    dice: Dice,
}

impl Reader for ChaosReader {
    fn assign(&mut self, partitions: &[(TopicPartition, Start)]) -> Result<()> {
        self.dice.step()?;
        self.inner.assign(partitions)
    }

    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(&Record<'_>)) -> Result<usize> {
        self.dice.step()?;
        // A restore may last until its partition has left and come back.
        if !self.dice.calm() && self.dice.below(100) < 15 {
            std::thread::sleep(Duration::from_millis(self.dice.below(60)));
        }
        self.inner.poll(wait.min(POLL), on)
    }

    fn position(&mut self, partition: &TopicPartition) -> Option<i64> {
        self.inner.position(partition)
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }
}

struct ChaosMember {
    /// Taken by leaving.
    inner: Option<Box<dyn GroupReader>>,
    dice: Dice,
}

impl ChaosMember {
    fn inner(&mut self) -> &mut dyn GroupReader {
        &mut **self.inner.as_mut().unwrap()
    }
}

impl GroupReader for ChaosMember {
    fn poll(&mut self, wait: Duration, on: &mut dyn FnMut(GroupEvent<'_>)) -> Result<usize> {
        self.dice.step()?;
        self.inner().poll(wait.min(POLL), on)
    }

    fn start(&mut self, partition: &TopicPartition, at: Start) -> Result<()> {
        self.dice.step()?;
        self.inner().start(partition, at)
    }

    fn pause(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.inner().pause(partitions)
    }

    fn resume(&mut self, partitions: &[TopicPartition]) -> Result<()> {
        self.inner().resume(partitions)
    }

    fn position(&mut self, partition: &TopicPartition) -> Option<i64> {
        self.inner().position(partition)
    }

    fn waker(&self) -> Waker {
        self.inner.as_ref().unwrap().waker()
    }

    fn committed(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<HashMap<TopicPartition, Option<Committed>>> {
        self.dice.ask()?;
        self.inner().committed(partitions)
    }

    fn metadata(&self) -> Result<GroupMetadata> {
        self.dice.step()?;
        self.inner.as_ref().unwrap().metadata()
    }

    fn leave(mut self: Box<Self>) -> Result<()> {
        self.dice.step()?;
        match self.inner.take() {
            Some(inner) => inner.leave(),
            None => Ok(()),
        }
    }
}

struct ChaosTransactions {
    inner: Producer,
    dice: Dice,
}

impl Transactional for ChaosTransactions {
    fn transact(
        &mut self,
        records: &[NewRecord],
        offsets: Option<(&GroupMetadata, &[(TopicPartition, Committed)])>,
    ) -> Result<()> {
        let dice = &self.dice;
        dice.step()?;
        let fates = &dice.process.fates;
        let fate = if dice.calm() { 100 } else { dice.below(100) };
        let mut open = self.inner.begin()?;
        // Half of the records first: a process may die between two of its requests.
        let (first, second) = records.split_at(records.len() / 2);
        let sent = open
            .write(first)
            .map_err(|error| (error, 0))
            .and_then(|()| {
                dice.step().map_err(|error| (error, 0))?;
                open.write(second).map_err(|error| (error, first.len()))
            })
            .and_then(|()| {
                dice.step().map_err(|error| (error, 0))?;
                match offsets {
                    Some((metadata, offsets)) => open
                        .send_offsets(metadata, offsets)
                        .map_err(|error| (error, 0)),
                    None => Ok(()),
                }
            });
        if dice.process.is_dead() {
            // Nobody is left to abort it.
            return dice.alive();
        }
        if let Err((error, before)) = sent {
            open.abort();
            return Err(match error {
                Error::Refused {
                    index,
                    topic,
                    reason,
                } => Error::Refused {
                    index: index + before,
                    topic,
                    reason,
                },
                other => other,
            });
        }
        match fate {
            0..6 => {
                fates.aborts.fetch_add(1, Ordering::Relaxed);
                open.abort();
                Err(Error::Abort {
                    reason: "as the seed wants it".to_owned(),
                })
            }
            6..9 => {
                fates.unavailable.fetch_add(1, Ordering::Relaxed);
                open.abort();
                Err(unavailable())
            }
            // It was not, and stays open until the id is opened again.
            9..13 => {
                fates.undecided.fetch_add(1, Ordering::Relaxed);
                Err(undecided())
            }
            // It was.
            13..18 => {
                fates.undecided.fetch_add(1, Ordering::Relaxed);
                open.commit()?;
                Err(undecided())
            }
            _ => {
                dice.step()?;
                open.commit()?;
                // The process may die before it knows.
                dice.step()
            }
        }
    }

    fn sweep(&mut self, group: &GroupMetadata, scope: &Scope) -> Result<()> {
        self.dice.step()?;
        self.inner.sweep(group, scope)
    }
}
