//! Accumulators over a window that slides with the reader's time.
//!
//! A reader at T sees every event younger than T less the window, later ones too: a window is always a tail of the key's events by
//! time. So what is kept is what some tail can show, down to twice the window behind the fold's clock. Sums keep their numbers and
//! are added up anew for every reader, in log order, and are never subtracted from.

use super::all_time::{difference, replaces};
use super::codec::{Bytes, put_count};
use super::fields::Field;
use super::item::Item;
use super::total::Number;
use super::{TIME_WEIGHT, keep_best, most_frequent, timed_weight};
use crate::config::Compute;
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

/// Doubles that are kept for a sum are at most this, so that no sum of all that fit is infinite.
const DOUBLE_MAX: f64 = 1e300;
/// Time, kind and number of one summand.
const SUMMAND_WEIGHT: usize = TIME_WEIGHT + 9;

#[derive(Clone, Debug)]
pub(super) struct Sliding {
    /// No event that is kept is older; it may be less than the oldest.
    oldest: i64,
    kept: Kept,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kept {
    /// Count: event times, ascending.
    Times(VecDeque<i64>),
    /// Sum and Average: in log order.
    Summands {
        list: VecDeque<(i64, Number)>,
        /// The ints without their signs, added up: while that fits, every sum does.
        ints: u64,
    },
    /// Min and Max: by time, ascending; each better than all that are later, as others are never shown.
    Extremes(VecDeque<(i64, Item)>),
    /// First: by time, then log order.
    Events(VecDeque<(i64, Item)>),
    Last(Option<(i64, Item)>),
    /// CountDistinct: each value with the newest time.
    Newest(BTreeMap<Item, i64>),
    /// TopK: each value with its times, ascending.
    Occurrences(BTreeMap<Item, VecDeque<i64>>),
}

impl Sliding {
    pub(super) fn new(compute: Compute) -> Self {
        Self {
            oldest: i64::MAX,
            kept: match compute {
                Compute::Count => Kept::Times(VecDeque::new()),
                Compute::Sum | Compute::Average => Kept::Summands {
                    list: VecDeque::new(),
                    ints: 0,
                },
                Compute::Min | Compute::Max => Kept::Extremes(VecDeque::new()),
                Compute::First => Kept::Events(VecDeque::new()),
                Compute::Last => Kept::Last(None),
                Compute::CountDistinct => Kept::Newest(BTreeMap::new()),
                Compute::TopK => Kept::Occurrences(BTreeMap::new()),
            },
        }
    }

    /// # Errors
    /// A message where a sum could be out of range.
    pub(super) fn accepts(&self, item: Option<&Item>) -> Result<(), String> {
        let (Kept::Summands { ints, .. }, Some(item)) = (&self.kept, item) else {
            return Ok(());
        };
        let fits = match Number::of(item)? {
            Number::Int(int) => ints
                .checked_add(int.unsigned_abs())
                .is_some_and(|ints| i64::try_from(ints).is_ok()),
            Number::Double(double) => double.abs() <= DOUBLE_MAX,
        };
        if fits {
            Ok(())
        } else {
            Err("would be out of range".to_owned())
        }
    }

    /// Whether an event would make another state.
    pub(super) fn would_change(&self, field: &Field, item: Option<&Item>, time: i64) -> bool {
        match (&self.kept, item) {
            (Kept::Extremes(list), Some(item)) => {
                let place = list.partition_point(|(kept, _)| *kept < time);
                list.get(place)
                    .is_none_or(|(_, kept)| keep_best(field.compute, item, kept).is_gt())
            }
            (Kept::Last(Some((kept, _))), _) => replaces(field.compute, time, *kept),
            (Kept::Newest(values), Some(item)) => values
                .get(&item.clone().canonical())
                .is_none_or(|kept| *kept < time),
            _ => true,
        }
    }

    /// Adds an event that is accepted. Gives what it adds to the weight, which may be negative.
    pub(super) fn add(&mut self, field: &Field, item: Option<&Item>, time: i64) -> isize {
        let added = match (&mut self.kept, item) {
            (Kept::Times(times), _) => {
                insert(times, time, |kept| *kept);
                difference(TIME_WEIGHT, 0)
            }
            (Kept::Summands { list, ints }, Some(item)) => match Number::of(item) {
                Ok(number) => {
                    *ints += magnitude(number);
                    list.push_back((time, number));
                    difference(SUMMAND_WEIGHT, 0)
                }
                // Not accepted.
                Err(_) => 0,
            },
            (Kept::Extremes(list), Some(item)) => add_extreme(list, field.compute, item, time),
            (Kept::Events(list), Some(item)) => {
                insert(list, (time, item.clone()), |(kept, _)| *kept);
                difference(timed_weight(item), 0)
            }
            (Kept::Last(kept), Some(item)) => {
                if kept
                    .as_ref()
                    .is_none_or(|(kept, _)| replaces(field.compute, time, *kept))
                {
                    let former = kept.replace((time, item.clone()));
                    let former = former.map_or(0, |(_, item)| timed_weight(&item));
                    difference(timed_weight(item), former)
                } else {
                    0
                }
            }
            (Kept::Newest(values), Some(item)) => {
                let item = item.clone().canonical();
                let weight = timed_weight(&item);
                match values.get_mut(&item) {
                    Some(kept) => {
                        *kept = time.max(*kept);
                        0
                    }
                    None => {
                        values.insert(item, time);
                        difference(weight, 0)
                    }
                }
            }
            (Kept::Occurrences(values), Some(item)) => {
                let item = item.clone().canonical();
                let weight = item.weight() + OCCURRENCES_WEIGHT;
                let times = values.entry(item).or_default();
                let first = times.is_empty();
                insert(times, time, |kept| *kept);
                difference(TIME_WEIGHT + if first { weight } else { 0 }, 0)
            }
            (_, None) => 0,
        };
        self.oldest = self.oldest.min(time);
        added
    }

    /// Takes out what is older than `kept_from`. Gives the weight that went.
    pub(super) fn prune(&mut self, kept_from: i64) -> usize {
        if self.oldest >= kept_from {
            return 0;
        }
        let before = self.weight();
        match &mut self.kept {
            Kept::Times(times) => drop_before(times, kept_from, |time| *time),
            Kept::Summands { list, ints } => {
                list.retain(|(time, _)| *time >= kept_from);
                *ints = magnitudes(list);
            }
            Kept::Extremes(list) | Kept::Events(list) => {
                drop_before(list, kept_from, |(time, _)| *time);
            }
            Kept::Last(kept) => {
                kept.take_if(|(time, _)| *time < kept_from);
            }
            Kept::Newest(values) => values.retain(|_, time| *time >= kept_from),
            Kept::Occurrences(values) => values.retain(|_, times| {
                drop_before(times, kept_from, |time| *time);
                !times.is_empty()
            }),
        }
        self.oldest = self.kept.oldest();
        before - self.weight()
    }

    /// As of a reader that sees what is younger than `after`.
    pub(super) fn value(&self, field: &Field, after: i64) -> Value {
        match &self.kept {
            Kept::Times(times) => Value::from(times.len() - older(times, after)),
            Kept::Summands { list, .. } => {
                let mut sum = Number::Int(0);
                let mut count = 0;
                for (time, number) in list {
                    if *time > after {
                        // What was accepted is in range in any selection.
                        sum = sum.plus(*number).unwrap_or(sum);
                        count += 1;
                    }
                }
                if field.compute == Compute::Average {
                    sum.mean(count)
                } else {
                    sum.to_json()
                }
            }
            Kept::Extremes(list) | Kept::Events(list) => list
                .get(list.partition_point(|(time, _)| *time <= after))
                .map_or(Value::Null, |(_, item)| item.to_json()),
            Kept::Last(kept) => kept
                .as_ref()
                .filter(|(time, _)| *time > after)
                .map_or(Value::Null, |(_, item)| item.to_json()),
            Kept::Newest(values) => {
                Value::from(values.values().filter(|time| **time > after).count())
            }
            Kept::Occurrences(values) => most_frequent(
                values
                    .iter()
                    .map(|(item, times)| (item, (times.len() - older(times, after)) as u64))
                    .filter(|(_, count)| *count > 0),
                field.limit,
            ),
        }
    }

    pub(super) fn weight(&self) -> usize {
        match &self.kept {
            Kept::Times(times) => times.len() * TIME_WEIGHT,
            Kept::Summands { list, .. } => list.len() * SUMMAND_WEIGHT,
            Kept::Extremes(list) | Kept::Events(list) => {
                list.iter().map(|(_, item)| timed_weight(item)).sum()
            }
            Kept::Last(kept) => kept.as_ref().map_or(0, |(_, item)| timed_weight(item)),
            Kept::Newest(values) => values.keys().map(timed_weight).sum(),
            Kept::Occurrences(values) => values
                .iter()
                .map(|(item, times)| item.weight() + OCCURRENCES_WEIGHT + times.len() * TIME_WEIGHT)
                .sum(),
        }
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        match &self.kept {
            Kept::Times(times) => encode_times(times, bytes),
            Kept::Summands { list, .. } => {
                put_count(bytes, list.len());
                for (time, number) in list {
                    bytes.extend(time.to_le_bytes());
                    number.encode(bytes);
                }
            }
            Kept::Extremes(list) | Kept::Events(list) => {
                put_count(bytes, list.len());
                for (time, item) in list {
                    bytes.extend(time.to_le_bytes());
                    item.encode(bytes);
                }
            }
            Kept::Last(kept) => {
                put_count(bytes, usize::from(kept.is_some()));
                if let Some((time, item)) = kept {
                    bytes.extend(time.to_le_bytes());
                    item.encode(bytes);
                }
            }
            Kept::Newest(values) => {
                put_count(bytes, values.len());
                for (item, time) in values {
                    item.encode(bytes);
                    bytes.extend(time.to_le_bytes());
                }
            }
            Kept::Occurrences(values) => {
                put_count(bytes, values.len());
                for (item, times) in values {
                    item.encode(bytes);
                    encode_times(times, bytes);
                }
            }
        }
    }

    pub(super) fn decode(compute: Compute, bytes: &mut Bytes<'_>) -> Option<Self> {
        fn timed(bytes: &mut Bytes<'_>) -> Option<(i64, Item)> {
            Some((bytes.int()?, Item::decode(bytes)?))
        }
        let kept = match compute {
            Compute::Count => Kept::Times(bytes.list(Bytes::int)?),
            Compute::Sum | Compute::Average => {
                let list: VecDeque<(i64, Number)> =
                    bytes.list(|bytes| Some((bytes.int()?, Number::decode(bytes)?)))?;
                Kept::Summands {
                    ints: magnitudes(&list),
                    list,
                }
            }
            Compute::Min | Compute::Max => Kept::Extremes(bytes.list(timed)?),
            Compute::First => Kept::Events(bytes.list(timed)?),
            Compute::Last => {
                let mut list: Vec<(i64, Item)> = bytes.list(timed)?;
                let kept = list.pop();
                if !list.is_empty() {
                    return None;
                }
                Kept::Last(kept)
            }
            Compute::CountDistinct => {
                Kept::Newest(bytes.list(|bytes| Some((Item::decode(bytes)?, bytes.int()?)))?)
            }
            Compute::TopK => Kept::Occurrences(
                bytes.list(|bytes| Some((Item::decode(bytes)?, bytes.list(Bytes::int)?)))?,
            ),
        };
        Some(Self {
            oldest: kept.oldest(),
            kept,
        })
    }
}

/// The bound `oldest` is no part of the state.
impl PartialEq for Sliding {
    fn eq(&self, other: &Self) -> bool {
        self.kept == other.kept
    }
}

impl Eq for Sliding {}

impl Kept {
    /// `i64::MAX` where nothing is kept.
    fn oldest(&self) -> i64 {
        match self {
            Self::Times(times) => times.front().copied(),
            Self::Summands { list, .. } => list.iter().map(|(time, _)| *time).min(),
            Self::Extremes(list) | Self::Events(list) => list.front().map(|(time, _)| *time),
            Self::Last(kept) => kept.as_ref().map(|(time, _)| *time),
            Self::Newest(values) => values.values().copied().min(),
            Self::Occurrences(values) => values
                .values()
                .filter_map(|times| times.front().copied())
                .min(),
        }
        .unwrap_or(i64::MAX)
    }
}

/// The list of times of one value.
const OCCURRENCES_WEIGHT: usize = 4;

/// Inserts by time, behind those of the same time.
fn insert<T>(list: &mut VecDeque<T>, one: T, time: impl Fn(&T) -> i64) {
    let at = time(&one);
    if list.back().is_none_or(|last| time(last) <= at) {
        list.push_back(one);
    } else {
        let place = list.partition_point(|kept| time(kept) <= at);
        list.insert(place, one);
    }
}

fn drop_before<T>(list: &mut VecDeque<T>, kept_from: i64, time: impl Fn(&T) -> i64) {
    while list.front().is_some_and(|first| time(first) < kept_from) {
        list.pop_front();
    }
}

/// How many are not younger than `after`.
fn older(times: &VecDeque<i64>, after: i64) -> usize {
    times.partition_point(|time| *time <= after)
}

/// Of equal values the later stays: a tail that holds the earlier holds it too.
fn add_extreme(
    list: &mut VecDeque<(i64, Item)>,
    compute: Compute,
    item: &Item,
    time: i64,
) -> isize {
    let later = list.partition_point(|(kept, _)| *kept < time);
    if list
        .get(later)
        .is_some_and(|(_, kept)| keep_best(compute, item, kept) != Ordering::Greater)
    {
        return 0;
    }
    let mut end = list.partition_point(|(kept, _)| *kept <= time);
    let mut weight = difference(timed_weight(item), 0);
    while end > 0
        && let Some((_, kept)) = list.get(end - 1)
        && keep_best(compute, item, kept) != Ordering::Less
    {
        weight -= difference(timed_weight(kept), 0);
        list.remove(end - 1);
        end -= 1;
    }
    list.insert(end, (time, item.clone()));
    weight
}

fn magnitude(number: Number) -> u64 {
    match number {
        Number::Int(int) => int.unsigned_abs(),
        Number::Double(_) => 0,
    }
}

fn magnitudes(list: &VecDeque<(i64, Number)>) -> u64 {
    list.iter()
        .map(|(_, number)| magnitude(*number))
        .fold(0, u64::saturating_add)
}

fn encode_times(times: &VecDeque<i64>, bytes: &mut Vec<u8>) {
    put_count(bytes, times.len());
    for time in times {
        bytes.extend(time.to_le_bytes());
    }
}
