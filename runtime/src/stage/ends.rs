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
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How often it is looked whether topics have more partitions.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// High watermarks of the partitions that the views come from.
pub(super) type Ends = Arc<BTreeMap<TopicPartition, i64>>;

/// Resolves to an error only where the stage ends.
pub(super) type Answer = Shared<oneshot::Receiver<Ends>>;

pub(super) struct Service {
    questions: Sender<oneshot::Sender<Ends>>,
}

impl Service {
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(
        log: Arc<dyn Log>,
        life: Arc<Life>,
        partitions: Vec<TopicPartition>,
    ) -> Result<Self, Error> {
        let (questions, asked) = channel();
        thread::Builder::new()
            .name("ends".to_owned())
            .spawn(move || serve(&*log, &life, partitions, &asked))
            .map_err(Error::Thread)?;
        Ok(Self { questions })
    }

    pub(super) fn ask(&self) -> Answer {
        let (sender, receiver) = oneshot::channel();
        // A service that ended drops the sender, which the receiver tells.
        let _ = self.questions.send(sender);
        receiver.shared()
    }
}

fn serve(
    log: &dyn Log,
    life: &Life,
    mut partitions: Vec<TopicPartition>,
    asked: &Receiver<oneshot::Sender<Ends>>,
) {
    let mut looked = Instant::now();
    // Ends with its stage: the last sender goes with the stage's loop.
    while let Ok(first) = asked.recv() {
        let waiting: Vec<_> = std::iter::once(first).chain(asked.try_iter()).collect();
        let ends = if partitions.is_empty() {
            Ok(Vec::new())
        } else {
            persist(life, "ends", || log.ends(&partitions))
        };
        let ends = match ends {
            Ok(ends) => ends,
            Err(Error::Ended) => return,
            Err(error) => {
                life.board
                    .problem("KafkaRefused", "ends", error.to_string());
                return life.end();
            }
        };
        let ends: Ends = Arc::new(partitions.iter().cloned().zip(ends).collect());
        for question in waiting {
            // Whoever asked may have gone.
            let _ = question.send(Arc::clone(&ends));
        }
        // After the answer, which nobody shall wait for.
        if looked.elapsed() >= LOOK_AGAIN {
            looked = Instant::now();
            partitions = grown(log, partitions);
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
