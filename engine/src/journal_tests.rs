//! The journal: its keys, what a store makes of records, and what ends.

use super::*;
use crate::model::Usage;
use proptest::prelude::*;

fn key(text: &str) -> Key {
    Key::from_text(text).unwrap().unwrap()
}

fn step(offset: i64, text: &str) -> Arc<Step> {
    Arc::new(Step {
        offset,
        begun: None,
        did: Did::Reply(Reply {
            text: text.to_owned(),
            usage: Usage {
                input_tokens: Some(7),
                output_tokens: None,
            },
            finish_reason: "stop".to_owned(),
            milliseconds: 12,
            ..Reply::default()
        }),
    })
}

fn once(key_text: Option<&str>, once_text: &str, run: &str, time: i64) -> Change {
    let done = Once {
        run: run.to_owned(),
        time,
    };
    Change::once(key_text.map(key).as_ref(), &key(once_text), done)
}

fn restored<'a>(records: impl IntoIterator<Item = &'a NewRecord>) -> Store {
    let mut store = Store::default();
    for (offset, record) in (0..).zip(records) {
        record.lend(offset, |record| store.restore(record)).unwrap();
    }
    store
}

fn written(changes: &[Change]) -> Vec<NewRecord> {
    let record = |change: &Change| change.record("j", 2).unwrap();
    changes.iter().map(record).collect()
}

fn texts(store: &Store, run: &str) -> Vec<String> {
    let steps = store.steps(run);
    steps
        .iter()
        .map(|step| step.did.reply().unwrap().text.clone())
        .collect()
}

#[test]
fn how_far_a_partition_was_read_is_found_again() {
    let of = TopicPartition::new("shop.my-questions", 3);
    let reached = Reached {
        next: 42,
        progress: "1:AAEB".to_owned(),
        mark: u64::MAX,
    };
    let records = written(&[Change::reached(of.to_string(), reached.clone())]);
    assert_eq!(
        records[0].key.as_deref(),
        Some(b"\0pshop.my-questions-3".as_slice())
    );
    let store = restored(&records);
    assert_eq!(store.reached("shop.my-questions-3"), Some(&reached));
    let other = TopicPartition::new("shop.my-questions", 4);
    assert_eq!(store.reached("shop.my-questions-4"), None);
    let told = records[0].lend(0, Reached::of_journal);
    assert_eq!(told, Some((of.to_string(), reached)));

    for progress in ["", "1:AAEB"] {
        let reached = Reached {
            next: 7,
            progress: progress.to_owned(),
            mark: 0xfade,
        };
        let audit = NewRecord {
            headers: vec![reached.header(&of)],
            ..NewRecord::default()
        };
        let read = |of: &TopicPartition| audit.lend(0, |record| Reached::of_audit(record, of));
        assert_eq!(read(&of), Some(reached));
        assert_eq!(read(&other), None);
    }
}

#[test]
fn keys_and_values_are_what_they_are() {
    let records = written(&[
        Change::step("abc", 2, step(9, "hello")),
        Change::attempts(
            "abc",
            Attempts {
                offset: 9,
                count: 3,
            },
        ),
        once(Some("c1"), "HW117", "abc", 5),
        once(None, "HW117", "abc", 5),
    ]);
    let shown: Vec<(&[u8], &str)> = records
        .iter()
        .map(|record| {
            let value = record.value.as_deref().unwrap();
            (
                record.key.as_deref().unwrap(),
                std::str::from_utf8(value).unwrap(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (
                b"abc/2".as_slice(),
                r#"{"offset":9,"reply":{"text":"hello","usage":{"input_tokens":7,"output_tokens":null},"finish_reason":"stop","milliseconds":12}}"#
            ),
            (b"abc/attempts", r#"{"offset":9,"count":3}"#),
            (b"\0o\0\0\0\x02c1HW117", r#"{"run":"abc","time":5}"#),
            (b"\0o\0\0\0\0HW117", r#"{"run":"abc","time":5}"#),
        ]
    );
    assert!(records.iter().all(|record| record.partition == Some(2)));
}

#[test]
fn steps_are_those_from_the_first_without_a_gap() {
    let records = written(&[
        Change::step("a", 1, step(1, "one")),
        Change::step("a", 2, step(1, "two")),
        Change::step("a", 4, step(1, "four")),
        Change::step("b", 2, step(2, "no first")),
    ]);
    let store = restored(&records);
    assert_eq!(texts(&store, "a"), ["one", "two"]);
    assert_eq!(texts(&store, "b"), [""; 0]);
    assert_eq!(texts(&store, "c"), [""; 0]);
}

#[test]
fn what_ends_a_run_leaves_nothing_of_it_and_only_of_it() {
    let mut records = written(&[
        Change::step("a", 1, step(1, "one")),
        Change::step("a", 3, step(1, "beyond a gap")),
        Change::attempts(
            "a",
            Attempts {
                offset: 1,
                count: 1,
            },
        ),
        Change::step("b", 1, step(2, "other")),
        Change::attempts(
            "c",
            Attempts {
                offset: 3,
                count: 2,
            },
        ),
    ]);
    let mut store = restored(&records);
    assert_eq!((store.attempts("a"), store.attempts("c")), (1, 2));
    let ending = store.ending("a");
    assert_eq!(ending.len(), 3);
    let tombstones = written(&ending);
    assert!(tombstones.iter().all(|record| record.value.is_none()));
    records.extend(tombstones);
    for change in ending {
        store.apply(change);
    }
    for store in [store, restored(&records)] {
        assert_eq!(store.runs(), 2);
        assert_eq!(store.attempts("a"), 0);
        assert!(store.steps("a").is_empty() && store.ending("a").is_empty());
        assert_eq!(texts(&store, "b"), ["other"]);
        assert_eq!(store.attempts("c"), 2);
    }
}

#[test]
fn runs_before_a_position_can_be_given_up() {
    let records = written(&[
        Change::step("a", 1, step(4, "one")),
        Change::attempts(
            "b",
            Attempts {
                offset: 5,
                count: 1,
            },
        ),
        Change::step("c", 1, step(6, "one")),
    ]);
    let mut store = restored(&records);
    let before = store.before(6);
    assert_eq!(before.len(), 2);
    for change in before {
        store.apply(change);
    }
    assert_eq!((store.runs(), texts(&store, "c").len()), (1, 1));
    assert!(store.before(6).is_empty());
}

#[test]
fn the_last_run_of_a_once_key_counts_and_the_oldest_go_first() {
    let mut store = Store::default();
    for change in [
        once(Some("k"), "x", "r1", 10),
        once(Some("k"), "y", "r2", 5),
        once(None, "x", "r3", 7),
        once(Some("k"), "x", "r4", 3),
    ] {
        store.apply(change);
    }
    let run = |store: &Store, of: Option<&str>, what: &str| {
        let found = store.once(of.map(key).as_ref(), &key(what));
        found.map(|done| done.run.clone())
    };
    assert_eq!(run(&store, Some("k"), "x").as_deref(), Some("r4"));
    assert_eq!(run(&store, None, "x").as_deref(), Some("r3"));
    assert_eq!(run(&store, None, "y"), None);
    let gone = store.once_before(7, 1);
    assert_eq!(
        written(&gone)[0].key,
        written(&[once(Some("k"), "x", "", 0)])[0].key
    );
    for change in store.once_before(7, 9) {
        store.apply(change);
    }
    assert_eq!(run(&store, Some("k"), "x"), None);
    assert_eq!(run(&store, Some("k"), "y"), None);
    assert_eq!(run(&store, None, "x").as_deref(), Some("r3"));
    assert!(store.once_before(7, 9).is_empty());
}

#[test]
fn a_strange_record_is_refused_with_its_position_and_changes_nothing() {
    let mut store = Store::default();
    for (bytes, value) in [
        (b"".as_slice(), Some(b"{}".as_slice())),
        (b"abc", None),
        (b"/1", None),
        (b"abc/0", None),
        (b"abc/x", None),
        (b"abc/1", Some(b"{\"offset\":1}")),
        (b"abc/attempts", Some(b"{\"run\":\"abc\",\"time\":5}")),
        (b"\0o\0\0\0\x09short", None),
        (b"\0o\0\0\0\x02c1", None),
        (b"\xff/1", None),
    ] {
        let record = Record {
            topic: "j",
            partition: 0,
            offset: 9,
            timestamp: 0,
            key: Some(bytes),
            value,
            headers: &[],
        };
        let fault = store.restore(&record).unwrap_err();
        assert_eq!(fault.reason, Reason::InvalidInternalRecord);
        assert!(fault.message.contains("j-0-9"), "{fault}");
    }
    assert_eq!(store.runs(), 0);
}

#[test]
fn what_is_too_large_is_not_written() {
    let large = Change::step("a", 1, step(1, &"x".repeat(BYTES_MAX)));
    let fault = large.record("j", 0).unwrap_err();
    assert_eq!(fault.reason, Reason::TooLarge);
    let fits = Change::step("a", 1, step(1, &"x".repeat(BYTES_MAX - 200)));
    assert!(fits.record("j", 0).is_ok());
}

proptest! {
    /// Any two different keys have different bytes, and bytes give the key back.
    #[test]
    fn once_keys_never_run_into_each_other(
        first in (prop::option::of("[a-c0\0]{1,3}"), "[a-c0\0]{1,3}"),
        second in (prop::option::of("[a-c0\0]{1,3}"), "[a-c0\0]{1,3}"),
    ) {
        let id = |(of, what): &(Option<String>, String)| {
            let of = match of {
                Some(of) => Some(Key::from_text(of).ok()??),
                None => None,
            };
            Some(Id::Once { key: of, once: Key::from_text(what).ok()?? })
        };
        let (Some(first), Some(second)) = (id(&first), id(&second)) else { return Ok(()) };
        prop_assert_eq!(first == second, first.bytes() == second.bytes());
        prop_assert_eq!(Id::parse(&first.bytes()), Some(first));
    }

    /// Compaction keeps the last record of each key, and may drop tombstones.
    #[test]
    fn a_restored_store_equals_the_one_that_wrote(
        said in prop::collection::vec((0u8..4, "[ab]", 1u32..4, 0i64..20), 0..40),
    ) {
        let mut store = Store::default();
        let mut records = Vec::new();
        for (what, of, number, time) in &said {
            let changes = match what {
                0 => vec![Change::step(of, *number, step(*time, &time.to_string()))],
                1 => vec![Change::attempts(of, Attempts { offset: *time, count: *number })],
                2 => vec![once(Some(of), &number.to_string(), of, *time)],
                _ => [store.ending(of), store.once_before(*time, 2)].concat(),
            };
            records.extend(written(&changes));
            for change in changes {
                store.apply(change);
            }
        }
        let last: BTreeMap<_, _> = records.iter().map(|r| (r.key.clone(), r)).collect();
        let compacted: Vec<_> = last.values().rev().filter(|r| r.value.is_some()).copied().collect();
        for other in [restored(&records), restored(compacted)] {
            for of in ["a", "b"] {
                prop_assert_eq!(other.steps(of), store.steps(of));
                prop_assert_eq!(other.attempts(of), store.attempts(of));
                prop_assert_eq!(other.ending(of), store.ending(of));
                for number in 1..4 {
                    let what = key(&number.to_string());
                    let of = Some(key(of));
                    prop_assert_eq!(other.once(of.as_ref(), &what), store.once(of.as_ref(), &what));
                }
            }
            prop_assert_eq!(other.once_before(i64::MAX, 99), store.once_before(i64::MAX, 99));
            prop_assert_eq!(other.runs(), store.runs());
        }
    }
}
