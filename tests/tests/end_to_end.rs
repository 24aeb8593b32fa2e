//! The flight assistant on a real Kubernetes node with a real Kafka: image, charts, resources, topics, pods, answers; then a change, a
//! killed pod, a mistake and its mending, and deletion; then the incident responder, with a real tool server and a person.
//!
//! One test, because one story: each chapter stands on the one before, and starting over would cost a minute each time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says where it is"
)]

#[path = "end_to_end/responder.rs"]
mod responder;
mod support;

use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::cluster::{Cluster, eventually};
use support::kafka::{Answers, Client};

const ROUNDS: usize = 500;
/// The operator's own memory, with the example.
const OPERATOR_BYTES_MAX: u64 = 16 * 1_024 * 1_024;
const ON_TIME: &str = "My flight to New York, is it on time?";
const ANOTHER: &str = "Can you get me on another one, with a window seat?";
const KINDS: &str = "kafkaclusters,models,eventsources,contextviews,toolservers,agents";

#[test]
fn flight_assistant_on_a_real_node() {
    let kafka = headwater_testbed::kafka().unwrap();
    let cluster = Cluster::start();
    let namespace = format!("e2e-{}", std::process::id());
    let _topics = kafka.topics(format!("{namespace}."));

    chapter("image and charts");
    let image = support::image::build();
    cluster.node().import_image(&image).unwrap();
    cluster.remove_former_installation();
    cluster.helm(&["install", "headwater-crds", "charts/headwater-crds"]);
    cluster.helm(&[
        "install",
        "headwater",
        "charts/headwater",
        "--namespace",
        "headwater-system",
        "--create-namespace",
        "--wait",
        "--timeout",
        "120s",
    ]);

    chapter("the example's resources");
    cluster.kubectl(&["create", "namespace", &namespace]);
    cluster.apply(&kafka_service(&namespace, kafka.bootstrap()));
    cluster.kubectl(&["apply", "-n", &namespace, "-f", "examples/flight-assistant"]);
    cluster.kubectl(&[
        "wait",
        "-n",
        &namespace,
        "--for=condition=Ready",
        "--all",
        "--timeout=240s",
        KINDS,
    ]);
    let agents = cluster.kubectl(&["get", "agents", "-n", &namespace]);
    assert!(
        agents.contains("flight-assistant") && agents.contains("True"),
        "{agents}"
    );
    let explained = cluster.kubectl(&["explain", "agent.spec.context"]);
    assert!(explained.contains("budgetTokens"), "{explained}");

    chapter("the morning's events, two questions");
    let client = Client::new(kafka.bootstrap());
    let topic = |source: &str| format!("{namespace}.{source}");
    for (source, key, value) in example_events() {
        client.send(&topic(&source), key.as_deref(), &value);
    }
    let answers = Answers::follow(kafka.bootstrap(), &topic("answers"));
    let ask = |session: &str, text: &str| {
        let question = json!({"customer_id": "c-1042", "text": text});
        let trigger = client.send(&topic("questions"), Some(session), &question.to_string());
        let answer = answers.to(&trigger, Duration::from_secs(60));
        serde_json::from_str::<Value>(&answer).unwrap()["text"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let first = ask("story", ON_TIME);
    assert!(
        first.contains("LK 103") && first.contains("145 minutes late"),
        "{first}"
    );
    let second = ask("story", ANOTHER);
    assert!(
        second.contains("LK 107") && second.contains("window seat 34K"),
        "{second}"
    );
    assert!(second.contains("38 USD"), "{second}");

    chapter("an acknowledged update is in the next answer, every time");
    let started = Instant::now();
    for round in 0..ROUNDS {
        let gate = format!("Z{round}");
        let update = json!({"flight_id": "LK103-2026-11-24", "gate": gate});
        client.send(
            &topic("flight-updates"),
            Some("LK103-2026-11-24"),
            &update.to_string(),
        );
        let answer = ask(&format!("round-{round}"), ON_TIME);
        assert!(
            answer.contains(&format!("gate {gate},")),
            "round {round}: {answer}"
        );
    }
    eprintln!(
        "{ROUNDS} of {ROUNDS} in {:.1} s",
        started.elapsed().as_secs_f64()
    );

    chapter("memory, and an idle minute");
    let resident = support::process::resident("headwater", "operator");
    let (own, all) = (resident.anonymous, resident.all);
    let megabytes = |bytes: u64| bytes as f64 / 1_048_576.0;
    eprintln!(
        "the operator holds {:.1} MB of its own, {:.1} MB with what it has of its executable",
        megabytes(own),
        megabytes(all)
    );
    assert!(own < OPERATOR_BYTES_MAX, "{own}");
    let written = cluster.written_within(Duration::from_secs(60), &namespace);
    assert_eq!(written, Vec::<String>::new());

    chapter("a change");
    let change = json!({"spec": {"outputs": [{
        "name": "answer", "sourceRef": {"name": "answers"}, "value": "{'text': 'Larkspur: ' + result.text}",
    }]}});
    cluster.kubectl(&[
        "patch",
        "agent",
        "flight-assistant",
        "-n",
        &namespace,
        "--type=merge",
        "-p",
        &change.to_string(),
    ]);
    eventually(
        "the changed agent answers",
        Duration::from_secs(120),
        || ask("changed", ON_TIME).starts_with("Larkspur: "),
    );
    cluster.kubectl(&[
        "wait",
        "-n",
        &namespace,
        "--for=condition=Ready",
        "agent/flight-assistant",
        "--timeout=120s",
    ]);

    chapter("a killed pod: every question is answered, once");
    let triggers: Vec<String> = (0..40)
        .map(|n| {
            if n == 20 {
                cluster.kubectl(&[
                    "delete",
                    "pod",
                    "flight-assistant-agent-0",
                    "-n",
                    &namespace,
                    "--grace-period=0",
                    "--force",
                ]);
            }
            let question = json!({"customer_id": "c-1042", "text": ON_TIME});
            client.send(
                &topic("questions"),
                Some(&format!("killed-{n}")),
                &question.to_string(),
            )
        })
        .collect();
    for trigger in &triggers {
        answers.to(trigger, Duration::from_secs(120));
    }
    // A later question's answer: whatever was written twice would stand before it.
    ask("after", ON_TIME);
    for trigger in &triggers {
        assert_eq!(answers.count(trigger), 1, "{trigger}");
    }

    chapter("a mistake, and its mending");
    cluster.apply(&cluster.in_namespace(&namespace, include_str!("end_to_end/mistake.yaml")));
    let reason = || cluster.condition("agent", "careless", &namespace, "Ready");
    eventually("the mistake is reported", Duration::from_secs(30), || {
        reason().is_some_and(|condition| condition["status"] == "False")
    });
    let condition = reason().unwrap();
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.contains("spec.context[name=bookings]") && message.contains("bookigns"),
        "{condition}"
    );
    assert!(message.contains("bookings"), "{condition}");
    // Its killed pod may just be coming back; the mistake does not keep it.
    cluster.kubectl(&[
        "wait",
        "-n",
        &namespace,
        "--for=condition=Ready",
        "agent/flight-assistant",
        "--timeout=60s",
    ]);
    let mended = include_str!("end_to_end/mistake.yaml").replace("bookigns", "bookings");
    cluster.apply(&cluster.in_namespace(&namespace, &mended));
    cluster.kubectl(&[
        "wait",
        "-n",
        &namespace,
        "--for=condition=Ready",
        "agent/careless",
        "--timeout=120s",
    ]);

    chapter("deletion keeps the data");
    cluster.kubectl(&[
        "delete",
        "-n",
        &namespace,
        "agent",
        "careless",
        "--timeout=60s",
    ]);
    cluster.kubectl(&[
        "delete",
        "-n",
        &namespace,
        "-f",
        "examples/flight-assistant",
        "--timeout=120s",
    ]);
    eventually("the pods are gone", Duration::from_secs(120), || {
        cluster
            .kubectl(&[
                "get",
                "pods,statefulsets,configmaps",
                "-n",
                &namespace,
                "-o",
                "name",
            ])
            .lines()
            .all(|line| line == "configmap/kube-root-ca.crt")
    });
    assert!(client.topics().contains(&topic("flights")));
    cluster.kubectl(&["delete", "namespace", &namespace, "--timeout=120s"]);

    responder::acts_with_approval(&cluster, &kafka, &format!("{namespace}-ops"));
    cluster.helm(&[
        "uninstall",
        "headwater",
        "--namespace",
        "headwater-system",
        "--wait",
    ]);
    cluster.helm(&["uninstall", "headwater-crds"]);
}

fn chapter(name: &str) {
    eprintln!("--- {name}");
}

/// What `kafka.yaml` of the example expects: a Kafka called `kafka` in the namespace.
fn kafka_service(namespace: &str, bootstrap: &str) -> String {
    let (address, port) = bootstrap.split_once(':').unwrap();
    include_str!("end_to_end/kafka.yaml")
        .replace("NAMESPACE", namespace)
        .replace("ADDRESS", address)
        .replace("PORT", port)
}

/// Source, key and value of the example's events, oldest first; the questions are the test's own to ask.
fn example_events() -> Vec<(String, Option<String>, String)> {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/flight-assistant/events");
    let mut events = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let source = path.file_stem().unwrap().to_str().unwrap();
        if source == "questions" {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            // All in one form, so that their texts are in order too.
            let time = event["timestamp"].as_str().unwrap().to_owned();
            let key = event["key"].as_str().map(str::to_owned);
            events.push((time, source.to_owned(), key, event["value"].to_string()));
        }
    }
    events.sort();
    events
        .into_iter()
        .map(|(_, source, key, value)| (source, key, value))
        .collect()
}
