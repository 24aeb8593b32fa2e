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
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use tokio::sync::oneshot;

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
            .spawn(move || serve(&*log, &life, &partitions, &asked))
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
    partitions: &[TopicPartition],
    asked: &Receiver<oneshot::Sender<Ends>>,
) {
    // Ends with its stage: the last sender goes with the stage's loop.
    while let Ok(first) = asked.recv() {
        let waiting: Vec<_> = std::iter::once(first).chain(asked.try_iter()).collect();
        let ends = if partitions.is_empty() {
            Ok(Vec::new())
        } else {
            persist(life, "ends", || log.ends(partitions))
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
    }
}
