//! Agents with an input log of their own, runs for each row, and what must not run twice.

use super::*;
use crate::agent::intake::Intake;
use crate::intake::{Fence, TakeIn, Terms};
use crate::journal;
use crate::key::partition_of;
use crate::record::OwnedRecord;
use proptest::prelude::*;
use std::sync::Arc;

const INPUT: &str = "shop.agent.helper.in";
const PARTITIONS: i32 = 5;

fn compiled(trigger: &str) -> Arc<Agent> {
    let agent = format!("trigger: {trigger}\nprompt: {{user: '{{{{ event.text }}}}'}}");
    Arc::new(Agent::compile(&stage(&agent)).unwrap_or_else(|error| panic!("{error}")))
}

fn intake(agent: &Arc<Agent>) -> Intake {
    Intake::new(Arc::clone(agent), PARTITIONS).unwrap()
}

/// What an intake makes of what it has taken.
fn drained(intake: &mut Intake, views: &dyn Views) -> Vec<NewRecord> {
    let terms = Terms {
        behind: &|_, _| false,
        fence: &Fence::open(),
        views,
        stops: &|_, _, _| false,
    };
    intake.drain_under(&terms).records
}

fn question(value: &Value, key: &str, time: i64) -> NewRecord {
    NewRecord {
        topic: "shop.questions".into(),
        partition: Some(3),
        key: Some(key.as_bytes().to_vec()),
        value: Some(value.to_string().into_bytes()),
        headers: Vec::new(),
        timestamp: Some(time),
    }
}

fn read(agent: &Agent, record: &NewRecord) -> Result<Option<Trigger>, Fault> {
    record.lend(17, |record| agent.trigger(record))
}

fn any_record() -> impl Strategy<Value = NewRecord> {
    let header = prop_oneof![
        ("[a-z]{1,5}", proptest::option::of("\\PC{0,8}")),
        Just((
            "headwater-root".to_owned(),
            Some("shop.first-2-7".to_owned())
        )),
        (0..20u32).prop_map(|hops| ("headwater-hops".to_owned(), Some(hops.to_string()))),
        Just(("hw-in".to_owned(), Some("{}".to_owned()))),
    ];
    let value = prop_oneof![
        8 => ("[a-c]{0,2}", any::<i64>(), any::<f64>()).prop_map(|(session, number, double)| {
            Some(json!({"session": session, "text": "hi", "n": number, "d": double}).to_string().into_bytes())
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..20).prop_map(Some),
        1 => Just(Some(br#"{"text": "no session"}"#.to_vec())),
        1 => Just(None),
    ];
    (
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6)),
        value,
        proptest::collection::vec(header, 0..4),
        T..T + 1_000_000,
    )
        .prop_map(|(key, value, headers, timestamp)| NewRecord {
            topic: "shop.questions".into(),
            partition: Some(3),
            key,
            value,
            headers: headers
                .into_iter()
                .map(|(name, value)| (name, value.map(String::into_bytes)))
                .collect(),
            timestamp: Some(timestamp),
        })
}

proptest! {
    /// Through the log or not: the same trigger, refused or left out alike.
    #[test]
    fn a_trigger_that_was_taken_in_is_the_one_that_came(record in any_record(), offset in 0..1_000_000i64) {
        let rules = "filter: \"event == null || !has(event.n) || event.n != 7\", key: event.session, deletes: Run";
        let direct = compiled(&format!("{{{rules}}}"));
        let through = compiled(&format!("{{{rules}, input: {INPUT}}}"));
        let expected = record.lend(offset, |record| direct.trigger(record));
        let mut intake = intake(&through);
        prop_assert_eq!(record.lend(offset, |record| intake.take(record)), []);
        let taken = drained(&mut intake, &NoViews);
        prop_assert_eq!(intake.positions(), [("shop.questions", 3, offset + 1)]);
        let expected = match expected {
            Ok(Some(expected)) => expected,
            Ok(None) => {
                prop_assert_eq!(taken, []);
                return Ok(());
            }
            Err(fault) => {
                prop_assert_eq!(taken.len(), 1);
                prop_assert_eq!(&read(&through, &taken[0]).unwrap_err(), &fault);
                // What is written of it is the same but for the agent's configuration and the audit's partition.
                let refuse = |agent: &Agent, record: &Record<'_>| {
                    let mut records = agent.refuse(record, &fault, T).unwrap().records;
                    records.pop();
                    records
                };
                let ours = taken[0].lend(17, |record| refuse(&through, record));
                prop_assert_eq!(ours, record.lend(offset, |record| refuse(&direct, record)));
                return Ok(());
            }
        };
        prop_assert_eq!(taken.len(), 1);
        let trigger = read(&through, &taken[0]).unwrap().unwrap();
        prop_assert_eq!(&trigger.event, &expected.event);
        prop_assert_eq!(&trigger.key, &expected.key);
        prop_assert_eq!(&trigger.run, &expected.run);
        prop_assert_eq!(&trigger.position, &expected.position);
        prop_assert_eq!((trigger.timestamp, trigger.time), (expected.timestamp, expected.time));
        prop_assert_eq!((&trigger.root, trigger.hops), (&expected.root, expected.hops));
        prop_assert_eq!(trigger.with_record(OwnedRecord::new), record.lend(offset, OwnedRecord::new));
        prop_assert_eq!(Some(trigger.partition), taken[0].partition);
        if let Some(key) = trigger.key {
            prop_assert_eq!(trigger.partition, partition_of(key.as_bytes(), PARTITIONS));
        }
    }

    /// Within a partition in its order, across them the oldest of the next ones first; each once, whatever the turns.
    #[test]
    fn semantics_5_of_what_waits_the_oldest_goes_first(
        times in proptest::collection::vec((0..3i32, 0..20i64), 1..40),
        turns in proptest::collection::vec(1..8usize, 0..10),
    ) {
        let agent = compiled(&format!("{{key: event.session, input: {INPUT}}}"));
        let mut intake = intake(&agent);
        for partition in 0..3 {
            intake.start("shop.questions", partition, 0);
        }
        let mut logs: Vec<Vec<(i64, usize)>> = vec![Vec::new(); 3];
        let mut went = Vec::new();
        let mut expected = Vec::new();
        let mut ends = turns.iter().scan(0, |end, turn| { *end += turn; Some(*end) }).peekable();
        let go = |intake: &mut Intake, logs: &mut Vec<Vec<(i64, usize)>>, went: &mut Vec<usize>, expected: &mut Vec<usize>| {
            let records = drained(intake, &NoViews);
            went.extend(records.iter().map(|record| {
                let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
                usize::try_from(value["n"].as_u64().unwrap()).unwrap()
            }));
            while let Some(first) = (0..3).filter(|place| !logs[*place].is_empty()).min_by_key(|place| (logs[*place][0].0, *place)) {
                expected.push(logs[first].remove(0).1);
            }
        };
        let mut offsets = [0i64; 3];
        for (n, (partition, time)) in times.iter().enumerate() {
            if ends.next_if_eq(&n).is_some() {
                go(&mut intake, &mut logs, &mut went, &mut expected);
            }
            let place = usize::try_from(*partition).unwrap();
            let mut record = question(&json!({"session": "s", "n": n}), "k", T + time);
            record.partition = Some(*partition);
            record.lend(offsets[place], |record| intake.take(record));
            // A record that is handed over again is known.
            record.lend(offsets[place], |record| intake.take(record));
            offsets[place] += 1;
            logs[place].push((T + time, n));
        }
        go(&mut intake, &mut logs, &mut went, &mut expected);
        prop_assert_eq!(went, expected);
    }
}

struct NoViews;

impl Views for NoViews {
    fn read(&self, _: &str, _: &mut dyn FnMut(&View)) {}
}

#[test]
fn nothing_goes_past_a_partition_whose_next_event_is_not_known() {
    let agent = compiled(&format!("{{key: event.session, input: {INPUT}}}"));
    let mut intake = intake(&agent);
    intake.start("shop.questions", 3, 0);
    intake.start("shop.questions", 4, 0);
    let record = question(&json!({"session": "s"}), "k", T);
    record.lend(0, |record| intake.take(record));
    assert_eq!(intake.drain(&|_, partition| partition == 4), []);
    assert_eq!(intake.positions()[0], ("shop.questions", 3, 0));
    assert_eq!(intake.waiting("shop.questions", 3), 1);
    assert_eq!(intake.drain(&|_, _| false).len(), 1);
    assert_eq!(intake.positions()[0], ("shop.questions", 3, 1));
    // What is lost is forgotten.
    record.lend(1, |record| intake.take(record));
    intake.stop("shop.questions", 3);
    assert_eq!(intake.drain(&|_, _| false), []);
}

const LOOKUP: &str = "{view: bookings, by: {key: event.customer}, index: byCustomer, where: 'value.seat != null', orderBy: null, order: Ascending, limit: 1}";

fn for_each(more: &str) -> Bed {
    let trigger = format!("trigger: {{forEach: {LOOKUP}, input: {INPUT}{more}}}");
    let mut bed = Bed::new(&format!(
        "{trigger}\nprompt: {{user: '{{{{ match.seat }}}}'}}"
    ));
    for (key, seat) in [
        ("b1", json!("1A")),
        ("b2", json!("2B")),
        ("b3", Value::Null),
        ("b4", json!("4D")),
    ] {
        bed.feed("bookings", key, &json!({"customer": "c1", "seat": seat}), T);
    }
    bed
}

fn rows_of(bed: Bed, value: &Value) -> (Vec<NewRecord>, Bed) {
    let Bed { agent, .. } = bed;
    let agent = Arc::new(agent);
    let mut intake = intake(&agent);
    question(value, "k", T).lend(4, |record| intake.take(record));
    let views = Bed {
        agent: Agent::compile(&stage("prompt: {}")).unwrap(),
        ..for_each("")
    };
    let records = drained(&mut intake, &views);
    drop(intake);
    let agent = Arc::into_inner(agent).unwrap();
    (records, Bed { agent, ..views })
}

#[test]
fn a_row_is_a_trigger_of_its_own_and_the_event_is_its_identity() {
    let (records, bed) = rows_of(for_each(""), &json!({"customer": "c1"}));
    let triggers: Vec<Trigger> = records
        .iter()
        .map(|record| read(&bed.agent, record).unwrap().unwrap())
        .collect();
    // All that count, whatever the limit.
    let keys: Vec<_> = triggers
        .iter()
        .map(|trigger| trigger.key.as_ref().unwrap().as_str())
        .collect();
    assert_eq!(keys, ["b1", "b2", "b4"]);
    let runs: BTreeSet<_> = triggers.iter().map(|trigger| &trigger.run).collect();
    assert_eq!(runs.len(), 3);
    for trigger in &triggers {
        assert_eq!(trigger.position.to_string(), "shop.questions-3-4");
        assert_eq!(trigger.event.key.as_ref().unwrap().as_str(), "k");
    }
    let row = triggers[0].event.row.as_ref().unwrap();
    assert_eq!(row, &json!({"customer": "c1", "seat": "1A", "_key": "b1"}));
    let prompt = bed.ready(&triggers[1]).prompt.unwrap();
    assert_eq!(prompt.messages.last().unwrap().content, "2B");
}

#[test]
fn the_runs_key_may_be_of_the_row() {
    let (records, _) = rows_of(
        for_each(", key: '[match.seat, key]'"),
        &json!({"customer": "c1"}),
    );
    let keys: Vec<_> = records
        .iter()
        .map(|record| String::from_utf8_lossy(record.key.as_deref().unwrap()).into_owned())
        .collect();
    assert_eq!(keys, [r#"["1A","k"]"#, r#"["2B","k"]"#, r#"["4D","k"]"#]);
}

#[test]
fn no_row_is_no_run_and_a_fault_of_one_row_is_the_events() {
    let (records, _) = rows_of(for_each(""), &json!({"customer": "nobody"}));
    assert_eq!(records, []);
    let (records, bed) = rows_of(
        for_each(", key: \"match.seat == '2B' ? match.gone : 'k'\""),
        &json!({"customer": "c1"}),
    );
    assert_eq!(records.len(), 1);
    let fault = read(&bed.agent, &records[0]).unwrap_err();
    assert_eq!(fault.reason, Reason::AbsentField);
    assert!(fault.message.contains("trigger.key"), "{fault}");
}

#[test]
fn the_events_of_a_history_are_told_apart() {
    let lookup = LOOKUP.replace("bookings", "updates").replace(
        ", index: byCustomer, where: 'value.seat != null'",
        ", index: null, where: null",
    );
    let mut bed = Bed::new(&format!(
        "trigger: {{forEach: {lookup}, input: {INPUT}}}\nprompt: {{user: x}}"
    ));
    for gate in ["A", "B"] {
        bed.feed("flights", "c1", &json!({"gate": gate}), T);
    }
    let agent = Arc::new(
        Agent::compile(&stage(&format!(
            "trigger: {{forEach: {lookup}, input: {INPUT}}}\nprompt: {{user: x}}"
        )))
        .unwrap(),
    );
    let mut intake = intake(&agent);
    question(&json!({"customer": "c1"}), "k", T).lend(4, |record| intake.take(record));
    let records = drained(&mut intake, &bed);
    let runs: BTreeSet<String> = records
        .iter()
        .map(|record| read(&agent, record).unwrap().unwrap().run)
        .collect();
    assert_eq!((records.len(), runs.len()), (2, 2));
}

fn once(more: &str) -> Bed {
    Bed::new(&format!(
        "trigger: {{once: {{key: event.?flight.orValue(null), withinMs: 1000}}{more}}}\nprompt: {{user: x}}"
    ))
}

#[test]
fn what_was_done_is_not_done_again_in_its_time() {
    let bed = once("");
    let mut store = journal::Store::default();
    let first = bed.trigger_at(&json!({"flight": "F1"}), T);
    assert_eq!(bed.agent.done_before(&first, &store), None);
    let done = bed
        .agent
        .complete(&first, &bed.ready(&first), None, T)
        .unwrap();
    // Written with the run, and known once that is committed.
    assert_eq!(
        done.records
            .iter()
            .filter(|record| record.topic == "shop.agent.helper.journal")
            .count(),
        1
    );
    for change in done.journal {
        store.apply(change);
    }
    let before = |value: Value, time: i64, store: &journal::Store| {
        let mut again = bed.trigger_at(&value, time);
        again.run = "another".to_owned();
        bed.agent
            .done_before(&again, store)
            .map(|done| done.run.clone())
    };
    assert_eq!(
        before(json!({"flight": "F1"}), T + 999, &store),
        Some(first.run.clone())
    );
    assert_eq!(
        before(json!({"flight": "F1"}), T - 500, &store),
        Some(first.run.clone())
    );
    assert_eq!(before(json!({"flight": "F1"}), T + 1_000, &store), None);
    assert_eq!(before(json!({"flight": "F2"}), T, &store), None);
    assert_eq!(before(json!({}), T, &store), None);
    // A run that is begun again after a crash is no repetition of itself.
    assert_eq!(bed.agent.done_before(&first, &store), None);
    let other = bed.trigger_at(&json!({"flight": "F9"}), T + 2_000);
    assert_eq!(bed.agent.over(&other, &store, 9).len(), 0);
    let other = bed.trigger_at(&json!({"flight": "F9"}), T + 2_001);
    let over = bed.agent.over(&other, &store, 9);
    assert_eq!(over.len(), 1);
    for change in over {
        store.apply(change);
    }
    assert_eq!(before(json!({"flight": "F1"}), T + 1, &store), None);
}

#[test]
fn only_a_run_that_is_done_counts() {
    let bed = once("");
    let trigger = bed.trigger(&json!({"flight": "F1"}));
    let fault = Fault::new(Reason::ModelFailed, "no");
    let done = journal::Once {
        run: "earlier".into(),
        time: T,
    };
    for completion in [
        bed.agent.fail(&trigger, None, &fault, 1, T).unwrap(),
        bed.agent.duplicate(&trigger, &done, T).unwrap(),
        bed.agent.coalesce(&trigger, "newer", T).unwrap(),
    ] {
        assert_eq!(completion.journal, []);
    }
    let duplicate = bed.agent.duplicate(&trigger, &done, T).unwrap();
    let [record] = duplicate.records.as_slice() else {
        panic!("{:?}", duplicate.records)
    };
    assert_eq!(
        (record.topic.as_str(), record.partition),
        ("shop.agent.helper.runs", Some(3))
    );
    let audit = audit::Record::read(record.value.as_deref().unwrap()).unwrap();
    assert_eq!(
        (audit.outcome, audit.instead.as_deref()),
        (audit::Outcome::Duplicate, Some("earlier"))
    );
}

#[test]
fn a_run_without_a_key_cannot_be_once() {
    let bed = once("");
    let bytes = json!({"flight": "F1"}).to_string();
    let feed = Feed {
        value: Some(bytes.as_bytes()),
        time: T,
        ..Feed::default()
    };
    let fault = bed
        .ask(&feed, |record| bed.agent.trigger(record))
        .unwrap_err();
    assert_eq!(fault.reason, Reason::NullKey);
    let unfinished = stage("trigger: {once: {key: 'event.', withinMs: 1}}\nprompt: {user: x}");
    let error = Agent::compile(&unfinished).unwrap_err();
    assert!(error.to_string().contains("spec.trigger.once"), "{error}");
}
