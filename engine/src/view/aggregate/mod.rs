//! One key of an `aggregate` view: an object of fields, each computed from all events of the key or from those of a window.
//!
//! An [`Aggregate`] is the fields compiled, an [`Entry`] the accumulators of one key. An event is prepared first, which changes
//! nothing and finds every fault, and then committed, which cannot fail: so it is folded whole, over all fields, or not at all.
//!
//! Invariants: the state is a function of the events and of the clock at each of them; nothing is subtracted, so that an entry
//! that was restored gives the same bytes as one that was folded. Windows end when they are read, at the reader's time; the fold keeps
//! entries for twice the window, and up to a sixteenth of a window longer, behind its clock.

mod all_time;
mod codec;
mod fields;
mod item;
#[cfg(test)]
mod property;
mod rows;
mod sliding;
#[cfg(test)]
mod tests;
mod total;

pub(super) use fields::{Aggregate, Taken};
pub(super) use rows::{Applied, Rows};

use super::latest::VALUE_BYTES_MAX;
use super::origin::{self, Origin};
use crate::config::Compute;
use crate::fault::{Fault, Reason};
use crate::json::Document;
use crate::names::header;
use crate::record::Record;
use all_time::AllTime;
use codec::{Bytes, put_count};
use fields::Field;
use item::Item;
use serde_json::{Map, Value, json};
use sliding::Sliding;
use std::cmp::Ordering;

/// First byte of the state.
const CODEC: u8 = 1;
/// Bytes of a time or a count.
const TIME_WEIGHT: usize = 8;
/// A field's place in state and value, beside its name.
const FIELD_WEIGHT: usize = 64;
/// What a field grows by at most, beside its value.
const GROWTH: usize = 32;
/// The accumulators of one key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Time and origin of the newest event.
    newest: (i64, Origin),
    fields: Box<[Accumulator]>,
    weight: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Accumulator {
    AllTime(AllTime),
    Sliding(Box<Sliding>),
}

/// An event that can be folded: what [`Entry::prepare`] found, for [`Entry::commit`].
#[derive(Debug)]
pub(super) struct Prepared {
    time: i64,
    origin: Origin,
    clock: i64,
    takes: Vec<Taken>,
    /// The entry as it will be, where that had to be tried.
    tried: Option<Box<Entry>>,
    pub(super) changed: bool,
    /// Too old for a window that it would have counted in.
    pub(super) late: bool,
}

impl Accumulator {
    fn new(field: &Field) -> Self {
        if field.within.is_some() {
            Self::Sliding(Box::new(Sliding::new(field.compute)))
        } else {
            Self::AllTime(AllTime::new(field.compute))
        }
    }

    /// # Errors
    /// A message where this value cannot be added.
    fn accepts(&self, field: &Field, item: Option<&Item>) -> Result<(), String> {
        if matches!(field.compute, Compute::Min | Compute::Max)
            && let Some(item @ Item::Json(_)) = item
        {
            return Err(format!("gets {}, which has no order", item.described()));
        }
        match self {
            Self::AllTime(state) => state.accepts(item),
            Self::Sliding(state) => state.accepts(item),
        }
    }

    fn would_change(&self, field: &Field, item: Option<&Item>, time: i64) -> bool {
        match self {
            Self::AllTime(state) => state.would_change(field, item, time),
            Self::Sliding(state) => state.would_change(field, item, time),
        }
    }

    fn add(&mut self, field: &Field, item: Option<&Item>, time: i64) -> isize {
        match self {
            Self::AllTime(state) => state.add(field, item, time),
            Self::Sliding(state) => state.add(field, item, time),
        }
    }

    fn value(&self, field: &Field, at: i64) -> Value {
        match self {
            Self::AllTime(state) => state.value(field),
            Self::Sliding(state) => {
                state.value(field, at.saturating_sub(field.within.unwrap_or_default()))
            }
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::AllTime(state) => state.weight(),
            Self::Sliding(state) => state.weight(),
        }
    }
}

impl Entry {
    /// An entry before its first event; it is none until one was committed.
    pub(super) fn new(aggregate: &Aggregate) -> Self {
        Self {
            newest: (
                i64::MIN,
                Origin {
                    from: 0,
                    partition: 0,
                    offset: 0,
                },
            ),
            fields: aggregate.fields.iter().map(Accumulator::new).collect(),
            weight: base_weight(aggregate),
        }
    }

    /// Bytes that it takes at most, as state and value.
    pub(super) fn bytes(&self) -> usize {
        self.weight
    }

    /// Event time and origin of the newest event.
    pub(super) fn newest(&self) -> (i64, Origin) {
        self.newest
    }

    /// What an event would do, `at` being its time and origin. `clock` is the fold's, the event included; `takes` is memory to be used.
    ///
    /// # Errors
    /// An expression that fails; `AggregateFailed` where a value cannot be added; `TooLarge`.
    pub(super) fn prepare(
        &self,
        aggregate: &Aggregate,
        value: &Document<'_>,
        at: (i64, Origin),
        clock: i64,
        mut takes: Vec<Taken>,
    ) -> Result<Prepared, Fault> {
        aggregate.take(value, &mut takes)?;
        let (time, origin) = at;
        let mut prepared = Prepared {
            time,
            origin,
            clock,
            takes,
            tried: None,
            changed: time >= self.newest.0,
            late: false,
        };
        let mut weight = self.weight;
        let mut fits = true;
        for (field, accumulator) in aggregate.fields.iter().zip(&self.fields) {
            let Some(item) = prepared.takes.get(field.input).and_then(Taken::taken) else {
                continue;
            };
            if time < field.kept_from(clock) {
                prepared.late = true;
                continue;
            }
            weight += item.map_or(0, Item::weight) + GROWTH;
            fits &= accumulator.accepts(field, item).is_ok();
            prepared.changed = prepared.changed || accumulator.would_change(field, item, time);
        }
        // What cannot be added is refused even where it would change nothing.
        if !fits || (prepared.changed && weight > VALUE_BYTES_MAX) {
            // What is about to be pruned may make room.
            let mut next = Box::new(self.clone());
            next.prune(aggregate, clock);
            next.check(aggregate, &prepared)?;
            next.add(aggregate, &prepared);
            if next.weight > VALUE_BYTES_MAX {
                return Err(too_large(next.weight));
            }
            prepared.tried = Some(next);
        }
        Ok(prepared)
    }

    /// Folds an event that was prepared on this entry. Gives the memory back.
    pub(super) fn commit(&mut self, aggregate: &Aggregate, mut prepared: Prepared) -> Vec<Taken> {
        match prepared.tried.take() {
            _ if !prepared.changed => {}
            Some(next) => *self = *next,
            None => {
                self.prune(aggregate, prepared.clock);
                self.add(aggregate, &prepared);
            }
        }
        prepared.takes
    }

    fn prune(&mut self, aggregate: &Aggregate, clock: i64) {
        for (field, accumulator) in aggregate.fields.iter().zip(&mut self.fields) {
            if let Accumulator::Sliding(state) = accumulator {
                self.weight -= state.prune(field.kept_from(clock));
            }
        }
    }

    fn check(&self, aggregate: &Aggregate, event: &Prepared) -> Result<(), Fault> {
        for (field, accumulator) in aggregate.fields.iter().zip(&self.fields) {
            if let Some(item) = event.taken_by(field) {
                accumulator.accepts(field, item).map_err(|message| {
                    Fault::new(
                        Reason::AggregateFailed,
                        format!(
                            "aggregate field '{}': {:?} {message}",
                            field.name, field.compute
                        ),
                    )
                })?;
            }
        }
        Ok(())
    }

    fn add(&mut self, aggregate: &Aggregate, event: &Prepared) {
        for (field, accumulator) in aggregate.fields.iter().zip(&mut self.fields) {
            if let Some(item) = event.taken_by(field) {
                let added = accumulator.add(field, item, event.time);
                self.weight = self.weight.saturating_add_signed(added);
            }
        }
        if event.time >= self.newest.0 {
            self.newest = (event.time, event.origin);
        }
    }

    /// The row as of a reader at `at`.
    pub(super) fn value(&self, aggregate: &Aggregate, at: i64) -> Value {
        let fields = aggregate.fields.iter().zip(&self.fields);
        fields
            .map(|(field, accumulator)| (field.name.clone(), accumulator.value(field, at)))
            .collect::<Map<String, Value>>()
            .into()
    }

    /// The fields that indexes read.
    pub(super) fn index_row(&self, aggregate: &Aggregate) -> Value {
        row(aggregate, |place, field| {
            self.fields.get(place).map(|kept| kept.value(field, 0))
        })
    }

    /// The same, as it will be once an event was committed.
    pub(super) fn index_row_with(&self, aggregate: &Aggregate, prepared: &Prepared) -> Value {
        if !prepared.changed {
            return self.index_row(aggregate);
        }
        if let Some(next) = &prepared.tried {
            return next.index_row(aggregate);
        }
        row(aggregate, |place, field| {
            let mut next = self.fields.get(place)?.clone();
            if let Some(item) = prepared.taken_by(field) {
                next.add(field, item, prepared.time);
            }
            Some(next.value(field, 0))
        })
    }

    /// All of it but the newest event's time and origin: the header `hw-st`.
    pub(super) fn state(&self) -> Vec<u8> {
        let mut bytes = vec![CODEC];
        put_count(&mut bytes, self.fields.len());
        for accumulator in &self.fields {
            match accumulator {
                Accumulator::AllTime(state) => state.encode(&mut bytes),
                Accumulator::Sliding(state) => state.encode(&mut bytes),
            }
        }
        bytes
    }

    /// Reads an entry back from its record in the state topic.
    ///
    /// # Errors
    /// `InvalidInternalRecord` where the headers are not those of a checkpoint of these fields.
    pub(super) fn restore(aggregate: &Aggregate, record: &Record<'_>) -> Result<Self, Fault> {
        let (origin, time) = origin::provenance(record)?;
        let fields = record
            .header(header::STATE)
            .and_then(|bytes| decode(aggregate, bytes))
            .ok_or_else(|| origin::invalid(header::STATE))?;
        let kept: usize = fields.iter().map(Accumulator::weight).sum();
        Ok(Self {
            newest: (time, origin),
            weight: base_weight(aggregate) + kept,
            fields,
        })
    }
}

fn decode(aggregate: &Aggregate, bytes: &[u8]) -> Option<Box<[Accumulator]>> {
    let mut bytes = Bytes(bytes);
    if bytes.byte()? != CODEC || bytes.count()? != aggregate.fields.len() {
        return None;
    }
    let fields = aggregate.fields.iter().map(|field| {
        Some(if field.within.is_some() {
            Accumulator::Sliding(Box::new(Sliding::decode(field.compute, &mut bytes)?))
        } else {
            Accumulator::AllTime(AllTime::decode(field.compute, &mut bytes)?)
        })
    });
    let fields = fields.collect::<Option<_>>()?;
    bytes.0.is_empty().then_some(fields)
}

impl Prepared {
    /// The value that a field takes, if it takes the event.
    fn taken_by(&self, field: &Field) -> Option<Option<&Item>> {
        let taken = self.takes.get(field.input).and_then(Taken::taken)?;
        (self.time >= field.kept_from(self.clock)).then_some(taken)
    }
}

fn row(aggregate: &Aggregate, value: impl Fn(usize, &Field) -> Option<Value>) -> Value {
    let fields = aggregate.indexed.iter().filter_map(|place| {
        let field = aggregate.fields.get(*place)?;
        Some((field.name.clone(), value(*place, field)?))
    });
    fields.collect::<Map<String, Value>>().into()
}

fn base_weight(aggregate: &Aggregate) -> usize {
    aggregate
        .names()
        .map(|name| name.len() + FIELD_WEIGHT)
        .sum()
}

/// An item with the time or the count that is kept beside it.
fn timed_weight(item: &Item) -> usize {
    item.weight() + TIME_WEIGHT
}

/// Greater where the left one is rather kept.
fn keep_best(compute: Compute, left: &Item, right: &Item) -> Ordering {
    if compute == Compute::Min {
        right.cmp(left)
    } else {
        left.cmp(right)
    }
}

/// The list of a TopK: by count, and of one count by the order of values.
fn most_frequent<'a>(counts: impl Iterator<Item = (&'a Item, u64)>, limit: usize) -> Value {
    let order = |left: &(&Item, u64), right: &(&Item, u64)| {
        right.1.cmp(&left.1).then_with(|| left.0.cmp(right.0))
    };
    let mut counts: Vec<(&Item, u64)> = counts.collect();
    if counts.len() > limit && limit > 0 {
        counts.select_nth_unstable_by(limit - 1, order);
    }
    counts.truncate(limit);
    counts.sort_unstable_by(order);
    counts
        .into_iter()
        .map(|(item, count)| json!({"value": item.to_json(), "count": count}))
        .collect()
}

fn too_large(bytes: usize) -> Fault {
    Fault::new(
        Reason::TooLarge,
        format!(
            "the aggregate would take {bytes} bytes, the limit is {VALUE_BYTES_MAX}; the former state is kept. Shorten withinSeconds, or count fewer events (where) or fewer different values (of)"
        ),
    )
}
