//! Restores the partitions of views from their state topics: as many at once as the machine has processors,
//! each into a partition of its own that readers see once it is whole.

use super::super::life::Life;
use super::super::reading::to_end;
use super::super::{Error, Stall};
use super::One;
use crate::log::Log;
use headwater_engine::fault::Fault;
use headwater_engine::record::TopicPartition;
use headwater_engine::view::Partition;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

/// How often progress is told, at most.
const TELL: Duration = Duration::from_millis(100);

pub(super) struct Job {
    pub(super) one: Arc<One>,
    pub(super) state: TopicPartition,
}

/// Restores all; `progress` is told the mean of their shares, in percent.
///
/// # Errors
/// The first job's that failed; [`Error::Stalled`] for a state that cannot be read.
pub(super) fn all(
    log: &dyn Log,
    life: &Life,
    jobs: Vec<Job>,
    mut progress: impl FnMut(u8),
) -> Result<(), Error> {
    let shares: Vec<AtomicU8> = jobs.iter().map(|_| AtomicU8::new(0)).collect();
    let next = AtomicUsize::new(0);
    let (sender, results) = channel();
    let threads = thread::available_parallelism()
        .map_or(2, usize::from)
        .min(jobs.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, jobs, shares, next) = (sender.clone(), &jobs, &shares, &next);
            thread::Builder::new()
                .name("restore".to_owned())
                .spawn_scoped(scope, move || {
                    loop {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        let (Some(job), Some(share)) = (jobs.get(place), shares.get(place)) else {
                            return;
                        };
                        let result = job.run(log, life, share);
                        let failed = result.is_err();
                        // Whoever waits for it is gone only with a failure of another.
                        let _ = sender.send(result);
                        if failed {
                            return;
                        }
                    }
                })
                .map_err(Error::Thread)?;
        }
        drop(sender);
        let mut told = 0;
        loop {
            match results.recv_timeout(TELL) {
                Ok(result) => result?,
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let sum: usize = shares
                .iter()
                .map(|share| usize::from(share.load(Ordering::Relaxed)))
                .sum();
            let percent = u8::try_from(sum / shares.len().max(1)).unwrap_or(100);
            if percent != told {
                told = percent;
                progress(percent);
            }
        }
    })
}

impl Job {
    fn run(&self, log: &dyn Log, life: &Life, share: &AtomicU8) -> Result<(), Error> {
        let number = self.state.partition;
        let definition = self.one.read(|view| Arc::clone(view.definition()));
        let mut partition = Partition::new(definition, number);
        let mut fault: Option<Fault> = None;
        to_end(
            log,
            life,
            std::slice::from_ref(&self.state),
            &mut |percent| share.store(percent, Ordering::Relaxed),
            &mut |record| {
                if let Err(found) = partition.restore(record) {
                    fault.get_or_insert(found.at(record.position()));
                }
            },
        )?;
        if let Some(fault) = fault {
            return Err(Error::Stalled(Stall::state(&self.state, &fault)));
        }
        share.store(100, Ordering::Relaxed);
        self.one
            .write(|view| *view.partition_mut(number) = partition);
        Ok(())
    }
}
