//! Where the log ends, for whoever is about to read views: one query at a time, however many ask.
//!
//! An answer comes from a query that was *sent after* the question, so that every record acknowledged
//! before the question is below it. Questions that come while a query is under way share the next one.

use super::Error;
use super::life::Life;
use super::reading::persist;
use crate::log::Log;
use futures::FutureExt;
use futures::future::Shared;
use headwater_engine::record::TopicPartition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Between two queries at least: triggers that come closer share one.
const APART: Duration = Duration::from_millis(1);
/// Without a question for so long, the ends are asked all the same, so that it is known since when a view is
/// behind although nothing was triggered.
const IDLE: Duration = Duration::from_secs(1);

/// How often it is looked whether topics have more partitions.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// High watermarks, or last stable offsets, of partitions that the views come from.
pub(super) type Ends = Arc<BTreeMap<TopicPartition, i64>>;

/// Resolves to an error only where the stage ends.
pub(super) type Answer = Shared<oneshot::Receiver<Ends>>;

/// Clones ask the same thread.
#[derive(Clone)]
pub(super) struct Service {
    questions: Sender<Question>,
}

enum Question {
    /// All high watermarks.
    Ends(oneshot::Sender<Ends>),
    /// The last stable offsets of these.
    Stable(BTreeSet<TopicPartition>, oneshot::Sender<Ends>),
}

impl Service {
    /// `idle` is given ends that nobody asked for, each time that nobody did for [`IDLE`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(
        log: Arc<dyn Log>,
        life: Arc<Life>,
        partitions: Vec<TopicPartition>,
        idle: impl Fn(&Ends) + Send + 'static,
    ) -> Result<Self, Error> {
        let (questions, asked) = channel();
        let serving = Serving {
            log,
            life,
            partitions,
            looked: Instant::now(),
            sent: Instant::now(),
        };
        thread::Builder::new()
            .name("ends".to_owned())
            .spawn(move || serving.serve(&asked, idle))
            .map_err(Error::Thread)?;
        Ok(Self { questions })
    }

    pub(super) fn ask(&self) -> Answer {
        let (sender, receiver) = oneshot::channel();
        // A service that ended drops the sender, which the receiver tells.
        let _ = self.questions.send(Question::Ends(sender));
        receiver.shared()
    }

    /// Last stable offsets, of these partitions at least; an error where Kafka does not say.
    pub(super) fn ask_stable(
        &self,
        partitions: BTreeSet<TopicPartition>,
    ) -> oneshot::Receiver<Ends> {
        let (sender, receiver) = oneshot::channel();
        let _ = self.questions.send(Question::Stable(partitions, sender));
        receiver
    }
}

struct Serving {
    log: Arc<dyn Log>,
    life: Arc<Life>,
    partitions: Vec<TopicPartition>,
    /// When it was last looked whether there are more partitions.
    looked: Instant,
    /// When the last query was sent.
    sent: Instant,
}

impl Serving {
    /// Ends with its stage: the last sender goes with the stage's loop.
    fn serve(mut self, asked: &Receiver<Question>, idle: impl Fn(&Ends)) {
        loop {
            let first = match asked.recv_timeout(IDLE) {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    // Where Kafka does not say, it is asked again.
                    if let Ok(ends) = self.log.ends(&self.partitions) {
                        idle(&self.named(ends));
                    }
                    self.look_again();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Whoever asks in the meantime shares the query.
            if let Some(early) = APART.checked_sub(self.sent.elapsed()) {
                thread::sleep(early);
            }
            self.sent = Instant::now();
            let (mut all, mut stable) = (Vec::new(), Vec::new());
            for question in std::iter::once(first).chain(asked.try_iter()) {
                match question {
                    Question::Ends(answer) => all.push(answer),
                    Question::Stable(partitions, answer) => stable.push((partitions, answer)),
                }
            }
            if !all.is_empty() {
                let ends = match self.ends() {
                    Ok(ends) => ends,
                    Err(Error::Ended) => return,
                    Err(error) => {
                        self.life
                            .board
                            .problem("KafkaRefused", "ends", error.to_string());
                        return self.life.end();
                    }
                };
                for answer in all {
                    // Whoever asked may have gone.
                    let _ = answer.send(Arc::clone(&ends));
                }
            }
            if !stable.is_empty() {
                self.answer_stable(stable);
            }
            // After the answers, which nobody shall wait for.
            self.look_again();
        }
    }

    fn ends(&self) -> Result<Ends, Error> {
        let ends = if self.partitions.is_empty() {
            Vec::new()
        } else {
            persist(&self.life, "ends", || self.log.ends(&self.partitions))?
        };
        Ok(self.named(ends))
    }

    fn named(&self, ends: Vec<i64>) -> Ends {
        Arc::new(self.partitions.iter().cloned().zip(ends).collect())
    }

    /// Where Kafka does not say now, those who asked go on without: they wait for a deadline at most.
    fn answer_stable(&self, questions: Vec<(BTreeSet<TopicPartition>, oneshot::Sender<Ends>)>) {
        let asked = questions.iter().flat_map(|(partitions, _)| partitions);
        let asked: BTreeSet<&TopicPartition> = asked.collect();
        let asked: Vec<TopicPartition> = asked.into_iter().cloned().collect();
        match self.log.stable_ends(&asked) {
            Ok(ends) => {
                let ends: Ends = Arc::new(asked.into_iter().zip(ends).collect());
                for (_, answer) in questions {
                    let _ = answer.send(Arc::clone(&ends));
                }
            }
            Err(error) => tracing::warn!(%error, "last stable offsets"),
        }
    }

    fn look_again(&mut self) {
        if self.looked.elapsed() >= LOOK_AGAIN {
            self.looked = Instant::now();
            self.partitions = grown(&*self.log, std::mem::take(&mut self.partitions));
        }
    }
}

/// The partitions, with those that their topics got since. Where that cannot be told now, it is looked again later.
pub(super) fn grown(log: &dyn Log, partitions: Vec<TopicPartition>) -> Vec<TopicPartition> {
    let topics: BTreeSet<Arc<str>> = partitions
        .iter()
        .map(|partition| Arc::clone(&partition.topic))
        .collect();
    let names: Vec<String> = topics.iter().map(ToString::to_string).collect();
    let Ok(found) = log.topics(&names) else {
        return partitions;
    };
    let mut all: BTreeSet<TopicPartition> = partitions.into_iter().collect();
    for (topic, info) in topics.into_iter().zip(found) {
        for partition in 0..info.map_or(0, |info| info.partitions) {
            all.insert(TopicPartition::new(Arc::clone(&topic), partition));
        }
    }
    all.into_iter().collect()
}
