//! What an aggregate gives, computation by computation.

use super::fields::STEPS;
use super::*;
use crate::config::AggregateField;
use crate::expr::{Expression, Names, Shape};
use crate::problem::CompileError;

pub(super) const WITHIN: i64 = 100;

pub(super) fn compiled(fields: Value) -> Result<Aggregate, CompileError> {
    let fields: Vec<AggregateField> = fields
        .as_array()
        .unwrap()
        .iter()
        .map(|field| {
            let mut full = json!({"of": null, "where": null, "withinMs": null, "limit": 5});
            full.as_object_mut()
                .unwrap()
                .extend(field.as_object().unwrap().clone());
            serde_json::from_value(full).unwrap()
        })
        .collect();
    let mut problems = CompileError::default();
    let names = Names::default().shape("value", Shape::Any);
    let aggregate = Aggregate::compile(&fields, &names, &mut problems);
    problems.finish().map(|()| aggregate.unwrap())
}

/// One key, folded with the clock of a partition.
#[derive(Clone)]
pub(super) struct Key<'a> {
    aggregate: &'a Aggregate,
    pub(super) entry: Entry,
    clock: i64,
    offset: i64,
}

impl<'a> Key<'a> {
    pub(super) fn new(aggregate: &'a Aggregate) -> Self {
        Self {
            aggregate,
            entry: Entry::new(aggregate),
            clock: i64::MIN,
            offset: 0,
        }
    }

    /// Whether the event changed anything, and was late.
    pub(super) fn add(&mut self, value: &Value, time: i64) -> Result<(bool, bool), Fault> {
        let origin = Origin {
            from: 0,
            partition: 0,
            offset: self.offset,
        };
        self.offset += 1;
        self.clock = self.clock.max(time);
        let document = Document::built(value.clone());
        let before = self.entry.clone();
        let prepared = self.entry.prepare(
            self.aggregate,
            &document,
            (time, origin),
            self.clock,
            Vec::new(),
        )?;
        assert_eq!(self.entry, before, "preparing changes nothing");
        let (changed, late) = (prepared.changed, prepared.late);
        self.entry.commit(self.aggregate, prepared);
        assert!(changed || self.entry == before);
        let kept: usize = self.entry.fields.iter().map(Accumulator::weight).sum();
        assert_eq!(self.entry.weight, base_weight(self.aggregate) + kept);
        Ok((changed, late))
    }

    pub(super) fn value(&self, at: i64) -> Value {
        self.entry.value(self.aggregate, at)
    }

    /// Written to a state topic and read back.
    pub(super) fn restored(&self) -> Result<Self, Fault> {
        let (time, origin) = self.entry.newest();
        let headers = [
            (header::SOURCE, origin.encode()),
            (header::TIME, time.to_string().into_bytes()),
            (header::STATE, self.entry.state()),
        ];
        let headers: Vec<(&str, Option<&[u8]>)> = headers
            .iter()
            .map(|(name, value)| (*name, Some(value.as_slice())))
            .collect();
        let record = Record {
            topic: "state",
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: Some(b"k"),
            value: Some(b"{}"),
            headers: &headers,
        };
        Ok(Self {
            entry: Entry::restore(self.aggregate, &record)?,
            ..self.clone()
        })
    }
}

fn folded<'a>(aggregate: &'a Aggregate, events: &[(Value, i64)]) -> Key<'a> {
    let mut key = Key::new(aggregate);
    for (value, time) in events {
        key.add(value, *time).unwrap();
    }
    key
}

/// The value of one field over events, at a reader's time.
fn one(field: Value, events: &[(Value, i64)], at: i64) -> Value {
    let mut field = field;
    field["name"] = json!("x");
    let aggregate = compiled(json!([field])).unwrap();
    folded(&aggregate, events).value(at)["x"].clone()
}

#[test]
fn semantics_6_of_no_events_counts_and_sums_are_0_a_top_k_is_empty_and_all_else_is_null() {
    let computes = [
        ("Count", json!(0)),
        ("Sum", json!(0)),
        ("Min", json!(null)),
        ("Max", json!(null)),
        ("Average", json!(null)),
        ("First", json!(null)),
        ("Last", json!(null)),
        ("CountDistinct", json!(0)),
        ("TopK", json!([])),
    ];
    for (compute, empty) in computes {
        let events = [(json!({"n": 7}), 10)];
        let never = json!({"compute": compute, "of": "value.n", "where": "false"});
        assert_eq!(one(never, &events, 10), empty, "{compute}");
        let over = json!({"compute": compute, "of": "value.n", "withinMs": WITHIN});
        assert_eq!(one(over.clone(), &events, 10 + WITHIN), empty, "{compute}");
        assert_ne!(one(over, &events, 9 + WITHIN), empty, "{compute}");
    }
}

#[test]
fn semantics_6_aggregates_count_events_so_that_an_updated_row_counts_again() {
    let events = [(json!({"n": 5}), 1), (json!({"n": 5}), 2)];
    assert_eq!(one(json!({"compute": "Count"}), &events, 9), json!(2));
    assert_eq!(
        one(json!({"compute": "Sum", "of": "value.n"}), &events, 9),
        json!(10)
    );
}

#[test]
fn an_event_without_what_a_field_computes_with_does_not_count_for_it() {
    let aggregate = compiled(json!([
        {"name": "all", "compute": "Count"},
        {"name": "with", "compute": "Count", "of": "value.n"},
        {"name": "sum", "compute": "Sum", "of": "value.n"},
        {"name": "optional", "compute": "Sum", "of": "value.?n"},
        {"name": "last", "compute": "Last", "of": "value.n"},
        {"name": "mean", "compute": "Average", "of": "value.n"},
    ]))
    .unwrap();
    let events = [
        (json!({"n": 4}), 1),
        (json!({}), 2),
        (json!({"n": null}), 3),
        (json!({"n": 5}), 4),
    ];
    assert_eq!(
        folded(&aggregate, &events[..3]).value(9),
        json!({"all": 3, "with": 1, "sum": 4, "optional": 4, "last": 4, "mean": 4.0})
    );
    assert_eq!(
        folded(&aggregate, &events).value(9),
        json!({"all": 4, "with": 2, "sum": 9, "optional": 9, "last": 5, "mean": 4.5})
    );
}

#[test]
fn where_decides_and_one_that_fails_is_a_fault() {
    let aggregate = compiled(json!([
        {"name": "paid", "compute": "Sum", "of": "value.n", "where": "value.paid"},
        {"name": "all", "compute": "Count"},
    ]))
    .unwrap();
    let mut key = Key::new(&aggregate);
    key.add(&json!({"n": 1, "paid": true}), 1).unwrap();
    key.add(&json!({"n": 2, "paid": false}), 2).unwrap();
    let fault = key.add(&json!({"n": 3}), 3).unwrap_err();
    assert_eq!(fault.reason, Reason::AbsentField);
    assert!(fault.message.contains("aggregate field 'paid'"), "{fault}");
    assert_eq!(key.value(9), json!({"paid": 1, "all": 2}));
}

#[test]
fn a_value_that_cannot_be_added_is_a_fault_and_no_field_counts_the_event() {
    for (compute, within, of, bad, message) in [
        ("Sum", None, "value.n", json!({"n": "7"}), "gets a string"),
        (
            "Average",
            Some(9),
            "value.n",
            json!({"n": [1]}),
            "gets a list",
        ),
        (
            "Sum",
            None,
            "value.n",
            json!({"n": i64::MAX}),
            "out of range",
        ),
        (
            "Sum",
            Some(9),
            "value.n",
            json!({"n": i64::MIN}),
            "out of range",
        ),
        (
            "Sum",
            Some(9),
            "value.n",
            json!({"n": u64::MAX}),
            "out of range",
        ),
        (
            "Sum",
            None,
            "value.n",
            json!({"n": f64::MAX}),
            "out of range",
        ),
        ("Max", None, "value.n", json!({"n": {"a": 1}}), "no order"),
        ("Min", Some(9), "value.n", json!({"n": [1]}), "no order"),
        ("Last", None, "value.n / 0.0", json!({"n": 1.0}), "infinity"),
        (
            "Max",
            None,
            "duration(value.n)",
            json!({"n": "1s"}),
            "getSeconds",
        ),
        (
            "Count",
            None,
            "value.n.m",
            json!({"n": "text"}),
            "no fields",
        ),
    ] {
        let aggregate = compiled(json!([
            {"name": "count", "compute": "Count"},
            {"name": "max", "compute": "Max", "of": "value.t"},
            {"name": "x", "compute": compute, "of": of, "withinMs": within},
        ]))
        .unwrap();
        let mut key = Key::new(&aggregate);
        if of == "value.n" {
            let n = if bad["n"].is_f64() {
                json!(f64::MAX)
            } else {
                json!(1)
            };
            let n = if compute == "Average" { json!(1.5) } else { n };
            key.add(&json!({"n": n, "t": 1}), 5).unwrap();
        }
        let before = key.entry.clone();
        let mut bad = bad;
        bad["t"] = json!(2);
        let fault = key.add(&bad, 6).unwrap_err();
        assert!(fault.message.contains(message), "{compute}: {fault}");
        assert!(fault.message.contains("aggregate field 'x'"), "{fault}");
        assert_eq!(key.entry, before, "{compute}");
    }
}

#[test]
fn what_cannot_be_added_is_a_fault_also_where_it_comes_late_and_would_change_nothing() {
    let aggregate = compiled(json!([{"name": "x", "compute": "Min", "of": "value.n"}])).unwrap();
    let mut key = folded(&aggregate, &[(json!({"n": 1}), 10)]);
    assert_eq!(key.add(&json!({"n": 2}), 5), Ok((false, false)));
    let fault = key.add(&json!({"n": {"a": 1}}), 5).unwrap_err();
    assert_eq!(fault.reason, Reason::AggregateFailed);
}

#[test]
fn sums_of_ints_stay_ints_and_sums_with_doubles_are_doubles() {
    let sum = |numbers: &[Value], within: Option<i64>| {
        let events: Vec<(Value, i64)> = numbers.iter().map(|n| (json!({"n": n}), 1)).collect();
        let field = json!({"compute": "Sum", "of": "value.n", "withinMs": within});
        one(field, &events, 1).to_string()
    };
    for within in [None, Some(WITHIN)] {
        assert_eq!(sum(&[json!(1), json!(2)], within), "3");
        assert_eq!(sum(&[json!(1), json!(2.0)], within), "3.0");
        assert_eq!(
            sum(&[json!(0.1), json!(0.2), json!(0.3)], within),
            "0.6000000000000001"
        );
        assert_eq!(sum(&[json!(0.3), json!(0.2), json!(0.1)], within), "0.6");
        // Nothing is left of a large number that has gone: it was never subtracted.
        let numbers = [json!(9_007_199_254_740_993i64), json!(-3)];
        assert_eq!(sum(&numbers, within), "9007199254740990");
    }
    let events = [(json!({"n": 1e17}), 1), (json!({"n": 0.5}), 150)];
    let field = json!({"compute": "Sum", "of": "value.n", "withinMs": WITHIN});
    assert_eq!(one(field, &events, 150), json!(0.5));
}

#[test]
fn first_and_last_go_by_event_time_and_then_by_log_order() {
    let events = [
        (json!({"s": "b"}), 20),
        (json!({"s": "c"}), 20),
        (json!({"s": "a"}), 10),
        (json!({"s": "z"}), 10),
    ];
    for within in [None, Some(WITHIN)] {
        let of = |compute: &str| json!({"compute": compute, "of": "value.s", "withinMs": within});
        assert_eq!(one(of("First"), &events, 20), json!("a"));
        assert_eq!(one(of("Last"), &events, 20), json!("c"));
    }
    let field = json!({"compute": "First", "of": "value.s", "withinMs": WITHIN});
    assert_eq!(one(field, &events, 10 + WITHIN), json!("b"));
}

#[test]
fn min_and_max_give_the_value_itself_in_an_order_over_all_kinds() {
    let ascending = [
        json!(false),
        json!(true),
        json!(-1.5),
        json!(1),
        json!(1.0),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("10"),
        json!("9"),
    ];
    for (place, low) in ascending.iter().enumerate() {
        for high in &ascending[place + 1..] {
            for pair in [[low, high], [high, low]] {
                let events: Vec<(Value, i64)> = pair.iter().map(|n| (json!({"n": n}), 1)).collect();
                for within in [None, Some(WITHIN)] {
                    let of = |compute: &str| {
                        let field =
                            json!({"compute": compute, "of": "value.n", "withinMs": within});
                        one(field, &events, 1).to_string()
                    };
                    assert_eq!(of("Min"), low.to_string());
                    assert_eq!(of("Max"), high.to_string());
                }
            }
        }
    }
}

#[test]
fn timestamps_compare_as_times_and_print_as_text() {
    let events = [
        (json!({"at": "2026-01-01T00:00:00.5Z"}), 1),
        (json!({"at": "2026-01-01T00:00:00Z"}), 2),
        (json!({"at": "2025-12-31T23:00:00Z"}), 3),
    ];
    let of = |compute: &str| json!({"compute": compute, "of": "timestamp(value.at)"});
    assert_eq!(one(of("Max"), &events, 9), json!("2026-01-01T00:00:00.5Z"));
    assert_eq!(one(of("Min"), &events, 9), json!("2025-12-31T23:00:00Z"));
}

#[test]
fn equal_numbers_are_one_value_and_ties_go_by_the_order_of_values() {
    let values = [
        json!("b"),
        json!(1),
        json!(1.0),
        json!("a"),
        json!({"y": 1, "x": 2}),
        json!({"x": 2, "y": 1}),
        json!(0.5),
    ];
    let events: Vec<(Value, i64)> = values.iter().map(|n| (json!({"n": n}), 1)).collect();
    for within in [None, Some(WITHIN)] {
        let distinct = json!({"compute": "CountDistinct", "of": "value.n", "withinMs": within});
        assert_eq!(one(distinct, &events, 1), json!(5));
        let top = json!({"compute": "TopK", "of": "value.n", "withinMs": within, "limit": 4});
        assert_eq!(
            one(top, &events, 1),
            json!([
                {"value": 1, "count": 2},
                {"value": {"x": 2, "y": 1}, "count": 2},
                {"value": 0.5, "count": 1},
                {"value": "a", "count": 1},
            ])
        );
    }
}

#[test]
fn semantics_8_a_reader_behind_the_clock_sees_its_window_and_what_came_later() {
    let count = json!({"compute": "Count", "withinMs": WITHIN});
    let events: Vec<(Value, i64)> = [0, 50, 100, 150, 200]
        .into_iter()
        .map(|time| (json!({}), time))
        .collect();
    for (at, seen) in [(100, 4), (149, 4), (150, 3), (200, 2), (299, 1), (300, 0)] {
        assert_eq!(one(count.clone(), &events, at), json!(seen), "at {at}");
    }
}

#[test]
fn semantics_8_what_is_older_than_is_kept_is_late_and_counts_only_for_all_time() {
    let aggregate = compiled(json!([
        {"name": "ever", "compute": "Count"},
        {"name": "recent", "compute": "Count", "withinMs": WITHIN},
    ]))
    .unwrap();
    let mut key = Key::new(&aggregate);
    assert_eq!(key.add(&json!({}), 1_000), Ok((true, false)));
    assert_eq!(key.add(&json!({}), 1_000 - 2 * WITHIN), Ok((true, false)));
    let late = 1_000 - 2 * WITHIN - WITHIN / STEPS - 1;
    assert_eq!(key.add(&json!({}), late), Ok((true, true)));
    assert_eq!(key.value(1_000 - WITHIN), json!({"ever": 3, "recent": 1}));
    assert_eq!(key.value(700), json!({"ever": 3, "recent": 2}));
    // Only sliding fields: a late event leaves no trace.
    let aggregate =
        compiled(json!([{"name": "n", "compute": "Count", "withinMs": WITHIN}])).unwrap();
    let mut key = folded(&aggregate, &[(json!({}), 1_000)]);
    assert_eq!(key.add(&json!({}), late), Ok((false, true)));
}

#[test]
fn state_is_bounded_and_an_event_too_many_leaves_it_as_it_was() {
    let aggregate = compiled(json!([
        {"name": "n", "compute": "Count"},
        {"name": "values", "compute": "CountDistinct", "of": "value.s", "withinMs": WITHIN},
    ]))
    .unwrap();
    let text = |number: usize| json!({"s": format!("{number:0>4000}")});
    let mut key = Key::new(&aggregate);
    let mut folded = 0;
    let fault = loop {
        match key.add(&text(folded), 10) {
            Ok(_) => folded += 1,
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault.reason, Reason::TooLarge);
    assert!(folded > 100 && key.entry.bytes() <= VALUE_BYTES_MAX);
    assert!(key.entry.state().len() <= VALUE_BYTES_MAX);
    assert_eq!(key.value(10), json!({"n": folded, "values": folded}));
    // A value that is known takes no more room, and what was pruned gives it back.
    key.add(&text(0), 11).unwrap();
    key.add(&text(folded), 1_000).unwrap();
    assert_eq!(key.value(1_000), json!({"n": folded + 2, "values": 1}));
}

#[test]
fn a_state_that_is_not_of_these_fields_is_refused() {
    let aggregate = compiled(json!([
        {"name": "n", "compute": "Count"},
        {"name": "top", "compute": "TopK", "of": "value.n", "withinMs": WITHIN},
        {"name": "last", "compute": "Last", "of": "value.n"},
    ]))
    .unwrap();
    let other = compiled(json!([{"name": "n", "compute": "Count"}])).unwrap();
    let key = folded(
        &aggregate,
        &[(json!({"n": "a"}), 1), (json!({"n": [1]}), 2)],
    );
    let state = key.entry.state();
    assert!(decode(&aggregate, &state).is_some());
    assert!(decode(&other, &state).is_none());
    for end in 0..state.len() {
        assert!(decode(&aggregate, &state[..end]).is_none(), "cut at {end}");
    }
    let mut longer = state.clone();
    longer.push(0);
    assert!(decode(&aggregate, &longer).is_none());
    let mut version = state;
    version[0] = CODEC + 1;
    assert!(decode(&aggregate, &version).is_none());
}

#[test]
fn problems_are_said_at_their_field() {
    let error = compiled(json!([
        {"name": "a", "compute": "Sum", "of": "value.n +"},
        {"name": "b", "compute": "Sum"},
        {"name": "c", "compute": "Count", "where": "other.x"},
        {"name": "c", "compute": "Count"},
        {"name": "d", "compute": "Count", "where": "1"},
    ]))
    .unwrap_err();
    let paths: Vec<&str> = error
        .problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        [
            "spec.aggregate.fields[name=a].of",
            "spec.aggregate.fields[name=b].of",
            "spec.aggregate.fields[name=c].where",
            "spec.aggregate.fields[name=c]",
            "spec.aggregate.fields[name=d].where",
        ]
    );
}

#[test]
fn an_index_reads_fields_over_all_time_only() {
    let fields = json!([
        {"name": "owner", "compute": "Last", "of": "value.owner"},
        {"name": "recent", "compute": "Count", "withinMs": WITHIN},
        {"name": "n", "compute": "Count"},
    ]);
    let names = Names::new(&["key", "value"]);
    let index = |text: &str| {
        let mut aggregate = compiled(fields.clone()).unwrap();
        aggregate
            .index(&Expression::compile(text, &names).unwrap())
            .map(|()| aggregate)
    };
    assert!(
        index("value.recent > 5 ? 'busy' : ''")
            .unwrap_err()
            .contains("'recent'")
    );
    assert!(
        index("value['owner'] + string(value)")
            .unwrap_err()
            .contains("names the fields")
    );
    let aggregate = index("value.owner").unwrap();
    let key = folded(&aggregate, &[(json!({"owner": "o"}), 1)]);
    assert_eq!(key.entry.index_row(&aggregate), json!({"owner": "o"}));
    let next = json!({"owner": "p"});
    let origin = key.entry.newest().1;
    let prepared = key
        .entry
        .prepare(
            &aggregate,
            &Document::built(next),
            (2, origin),
            2,
            Vec::new(),
        )
        .unwrap();
    assert_eq!(
        key.entry.index_row_with(&aggregate, &prepared),
        json!({"owner": "p"})
    );
    assert_eq!(key.entry.index_row(&aggregate), json!({"owner": "o"}));
}
