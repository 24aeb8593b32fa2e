//! Reading one partition's state, on a thread of its own; as many at once as the machine has processors.

use super::super::super::life::Life;
use super::super::super::reading::{persist, to_end};
use super::super::super::resume::Intent;
use super::super::super::{Context, Error, Stall};
use super::Taken;
use crate::log::Watermarks;
use headwater_engine::fault::Fault;
use headwater_engine::record::TopicPartition;
use headwater_engine::view::{Definition, Partition};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// What takes longer is told in the process's log.
const LONG: Duration = Duration::from_secs(5);

/// One partition, and where its state and its input are.
pub(super) struct Take {
    pub(super) context: Arc<Context>,
    pub(super) life: Arc<Life>,
    pub(super) definition: Arc<Definition>,
    pub(super) view: String,
    pub(super) input: TopicPartition,
    pub(super) state: TopicPartition,
    /// What was decided for the partition while nobody had it.
    pub(super) intent: Option<Intent>,
    /// Percent of the state that are read.
    pub(super) progress: Arc<AtomicU8>,
}

impl Take {
    pub(super) fn run(&self) -> Result<Taken, Error> {
        let log = &*self.context.services.log;
        let mut partition = self.restore()?;
        let input = std::slice::from_ref(&self.input);
        let marks = persist(&self.life, "watermarks", || log.watermarks(input))?;
        let bounds = marks
            .get(&self.input)
            .copied()
            .unwrap_or(Watermarks { low: 0, high: 0 });
        if let Some(Intent::From(offset)) = self.intent {
            tracing::warn!(partition = %self.input, from = partition.next(), to = offset, "goes on where somebody decided");
            partition.go_on_from(offset);
        }
        let resource = format!("view/{}", self.view);
        let start = Stall::check(&resource, &self.input, partition.next(), bounds)
            .map_err(Error::Stalled)?;
        Ok(Taken {
            partition,
            start,
            target: bounds.high,
            skip: match self.intent {
                Some(Intent::Skip(offset)) => Some(offset),
                _ => None,
            },
            decided: self.intent.is_some(),
        })
    }

    fn restore(&self) -> Result<Partition, Error> {
        let mut partition = Partition::new(Arc::clone(&self.definition), self.input.partition);
        let mut fault: Option<Fault> = None;
        let mut records = 0u64;
        let begun = Instant::now();
        let mut told = begun;
        to_end(
            &*self.context.services.log,
            &self.life,
            std::slice::from_ref(&self.state),
            &mut |percent| {
                self.progress.store(percent, Ordering::Relaxed);
                if told.elapsed() >= LONG {
                    told = Instant::now();
                    tracing::info!(state = %self.state, percent, "restoring");
                }
            },
            &mut |record| {
                records += 1;
                if let Err(found) = partition.restore(record) {
                    fault.get_or_insert(found.at(record.position()));
                }
            },
        )?;
        if let Some(fault) = fault {
            return Err(Error::Stalled(Stall::state(&self.state, &fault)));
        }
        let seconds = begun.elapsed().as_secs_f64();
        if begun.elapsed() >= LONG {
            let (keys, next) = (partition.keys(), partition.next());
            tracing::info!(state = %self.state, keys, records, next, seconds, "restored");
        }
        Ok(partition)
    }
}
