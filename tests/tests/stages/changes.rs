//! An agent that a view triggers: one run for each change of a row, across crashes of both stages.

use crate::bed::{Bed, PARTITIONS};
use crate::flight;
use headwater_runtime::log::TopicSpec;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const TOPIC: &str = "view.flights.000001.changes";

/// The stages of the view and of the agent, which says what a row is and what it was.
fn stages(bed: &Bed) -> [Value; 2] {
    let topic = TopicSpec {
        name: bed.topic(TOPIC),
        partitions: PARTITIONS,
        replication_factor: Some(1),
        config: BTreeMap::new(),
    };
    bed.log.create(&[topic]).unwrap();
    let mut agent = bed.agent();
    let own = &mut agent["role"]["agent"];
    own["trigger"]["from"] = json!({"view": "flights"});
    own["trigger"]["filter"] = json!(null);
    own["slots"] = json!([]);
    own["conversation"] = json!(null);
    own["topics"]["conversation"] = json!(null);
    own["prompt"] = json!(null);
    own["model"] = json!(null);
    own["outputs"][0]["value"] =
        json!("{'is': event.gate, 'was': previous == null ? 'nowhere' : previous.gate}");
    let mut stages = [bed.view("flights"), agent];
    for stage in &mut stages {
        stage["views"]["flights"]["changesTopic"] = json!(bed.topic(TOPIC));
    }
    stages
}

pub async fn a_view_triggers_a_run_for_each_change_of_a_row(bed: Bed) {
    const ROUNDS: usize = 4;
    const FLIGHTS: usize = 20;
    let [view, agent] = stages(&bed);
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
