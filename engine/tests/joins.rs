//! Joins through their front door: records of sources in, records of the input log out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use headwater_engine::config;
use headwater_engine::fault::{Fault, Reason};
use headwater_engine::intake::{Drained, TakeIn, Terms};
use headwater_engine::lookup::Views;
use headwater_engine::names;
use headwater_engine::record::{NewRecord, Record};
use headwater_engine::view::intake::Intake;
use headwater_engine::view::{Definition, View};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn sources(more: &Value) -> BTreeMap<String, config::Source> {
    ["cards", "orders", "returns"]
        .into_iter()
        .map(|name| {
            let mut source = json!({
                "name": name, "topic": format!("t.{name}"), "format": "Json", "keyFormat": "Text",
                "schema": null, "key": null, "eventTime": null, "invalidRecords": "DeadLetter",
            });
            if let Some(more) = more[name].as_object() {
                source.as_object_mut().unwrap().extend(more.clone());
            }
            (name.to_owned(), serde_json::from_value(source).unwrap())
        })
        .collect()
}

fn view(name: &str, from: &Value, fold: &Value, own: bool) -> config::View {
    let entries = from.as_array().unwrap().iter().map(|entry| {
        let mut full = json!({
            "name": entry["source"], "filter": null, "key": null, "value": null, "delete": null, "required": false,
        });
        full.as_object_mut()
            .unwrap()
            .extend(entry.as_object().unwrap().clone());
        full
    });
    let entries: Vec<Value> = entries.collect();
    let input = if own {
        json!({"own": {"topic": "in"}})
    } else {
        json!({"source": {"topic": format!("t.{}", from[0]["source"].as_str().unwrap())}})
    };
    serde_json::from_value(json!({
        "name": name, "generation": "000000", "from": entries, "fold": fold, "indexes": [],
        "input": input, "stateTopic": "state", "deadTopic": "dead",
    }))
    .unwrap()
}

fn latest() -> Value {
    json!({"latest": {"merge": "Replace"}})
}

/// The joined view `cards`, folded from its topic of one partition.
struct Cards(View, i64);

impl Cards {
    fn new(fold: &Value) -> Self {
        let config = view("cards", &json!([{"source": "cards"}]), fold, false);
        Self(
            View::new(Definition::compile(&config, &sources(&Value::Null)).unwrap()),
            0,
        )
    }

    fn fold(&mut self, key: &str, value: Option<&Value>, time: i64) {
        let bytes = value.map(|value| value.to_string().into_bytes());
        let record = Record {
            topic: "t.cards",
            partition: 0,
            offset: self.1,
            timestamp: time,
            key: Some(key.as_bytes()),
            value: bytes.as_deref(),
            headers: &[],
        };
        let folded = self.0.partition_mut(0).fold(&record);
        assert_eq!(folded.fault, None);
        self.1 += 1;
    }
}

impl Views for Cards {
    fn read(&self, name: &str, f: &mut dyn FnMut(&View)) {
        assert_eq!(name, "cards");
        f(&self.0);
    }
}

/// An entry over `orders` that joins the card of each.
fn order(more: &Value) -> Value {
    let mut entry = json!({
        "source": "orders",
        "joins": [{"name": "card", "view": "cards", "key": "event.card"}],
        "value": "{'n': event.n, 'card': joined.card}",
    });
    entry
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    entry
}

fn intake_of(from: &Value, more: &Value) -> Intake {
    let config = view("v", from, &latest(), true);
    Intake::new(Definition::compile(&config, &sources(more)).unwrap(), 1).unwrap()
}

fn take(
    intake: &mut Intake,
    topic: &str,
    partition: i32,
    offset: i64,
    value: Option<&Value>,
    time: i64,
) -> Vec<Fault> {
    let bytes = value.map(|value| value.to_string().into_bytes());
    let key = format!("k{partition}-{offset}");
    intake.take(&Record {
        topic,
        partition,
        offset,
        timestamp: time,
        key: Some(key.as_bytes()),
        value: bytes.as_deref(),
        headers: &[("h", Some(b"1"))],
    })
}

/// All that was read, with these views.
fn drain(intake: &mut Intake, cards: &Cards) -> Drained {
    let fence = intake.fence();
    intake.drain_under(&Terms {
        behind: &|_, _| false,
        fence: &fence,
        views: cards,
        stops: &|topic, _, _| topic == "t.returns",
    })
}

/// Keys and values of a drained batch, without marks.
fn content(records: &[NewRecord]) -> Vec<(String, Value)> {
    records
        .iter()
        .filter(|record| record.key.as_deref() != Some(names::MARK_KEY))
        .map(|record| {
            let value = record
                .value
                .as_deref()
                .map_or(Value::Null, |bytes| serde_json::from_slice(bytes).unwrap());
            let key = record.key.clone().unwrap();
            (String::from_utf8(key).unwrap(), value)
        })
        .collect()
}

#[test]
fn semantics_7_a_join_reads_once_what_its_view_holds_as_the_event_goes() {
    let mut intake = intake_of(&json!([order(&json!({}))]), &Value::Null);
    let mut cards = Cards::new(&latest());
    take(
        &mut intake,
        "t.orders",
        0,
        0,
        Some(&json!({"n": 0, "card": "c"})),
        1,
    );
    cards.fold("c", Some(&json!({"owner": "Ada"})), 2);
    let first = content(&drain(&mut intake, &cards).records);
    assert_eq!(
        first,
        [("k0-0".into(), json!({"n": 0, "card": {"owner": "Ada"}}))]
    );
    cards.fold("c", Some(&json!({"owner": "Bob"})), 3);
    // What was joined stays as it is.
    assert_eq!(content(&drain(&mut intake, &cards).records), []);
    take(
        &mut intake,
        "t.orders",
        0,
        1,
        Some(&json!({"n": 1, "card": "c"})),
        1,
    );
    let second = content(&drain(&mut intake, &cards).records);
    assert_eq!(
        second,
        [("k0-1".into(), json!({"n": 1, "card": {"owner": "Bob"}}))]
    );
}

#[test]
fn semantics_2_a_join_by_a_null_or_empty_key_or_of_an_absent_row_is_null() {
    let mut intake = intake_of(&json!([order(&json!({}))]), &Value::Null);
    let mut cards = Cards::new(&latest());
    cards.fold("c", Some(&json!(1)), 1);
    for (offset, card) in (0..).zip([json!(null), json!(""), json!("other")]) {
        let faults = take(
            &mut intake,
            "t.orders",
            0,
            offset,
            Some(&json!({"n": 0, "card": card})),
            1,
        );
        assert_eq!(faults, []);
    }
    let values: Vec<Value> = content(&drain(&mut intake, &cards).records)
        .into_iter()
        .map(|(_, value)| value["card"].clone())
        .collect();
    assert_eq!(values, vec![Value::Null; 3]);
}

#[test]
fn a_joined_history_is_what_a_slot_reads_at_the_events_time() {
    let mut cards = Cards::new(&json!({"history": {"limit": 3, "withinMs": 1_000}}));
    for time in [0, 500, 1_000] {
        cards.fold("c", Some(&json!({"at": time})), time);
    }
    let mut intake = intake_of(&json!([order(&json!({}))]), &Value::Null);
    let event = json!({"n": 0, "card": "c"});
    take(&mut intake, "t.orders", 0, 0, Some(&event), 1_200);
    take(&mut intake, "t.orders", 0, 1, Some(&event), 5_000);
    let rows: Vec<Value> = content(&drain(&mut intake, &cards).records)
        .into_iter()
        .map(|(_, value)| value["card"].clone())
        .collect();
    assert_eq!(
        rows[0],
        json!([{"_key": "c", "at": 1_000}, {"_key": "c", "at": 500}])
    );
    assert_eq!(rows[1], json!([]));
}

#[test]
fn every_expression_of_an_entry_may_read_its_joins() {
    let entry = order(&json!({
        "filter": "joined.card != null && joined.card.active",
        "key": "joined.card.owner",
        "value": "joined.card.level",
        "delete": "joined.card.level == 0",
    }));
    let mut intake = intake_of(&json!([entry]), &Value::Null);
    let mut cards = Cards::new(&latest());
    cards.fold(
        "a",
        Some(&json!({"owner": "Ada", "level": 2, "active": true})),
        1,
    );
    cards.fold(
        "b",
        Some(&json!({"owner": "Bob", "level": 0, "active": true})),
        1,
    );
    cards.fold(
        "c",
        Some(&json!({"owner": "Cyd", "level": 1, "active": false})),
        1,
    );
    for (offset, card) in (0..).zip(["c", "a", "none", "b"]) {
        take(
            &mut intake,
            "t.orders",
            0,
            offset,
            Some(&json!({"card": card})),
            1,
        );
    }
    let drained = drain(&mut intake, &cards);
    assert_eq!(
        content(&drained.records),
        [("Ada".into(), json!(2)), ("Bob".into(), Value::Null)]
    );
    assert!(drained.refused.is_empty());
    assert_eq!(intake.positions(), [("t.orders", 0, 4)]);
}

#[test]
fn a_filter_that_reads_no_join_spares_the_event_its_joins() {
    let entry = order(&json!({"filter": "has(event.card)"}));
    let mut intake = intake_of(&json!([entry]), &Value::Null);
    assert_eq!(
        take(&mut intake, "t.orders", 0, 0, Some(&json!({"n": 1})), 1),
        []
    );
    assert_eq!(intake.waiting("t.orders", 0), 0);
    let drained = drain(&mut intake, &Cards::new(&latest()));
    assert!(drained.refused.is_empty() && content(&drained.records).is_empty());
}

#[test]
fn what_fails_with_its_join_is_refused_with_the_record_as_it_came() {
    let entry = order(&json!({"value": "joined.card.owner"}));
    let mut intake = intake_of(&json!([entry]), &Value::Null);
    let mut cards = Cards::new(&latest());
    cards.fold("c", Some(&json!({"owner": "Ada"})), 1);
    for (offset, card) in (0..).zip(["c", "none", "c"]) {
        assert_eq!(
            take(
                &mut intake,
                "t.orders",
                0,
                offset,
                Some(&json!({"card": card})),
                1
            ),
            []
        );
    }
    let drained = drain(&mut intake, &cards);
    assert_eq!(content(&drained.records).len(), 2);
    let [(record, fault)] = drained.refused.as_slice() else {
        panic!("{:?}", drained.refused);
    };
    assert_eq!(fault.reason, Reason::AbsentField, "{fault}");
    assert!(fault.message.contains("view 'v', from 'orders'"), "{fault}");
    record.with(|record| {
        assert_eq!(
            (
                record.topic,
                record.partition,
                record.offset,
                record.timestamp
            ),
            ("t.orders", 0, 1, 1)
        );
        assert_eq!(record.key, Some(b"k0-1".as_slice()));
        assert_eq!(record.value, Some(br#"{"card":"none"}"#.as_slice()));
        assert_eq!(record.header("h"), Some(b"1".as_slice()));
    });
    // All of them are done with.
    assert_eq!(intake.positions(), [("t.orders", 0, 3)]);
}

#[test]
fn a_partition_that_stops_at_a_record_lets_nothing_later_pass() {
    let returned = order(&json!({"source": "returns", "value": "joined.card.owner"}));
    let more = json!({"returns": {"invalidRecords": "Stop"}});
    let mut intake = intake_of(&json!([order(&json!({})), returned]), &more);
    let mut cards = Cards::new(&latest());
    cards.fold("c", Some(&json!({"owner": "Ada"})), 1);
    for partition in 0..2 {
        intake.start("t.returns", partition, 0);
    }
    intake.start("t.orders", 0, 0);
    for (offset, card) in (0..).zip(["c", "none", "c"]) {
        take(
            &mut intake,
            "t.returns",
            0,
            offset,
            Some(&json!({"card": card})),
            offset,
        );
    }
    take(
        &mut intake,
        "t.returns",
        1,
        0,
        Some(&json!({"card": "c"})),
        9,
    );
    take(
        &mut intake,
        "t.orders",
        0,
        0,
        Some(&json!({"n": 0, "card": "c"})),
        9,
    );
    let drained = drain(&mut intake, &cards);
    let keys: Vec<String> = content(&drained.records)
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys, ["k0-0", "k0-0", "k1-0"]);
    assert_eq!(drained.stopped.len(), 1);
    assert!(drained.refused.is_empty());
    assert_eq!(
        intake.positions(),
        [("t.orders", 0, 1), ("t.returns", 0, 1), ("t.returns", 1, 1)]
    );
    assert_eq!(intake.waiting("t.returns", 0), 0);
    // A restart comes back to it.
    assert_eq!(content(&drain(&mut intake, &cards).records), []);
    assert_eq!(intake.positions()[1], ("t.returns", 0, 1));
}

#[test]
fn entries_of_one_topic_let_a_record_go_together_or_stop_together() {
    let from = |value: &str| {
        json!([
            order(&json!({"name": "joined", "source": "returns", "value": value})),
            {"name": "plain", "source": "returns", "key": "event.card", "value": "event.n"},
        ])
    };
    let mut cards = Cards::new(&latest());
    cards.fold("c", Some(&json!({"owner": "Ada"})), 1);
    let mut intake = intake_of(&from("joined.card"), &Value::Null);
    take(
        &mut intake,
        "t.returns",
        0,
        0,
        Some(&json!({"n": 5, "card": "c"})),
        1,
    );
    let went = content(&drain(&mut intake, &cards).records);
    assert_eq!(
        went,
        [
            ("k0-0".into(), json!({"owner": "Ada"})),
            ("c".into(), json!(5))
        ]
    );

    let mut intake = intake_of(&from("joined.card.absent.deep"), &Value::Null);
    take(
        &mut intake,
        "t.returns",
        0,
        0,
        Some(&json!({"n": 5, "card": "c"})),
        1,
    );
    let drained = drain(&mut intake, &cards);
    assert_eq!(content(&drained.records), []);
    assert_eq!(drained.stopped.len(), 1);
    assert_eq!(intake.positions(), [("t.returns", 0, 0)]);
}

#[test]
fn semantics_4_a_null_event_drops_the_key_that_its_record_or_its_join_tells() {
    let by_record = order(&json!({}));
    let mut intake = intake_of(&json!([by_record]), &Value::Null);
    let mut cards = Cards::new(&latest());
    cards.fold("k0-0", Some(&json!({"owner": "Ada"})), 1);
    take(&mut intake, "t.orders", 0, 0, None, 1);
    assert_eq!(
        content(&drain(&mut intake, &cards).records),
        [("k0-0".into(), Value::Null)]
    );
    // The key of the join is the record's, so the row's key can be told.
    let through = json!({"joins": [{"name": "card", "view": "cards", "key": "key"}], "key": "joined.card.owner", "value": null});
    let mut intake = intake_of(&json!([order(&through)]), &Value::Null);
    take(&mut intake, "t.orders", 0, 0, None, 1);
    assert_eq!(
        content(&drain(&mut intake, &cards).records),
        [("Ada".into(), Value::Null)]
    );
    // It is the event's, so it cannot.
    let lost = order(&json!({"key": "joined.card.owner", "value": null}));
    let mut intake = intake_of(&json!([lost]), &Value::Null);
    take(&mut intake, "t.orders", 0, 0, None, 1);
    assert_eq!(content(&drain(&mut intake, &cards).records), []);
}

#[test]
fn a_deleted_row_of_a_debezium_table_drops_the_key_that_it_had() {
    let envelope = json!({"orders": {"envelope": "Debezium", "keyFormat": "Json"}});
    let from = json!([{"source": "orders", "key": "event.email", "value": "event.name"}]);
    let change = |op: &str, before: Value, after: Value| json!({"op": op, "before": before, "after": after, "source": {"ts_ms": 1}});
    let row = json!({"id": 1, "email": "a@b", "name": "Ada"});
    let mut intake = intake_of(&from, &envelope);
    let mut take = |offset: i64, value: Option<Value>| {
        let bytes = value.map(|value| value.to_string().into_bytes());
        let faults = intake.take(&Record {
            topic: "t.orders",
            partition: 0,
            offset,
            timestamp: 1,
            key: Some(br#"{"id":1}"#),
            value: bytes.as_deref(),
            headers: &[],
        });
        assert_eq!(faults, []);
    };
    take(0, Some(change("c", Value::Null, row.clone())));
    take(1, Some(change("d", row, Value::Null)));
    // The tombstone after it tells no row, and there is nothing left to delete.
    take(2, None);
    let went = content(&intake.drain(&|_, _| false));
    assert_eq!(
        went,
        [("a@b".into(), json!("Ada")), ("a@b".into(), Value::Null)]
    );
}

#[test]
fn what_cannot_work_is_said_at_its_place() {
    let compile = |entry: &Value| {
        let config = view("v", &json!([entry]), &latest(), true);
        let error = Definition::compile(&config, &sources(&Value::Null)).unwrap_err();
        let paths = error.problems.iter().map(|problem| problem.path.clone());
        paths.collect::<Vec<_>>()
    };
    let joins = |key: &str| json!([{"name": "card", "view": "cards", "key": key}]);
    assert_eq!(
        compile(&order(&json!({"joins": joins("evnt.card")}))),
        ["spec.from[name=orders].joins[name=card].key"]
    );
    assert_eq!(
        compile(&order(&json!({"joins": joins("joined.card")}))),
        ["spec.from[name=orders].joins[name=card].key"]
    );
    assert_eq!(
        compile(&order(&json!({"value": "joined.crad"}))),
        ["spec.from[name=orders].value"]
    );
    assert_eq!(
        compile(&json!({"source": "orders", "value": "joined.card"})),
        ["spec.from[name=orders].value"]
    );
    let config = view("v", &json!([order(&json!({}))]), &latest(), true);
    let definition = Definition::compile(&config, &sources(&Value::Null)).unwrap();
    assert_eq!(
        definition.joined_views().into_iter().collect::<Vec<_>>(),
        ["cards"]
    );
}

/// One step of a life: of the context, of the events, or of the intake.
#[derive(Clone, Debug)]
enum Step {
    Card {
        key: u8,
        value: Option<u8>,
    },
    Event {
        partition: i32,
        card: u8,
        time: i64,
    },
    /// The intake reads what is in a partition, at most so much.
    Poll {
        partition: i32,
        most: usize,
    },
    /// The reader of the joined view folds so much.
    Fold {
        most: usize,
    },
    /// One turn of the intake: it asks, or drains if the view holds what it asked for.
    Turn,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3u8, prop::option::weighted(0.8, any::<u8>())).prop_map(|(key, value)| Step::Card { key, value }),
        4 => (0..2i32, 0..4u8, 0..50i64).prop_map(|(partition, card, time)| Step::Event { partition, card, time }),
        3 => (0..2i32, 1..4usize).prop_map(|(partition, most)| Step::Poll { partition, most }),
        3 => (1..4usize).prop_map(|most| Step::Fold { most }),
        4 => Just(Step::Turn),
    ];
    prop::collection::vec(step, 1..120)
}

/// What a plain reading of the promise gives, beside the real one.
#[derive(Default)]
struct World {
    cards: Vec<(u8, Option<u8>)>,
    events: [Vec<(u8, i64)>; 2],
    /// Read by the intake: how much of each partition, and how long the log of cards was then.
    read: [Vec<usize>; 2],
    folded: usize,
    /// Asked: how much of each partition was read, and how long the log of cards was.
    asked: Option<([usize; 2], usize)>,
    gone: [usize; 2],
}

impl World {
    /// The card's value by the first `upto` records.
    fn card(&self, key: u8, upto: usize) -> Option<u8> {
        self.cards[..upto]
            .iter()
            .rev()
            .find(|(of, _)| *of == key)
            .and_then(|(_, value)| *value)
    }

    /// Which events go now, in which order: of both partitions' next ones the older, until that one is behind the fence.
    fn going(&mut self, fence: [usize; 2]) -> Vec<(usize, usize)> {
        let mut going = Vec::new();
        loop {
            let next = (0..2).filter(|p| self.gone[*p] < self.read[*p].len());
            let oldest = next.min_by_key(|p| (self.events[*p][self.gone[*p]].1, *p));
            match oldest {
                Some(p) if self.gone[p] < fence[p] => {
                    going.push((p, self.gone[p]));
                    self.gone[p] += 1;
                }
                _ => return going,
            }
        }
    }
}

fn live(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut intake = intake_of(&json!([order(&json!({}))]), &Value::Null);
    let mut held = Cards::new(&latest());
    let mut world = World::default();
    for partition in 0..2 {
        intake.start("t.orders", partition, 0);
    }
    let mut drawn = intake.fence();
    // At the end everything is read, folded and drained.
    let end = [
        Step::Poll {
            partition: 0,
            most: usize::MAX,
        },
        Step::Poll {
            partition: 1,
            most: usize::MAX,
        },
        Step::Fold { most: usize::MAX },
        Step::Turn,
        Step::Turn,
        Step::Turn,
        Step::Turn,
    ];
    for step in steps.iter().chain(&end) {
        match step {
            Step::Card { key, value } => world.cards.push((*key, *value)),
            Step::Event {
                partition,
                card,
                time,
            } => {
                world.events[*partition as usize].push((*card, *time));
            }
            Step::Poll { partition, most } => {
                let place = *partition as usize;
                let (have, from) = (world.events[place].len(), world.read[place].len());
                for offset in from..have.min(from.saturating_add(*most)) {
                    let (card, time) = world.events[place][offset];
                    let event = json!({"n": offset, "card": format!("c{card}")});
                    take(
                        &mut intake,
                        "t.orders",
                        *partition,
                        offset as i64,
                        Some(&event),
                        time,
                    );
                    world.read[place].push(world.cards.len());
                }
            }
            Step::Fold { most } => {
                let upto = world.cards.len().min(world.folded.saturating_add(*most));
                for (key, value) in &world.cards[world.folded..upto] {
                    held.fold(&format!("c{key}"), value.map(Value::from).as_ref(), 0);
                }
                world.folded = upto;
            }
            Step::Turn => match world.asked {
                None => {
                    drawn = intake.fence();
                    world.asked = Some((
                        [world.read[0].len(), world.read[1].len()],
                        world.cards.len(),
                    ));
                }
                Some((fence, end)) if world.folded >= end => {
                    let drained = intake.drain_under(&Terms {
                        behind: &|_, _| false,
                        fence: &drawn,
                        views: &held,
                        stops: &|_, _, _| false,
                    });
                    world.asked = None;
                    let going = world.going(fence);
                    let mut expected = Vec::new();
                    for (place, offset) in going {
                        // The promise: all that was in the log when the event was received.
                        prop_assert!(world.read[place][offset] <= world.folded);
                        let card = world.card(world.events[place][offset].0, world.folded);
                        expected.push((
                            format!("k{place}-{offset}"),
                            json!({"n": offset, "card": card}),
                        ));
                    }
                    prop_assert_eq!(content(&drained.records), expected);
                    let left = (0..2).any(|p| world.gone[p] < world.read[p].len());
                    prop_assert_eq!(drained.fenced, left);
                }
                Some(_) => {}
            },
        }
    }
    for place in 0..2 {
        prop_assert_eq!(world.gone[place], world.events[place].len());
    }
    Ok(())
}

proptest! {
    #[test]
    fn an_event_is_joined_with_all_that_was_in_the_log_when_it_came(steps in steps()) {
        live(&steps)?;
    }
}
