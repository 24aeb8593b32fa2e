//! Views that join others: what is acknowledged first is joined, whatever stops, lags or is shared.
//!
//! `tickets` are questions joined with the view `flights`; `desk` are delays joined with `tickets`, so a second hop behind an input log.

use crate::bed::{Bed, DEADLINE, PARTITIONS, Seen, ready, until};
use crate::flight;
use headwater_engine::config::Stage;
use headwater_engine::key::partition_of;
use headwater_engine::names::{MARK_KEY, header};
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_engine::view::{Covered, Mark, Origin};
use headwater_runtime::log::TopicSpec;
use headwater_runtime::stage::{self, Handle};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

const KEYS: usize = 7;

/// A stage of `tickets` or `desk`, with the views that it joins.
fn joining(bed: &Bed, name: &str) -> Value {
    let mut stage = bed.view("flights");
    let view = |name: &str, from: Value| {
        json!({
            "name": name, "generation": "000001", "from": [from], "fold": {"latest": {"merge": "Replace"}}, "indexes": [],
            "input": {"own": {"topic": bed.topic(&format!("view.{name}.000001-in"))}},
            "stateTopic": bed.topic(&format!("view.{name}.000001")),
            "deadTopic": bed.topic(&format!("view.{name}.dead")),
        })
    };
    stage["views"]["tickets"] = view(
        "tickets",
        json!({
            "name": "all", "source": "questions", "required": false,
            "joins": [{"name": "flight", "view": "flights", "key": "event.flight"}],
            "value": "{'n': event.n, 'gate': joined.flight == null ? -1 : joined.flight.gate}",
        }),
    );
    stage["views"]["desk"] = view(
        "desk",
        json!({
            "name": "all", "source": "delays", "required": false,
            "joins": [{"name": "ticket", "view": "tickets", "key": "event.ticket"}],
            "value": "{'n': event.n, 'ticket': joined.ticket}",
        }),
    );
    stage["role"] = json!({"view": {"name": name}});
    stage
}

fn create(bed: &Bed) {
    let spec = |name: String, partitions| TopicSpec {
        name: bed.topic(&name),
        partitions,
        replication_factor: Some(1),
        config: BTreeMap::new(),
    };
    let topics = ["tickets", "desk"].map(|view| {
        [
            spec(format!("view.{view}.000001"), PARTITIONS),
            spec(format!("view.{view}.000001-in"), PARTITIONS),
            spec(format!("view.{view}.dead"), 1),
        ]
    });
    bed.log.create(&topics.concat()).unwrap();
}

fn question(bed: &Bed, n: usize) -> NewRecord {
    let value = json!({"n": n, "flight": format!("F{}", n % KEYS)});
    bed.record("questions", &format!("q{n}"), &value)
}

fn gate(bed: &Bed, n: usize) -> NewRecord {
    let value = json!({"gate": n});
    bed.record("flights", &format!("F{}", n % KEYS), &value)
}

async fn idle(bed: &Bed, handles: &[&Handle]) {
    let begun = Instant::now();
    while !stage::idle(handles.iter().copied(), &*bed.log).unwrap() {
        assert!(
            begun.elapsed() < DEADLINE,
            "not idle: {:#?}",
            handles[0].status()
        );
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// What an input log holds, without marks.
fn input(bed: &Bed, view: &str) -> Vec<Seen> {
    let all = bed.read(&format!("view.{view}.000001-in"));
    all.into_iter().filter(|seen| seen.key != "\0m").collect()
}

/// Each question once, joined with a gate of its flight that is no older than the one acknowledged before it.
fn check_tickets(bed: &Bed, rounds: usize) -> BTreeMap<String, Value> {
    let tickets = input(bed, "tickets");
    assert_eq!(tickets.len(), rounds);
    let mut found = BTreeMap::new();
    for ticket in tickets {
        let (n, gate) = (
            ticket.value["n"].as_i64().unwrap(),
            ticket.value["gate"].as_i64().unwrap(),
        );
        assert!(gate >= n, "{} has the gate {gate}", ticket.key);
        assert_eq!((gate - n) % KEYS as i64, 0);
        found.insert(ticket.key, ticket.value);
    }
    assert_eq!(found.len(), rounds);
    found
}

pub async fn semantics_7_a_join_has_what_was_acknowledged_before_its_event(bed: Bed) {
    const ROUNDS: usize = 400;
    create(&bed);
    let tickets = bed.started(&joining(&bed, "tickets")).await;
    let mut writer = bed.writer();
    for n in 0..ROUNDS {
        writer.write(&[gate(&bed, n)]).unwrap();
        writer.write(&[question(&bed, n)]).unwrap();
    }
    idle(&bed, &[&tickets]).await;
    check_tickets(&bed, ROUNDS);
    tickets.crash().await;
}

pub async fn semantics_7_a_join_has_what_is_in_its_events_transaction(bed: Bed) {
    const ROUNDS: usize = 60;
    create(&bed);
    let tickets = bed.started(&joining(&bed, "tickets")).await;
    let mut writer = bed.log.transactional(&bed.topic("test")).unwrap();
    for n in 0..ROUNDS {
        // Whichever comes first in it.
        let mut both = [gate(&bed, n), question(&bed, n)];
        if n % 2 == 0 {
            both.reverse();
        }
        writer.transact(&both, None).unwrap();
    }
    idle(&bed, &[&tickets]).await;
    check_tickets(&bed, ROUNDS);
    tickets.crash().await;
}

pub async fn after_a_crash_joins_are_read_again_only_for_what_was_not_committed(bed: Bed) {
    const ROUNDS: usize = 150;
    create(&bed);
    let mut tickets = bed.started(&joining(&bed, "tickets")).await;
    let mut writer = bed.writer();
    let mut before = BTreeMap::new();
    for n in 0..ROUNDS {
        writer.write(&[gate(&bed, n)]).unwrap();
        writer.write(&[question(&bed, n)]).unwrap();
        if n % 50 == 49 {
            tickets.crash().await;
            before.extend(
                input(&bed, "tickets")
                    .into_iter()
                    .map(|seen| (seen.key, seen.value)),
            );
            // What changes while nobody is there alters nothing that was joined.
            for key in 0..KEYS {
                writer.write(&[gate(&bed, ROUNDS * KEYS + key)]).unwrap();
            }
            tickets = bed.start(&joining(&bed, "tickets"));
        }
    }
    ready(&tickets).await;
    idle(&bed, &[&tickets]).await;
    let after = check_tickets(&bed, ROUNDS);
    for (key, value) in before {
        assert_eq!(after[&key], value, "{key}");
    }
    tickets.crash().await;
}

pub async fn a_join_reaches_through_two_hops(bed: Bed) {
    const ROUNDS: usize = 60;
    create(&bed);
    let tickets = bed.started(&joining(&bed, "tickets")).await;
    let desk = bed.started(&joining(&bed, "desk")).await;
    let mut writer = bed.writer();
    for n in 0..ROUNDS {
        writer.write(&[gate(&bed, n)]).unwrap();
        writer.write(&[question(&bed, n)]).unwrap();
        let value = json!({"n": n, "ticket": format!("q{n}")});
        writer
            .write(&[bed.record("delays", &format!("d{n}"), &value)])
            .unwrap();
    }
    idle(&bed, &[&tickets, &desk]).await;
    let joined = check_tickets(&bed, ROUNDS);
    let desks = input(&bed, "desk");
    assert_eq!(desks.len(), ROUNDS);
    for seen in desks {
        let ticket = &joined[&format!("q{}", seen.value["n"])];
        assert_eq!(seen.value["ticket"], *ticket, "{}", seen.key);
    }
    tickets.crash().await;
    desk.crash().await;
}

pub async fn a_join_waits_for_its_view_and_says_so(bed: Bed) {
    create(&bed);
    let mut writer = bed.writer();
    writer.write(&[gate(&bed, 1)]).unwrap();
    writer.write(&[question(&bed, 1)]).unwrap();
    writer
        .write(&[bed.record("delays", "d", &json!({"n": 1, "ticket": "q1"}))])
        .unwrap();
    // Nobody writes the input log of `tickets`.
    let desk = bed.start(&joining(&bed, "desk"));
    until(&desk, "waiting", |desk| {
        let problems = desk.status().problems;
        problems.iter().any(|problem| {
            problem.reason == "WaitingForJoin"
                && problem.at == "tickets"
                && problem.message.contains(&bed.topic("questions"))
        })
    })
    .await;
    assert!(!desk.is_ready());
    assert_eq!(input(&bed, "desk").len(), 0);
    assert!(!desk.caught_up(&*bed.log).unwrap());
    // An end in order does not wait for it, and loses nothing.
    let tickets = bed.started(&joining(&bed, "tickets")).await;
    until(&desk, "through", Handle::is_ready).await;
    idle(&bed, &[&tickets, &desk]).await;
    assert_eq!(desk.status().problems, []);
    let seen = input(&bed, "desk");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].value["ticket"], json!({"n": 1, "gate": 1}));
    tickets.crash().await;
    desk.crash().await;
}

/// Writes what the intake of `tickets` would: these rows, then marks that cover the questions up to `ends`.
fn write_tickets(bed: &Bed, rows: &[(&str, Value)], ends: &[i64]) {
    let topic = bed.topic("view.tickets.000001-in");
    let record = |partition, key: &[u8], value: Vec<u8>, headers| NewRecord {
        topic: topic.clone(),
        partition: Some(partition),
        key: Some(key.to_vec()),
        value: Some(value),
        headers,
        timestamp: None,
    };
    let origin = Origin {
        from: 0,
        partition: 0,
        offset: 0,
    };
    let headers = vec![
        (header::SOURCE.to_owned(), Some(origin.encode())),
        (header::TIME.to_owned(), Some(b"1".to_vec())),
    ];
    let covered = (0..).zip(ends).map(|(partition, next)| Covered {
        from: 0,
        partition,
        next: *next,
        time: 1,
        idle: true,
    });
    let mark = Mark {
        next: 0,
        at: -1,
        clock: 1,
        covered: covered.collect(),
    };
    let mark = serde_json::to_vec(&mark).unwrap();
    let mut records: Vec<NewRecord> = rows
        .iter()
        .map(|(key, value)| {
            let partition = partition_of(key.as_bytes(), PARTITIONS);
            let value = serde_json::to_vec(value).unwrap();
            record(partition, key.as_bytes(), value, headers.clone())
        })
        .collect();
    records.extend((0..PARTITIONS).map(|p| record(p, MARK_KEY, mark.clone(), Vec::new())));
    bed.writer().write(&records).unwrap();
}

pub async fn what_comes_in_during_a_wait_has_a_wait_of_its_own(bed: Bed) {
    create(&bed);
    let mut writer = bed.writer();
    let questions: Vec<TopicPartition> = (0..PARTITIONS)
        .map(|partition| TopicPartition::new(bed.topic("questions"), partition))
        .collect();
    let delay = |n: usize| {
        let value = json!({"n": n, "ticket": format!("q{n}")});
        bed.record("delays", &format!("d{n}"), &value)
    };
    writer.write(&[question(&bed, 1)]).unwrap();
    writer.write(&[delay(1)]).unwrap();
    let first = bed.log.ends(&questions).unwrap();
    let desk = bed.start(&joining(&bed, "desk"));
    until(&desk, "waiting", |desk| {
        let problems = desk.status().problems;
        problems.iter().any(|problem| {
            problem.reason == "WaitingForJoin" && problem.message.contains(&bed.topic("questions"))
        })
    })
    .await;
    // Both come while it waits for the first one's ticket.
    writer.write(&[question(&bed, 2)]).unwrap();
    writer.write(&[delay(2)]).unwrap();
    until(&desk, "holding both", |desk| {
        desk.status().parts["intake"].in_flight == 2
    })
    .await;
    write_tickets(&bed, &[("q1", json!("first"))], &first);
    let begun = Instant::now();
    let seen = loop {
        let seen = input(&bed, "desk");
        if !seen.is_empty() {
            break seen;
        }
        assert!(begun.elapsed() < DEADLINE, "{:#?}", desk.status());
    };
    assert_eq!(seen.len(), 1, "the second ticket is not there yet");
    assert_eq!(seen[0].value, json!({"n": 1, "ticket": "first"}));
    let second = bed.log.ends(&questions).unwrap();
    write_tickets(&bed, &[("q2", json!("second"))], &second);
    idle(&bed, &[&desk]).await;
    let seen = input(&bed, "desk");
    assert_eq!(seen.len(), 2);
    let last = seen.iter().find(|seen| seen.key == "d2").unwrap();
    assert_eq!(last.value, json!({"n": 2, "ticket": "second"}));
    assert_eq!(desk.status().problems, []);
    desk.crash().await;
}

pub async fn a_stage_that_waits_for_a_join_ends_at_once_and_loses_nothing(bed: Bed) {
    create(&bed);
    let mut writer = bed.writer();
    writer.write(&[question(&bed, 1)]).unwrap();
    writer
        .write(&[bed.record("delays", "d", &json!({"n": 1, "ticket": "q1"}))])
        .unwrap();
    let token = tokio_util::sync::CancellationToken::new();
    let services = stage::Services {
        shutdown: token.clone(),
        ..bed.services()
    };
    let desk = bed.start_with(&joining(&bed, "desk"), services);
    until(&desk, "waiting", |desk| !desk.status().problems.is_empty()).await;
    let begun = Instant::now();
    token.cancel();
    assert_eq!(desk.join().await.phase, stage::Phase::Stopped);
    assert!(begun.elapsed() < stage::DRAIN / 2, "{:?}", begun.elapsed());
    let tickets = bed.started(&joining(&bed, "tickets")).await;
    let desk = bed.started(&joining(&bed, "desk")).await;
    idle(&bed, &[&tickets, &desk]).await;
    let seen = input(&bed, "desk");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].value["ticket"], json!({"n": 1, "gate": -1}));
    tickets.crash().await;
    desk.crash().await;
}

pub async fn replicas_share_an_intake_with_joins_and_hand_it_over(bed: Bed) {
    const ROUNDS: usize = 150;
    create(&bed);
    let config = || -> Stage { serde_json::from_value(joining(&bed, "tickets")).unwrap() };
    let first = bed.started(&joining(&bed, "tickets")).await;
    let mut second = None;
    let mut writer = bed.writer();
    for n in 0..ROUNDS {
        writer.write(&[gate(&bed, n)]).unwrap();
        writer.write(&[question(&bed, n)]).unwrap();
        if n == 50 {
            second = Some(stage::start(config(), 1, bed.services()).unwrap());
        }
        if n == 100
            && let Some(second) = second.take()
        {
            second.crash().await;
        }
    }
    // The partitions of the one that crashed come back when its session is over. It may have got them only as it did: then the
    // other one is not without them yet.
    until(&first, "all is taken in by its sole owner", |first| {
        let owned = first.status().parts["intake"].positions.len();
        owned == PARTITIONS as usize && input(&bed, "tickets").len() >= ROUNDS
    })
    .await;
    idle(&bed, &[&first]).await;
    check_tickets(&bed, ROUNDS);
    first.crash().await;
}

pub async fn what_fails_with_its_join_is_a_dead_letter_or_stops(bed: Bed) {
    create(&bed);
    let mut stage = joining(&bed, "tickets");
    stage["views"]["tickets"]["from"][0]["value"] = json!("joined.flight.gate");
    let tickets = bed.started(&stage).await;
    let mut writer = bed.writer();
    writer.write(&[flight(&bed, "F1", "A1")]).unwrap();
    let ask = |key: &str, flight: &str| bed.record("questions", key, &json!({"flight": flight}));
    // All of one key, so of one partition.
    writer
        .write(&[ask("q", "F1"), ask("q", "none"), ask("q", "F1")])
        .unwrap();
    let mut dead = bed.follow("view.tickets.dead");
    let letter = dead.wait(1)[0].clone();
    assert_eq!(letter.value, json!({"flight": "none"}));
    assert_eq!(letter.headers["headwater-reason"], "AbsentField");
    assert_eq!(letter.headers["headwater-key"], "q");
    idle(&bed, &[&tickets]).await;
    assert_eq!(input(&bed, "tickets").len(), 2);
    assert_eq!(tickets.status().dead_letters, 1);
    tickets.crash().await;

    // The same where the source stops: what is after the record stays in Kafka, other partitions go on.
    stage["sources"]["questions"]["invalidRecords"] = json!("Stop");
    let tickets = bed.started(&stage).await;
    writer
        .write(&[ask("q", "F1"), ask("q", "none"), ask("q", "F1")])
        .unwrap();
    let others: Vec<_> = (0..20).map(|n| ask(&format!("o{n}"), "F1")).collect();
    writer.write(&others).unwrap();
    until(&tickets, "stopped", |tickets| {
        tickets
            .status()
            .problems
            .iter()
            .any(|problem| problem.reason == "Stopped")
    })
    .await;
    idle(&bed, &[&tickets]).await;
    let seen = input(&bed, "tickets");
    assert_eq!(seen.iter().filter(|seen| seen.key == "q").count(), 3);
    let partition = |key: &str| partition_of(key.as_bytes(), PARTITIONS);
    let on: Vec<String> = (0..20)
        .map(|n| format!("o{n}"))
        .filter(|key| partition(key) != partition("q"))
        .collect();
    let mut came: Vec<String> = seen
        .iter()
        .map(|seen| seen.key.clone())
        .filter(|key| key != "q")
        .collect();
    came.sort();
    let mut expected = on;
    expected.sort();
    assert_eq!(came, expected);
    assert_eq!(tickets.status().dead_letters, 0);
    tickets.crash().await;

    // Once the row is there, it goes on where it stood.
    writer.write(&[flight(&bed, "none", "B2")]).unwrap();
    let tickets = bed.started(&stage).await;
    idle(&bed, &[&tickets]).await;
    assert_eq!(input(&bed, "tickets").len(), 2 + 3 + 20);
    assert_eq!(tickets.status().problems, []);
    tickets.crash().await;
}
