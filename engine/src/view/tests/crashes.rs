//! Properties: whatever crashes and checkpoints lie in between, a view is what a naive model of its fold says.

use super::*;
use proptest::prelude::*;

/// One step of a view's life.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Event {
        source: bool,
        key: u8,
        value: Option<Vec<(u8, i8)>>,
        time: i64,
    },
    Checkpoint,
    /// The process dies: what was not checkpointed is folded again by its successor.
    Crash,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let event = (
        any::<bool>(),
        0..4u8,
        prop::option::weighted(0.8, prop::collection::vec((0..3u8, any::<i8>()), 1..4)),
        0..100i64,
    )
        .prop_map(|(source, key, value, time)| Step::Event {
            source,
            key,
            value,
            time,
        });
    prop::collection::vec(
        prop_oneof![8 => event, 1 => Just(Step::Checkpoint), 1 => Just(Step::Crash)],
        1..60,
    )
}

pub(super) fn record(source: bool, key: u8, value: Option<&[(u8, i8)]>, time: i64) -> NewRecord {
    let value = value.map(|fields| {
        let object: serde_json::Map<String, Value> = fields
            .iter()
            .map(|(name, value)| (format!("f{name}"), Value::from(*value)))
            .collect();
        Value::Object(object).to_string()
    });
    new(
        if source { "t.a" } else { "t.b" },
        Some(&format!("k{key}")),
        value.as_deref(),
        time,
    )
}

/// Runs the steps with checkpoints and crashes, and gives the state at the end together with the input log that was folded.
fn live(definition: &Arc<Definition>, steps: &[Step]) -> (Partition, Vec<NewRecord>) {
    let mut intake = Intake::new(Arc::clone(definition), 1);
    let mut offsets = [0i64; 2];
    let mut input: Vec<NewRecord> = Vec::new();
    let mut state_topic: Vec<NewRecord> = Vec::new();
    let mut state = Partition::new(Arc::clone(definition), 0);
    for step in steps {
        match step {
            Step::Event {
                source,
                key,
                value,
                time,
            } => {
                let record = record(*source, *key, value.as_deref(), *time);
                match &mut intake {
                    Some(intake) => {
                        let offset = &mut offsets[usize::from(*source)];
                        record.lend(*offset, |record| intake.take(record));
                        *offset += 1;
                        input.extend(intake.drain(&|_, _| false));
                    }
                    None => input.push(NewRecord {
                        topic: "t.a".to_owned(),
                        ..record
                    }),
                }
            }
            Step::Checkpoint => {
                state_topic.extend(state.checkpoint());
                state.checkpointed();
            }
            Step::Crash => {
                state = Partition::new(Arc::clone(definition), 0);
                for (record, offset) in state_topic.iter().zip(0..) {
                    record.lend(offset, |record| state.restore(record)).unwrap();
                }
            }
        }
        for (record, offset) in input.iter().zip(0..) {
            record.lend(offset, |record| state.fold(record));
        }
    }
    (state, input)
}

fn check(definition: &Arc<Definition>, steps: &[Step]) -> (Partition, Vec<NewRecord>) {
    let (lived, input) = live(definition, steps);
    let mut whole = Partition::new(Arc::clone(definition), 0);
    for (record, offset) in input.iter().zip(0..) {
        record.lend(offset, |record| whole.fold(record));
    }
    assert_eq!(lived, whole);
    (lived, input)
}

fn contents(state: Partition) -> BTreeMap<String, Value> {
    let mut view = View::new(compile(json!([{"source": "a"}]), latest(), json!([])));
    view.partitions.insert(0, state);
    let keys: Vec<Key> = view.all_keys().into_iter().collect();
    keys.into_iter()
        .filter_map(|key| Some((key.to_string(), view.get(&key, i64::MAX)?.value)))
        .collect()
}

/// Field -> the source that wrote it last, and its value.
type Fields = BTreeMap<String, (bool, Value)>;

proptest! {
    #[test]
    fn latest_is_a_map_whatever_crashes(steps in steps()) {
        let definition = compile(json!([{"source": "a"}]), latest(), json!([{"name": "i", "key": {"one": "value.f0"}}]));
        let (state, _) = check(&definition, &steps);
        let mut model = BTreeMap::new();
        for step in &steps {
            if let Step::Event { key, value, .. } = step {
                let record = record(true, *key, value.as_deref(), 0);
                match record.value {
                    Some(bytes) => {
                        model.insert(format!("k{key}"), serde_json::from_slice::<Value>(&bytes).unwrap());
                    }
                    None => {
                        model.remove(&format!("k{key}"));
                    }
                }
            }
        }
        prop_assert_eq!(contents(state), model);
    }

    #[test]
    fn merged_fields_are_those_written_last_whatever_crashes(steps in steps()) {
        let definition = compile(json!([{"source": "a"}, {"source": "b"}]), fields(), json!([]));
        let (state, _) = check(&definition, &steps);
        // Each field with its writer, each key with the sources that have something.
        let mut model: BTreeMap<String, (Fields, BTreeSet<bool>)> = BTreeMap::new();
        for step in &steps {
            if let Step::Event { source, key, value, .. } = step {
                let (fields, present) = model.entry(format!("k{key}")).or_default();
                match value {
                    Some(written) => {
                        present.insert(*source);
                        for (name, value) in written {
                            fields.insert(format!("f{name}"), (*source, Value::from(*value)));
                        }
                    }
                    None => {
                        present.remove(source);
                        fields.retain(|_, (writer, _)| writer != source);
                    }
                }
            }
        }
        let model: BTreeMap<String, Value> = model
            .into_iter()
            .filter(|(_, (_, present))| !present.is_empty())
            .map(|(key, (fields, _))| {
                (key, fields.into_iter().map(|(name, (_, value))| (name, value)).collect())
            })
            .collect();
        prop_assert_eq!(contents(state), model);
    }

    #[test]
    fn histories_hold_the_newest_whatever_crashes(steps in steps(), limit in 1..5u32) {
        let definition = compile(json!([{"source": "a"}]), history(limit, None), json!([]));
        let (state, _) = check(&definition, &steps);
        let mut view = View::new(Arc::clone(&definition));
        view.partitions.insert(0, state);
        for wanted in 0..4u8 {
            let mut model: Vec<(i64, usize, Value)> = steps
                .iter()
                .enumerate()
                .filter_map(|(place, step)| match step {
                    Step::Event { key, value: Some(value), time, .. } if *key == wanted => {
                        let record = record(true, *key, Some(value), *time);
                        Some((*time, place, serde_json::from_slice(&record.value?).ok()?))
                    }
                    _ => None,
                })
                .collect();
            model.sort_by_key(|(time, place, _)| std::cmp::Reverse((*time, *place)));
            model.truncate(limit as usize);
            let rows: Vec<(i64, Value)> = view
                .history(&key(&format!("k{wanted}")), 1_000)
                .into_iter()
                .map(|row| (row.time, row.value))
                .collect();
            let model: Vec<(i64, Value)> = model.into_iter().map(|(time, _, value)| (time, value)).collect();
            prop_assert_eq!(rows, model);
        }
    }

    /// Decoded once or for each: the same states, and the same said of every record.
    #[test]
    fn views_folded_together_are_as_each_alone(steps in steps(), ahead in 0..4usize) {
        let definitions = [
            compile(json!([{"source": "a"}]), latest(), json!([{"name": "i", "key": {"one": "value.f0"}}])),
            compile(json!([{"source": "a", "filter": "event.?f1.orValue(1) > 0"}]), history(3, None), json!([])),
            compile(json!([{"source": "a", "value": "{'all': event, 'n': event.f0}"}]), latest(), json!([])),
            compile(json!([{"source": "b"}]), latest(), json!([])),
        ];
        let new = |definition: &Arc<Definition>| Partition::new(Arc::clone(definition), 0);
        let mut alone: Vec<Partition> = definitions.iter().map(new).collect();
        let mut together: Vec<Partition> = definitions.iter().map(new).collect();
        // One of them has read further than the others.
        alone[ahead].advance(5);
        together[ahead].advance(5);
        let mut offset = 0;
        for step in &steps {
            let Step::Event { key, value, time, .. } = step else { continue };
            let record = record(true, *key, value.as_deref(), *time);
            let wanted: Vec<Folded> = alone
                .iter_mut()
                .map(|state| record.lend(offset, |record| state.fold(record)))
                .collect();
            let mut found = vec![Folded::default(); wanted.len()];
            let mut states: Vec<&mut Partition> = together.iter_mut().collect();
            record.lend(offset, |record| fold_each(&mut states, record, &mut |place, folded| found[place] = folded));
            prop_assert_eq!(found, wanted);
            offset += 1;
        }
        prop_assert!(alone == together);
    }
}
