//! Changes of rows: folded again they are the state, and an event that changes nothing gives none.

use super::crashes::{Step, record, steps};
use super::*;
use crate::view::changes;
use proptest::prelude::*;

/// With a changes topic.
fn telling(from: Value, fold: Value) -> Arc<Definition> {
    compile_with(from, fold, json!([]), Some("v.changes"))
}

/// Folds, checks each change against what a reader finds before and after, and gives the rows that the changes make.
fn check(definition: &Arc<Definition>, input: &[NewRecord]) -> BTreeMap<Key, Value> {
    let mut view = View::new(Arc::clone(definition));
    let mut rows = BTreeMap::new();
    let all: Vec<Key> = (0..4).map(|n| key(&format!("k{n}"))).collect();
    let read = |view: &View, at: i64| -> Vec<Option<Value>> {
        all.iter().map(|key| shown(view, key, at)).collect()
    };
    let mut ahead = View::new(Arc::clone(definition));
    for (cause, offset) in input.iter().zip(0..) {
        // An event that is ignored does not move the clock.
        cause.lend(offset, |record| ahead.partition_mut(0).fold(record));
        let clock = ahead.partition_mut(0).clock();
        let at = clock.max(cause.timestamp.unwrap_or(0));
        let before = read(&view, at);
        let (folded, change) =
            cause.lend(offset, |record| view.partition_mut(0).fold_telling(record));
        assert_eq!(folded.fault, None);
        let after = read(&view, at);
        assert_eq!(change.is_some(), before != after, "{cause:?}");
        let Some(change) = change else { continue };
        assert_eq!(change.topic, "v.changes");
        let change = change.lend(0, changes::read).unwrap();
        let place = all.iter().position(|key| *key == change.key).unwrap();
        assert_eq!(
            (&before[place], &after[place]),
            (&change.previous, &change.value)
        );
        for other in (0..all.len()).filter(|other| *other != place) {
            assert_eq!(before[other], after[other]);
        }
        match change.value {
            Some(value) => rows.insert(change.key, value),
            None => rows.remove(&change.key),
        };
    }
    rows
}

fn shown(view: &View, key: &Key, at: i64) -> Option<Value> {
    if !view.definition().is_history() {
        return view.get(key, at).map(|row| row.value);
    }
    let events = view.history(key, at);
    let events: Vec<Value> = events.into_iter().map(|row| row.value).collect();
    (!events.is_empty()).then_some(Value::Array(events))
}

/// Events of one source, without what cannot be folded.
fn events(steps: &[Step]) -> Vec<NewRecord> {
    let of = |step: &Step| match step {
        Step::Event {
            key, value, time, ..
        } => Some(record(true, *key, value.as_deref(), *time)),
        Step::Checkpoint | Step::Crash => None,
    };
    steps.iter().filter_map(of).collect()
}

proptest! {
    #[test]
    fn changes_folded_are_the_state(steps in steps()) {
        let input = events(&steps);
        let sum = json!({"aggregate": {"fields": [{"name": "n", "compute": "Count", "of": null, "where": null, "withinMs": null, "limit": 10}]}});
        for fold in [latest(), fields(), history(3, None), sum] {
            let definition = telling(json!([{"source": "a"}]), fold);
            let view = folded(&definition, &input);
            let rows = check(&definition, &input);
            let state: BTreeMap<Key, Value> = view
                .all_keys()
                .into_iter()
                .filter_map(|key| Some((key.clone(), shown(&view, &key, i64::MAX)?)))
                .collect();
            prop_assert_eq!(rows, state);
        }
    }

    #[test]
    fn a_change_is_what_the_event_did_and_not_what_time_did(steps in steps()) {
        let input = events(&steps);
        check(&telling(json!([{"source": "a"}]), history(3, Some(20))), &input);
    }

    #[test]
    fn what_the_intake_wrote_changes_rows_too(steps in steps()) {
        let definition = telling(json!([{"source": "a", "key": "key"}]), latest());
        let input = taken(&definition, &events(&steps));
        let marked: Vec<NewRecord> = input.into_iter().filter(|record| record.key.as_deref() != Some(names::MARK_KEY)).collect();
        check(&definition, &marked);
    }
}

#[test]
fn semantics_6_the_same_row_again_is_no_change() {
    let definition = telling(json!([{"source": "a"}]), latest());
    let mut view = View::new(Arc::clone(&definition));
    let mut told = Vec::new();
    let events = [
        new("t.a", Some("k"), Some(r#"{"a":1,"b":2}"#), 1),
        new("t.a", Some("k"), Some(r#"{"b":2,"a":1}"#), 2),
        new("t.a", Some("k"), Some("null"), 3),
        new("t.a", Some("k"), None, 4),
        new("t.a", Some("k"), None, 5),
    ];
    for (event, offset) in events.iter().zip(0..) {
        let (_, change) = event.lend(offset, |record| view.partition_mut(0).fold_telling(record));
        told.extend(change.map(|change| String::from_utf8(change.value.unwrap()).unwrap()));
    }
    assert_eq!(
        told,
        [
            r#"{"value":{"a":1,"b":2}}"#,
            r#"{"previous":{"a":1,"b":2},"value":null}"#,
            r#"{"previous":null}"#
        ]
    );
}

#[test]
fn a_change_names_its_event_and_the_chain() {
    let definition = telling(json!([{"source": "a"}]), latest());
    let mut event = put("k", json!(1), 7);
    let tell = |event: &NewRecord, offset| {
        let mut view = View::new(Arc::clone(&definition));
        let (_, change) = event.lend(offset, |record| view.partition_mut(0).fold_telling(record));
        let headers = change.unwrap().headers.into_iter();
        let headers = headers.filter(|(name, _)| name != names::header::SOURCE);
        headers
            .map(|(name, value)| (name, String::from_utf8(value.unwrap()).unwrap()))
            .collect::<BTreeMap<_, _>>()
    };
    let own = tell(&event, 5);
    assert_eq!(own[names::header::ROOT], "t.a-0-5");
    assert_eq!(own[names::header::TIME], "7");
    assert!(!own.contains_key(names::header::HOPS));
    for (name, value) in [(names::header::ROOT, "x-1-2"), (names::header::HOPS, "3")] {
        event
            .headers
            .push((name.to_owned(), Some(value.as_bytes().to_vec())));
    }
    let handed_on = tell(&event, 5);
    assert_eq!(handed_on[names::header::ROOT], "x-1-2");
    assert_eq!(handed_on[names::header::HOPS], "3");
}

#[test]
fn the_chain_goes_through_an_input_log() {
    let definition = telling(json!([{"source": "a", "key": "key"}]), latest());
    let mut handed_on = put("k", json!(1), 7);
    for (name, value) in [(names::header::ROOT, "x-1-2"), (names::header::HOPS, "3")] {
        let header = (name.to_owned(), Some(value.as_bytes().to_vec()));
        handed_on.headers.push(header);
    }
    for (event, root, hops) in [
        (put("k", json!(1), 7), "t.a-0-0", None),
        (handed_on, "x-1-2", Some("3")),
    ] {
        let taken = taken(&definition, &[event]);
        let mut view = View::new(Arc::clone(&definition));
        let told: Vec<NewRecord> = taken
            .iter()
            .zip(0..)
            .filter_map(|(record, offset)| {
                let fold = |record: &crate::record::Record<'_>| {
                    view.partition_mut(0).fold_telling(record).1
                };
                record.lend(offset, fold)
            })
            .collect();
        let [change] = told.as_slice() else {
            panic!("{told:?}")
        };
        let header = |name: &str| {
            let found = change.headers.iter().find(|(own, _)| own == name)?;
            String::from_utf8(found.1.clone().unwrap()).ok()
        };
        assert_eq!(header(names::header::ROOT).as_deref(), Some(root));
        assert_eq!(header(names::header::HOPS).as_deref(), hops);
    }
}

#[test]
fn rows_that_fit_no_record_together_are_a_fault_and_not_half_a_change() {
    let definition = telling(json!([{"source": "a"}]), latest());
    let mut view = View::new(definition);
    let large = |fill: &str| put("k", json!(fill.repeat(600 * 1_024)), 1);
    let mut read = |event: &NewRecord, offset| {
        let (folded, change) =
            event.lend(offset, |record| view.partition_mut(0).fold_telling(record));
        assert_eq!(folded.fault, None);
        change.unwrap().lend(0, changes::read)
    };
    assert!(read(&large("a"), 0).is_ok());
    assert_eq!(read(&large("b"), 1).unwrap_err().reason, Reason::TooLarge);
}
