//! Looking into views, rows by HTTP, and the ways on for what stands still.

use crate::bed::{Bed, PARTITIONS, ready, until};
use crate::{flight, text};
use headwater_engine::key::{Key, partition_of};
use headwater_engine::names::{self, Owner};
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_runtime::http;
use headwater_runtime::log::{Committed, Error, Start};
use headwater_runtime::stage::resume::Intent;
use headwater_runtime::stage::{self, Handle, Phase, look};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;

/// Milliseconds since the epoch, long after everything that tests write.
const LATER: i64 = 4_000_000_000_000;

fn key(text: &str) -> Key {
    Key::from_bytes(text.as_bytes()).unwrap().unwrap()
}

fn fold_group(bed: &Bed) -> String {
    names::group(
        &bed.namespace,
        Owner::View,
        "flights",
        Some("000001"),
        "fold",
    )
}

/// A stage that is ended in order by its own token.
pub fn start(bed: &Bed, stage: &Value) -> (Handle, CancellationToken) {
    let token = CancellationToken::new();
    let services = stage::Services {
        shutdown: token.clone(),
        ..bed.services()
    };
    (bed.start_with(stage, services), token)
}

async fn stopped(handle: &Handle) {
    until(handle, "stopped", |handle| {
        let problems = handle.status().problems;
        problems.iter().any(|problem| problem.reason == "Stopped")
    })
    .await;
}

async fn caught_up(bed: &Bed, handle: &Handle) {
    until(handle, "caught up", |handle| {
        handle.is_ready() && handle.caught_up(&*bed.log).unwrap()
    })
    .await;
}

pub async fn a_running_view_is_looked_into(bed: Bed) {
    let (view, token) = start(&bed, &bed.view("flights"));
    ready(&view).await;
    let flights: Vec<_> = (0..30)
        .map(|n| flight(&bed, &format!("F{n:02}"), "A1"))
        .collect();
    let written = bed.writer().write(&flights).unwrap();
    caught_up(&bed, &view).await;

    let look = view.look().unwrap();
    let status = look.status().unwrap();
    let figures = status.view.unwrap();
    assert_eq!((figures.keys, figures.behind), (30, Some(0)));
    assert_eq!(
        (figures.restored_percent, &*figures.generation),
        (100, "000001")
    );
    // The second that they were folded in has to be over.
    until(&view, "counted", |view| {
        let figures = view.status().view;
        figures.is_some_and(|figures| figures.records_per_second > 0.0)
    })
    .await;

    let first = look.keys(7, LATER).unwrap();
    let names: Vec<&str> = first.iter().map(|held| held.key.as_str()).collect();
    assert_eq!(names, ["F00", "F01", "F02", "F03", "F04", "F05", "F06"]);
    let (partition, offset) = &written[11];
    let held = look.key(&key("F11"), LATER).unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].partition, partition.partition);
    assert!(held[0].next > *offset);
    let row = &held[0].rows[0];
    assert_eq!(row.value, json!({"gate": "A1"}));
    assert_eq!(
        (row.position.partition, row.position.offset),
        (partition.partition, *offset)
    );
    assert_eq!(&*row.position.topic, bed.topic("flights"));
    assert!(look.key(&key("F99"), LATER).unwrap().is_empty());

    token.cancel();
    assert_eq!(view.join().await.phase, Phase::Stopped);
    assert!(matches!(
        look.keys(1, LATER),
        Err(look::Error::Ended { .. })
    ));
}

pub async fn a_record_is_gone_past_once_somebody_decides(bed: Bed) {
    let mut stage = bed.view("flights");
    stage["sources"]["flights"]["invalidRecords"] = json!("Stop");
    let (view, token) = start(&bed, &stage);
    ready(&view).await;
    let mut writer = bed.writer();
    let at = writer
        .write(&[
            flight(&bed, "F1", "A1"),
            bed.record("flights", "F1", &json!({"no": "gate"})),
            flight(&bed, "F1", "A2"),
        ])
        .unwrap();
    let (partition, offset) = at[1].clone();
    stopped(&view).await;

    // Behind the back of a running stage nobody decides.
    let decided = [(partition.clone(), Intent::Skip(offset).committed(0))];
    let refused = bed.offsets.commit(&fold_group(&bed), &decided);
    assert!(
        matches!(refused, Err(Error::GroupInUse { .. })),
        "{refused:?}"
    );
    token.cancel();
    view.join().await;
    bed.offsets.commit(&fold_group(&bed), &decided).unwrap();

    // Another record of the kind comes while nobody folds: that one is not gone past.
    writer
        .write(&[bed.record("flights", "F1", &json!({"again": "no gate"}))])
        .unwrap();
    let (view, token) = start(&bed, &stage);
    stopped(&view).await;
    let at_second = format!("{partition}-{}", offset + 2);
    assert_eq!(view.status().problems[0].at, at_second);
    let held = view.look().unwrap().key(&key("F1"), LATER).unwrap();
    assert_eq!(held[0].rows[0].value, json!({"gate": "A2"}));
    token.cancel();
    view.join().await;

    let decided = [(partition.clone(), Intent::Skip(offset + 2).committed(0))];
    bed.offsets.commit(&fold_group(&bed), &decided).unwrap();
    let (view, token) = start(&bed, &stage);
    caught_up(&bed, &view).await;
    token.cancel();
    view.join().await;
    // The decision is used up, and what was gone past is kept.
    let committed = bed
        .offsets
        .committed(&fold_group(&bed), std::slice::from_ref(&partition))
        .unwrap();
    let committed = committed[&partition].clone().unwrap();
    assert_eq!((committed.offset, &*committed.metadata), (offset + 3, ""));
    let dead: BTreeSet<String> = bed
        .read("view.flights.dead")
        .into_iter()
        .map(|seen| seen.headers["headwater-position"].clone())
        .collect();
    assert_eq!(
        dead,
        BTreeSet::from([format!("{partition}-{offset}"), at_second])
    );
}

pub async fn whoever_holds_a_view_follows_its_stage_past_a_record(bed: Bed) {
    let mut agent = bed.agent();
    let mut stage = bed.view("flights");
    for stage in [&mut agent, &mut stage] {
        stage["sources"]["flights"]["invalidRecords"] = json!("Stop");
    }
    let (view, token) = start(&bed, &stage);
    ready(&view).await;
    let mut writer = bed.writer();
    let at = writer
        .write(&[
            flight(&bed, "F1", "A1"),
            bed.record("flights", "F1", &json!({"no": "gate"})),
            flight(&bed, "F1", "A2"),
        ])
        .unwrap();
    let agent = bed.started(&agent).await;
    stopped(&view).await;
    stopped(&agent).await;
    token.cancel();
    view.join().await;
    let (partition, offset) = at[1].clone();
    let decided = [(partition, Intent::Skip(offset).committed(0))];
    bed.offsets.commit(&fold_group(&bed), &decided).unwrap();
    let (view, _token) = start(&bed, &stage);
    until(&agent, "following", |agent| {
        agent.status().problems.is_empty()
    })
    .await;
    writer
        .write(&[bed.question("ann", "where?", "F1")])
        .unwrap();
    let mut answers = bed.follow("answers");
    assert!(text(&answers.wait(1)[0]).starts_with("gate A2"));
    agent.crash().await;
    view.crash().await;
}

pub async fn an_input_made_anew_is_gone_on_with_where_somebody_decides(bed: Bed) {
    // A state that was folded further than the topic reaches: it is another topic by the same name.
    let partition = partition_of(b"F1", PARTITIONS);
    let mark = json!({"next": 1_000, "at": 0, "clock": 0, "covered": []});
    bed.writer()
        .write(&[NewRecord {
            topic: bed.topic("view.flights.000001"),
            partition: Some(partition),
            key: Some(names::MARK_KEY.to_vec()),
            value: Some(mark.to_string().into_bytes()),
            ..NewRecord::default()
        }])
        .unwrap();
    bed.writer().write(&[flight(&bed, "F1", "A1")]).unwrap();
    let (view, token) = start(&bed, &bed.view("flights"));
    until(&view, "stalled", |view| !view.status().problems.is_empty()).await;
    let problem = view.status().problems[0].clone();
    assert_eq!(problem.reason, "InputReset");
    assert!(
        problem
            .message
            .contains("headwater resume view/flights --from Earliest"),
        "{problem:?}"
    );
    assert!(!view.is_ready());
    token.cancel();
    view.join().await;

    let input = TopicPartition::new(bed.topic("flights"), partition);
    let decided = [(input.clone(), Intent::From(0).committed(0))];
    bed.offsets.commit(&fold_group(&bed), &decided).unwrap();
    // A crash before the first checkpoint finds the decision again.
    let view = bed.start(&bed.view("flights"));
    ready(&view).await;
    view.crash().await;
    let (view, token) = start(&bed, &bed.view("flights"));
    caught_up(&bed, &view).await;
    let held = view.look().unwrap().key(&key("F1"), LATER).unwrap();
    assert_eq!(held[0].rows[0].value, json!({"gate": "A1"}));
    token.cancel();
    view.join().await;
    // The state's own mark says so from now on.
    let (view, _token) = start(&bed, &bed.view("flights"));
    caught_up(&bed, &view).await;
    assert!(view.status().problems.is_empty());
    view.crash().await;
}

pub async fn lost_positions_are_found_again_where_somebody_decides(bed: Bed) {
    bed.writer()
        .write(&[bed.record("agent.helper.runs", "run", &json!({}))])
        .unwrap();
    bed.writer()
        .write(&[bed.question("a", "first", "")])
        .unwrap();
    let (agent, token) = start(&bed, &bed.agent());
    until(&agent, "stalled", |agent| {
        !agent.status().problems.is_empty()
    })
    .await;
    let problem = agent.status().problems[0].clone();
    assert!(
        problem
            .message
            .contains("headwater resume agent/helper --from"),
        "{problem:?}"
    );
    token.cancel();
    agent.join().await;
    let group = names::group(&bed.namespace, Owner::Agent, "helper", None, "runs");
    let offsets: Vec<_> = (0..PARTITIONS)
        .map(|partition| {
            let committed = Committed {
                offset: 0,
                metadata: String::new(),
            };
            (
                TopicPartition::new(bed.topic("questions"), partition),
                committed,
            )
        })
        .collect();
    bed.offsets.commit(&group, &offsets).unwrap();
    let agent = bed.started(&bed.agent()).await;
    assert_eq!(bed.follow("answers").wait(1)[0].value["asked"], "first");
    agent.crash().await;
}

/// A served view, and where its rows are.
async fn served(bed: &Bed, ordinal: u32) -> (Handle, String) {
    let mut stage = bed.view("board");
    stage["views"]["board"]["serve"] = json!({"path": "/board", "tokenFile": null});
    stage["views"]["board"]["indexes"] = json!([{"name": "byGate", "key": {"one": "value.gate"}}]);
    let config = serde_json::from_value(stage).unwrap();
    let handle = stage::start(config, ordinal, bed.services()).unwrap();
    let router = handle.rows().unwrap().router();
    let address = "127.0.0.1:0".parse().unwrap();
    let (address, _) = http::serve(address, router, bed.shutdown.clone())
        .await
        .unwrap();
    (handle, format!("http://{address}/board"))
}

pub async fn every_replica_serves_every_row_as_fresh_as_the_log(bed: Bed) {
    let (one, first) = served(&bed, 0).await;
    let (two, second) = served(&bed, 1).await;
    ready(&one).await;
    ready(&two).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |url: String| {
        let response = client.get(url).send().await.unwrap();
        let status = response.status().as_u16();
        let header = |name: &str| {
            let value = response.headers().get(name);
            value
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default()
        };
        let (stale, position) = (header("headwater-stale-ms"), header("headwater-position"));
        (
            status,
            stale,
            position,
            response.json::<Value>().await.unwrap(),
        )
    };
    let mut writer = bed.writer();
    for n in 0..24 {
        let (flight_number, gate) = (format!("F{}", n % 6), format!("G{n}"));
        let written = writer
            .write(&[flight(&bed, &flight_number, &gate)])
            .unwrap();
        let (at, offset) = &written[0];
        for url in [&first, &second] {
            // What is acknowledged is in the answer, or the answer says that it may not be.
            let (status, stale, position, value) = get(format!("{url}/{flight_number}")).await;
            if stale == "0" {
                assert_eq!((status, &value["gate"]), (200, &json!(gate)), "{n} {url}");
                assert_eq!(position, format!("{at}-{offset}"));
            } else {
                assert!(stale.parse::<u64>().is_ok_and(|ms| ms > 0), "{stale}");
            }
        }
    }
    for url in [&first, &second] {
        // Not a matter of the wait any more: by now both hold it.
        let rows = loop {
            let (status, stale, _, rows) = get(format!("{url}?index=byGate&key=G23")).await;
            assert_eq!(status, 200);
            if stale == "0" {
                break rows;
            }
        };
        assert_eq!(rows, json!([{"_key": "F5", "gate": "G23"}]));
        assert_eq!(get(format!("{url}/F9")).await.0, 404);
    }
    one.crash().await;
    two.crash().await;
}

pub async fn offsets_of_a_group_are_seen_and_set_from_outside(bed: Bed) {
    let group = format!("{}.outside", bed.namespace);
    let at = TopicPartition::new(bed.topic("questions"), 1);
    let partitions = std::slice::from_ref(&at);
    assert_eq!(
        bed.offsets.committed(&group, partitions).unwrap()[&at],
        None
    );
    let committed = Committed {
        offset: 7,
        metadata: "why".to_owned(),
    };
    bed.offsets
        .commit(&group, &[(at.clone(), committed.clone())])
        .unwrap();
    assert_eq!(
        bed.offsets.committed(&group, partitions).unwrap()[&at],
        Some(committed)
    );
    let options = headwater_runtime::log::GroupOptions {
        group: group.clone(),
        member: format!("{group}.0"),
        topics: vec![bed.topic("questions")],
    };
    let mut member = bed.log.group(options).unwrap();
    let mut assigned = false;
    while !assigned {
        member
            .poll(std::time::Duration::from_millis(100), &mut |event| {
                assigned |= matches!(event, headwater_runtime::log::GroupEvent::Assigned(_));
            })
            .unwrap();
    }
    member.start(&at, Start::Offset(0)).unwrap();
    let other = Committed {
        offset: 9,
        metadata: String::new(),
    };
    let refused = bed.offsets.commit(&group, &[(at.clone(), other)]);
    assert!(
        matches!(refused, Err(Error::GroupInUse { .. })),
        "{refused:?}"
    );
    member.leave().unwrap();
    let kept = bed.offsets.committed(&group, partitions).unwrap()[&at].clone();
    assert_eq!(kept.map(|kept| kept.offset), Some(7));
}
