//! Records: order, content, times, ends of partitions, and what is refused.

use crate::bed::{Bed, PATIENCE, at, read_to, record, records, values};
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_runtime::log::{Error, Isolation, RECORDS_PER_POLL, Start, TopicSpec, Watermarks};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

type Headers = Vec<(String, Option<Vec<u8>>)>;
/// Key, value, headers, timestamp.
type Seen = (Option<Vec<u8>>, Option<Vec<u8>>, Headers, i64);

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

/// Polls once something is there: keys, values, headers, timestamps.
fn all_of(bed: &Bed, topic: &str, count: usize) -> Vec<Seen> {
    let mut reader = bed.reader(Isolation::ReadCommitted, topic, Start::Earliest);
    let deadline = Instant::now() + PATIENCE;
    let mut read = Vec::new();
    while read.len() < count {
        assert!(
            Instant::now() < deadline,
            "{} of {count} records",
            read.len()
        );
        reader
            .poll(Duration::from_millis(200), &mut |it| {
                let headers = it.headers.iter();
                read.push((
                    it.key.map(<[u8]>::to_vec),
                    it.value.map(<[u8]>::to_vec),
                    headers
                        .map(|(k, v)| ((*k).into(), v.map(<[u8]>::to_vec)))
                        .collect(),
                    it.timestamp,
                ));
            })
            .unwrap();
    }
    read
}

pub fn order_and_positions(bed: &Bed) {
    let topic = bed.topic("t", 3);
    let written: Vec<NewRecord> = (0..3_000)
        .map(|n| NewRecord {
            partition: Some(n % 3),
            ..record(&topic, &n.to_string())
        })
        .collect();
    let positions = bed.write(&written);
    let expected: Vec<(TopicPartition, i64)> = (0..3_000)
        .map(|n| (at(&topic, n % 3), i64::from(n / 3)))
        .collect();
    assert_eq!(positions, expected);

    let mut reader = bed.log.reader(Isolation::ReadCommitted).unwrap();
    let starts: Vec<_> = (0..3).map(|p| (at(&topic, p), Start::Earliest)).collect();
    reader.assign(&starts).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut next = BTreeMap::from([(0, 0_i64), (1, 0), (2, 0)]);
    while next.values().sum::<i64>() < 3_000 {
        assert!(Instant::now() < deadline, "{next:?}");
        reader
            .poll(Duration::from_millis(200), &mut |it| {
                let offset = next.get_mut(&it.partition).unwrap();
                assert_eq!(it.offset, *offset);
                let number = *offset * 3 + i64::from(it.partition);
                assert_eq!(it.value, Some(number.to_string().as_bytes()));
                assert_eq!(it.topic, topic);
                *offset += 1;
            })
            .unwrap();
    }
}

pub fn nulls_headers_and_empty_values(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let headers: Headers = vec![
        ("a".into(), Some(b"1".to_vec())),
        ("null".into(), None),
        ("empty".into(), Some(Vec::new())),
        ("a".into(), Some(b"2".to_vec())),
        ("Übung".into(), Some(vec![0, 255])),
    ];
    let written = [
        NewRecord {
            key: Some(b"k".to_vec()),
            value: None,
            headers,
            ..record(&topic, "")
        },
        NewRecord {
            key: Some(Vec::new()),
            ..record(&topic, "")
        },
        NewRecord {
            key: None,
            ..record(&topic, "v")
        },
    ];
    bed.write(&written);
    let read = all_of(bed, &topic, 3);
    for (written, read) in written.iter().zip(&read) {
        assert_eq!(
            (&read.0, &read.1, &read.2),
            (&written.key, &written.value, &written.headers)
        );
    }
}

pub fn timestamps_of_the_writer(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let given = now() - 86_400_000;
    let before = now();
    bed.write(&[
        NewRecord {
            timestamp: Some(given),
            ..record(&topic, "past")
        },
        record(&topic, "now"),
    ]);
    let read = all_of(bed, &topic, 2);
    assert_eq!(read[0].3, given);
    assert!((before..=now()).contains(&read[1].3), "{}", read[1].3);
    let future = NewRecord {
        timestamp: Some(now() + 7_200_000),
        ..record(&topic, "future")
    };
    let refused = bed.log.writer().unwrap().write(&[future]);
    assert!(
        matches!(refused, Err(Error::Refused { index: 0, .. })),
        "{refused:?}"
    );
}

pub fn timestamps_of_the_log(bed: &Bed) {
    let topic = bed.topic_with("t", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let before = now();
    bed.write(&[NewRecord {
        timestamp: Some(1),
        ..record(&topic, "x")
    }]);
    let time = all_of(bed, &topic, 1)[0].3;
    assert!((before..=now()).contains(&time), "{time}");
}

pub fn ends_and_watermarks(bed: &Bed) {
    let (topic, other) = (bed.topic("t", 3), bed.topic("u", 1));
    let partitions = [at(&topic, 2), at(&other, 0), at(&topic, 0), at(&topic, 1)];
    assert_eq!(bed.log.ends(&partitions).unwrap(), [0, 0, 0, 0]);
    bed.write(&records(&topic, &["a", "b"]));
    bed.write(&records(&other, &["c"]));
    assert_eq!(bed.log.ends(&partitions).unwrap(), [0, 1, 2, 0]);
    let watermarks = bed.log.watermarks(&partitions).unwrap();
    assert_eq!(watermarks[&at(&topic, 0)], Watermarks { low: 0, high: 2 });
    assert_eq!(watermarks[&at(&topic, 2)], Watermarks { low: 0, high: 0 });
    assert_eq!(bed.log.ends(&[]).unwrap(), Vec::<i64>::new());
    let twice = [&partitions[2], &partitions[1], &partitions[2]].map(Clone::clone);
    assert_eq!(bed.log.ends(&twice).unwrap(), [2, 1, 2]);
}

pub fn starts_and_positions_before_any_record(bed: &Bed) {
    let topic = bed.topic("t", 2);
    bed.write(&records(&topic, &["a", "b", "c"]));
    let mut reader = bed.log.reader(Isolation::ReadCommitted).unwrap();
    assert_eq!(reader.position(&at(&topic, 0)), None);
    reader
        .assign(&[
            (at(&topic, 0), Start::Latest),
            (at(&topic, 1), Start::Earliest),
        ])
        .unwrap();
    assert_eq!(reader.position(&at(&topic, 0)), Some(3));
    assert_eq!(reader.position(&at(&topic, 1)), Some(0));
    bed.write(&records(&topic, &["d"]));
    assert_eq!(read_to(&mut *reader, &topic, 4), [(3, "d".to_owned())]);

    let mut reader = bed.reader(Isolation::ReadCommitted, &topic, Start::Offset(1));
    assert_eq!(values(&read_to(&mut *reader, &topic, 4)), ["b", "c", "d"]);
    reader.assign(&[(at(&topic, 0), Start::Offset(2))]).unwrap();
    assert_eq!(values(&read_to(&mut *reader, &topic, 4)), ["c", "d"]);
}

pub fn an_offset_out_of_range_is_told_and_others_go_on(bed: &Bed) {
    let (topic, other) = (bed.topic("t", 1), bed.topic("u", 1));
    bed.write(&records(&topic, &["a", "b"]));
    let mut reader = bed.log.reader(Isolation::ReadCommitted).unwrap();
    reader
        .assign(&[
            (at(&topic, 0), Start::Offset(100)),
            (at(&other, 0), Start::Earliest),
        ])
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        assert!(Instant::now() < deadline, "nothing was told");
        if let Err(error) = reader.poll(Duration::from_millis(200), &mut |_| {}) {
            break error;
        }
    };
    match error {
        Error::OutOfRange {
            partition,
            offset,
            low,
            high,
        } => {
            assert_eq!((partition, offset, low, high), (at(&topic, 0), 100, 0, 2));
        }
        other => panic!("{other}"),
    }
    bed.write(&records(&other, &["c"]));
    assert_eq!(values(&read_to(&mut *reader, &other, 1)), ["c"]);
}

pub fn what_does_not_exist(bed: &Bed) {
    let (topic, missing) = (bed.topic("t", 1), bed.name("missing"));
    let found = bed.log.topics(&[missing.clone(), topic.clone()]).unwrap();
    assert_eq!(found[0], None);
    assert_eq!(found[1].as_ref().unwrap().partitions, 1);
    let ends = bed.log.ends(&[at(&topic, 0), at(&missing, 0)]);
    assert!(
        matches!(&ends, Err(Error::UnknownTopic(name)) if *name == missing),
        "{ends:?}"
    );
    let mut reader = bed.log.reader(Isolation::ReadCommitted).unwrap();
    let assigned = reader.assign(&[(at(&missing, 0), Start::Earliest)]);
    assert!(
        matches!(&assigned, Err(Error::UnknownTopic(_))),
        "{assigned:?}"
    );
    let refused = bed
        .log
        .writer()
        .unwrap()
        .write(&[record(&topic, "a"), record(&missing, "b")]);
    assert!(
        matches!(refused, Err(Error::Refused { index: 1, .. })),
        "{refused:?}"
    );
    // Asking and writing must not have created it.
    assert_eq!(bed.log.topics(&[missing]).unwrap(), [None]);
}

pub fn a_record_too_large_is_refused_and_the_writer_goes_on(bed: &Bed) {
    let topic = bed.topic_with("t", 1, &[("max.message.bytes", "100000")]);
    let mut writer = bed.log.writer().unwrap();
    for size in [200_000, 5_000_000] {
        let large = record(&topic, &"x".repeat(size));
        let refused = writer.write(&[record(&topic, "a"), large, record(&topic, "b")]);
        assert!(
            matches!(refused, Err(Error::Refused { index: 1, .. })),
            "{refused:?}"
        );
    }
    let end = bed.log.ends(&[at(&topic, 0)]).unwrap()[0];
    let written = writer.write(&[record(&topic, "c")]).unwrap();
    assert_eq!(written, [(at(&topic, 0), end)]);
}

/// Hashes of Kafka's own UtilsTest.testMurmur2.
pub fn keys_choose_partitions_as_in_java(bed: &Bed) {
    let topic = bed.topic("t", 7);
    let vectors = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        (
            "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
            -58_897_971,
        ),
        ("abc", 479_470_107_i32),
    ];
    let written = vectors.map(|(key, _)| NewRecord {
        partition: None,
        key: Some(key.into()),
        ..record(&topic, "x")
    });
    let positions = bed.write(&written);
    for ((key, hash), (position, _)) in vectors.iter().zip(&positions) {
        assert_eq!(position.partition, (hash & 0x7fff_ffff) % 7, "{key}");
    }
    let none = NewRecord {
        partition: None,
        ..record(&topic, "x")
    };
    assert_eq!(bed.write(&vec![none; 20]).len(), 20);
}

pub fn a_topic_created_again_has_another_id(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let first = bed.log.topics(std::slice::from_ref(&topic)).unwrap()[0]
        .clone()
        .unwrap();
    bed.write(&records(&topic, &["a"]));
    bed.delete(&topic);
    let deadline = Instant::now() + PATIENCE;
    while bed.log.topics(std::slice::from_ref(&topic)).unwrap() != [None] {
        assert!(Instant::now() < deadline, "the topic is still there");
        std::thread::yield_now();
    }
    bed.topic("t", 1);
    let second = bed.log.topics(std::slice::from_ref(&topic)).unwrap()[0]
        .clone()
        .unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!((first.partitions, second.partitions), (2, 1));
    assert_eq!(bed.log.ends(&[at(&topic, 0)]).unwrap(), [0]);
}

pub fn creating_twice_changes_nothing(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let first = bed.log.topics(std::slice::from_ref(&topic)).unwrap();
    bed.topic("t", 5);
    assert_eq!(bed.log.topics(&[topic]).unwrap(), first);
    let none = bed.log.create(&[TopicSpec {
        name: bed.name("none"),
        partitions: 0,
        replication_factor: None,
        config: BTreeMap::new(),
    }]);
    assert!(matches!(none, Err(Error::Fatal { .. })), "{none:?}");
}

pub fn a_waker_ends_a_wait(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut reader = bed.reader(Isolation::ReadCommitted, &topic, Start::Latest);
    let waker = reader.waker();
    let patience = 2 * PATIENCE;
    // Before the poll: kept for it.
    waker();
    let began = Instant::now();
    assert_eq!(reader.poll(patience, &mut |_| {}).unwrap(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| waker());
        assert_eq!(reader.poll(patience, &mut |_| {}).unwrap(), 0);
    });
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

pub fn a_poll_is_bounded(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let count = RECORDS_PER_POLL * 2 + 500;
    bed.write(&vec![record(&topic, "x"); count]);
    let mut reader = bed.reader(Isolation::ReadCommitted, &topic, Start::Earliest);
    let deadline = Instant::now() + PATIENCE;
    let mut read = 0;
    while read < count {
        assert!(Instant::now() < deadline, "{read} of {count}");
        let mut seen = 0;
        let got = reader
            .poll(Duration::from_millis(200), &mut |_| seen += 1)
            .unwrap();
        assert_eq!(got, seen);
        assert!(got <= RECORDS_PER_POLL, "{got}");
        read += got;
    }
    assert_eq!(read, count);
    assert_eq!(
        reader
            .poll(Duration::ZERO, &mut |_| panic!("a record"))
            .unwrap(),
        0
    );
}
