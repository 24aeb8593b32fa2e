//! Expiry with every fold, and aggregates through their views, against a model written apart from the engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use headwater_engine::config;
use headwater_engine::expr::Names;
use headwater_engine::fault::Reason;
use headwater_engine::key::Key;
use headwater_engine::lookup::{Lookup, Views};
use headwater_engine::names;
use headwater_engine::problem::CompileError;
use headwater_engine::record::{NewRecord, Record};
use headwater_engine::view::{Definition, Folded, Partition, View};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const EXPIRY: i64 = 100;

fn definition(
    fold: Value,
    indexes: Value,
    expire_after: Option<i64>,
) -> Result<Arc<Definition>, CompileError> {
    let source = json!({
        "name": "a", "topic": "t.a", "format": "Json", "keyFormat": "Text", "schema": null, "key": null,
        "eventTime": null, "invalidRecords": "DeadLetter",
    });
    let view = json!({
        "name": "v", "generation": "000000", "fold": fold, "indexes": indexes, "expireAfterMs": expire_after,
        "from": [{"name": "a", "source": "a", "delete": "event.gone", "required": false}],
        "input": {"source": {"topic": "t.a"}}, "stateTopic": "v", "deadTopic": "v.dead",
    });
    let view: config::View = serde_json::from_value(view).unwrap();
    let sources = BTreeMap::from([("a".to_owned(), serde_json::from_value(source).unwrap())]);
    Definition::compile(&view, &sources)
}

fn aggregate(fields: Value) -> Value {
    let fields: Vec<Value> = fields
        .as_array()
        .unwrap()
        .iter()
        .map(|field| {
            let mut full = json!({"of": null, "where": null, "withinMs": null, "limit": 5});
            full.as_object_mut()
                .unwrap()
                .extend(field.as_object().unwrap().clone());
            full
        })
        .collect();
    json!({"aggregate": {"fields": fields}})
}

fn key(text: &str) -> Key {
    Key::from_text(text).unwrap().unwrap()
}

/// Hands a record to `f` as the log would.
fn with<T>(record: &NewRecord, offset: i64, f: impl FnOnce(&Record<'_>) -> T) -> T {
    let headers: Vec<(&str, Option<&[u8]>)> = record
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_deref()))
        .collect();
    f(&Record {
        topic: &record.topic,
        partition: 0,
        offset,
        timestamp: record.timestamp.unwrap_or(0),
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: &headers,
    })
}

fn event(of: &str, value: &Value, time: i64) -> NewRecord {
    NewRecord {
        topic: "t.a".to_owned(),
        key: Some(of.as_bytes().to_vec()),
        value: (!value.is_null()).then(|| value.to_string().into_bytes()),
        timestamp: Some(time),
        ..NewRecord::default()
    }
}

/// A view of one partition, and the state topic that its checkpoints wrote.
struct Bed {
    view: View,
    topic: Vec<NewRecord>,
}

impl Bed {
    fn new(definition: &Arc<Definition>) -> Self {
        Self {
            view: View::new(Arc::clone(definition)),
            topic: Vec::new(),
        }
    }

    fn partition(&mut self) -> &mut Partition {
        self.view.partition_mut(0)
    }

    fn fold(&mut self, of: &str, value: &Value, time: i64) -> Folded {
        let offset = self.partition().next();
        with(&event(of, value, time), offset, |record| {
            self.partition().fold(record)
        })
    }

    /// Gives the keys that were written, and whether each has a value.
    fn checkpoint(&mut self) -> Vec<(String, bool)> {
        let records = self.partition().checkpoint();
        self.partition().checkpointed();
        assert!(!self.partition().moved() && self.partition().checkpoint().is_empty());
        self.topic.extend(records.iter().cloned());
        let text = |record: &NewRecord| String::from_utf8(record.key.clone().unwrap()).unwrap();
        records
            .iter()
            .filter(|record| record.key.as_deref() != Some(names::MARK_KEY))
            .map(|record| (text(record), record.value.is_some()))
            .collect()
    }

    /// What a reader makes of the topic after compaction.
    fn restored(&self) -> Partition {
        let mut last: BTreeMap<&[u8], &NewRecord> = BTreeMap::new();
        for record in &self.topic {
            last.insert(record.key.as_deref().unwrap(), record);
        }
        let mut partition = Partition::new(Arc::clone(self.view.definition()), 0);
        for (record, offset) in last.into_values().zip(0..) {
            with(record, offset, |record| partition.restore(record)).unwrap();
        }
        partition
    }

    fn value(&self, of: &str, at: i64) -> Option<Value> {
        self.view.get(&key(of), at).map(|row| row.value)
    }
}

#[test]
fn semantics_8_a_key_is_gone_so_long_after_its_last_event_by_the_readers_time() {
    let definition = definition(
        json!({"latest": {"merge": "Replace"}}),
        json!([]),
        Some(EXPIRY),
    )
    .unwrap();
    let mut bed = Bed::new(&definition);
    let value = json!({"n": 1, "gone": false});
    bed.fold("k", &value, 1_000);
    assert_eq!(bed.value("k", 1_000 + EXPIRY - 1), Some(value.clone()));
    assert_eq!(bed.value("k", 1_000 + EXPIRY), None);
    // The same value again: nothing is changed, but the key lives longer, also for who restores.
    bed.checkpoint();
    let folded = bed.fold("k", &value, 1_050);
    assert!(!folded.changed && folded.fault.is_none());
    assert_eq!(bed.value("k", 1_149), Some(value.clone()));
    assert_eq!(bed.checkpoint(), [("k".to_owned(), true)]);
    assert!(bed.restored() == *bed.partition());
    // An older event gives the value, not the end.
    let older = json!({"n": 2, "gone": false});
    bed.fold("k", &older, 900);
    assert_eq!(bed.value("k", 1_149), Some(older.clone()));
    assert_eq!(bed.value("k", 1_150), None);
    // The fold forgets at twice the expiry behind its clock, and says so in the topic.
    bed.fold("other", &value, 1_050 + 2 * EXPIRY);
    assert_eq!(bed.value("k", 1_149), Some(older));
    bed.checkpoint();
    assert!(bed.fold("other", &value, 1_050 + 2 * EXPIRY + 1).changed);
    assert_eq!(bed.value("k", 1_149), None);
    assert_eq!(
        bed.checkpoint(),
        [("k".to_owned(), false), ("other".to_owned(), true)]
    );
    // What would be forgotten at once is not taken in.
    let folded = bed.fold("late", &value, 1_050);
    assert!(folded.late && !folded.changed);
    assert_eq!(bed.partition().keys(), 1);
}

#[test]
fn semantics_8_an_event_after_the_end_begins_a_key_anew() {
    let counted = aggregate(json!([{"name": "n", "compute": "Sum", "of": "value.n"}]));
    for (fold, before, after) in [
        (
            json!({"latest": {"merge": "Fields"}}),
            json!({"a": 1, "n": 2, "gone": false}),
            json!({"n": 2, "gone": false}),
        ),
        (counted, json!({"n": 3}), json!({"n": 2})),
    ] {
        let definition = definition(fold, json!([]), Some(EXPIRY)).unwrap();
        for (time, expected) in [(EXPIRY - 1, &before), (EXPIRY, &after)] {
            let mut bed = Bed::new(&definition);
            bed.fold("k", &json!({"a": 1, "n": 1, "gone": false}), 0);
            bed.fold("k", &json!({"n": 2, "gone": false}), time);
            assert_eq!(bed.value("k", time).as_ref(), Some(expected));
            // A refused event begins nothing, and ends nothing.
            let fault = bed
                .fold("k", &json!({"n": 2, "gone": "perhaps"}), time + EXPIRY)
                .fault;
            assert_eq!(fault.unwrap().reason, Reason::ExpressionFailed);
            assert_eq!(bed.value("k", time).as_ref(), Some(expected));
        }
    }
    let definition = definition(
        json!({"history": {"limit": 5, "withinMs": null}}),
        json!([]),
        Some(EXPIRY),
    )
    .unwrap();
    let mut bed = Bed::new(&definition);
    for time in [0, 50, 150] {
        bed.fold("k", &json!({"at": time, "gone": false}), time);
    }
    assert_eq!(bed.view.history(&key("k"), 150).len(), 1);
    assert_eq!(bed.view.history(&key("k"), 250).len(), 0);
}

#[test]
fn semantics_6_an_aggregate_refuses_an_event_over_all_its_fields_and_indexes() {
    let fold = aggregate(json!([
        {"name": "n", "compute": "Count"},
        {"name": "tags", "compute": "Last", "of": "value.tags"},
    ]));
    let indexes = json!([{"name": "byTag", "key": {"many": "value.tags.map(tag, tag + '!')"}}]);
    let definition = definition(fold, indexes, None).unwrap();
    let mut bed = Bed::new(&definition);
    let put = |tags: Value| json!({"tags": tags, "gone": false});
    assert!(bed.fold("k", &put(json!(["x", "y"])), 1).changed);
    let fault = bed.fold("k", &put(json!([1])), 2).fault.unwrap();
    assert_eq!(fault.reason, Reason::ExpressionFailed);
    assert_eq!(bed.value("k", 9), Some(json!({"n": 1, "tags": ["x", "y"]})));
    let under = |bed: &Bed, tag: &str| bed.view.by_index("byTag", &key(tag), 9).len();
    assert_eq!((under(&bed, "x!"), under(&bed, "y!")), (1, 1));
    bed.fold("k", &put(json!(["y"])), 3);
    assert_eq!((under(&bed, "x!"), under(&bed, "y!")), (0, 1));
    bed.checkpoint();
    assert!(bed.restored() == *bed.partition());
    // Semantics 4: a null event is ignored, `delete` takes the key away.
    assert!(!bed.fold("k", &Value::Null, 4).changed);
    assert_eq!(bed.value("k", 9).unwrap()["n"], 2);
    assert!(bed.fold("k", &json!({"gone": true}), 5).changed);
    assert_eq!((bed.value("k", 9), under(&bed, "y!")), (None, 0));
    assert_eq!(bed.checkpoint(), [("k".to_owned(), false)]);
}

#[test]
fn an_index_on_an_aggregate_is_checked_when_it_is_compiled() {
    let fold = aggregate(json!([
        {"name": "owner", "compute": "Last", "of": "value.owner"},
        {"name": "recent", "compute": "Count", "withinMs": 5},
    ]));
    for (key, message) in [("value.recent", "'recent'"), ("value.missing", "missing")] {
        let indexes = json!([{"name": "i", "key": {"one": key}}]);
        let error = definition(fold.clone(), indexes, None).unwrap_err();
        assert_eq!(error.problems.len(), 1);
        assert_eq!(error.problems[0].path, "spec.indexes[name=i].key");
        assert!(error.problems[0].message.contains(message), "{error:?}");
    }
    let fine = json!([{"name": "i", "key": {"one": "value.owner"}}]);
    definition(fold, fine, None).unwrap();
}

#[test]
fn a_reader_finds_provenance_and_the_state_topic_the_row_as_of_its_newest_event() {
    let fold = aggregate(json!([{"name": "n", "compute": "Count", "withinMs": 10}]));
    let definition = definition(fold, json!([]), None).unwrap();
    let mut bed = Bed::new(&definition);
    for time in [5, 20, 12] {
        bed.fold("k", &json!({"gone": false}), time);
    }
    bed.fold("clock", &json!({"gone": false}), 25);
    let row = bed.view.get(&key("k"), 20).unwrap();
    assert_eq!(
        (row.position.to_string(), row.time),
        ("t.a-0-1".to_owned(), 20)
    );
    bed.checkpoint();
    let written = |of: &str| {
        let record = bed
            .topic
            .iter()
            .find(|record| record.key.as_deref() == Some(of.as_bytes()));
        String::from_utf8(record.unwrap().value.clone().unwrap()).unwrap()
    };
    assert_eq!(written("k"), r#"{"n":2}"#);
    assert_eq!(bed.value("k", 22).unwrap(), json!({"n": 1}));
}

/// What is asked for, and the one view that there is.
struct Asked<'a> {
    variables: BTreeMap<String, Value>,
    view: &'a View,
}

impl Views for Asked<'_> {
    fn read(&self, name: &str, f: &mut dyn FnMut(&View)) {
        assert_eq!(name, "v");
        f(self.view);
    }
}

#[test]
fn a_lookup_reads_aggregates_at_its_time() {
    let fold = aggregate(json!([
        {"name": "city", "compute": "Last", "of": "value.city"},
        {"name": "ever", "compute": "Count"},
        {"name": "recent", "compute": "Count", "withinMs": 10},
    ]));
    let indexes = json!([{"name": "byCity", "key": {"one": "value.city"}}]);
    let definition = definition(fold, indexes, Some(EXPIRY)).unwrap();
    let mut bed = Bed::new(&definition);
    for (of, city, time) in [
        ("a", "x", 1),
        ("b", "x", 1),
        ("b", "x", 9),
        ("c", "x", 12),
        ("d", "y", 12),
    ] {
        bed.fold(of, &json!({"city": city, "gone": false}), time);
    }
    let read = |lookup: Value, at: i64| {
        let mut full = json!({
            "view": "v", "by": {"key": "event.city"}, "index": "byCity", "where": null, "orderBy": null,
            "order": "Ascending", "limit": 20,
        });
        full.as_object_mut()
            .unwrap()
            .extend(lookup.as_object().unwrap().clone());
        let names = Names::new(&["event"]);
        let lookup =
            Lookup::compile(&serde_json::from_value(full).unwrap(), &names, "slot").unwrap();
        let asked = Asked {
            variables: BTreeMap::from([("event".to_owned(), json!({"city": "x", "card": "b"}))]),
            view: &bed.view,
        };
        lookup.read(&asked.variables, &asked, at).unwrap().value
    };
    assert_eq!(
        read(
            json!({"where": "value.recent > 0", "orderBy": "value.recent", "order": "Descending"}),
            12
        ),
        json!([
            {"_key": "b", "city": "x", "ever": 2, "recent": 1},
            {"_key": "c", "city": "x", "ever": 1, "recent": 1},
        ])
    );
    // Ten later nothing is recent, and the rows are there still; a hundred later the older ones have expired.
    assert_eq!(read(json!({"where": "value.recent > 0"}), 22), json!([]));
    assert_eq!(read(json!({}), 22).as_array().unwrap().len(), 3);
    assert_eq!(
        read(json!({}), 109),
        json!([{"_key": "c", "city": "x", "ever": 1, "recent": 0}])
    );
    let one = json!({"by": {"key": "event.card"}, "index": null});
    assert_eq!(
        read(one.clone(), 10),
        json!({"city": "x", "ever": 2, "recent": 2})
    );
    assert_eq!(read(one, 109), Value::Null);
}

/// A key while it lives.
#[derive(Clone, Default)]
struct Life {
    last: i64,
    events: Vec<(Value, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Replace,
    Fields,
    History,
    Aggregate,
}

impl Kind {
    fn fold(self) -> Value {
        match self {
            Self::Replace => json!({"latest": {"merge": "Replace"}}),
            Self::Fields => json!({"latest": {"merge": "Fields"}}),
            Self::History => json!({"history": {"limit": 3, "withinMs": null}}),
            Self::Aggregate => aggregate(json!([
                {"name": "a", "compute": "Last", "of": "value.a"},
                {"name": "n", "compute": "Count"},
            ])),
        }
    }

    /// The row of a life; of a history the list.
    fn row(self, life: &Life) -> Value {
        let events = &life.events;
        let newest_first = || {
            let mut sorted: Vec<(usize, i64)> =
                events.iter().map(|(_, time)| *time).enumerate().collect();
            sorted.sort_by_key(|(place, time)| (-time, -(*place as i64)));
            sorted
        };
        match self {
            Self::Replace => events.last().unwrap().0.clone(),
            Self::Fields => {
                let mut row = Map::new();
                for (event, _) in events {
                    row.extend(event.as_object().unwrap().clone());
                }
                Value::Object(row)
            }
            Self::History => newest_first()
                .into_iter()
                .take(3)
                .map(|(place, _)| events[place].0.clone())
                .collect(),
            Self::Aggregate => {
                let last = newest_first()
                    .into_iter()
                    .find_map(|(place, _)| events[place].0.get("a").cloned());
                json!({"a": last, "n": events.len()})
            }
        }
    }
}

#[derive(Default)]
struct Model {
    clock: i64,
    keys: BTreeMap<String, Life>,
}

impl Model {
    fn fold(&mut self, of: &str, value: &Value, time: i64) {
        self.clock = self.clock.max(time);
        let forgotten = self.clock - 2 * EXPIRY;
        self.keys.retain(|_, life| life.last >= forgotten);
        if let Some(life) = self.keys.get(of)
            && time - life.last >= EXPIRY
        {
            self.keys.remove(of);
        }
        if !self.keys.contains_key(of) && time < forgotten {
            return;
        }
        if value["gone"] == true {
            self.keys.remove(of);
            return;
        }
        let life = self.keys.entry(of.to_owned()).or_default();
        life.last = if life.events.is_empty() {
            time
        } else {
            life.last.max(time)
        };
        life.events.push((value.clone(), time));
    }

    fn row(&self, kind: Kind, of: &str, at: i64) -> Option<Value> {
        let life = self.keys.get(of)?;
        (life.last > at - EXPIRY).then(|| kind.row(life))
    }
}

fn happening() -> impl Strategy<Value = (usize, Value, i64, i64, bool)> {
    let late = prop_oneof![3 => Just(0i64), 1 => 0i64..350];
    (
        0usize..4,
        0u8..3,
        0u8..3,
        0u8..8,
        0i64..70,
        late,
        any::<bool>(),
    )
        .prop_map(|(of, a, b, gone, step, late, checkpoint)| {
            let mut value = json!({"gone": gone == 0});
            if a > 0 {
                value["a"] = json!(format!("a{a}"));
            }
            if b > 0 {
                value["b"] = json!(b);
            }
            (of, value, step, late, checkpoint)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_fold_expires_as_the_model_does_and_restores_to_the_same(
        kind in prop_oneof![Just(Kind::Replace), Just(Kind::Fields), Just(Kind::History), Just(Kind::Aggregate)],
        happenings in proptest::collection::vec(happening(), 1..60),
        ahead in -EXPIRY..2 * EXPIRY,
    ) {
        let indexes = if kind == Kind::History { json!([]) } else { json!([{"name": "byA", "key": {"one": "value.a"}}]) };
        let definition = definition(kind.fold(), indexes, Some(EXPIRY)).unwrap();
        let mut bed = Bed::new(&definition);
        let mut model = Model::default();
        let mut now = 1_000;
        for (of, value, step, late, checkpoint) in happenings {
            now += step;
            let (of, time) = (format!("k{of}"), now - late);
            prop_assert_eq!(bed.fold(&of, &value, time).fault, None);
            model.fold(&of, &value, time);
            prop_assert_eq!(bed.partition().clock(), model.clock);
            prop_assert_eq!(bed.partition().keys(), model.keys.len());
            if checkpoint {
                bed.checkpoint();
                let restored = bed.restored();
                prop_assert!(restored == *bed.partition(), "{restored:#?}\n{:#?}", bed.partition());
                *bed.partition() = restored;
            }
            let at = model.clock + ahead;
            let mut under: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for of in (0..4).map(|of| format!("k{of}")) {
                let expected = model.row(kind, &of, at);
                if let Some(a) = expected.as_ref().and_then(|row| row["a"].as_str()) {
                    under.entry(a.to_owned()).or_default().insert(of.clone());
                }
                let found = if kind == Kind::History {
                    let rows: Vec<Value> = bed.view.history(&key(&of), at).into_iter().map(|row| row.value).collect();
                    (!rows.is_empty()).then_some(Value::Array(rows))
                } else {
                    bed.value(&of, at)
                };
                prop_assert_eq!(found, expected, "{:?} of {} at {}", kind, of, at);
            }
            if kind != Kind::History {
                for a in ["a1", "a2"] {
                    let found: BTreeSet<String> = bed.view.by_index("byA", &key(a), at).into_iter().map(|row| row.key.as_str().to_owned()).collect();
                    prop_assert_eq!(&found, &under.remove(a).unwrap_or_default());
                }
            }
        }
    }
}
