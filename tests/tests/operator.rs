//! The operator against a real API server and a real Kafka: what it makes, what it says, what it leaves alone.
//!
//! Each test has a namespace and an operator of its own, which watches only that. Pods need not run for it, so nothing here waits for one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use headwater_kafka::Settings;
use headwater_kafka::admin::Admin;
use headwater_operator::{Options, run_with};
use headwater_testbed::{ControlPlane, Kafka};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

struct Bed {
    control_plane: &'static ControlPlane,
    kafka: Kafka,
    namespace: String,
    runtime: Runtime,
}

impl Bed {
    fn start(test: &str) -> Self {
        let bed = Self {
            control_plane: definitions(),
            kafka: headwater_testbed::kafka().unwrap(),
            namespace: format!("operator-{test}-{}", std::process::id()),
            runtime: Runtime::new().unwrap(),
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

    fn topic_exists(&self, topic: &str) -> bool {
        let settings = Settings {
            bootstrap_servers: vec![self.kafka.bootstrap().to_owned()],
            client_id: "operator-tests".to_owned(),
            ..Settings::default()
        };
        let admin = Admin::new(&settings, PATIENCE).unwrap();
        let found = admin.describe(&[topic]).unwrap().remove(0).unwrap();
        found.is_some()
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

/// The control plane, with the definitions installed.
fn definitions() -> &'static ControlPlane {
    static INSTALLED: OnceLock<ControlPlane> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let control_plane = headwater_testbed::control_plane().unwrap();
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/headwater-crds");
        let mut install = control_plane.helm().unwrap();
        install.args([
            "upgrade",
            "--install",
            "headwater-crds",
            "--namespace",
            "default",
            chart,
        ]);
        succeed(install, "");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/yaml");
        let mut wait = control_plane.kubectl();
        wait.args([
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "-f",
            folder,
        ]);
        succeed(wait, "");
        control_plane
    })
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

fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "headwater.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name}, "spec": spec,
    })
}

fn source(name: &str) -> Value {
    resource("EventSource", name, json!({}))
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
    let set = bed.get("statefulset", "orders-view").unwrap();
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
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "orders-view"}, "data": {"mine": "yes"},
    });
    bed.apply(&theirs);
    bed.apply(&source("orders"));
    bed.apply(&view("orders", "orders"));
    let message = bed.until("contextview", "orders", "NameTaken");
    assert!(message.contains("ConfigMap 'orders-view'"), "{message}");
    assert_eq!(
        bed.get("configmap", "orders-view").unwrap()["data"]["mine"],
        "yes"
    );
    bed.delete("configmap", "orders-view");
    bed.until("contextview", "orders", "RollingOut");
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
