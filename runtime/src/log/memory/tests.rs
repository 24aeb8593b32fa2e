//! What only this log can show: markers that are late by a clock that stands still, and records taken away.

use super::Memory;
use crate::clock::Clock;
use crate::log::{
    Committed, Error, GroupEvent, GroupOptions, Isolation, Log, Reader, Start, TopicSpec,
};
use headwater_engine::record::{NewRecord, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

#[derive(Clone, Default)]
struct Hands(Arc<AtomicI64>);

impl Clock for Hands {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

fn at() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn log(hands: &Hands) -> Memory {
    let memory = Memory::with_clock(Arc::new(hands.clone()));
    memory
        .create(&[TopicSpec {
            name: "t".to_owned(),
            partitions: 1,
            replication_factor: None,
            config: BTreeMap::new(),
        }])
        .unwrap();
    memory
}

fn record(key: &str) -> NewRecord {
    NewRecord {
        topic: "t".to_owned(),
        key: Some(key.as_bytes().to_vec()),
        ..NewRecord::default()
    }
}

fn keys(reader: &mut dyn Reader) -> Vec<String> {
    let mut keys = Vec::new();
    while reader
        .poll(Duration::ZERO, &mut |record| {
            keys.push(String::from_utf8(record.key.unwrap().to_vec()).unwrap());
        })
        .unwrap()
        > 0
    {}
    keys
}

fn reader(memory: &Memory) -> Box<dyn Reader> {
    let mut reader = memory.reader(Isolation::ReadCommitted).unwrap();
    reader.assign(&[(at(), Start::Earliest)]).unwrap();
    reader
}

#[test]
fn a_late_marker_holds_readers_back_after_the_commit() {
    let hands = Hands::default();
    let memory = log(&hands);
    memory.delay_markers(|| 50);
    let mut reader = reader(&memory);
    let mut producer = memory.transactional("id").unwrap();
    producer.transact(&[record("a")], None).unwrap();
    memory.writer().unwrap().write(&[record("b")]).unwrap();
    assert_eq!(keys(&mut *reader), Vec::<String>::new());
    assert_eq!(memory.ends(&[at()]).unwrap(), [2]);
    hands.0.store(50, Ordering::Relaxed);
    assert_eq!(memory.ends(&[at()]).unwrap(), [3], "the marker came");
    assert_eq!(keys(&mut *reader), ["a", "b"]);
    // The next transaction of the same id does not overtake its last one's marker.
    producer.transact(&[record("c")], None).unwrap();
    producer.transact(&[record("d")], None).unwrap();
    assert_eq!(keys(&mut *reader), ["c"]);
}

#[test]
fn committed_offsets_wait_for_a_late_decision() {
    let hands = Hands::default();
    let memory = log(&hands);
    let mut group = memory
        .group(GroupOptions {
            group: "g".to_owned(),
            member: "m".to_owned(),
            topics: vec!["t".to_owned()],
        })
        .unwrap();
    let mut assigned = false;
    while !assigned {
        group
            .poll(Duration::from_millis(10), &mut |event| {
                assigned |= matches!(event, GroupEvent::Assigned(_));
            })
            .unwrap();
    }
    memory.delay_markers(|| 50);
    let offset = Committed {
        offset: 7,
        metadata: String::new(),
    };
    let metadata = group.metadata().unwrap();
    let mut producer = memory.transactional("id").unwrap();
    producer
        .transact(&[], Some((&metadata, &[(at(), offset.clone())])))
        .unwrap();
    let later = hands;
    let waiter = std::thread::spawn(move || group.committed(&[at()]).unwrap());
    later.0.store(50, Ordering::Relaxed);
    assert_eq!(waiter.join().unwrap()[&at()], Some(offset));
}

#[test]
fn what_is_cut_is_out_of_range() {
    let memory = log(&Hands::default());
    let mut writer = memory.writer().unwrap();
    writer.write(&[record("a"), record("b")]).unwrap();
    writer.write(&[record("c")]).unwrap();
    let mut late = reader(&memory);
    memory.cut(&at(), 1);
    assert_eq!(memory.watermarks(&[at()]).unwrap()[&at()].low, 1);
    assert!(matches!(
        late.poll(Duration::ZERO, &mut |_| {}),
        Err(Error::OutOfRange {
            offset: 0,
            low: 1,
            high: 3,
            ..
        })
    ));
    assert_eq!(keys(&mut *reader(&memory)), ["b", "c"]);
    // Nothing goes that a reader of committed records could not have read.
    let mut producer = memory.producer("id");
    let mut open = producer.begin().unwrap();
    open.write(&[record("d")]).unwrap();
    memory.cut(&at(), i64::MAX);
    assert_eq!(memory.watermarks(&[at()]).unwrap()[&at()].low, 3);
    open.commit().unwrap();
    assert_eq!(keys(&mut *reader(&memory)), ["d"]);
}
