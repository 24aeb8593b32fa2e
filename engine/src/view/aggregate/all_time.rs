//! Accumulators over all events of a key.

use super::codec::{Bytes, put_count};
use super::fields::Field;
use super::item::Item;
use super::total::Number;
use super::{TIME_WEIGHT, keep_best, most_frequent, timed_weight};
use crate::config::Compute;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AllTime {
    Count(u64),
    Sum(Number),
    Average {
        sum: Number,
        count: u64,
    },
    /// Min and Max.
    Extreme(Option<Item>),
    /// First and Last, with its event time.
    Edge(Option<Box<(i64, Item)>>),
    Distinct(BTreeSet<Item>),
    Counts(BTreeMap<Item, u64>),
}

impl AllTime {
    pub(super) fn new(compute: Compute) -> Self {
        match compute {
            Compute::Count => Self::Count(0),
            Compute::Sum => Self::Sum(Number::Int(0)),
            Compute::Average => Self::Average {
                sum: Number::Int(0),
                count: 0,
            },
            Compute::Min | Compute::Max => Self::Extreme(None),
            Compute::First | Compute::Last => Self::Edge(None),
            Compute::CountDistinct => Self::Distinct(BTreeSet::new()),
            Compute::TopK => Self::Counts(BTreeMap::new()),
        }
    }

    /// # Errors
    /// A message where there is no sum, or none that is in range.
    pub(super) fn accepts(&self, item: Option<&Item>) -> Result<(), String> {
        let (Self::Sum(sum) | Self::Average { sum, .. }) = self else {
            return Ok(());
        };
        let number = item.map_or(Ok(Number::Int(0)), Number::of)?;
        match sum.plus(number) {
            Some(_) => Ok(()),
            None => Err("would be out of range".to_owned()),
        }
    }

    /// Whether an event would make another state.
    pub(super) fn would_change(&self, field: &Field, item: Option<&Item>, time: i64) -> bool {
        match (self, item) {
            (Self::Extreme(Some(kept)), Some(item)) => keep_best(field.compute, item, kept).is_gt(),
            (Self::Edge(Some(kept)), Some(_)) => replaces(field.compute, time, kept.0),
            (Self::Distinct(kept), Some(item)) => !kept.contains(&item.clone().canonical()),
            _ => true,
        }
    }

    /// Adds an event that is accepted. Gives what it adds to the weight, which may be negative.
    pub(super) fn add(&mut self, field: &Field, item: Option<&Item>, time: i64) -> isize {
        match (self, item) {
            (Self::Count(count), _) => *count += 1,
            (Self::Sum(sum), Some(item)) => add_to(sum, item),
            (Self::Average { sum, count }, Some(item)) => {
                add_to(sum, item);
                *count += 1;
            }
            (Self::Extreme(kept), Some(item)) => {
                let better = |kept: &Item| keep_best(field.compute, item, kept).is_gt();
                if kept.as_ref().is_none_or(better) {
                    let former = kept.replace(item.clone());
                    return difference(item.weight(), former.as_ref().map_or(0, Item::weight));
                }
            }
            (Self::Edge(kept), Some(item)) => {
                let later = kept
                    .as_ref()
                    .is_none_or(|kept| replaces(field.compute, time, kept.0));
                if later {
                    let former = kept.replace(Box::new((time, item.clone())));
                    let former = former.map_or(0, |kept| timed_weight(&kept.1));
                    return difference(timed_weight(item), former);
                }
            }
            (Self::Distinct(kept), Some(item)) => {
                let item = item.clone().canonical();
                let weight = item.weight();
                if kept.insert(item) {
                    return difference(weight, 0);
                }
            }
            (Self::Counts(counts), Some(item)) => {
                let item = item.clone().canonical();
                let weight = item.weight() + TIME_WEIGHT;
                let count = counts.entry(item).or_insert(0);
                *count += 1;
                if *count == 1 {
                    return difference(weight, 0);
                }
            }
            (_, None) => {}
        }
        0
    }

    pub(super) fn value(&self, field: &Field) -> Value {
        match self {
            Self::Count(count) => Value::from(*count),
            Self::Sum(sum) => sum.to_json(),
            Self::Average { sum, count } => sum.mean(*count),
            Self::Extreme(kept) => kept.as_ref().map_or(Value::Null, Item::to_json),
            Self::Edge(kept) => kept.as_ref().map_or(Value::Null, |kept| kept.1.to_json()),
            Self::Distinct(kept) => Value::from(kept.len()),
            Self::Counts(counts) => most_frequent(
                counts.iter().map(|(item, count)| (item, *count)),
                field.limit,
            ),
        }
    }

    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Count(_) | Self::Sum(_) | Self::Average { .. } => 0,
            Self::Extreme(kept) => kept.as_ref().map_or(0, Item::weight),
            Self::Edge(kept) => kept.as_ref().map_or(0, |kept| timed_weight(&kept.1)),
            Self::Distinct(kept) => kept.iter().map(Item::weight).sum(),
            Self::Counts(counts) => counts.keys().map(timed_weight).sum(),
        }
    }

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Count(count) => bytes.extend(count.to_le_bytes()),
            Self::Sum(sum) => sum.encode(bytes),
            Self::Average { sum, count } => {
                sum.encode(bytes);
                bytes.extend(count.to_le_bytes());
            }
            Self::Extreme(kept) => {
                put_count(bytes, usize::from(kept.is_some()));
                kept.iter().for_each(|item| item.encode(bytes));
            }
            Self::Edge(kept) => {
                put_count(bytes, usize::from(kept.is_some()));
                if let Some(kept) = kept {
                    bytes.extend(kept.0.to_le_bytes());
                    kept.1.encode(bytes);
                }
            }
            Self::Distinct(kept) => {
                put_count(bytes, kept.len());
                kept.iter().for_each(|item| item.encode(bytes));
            }
            Self::Counts(counts) => {
                put_count(bytes, counts.len());
                for (item, count) in counts {
                    item.encode(bytes);
                    bytes.extend(count.to_le_bytes());
                }
            }
        }
    }

    pub(super) fn decode(compute: Compute, bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(match compute {
            Compute::Count => Self::Count(bytes.uint()?),
            Compute::Sum => Self::Sum(Number::decode(bytes)?),
            Compute::Average => Self::Average {
                sum: Number::decode(bytes)?,
                count: bytes.uint()?,
            },
            Compute::Min | Compute::Max => {
                let kept: Vec<Item> = bytes.list(Item::decode)?;
                Self::Extreme(at_most_one(kept)?)
            }
            Compute::First | Compute::Last => {
                let kept: Vec<(i64, Item)> =
                    bytes.list(|bytes| Some((bytes.int()?, Item::decode(bytes)?)))?;
                Self::Edge(at_most_one(kept)?.map(Box::new))
            }
            Compute::CountDistinct => Self::Distinct(bytes.list(Item::decode)?),
            Compute::TopK => {
                Self::Counts(bytes.list(|bytes| Some((Item::decode(bytes)?, bytes.uint()?)))?)
            }
        })
    }
}

/// Of two events of the same time the first stays First, and the last is Last.
pub(super) fn replaces(compute: Compute, time: i64, kept: i64) -> bool {
    if compute == Compute::First {
        time < kept
    } else {
        time >= kept
    }
}

fn add_to(sum: &mut Number, item: &Item) {
    // Accepted before, so that it is a number and in range.
    if let Some(next) = Number::of(item).ok().and_then(|number| sum.plus(number)) {
        *sum = next;
    }
}

pub(super) fn difference(more: usize, less: usize) -> isize {
    more.cast_signed() - less.cast_signed()
}

fn at_most_one<T>(mut list: Vec<T>) -> Option<Option<T>> {
    let first = list.pop();
    list.is_empty().then_some(first)
}
