//! Views through their front door: configuration in, records in, rows and checkpoints out.

mod changes;
mod crashes;
mod storage;

use super::intake::Intake;
use super::*;
use crate::config;
use crate::fault::Reason;
use crate::intake::TakeIn;
use crate::names;
use crate::record::NewRecord;
use serde_json::json;

const HOUR: i64 = 3_600_000;

fn sources(of: Value) -> BTreeMap<String, config::Source> {
    of.as_object()
        .unwrap()
        .iter()
        .map(|(name, more)| {
            let mut source = json!({
                "name": name, "topic": format!("t.{name}"), "format": "Json", "keyFormat": "Text",
                "schema": null, "key": null, "eventTime": null, "invalidRecords": "DeadLetter",
            });
            source
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            (name.clone(), serde_json::from_value(source).unwrap())
        })
        .collect()
}

/// A view over sources `a` and `b` as its `from` names them; entries are `{source, ...}`.
fn compile(from: Value, fold: Value, indexes: Value) -> Arc<Definition> {
    compile_with(from, fold, indexes, None)
}

fn compile_with(
    from: Value,
    fold: Value,
    indexes: Value,
    changes: Option<&str>,
) -> Arc<Definition> {
    let from: Vec<Value> = from
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let mut full = json!({
                "name": entry["source"], "source": null, "filter": null, "key": null, "value": null,
                "delete": null, "required": false,
            });
            full.as_object_mut()
                .unwrap()
                .extend(entry.as_object().unwrap().clone());
            full
        })
        .collect();
    let own = from.len() > 1 || from[0]["key"].is_string();
    let input = if own {
        json!({"own": {"topic": "v-in"}})
    } else {
        json!({"source": {"topic": format!("t.{}", from[0]["source"].as_str().unwrap())}})
    };
    let view: config::View = serde_json::from_value(json!({
        "name": "v", "generation": "000000", "from": from, "fold": fold, "indexes": indexes,
        "input": input, "stateTopic": "v", "deadTopic": "v.dead", "changesTopic": changes,
    }))
    .unwrap();
    Definition::compile(&view, &sources(json!({"a": {}, "b": {}}))).unwrap()
}

fn latest() -> Value {
    json!({"latest": {"merge": "Replace"}})
}

fn fields() -> Value {
    json!({"latest": {"merge": "Fields"}})
}

fn history(limit: u32, within_ms: Option<i64>) -> Value {
    json!({"history": {"limit": limit, "withinMs": within_ms}})
}

fn new(topic: &str, key: Option<&str>, value: Option<&str>, time: i64) -> NewRecord {
    NewRecord {
        topic: topic.to_owned(),
        partition: Some(0),
        key: key.map(|key| key.as_bytes().to_vec()),
        value: value.map(|value| value.as_bytes().to_vec()),
        headers: Vec::new(),
        timestamp: Some(time),
    }
}

fn put(key: &str, value: Value, time: i64) -> NewRecord {
    new("t.a", Some(key), Some(&value.to_string()), time)
}

fn fold_all(view: &mut View, records: &[NewRecord]) -> Vec<Folded> {
    records
        .iter()
        .zip(view.partition_mut(0).next()..)
        .map(|(record, offset)| record.lend(offset, |record| view.partition_mut(0).fold(record)))
        .collect()
}

fn folded(definition: &Arc<Definition>, records: &[NewRecord]) -> View {
    let mut view = View::new(Arc::clone(definition));
    let faults: Vec<Fault> = fold_all(&mut view, records)
        .into_iter()
        .filter_map(|folded| folded.fault)
        .collect();
    assert_eq!(faults, []);
    view
}

use crate::fault::Fault;

fn key(text: &str) -> Key {
    Key::from_text(text).unwrap().unwrap()
}

fn value(view: &View, of: &str) -> Option<Value> {
    view.get(&key(of), i64::MAX).map(|row| row.value)
}

/// What the intake of a view makes of records, in the order in which they are handed over.
fn taken(definition: &Arc<Definition>, records: &[NewRecord]) -> Vec<NewRecord> {
    let mut intake = Intake::new(Arc::clone(definition), 1).unwrap();
    let mut offsets: BTreeMap<String, i64> = BTreeMap::new();
    for record in records {
        let offset = offsets.entry(record.topic.clone()).or_default();
        let faults = record.lend(*offset, |record| intake.take(record));
        assert_eq!(faults, []);
        *offset += 1;
    }
    intake.drain(&|_, _| false)
}

#[test]
fn latest_keeps_the_newest_of_the_log_with_its_origin() {
    let view = folded(
        &compile(json!([{"source": "a"}]), latest(), json!([])),
        &[
            put("k", json!({"n": 1}), 50),
            put("k", json!({"n": 2}), 10),
            put("other", json!(7), 5),
        ],
    );
    let row = view.get(&key("k"), i64::MAX).unwrap();
    assert_eq!(row.value, json!({"n": 2}));
    assert_eq!(row.position.to_string(), "t.a-0-1");
    assert_eq!(row.time, 10);
    assert_eq!(value(&view, "other"), Some(json!(7)));
    assert_eq!(view.keys(), 2);
}

#[test]
fn filter_key_value_and_delete_shape_what_is_kept() {
    let definition = compile(
        json!([{"source": "a", "filter": "event.n > 0", "value": "{'n': event.n}", "delete": "event.n == 9"}]),
        latest(),
        json!([]),
    );
    let view = folded(
        &definition,
        &[
            put("k", json!({"n": 1, "more": true}), 1),
            put("k", json!({"n": 0}), 2),
            put("gone", json!({"n": 2}), 3),
            put("gone", json!({"n": 9}), 4),
        ],
    );
    assert_eq!(value(&view, "k"), Some(json!({"n": 1})));
    assert_eq!(value(&view, "gone"), None);
}

#[test]
fn semantics_2_a_null_key_is_a_fault_and_an_index_skips_the_row() {
    let definition = compile(
        json!([{"source": "a"}]),
        latest(),
        json!([{"name": "byOwner", "key": {"one": "value.owner"}}]),
    );
    let mut view = View::new(definition);
    let results = fold_all(
        &mut view,
        &[
            new("t.a", None, Some("{}"), 0),
            put("absent", json!({}), 0),
            put("null", json!({"owner": null}), 0),
            put("empty", json!({"owner": ""}), 0),
            put("there", json!({"owner": "o"}), 0),
        ],
    );
    assert_eq!(results[0].fault.as_ref().unwrap().reason, Reason::NullKey);
    assert!(
        results[1..]
            .iter()
            .all(|folded| folded.changed && folded.fault.is_none())
    );
    assert_eq!(view.by_index("byOwner", &key("o"), i64::MAX).len(), 1);
    assert_eq!(view.keys(), 4);
}

#[test]
fn semantics_4_null_events_delete_in_latest_and_are_ignored_elsewhere() {
    let null = new("t.a", Some("k"), None, 3);
    let plain = compile(json!([{"source": "a"}]), latest(), json!([]));
    let view = folded(&plain, &[put("k", json!({"id": "k"}), 1), null.clone()]);
    assert_eq!(value(&view, "k"), None);

    // The key is told from the event, which is null.
    let keyed = compile(
        json!([{"source": "a", "key": "event.id"}]),
        latest(),
        json!([]),
    );
    let input = taken(&keyed, &[put("x", json!({"id": "k"}), 1), null.clone()]);
    assert_eq!(
        value(&folded(&keyed, &input), "k"),
        Some(json!({"id": "k"}))
    );

    let kept = compile(json!([{"source": "a"}]), history(5, None), json!([]));
    let view = folded(&kept, &[put("k", json!(1), 1), null]);
    assert_eq!(view.history(&key("k"), 9).len(), 1);
}

#[test]
fn semantics_4_with_fields_a_delete_takes_its_own_fields_and_the_row_goes_with_the_last() {
    let definition = compile(
        json!([{"source": "a"}, {"source": "b"}]),
        fields(),
        json!([]),
    );
    let b = |value: Option<&str>, time| new("t.b", Some("k"), value, time);
    let records = [
        put("k", json!({"x": 1, "y": 1}), 1),
        b(Some(r#"{"y": 2, "z": 2}"#), 2),
        new("t.a", Some("k"), None, 3),
        b(None, 4),
    ];
    let after = |count: usize| {
        value(
            &folded(&definition, &taken(&definition, &records[..count])),
            "k",
        )
    };
    assert_eq!(after(2), Some(json!({"x": 1, "y": 2, "z": 2})));
    assert_eq!(after(3), Some(json!({"y": 2, "z": 2})));
    assert_eq!(after(4), None);
}

#[test]
fn a_required_source_keeps_the_row_from_being_seen_until_it_has_something() {
    let definition = compile(
        json!([{"source": "a", "required": true}, {"source": "b"}]),
        fields(),
        json!([{"name": "byCity", "key": {"one": "value.city"}}]),
    );
    let records = [
        new("t.b", Some("k"), Some(r#"{"city": "NYC"}"#), 1),
        put("k", json!({"n": 1}), 2),
        new("t.a", Some("k"), None, 3),
    ];
    let after = |count: usize| {
        let view = folded(&definition, &taken(&definition, &records[..count]));
        (
            value(&view, "k"),
            view.by_index("byCity", &key("NYC"), i64::MAX).len(),
        )
    };
    assert_eq!(after(1), (None, 0));
    assert_eq!(after(2), (Some(json!({"city": "NYC", "n": 1})), 1));
    assert_eq!(after(3), (None, 0));
}

#[test]
fn semantics_5_an_event_waits_for_partitions_whose_next_one_may_be_older() {
    let definition = compile(
        json!([{"source": "a"}, {"source": "b"}]),
        latest(),
        json!([]),
    );
    let mut intake = Intake::new(Arc::clone(&definition), 1).unwrap();
    intake.start("t.a", 0, 0);
    intake.start("t.b", 0, 0);
    let keys = |records: &[NewRecord]| -> Vec<String> {
        let text = |record: &NewRecord| {
            String::from_utf8_lossy(record.key.as_deref().unwrap()).into_owned()
        };
        records
            .iter()
            .map(text)
            .filter(|key| !key.starts_with('\0'))
            .collect()
    };
    let late = NewRecord {
        topic: "t.b".into(),
        ..put("late", json!(1), 20)
    };
    let later = NewRecord {
        topic: "t.b".into(),
        ..put("later", json!(1), 30)
    };
    late.lend(0, |record| intake.take(record));
    later.lend(1, |record| intake.take(record));
    // More is in the log of `a`, and nothing of it was read.
    assert_eq!(keys(&intake.drain(&|topic, _| topic == "t.a")), [""; 0]);
    assert_eq!(intake.positions(), [("t.a", 0, 0), ("t.b", 0, 0)]);
    assert_eq!(intake.waiting("t.b", 0), 2);
    let early = NewRecord {
        topic: "t.a".into(),
        ..put("early", json!(1), 10)
    };
    early.lend(0, |record| intake.take(record));
    // Of `a` there may be something between 10 and 20.
    assert_eq!(keys(&intake.drain(&|topic, _| topic == "t.a")), ["early"]);
    assert_eq!(intake.positions(), [("t.a", 0, 1), ("t.b", 0, 0)]);
    assert_eq!(keys(&intake.drain(&|_, _| false)), ["late", "later"]);
    assert_eq!(intake.positions(), [("t.a", 0, 1), ("t.b", 0, 2)]);
}

#[test]
fn entries_of_one_topic_go_through_it_in_its_order_so_that_nothing_is_written_above_the_committed_offset()
 {
    let definition = compile(
        json!([
            {"name": "odd", "source": "a", "filter": "event == 1"},
            {"name": "even", "source": "a", "filter": "event == 2"},
            {"source": "b"},
        ]),
        latest(),
        json!([]),
    );
    let mut intake = Intake::new(Arc::clone(&definition), 1).unwrap();
    let keys = |records: &[NewRecord]| -> Vec<String> {
        let text = |record: &NewRecord| {
            String::from_utf8_lossy(record.key.as_deref().unwrap()).into_owned()
        };
        let keys = records.iter().map(text);
        keys.filter(|key| !key.starts_with('\0')).collect()
    };
    put("first", json!(2), 50).lend(0, |record| intake.take(record));
    put("second", json!(1), 10).lend(1, |record| intake.take(record));
    let other = NewRecord {
        topic: "t.b".into(),
        ..put("other", json!(1), 20)
    };
    other.lend(0, |record| intake.take(record));
    // The second is older, but behind the first of its partition, which another entry takes.
    assert_eq!(keys(&intake.drain(&|topic, _| topic == "t.b")), ["other"]);
    assert_eq!(intake.positions(), [("t.a", 0, 0), ("t.b", 0, 1)]);
    assert_eq!(keys(&intake.drain(&|_, _| false)), ["first", "second"]);
    assert_eq!(intake.positions(), [("t.a", 0, 2), ("t.b", 0, 1)]);
    // An entry that has nothing there waits for nothing while another's event is the next.
    put("third", json!(1), 60).lend(2, |record| intake.take(record));
    assert_eq!(keys(&intake.drain(&|topic, _| topic == "t.a")), ["third"]);
}

#[test]
fn semantics_5_of_what_waits_the_oldest_event_time_goes_first_and_partitions_keep_their_order() {
    let definition = compile(
        json!([{"source": "a"}, {"source": "b"}]),
        latest(),
        json!([]),
    );
    let b = |value: i64, time| new("t.b", Some("k"), Some(&value.to_string()), time);
    let input = taken(
        &definition,
        &[
            put("k", json!(1), 50),
            put("k", json!(2), 5),
            b(3, 40),
            b(4, 60),
        ],
    );
    let values: Vec<String> = input
        .iter()
        .filter(|record| record.key.as_deref() != Some(names::MARK_KEY))
        .map(|record| String::from_utf8(record.value.clone().unwrap()).unwrap())
        .collect();
    // 40; then 50 with 5 behind it in its partition; then 60.
    assert_eq!(values, ["3", "1", "2", "4"]);
}

#[test]
fn marks_of_the_input_log_say_how_far_the_sources_are_covered() {
    let definition = compile(
        json!([{"source": "a"}, {"source": "b"}]),
        latest(),
        json!([]),
    );
    let view = folded(
        &definition,
        &taken(&definition, &[put("k", json!(1), 1), put("k", json!(2), 2)]),
    );
    assert_eq!(view.covered("t.a", 0), 2);
    assert_eq!(view.covered("t.b", 0), 0);
}

#[test]
fn semantics_6_an_event_that_changes_nothing_writes_nothing() {
    let definition = compile(json!([{"source": "a"}]), latest(), json!([]));
    let mut view = View::new(definition);
    let results = fold_all(
        &mut view,
        &[
            put("k", json!({"b": 1, "a": 2}), 1),
            put("k", json!({"a": 2, "b": 1}), 2),
        ],
    );
    assert!(results[0].changed && !results[1].changed);
    assert_eq!(view.partition_mut(0).dirty(), 1);
}

#[test]
fn semantics_6_a_refused_event_leaves_everything_as_it_was() {
    let definition = compile(
        json!([{"source": "a"}]),
        latest(),
        json!([{"name": "byTags", "key": {"many": "value.tags.map(t, t + 'x')"}}]),
    );
    let mut view = View::new(definition);
    let results = fold_all(
        &mut view,
        &[
            put("k", json!({"tags": ["p"]}), 1),
            put("k", json!({"tags": [1]}), 2),
        ],
    );
    assert_eq!(
        results[1].fault.as_ref().unwrap().reason,
        Reason::ExpressionFailed
    );
    assert_eq!(value(&view, "k"), Some(json!({"tags": ["p"]})));
    assert_eq!(view.by_index("byTags", &key("px"), i64::MAX).len(), 1);
    assert_eq!(view.partition_mut(0).next(), 2);
}

#[test]
fn histories_are_newest_first_within_limit_and_window() {
    let definition = compile(json!([{"source": "a"}]), history(3, Some(HOUR)), json!([]));
    let view = folded(
        &definition,
        &[
            put("k", json!(1), HOUR),
            put("k", json!(2), 3 * HOUR),
            put("k", json!(3), 2 * HOUR + 1),
            put("k", json!(4), 3 * HOUR),
            put("k", json!("late"), HOUR / 2),
        ],
    );
    let at = |time| -> Vec<Value> {
        view.history(&key("k"), time)
            .into_iter()
            .map(|row| row.value)
            .collect()
    };
    assert_eq!(at(3 * HOUR), [json!(4), json!(2), json!(3)]);
    assert_eq!(at(3 * HOUR + 2), [json!(4), json!(2)]);
    assert_eq!(at(5 * HOUR), [] as [Value; 0]);
}

#[test]
fn a_value_over_the_limit_is_refused_and_the_former_kept() {
    let definition = compile(json!([{"source": "a"}]), latest(), json!([]));
    let mut view = View::new(definition);
    let results = fold_all(
        &mut view,
        &[
            put("k", json!("small"), 1),
            put("k", json!("x".repeat(950_000)), 2),
        ],
    );
    assert_eq!(results[1].fault.as_ref().unwrap().reason, Reason::TooLarge);
    assert_eq!(value(&view, "k"), Some(json!("small")));
}

#[test]
fn what_a_checkpoint_does_not_write_cannot_be_restored() {
    let definition = compile(json!([{"source": "a"}]), latest(), json!([]));
    let mut partition = Partition::new(definition, 0);
    for bad in [
        new("v", Some("k"), Some("1"), 0),
        new("v", Some("\0m"), Some("{}"), 0),
        new("v", None, Some("1"), 0),
    ] {
        let fault = bad.lend(0, |record| partition.restore(record)).unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidInternalRecord);
    }
}
