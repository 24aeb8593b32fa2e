//! One key of a `history` view: its newest events, newest first by event time, then by log order.
//!
//! The fold keeps twice the window, by the clock of the log, so that a reader whose time lies a window behind still finds all it should.

use super::definition::Projected;
use super::latest;
use super::origin::{self, Origin};
use crate::fault::{Fault, Reason};
use crate::names::header;
use crate::record::Record;
use serde_json::Value;
use std::collections::VecDeque;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) value: Box<[u8]>,
    pub(super) time: i64,
    pub(super) origin: Origin,
}

/// Newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    events: VecDeque<Event>,
    bytes: usize,
}

/// `hw-st` of an entry: time and origin of each event, in the order of the value's list.
type State = Vec<(i64, u32, i32, i64)>;

impl Entry {
    /// Adds an event. Gives whether anything changed: an event older than all that are kept is late and dropped.
    ///
    /// # Errors
    /// Where the value, or the list of all, would be over 900 KiB; nothing has changed then.
    pub(super) fn add(
        &mut self,
        value: &Value,
        event: &Projected,
        limit: usize,
        kept_from: Option<i64>,
    ) -> Result<bool, Fault> {
        let value = latest::encode(value)?;
        let place = self.events.partition_point(|kept| kept.time > event.time);
        if place >= limit || kept_from.is_some_and(|kept_from| event.time < kept_from) {
            return Ok(false);
        }
        let leaving: usize = self
            .events
            .iter()
            .skip(limit - 1)
            .map(|event| event.value.len() + 1)
            .sum();
        let bytes = self.bytes + value.len() + 1 - leaving;
        if bytes > latest::VALUE_BYTES_MAX {
            return Err(Fault::new(
                Reason::TooLarge,
                format!(
                    "the history would have {bytes} bytes, the limit is {}. Keep fewer events (history.limit) or less of each (value)",
                    latest::VALUE_BYTES_MAX
                ),
            ));
        }
        self.events.truncate(limit - 1);
        self.events.insert(
            place,
            Event {
                value,
                time: event.time,
                origin: event.origin,
            },
        );
        self.bytes = bytes;
        if let Some(kept_from) = kept_from {
            self.prune(kept_from);
        }
        Ok(true)
    }

    fn prune(&mut self, kept_from: i64) {
        while let Some(oldest) = self.events.back()
            && oldest.time < kept_from
        {
            self.bytes -= oldest.value.len() + 1;
            self.events.pop_back();
        }
    }

    /// Events younger than `after`, newest first.
    pub(super) fn younger_than(&self, after: Option<i64>) -> impl Iterator<Item = &Event> {
        self.events
            .iter()
            .take_while(move |event| after.is_none_or(|after| event.time > after))
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Time and origin of the newest event.
    pub(super) fn newest(&self) -> Option<(i64, Origin)> {
        self.events.front().map(|event| (event.time, event.origin))
    }

    /// The value in the state topic: the JSON list of the events.
    pub(super) fn value(&self) -> Vec<u8> {
        let mut list = Vec::with_capacity(self.bytes + 2);
        list.push(b'[');
        for (place, event) in self.events.iter().enumerate() {
            if place > 0 {
                list.push(b',');
            }
            list.extend_from_slice(&event.value);
        }
        list.push(b']');
        list
    }

    pub(super) fn state_header(&self) -> Option<Vec<u8>> {
        let state: State = self
            .events
            .iter()
            .map(|event| {
                let Origin {
                    from,
                    partition,
                    offset,
                } = event.origin;
                (event.time, from, partition, offset)
            })
            .collect();
        let mut bytes = vec![latest::CODEC];
        serde_json::to_writer(&mut bytes, &state).ok()?;
        Some(bytes)
    }

    pub(super) fn restore(record: &Record<'_>, bytes: &[u8]) -> Result<Self, Fault> {
        let values: Vec<Value> =
            serde_json::from_slice(bytes).map_err(|_| origin::invalid("value"))?;
        let state: State = latest::state(record.header(header::STATE))?;
        if values.len() != state.len() {
            return Err(origin::invalid(header::STATE));
        }
        let events = values
            .iter()
            .zip(state)
            .map(|(value, (time, from, partition, offset))| {
                Ok(Event {
                    // The same bytes as before: an encoded value is canonical.
                    value: latest::encode(value)?,
                    time,
                    origin: Origin {
                        from,
                        partition,
                        offset,
                    },
                })
            })
            .collect::<Result<VecDeque<Event>, Fault>>()?;
        Ok(Self {
            bytes: events.iter().map(|event| event.value.len() + 1).sum(),
            events,
        })
    }
}
