//! Reading one partition's state, on a thread of its own.

use super::super::super::life::Life;
use super::super::super::reading::{persist, to_end};
use super::super::super::{Context, Error, Stall};
use super::Taken;
use crate::log::Watermarks;
use headwater_engine::fault::Fault;
use headwater_engine::record::TopicPartition;
use headwater_engine::view::{Definition, Partition};
use std::sync::Arc;

/// One partition, and where its state and its input are.
pub(super) struct Take {
    pub(super) context: Arc<Context>,
    pub(super) life: Arc<Life>,
    pub(super) definition: Arc<Definition>,
    pub(super) input: TopicPartition,
    pub(super) state: TopicPartition,
}

impl Take {
    pub(super) fn run(&self) -> Result<Taken, Error> {
        let log = &*self.context.services.log;
        let mut partition = Partition::new(Arc::clone(&self.definition), self.input.partition);
        let mut fault: Option<Fault> = None;
        to_end(
            log,
            &self.life,
            std::slice::from_ref(&self.state),
            &mut |_| {},
            &mut |record| {
                if let Err(found) = partition.restore(record) {
                    fault.get_or_insert(found.at(record.position()));
                }
            },
        )?;
        if let Some(fault) = fault {
            return Err(Error::Stalled(Stall::state(&self.state, &fault)));
        }
        let input = std::slice::from_ref(&self.input);
        let marks = persist(&self.life, "watermarks", || log.watermarks(input))?;
        let bounds = marks
            .get(&self.input)
            .copied()
            .unwrap_or(Watermarks { low: 0, high: 0 });
        let start = Stall::check(&self.input, partition.next(), bounds).map_err(Error::Stalled)?;
        Ok(Taken {
            partition,
            start,
            target: bounds.high,
        })
    }
}
