//! A view as the log has it now, for whoever has no stage to ask: restored from its state topic and folded on, as
//! every reader of it does, and no further than where it stands still.

use super::{Gateway, missing};
use crate::dump;
use crate::error::Error;
use headwater_engine::config::{Input, InvalidRecords, Stage, View};
use headwater_engine::key::Key;
use headwater_engine::names::MARK_KEY;
use headwater_engine::record::TopicPartition;
use headwater_engine::view::{Definition, Partition};
use headwater_runtime::log::{Start, Watermarks};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Gateway {
    /// The partitions of a view up to the input's end. Of what was checkpointed only `key` is read, if one is given.
    pub(super) fn snapshot(
        &self,
        stage: &Stage,
        view: &View,
        key: Option<&Key>,
    ) -> Result<BTreeMap<i32, Partition>, Error> {
        let definition = Definition::compile(view, &stage.sources)
            .map_err(|error| Error::refused(error.to_string()))?;
        let topic = view.input.topic();
        let inputs = dump::partitions(&*self.log, topic)?.ok_or_else(|| missing(topic))?;
        let mut states: BTreeMap<i32, Partition> = inputs
            .iter()
            .map(|at| {
                let state = Partition::new(Arc::clone(&definition), at.partition);
                (at.partition, state)
            })
            .collect();
        let wanted = |bytes: Option<&[u8]>| {
            key.is_none_or(|key| bytes == Some(key.as_bytes()) || bytes == Some(MARK_KEY))
        };
        let mut bad = None;
        let found = dump::scan(&*self.log, &view.state_topic, &mut |record| {
            if let Some(state) = states.get_mut(&record.partition)
                && wanted(record.key)
                && let Err(fault) = state.restore(record)
            {
                bad.get_or_insert(fault.at(record.position()));
            }
        })?;
        if !found {
            return Err(missing(&view.state_topic));
        }
        if let Some(fault) = bad {
            return Err(Error::failed(format!("the state cannot be read: {fault}")));
        }
        let bounds = self.log.watermarks(&inputs)?;
        let starts: Vec<(TopicPartition, Start)> = inputs
            .into_iter()
            .filter_map(|at| {
                let next = states.get(&at.partition)?.next();
                let bounds = bounds
                    .get(&at)
                    .copied()
                    .unwrap_or(Watermarks { low: 0, high: 0 });
                // Nothing to be read, or what a stage stalls at: then the state is all that there is.
                let readable = next <= bounds.high && (next == 0 || next >= bounds.low);
                let start = Start::Offset(next.max(bounds.low));
                readable.then_some((at, start))
            })
            .collect();
        let stops = stops(stage, view);
        let mut still = BTreeSet::new();
        dump::scan_from(&*self.log, topic, &starts, &mut |record| {
            if let Some(state) = states.get_mut(&record.partition)
                && !still.contains(&record.partition)
            {
                let folded = state.fold(record);
                if stops && folded.fault.is_some() {
                    still.insert(record.partition);
                }
            }
        })?;
        Ok(states)
    }
}

/// Whether a partition stands still at a record that cannot be folded. An input log of the view's own holds only what its
/// intake let through.
fn stops(stage: &Stage, view: &View) -> bool {
    match &view.input {
        Input::Source { topic } => stage
            .sources
            .values()
            .any(|source| source.topic == *topic && source.invalid_records == InvalidRecords::Stop),
        Input::Own { .. } => false,
    }
}
