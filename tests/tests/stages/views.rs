//! Checkpoints, restores, and views of several sources.

use crate::bed::{Bed, PARTITIONS, Seen, ready, until};
use crate::{flight, text};
use headwater_engine::names::{self, Owner};
use headwater_engine::record::TopicPartition;
use headwater_runtime::log::Committed;
use headwater_runtime::stage::resume::Intent;
use headwater_runtime::stage::{self, Phase};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

pub async fn a_view_goes_on_from_its_checkpoint(bed: Bed) {
    let mut writer = bed.writer();
    let flights = |gate: &str| {
        (0..100)
            .map(|n| flight(&bed, &format!("F{n}"), gate))
            .collect::<Vec<_>>()
    };
    writer.write(&flights("old")).unwrap();
    let token = CancellationToken::new();
    let services = stage::Services {
        shutdown: token.clone(),
        ..bed.services()
    };
    let view = bed.start_with(&bed.view("flights"), services);
    ready(&view).await;
    let mut half = flights("new");
    half.truncate(50);
    writer.write(&half).unwrap();
    until(&view, "caught up", |view| {
        view.caught_up(&*bed.log).unwrap()
    })
    .await;
    token.cancel();
    assert_eq!(view.join().await.phase, Phase::Stopped);

    let state = bed.read("view.flights.000001");
    let marks: Vec<_> = state.iter().filter(|seen| seen.key == "\0m").collect();
    assert!(marks.len() >= PARTITIONS as usize);
    let mut last: BTreeMap<&str, &Seen> = BTreeMap::new();
    last.extend(
        state
            .iter()
            .filter(|seen| seen.key != "\0m")
            .map(|seen| (seen.key.as_str(), seen)),
    );
    assert_eq!(last.len(), 100);
    assert_eq!(last["F0"].value["gate"], "new");
    assert_eq!(last["F99"].value["gate"], "old");

    // An agent restores from it, and folds only what came after.
    writer.write(&[flight(&bed, "F99", "newest")]).unwrap();
    let mut happenings = bed.observer.watch();
    let agent = bed.started(&bed.agent()).await;
    let mut folded = 0;
    while let Ok(happening) = happenings.try_recv() {
        if let headwater_runtime::observe::Happening::Folded { records, .. } = &*happening {
            folded += records;
        }
    }
    assert_eq!(folded, 1);
    let asked = ["F0", "F60", "F99"].map(|number| bed.question(number, "gate?", number));
    writer.write(&asked).unwrap();
    let mut answers = bed.follow("answers");
    let texts: BTreeMap<_, _> = answers
        .wait(3)
        .iter()
        .map(|seen| (seen.key.clone(), text(seen).to_owned()))
        .collect();
    assert_eq!(texts["F0"], "gate new turns 1");
    assert_eq!(texts["F60"], "gate old turns 1");
    assert_eq!(texts["F99"], "gate newest turns 1");
    // So does the view stage.
    let view = bed.started(&bed.view("flights")).await;
    until(&view, "caught up", |view| {
        view.caught_up(&*bed.log).unwrap()
    })
    .await;
    view.crash().await;
    agent.crash().await;
}

pub async fn several_sources_are_one_view(bed: Bed) {
    let rounds = 25;
    let mut stage = bed.agent();
    let agent = &mut stage["role"]["agent"];
    agent["slots"][0]["lookup"]["view"] = json!("board");
    agent["model"]["provider"]["scripted"]["rules"][0]["reply"] =
        json!("{{ request.context.flight.gate }} late {{ request.context.flight.minutes }}");
    let view = bed.started(&bed.view("board")).await;
    let agent = bed.started(&stage).await;
    let (mut writer, mut answers) = (bed.writer(), bed.follow("answers"));
    for round in 0..rounds {
        let delay = json!({"flight": "LH1", "minutes": round});
        writer
            .write(&[
                flight(&bed, "LH1", &format!("G{round}")),
                bed.record("delays", "any", &delay),
            ])
            .unwrap();
        writer
            .write(&[bed.question(&format!("s{round}"), "?", "LH1")])
            .unwrap();
        assert_eq!(
            text(answers.wait(round + 1).last().unwrap()),
            format!("G{round} late {round}")
        );
    }
    assert_eq!(
        agent.status().stale_runs,
        0,
        "the barrier reaches through the view's own input log"
    );
    // A bad record of one source is one dead letter, whoever else reads the topic.
    writer
        .write(&[bed.record("delays", "any", &json!({"minutes": 1}))])
        .unwrap();
    let mut dead = bed.follow("view.board.dead");
    assert_eq!(dead.wait(1)[0].headers["headwater-reason"], "AbsentField");
    // A crash neither loses nor doubles what is in the input log.
    let input = |bed: &Bed| {
        bed.read("view.board.000001-in")
            .iter()
            .filter(|seen| seen.key != "\0m")
            .count()
    };
    assert_eq!(input(&bed), 2 * rounds);
    view.crash().await;
    writer.write(&[flight(&bed, "LH1", "Z9")]).unwrap();
    let view = bed.started(&bed.view("board")).await;
    writer.write(&[bed.question("last", "?", "LH1")]).unwrap();
    assert_eq!(
        text(answers.wait(rounds + 1).last().unwrap()),
        format!("Z9 late {}", rounds - 1)
    );
    assert_eq!(input(&bed), 2 * rounds + 1);
    view.crash().await;
    agent.crash().await;
}

/// As a broker leaves it that lost its newest records, or somebody who sets a group's offsets back.
pub async fn what_was_taken_in_is_not_taken_in_again_where_offsets_were_lost(bed: Bed) {
    let stage = bed.view("board");
    let events = |seen: &[Seen]| -> Vec<String> {
        let events = seen.iter().filter(|seen| seen.key != "\0m");
        events.map(|seen| seen.value["gate"].to_string()).collect()
    };
    let mut writer = bed.writer();
    let group = names::group(
        &bed.namespace,
        Owner::View,
        "board",
        Some("000001"),
        "intake",
    );
    let source = |partition| TopicPartition::new(bed.topic("flights"), partition);
    let at = |offset, metadata: &str| Committed {
        offset,
        metadata: metadata.to_owned(),
    };
    for round in 1..=3usize {
        let token = CancellationToken::new();
        let services = stage::Services {
            shutdown: token.clone(),
            ..bed.services()
        };
        let view = bed.start_with(&stage, services);
        let gates: Vec<_> = (0..20)
            .map(|number| flight(&bed, &format!("F{number}"), &format!("{round}-{number}")))
            .collect();
        writer.write(&gates).unwrap();
        until(&view, "caught up", |view| {
            view.is_ready() && view.caught_up(&*bed.log).unwrap()
        })
        .await;
        token.cancel();
        view.join().await;
        let input = events(&bed.read("view.board.000001-in"));
        assert_eq!(input.len(), 20 * round, "{input:?}");
        let offsets: Vec<_> = (0..PARTITIONS)
            .map(|own| (source(own), at(0, "")))
            .collect();
        bed.offsets.commit(&group, &offsets).unwrap();
    }
    // What somebody decides counts all the same.
    let decided: Vec<_> = (0..PARTITIONS)
        .map(|own| (source(own), Intent::From(0).committed(0)))
        .collect();
    bed.offsets.commit(&group, &decided).unwrap();
    let view = bed.started(&stage).await;
    until(&view, "caught up", |view| {
        view.caught_up(&*bed.log).unwrap()
    })
    .await;
    assert_eq!(events(&bed.read("view.board.000001-in")).len(), 120);
    view.crash().await;
}

pub async fn of_what_waits_in_several_sources_the_oldest_goes_first(bed: Bed) {
    const KEYS: usize = 60;
    let mut stage = bed.view("board");
    for from in stage["views"]["board"]["from"].as_array_mut().unwrap() {
        from["value"] = json!("{'gate': event.gate}");
    }
    let mut writer = bed.writer();
    let base = jiff::Timestamp::now().as_millisecond() - 60_000;
    let mut write = |topic: &str, n: usize, later: i64| {
        let key = format!("F{n}");
        let value = json!({"flight": key, "gate": topic});
        let record = headwater_engine::record::NewRecord {
            timestamp: Some(base + later),
            ..bed.record(topic, &key, &value)
        };
        writer.write(&[record]).unwrap();
    };
    // A backlog: what is younger was written first.
    (0..KEYS).for_each(|n| write("delays", n, 1_000));
    (0..KEYS).for_each(|n| write("flights", n, 0));
    let view = bed.started(&stage).await;
    until(&view, "idle", |view| view.caught_up(&*bed.log).unwrap()).await;
    // And live: what is older was acknowledged before the younger was sent.
    for n in KEYS..2 * KEYS {
        write("flights", n, 2_000);
        write("delays", n, 3_000);
    }
    until(&view, "idle", |view| view.caught_up(&*bed.log).unwrap()).await;
    let mut order: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for seen in bed.read("view.board.000001-in") {
        if seen.key != "\0m" {
            order
                .entry(seen.key)
                .or_default()
                .push(seen.value["gate"].clone());
        }
    }
    assert_eq!(order.len(), 2 * KEYS);
    for (key, gates) in order {
        assert_eq!(gates, ["flights", "delays"], "{key}");
    }
    view.crash().await;
}
