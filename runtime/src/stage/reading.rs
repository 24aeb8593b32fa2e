//! Reading what is there: topics that must exist, and a partition from its start to its end.
//!
//! Used before a partition is taken over: whatever was committed before the call is handed over by it.
//! Calls to Kafka that fail for now are tried again until they succeed or the stage ends.

use super::Error;
use super::life::Life;
use crate::backoff::{Backoff, Random};
use crate::log::{self, Isolation, Log, Start};
use headwater_engine::record::{Record, TopicPartition};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(50),
    max: Duration::from_secs(2),
};
const POLL: Duration = Duration::from_secs(1);

/// Repeats `call` while Kafka does not answer.
pub(super) fn persist<T>(
    life: &Life,
    what: &str,
    mut call: impl FnMut() -> log::Result<T>,
) -> Result<T, Error> {
    let random = Random::unseeded();
    for failures in 1.. {
        match call() {
            Err(error @ log::Error::Unavailable { .. }) => {
                life.board
                    .problem("KafkaUnavailable", what, error.to_string());
                life.wait(BACKOFF.after(failures, &random));
            }
            other => {
                life.board.solved("KafkaUnavailable", what);
                return Ok(other?);
            }
        }
        if life.stopping() {
            break;
        }
    }
    Err(Error::Ended)
}

/// Partition counts of topics, in the order given, once all of them exist.
pub(super) fn partitions(log: &dyn Log, life: &Life, topics: &[String]) -> Result<Vec<i32>, Error> {
    let random = Random::unseeded();
    for failures in 1.. {
        let found = persist(life, "topics", || log.topics(topics))?;
        let mut counts = Vec::new();
        for (topic, info) in topics.iter().zip(found) {
            match info {
                Some(info) => {
                    counts.push(info.partitions);
                    life.board.solved("MissingTopic", topic);
                }
                None => life.board.problem(
                    "MissingTopic",
                    topic,
                    format!("topic '{topic}' does not exist; the stage waits for it"),
                ),
            }
        }
        if counts.len() == topics.len() {
            return Ok(counts);
        }
        life.wait(BACKOFF.after(failures, &random));
        if life.stopping() {
            break;
        }
    }
    Err(Error::Ended)
}

/// Every committed record of the partitions, from the start up to the high watermark as it was at the
/// call. `progress` is told the share that was read, in percent.
pub(super) fn to_end(
    log: &dyn Log,
    life: &Life,
    partitions: &[TopicPartition],
    progress: &mut dyn FnMut(u8),
    on: &mut dyn FnMut(&Record<'_>),
) -> Result<(), Error> {
    let marks = persist(life, "watermarks", || log.watermarks(partitions))?;
    let ranges = partitions.iter().filter_map(|partition| {
        let mark = marks.get(partition)?;
        (mark.high > mark.low).then_some((partition, (mark.low, mark.high)))
    });
    read(log, life, ranges.collect(), Start::Earliest, progress, on)
}

/// Every committed record of a partition in a range of offsets that it holds; some behind it may be handed over too.
pub(super) fn between(
    log: &dyn Log,
    life: &Life,
    partition: &TopicPartition,
    range: Range<i64>,
    on: &mut dyn FnMut(&Record<'_>),
) -> Result<(), Error> {
    let begin = Start::Offset(range.start);
    let range = HashMap::from([(partition, (range.start, range.end))]);
    read(log, life, range, begin, &mut |_| {}, on)
}

fn read(
    log: &dyn Log,
    life: &Life,
    mut left: HashMap<&TopicPartition, (i64, i64)>,
    start: Start,
    progress: &mut dyn FnMut(u8),
    on: &mut dyn FnMut(&Record<'_>),
) -> Result<(), Error> {
    let total: i64 = left.values().map(|(low, high)| high - low).sum();
    if left.is_empty() {
        progress(100);
        return Ok(());
    }
    let mut reader = log.reader(Isolation::ReadCommitted)?;
    life.woken_by(reader.waker());
    let begin: Vec<_> = left
        .keys()
        .map(|partition| ((*partition).clone(), start))
        .collect();
    reader.assign(&begin)?;
    let mut done = 0;
    loop {
        reader.poll(POLL, on)?;
        if life.stopping() {
            return Err(Error::Ended);
        }
        left.retain(|partition, (low, high)| {
            let reached = reader.position(partition).unwrap_or(*low) >= *high;
            if reached {
                done += *high - *low;
            }
            !reached
        });
        let under_way: i64 = left
            .iter()
            .map(|(partition, (low, _))| reader.position(partition).unwrap_or(*low) - low)
            .sum();
        let percent = (done + under_way).max(0) * 100 / total.max(1);
        progress(u8::try_from(percent).unwrap_or(100).min(100));
        if left.is_empty() {
            return Ok(());
        }
    }
}

/// Work on threads of their own whose results come back to the loop that asked for them: at once as many as the
/// machine has processors, the others in the order sent.
pub(super) struct Errands<T> {
    sender: Sender<T>,
    receiver: Receiver<T>,
    queue: Arc<Mutex<Queue>>,
    threads_max: usize,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    threads: usize,
}

impl<T: Send + 'static> Errands<T> {
    pub(super) fn new() -> Self {
        let (sender, receiver) = channel();
        Self {
            sender,
            receiver,
            queue: Arc::default(),
            threads_max: thread::available_parallelism().map_or(2, |count| count.get().max(2)),
        }
    }

    /// # Errors
    /// When no thread can be started.
    pub(super) fn send(
        &self,
        name: &str,
        wake: log::Waker,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(), Error> {
        let sender = self.sender.clone();
        let job = move || {
            // The loop may be gone; then nobody needs the result.
            let _ = sender.send(work());
            wake();
        };
        let mut queue = lock(&self.queue);
        queue.waiting.push_back(Box::new(job));
        if queue.threads >= self.threads_max {
            return Ok(());
        }
        queue.threads += 1;
        drop(queue);
        let worker = Worker {
            queue: Arc::clone(&self.queue),
            counted: true,
        };
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || worker.run())
            .map_err(Error::Thread)?;
        Ok(())
    }

    pub(super) fn back(&self) -> impl Iterator<Item = T> + '_ {
        self.receiver.try_iter()
    }
}

/// Takes work from the queue until there is none.
struct Worker {
    queue: Arc<Mutex<Queue>>,
    /// Among the queue's threads.
    counted: bool,
}

impl Worker {
    fn run(mut self) {
        loop {
            let job = {
                let mut queue = lock(&self.queue);
                let job = queue.waiting.pop_front();
                if job.is_none() {
                    // Under the lock that found no work: what is sent next starts a thread.
                    queue.threads -= 1;
                    self.counted = false;
                }
                job
            };
            match job {
                Some(job) => job(),
                None => return,
            }
        }
    }
}

impl Drop for Worker {
    /// Its work panicked, or no thread could be started.
    fn drop(&mut self) {
        if self.counted {
            lock(&self.queue).threads -= 1;
        }
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    #[test]
    fn errands_are_all_run_and_never_too_many_at_once() {
        let errands = Errands::new();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for number in 0..64 {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            let wake: log::Waker = Arc::new(|| {});
            errands
                .send("errand", wake, move || {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    number
                })
                .unwrap();
        }
        let mut back = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while back.len() < 64 && Instant::now() < deadline {
            back.extend(errands.receiver.recv_timeout(Duration::from_secs(10)));
        }
        back.sort_unstable();
        assert_eq!(back, (0..64).collect::<Vec<_>>());
        assert!(most.load(Ordering::SeqCst) <= errands.threads_max);
    }
}
