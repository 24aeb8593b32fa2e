//! Aggregates and expiry: what an agent reads at its trigger's time, and that a stage that was killed and begun again leaves the
//! state that a fold from the beginning gives, byte for byte.

use crate::bed::{Bed, PARTITIONS, until};
use crate::text;
use headwater_engine::config;
use headwater_engine::record::{NewRecord, Record, TopicPartition};
use headwater_engine::view::{Definition, Partition};
use headwater_runtime::log::{Isolation, Start, TopicSpec};
use headwater_runtime::stage::{Phase, Services};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const MINUTE: i64 = 60_000;

/// A bed with a source `payments` and one view over it, whose fold a test gives.
struct Windows {
    bed: Bed,
    view: Value,
    /// Event time of the first payment, milliseconds.
    base: i64,
}

impl Windows {
    fn new(bed: Bed, fold: Value, expire_after: Option<i64>) -> Self {
        let topics: Vec<TopicSpec> = ["payments", "view.usage.000001", "view.usage.dead"]
            .iter()
            .map(|name| TopicSpec {
                name: bed.topic(name),
                partitions: PARTITIONS,
                replication_factor: Some(1),
                config: BTreeMap::new(),
            })
            .collect();
        bed.log.create(&topics).unwrap();
        let view = json!({
            "name": "usage", "generation": "000001",
            "from": [{"name": "payments", "source": "payments", "required": false}],
            "fold": fold, "indexes": [], "expireAfterMs": expire_after,
            "input": {"source": {"topic": bed.topic("payments")}},
            "stateTopic": bed.topic("view.usage.000001"), "deadTopic": bed.topic("view.usage.dead"),
        });
        // Within what brokers keep.
        let base = jiff::Timestamp::now().as_millisecond() - 24 * 60 * MINUTE;
        Self { bed, view, base }
    }

    fn with_view(&self, mut stage: Value) -> Value {
        stage["sources"]["payments"] = json!({
            "name": "payments", "topic": self.bed.topic("payments"), "format": "Json", "keyFormat": "Text",
            "schema": null, "key": null, "eventTime": null, "invalidRecords": "DeadLetter",
        });
        stage["views"]["usage"] = self.view.clone();
        stage
    }

    fn view_stage(&self) -> Value {
        let mut stage = self.with_view(self.bed.view("flights"));
        stage["role"] = json!({"view": {"name": "usage"}});
        stage
    }

    /// An agent whose answer is the row of the key that is asked for.
    fn agent_stage(&self) -> Value {
        let mut stage = self.with_view(self.bed.agent());
        let agent = &mut stage["role"]["agent"];
        agent["slots"][0]["lookup"]["view"] = json!("usage");
        agent["model"]["provider"]["scripted"]["rules"][0]["reply"] =
            json!("{{ request.context.flight }}");
        stage
    }

    fn payment(&self, card: &str, value: &Value, after: i64) -> NewRecord {
        NewRecord {
            timestamp: Some(self.base + after),
            ..self.bed.record("payments", card, value)
        }
    }

    fn question(&self, name: &str, card: &str, after: i64) -> NewRecord {
        NewRecord {
            timestamp: Some(self.base + after),
            ..self.bed.question(name, "?", card)
        }
    }

    /// Asks at times after the base, one question after the other, and gives the rows.
    fn ask(&self, round: &str, questions: &[(&str, i64)]) -> Vec<Value> {
        let mut writer = self.bed.writer();
        let mut answers = self.bed.follow("answers");
        let before = self.bed.read("answers").len();
        let records: Vec<NewRecord> = questions
            .iter()
            .enumerate()
            .map(|(number, (card, after))| {
                self.question(&format!("{round}-{number:03}"), card, *after)
            })
            .collect();
        writer.write(&records).unwrap();
        let rows: BTreeMap<String, Value> = answers
            .wait(before + questions.len())
            .iter()
            .filter(|seen| seen.key.starts_with(round))
            .map(|seen| (seen.key.clone(), serde_json::from_str(text(seen)).unwrap()))
            .collect();
        rows.into_values().collect()
    }

    /// Runs the view's stage until it has folded all that is there; then it ends, or is killed.
    async fn fold(&self, crash: bool) {
        let token = CancellationToken::new();
        let services = Services {
            shutdown: token.clone(),
            ..self.bed.services()
        };
        let view = self.bed.start_with(&self.view_stage(), services);
        until(&view, "caught up", |view| {
            view.is_ready() && view.caught_up(&*self.bed.log).unwrap()
        })
        .await;
        if crash {
            view.crash().await;
        } else {
            token.cancel();
            assert_eq!(view.join().await.phase, Phase::Stopped);
        }
    }

    /// Every record of a topic, handed over as the log gives it.
    fn each(&self, topic: &str, f: &mut dyn FnMut(&Record<'_>)) {
        let topic = self.bed.topic(topic);
        let partitions: Vec<TopicPartition> = (0..PARTITIONS)
            .map(|partition| TopicPartition::new(topic.as_str(), partition))
            .collect();
        let ends = self.bed.log.ends(&partitions).unwrap();
        let mut reader = self.bed.log.reader(Isolation::ReadCommitted).unwrap();
        let starts: Vec<_> = partitions
            .iter()
            .map(|partition| (partition.clone(), Start::Earliest))
            .collect();
        reader.assign(&starts).unwrap();
        let begun = Instant::now();
        while !partitions
            .iter()
            .zip(&ends)
            .all(|(partition, end)| *end == 0 || reader.position(partition) >= Some(*end))
        {
            reader
                .poll(Duration::from_millis(100), &mut |record| f(record))
                .unwrap();
            assert!(
                begun.elapsed() < crate::bed::DEADLINE,
                "cannot read {topic}"
            );
        }
    }

    /// What the state topic holds, a value or null for each key.
    fn state(&self) -> BTreeMap<String, Value> {
        let mut state = BTreeMap::new();
        self.each("view.usage.000001", &mut |record| {
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            if !key.starts_with('\0') {
                let value = record
                    .value
                    .map_or(Value::Null, |value| serde_json::from_slice(value).unwrap());
                state.insert(key, value);
            }
        });
        state
    }

    /// Restored from the state topic, every partition is what a fold of the source from its beginning is.
    fn restored_is_folded(&self) {
        let stage: config::Stage = serde_json::from_value(self.view_stage()).unwrap();
        let definition = Definition::compile(&stage.views["usage"], &stage.sources).unwrap();
        let partition = |number| Partition::new(definition.clone(), number);
        let mut folded: BTreeMap<i32, Partition> =
            (0..PARTITIONS).map(|n| (n, partition(n))).collect();
        let mut restored: BTreeMap<i32, Partition> =
            (0..PARTITIONS).map(|n| (n, partition(n))).collect();
        self.each("view.usage.000001", &mut |record| {
            let partition = restored.get_mut(&record.partition).unwrap();
            partition.restore(record).unwrap();
        });
        self.each("payments", &mut |record| {
            let partition = folded.get_mut(&record.partition).unwrap();
            assert_eq!(partition.fold(record).fault, None);
        });
        for (number, partition) in &mut folded {
            // Past the control records that the restored one knows of.
            partition.advance(restored[number].next());
        }
        assert!(folded == restored, "{folded:#?}\n{restored:#?}");
    }
}

pub async fn an_aggregate_goes_on_after_a_crash_and_is_read_at_the_triggers_time(bed: Bed) {
    let window = 10 * MINUTE;
    let fold = json!({"aggregate": {"fields": [
        {"name": "count", "compute": "Count", "limit": 0},
        {"name": "sum", "compute": "Sum", "of": "value.amount", "limit": 0},
        {"name": "large", "compute": "Count", "where": "value.amount > 50.0", "limit": 0},
        {"name": "recent", "compute": "Sum", "of": "value.amount", "withinMs": window, "limit": 0},
        {"name": "shops", "compute": "TopK", "of": "value.shop", "withinMs": window, "limit": 2},
    ]}});
    let windows = Windows::new(bed, fold, None);
    let mut writer = windows.bed.writer();
    let cards = ["c1", "c2", "c3", "c4"];
    // A payment a minute for each card, for an hour; in the middle the stage is killed.
    let payments = |minutes: std::ops::Range<i64>| -> Vec<NewRecord> {
        minutes
            .flat_map(|minute| {
                cards
                    .iter()
                    .zip(1..)
                    .map(move |(card, number)| (minute, *card, number))
            })
            .map(|(minute, card, number)| {
                let amount = (minute * number % 7) as f64 * 10.1;
                let value =
                    json!({"amount": amount, "shop": format!("s{}", minute % (number + 1))});
                windows.payment(card, &value, minute * MINUTE)
            })
            .collect()
    };
    let expected = |card: i64, minutes: std::ops::Range<i64>, at: i64| {
        let amounts: Vec<(i64, f64)> = minutes
            .map(|minute| (minute, (minute * card % 7) as f64 * 10.1))
            .collect();
        let seen = |minute: i64| minute * MINUTE > at - window;
        let recent: Vec<f64> = amounts
            .iter()
            .filter(|(m, _)| seen(*m))
            .map(|(_, a)| *a)
            .collect();
        let mut shops: BTreeMap<String, i64> = BTreeMap::new();
        for (minute, _) in amounts.iter().filter(|(minute, _)| seen(*minute)) {
            *shops
                .entry(format!("s{}", minute % (card + 1)))
                .or_default() += 1;
        }
        let mut shops: Vec<(String, i64)> = shops.into_iter().collect();
        shops.sort_by_key(|(_, count)| -count);
        shops.truncate(2);
        json!({
            "count": amounts.len(),
            "sum": amounts.iter().map(|(_, amount)| amount).fold(0.0, |sum, amount| sum + amount),
            "large": amounts.iter().filter(|(_, amount)| *amount > 50.0).count(),
            "recent": recent.iter().copied().reduce(|sum, amount| sum + amount).map_or(json!(0), |sum| json!(sum)),
            "shops": shops.iter().map(|(value, count)| json!({"value": value, "count": count})).collect::<Vec<_>>(),
        })
    };
    writer.write(&payments(0..20)).unwrap();
    windows.fold(false).await;
    windows.restored_is_folded();
    let agent = windows.bed.started(&windows.agent_stage()).await;
    let at = [
        ("c1", 19 * MINUTE),
        ("c2", 19 * MINUTE),
        ("c2", 25 * MINUTE),
        ("c2", 29 * MINUTE),
    ];
    let rows = windows.ask("early", &at);
    let wanted = [
        expected(1, 0..20, at[0].1),
        expected(2, 0..20, at[1].1),
        expected(2, 0..20, at[2].1),
        expected(2, 0..20, at[3].1),
    ];
    assert_eq!(rows, wanted);
    assert_eq!(rows[3]["recent"], json!(0));

    writer.write(&payments(20..40)).unwrap();
    windows.fold(true).await;
    agent.crash().await;
    writer.write(&payments(40..60)).unwrap();
    windows.fold(false).await;
    windows.restored_is_folded();
    let state = windows.state();
    for (card, number) in cards.iter().zip(1..) {
        assert_eq!(state[*card], expected(number, 0..60, 59 * MINUTE), "{card}");
    }
    // An agent that restores reads the same, at its own time.
    let agent = windows.bed.started(&windows.agent_stage()).await;
    let rows = windows.ask("late", &[("c3", 59 * MINUTE), ("c4", 64 * MINUTE)]);
    assert_eq!(
        rows,
        [
            expected(3, 0..60, 59 * MINUTE),
            expected(4, 0..60, 64 * MINUTE)
        ]
    );
    agent.crash().await;
}

pub async fn expired_keys_are_gone_for_readers_and_then_from_the_topic(bed: Bed) {
    let expiry = 10 * MINUTE;
    let fold =
        json!({"aggregate": {"fields": [{"name": "count", "compute": "Count", "limit": 0}]}});
    let windows = Windows::new(bed, fold, Some(expiry));
    let mut writer = windows.bed.writer();
    let count = |count: i64| json!({"count": count});
    // Enough keys for every partition.
    let keys: BTreeSet<String> = (0..30).map(|number| format!("k{number:02}")).collect();
    let all = |after: i64| -> Vec<NewRecord> {
        keys.iter()
            .map(|key| windows.payment(key, &json!({}), after))
            .collect()
    };
    writer
        .write(&[windows.payment("old", &json!({}), 0)])
        .unwrap();
    writer
        .write(&[windows.payment("again", &json!({}), 0)])
        .unwrap();
    writer.write(&all(5 * MINUTE)).unwrap();
    windows.fold(true).await;
    let agent = windows.bed.started(&windows.agent_stage()).await;
    // By the reader's time, wherever the fold's clock is.
    let rows = windows.ask(
        "first",
        &[
            ("old", expiry - 1),
            ("old", expiry),
            ("k07", expiry),
            ("k07", 5 * MINUTE + expiry),
            ("never", 0),
        ],
    );
    assert_eq!(
        rows,
        [count(1), Value::Null, count(1), Value::Null, Value::Null]
    );
    // Gone by its own time: it begins anew, though the fold has not forgotten it.
    writer
        .write(&[windows.payment("again", &json!({}), 15 * MINUTE)])
        .unwrap();
    writer.write(&all(15 * MINUTE)).unwrap();
    windows.fold(false).await;
    windows.restored_is_folded();
    let state = windows.state();
    assert_eq!(
        (&state["old"], &state["again"], &state["k07"]),
        (&count(1), &count(1), &count(1))
    );
    // The next events are past twice the expiry of `old`, and of no other.
    writer.write(&all(21 * MINUTE)).unwrap();
    windows.fold(false).await;
    windows.restored_is_folded();
    let state = windows.state();
    assert_eq!(
        (&state["old"], &state["again"], &state["k07"]),
        (&Value::Null, &count(1), &count(2))
    );
    let rows = windows.ask(
        "last",
        &[
            ("again", 24 * MINUTE),
            ("again", 25 * MINUTE),
            ("k07", 30 * MINUTE),
        ],
    );
    assert_eq!(rows, [count(1), Value::Null, count(2)]);
    agent.crash().await;
    // Passing time triggers nothing: a stage that finds nothing new writes nothing.
    let length = |windows: &Windows| {
        let mut length = 0;
        windows.each("view.usage.000001", &mut |_| length += 1);
        length
    };
    let before = length(&windows);
    windows.fold(false).await;
    assert_eq!(length(&windows), before);
}
