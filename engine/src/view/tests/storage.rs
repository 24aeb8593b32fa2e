//! What the store costs, and that moving rows about does not change them.

use super::*;
use proptest::prelude::*;

fn fold(state: &mut Partition, key: &str, value: Option<&str>) {
    let offset = state.next();
    let folded = new("t.a", Some(key), value, offset).lend(offset, |record| state.fold(record));
    assert_eq!(folded.fault, None);
}

/// A value of about so many bytes; another one for every `number`.
fn text(bytes: usize, number: usize) -> String {
    format!(r#"{{"n":{number},"text":"{}"}}"#, "x".repeat(bytes))
}

/// Numbers that look random, the same ones every time.
fn next(number: &mut u64) -> usize {
    *number = number
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1);
    (*number >> 33) as usize
}

#[test]
fn memory_stays_compact_whatever_sizes_values_take() {
    const KEYS: usize = 40_000;
    let definition = compile(json!([{"source": "a"}]), latest(), json!([]));
    let mut state = Partition::new(definition, 0);
    let mut random = 1;
    for number in 0..KEYS {
        fold(
            &mut state,
            &format!("key-{number:07}"),
            Some(&text(200, number)),
        );
    }
    let check = |state: &Partition, what: &str| {
        let ratio = state.held_bytes() as f64 / state.bytes() as f64;
        assert!(ratio <= 1.25, "{what}: {ratio:.3}");
    };
    check(&state, "as they came");
    for round in 0..4 {
        for number in 0..KEYS {
            let key = format!("key-{:07}", next(&mut random) % KEYS);
            let bytes = 150 + next(&mut random) % 300;
            fold(&mut state, &key, Some(&text(bytes, number)));
        }
        state.checkpointed();
        check(&state, &format!("after round {round} of changing sizes"));
    }
    for number in 0..KEYS {
        if number % 3 == 0 {
            fold(&mut state, &format!("key-{number:07}"), None);
        }
    }
    state.checkpointed();
    for number in 0..KEYS / 4 {
        fold(
            &mut state,
            &format!("other-{number:07}"),
            Some(&text(700, number)),
        );
    }
    state.checkpointed();
    check(&state, "after deletes and larger values");
}

#[test]
fn histories_stay_compact_too() {
    const KEYS: usize = 1_000;
    let definition = compile(json!([{"source": "a"}]), history(20, None), json!([]));
    let mut state = Partition::new(definition, 0);
    let mut random = 7;
    for number in 0..80_000 {
        let key = format!("key-{:04}", next(&mut random) % KEYS);
        let bytes = 100 + next(&mut random) % 200;
        fold(&mut state, &key, Some(&text(bytes, number)));
    }
    state.checkpointed();
    let ratio = state.held_bytes() as f64 / state.bytes() as f64;
    assert!(ratio <= 1.3, "{ratio:.3}");
}

/// What was folded, as rows and as a checkpoint, after so many moves that every slot moved.
#[derive(Clone, Debug)]
enum Act {
    Put(u8, u16),
    Delete(u8),
    Clean,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        20 => (0..30u8, prop_oneof![0..600u16, 20_000..60_000u16]).prop_map(|(key, bytes)| Act::Put(key, bytes)),
        4 => (0..30u8).prop_map(Act::Delete),
        1 => Just(Act::Clean),
    ];
    prop::collection::vec(act, 1..250)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Large values of changing sizes: chunks are emptied again and again under the rows.
    #[test]
    fn rows_survive_being_moved(acts in acts()) {
        let definition = compile(json!([{"source": "a"}]), latest(), json!([]));
        let mut state = Partition::new(Arc::clone(&definition), 0);
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        let mut dirty: BTreeSet<String> = BTreeSet::new();
        for (number, act) in acts.iter().enumerate() {
            match act {
                Act::Put(key, bytes) => {
                    let (key, value) = (format!("k{key}"), text(usize::from(*bytes), number));
                    fold(&mut state, &key, Some(&value));
                    dirty.insert(key.clone());
                    model.insert(key, value);
                }
                Act::Delete(key) => {
                    let key = format!("k{key}");
                    fold(&mut state, &key, None);
                    if model.remove(&key).is_some() {
                        dirty.insert(key);
                    }
                }
                Act::Clean => {
                    state.checkpointed();
                    dirty.clear();
                }
            }
            prop_assert_eq!(state.dirty(), dirty.len());
        }
        let written: Vec<(String, Option<String>)> = state
            .checkpoint()
            .into_iter()
            .map(|record| (String::from_utf8(record.key.unwrap()).unwrap(), record.value.map(|value| String::from_utf8(value).unwrap())))
            .filter(|(key, _)| !key.starts_with('\0'))
            .collect();
        let expected: Vec<(String, Option<String>)> = dirty.iter().map(|key| (key.clone(), model.get(key).cloned())).collect();
        prop_assert_eq!(written, expected);
        prop_assert_eq!(state.keys(), model.len());
        prop_assert_eq!(state.bytes(), model.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>());
        for (of, expected) in &model {
            let row = state.get(&key(of), 0).unwrap();
            prop_assert_eq!(row.value, serde_json::from_str::<Value>(expected).unwrap());
        }
    }

    #[test]
    fn histories_survive_being_moved(acts in acts(), limit in 1..6u32) {
        let definition = compile(
            json!([{"source": "a", "delete": "event == 'gone'"}]), history(limit, None), json!([])
        );
        let mut state = Partition::new(Arc::clone(&definition), 0);
        let mut model: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (number, act) in acts.iter().enumerate() {
            match act {
                Act::Put(key, bytes) => {
                    let (key, value) = (format!("k{key}"), text(usize::from(*bytes), number));
                    fold(&mut state, &key, Some(&value));
                    let events = model.entry(key).or_default();
                    events.insert(0, serde_json::from_str(&value).unwrap());
                    events.truncate(limit as usize);
                }
                Act::Delete(key) => {
                    let key = format!("k{key}");
                    fold(&mut state, &key, Some("\"gone\""));
                    model.remove(&key);
                }
                Act::Clean => {}
            }
        }
        prop_assert_eq!(state.keys(), model.len());
        for (of, expected) in &model {
            let found: Vec<Value> = state.events(&key(of), i64::MAX).map(|row| row.value).collect();
            prop_assert_eq!(&found, expected);
        }
        let mut restored = Partition::new(definition, 0);
        for (record, offset) in state.checkpoint().iter().zip(0..) {
            record.lend(offset, |record| restored.restore(record)).unwrap();
        }
        prop_assert!(restored == state);
    }
}
