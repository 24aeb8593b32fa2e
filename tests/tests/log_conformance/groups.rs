//! Groups: cooperative rebalances, static members, fencing, committed offsets.

use crate::bed::{Bed, PATIENCE, at, committed, record, records};
use crate::members::{Member, Told, until};
use headwater_engine::record::NewRecord;
use headwater_runtime::log::{Error, Start};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Less than a session: what takes no longer did not wait for one to end.
const SOON: Duration = Duration::from_secs(8);

fn all_owned(members: &[Member], partitions: usize) -> bool {
    let owned: Vec<i32> = members.iter().flat_map(Member::owns).collect();
    owned.len() == partitions && owned.iter().collect::<BTreeSet<_>>().len() == partitions
}

/// Two members that share four partitions.
fn two(bed: &Bed, topic: &str) -> Vec<Member> {
    let mut members = vec![Member::join(bed, "m0", &[topic])];
    members[0].until_assigned(topic, &[0, 1, 2, 3]);
    members.push(Member::join(bed, "m1", &[topic]));
    until(&mut members, "shares", |members| {
        all_owned(members, 4) && members.iter().all(|it| it.owned.len() == 2)
    });
    members
}

pub fn a_second_member_gets_its_share(bed: &Bed) {
    let topic = bed.topic("t", 4);
    let members = two(bed, &topic);
    // The first kept the rest: it was asked for two and given none again.
    let taken = members[1].owns();
    let assigned = members[0].told.iter().filter_map(|told| match told {
        Told::Assigned(partitions) if !partitions.is_empty() => Some(partitions.clone()),
        _ => None,
    });
    assert_eq!(assigned.collect::<Vec<_>>(), [vec![0, 1, 2, 3]]);
    assert!(
        members[0].told.contains(&Told::Revoked(taken)),
        "{:?}",
        members[0].told
    );
}

pub fn a_spare_member_is_assigned_nothing(bed: &Bed) {
    let topic = bed.topic("t", 1);
    let mut members = vec![Member::join(bed, "m0", &[&topic])];
    members[0].until_assigned(&topic, &[0]);
    members.push(Member::join(bed, "m1", &[&topic]));
    until(&mut members, "spare", |members| {
        members[1].told == [Told::Assigned(vec![])]
    });
    assert_eq!(members[0].owns(), [0]);
}

pub fn leaving_hands_over_at_once(bed: &Bed) {
    let topic = bed.topic("t", 4);
    let mut members = two(bed, &topic);
    let began = Instant::now();
    let leaver = members.remove(0);
    leaver.reader.leave().unwrap();
    until(&mut members, "hand over", |members| all_owned(members, 4));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

pub fn a_dead_member_keeps_its_partitions_for_its_session(bed: &Bed) {
    let topic = bed.topic("t", 4);
    let mut members = two(bed, &topic);
    let began = Instant::now();
    drop(members.remove(0));
    until(&mut members, "the session's end", |members| {
        all_owned(members, 4)
    });
    assert!(began.elapsed() > SOON, "{:?}", began.elapsed());
}

pub fn a_static_member_comes_back(bed: &Bed) {
    let topic = bed.topic("t", 4);
    let mut members = two(bed, &topic);
    let had = members[0].owned.clone();
    let began = Instant::now();
    drop(members.remove(0));
    let told = members[0].told.len();
    members.push(Member::join(bed, "m0", &[&topic]));
    until(&mut members, "come back", |members| members[1].owned == had);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(
        members[0].told.len(),
        told,
        "the other was rebalanced: {:?}",
        members[0].told
    );
}

/// Who gave partitions up ends before the group has given them to another, and comes back as who it was: nobody asks for the next rebalance.
pub fn partitions_that_nobody_has_are_given_anew(bed: &Bed) {
    let topic = bed.topic("t", 4);
    let mut first = Member::join(bed, "m0", &[&topic]);
    first.until_assigned(&topic, &[0, 1, 2, 3]);
    let mut second = Member::join(bed, "m1", &[&topic]);
    let deadline = Instant::now() + PATIENCE;
    while !matches!(first.told.last(), Some(Told::Revoked(_))) {
        assert!(Instant::now() < deadline, "{:?}", first.told);
        first.poll(Duration::from_millis(20)).unwrap();
        second.poll(Duration::from_millis(20)).unwrap();
    }
    // It answers nothing any more.
    std::mem::forget(first);
    let mut members = vec![Member::join(bed, "m0", &[&topic]), second];
    // Two looks, a session, and two rebalances.
    let deadline = Instant::now() + 4 * PATIENCE;
    while !(all_owned(&members, 4) && members.iter().all(|it| it.owned.len() == 2)) {
        let told: Vec<_> = members.iter().map(|it| &it.told).collect();
        assert!(Instant::now() < deadline, "{told:?}");
        for member in &mut members {
            member.poll(Duration::from_millis(20)).unwrap();
        }
    }
}

pub fn a_fenced_member_loses_all(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let mut zombie = Member::join(bed, "m0", &[&topic]);
    zombie.until_assigned(&topic, &[0, 1]);
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    let metadata = zombie.reader.metadata().unwrap();
    let mut heir = Member::join(bed, "m0", &[&topic]);
    heir.until_assigned(&topic, &[0, 1]);
    let offsets = [(at(&topic, 0), committed(1, ""))];
    let refused = writer.transact(&records(&topic, &["a"]), Some((&metadata, &offsets)));
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        assert!(Instant::now() < deadline, "told {:?}", zombie.told);
        match zombie.poll(Duration::from_millis(50)) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert_eq!(zombie.told.last(), Some(&Told::Lost(vec![0, 1])));
    // Going away must not disturb the heir.
    drop(zombie);
    heir.poll(Duration::from_millis(200)).unwrap();
    assert_eq!(heir.owns(), [0, 1]);
    let found = heir.reader.committed(&[at(&topic, 0)]).unwrap();
    assert_eq!(found[&at(&topic, 0)], None);
}

pub fn revoked_partitions_can_be_committed_before_the_next_poll(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let mut first = Member::join(bed, "m0", &[&topic]);
    first.until_assigned(&topic, &[0, 1]);
    let mut second = Member::join(bed, "m1", &[&topic]);
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let revoked = loop {
        assert!(Instant::now() < deadline, "told {:?}", first.told);
        first.poll(Duration::from_millis(20)).unwrap();
        second.poll(Duration::from_millis(20)).unwrap();
        if let Some(Told::Revoked(partitions)) = first.told.last() {
            break at(&topic, partitions[0]);
        }
    };
    // Nobody has it meanwhile.
    second.poll(Duration::from_millis(300)).unwrap();
    assert!(second.owned.is_empty());
    let metadata = first.reader.metadata().unwrap();
    let offsets = [(revoked.clone(), committed(42, "last"))];
    writer
        .transact(&records(&topic, &["a"]), Some((&metadata, &offsets)))
        .unwrap();
    let mut members = vec![first, second];
    until(&mut members, "hand over", |members| {
        members[1].owned.contains(&revoked)
    });
    let found = members[1]
        .reader
        .committed(std::slice::from_ref(&revoked))
        .unwrap();
    assert_eq!(found[&revoked], Some(committed(42, "last")));
}

pub fn an_old_generation_commits_nothing(bed: &Bed) {
    let topic = bed.topic("t", 4);
    let mut first = Member::join(bed, "m0", &[&topic]);
    first.until_assigned(&topic, &[0, 1, 2, 3]);
    let old = first.reader.metadata().unwrap();
    let mut members = vec![first, Member::join(bed, "m1", &[&topic])];
    until(&mut members, "shares", |members| {
        all_owned(members, 4) && members.iter().all(|it| it.owned.len() == 2)
    });
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    let at = members[0].owned.first().unwrap().clone();
    let offsets = [(at.clone(), committed(1, ""))];
    let refused = writer.transact(&records(&topic, &["a"]), Some((&old, &offsets)));
    assert!(matches!(refused, Err(Error::Abort { .. })), "{refused:?}");
    assert_eq!(
        members[0]
            .reader
            .committed(std::slice::from_ref(&at))
            .unwrap()[&at],
        None
    );
    // The same results with the membership as it is.
    let metadata = members[0].reader.metadata().unwrap();
    writer
        .transact(&records(&topic, &["a"]), Some((&metadata, &offsets)))
        .unwrap();
    let found = members[0]
        .reader
        .committed(std::slice::from_ref(&at))
        .unwrap();
    assert_eq!(found[&at], Some(committed(1, "")));
}

pub fn nothing_is_read_before_the_start(bed: &Bed) {
    let topic = bed.topic("t", 2);
    bed.write(&records(&topic, &["a", "b", "c"]));
    let mut member = Member::join(bed, "m0", &[&topic]);
    member.until_assigned(&topic, &[0, 1]);
    member.poll(Duration::from_millis(300)).unwrap();
    assert_eq!(member.read, []);
    let (zero, one) = (at(&topic, 0), at(&topic, 1));
    assert_eq!(member.reader.position(&zero), None);
    member.reader.start(&zero, Start::Offset(1)).unwrap();
    member.reader.start(&one, Start::Latest).unwrap();
    assert_eq!(member.reader.position(&zero), Some(1));
    assert_eq!(member.reader.position(&one), Some(0));
    member.until("records", |it| it.read.len() == 2);
    let expected = [(0, 1, "b".to_owned()), (0, 2, "c".to_owned())];
    assert_eq!(member.read, expected);
    assert_eq!(member.reader.position(&zero), Some(3));
    let other = member.reader.start(&at(&topic, 7), Start::Earliest);
    assert!(matches!(other, Err(Error::Fatal { .. })), "{other:?}");
}

pub fn paused_partitions_rest(bed: &Bed) {
    let topic = bed.topic("t", 2);
    let mut member = Member::join(bed, "m0", &[&topic]);
    member.until_assigned(&topic, &[0, 1]);
    let (zero, one) = (at(&topic, 0), at(&topic, 1));
    for partition in [&zero, &one] {
        member.reader.start(partition, Start::Earliest).unwrap();
    }
    bed.write(&records(&topic, &["a"]));
    member.until("first record", |it| it.read.len() == 1);
    member.reader.pause(std::slice::from_ref(&zero)).unwrap();
    bed.write(&records(&topic, &["b", "c"]));
    bed.write(&[NewRecord {
        partition: Some(1),
        ..record(&topic, "other")
    }]);
    member.until("the other's record", |it| it.read.len() == 2);
    member.poll(Duration::from_millis(300)).unwrap();
    assert_eq!(member.read[1], (1, 0, "other".to_owned()));
    assert_eq!(member.read.len(), 2);
    member.reader.resume(std::slice::from_ref(&zero)).unwrap();
    member.until("the rest", |it| it.read.len() == 4);
    let rest = [(0, 1, "b".to_owned()), (0, 2, "c".to_owned())];
    assert_eq!(member.read[2..], rest);
}

pub fn committed_of_any_partition(bed: &Bed) {
    let (topic, other) = (bed.topic("t", 1), bed.topic("u", 3));
    let mut member = Member::join(bed, "m0", &[&topic]);
    member.until_assigned(&topic, &[0]);
    let mut writer = bed.log.transactional(&bed.name("tx")).unwrap();
    let metadata = member.reader.metadata().unwrap();
    let offsets = [
        (at(&other, 2), committed(9, "elsewhere")),
        (at(&topic, 0), committed(0, "")),
    ];
    writer.transact(&[], Some((&metadata, &offsets))).unwrap();
    let found = member
        .reader
        .committed(&[at(&other, 2), at(&other, 1)])
        .unwrap();
    assert_eq!(found[&at(&other, 2)], Some(committed(9, "elsewhere")));
    assert_eq!(found[&at(&other, 1)], None);
    assert!(member.reader.committed(&[]).unwrap().is_empty());
}
