//! Aggregates against a model that keeps every event and computes anew for every reader.

use super::tests::{Key, WITHIN, compiled};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

struct Model {
    events: Vec<(Value, i64, bool)>,
    clock: i64,
}

const COMPUTES: [&str; 9] = [
    "Count",
    "Sum",
    "Min",
    "Max",
    "Average",
    "First",
    "Last",
    "CountDistinct",
    "TopK",
];

impl Model {
    fn add(&mut self, value: Value, time: i64) {
        self.clock = self.clock.max(time);
        let exact = self.clock - 2 * WITHIN;
        let step = WITHIN / 16;
        let kept = time >= exact - exact.rem_euclid(step);
        self.events.push((value, time, kept));
    }

    fn field(&self, compute: &str, of: &str, only: bool, within: Option<i64>, at: i64) -> Value {
        let seen: Vec<(&Value, i64)> = self
            .events
            .iter()
            .filter(|(value, time, kept)| {
                (!only || value["w"] == true)
                    && within.is_none_or(|within| *kept && *time > at - within)
            })
            .filter_map(|(value, time, _)| {
                let item = value.get(of)?;
                (!item.is_null()).then_some((item, *time))
            })
            .collect();
        let best = |better: fn(&Value, &Value) -> bool| {
            let mut best: Option<&Value> = None;
            for (item, _) in &seen {
                if best.is_none_or(|best| better(item, best)) {
                    best = Some(item);
                }
            }
            best.cloned().unwrap_or(Value::Null)
        };
        match compute {
            "Count" => json!(seen.len()),
            "Min" => best(|left, right| place(left) < place(right)),
            "Max" => best(|left, right| place(left) > place(right)),
            "Sum" => sum(&seen).0,
            "Average" if seen.is_empty() => Value::Null,
            "Average" => json!(sum(&seen).1 / seen.len() as f64),
            "First" => {
                let first = seen.iter().map(|(_, time)| *time).min();
                seen.iter()
                    .find(|(_, time)| Some(*time) == first)
                    .map_or(Value::Null, |(item, _)| (*item).clone())
            }
            "Last" => {
                let last = seen.iter().map(|(_, time)| *time).max();
                seen.iter()
                    .rfind(|(_, time)| Some(*time) == last)
                    .map_or(Value::Null, |(item, _)| (*item).clone())
            }
            _ => {
                let mut counts: BTreeMap<String, (usize, Value)> = BTreeMap::new();
                for (item, _) in &seen {
                    let item = match item.as_f64() {
                        Some(double) if double.fract() == 0.0 => json!(double as i64),
                        _ => (*item).clone(),
                    };
                    counts.entry(item.to_string()).or_insert((0, item)).0 += 1;
                }
                if compute == "CountDistinct" {
                    return json!(counts.len());
                }
                let mut counts: Vec<(usize, Value)> = counts.into_values().collect();
                counts.sort_by_key(|(count, item)| (usize::MAX - count, place(item)));
                counts
                    .into_iter()
                    .take(3)
                    .map(|(count, value)| json!({"value": value, "count": count}))
                    .collect()
            }
        }
    }
}

/// Where a scalar stands among all: kind, number in tenths, int before double, text.
fn place(value: &Value) -> (u8, i64, u8, String) {
    match value {
        Value::Bool(bool) => (0, i64::from(*bool), 0, String::new()),
        Value::Number(number) => {
            let tenths = (number.as_f64().unwrap() * 10.0).round() as i64;
            (1, tenths, u8::from(number.is_f64()), String::new())
        }
        other => (2, 0, 0, other.as_str().unwrap().to_owned()),
    }
}

/// In log order: exact while there are only ints.
fn sum(seen: &[(&Value, i64)]) -> (Value, f64) {
    let mut int = 0;
    let mut double: Option<f64> = None;
    for (item, _) in seen {
        match (item.as_i64(), double) {
            (Some(item), None) => int += item,
            (Some(item), Some(sum)) => double = Some(sum + item as f64),
            (None, sum) => double = Some(sum.unwrap_or(int as f64) + item.as_f64().unwrap()),
        }
    }
    (
        double.map_or(json!(int), |sum| json!(sum)),
        double.unwrap_or(int as f64),
    )
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-3i64..4).prop_map(|int| json!(int)),
        (-30i64..40).prop_map(|tenths| json!(tenths as f64 / 10.0)),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        number(),
        any::<bool>().prop_map(|bool| json!(bool)),
        "[ab]{0,2}".prop_map(|text| json!(text)),
    ]
}

/// An event, and by how much the time of events goes on before it; some are late.
fn event() -> impl Strategy<Value = (Value, i64, i64)> {
    let absent = prop_oneof![4 => Just(0u8), 1 => Just(1u8), 1 => Just(2u8)];
    (
        number(),
        scalar(),
        any::<bool>(),
        absent,
        0i64..60,
        0i64..320,
    )
        .prop_map(|(n, m, w, absent, step, late)| {
            let mut value = json!({"n": n, "m": m, "w": w});
            match absent {
                1 => value.as_object_mut().unwrap().retain(|name, _| name == "w"),
                2 => {
                    value["n"] = Value::Null;
                    value["m"] = Value::Null;
                }
                _ => {}
            }
            (value, step, if late < 200 { 0 } else { late - 60 })
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_computation_is_what_the_events_give(
        events in proptest::collection::vec(event(), 0..60),
        restores in proptest::collection::vec(any::<bool>(), 60),
        ahead in -WITHIN..2 * WITHIN,
    ) {
        let mut fields = Vec::new();
        for compute in COMPUTES {
            for within in [None, Some(WITHIN)] {
                for only in [false, true] {
                    let of = if matches!(compute, "Sum" | "Average") { "n" } else { "m" };
                    fields.push((compute, of, only, within));
                }
            }
        }
        let name = |place: usize| format!("f{place}");
        let aggregate = compiled(fields.iter().enumerate().map(|(place, (compute, of, only, within))| json!({
            "name": name(place), "compute": compute, "of": format!("value.{of}"), "withinMs": within,
            "where": only.then_some("value.w"), "limit": 3,
        })).collect()).unwrap();
        let mut key = Key::new(&aggregate);
        let mut model = Model { events: Vec::new(), clock: 0 };
        let mut now = 1_000;
        for ((value, step, late), restore) in events.into_iter().zip(restores) {
            now += step;
            let time = now - late;
            key.add(&value, time).unwrap();
            model.add(value, time);
            if restore {
                let restored = key.restored().unwrap();
                prop_assert_eq!(&restored.entry, &key.entry);
                prop_assert_eq!(restored.entry.state(), key.entry.state());
                key = restored;
            }
            let at = model.clock + ahead;
            let row = key.value(at);
            for (place, (compute, of, only, within)) in fields.iter().enumerate() {
                let expected = model.field(compute, of, *only, *within, at);
                prop_assert_eq!(
                    row[name(place)].to_string(), expected.to_string(),
                    "{} of {}, only {}, within {:?}, at {}", compute, of, only, within, at
                );
            }
        }
    }
}
