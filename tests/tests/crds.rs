//! What the API server takes and what it refuses: a table of resources in `tests/crds`, applied to a real one.
//!
//! - `good/*.yaml` are created and read back; with defaults they must be what `read-back/` holds, and what the Rust types make of them.
//!   `UPDATE_READ_BACK=1` writes `read-back/` anew.
//! - `bad/*.yaml` are refused, with the words that each document's first line quotes: what a user sees from `kubectl apply`.
//! - `changes/*.yaml` are resources and what may become of them, for rules that compare with what was.
//!
//! The definitions are installed from the chart, as users do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use definitions::definitions;
use headwater_crds::{
    AgentSpec, ContextViewSpec, EventSourceSpec, KafkaClusterSpec, ModelSpec, ToolServerSpec,
};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::discovery::ApiResource;
use kube::{Client, Config, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "support/definitions.rs"]
mod definitions;

const KINDS: [(&str, &str); 6] = [
    ("KafkaCluster", "kafkaclusters"),
    ("Model", "models"),
    ("EventSource", "eventsources"),
    ("ContextView", "contextviews"),
    ("ToolServer", "toolservers"),
    ("Agent", "agents"),
];

/// A namespace of this test's own on a server that has the definitions.
struct Server {
    control_plane: headwater_testbed::ControlPlane,
    client: Client,
    namespace: String,
}

impl Server {
    async fn start(test: &str) -> Self {
        let control_plane = definitions().clone();
        let kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        let client = Client::try_from(config).unwrap();
        let namespace = format!("crds-{test}-{}", std::process::id());
        run(control_plane
            .kubectl()
            .args(["create", "namespace", &namespace]));
        Self {
            control_plane,
            client,
            namespace,
        }
    }

    fn api(&self, kind: &str) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: headwater_crds::GROUP.into(),
            version: headwater_crds::VERSION.into(),
            api_version: format!("{}/{}", headwater_crds::GROUP, headwater_crds::VERSION),
            kind: kind.into(),
            plural: plural(kind).into(),
        };
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// As kubectl does it: unknown and duplicate fields are errors.
    async fn create(&self, object: &Value) -> Result<DynamicObject, String> {
        let path = format!(
            "/apis/{}/{}/namespaces/{}/{}",
            headwater_crds::GROUP,
            headwater_crds::VERSION,
            self.namespace,
            plural(text(&object["kind"]))
        );
        let mut request = Request::new(path)
            .create(&PostParams::default(), serde_json::to_vec(object).unwrap())
            .unwrap();
        let strict = format!("{}&fieldValidation=Strict", request.uri());
        *request.uri_mut() = strict.parse().unwrap();
        answer(self.client.request(request).await)
    }

    /// Replaces the resource's spec.
    async fn replace(&self, object: &Value) -> Result<DynamicObject, String> {
        let api = self.api(text(&object["kind"]));
        let name = text(&object["metadata"]["name"]);
        let mut next = api.get(name).await.unwrap();
        next.data["spec"] = object["spec"].clone();
        answer(api.replace(name, &PostParams::default(), &next).await)
    }

    async fn delete(&self, object: &Value) {
        self.api(text(&object["kind"]))
            .delete(text(&object["metadata"]["name"]), &DeleteParams::default())
            .await
            .unwrap();
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = self.control_plane.kubectl();
        command
            .args(["--namespace", &self.namespace])
            .args(arguments);
        run(&mut command)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut command = self.control_plane.kubectl();
        command.args(["delete", "namespace", &self.namespace, "--wait=false"]);
        // What is left of a namespace disturbs nobody: names are of this process.
        let _ = command.output();
    }
}

fn table(directory: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("crds")
        .join(directory)
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn answer(result: Result<DynamicObject, kube::Error>) -> Result<DynamicObject, String> {
    match result {
        Ok(object) => Ok(object),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(other) => panic!("no answer from the API server: {other}"),
    }
}

fn plural(kind: &str) -> &'static str {
    KINDS
        .into_iter()
        .find_map(|(known, plural)| (known == kind).then_some(plural))
        .unwrap_or_else(|| panic!("{kind} is no kind of ours"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// One document of a file, with the comment on its first line.
struct Case {
    file: String,
    comment: String,
    object: Value,
}

impl Case {
    fn label(&self) -> String {
        format!("{}, {}", self.file, self.object["metadata"]["name"])
    }
}

fn cases(directory: &str) -> Vec<Case> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(table(directory))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        let contents = std::fs::read_to_string(&file).unwrap();
        for document in contents.split("\n---\n") {
            let object: Value = serde_yaml::from_str(document).unwrap();
            if object.is_null() {
                continue;
            }
            let first = document.lines().next().unwrap();
            cases.push(Case {
                file: file.file_name().unwrap().to_str().unwrap().into(),
                comment: first.strip_prefix("# ").unwrap_or_default().into(),
                object,
            });
        }
    }
    cases
}

#[tokio::test]
async fn good_resources_are_taken_and_read_back_with_their_defaults() {
    let server = Server::start("good").await;
    let update = std::env::var_os("UPDATE_READ_BACK").is_some();
    let mut problems = Vec::new();
    let mut seen = 0;
    for case in cases("good") {
        seen += 1;
        let created = match server.create(&case.object).await {
            Ok(created) => created,
            Err(message) => {
                problems.push(format!("{} is refused: {message}", case.label()));
                continue;
            }
        };
        let read = server
            .api(text(&case.object["kind"]))
            .get(&created.name_any())
            .await
            .unwrap();
        let spec = read.data["spec"].clone();
        let expected = table("read-back").join(&case.file);
        if update {
            std::fs::create_dir_all(table("read-back")).unwrap();
            std::fs::write(&expected, serde_yaml::to_string(&spec).unwrap()).unwrap();
        }
        let expected: Value = std::fs::read_to_string(&expected)
            .map(|contents| serde_yaml::from_str(&contents).unwrap())
            .unwrap_or_default();
        if spec != expected {
            problems.push(format!(
                "{} is read back as\n{}\nnot as read-back/{} says; if that is meant, run with UPDATE_READ_BACK=1",
                case.label(),
                serde_yaml::to_string(&spec).unwrap(),
                case.file
            ));
        }
        let ours = through_types(&case.object);
        if ours != spec {
            problems.push(format!(
                "{}: the types make of it\n{ours}\nbut the API server\n{spec}",
                case.label()
            ));
        }
        if read.data["status"] != json!({ "observedGeneration": -1 })
            && read.data["status"]["observedGeneration"] != json!(read.metadata.generation)
        {
            problems.push(format!(
                "{} has the status {}",
                case.label(),
                read.data["status"]
            ));
        }
        server.delete(&case.object).await;
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    assert!(seen >= 15, "only {seen} good resources");
}

/// The same resource read and written by the Rust types, whose defaults must be the schema's.
fn through_types(object: &Value) -> Value {
    fn through<Spec: DeserializeOwned + Serialize>(object: &Value) -> Value {
        let spec: Spec = serde_json::from_value(object["spec"].clone()).unwrap();
        serde_json::to_value(spec).unwrap()
    }
    match text(&object["kind"]) {
        "KafkaCluster" => through::<KafkaClusterSpec>(object),
        "Model" => through::<ModelSpec>(object),
        "EventSource" => through::<EventSourceSpec>(object),
        "ContextView" => through::<ContextViewSpec>(object),
        "ToolServer" => through::<ToolServerSpec>(object),
        "Agent" => through::<AgentSpec>(object),
        kind => panic!("{kind} is no kind of ours"),
    }
}

#[tokio::test]
async fn bad_resources_are_refused_with_what_to_do() {
    let server = Server::start("bad").await;
    let mut problems = Vec::new();
    let mut seen = 0;
    for case in cases("bad") {
        seen += 1;
        let Some(expected) = case.comment.strip_prefix("refused: ") else {
            panic!("{} has no `# refused: ...` on its first line", case.label());
        };
        match server.create(&case.object).await {
            Ok(_) => {
                problems.push(format!("{} is taken, though: {expected}", case.label()));
                server.delete(&case.object).await;
            }
            Err(message) if message.contains(expected) => {}
            Err(message) => problems.push(format!(
                "{} is refused, but instead of\n  {expected}\nwith\n  {message}",
                case.label()
            )),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    assert!(seen >= 60, "only {seen} bad resources");
}

#[tokio::test]
async fn semantics_22_what_may_not_change_does_not() {
    let server = Server::start("changes").await;
    let mut problems = Vec::new();
    for case in cases("changes") {
        let result = if case.comment == "created" {
            server.create(&case.object).await
        } else {
            server.replace(&case.object).await
        };
        let expected = case.comment.strip_prefix("refused: ");
        match (result, expected) {
            (Ok(_), None) => {}
            (Err(message), Some(expected)) if message.contains(expected) => {}
            (Ok(_), Some(expected)) => problems.push(format!(
                "{} is taken as {}, though: {expected}",
                case.label(),
                case.object["spec"]
            )),
            (Err(message), expected) => problems.push(format!(
                "{} as {}: expected {expected:?}, but {message}",
                case.label(),
                case.object["spec"]
            )),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
}

#[tokio::test]
async fn kubectl_tells_at_a_glance_and_scales() {
    let server = Server::start("glance").await;
    let case = cases("good")
        .into_iter()
        .find(|case| case.file == "agent-by-view.yaml")
        .unwrap();
    server.create(&case.object).await.unwrap();
    let name = text(&case.object["metadata"]["name"]);
    let status = json!({ "status": {
        "observedGeneration": 1,
        "replicas": 2,
        "selector": "app=agent",
        "conditions": [{
            "type": "Ready", "status": "False", "reason": "SourceMissing",
            "message": "create the EventSource notices", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }],
    }});
    server
        .api("Agent")
        .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();

    let table = server.kubectl(&["get", "ag", name]);
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(
        words[..13],
        [
            "NAME",
            "READY",
            "REASON",
            "MODEL",
            "TRIGGER",
            "REPLICAS",
            "AGE",
            name,
            "False",
            "SourceMissing",
            "chat",
            "flights",
            "2"
        ],
        "{table}"
    );
    let wide = server.kubectl(&["get", "agents", name, "--output=wide"]);
    assert!(wide.contains("create the EventSource notices"), "{wide}");
    let all = server.kubectl(&["get", "headwater", "--output=name"]);
    assert!(
        all.contains(&format!("agent.headwater.dev/{name}")),
        "{all}"
    );

    server.kubectl(&["scale", &format!("agent/{name}"), "--replicas=5"]);
    let scaled = server.api("Agent").get(name).await.unwrap();
    assert_eq!(scaled.data["spec"]["replicas"], json!(5));
    let scale = server.api("Agent").get_scale(name).await.unwrap();
    let status = scale.status.unwrap();
    assert_eq!(
        (status.replicas, status.selector.as_deref()),
        (2, Some("app=agent"))
    );
}

#[tokio::test]
async fn kubectl_explains_every_kind_down_to_members_of_enums() {
    let server = Server::start("explain").await;
    for (kind, _) in KINDS {
        let explained = server.kubectl(&["explain", &format!("{}.spec", kind.to_lowercase())]);
        assert!(explained.contains("FIELDS:"), "{explained}");
    }
    let explained = server.kubectl(&["explain", "agent.spec.context.onStale"]);
    assert!(explained.contains("`Mark` (default)"), "{explained}");
}
