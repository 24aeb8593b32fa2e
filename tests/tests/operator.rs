//! The operator against a real API server and a real Kafka: what it makes, what it says, what it leaves alone.
//!
//! Each test has a namespace and an operator of its own, which watches only that. Pods need not run for it, so nothing here waits for one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use definitions::definitions;
use headwater_engine::config;
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_kafka::Settings;
use headwater_kafka::admin::Admin;
use headwater_operator::{Options, run_with};
use headwater_runtime::log::{Isolation, Log, Start};
use headwater_runtime::stage::{self, Handle, Services};
use headwater_testbed::kafka::Topics;
use headwater_testbed::{ControlPlane, Kafka};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

#[path = "support/definitions.rs"]
mod definitions;

const PATIENCE: Duration = Duration::from_secs(60);

struct Bed {
    control_plane: &'static ControlPlane,
    kafka: Kafka,
    namespace: String,
    runtime: Runtime,
    _topics: Topics,
}

impl Bed {
    fn start(test: &str) -> Self {
        let kafka = headwater_testbed::kafka().unwrap();
        let namespace = format!("operator-{test}-{}", std::process::id());
        let bed = Self {
            control_plane: definitions(),
            runtime: Runtime::new().unwrap(),
            _topics: kafka.topics(format!("{namespace}.")),
            kafka,
            namespace,
        };
        bed.kubectl(&["create", "namespace", &bed.namespace], "");
        bed
    }

    /// Runs an operator until the token is cancelled.
    fn operator(&self) -> Operator {
        let kubeconfig = Kubeconfig::read_from(self.control_plane.kubeconfig()).unwrap();
        let options = Options {
            watch_namespaces: vec![self.namespace.clone()],
            image: "headwater-dev/headwater:never-run".to_owned(),
            image_pull_policy: "Never".to_owned(),
            log: "info".to_owned(),
            network_policies: true,
            pod_annotations: None,
            pod_labels: None,
            election: None,
            listen: None,
            identity: "operator-tests".to_owned(),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = self.runtime.spawn(async move {
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .unwrap();
            let client = Client::try_from(config).unwrap();
            run_with(client, options, stopped).await.unwrap();
        });
        Operator { stop, task }
    }

    fn stop(&self, operator: Operator) {
        operator.stop.cancel();
        self.runtime.block_on(operator.task).unwrap();
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.control_plane.kubectl();
        command.args(arguments);
        succeed(command, input)
    }

    fn apply(&self, object: &Value) {
        self.kubectl(
            &["apply", "-n", &self.namespace, "-f", "-"],
            &object.to_string(),
        );
    }

    fn delete(&self, kind: &str, name: &str) {
        self.kubectl(
            &["delete", kind, name, "-n", &self.namespace, "--timeout=60s"],
            "",
        );
    }

    fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let found = self.kubectl(
            &[
                "get",
                kind,
                name,
                "-n",
                &self.namespace,
                "-o",
                "json",
                "--ignore-not-found",
            ],
            "",
        );
        serde_json::from_str(&found).ok()
    }

    /// Waits until the condition `Ready` of a resource has this reason; gives its message.
    fn until(&self, kind: &str, name: &str, reason: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let object = self.get(kind, name).unwrap();
            let ready = object["status"]["conditions"]
                .as_array()
                .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"))
                .cloned()
                .unwrap_or_default();
            if ready["reason"] == reason
                && ready["observedGeneration"] == object["metadata"]["generation"]
            {
                return ready["message"].as_str().unwrap().to_owned();
            }
            assert!(
                Instant::now() < deadline,
                "{kind} '{name}' is not {reason} after {PATIENCE:?}: {ready}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn cluster(&self, bootstrap: &str) {
        self.apply(&resource(
            "KafkaCluster",
            "default",
            json!({"bootstrapServers": [bootstrap], "topicDefaults": {"partitions": 2}}),
        ));
    }

    fn admin(&self) -> Admin {
        let settings = Settings {
            bootstrap_servers: vec![self.kafka.bootstrap().to_owned()],
            client_id: "operator-tests".to_owned(),
            ..Settings::default()
        };
        Admin::new(&settings, PATIENCE).unwrap()
    }

    fn topic_exists(&self, topic: &str) -> bool {
        let found = self.admin().describe(&[topic]).unwrap().remove(0).unwrap();
        found.is_some()
    }

    /// Waits until this holds.
    fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A field of a view's status, once it is there.
    fn status(&self, view: &str, field: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.get("contextview", view).unwrap();
            if let Some(text) = view["status"][field].as_str() {
                return text.to_owned();
            }
            assert!(
                Instant::now() < deadline,
                "no {field} in {}",
                view["status"]
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Name of the StatefulSet of the generation that is built, or was first.
    fn stage_of(&self, view: &str) -> String {
        format!("{view}-{}", self.status(view, "building"))
    }

    /// Plays the kubelet for the pods of one StatefulSet: all of them run and are ready, until the controller says so too.
    fn run_pods(&self, set: &str) {
        let ready = json!({"status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}],
        }});
        self.eventually(&format!("the pods of {set} are ready"), || {
            let Some(object) = self.get("statefulset", set) else {
                return false;
            };
            let wanted = object["spec"]["replicas"].as_u64().unwrap();
            let status = &object["status"];
            let count = |field: &str| status[field].as_u64().unwrap_or(0);
            if status["observedGeneration"] == object["metadata"]["generation"]
                && count("updatedReplicas") == wanted
                && count("readyReplicas") == wanted
                && status["currentRevision"] == status["updateRevision"]
            {
                return true;
            }
            for ordinal in 0..wanted {
                let pod = format!("{set}-{ordinal}");
                if self.get("pod", &pod).is_some() {
                    let mut patch = self.control_plane.kubectl();
                    patch.args([
                        "patch",
                        "pod",
                        &pod,
                        "-n",
                        &self.namespace,
                        "--subresource=status",
                        "-p",
                    ]);
                    patch.arg(ready.to_string());
                    // The controller may just have replaced it.
                    let _replaced = patch.stdout(Stdio::null()).stderr(Stdio::null()).status();
                }
            }
            false
        });
    }

    /// Which generation of a view an agent's pods are configured to read.
    fn read_by(&self, agent: &str, view: &str) -> String {
        let map = self.get("configmap", &format!("{agent}-agent")).unwrap();
        let stage: Value =
            serde_json::from_str(map["data"]["stage.json"].as_str().unwrap()).unwrap();
        stage["views"][view]["generation"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn state_topic(&self, view: &str, generation: &str) -> String {
        format!("{}.view.{view}.{generation}", self.namespace)
    }

    /// `kind/name` -> resource version of everything in the namespace that the operator could write.
    fn versions(&self) -> BTreeMap<String, String> {
        let kinds = "kafkaclusters,models,eventsources,contextviews,agents,statefulsets,configmaps,services,\
                     serviceaccounts,networkpolicies";
        let list = self.kubectl(&["get", kinds, "-n", &self.namespace, "-o", "json"], "");
        let list: Value = serde_json::from_str(&list).unwrap();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|object| {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let metadata = &object["metadata"];
                let name = format!("{}/{}", text(&object["kind"]), text(&metadata["name"]));
                // A StatefulSet's status is its controller's to write, not ours: its generation counts.
                let version = match object["kind"].as_str() {
                    Some("StatefulSet") => metadata["generation"].to_string(),
                    _ => text(&metadata["resourceVersion"]),
                };
                (name, version)
            })
            .collect()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let mut command = self.control_plane.kubectl();
        command.args(["delete", "namespace", &self.namespace, "--wait=false"]);
        // What is left over is the bed's to throw away.
        let _ended = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

struct Operator {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn succeed(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// Pods ask for a node that does not exist: where the bed has a real one, its kubelet leaves them to these tests.
fn resource(kind: &str, name: &str, mut spec: Value) -> Value {
    if matches!(kind, "ContextView" | "Agent") {
        spec["pod"] = json!({"nodeSelector": {"headwater.dev/node": "none"}});
    }
    json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name}, "spec": spec,
    })
}

fn source(name: &str) -> Value {
    resource("EventSource", name, json!({}))
}

/// An agent that reads views by its trigger's key.
fn agent(name: &str, trigger: &str, views: &[&str]) -> Value {
    let slots: Vec<Value> = views
        .iter()
        .map(|view| json!({"name": view, "viewRef": {"name": view}, "key": "key"}))
        .collect();
    resource(
        "Agent",
        name,
        json!({
            "trigger": {"sourceRef": {"name": trigger}}, "context": slots, "prompt": {"user": "{{ event }}"},
            "outputs": [{"name": "copy", "sourceRef": {"name": trigger}}],
        }),
    )
}

fn view(name: &str, source: &str) -> Value {
    resource(
        "ContextView",
        name,
        json!({"from": [{"name": source, "sourceRef": {"name": source}}]}),
    )
}

#[test]
fn makes_topics_and_workloads_and_a_second_operator_writes_nothing() {
    let bed = Bed::start("quiet");
    let first = bed.operator();
    bed.cluster(bed.kafka.bootstrap());
    bed.apply(&source("orders"));
    bed.apply(&view("orders", "orders"));
    let message = bed.until("eventsource", "orders", "Available");
    assert!(
        message.contains(&format!("{}.orders", bed.namespace)),
        "{message}"
    );
    bed.until("contextview", "orders", "RollingOut");
    assert!(bed.topic_exists(&format!("{}.orders", bed.namespace)));
    assert!(bed.topic_exists(&format!("{}.view.orders.dead", bed.namespace)));
    let set = bed.get("statefulset", &bed.stage_of("orders")).unwrap();
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], json!(false));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
    assert_eq!(
        pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"],
        json!(true)
    );
    assert_eq!(set["metadata"]["ownerReferences"][0]["kind"], "ContextView");
    bed.stop(first);

    let before = bed.versions();
    let second = bed.operator();
    // A resource of its own shows that the new operator has been through all of them.
    bed.apply(&source("later"));
    bed.until("eventsource", "later", "Available");
    let mut after = bed.versions();
    after.remove("EventSource/later");
    assert_eq!(after, before);
    bed.stop(second);
}

#[test]
fn what_cannot_work_says_where_and_mends_itself_once_the_cause_is_gone() {
    let bed = Bed::start("mends");
    let operator = bed.operator();
    // The discard port: nothing listens there.
    bed.cluster("127.0.0.1:9");
    bed.apply(&source("orders"));
    let message = bed.until("kafkacluster", "default", "KafkaUnreachable");
    assert!(message.contains("127.0.0.1:9"), "{message}");
    bed.cluster(bed.kafka.bootstrap());
    bed.until("kafkacluster", "default", "Available");
    bed.until("eventsource", "orders", "Available");

    bed.apply(&view("late", "lates"));
    let message = bed.until("contextview", "late", "NotFound");
    assert!(
        message.contains("spec.from[name=lates]") && message.contains("lates"),
        "{message}"
    );
    bed.until("eventsource", "orders", "Available");
    bed.apply(&source("lates"));
    bed.until("contextview", "late", "RollingOut");

    bed.apply(&resource(
        "Model",
        "chat",
        json!({
            "model": "m",
            "openAI": {"baseURL": "https://models.example/v1", "apiKeySecretKeyRef": {"name": "key", "key": "token"}},
        }),
    ));
    let message = bed.until("model", "chat", "MissingSecret");
    assert!(
        message.contains("apiKeySecretKeyRef") && message.contains("'key'"),
        "{message}"
    );
    bed.kubectl(
        &[
            "create",
            "secret",
            "generic",
            "key",
            "-n",
            &bed.namespace,
            "--from-literal=token=t",
        ],
        "",
    );
    bed.until("model", "chat", "Available");
    bed.stop(operator);
}

#[test]
fn an_object_of_somebody_else_is_left_alone() {
    let bed = Bed::start("taken");
    let operator = bed.operator();
    bed.cluster(bed.kafka.bootstrap());
    let theirs = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "helper-agent"}, "data": {"mine": "yes"},
    });
    bed.apply(&theirs);
    bed.apply(&source("orders"));
    bed.apply(&agent("helper", "orders", &[]));
    let message = bed.until("agent", "helper", "NameTaken");
    assert!(message.contains("ConfigMap 'helper-agent'"), "{message}");
    assert_eq!(
        bed.get("configmap", "helper-agent").unwrap()["data"]["mine"],
        "yes"
    );
    bed.delete("configmap", "helper-agent");
    bed.until("agent", "helper", "RollingOut");
    bed.stop(operator);
}

#[test]
fn semantics_23_deletion_takes_only_the_topics_that_were_made_for_it_and_asked_to_go() {
    let bed = Bed::start("deletes");
    let operator = bed.operator();
    bed.cluster(bed.kafka.bootstrap());
    bed.apply(&source("kept"));
    bed.apply(&resource(
        "EventSource",
        "gone",
        json!({"deletionPolicy": "Delete"}),
    ));
    bed.until("eventsource", "kept", "Available");
    bed.until("eventsource", "gone", "Available");
    let topic = |name: &str| format!("{}.{name}", bed.namespace);
    assert!(bed.topic_exists(&topic("gone")));
    assert_eq!(
        bed.get("eventsource", "kept").unwrap()["metadata"]["finalizers"],
        Value::Null
    );
    bed.delete("eventsource", "kept");
    bed.delete("eventsource", "gone");
    assert!(bed.topic_exists(&topic("kept")));
    let deadline = Instant::now() + PATIENCE;
    while bed.topic_exists(&topic("gone")) {
        assert!(Instant::now() < deadline, "the topic is still there");
        std::thread::sleep(Duration::from_millis(100));
    }
    bed.stop(operator);
}

/// A view that leaves some of its source's events out.
fn filtered(name: &str, source: &str, filter: &str) -> Value {
    resource(
        "ContextView",
        name,
        json!({"from": [{"name": source, "sourceRef": {"name": source}, "filter": filter}]}),
    )
}

#[test]
fn semantics_21_a_changed_view_is_built_beside_and_readers_move_when_it_is_ready() {
    let bed = Bed::start("beside");
    let mut operator = bed.operator();
    bed.cluster(bed.kafka.bootstrap());
    bed.apply(&source("orders"));
    bed.apply(&source("asks"));
    bed.apply(&view("orders", "orders"));
    bed.apply(&agent("desk", "asks", &["orders"]));
    let first = bed.status("orders", "building");
    bed.until("agent", "desk", "RollingOut");
    assert_eq!(bed.read_by("desk", "orders"), first);
    bed.run_pods(&format!("orders-{first}"));
    bed.run_pods("desk-agent");
    bed.until("contextview", "orders", "Available");
    assert_eq!(bed.status("orders", "generation"), first);

    bed.apply(&filtered("orders", "orders", "event.open"));
    let message = bed.until("contextview", "orders", "BuildingGeneration");
    let second = bed.status("orders", "building");
    assert_ne!(second, first);
    assert!(
        message.contains(&first) && message.contains(&second),
        "{message}"
    );
    bed.eventually("the new stage is there", || {
        bed.get("statefulset", &format!("orders-{second}"))
            .is_some()
    });
    // Both have their topics and stage, and the reader has the old one, through a restart of the operator.
    bed.stop(operator);
    operator = bed.operator();
    bed.apply(&source("seen"));
    bed.until("eventsource", "seen", "Available");
    assert_eq!(bed.read_by("desk", "orders"), first);
    for generation in [&first, &second] {
        assert!(bed.topic_exists(&bed.state_topic("orders", generation)));
        assert!(
            bed.get("statefulset", &format!("orders-{generation}"))
                .is_some()
        );
    }

    // A change of mind: what was being built goes, and was never read.
    bed.apply(&filtered("orders", "orders", "event.paid"));
    bed.eventually("another one is built", || {
        bed.status("orders", "building") != second
    });
    let third = bed.status("orders", "building");
    bed.eventually("the superseded one is gone", || {
        bed.get("statefulset", &format!("orders-{second}"))
            .is_none()
            && !bed.topic_exists(&bed.state_topic("orders", &second))
    });
    assert_eq!(bed.read_by("desk", "orders"), first);

    // Ready: the reader is told, and the old one stays for as long as the reader's pods may read it.
    bed.stop(operator);
    bed.run_pods(&format!("orders-{third}"));
    operator = bed.operator();
    let message = bed.until("contextview", "orders", "MovingReaders");
    assert!(
        message.contains("Agent 'desk'") && message.contains(&third),
        "{message}"
    );
    bed.eventually("the reader is told", || {
        bed.read_by("desk", "orders") == third
    });
    assert!(bed.get("statefulset", &format!("orders-{first}")).is_some());
    assert!(bed.topic_exists(&bed.state_topic("orders", &first)));
    bed.run_pods("desk-agent");
    bed.until("contextview", "orders", "Available");
    bed.eventually("the old one is gone", || {
        bed.get("statefulset", &format!("orders-{first}")).is_none()
            && !bed.topic_exists(&bed.state_topic("orders", &first))
            && bed.get("configmap", &format!("orders-{first}")).is_none()
    });
    assert!(bed.topic_exists(&bed.state_topic("orders", &third)));
    let status = bed.get("contextview", "orders").unwrap()["status"].clone();
    assert_eq!(status["generation"], json!(third));
    assert_eq!(status["building"], Value::Null);
    let topics = status["topics"].to_string();
    assert!(
        topics.contains(&third) && !topics.contains(&first) && !topics.contains(&second),
        "{topics}"
    );
    bed.stop(operator);
}

#[test]
fn semantics_21_what_the_sources_no_longer_hold_refuses_a_rebuild_until_it_is_asked_for() {
    let bed = Bed::start("incomplete");
    let operator = bed.operator();
    bed.cluster(bed.kafka.bootstrap());
    bed.apply(&resource(
        "EventSource",
        "orders",
        json!({"topic": {"config": {"cleanup.policy": "compact"}}}),
    ));
    bed.apply(&view("orders", "orders"));
    let first = bed.status("orders", "building");
    bed.run_pods(&format!("orders-{first}"));
    bed.until("contextview", "orders", "Available");

    bed.apply(&filtered("orders", "orders", "event.open"));
    let message = bed.until("contextview", "orders", "RebuildIncomplete");
    assert!(
        message.contains("compacted")
            && message.contains("rebuild to Always")
            && message.contains(&first),
        "{message}"
    );
    let object = bed.get("contextview", "orders").unwrap();
    assert_eq!(object["status"]["generation"], json!(first));
    assert_eq!(object["status"]["building"], Value::Null);
    assert!(bed.get("statefulset", &format!("orders-{first}")).is_some());

    let mut forced = filtered("orders", "orders", "event.open");
    forced["spec"]["rebuild"] = json!("Always");
    bed.apply(&forced);
    bed.until("contextview", "orders", "BuildingGeneration");
    let second = bed.status("orders", "building");
    bed.run_pods(&format!("orders-{second}"));
    bed.until("contextview", "orders", "Available");
    assert_eq!(bed.status("orders", "generation"), second);
    bed.stop(operator);
}

#[test]
fn a_source_that_grows_gives_its_views_an_input_log_of_their_own() {
    let bed = Bed::start("grows");
    let operator = bed.operator();
    bed.cluster(bed.kafka.bootstrap());
    bed.apply(&source("orders"));
    bed.apply(&view("orders", "orders"));
    let first = bed.status("orders", "building");
    bed.run_pods(&format!("orders-{first}"));
    bed.until("contextview", "orders", "Available");
    let partitions = |topic: &str| {
        let found = bed.admin().describe(&[topic]).unwrap().remove(0).unwrap();
        found.map(|topic| topic.partitions)
    };
    assert_eq!(partitions(&bed.state_topic("orders", &first)), Some(2));

    bed.apply(&resource(
        "EventSource",
        "orders",
        json!({"topic": {"partitions": 5}}),
    ));
    let message = bed.until("contextview", "orders", "BuildingGeneration");
    assert!(message.contains("more partitions"), "{message}");
    let second = bed.status("orders", "building");
    let state = bed.state_topic("orders", &second);
    bed.eventually("the new topics are there", || {
        partitions(&state) == Some(5) && partitions(&format!("{state}-in")) == Some(5)
    });
    // What is read is folded as it was, from the partitions that it knows.
    assert_eq!(partitions(&bed.state_topic("orders", &first)), Some(2));
    bed.run_pods(&format!("orders-{second}"));
    bed.until("contextview", "orders", "Available");

    // Once is enough: an input log takes new partitions in as it is.
    bed.apply(&resource(
        "EventSource",
        "orders",
        json!({"topic": {"partitions": 7}}),
    ));
    bed.eventually("it has grown again", || {
        let status = bed.get("eventsource", "orders").unwrap()["status"].clone();
        status["partitions"] == json!(7) && status["initialPartitions"] == json!(2)
    });
    bed.until("contextview", "orders", "Available");
    assert_eq!(bed.status("orders", "generation"), second);
    assert_eq!(partitions(&format!("{state}-in")), Some(5));
    bed.stop(operator);
}

#[test]
fn semantics_23_deletion_takes_the_topics_of_all_generations() {
    let bed = Bed::start("all-go");
    let operator = bed.operator();
    bed.cluster(bed.kafka.bootstrap());
    bed.apply(&source("orders"));
    let deleted = |filter: &str| {
        let mut view = filtered("orders", "orders", filter);
        view["spec"]["deletionPolicy"] = json!("Delete");
        view
    };
    bed.apply(&deleted("event.open"));
    let first = bed.status("orders", "building");
    bed.run_pods(&format!("orders-{first}"));
    bed.until("contextview", "orders", "Available");
    bed.apply(&deleted("event.paid"));
    bed.until("contextview", "orders", "BuildingGeneration");
    let second = bed.status("orders", "building");
    let topics = [
        bed.state_topic("orders", &first),
        bed.state_topic("orders", &second),
        format!("{}.view.orders.dead", bed.namespace),
    ];
    bed.eventually("the second is there", || {
        topics.iter().all(|topic| bed.topic_exists(topic))
    });
    bed.eventually("the record of it is there", || {
        let topics = bed.get("contextview", "orders").unwrap()["status"]["topics"].to_string();
        topics.contains(&second)
    });
    bed.delete("contextview", "orders");
    bed.eventually("all are gone", || {
        !topics.iter().any(|topic| bed.topic_exists(topic))
    });
    bed.stop(operator);
}

/// A stage's process, in this one: with the configuration that the operator wrote for it.
struct Pod {
    handle: Handle,
    shutdown: CancellationToken,
}

impl Pod {
    fn start(bed: &Bed, log: &Arc<dyn Log>, set: &str) -> Self {
        bed.eventually(&format!("{set} has a configuration"), || {
            bed.get("statefulset", set).is_some()
        });
        let map = bed.get("configmap", set).unwrap();
        let config: config::Stage =
            serde_json::from_str(map["data"]["stage.json"].as_str().unwrap()).unwrap();
        let services = Services::new(Arc::clone(log));
        let shutdown = services.shutdown.clone();
        let _inside = bed.runtime.enter();
        Self {
            handle: stage::start(config, 0, services).unwrap(),
            shutdown,
        }
    }

    /// What the kubelet does for a pod that says it is ready.
    fn ready(&self, bed: &Bed, set: &str) {
        bed.eventually(&format!("{set} is ready"), || self.handle.is_ready());
        bed.run_pods(set);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Writes to keys, round and round, until told to stop; gives the last value of each that was acknowledged.
fn load(log: &dyn Log, topic: &str, stop: &AtomicBool) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        // A new writer knows the topic's partitions as they are.
        let mut writer = log.writer().unwrap();
        for _ in 0..5 {
            let mut records = Vec::new();
            for key in 0..40 {
                count += 1;
                last.insert(format!("k{key}"), count);
                records.push(NewRecord {
                    topic: topic.to_owned(),
                    partition: None,
                    key: Some(format!("k{key}").into_bytes()),
                    value: Some(json!({"n": count}).to_string().into_bytes()),
                    headers: Vec::new(),
                    timestamp: None,
                });
            }
            writer.write(&records).unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    last
}

/// What a state topic says now: rows by key, with the partitions that each key is in.
fn rows(log: &dyn Log, topic: &str) -> BTreeMap<String, BTreeMap<i32, u64>> {
    let count = log.topics(&[topic.to_owned()]).unwrap()[0]
        .as_ref()
        .unwrap()
        .partitions;
    let all: Vec<TopicPartition> = (0..count)
        .map(|partition| TopicPartition::new(topic, partition))
        .collect();
    let ends = log.ends(&all).unwrap();
    let mut reader = log.reader(Isolation::ReadCommitted).unwrap();
    let starts: Vec<_> = all
        .iter()
        .map(|partition| (partition.clone(), Start::Earliest))
        .collect();
    reader.assign(&starts).unwrap();
    let mut rows: BTreeMap<String, BTreeMap<i32, u64>> = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    while !all
        .iter()
        .zip(&ends)
        .all(|(partition, end)| *end == 0 || reader.position(partition) >= Some(*end))
    {
        assert!(Instant::now() < deadline, "{topic} cannot be read");
        reader
            .poll(Duration::from_millis(100), &mut |record| {
                let key = record.key.unwrap();
                if key.first() == Some(&0) {
                    return;
                }
                let row = rows
                    .entry(String::from_utf8(key.to_vec()).unwrap())
                    .or_default();
                match record.value {
                    Some(value) => {
                        let value: Value = serde_json::from_slice(value).unwrap();
                        row.insert(record.partition, value["n"].as_u64().unwrap());
                    }
                    None => {
                        row.remove(&record.partition);
                    }
                }
            })
            .unwrap();
    }
    rows
}

#[test]
fn each_key_has_its_newest_value_after_its_source_grew_under_load() {
    let bed = Bed::start("load");
    let operator = bed.operator();
    bed.cluster(bed.kafka.bootstrap());
    bed.apply(&source("orders"));
    bed.apply(&view("orders", "orders"));
    let kafka = config::Kafka {
        bootstrap_servers: vec![bed.kafka.bootstrap().to_owned()],
        ..config::Kafka::default()
    };
    let log: Arc<dyn Log> =
        Arc::new(headwater_runtime::log::kafka::Kafka::open(&kafka, "operator-tests").unwrap());
    let topic = format!("{}.orders", bed.namespace);
    let first = format!("orders-{}", bed.status("orders", "building"));
    let old = Pod::start(&bed, &log, &first);
    let stop = Arc::new(AtomicBool::new(false));
    let writing = {
        let (log, topic, stop) = (Arc::clone(&log), topic.clone(), Arc::clone(&stop));
        std::thread::spawn(move || load(&*log, &topic, &stop))
    };
    old.ready(&bed, &first);
    bed.until("contextview", "orders", "Available");

    bed.apply(&resource(
        "EventSource",
        "orders",
        json!({"topic": {"partitions": 5}}),
    ));
    bed.until("contextview", "orders", "BuildingGeneration");
    let generation = bed.status("orders", "building");
    let second = format!("orders-{generation}");
    let new = Pod::start(&bed, &log, &second);
    new.ready(&bed, &second);
    bed.until("contextview", "orders", "Available");
    drop(old);
    let late: Vec<TopicPartition> = (2..5)
        .map(|partition| TopicPartition::new(topic.as_str(), partition))
        .collect();
    bed.eventually("keys have moved to each new partition", || {
        log.ends(&late).unwrap().iter().all(|end| *end > 0)
    });
    stop.store(true, Ordering::Relaxed);
    let expected: BTreeMap<String, u64> = writing.join().unwrap();
    let state = bed.state_topic("orders", &generation);
    let newest = || {
        let rows = rows(&*log, &state);
        rows.iter().all(|(_, row)| row.len() == 1)
            && rows
                .into_iter()
                .map(|(key, row)| (key, *row.values().next().unwrap()))
                .collect::<BTreeMap<_, _>>()
                == expected
    };
    bed.eventually("each key stands once, with its newest value", newest);
    drop(new);
    bed.stop(operator);
}
