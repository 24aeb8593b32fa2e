//! Agents that a view triggers: one run for each change of a row, or for each row of another view that it concerns,
//! across crashes of all stages.

use crate::bed::{Bed, DEADLINE, PARTITIONS, until};
use crate::flight;
use crate::look::start;
use headwater_engine::names::{self, Owner};
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_runtime::log::Committed;
use headwater_runtime::stage::{self, Handle};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The stages of a view and of an agent that says what came of each change of its rows.
fn stages(bed: &Bed, view: &str, trigger: &Value, says: &str) -> [Value; 2] {
    let changes = format!("view.{view}.000001.changes");
    let topics = [changes.as_str(), "agent.helper.in"].map(|topic| bed.spec(topic, PARTITIONS));
    bed.log.create(&topics).unwrap();
    let mut agent = bed.agent();
    let own = &mut agent["role"]["agent"];
    own["trigger"]["from"] = json!({"view": view});
    own["trigger"]["filter"] = json!(null);
    for (name, value) in trigger.as_object().unwrap() {
        own["trigger"][name] = value.clone();
    }
    own["slots"] = json!([]);
    own["conversation"] = json!(null);
    own["topics"]["conversation"] = json!(null);
    own["prompt"] = json!(null);
    own["model"] = json!(null);
    own["outputs"][0]["value"] = json!(says);
    // One may be under way at each crash, and is not what ends its process.
    own["delivery"]["maxAttempts"] = json!(9);
    let mut stages = [bed.view(view), agent];
    for stage in &mut stages {
        stage["views"][view]["changesTopic"] = json!(bed.topic(&changes));
    }
    stages
}

/// Waits until stages that feed one another have nothing left to do.
async fn idle(bed: &Bed, handles: &[&Handle]) {
    let begun = Instant::now();
    while !stage::idle(handles.iter().copied(), &*bed.log).unwrap() {
        let statuses: Vec<_> = handles.iter().map(|handle| handle.status()).collect();
        assert!(begun.elapsed() < DEADLINE, "{statuses:#?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn a_view_triggers_a_run_for_each_change_of_a_row(bed: Bed) {
    const ROUNDS: usize = 4;
    const FLIGHTS: usize = 20;
    let says = "{'is': event.gate, 'was': previous == null ? 'nowhere' : previous.gate}";
    let [view, agent] = stages(&bed, "flights", &json!({}), says);
    let mut writer = bed.writer();
    let mut answers = bed.follow("answers");
    for round in 0..ROUNDS {
        let view = bed.started(&view).await;
        let agent = bed.started(&agent).await;
        let gate = format!("G{round}");
        for n in 0..FLIGHTS {
            // Each twice: the second changes nothing.
            let event = || flight(&bed, &format!("F{n}"), &gate);
            writer.write(&[event(), event()]).unwrap();
        }
        // Both go down while some of it is folded, and some of it has run.
        answers.wait(round * FLIGHTS + FLIGHTS / 2);
        view.crash().await;
        agent.crash().await;
    }
    let view = bed.started(&view).await;
    let agent = bed.started(&agent).await;
    answers.wait(ROUNDS * FLIGHTS);
    // Behind all that is there, so that no answer is yet to come.
    writer.write(&[flight(&bed, "F0", "last")]).unwrap();
    answers.wait(ROUNDS * FLIGHTS + 1);
    let mut by_flight: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for seen in bed.read("answers") {
        let text = |name: &str| seen.value[name].as_str().unwrap().to_owned();
        let change = (text("was"), text("is"));
        by_flight.entry(seen.key.clone()).or_default().push(change);
    }
    assert_eq!(by_flight.len(), FLIGHTS);
    for (number, changes) in &by_flight {
        let gates: Vec<String> = std::iter::once("nowhere".to_owned())
            .chain((0..ROUNDS).map(|round| format!("G{round}")))
            .chain((number == "F0").then(|| "last".to_owned()))
            .collect();
        let expected: Vec<(String, String)> = gates
            .windows(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect();
        assert_eq!(changes, &expected, "{number}");
    }
    view.crash().await;
    agent.crash().await;
}

/// A record of the flights that is no flight any more.
fn gone(bed: &Bed, number: &str) -> NewRecord {
    NewRecord {
        value: None,
        ..flight(bed, number, "none")
    }
}

pub async fn a_row_that_goes_starts_a_run_where_the_agent_asks_for_it(bed: Bed) {
    let says = "{'is': event == null ? 'gone' : event.gate, 'was': previous == null ? 'nowhere' : previous.gate}";
    let moved = "event == null || previous == null || event.gate != previous.gate";
    let trigger = json!({"deletes": "Ignore", "filter": moved});
    let [view, mut agent] = stages(&bed, "flights", &trigger, says);
    let view = bed.started(&view).await;
    let mut writer = bed.writer();
    let mut answers = bed.follow("answers");
    let noted = |gate: &str| {
        let value = json!({"gate": gate, "note": "swept"});
        bed.record("flights", "F1", &value)
    };
    let mut expected = Vec::new();
    for deletes in ["Ignore", "Run"] {
        agent["role"]["agent"]["trigger"]["deletes"] = json!(deletes);
        let agent = bed.started(&agent).await;
        let events = [
            flight(&bed, "F1", "A"),
            // A change that the filter leaves out, one that it does not, and one that is none.
            noted("A"),
            noted("B"),
            noted("B"),
            gone(&bed, "F1"),
            gone(&bed, "F1"),
            // The row is new again.
            flight(&bed, "F1", deletes),
            gone(&bed, "F1"),
        ];
        writer.write(&events).unwrap();
        expected.extend([("nowhere", "A"), ("A", "B")]);
        if deletes == "Run" {
            expected.push(("B", "gone"));
        }
        expected.push(("nowhere", deletes));
        if deletes == "Run" {
            expected.push((deletes, "gone"));
        }
        answers.wait(expected.len());
        idle(&bed, &[&view, &agent]).await;
        agent.crash().await;
    }
    let answers = bed.read("answers");
    let told: Vec<(&str, &str)> = answers
        .iter()
        .map(|seen| {
            let text = |name: &str| seen.value[name].as_str().unwrap();
            (text("was"), text("is"))
        })
        .collect();
    assert_eq!(told, expected);
    view.crash().await;
}

/// Of a view that has an input log itself, for rows of another one, so through all the logs that there are.
pub async fn each_change_starts_a_run_for_each_row_of_another_view(bed: Bed) {
    const ROUNDS: i64 = 4;
    const CHANGES: i64 = 6;
    let rows = json!({
        "view": "flights", "by": {"key": "event.gate"}, "index": "byGate", "where": null, "orderBy": null, "order": "Ascending", "limit": 1,
    });
    let trigger = json!({
        "filter": "event.?minutes.hasValue() && event.minutes != previous.?minutes.orValue(0)",
        "forEach": rows, "input": bed.topic("agent.helper.in"),
    });
    let says = "{'flight': match._key, 'because': key, 'is': event.minutes, 'was': previous.?minutes.orValue(0)}";
    let [view, mut agent] = stages(&bed, "board", &trigger, says);
    agent["views"]["flights"]["indexes"] =
        json!([{"name": "byGate", "key": {"one": "value.gate"}}]);
    let flights = bed.started(&bed.view("flights")).await;
    let mut writer = bed.writer();
    // F0 and F1 share a gate, F2 has another.
    let gates = [("F0", "A"), ("F1", "A"), ("F2", "B")];
    let known = gates.map(|(number, gate)| flight(&bed, number, gate));
    writer.write(&known).unwrap();
    let delay = |number: &str, minutes: i64| {
        let value = json!({"flight": number, "minutes": minutes});
        bed.record("delays", number, &value)
    };
    let mut answers = bed.follow("answers");
    for round in 0..ROUNDS {
        let view = bed.started(&view).await;
        let agent = bed.started(&agent).await;
        if round == 0 {
            // The board has its gates before the first delay.
            idle(&bed, &[&view, &agent]).await;
        }
        for change in 1..=CHANGES {
            let minutes = round * CHANGES + change;
            writer.write(&[delay("F0", minutes)]).unwrap();
            writer.write(&[delay("F2", minutes)]).unwrap();
        }
        // Both go down while some of it has run.
        let before = usize::try_from(round * CHANGES * 3).unwrap();
        answers.wait(before + 4);
        view.crash().await;
        agent.crash().await;
    }
    let view = bed.started(&view).await;
    let agent = bed.started(&agent).await;
    let all = usize::try_from(ROUNDS * CHANGES * 3).unwrap();
    answers.wait(all);
    idle(&bed, &[&view, &agent]).await;
    let mut told: BTreeMap<(String, String), Vec<(i64, i64)>> = BTreeMap::new();
    for seen in bed.read("answers") {
        let flight = seen.value["flight"].as_str().unwrap().to_owned();
        // The run's key is the row's.
        assert_eq!(seen.key, flight);
        // The chain began with the delay, on the other side of both input logs.
        let root = &seen.headers["headwater-root"];
        assert!(root.starts_with(&bed.topic("delays-")), "{root}");
        let number = |name: &str| seen.value[name].as_i64().unwrap();
        let because = seen.value["because"].as_str().unwrap().to_owned();
        let change = (number("was"), number("is"));
        told.entry((because, flight)).or_default().push(change);
    }
    let steps: Vec<(i64, i64)> = (0..ROUNDS * CHANGES).map(|n| (n, n + 1)).collect();
    let of = |because: &str, flight: &str| ((because.to_owned(), flight.to_owned()), steps.clone());
    let expected = [of("F0", "F0"), of("F0", "F1"), of("F2", "F2")];
    assert_eq!(told, BTreeMap::from(expected));
    for handle in [flights, view, agent] {
        handle.crash().await;
    }
}

/// `group` reads the changes; nothing runs again and nothing is gone past before somebody decided.
async fn built_anew(bed: Bed, trigger: &Value, group: &str) {
    const ANEW: &str = "view.flights.000002.changes";
    let mut stages = stages(&bed, "flights", trigger, "{'is': event.gate}");
    let mut writer = bed.writer();
    let run = async |stages: &[Value; 2]| {
        let view = bed.started(&stages[0]).await;
        let agent = bed.started(&stages[1]).await;
        (view, agent)
    };
    let (view, agent) = run(&stages).await;
    let events = [flight(&bed, "F1", "A"), flight(&bed, "F2", "B")];
    writer.write(&events).unwrap();
    bed.follow("answers").wait(2);
    idle(&bed, &[&view, &agent]).await;
    view.crash().await;
    agent.crash().await;

    bed.log
        .create(&["view.flights.000002", ANEW].map(|topic| bed.spec(topic, PARTITIONS)))
        .unwrap();
    for stage in &mut stages {
        let view = &mut stage["views"]["flights"];
        view["generation"] = json!("000002");
        view["stateTopic"] = json!(bed.topic("view.flights.000002"));
        view["changesTopic"] = json!(bed.topic(ANEW));
    }
    let view = bed.started(&stages[0]).await;
    idle(&bed, &[&view]).await;
    assert_eq!(bed.read(ANEW).len(), 2, "all is told again");
    let (agent, token) = start(&bed, &stages[1]);
    until(&agent, "stalled", |agent| {
        !agent.status().problems.is_empty()
    })
    .await;
    let problem = agent.status().problems[0].clone();
    assert_eq!(problem.reason, "PositionsLost");
    for part in [
        "view 'flights' was built anew",
        "headwater resume agent/helper --from",
        &bed.topic(ANEW),
    ] {
        assert!(problem.message.contains(part), "{problem:?}");
    }
    token.cancel();
    agent.join().await;
    assert_eq!(bed.read("answers").len(), 2);

    // As `headwater resume agent/helper --from Latest` does.
    let all: Vec<TopicPartition> = (0..PARTITIONS)
        .map(|partition| TopicPartition::new(bed.topic(ANEW), partition))
        .collect();
    let ends = bed.log.ends(&all).unwrap();
    let place = |(partition, offset)| {
        let metadata = String::new();
        (partition, Committed { offset, metadata })
    };
    let offsets: Vec<_> = all.into_iter().zip(ends).map(place).collect();
    let group = names::group(&bed.namespace, Owner::Agent, "helper", None, group);
    bed.offsets.commit(&group, &offsets).unwrap();
    let agent = bed.started(&stages[1]).await;
    writer.write(&[flight(&bed, "F1", "C")]).unwrap();
    bed.follow("answers").wait(3);
    idle(&bed, &[&view, &agent]).await;
    let answers = bed.read("answers");
    let mut told: Vec<&str> = answers
        .iter()
        .map(|seen| seen.value["is"].as_str().unwrap())
        .collect();
    told.sort_unstable();
    assert_eq!(told, ["A", "B", "C"]);
    view.crash().await;
    agent.crash().await;
}

pub async fn where_an_agent_goes_on_in_a_view_that_was_built_anew_is_not_guessed(bed: Bed) {
    built_anew(bed, &json!({}), "runs").await;
}

pub async fn nor_where_an_intake_of_changes_does(bed: Bed) {
    let input = bed.topic("agent.helper.in");
    built_anew(bed, &json!({"key": "event.gate", "input": input}), "intake").await;
}
