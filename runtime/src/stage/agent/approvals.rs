//! What people said of the calls that runs wait for: the `approvals` topic, followed as long as the stage lives.
//!
//! The driver says which questions it waits for, and is woken when one of them is settled. The first answer that the log
//! has counts, if it took it before the question's time was over. That there is none is said only once all was read
//! that the topic held when the time was over: an answer in time is not lost to a reader that is behind.

use super::Setup;
use crate::clock::Clock;
use crate::log::{Isolation, Log, Reader, Start, Waker};
use crate::stage::Error;
use crate::stage::life::Life;
use crate::stage::reading::{partitions, persist};
use crate::stage::status::{Part, Processed};
use headwater_engine::approval::{Answer, Answered, Entry};
use headwater_engine::record::TopicPartition;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const IDLE: Duration = Duration::from_secs(60);
/// A question whose time is over is looked after this much later, so that the log's clock may differ a little from ours.
const GRACE_MS: i64 = 200;

#[derive(Default)]
pub(super) struct Approvals(Mutex<State>);

#[derive(Default)]
struct State {
    /// By the approval's id.
    waited: HashMap<String, Waited>,
    /// The first answer of each, with the time that the log has of it.
    answers: HashMap<String, (i64, Answer)>,
    /// Something is settled that was not when the driver looked last.
    changed: bool,
    driver: Option<Waker>,
    reader: Option<Waker>,
}

struct Waited {
    partition: i32,
    expires_at: i64,
    /// All of its time was read, and no answer was there.
    expired: bool,
}

impl Approvals {
    /// What is known of a question that a run of `partition` waits for; it is waited for from now on.
    pub(super) fn ask(&self, approval: &str, partition: i32, expires_at: i64) -> Option<Answered> {
        let mut state = self.lock();
        if !state.waited.contains_key(approval) {
            let waited = Waited {
                partition,
                expires_at,
                expired: false,
            };
            state.waited.insert(approval.to_owned(), waited);
            if let Some(reader) = &state.reader {
                reader();
            }
        }
        state.settled(approval)
    }

    /// Nobody waits for it any more.
    pub(super) fn forget(&self, approval: &str) {
        let mut state = self.lock();
        state.waited.remove(approval);
        state.answers.remove(approval);
    }

    /// Whether something was settled since the last call.
    pub(super) fn take_changed(&self) -> bool {
        std::mem::take(&mut self.lock().changed)
    }

    pub(super) fn when_changed(&self, waker: Waker) {
        self.lock().driver = Some(waker);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, approval: &str, taken_at: i64, answer: Answer) {
        let mut state = self.lock();
        if state.answers.contains_key(approval) {
            return;
        }
        state
            .answers
            .insert(approval.to_owned(), (taken_at, answer));
        if state.waited.contains_key(approval) {
            state.tell();
        }
    }

    /// Questions without an answer whose time is over, with their partitions; and when the next one's is.
    fn over(&self, now: i64) -> (Vec<(String, i32)>, Option<i64>) {
        let state = self.lock();
        let open = || {
            let open = state.waited.iter();
            open.filter(|(id, _)| state.settled(id).is_none())
        };
        let over = open()
            .filter(|(_, waited)| waited.is_over(now))
            .map(|(id, waited)| (id.clone(), waited.partition));
        let next = open()
            .filter(|(_, waited)| !waited.is_over(now))
            .map(|(_, waited)| waited.expires_at.saturating_add(GRACE_MS))
            .min();
        (over.collect(), next)
    }

    fn expired(&self, approval: &str) {
        let mut state = self.lock();
        if let Some(waited) = state.waited.get_mut(approval) {
            waited.expired = true;
            state.tell();
        }
    }

    /// The highest partition of a question.
    fn last_partition(&self) -> i32 {
        let state = self.lock();
        let partitions = state.waited.values().map(|waited| waited.partition);
        partitions.max().unwrap_or(-1)
    }
}

impl State {
    fn settled(&self, approval: &str) -> Option<Answered> {
        let waited = self.waited.get(approval)?;
        match self.answers.get(approval) {
            Some((taken_at, answer)) => Some(Answered::of(answer, *taken_at, waited.expires_at)),
            None => waited.expired.then_some(Answered::Expired),
        }
    }

    fn tell(&mut self) {
        self.changed = true;
        if let Some(driver) = &self.driver {
            driver();
        }
    }
}

impl Waited {
    fn is_over(&self, now: i64) -> bool {
        now > self.expires_at.saturating_add(GRACE_MS)
    }
}

/// Follows the topic until the stage ends.
pub(super) fn follow(
    setup: &Setup,
    life: &Life,
    topic: &str,
    approvals: &Approvals,
) -> Result<(), Error> {
    let services = &setup.context.services;
    let log = &*services.log;
    let mut reader = persist(life, "approvals", || log.reader(Isolation::ReadCommitted))?;
    life.woken_by(reader.waker());
    approvals.lock().reader = Some(reader.waker());
    let mut follower = Follower {
        log,
        life,
        topic: topic.into(),
        approvals,
        partitions: 0,
        looks: Vec::new(),
    };
    while !life.stopping() {
        follower.turn(&mut *reader, &*services.clock)?;
    }
    Ok(())
}

struct Follower<'a> {
    log: &'a dyn Log,
    life: &'a Life,
    topic: Arc<str>,
    approvals: &'a Approvals,
    /// That are read.
    partitions: i32,
    looks: Vec<Look>,
}

/// Questions whose time is over, and up to where an answer in time may be.
struct Look {
    partition: TopicPartition,
    end: i64,
    questions: Vec<String>,
}

impl Follower<'_> {
    fn turn(&mut self, reader: &mut dyn Reader, clock: &dyn Clock) -> Result<(), Error> {
        if self.partitions == 0 || self.approvals.last_partition() >= self.partitions {
            self.assign(reader)?;
        }
        self.publish(reader);
        let now = clock.now_ms();
        let (over, next) = self.approvals.over(now);
        self.look(over)?;
        self.settle(reader);
        let wait = next.map_or(IDLE, |at| {
            let ms = u64::try_from(at.saturating_sub(now)).unwrap_or_default();
            Duration::from_millis(ms.saturating_add(1)).min(IDLE)
        });
        reader.poll(wait, &mut |record| {
            if let Some((approval, Entry::Answer(answer))) = Entry::read(record) {
                self.approvals.answered(approval, record.timestamp, answer);
            }
        })?;
        self.settle(reader);
        Ok(())
    }

    /// Questions are over once all of their time was read.
    fn settle(&mut self, reader: &mut dyn Reader) {
        let approvals = self.approvals;
        self.looks.retain(|look| {
            let read = reader.position(&look.partition) >= Some(look.end);
            if read {
                for question in &look.questions {
                    approvals.expired(question);
                }
            }
            !read
        });
    }

    fn publish(&self, reader: &mut dyn Reader) {
        let positions = (0..self.partitions).map(|number| Processed {
            topic: self.topic.to_string(),
            partition: number,
            next: reader.position(&self.partition(number)).unwrap_or(0),
            stopped: false,
        });
        self.life.board.part(
            "approvals",
            Part {
                joined: true,
                restored_percent: 100,
                caught_up: true,
                waiting: 0,
                in_flight: 0,
                positions: positions.collect(),
            },
        );
    }

    /// From the beginning: what was read before changes nothing.
    fn assign(&mut self, reader: &mut dyn Reader) -> Result<(), Error> {
        let counts = partitions(self.log, self.life, &[self.topic.to_string()])?;
        self.partitions = counts.first().copied().unwrap_or(1);
        let all: Vec<_> = (0..self.partitions)
            .map(|number| (self.partition(number), Start::Earliest))
            .collect();
        reader.assign(&all)?;
        Ok(())
    }

    fn look(&mut self, over: Vec<(String, i32)>) -> Result<(), Error> {
        let looked = |question: &String| {
            let mut all = self.looks.iter().flat_map(|look| &look.questions);
            all.any(|own| own == question)
        };
        let mut by_partition: HashMap<i32, Vec<String>> = HashMap::new();
        for (question, partition) in over {
            if !looked(&question) {
                by_partition.entry(partition).or_default().push(question);
            }
        }
        if by_partition.is_empty() {
            return Ok(());
        }
        let (partitions, questions): (Vec<_>, Vec<_>) = by_partition
            .into_iter()
            .map(|(number, questions)| (self.partition(number), questions))
            .unzip();
        let ends = persist(self.life, "approvals", || self.log.ends(&partitions))?;
        let looks = partitions.into_iter().zip(ends).zip(questions);
        self.looks
            .extend(looks.map(|((partition, end), questions)| Look {
                partition,
                end,
                questions,
            }));
        Ok(())
    }

    fn partition(&self, number: i32) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), number)
    }
}
