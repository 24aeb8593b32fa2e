//! Fields computed from events: every event is kept, and looked at again for every answer.

use super::rows::Row;
use super::{Fault, Maybe};
use serde_json::{Number, Value, json};
use std::cmp::Ordering;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    Count,
    Sum,
    Min,
    Max,
    Average,
    First,
    Last,
    CountDistinct,
    TopK,
}

/// An expression over a view's value: its CEL text, and the same as a closure. An absent field is `Ok(None)`.
#[derive(Debug)]
pub struct Over<T> {
    pub text: &'static str,
    pub call: fn(&Value) -> Maybe<T>,
}

impl<T> Clone for Over<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Over<T> {}

#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub compute: Compute,
    pub of: Option<Over<Option<Value>>>,
    pub filter: Option<Over<bool>>,
    pub within_ms: Option<i64>,
    pub limit: usize,
}

impl Field {
    /// What an event counts with; `None`: it does not count.
    ///
    /// # Errors
    /// Where that cannot be told.
    fn taken(&self, value: &Value) -> Maybe<Option<Value>> {
        if let Some(filter) = self.filter
            && !(filter.call)(value)?
        {
            return Ok(None);
        }
        let Some(of) = self.of else {
            return Ok(Some(Value::Null));
        };
        Ok((of.call)(value)?.filter(|it| !it.is_null()))
    }

    /// Whether a value can be computed with.
    fn takes(&self, value: &Value) -> bool {
        match self.compute {
            Compute::Sum | Compute::Average => self.of.is_none() || value.is_number(),
            Compute::Min | Compute::Max => !value.is_array() && !value.is_object(),
            _ => true,
        }
    }

    /// Event times before it are not kept: twice the window, in steps of a sixteenth of it.
    fn kept_from(&self, clock: i64) -> i64 {
        self.within_ms.map_or(i64::MIN, |within| {
            let oldest = clock.saturating_sub(2 * within);
            oldest.saturating_sub(oldest.rem_euclid((within / 16).max(1)))
        })
    }

    fn result(&self, events: &[Row], at: i64) -> Value {
        let counted: Vec<(i64, Value)> = events
            .iter()
            .filter(|event| self.within_ms.is_none_or(|within| event.time > at - within))
            .filter_map(|event| Some((event.time, self.taken(&event.value).unwrap()?)))
            .collect();
        let values = || counted.iter().map(|(_, value)| value);
        let first = |least: Option<&Value>| least.cloned().unwrap_or(Value::Null);
        match self.compute {
            Compute::Count => json!(counted.len()),
            Compute::Sum => Value::Number(sum(values())),
            Compute::Average if counted.is_empty() => Value::Null,
            Compute::Average => {
                json!(sum(values()).as_f64().unwrap() / counted.len() as f64)
            }
            Compute::Min => first(values().min_by(|left, right| order(left, right))),
            Compute::Max => first(values().max_by(|left, right| order(left, right))),
            // Of one time, the first in the log; of the newest, the last.
            Compute::First => first(
                counted
                    .iter()
                    .min_by_key(|(time, _)| *time)
                    .map(|(_, value)| value),
            ),
            Compute::Last => first(
                counted
                    .iter()
                    .max_by_key(|(time, _)| *time)
                    .map(|(_, value)| value),
            ),
            Compute::CountDistinct => json!(tally(values()).len()),
            Compute::TopK => {
                let mut tally = tally(values());
                tally.sort_by(|left, right| {
                    right.1.cmp(&left.1).then_with(|| order(&left.0, &right.0))
                });
                tally
                    .into_iter()
                    .take(self.limit)
                    .map(|(value, count)| json!({"value": value, "count": count}))
                    .collect()
            }
        }
    }
}

/// Whether an event can be folded. One that is too late for a field is nothing to it.
pub fn check(fields: &[Field], value: &Value, time: i64, clock: i64) -> Maybe<()> {
    for field in fields {
        let taken = field.taken(value)?;
        let late = time < field.kept_from(clock);
        if !late && taken.is_some_and(|it| !field.takes(&it)) {
            return Err(Fault);
        }
    }
    Ok(())
}

/// The row that a reader finds at a time, from a key's events, oldest in the log first.
pub fn row(fields: &[Field], events: &[Row], at: i64) -> Option<Row> {
    let newest = events.iter().max_by_key(|event| event.time)?;
    let value: serde_json::Map<String, Value> = fields
        .iter()
        .map(|field| (field.name.to_owned(), field.result(events, at)))
        .collect();
    Some(Row {
        value: Value::Object(value),
        time: newest.time,
        origin: newest.origin,
    })
}

/// An int until the first double.
fn sum<'a>(values: impl Iterator<Item = &'a Value>) -> Number {
    values.fold(Number::from(0), |sum, value| {
        match (sum.as_i64(), value.as_i64()) {
            (Some(sum), Some(value)) => Number::from(sum + value),
            _ => Number::from_f64(sum.as_f64().unwrap() + value.as_f64().unwrap()).unwrap(),
        }
    })
}

/// Bools, numbers by value, texts, then all else by its JSON; an int before an equal double.
fn order(left: &Value, right: &Value) -> Ordering {
    same_or_order(left, right).then_with(|| left.is_f64().cmp(&right.is_f64()))
}

/// As [`order`], where equal numbers are one value.
fn same_or_order(left: &Value, right: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Bool(_) => 0,
        Value::Number(_) => 1,
        Value::String(_) => 2,
        _ => 3,
    };
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Number(left), Value::Number(right)) => left
            .as_f64()
            .unwrap()
            .partial_cmp(&right.as_f64().unwrap())
            .unwrap(),
        (Value::String(left), Value::String(right)) => left.cmp(right),
        _ if rank(left) == 3 && rank(right) == 3 => left.to_string().cmp(&right.to_string()),
        _ => rank(left).cmp(&rank(right)),
    }
}

/// Each value once, with how often it is there: a double that is whole is its int.
fn tally<'a>(values: impl Iterator<Item = &'a Value>) -> Vec<(Value, usize)> {
    let mut tally: Vec<(Value, usize)> = Vec::new();
    for value in values {
        match tally
            .iter_mut()
            .find(|(known, _)| same_or_order(known, value) == Ordering::Equal)
        {
            Some((_, count)) => *count += 1,
            None => tally.push((whole(value), 1)),
        }
    }
    tally
}

fn whole(value: &Value) -> Value {
    match value.as_f64().filter(|it| it.fract() == 0.0) {
        Some(number) => json!(number as i64),
        None => value.clone(),
    }
}
