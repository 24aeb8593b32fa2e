//! The incident responder on the node: a tool at the real MCP server that comes with the example, and a person who approves.

use crate::support::cluster::{Cluster, eventually};
use crate::support::image;
use crate::support::kafka::{Answers, Client};
use crate::{chapter, kafka_service};
use headwater_testbed::Kafka;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
const SOURCES: [&str; 6] = [
    "services",
    "settings",
    "freezes",
    "deployments",
    "requests",
    "alerts",
];

pub fn acts_with_approval(cluster: &Cluster, kafka: &Kafka, namespace: &str) {
    let _topics = kafka.topics(format!("{namespace}."));
    let journal = std::env::temp_dir().join(format!("{namespace}-changes.ndjson"));
    let server = Server::start(kafka.bootstrap(), &journal);

    chapter("the incident responder, at a real tool server");
    cluster.kubectl(&["create", "namespace", namespace]);
    cluster.apply(&kafka_service(namespace, kafka.bootstrap()));
    cluster.kubectl(&[
        "apply",
        "-n",
        namespace,
        "-f",
        "examples/incident-responder",
    ]);
    let control = json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": "ToolServer",
        "metadata": {"name": "control", "namespace": namespace}, "spec": {"mcp": {"url": server.url}},
    });
    cluster.kubectl(&["delete", "-n", namespace, "toolserver", "control"]);
    cluster.apply(&control.to_string());
    cluster.kubectl(&[
        "wait",
        "-n",
        namespace,
        "--for=condition=Ready",
        "--all",
        "--timeout=240s",
        crate::KINDS,
    ]);
    let client = Client::new(kafka.bootstrap());
    let topic = |source: &str| format!("{namespace}.{source}");
    let mut alert = None;
    for (source, key, value, time) in events() {
        let position = client.send_at(&topic(&source), key.as_deref(), &value, Some(time));
        if source == "alerts" && key.as_deref() == Some("checkout") {
            alert.get_or_insert(position);
        }
    }
    let alert = alert.expect("no alert of checkout");

    chapter("a person is asked; meanwhile a pod dies");
    let waits = || {
        let waiting = headwater(kafka, namespace, &["--output", "json"]);
        let waiting: Vec<Value> = serde_json::from_str(&waiting).unwrap();
        let about = |question: &Value| question["arguments"]["service"] == "checkout";
        waiting.into_iter().find(about)
    };
    eventually("checkout is asked about", PATIENCE, || waits().is_some());
    let question = waits().unwrap();
    assert_eq!(question["arguments"]["limit"], 80, "{question}");
    assert_eq!(server.changes("checkout"), [0_i64; 0]);
    let pod = "incident-responder-agent-0";
    cluster.kubectl(&[
        "delete",
        "pod",
        pod,
        "-n",
        namespace,
        "--grace-period=0",
        "--force",
    ]);

    chapter("approved: the change is made, once");
    let id = question["approval"].as_str().unwrap();
    let said = headwater(kafka, namespace, &["--approve", id]);
    assert!(said.starts_with("approved by "), "{said}");
    let reports = Answers::follow(kafka.bootstrap(), &topic("reports"));
    let report = reports.to(&alert, PATIENCE);
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["did"], "Changed", "{report}");
    assert_eq!(server.changes("checkout"), [80]);
    // What nobody has to be asked about.
    assert_eq!(server.changes("search"), [120]);

    cluster.kubectl(&[
        "delete",
        "-n",
        namespace,
        "-f",
        "examples/incident-responder",
        "--timeout=120s",
    ]);
    cluster.kubectl(&["delete", "namespace", namespace, "--timeout=120s"]);
}

/// `headwater approvals`, beside the cluster's Kafka.
fn headwater(kafka: &Kafka, namespace: &str, more: &[&str]) -> String {
    let output = Command::new(image::binary())
        .arg("approvals")
        .args(["--kafka", kafka.bootstrap(), "--namespace", namespace])
        .arg("--resources")
        .arg(example())
        .args(more)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).unwrap()
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/incident-responder")
}

/// Source, key, value and time of the example's events, oldest first, as if the last one were of now.
fn events() -> Vec<(String, Option<String>, String, i64)> {
    let mut events = Vec::new();
    for source in SOURCES {
        let path = example().join(format!("events/{source}.ndjson"));
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let time: jiff::Timestamp = event["timestamp"].as_str().unwrap().parse().unwrap();
            let key = event["key"].as_str().map(str::to_owned);
            let value = event["value"].to_string();
            events.push((source.to_owned(), key, value, time.as_millisecond()));
        }
    }
    events.sort_by_key(|(.., time)| *time);
    let now = jiff::Timestamp::now().as_millisecond();
    let last = events.last().map_or(now, |(.., time)| *time);
    for (.., time) in &mut events {
        *time += now - last;
    }
    events
}

/// The example's server, where pods reach it.
struct Server {
    child: Child,
    url: String,
    journal: PathBuf,
}

impl Server {
    fn start(bootstrap: &str, journal: &Path) -> Self {
        let (address, _) = bootstrap.rsplit_once(':').unwrap();
        let mut child = Command::new("python3")
            .arg(example().join("mcp-server/server.py"))
            .args(["--host", address, "--port", "0", "--journal"])
            .arg(journal)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        // It goes on writing.
        std::thread::spawn(move || said.lines().for_each(drop));
        let url = first.trim().strip_prefix("listening on ").unwrap();
        Self {
            child,
            url: url.to_owned(),
            journal: journal.to_owned(),
        }
    }

    /// The limits that it set, in order.
    fn changes(&self, service: &str) -> Vec<i64> {
        let journal = std::fs::read_to_string(&self.journal).unwrap_or_default();
        let lines = journal.lines().map(serde_json::from_str::<Value>);
        lines
            .map(Result::unwrap)
            .filter(|change| change["service"] == service)
            .map(|change| change["limit"].as_i64().unwrap())
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.journal);
    }
}
