//! Transactions: markers, hidden records, fencing, offsets that come with the records.

use crate::bed::{
    Bed, End, PATIENCE, at, committed, committed_values, read_to, record, records, values,
};
use crate::members::Member;
use headwater_engine::record::NewRecord;
use headwater_runtime::log::{Error, Isolation, Scope, Start};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub fn positions_pass_markers(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    let mut reader = bed.reader(Isolation::ReadCommitted, &topic, Start::Earliest);
    for round in 0..5_i64 {
        writer
            .transact(&records(&topic, &["a", "b"]), None)
            .unwrap();
        // Two records and a marker.
        let read = read_to(&mut *reader, &topic, 3 * (round + 1));
        assert_eq!(values(&read), ["a", "b"]);
        assert_eq!(read[0].0, 3 * round);
        assert_eq!(bed.log.ends(&[at(&topic, 0)]).unwrap(), [3 * (round + 1)]);
    }
    let mut late = bed.reader(Isolation::ReadUncommitted, &topic, Start::Earliest);
    assert_eq!(read_to(&mut *late, &topic, 15).len(), 10);
}

pub fn aborted_records_are_hidden(bed: &Bed) {
    let topic = bed.topic("t", 1);
    bed.write(&records(&topic, &["a"]));
    bed.foreign(
        &bed.name("tx"),
        &records(&topic, &["b", "c"]),
        None,
        End::Abort,
        || {},
    );
    let mut all = bed.reader(Isolation::ReadUncommitted, &topic, Start::Earliest);
    assert_eq!(values(&read_to(&mut *all, &topic, 4)), ["a", "b", "c"]);
    let mut reader = bed.reader(Isolation::ReadCommitted, &topic, Start::Earliest);
    assert_eq!(values(&read_to(&mut *reader, &topic, 4)), ["a"]);
    bed.write(&records(&topic, &["d"]));
    assert_eq!(read_to(&mut *reader, &topic, 5), [(4, "d".to_owned())]);
}

pub fn an_open_transaction_holds_back_what_follows(bed: &Bed) {
    let topic = bed.topic("t", 1);
    bed.write(&records(&topic, &["before"]));
    let mut reader = bed.reader(Isolation::ReadCommitted, &topic, Start::Earliest);
    bed.foreign(
        &bed.name("tx"),
        &records(&topic, &["in"]),
        None,
        End::Commit,
        || {
            bed.write(&records(&topic, &["after"]));
            assert_eq!(bed.log.ends(&[at(&topic, 0)]).unwrap(), [3]);
            let mut all = bed.reader(Isolation::ReadUncommitted, &topic, Start::Earliest);
            assert_eq!(read_to(&mut *all, &topic, 3).len(), 3);
            // It stands at the last stable offset, and goes no further.
            assert_eq!(values(&read_to(&mut *reader, &topic, 1)), ["before"]);
            let seen = reader.poll(Duration::from_millis(300), &mut |_| panic!("a record"));
            assert_eq!(seen.unwrap(), 0);
            assert_eq!(reader.position(&at(&topic, 0)), Some(1));
        },
    );
    assert_eq!(values(&read_to(&mut *reader, &topic, 4)), ["in", "after"]);
}

pub fn a_marker_ends_a_wait(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut reader = bed.reader(Isolation::ReadUncommitted, &topic, Start::Earliest);
    bed.foreign(
        &bed.name("tx"),
        &records(&topic, &["a"]),
        None,
        End::Commit,
        || {
            read_to(&mut *reader, &topic, 1);
        },
    );
    let began = Instant::now();
    while reader.position(&at(&topic, 0)) != Some(2) {
        let seen = reader.poll(2 * PATIENCE, &mut |_| panic!("a record"));
        assert_eq!(seen.unwrap(), 0);
    }
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

pub fn a_zombie_is_fenced(bed: &Bed) {
    let (topic, id) = (bed.topic("t", 1), bed.name("tx"));
    let mut zombie = bed.log.transactional(&id).unwrap();
    zombie.transact(&records(&topic, &["a"]), None).unwrap();
    let mut heir = bed.log.transactional(&id).unwrap();
    let fenced = zombie.transact(&records(&topic, &["zombie"]), None);
    assert!(matches!(fenced, Err(Error::Fenced { .. })), "{fenced:?}");
    heir.transact(&records(&topic, &["b"]), None).unwrap();
    let again = zombie.transact(&records(&topic, &["zombie"]), None);
    assert!(again.is_err());
    assert_eq!(committed_values(bed, &topic), ["a", "b"]);
}

pub fn opening_an_id_aborts_what_it_left_open(bed: &Bed) {
    let (topic, id) = (bed.topic("t", 1), bed.name("tx"));
    bed.foreign(&id, &records(&topic, &["left"]), None, End::Never, || {});
    let mut heir = bed.log.transactional(&id).unwrap();
    heir.transact(&records(&topic, &["a"]), None).unwrap();
    assert_eq!(committed_values(bed, &topic), ["a"]);
}

pub fn a_refused_record_takes_its_transaction_along(bed: &Bed) {
    let (topic, other) = (bed.topic("t", 1), bed.topic("u", 1));
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    writer
        .transact(&[record(&topic, "a"), record(&other, "a")], None)
        .unwrap();
    let refused = [
        record(&"x".repeat(20), "no such topic"),
        record(&other, &"x".repeat(2_000_000)),
        NewRecord {
            partition: Some(9),
            ..record(&other, "no such partition")
        },
    ];
    for refused in refused {
        let outcome = writer.transact(&[record(&topic, "hidden"), refused], None);
        assert!(
            matches!(outcome, Err(Error::Refused { index: 1, .. })),
            "{outcome:?}"
        );
    }
    writer
        .transact(&[record(&topic, "b"), record(&other, "b")], None)
        .unwrap();
    for topic in [&topic, &other] {
        assert_eq!(committed_values(bed, topic), ["a", "b"]);
    }
}

pub fn offsets_come_with_the_transaction(bed: &Bed) {
    let (source, target) = (bed.topic("t", 2), bed.topic("u", 1));
    let mut member = Member::join(bed, "m0", &[&source]);
    member.until_assigned(&source, &[0, 1]);
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    let partitions = [at(&source, 0), at(&source, 1)];
    let before = member.reader.committed(&partitions).unwrap();
    assert_eq!(
        (&before[&partitions[0]], &before[&partitions[1]]),
        (&None, &None)
    );
    for round in 1..4 {
        let metadata = member.reader.metadata().unwrap();
        let offset = committed(round, &format!("1:{round} Ü"));
        writer
            .transact(
                &records(&target, &["x"]),
                Some((&metadata, &[(partitions[0].clone(), offset.clone())])),
            )
            .unwrap();
        let after = member.reader.committed(&partitions).unwrap();
        assert_eq!(after[&partitions[0]], Some(offset));
        assert_eq!(after[&partitions[1]], None);
    }
    // Offsets without records, and without metadata.
    let metadata = member.reader.metadata().unwrap();
    let offsets = [(partitions[1].clone(), committed(7, ""))];
    writer.transact(&[], Some((&metadata, &offsets))).unwrap();
    let after = member.reader.committed(&partitions).unwrap();
    assert_eq!(after[&partitions[1]], Some(committed(7, "")));
}

pub fn pending_offsets_are_waited_for(bed: &Bed) {
    for (round, end) in [End::Commit, End::Abort].into_iter().enumerate() {
        let topic = bed.topic(&format!("t{round}"), 1);
        let mut member = Member::join(bed, &format!("m{round}"), &[&topic]);
        member.until_assigned(&topic, &[0]);
        let at = at(&topic, 0);
        let metadata = member.reader.metadata().unwrap();
        let group = member.group.clone();
        let pending = Some((group.as_str(), &metadata, at.clone(), 5));
        let decided = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (mut asked, mut answer) = (None, None);
            bed.foreign(
                &bed.name("tx"),
                &records(&topic, &["a"]),
                pending,
                end,
                || {
                    let (at, decided) = (&at, &decided);
                    let reader = &mut member.reader;
                    asked = Some(scope.spawn(move || {
                        let found = reader.committed(std::slice::from_ref(at)).unwrap();
                        (found[at].clone(), decided.load(Ordering::SeqCst))
                    }));
                    // Long enough for an answer that does not wait.
                    std::thread::park_timeout(Duration::from_millis(500));
                    decided.store(true, Ordering::SeqCst);
                },
            );
            if let Some(asked) = asked {
                answer = Some(asked.join().unwrap());
            }
            let expected = (end == End::Commit).then(|| committed(5, "pending"));
            assert_eq!(answer, Some((expected, true)));
        });
    }
}

pub fn what_is_acknowledged_can_be_read(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let partitions = [at(&topic, 0), at(&topic, 1)];
    let mut member = Member::join(bed, "m0", &[&topic]);
    member.until_assigned(&topic, &[0, 1]);
    let scope = Scope {
        reads: topic.clone(),
        writes: vec![topic.clone()],
        own: vec![topic.clone()],
    };
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    let metadata = member.reader.metadata().unwrap();
    writer.sweep(&metadata, &scope).unwrap();
    for round in 1..=60 {
        let offsets = [(partitions[0].clone(), committed(round, ""))];
        writer
            .transact(
                &records(&topic, &["a", "b", "c"]),
                Some((&metadata, &offsets)),
            )
            .unwrap();
        let stable = bed.log.stable_ends(&partitions).unwrap();
        assert_eq!(stable, bed.log.ends(&partitions).unwrap(), "round {round}");
    }
}

pub fn a_sweep_leaves_what_was_decided(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let partitions = [at(&topic, 0), at(&topic, 1)];
    let mut member = Member::join(bed, "m0", &[&topic]);
    member.until_assigned(&topic, &[0, 1]);
    let scope = Scope {
        reads: topic.clone(),
        // As of outputs that share a topic.
        writes: vec![topic.clone(), bed.name("missing"), topic.clone()],
        own: Vec::new(),
    };
    let id = bed.name("tx");
    let mut reader = bed.reader(Isolation::ReadCommitted, &topic, Start::Earliest);
    let mut end = 0;
    for round in 1..=3 {
        let mut writer = bed.log.transactional(&id).unwrap();
        let metadata = member.reader.metadata().unwrap();
        writer.sweep(&metadata, &scope).unwrap();
        let offsets = [(partitions[0].clone(), committed(round, ""))];
        let text = round.to_string();
        writer
            .transact(&records(&topic, &[&text]), Some((&metadata, &offsets)))
            .unwrap();
        // While a transaction of somebody else is open.
        bed.foreign(
            &bed.name("other"),
            &records(&topic, &["other"]),
            None,
            End::Commit,
            || {
                if round == 1 {
                    writer.sweep(&metadata, &scope).unwrap();
                }
            },
        );
        let after = member.reader.committed(&partitions).unwrap();
        assert_eq!(after[&partitions[0]], Some(committed(round, "")));
        assert_eq!(after[&partitions[1]], None);
        let new_end = bed.log.ends(&partitions[..1]).unwrap()[0];
        let read = read_to(&mut *reader, &topic, new_end);
        assert_eq!(values(&read), [&*text, "other"]);
        assert!(new_end > end);
        end = new_end;
    }
}

pub fn metadata_is_bounded(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut member = Member::join(bed, "m0", &[&topic]);
    member.until_assigned(&topic, &[0]);
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    let mut commit = |size: usize| {
        let metadata = member.reader.metadata().unwrap();
        let offset = committed(i64::try_from(size).unwrap(), &"x".repeat(size));
        writer.transact(
            &records(&topic, &["a"]),
            Some((&metadata, &[(at(&topic, 0), offset)])),
        )
    };
    commit(4_095).unwrap();
    let refused = commit(4_200);
    assert!(matches!(refused, Err(Error::Fatal { .. })), "{refused:?}");
    commit(3_500).unwrap();
    assert_eq!(committed_values(bed, &topic), ["a", "a"]);
}

pub fn an_empty_transaction(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    writer.transact(&[], None).unwrap();
    writer.transact(&records(&topic, &["a"]), None).unwrap();
    writer.transact(&[], None).unwrap();
    let mut reader = bed.reader(Isolation::ReadCommitted, &topic, Start::Earliest);
    assert_eq!(values(&read_to(&mut *reader, &topic, 2)), ["a"]);
}
