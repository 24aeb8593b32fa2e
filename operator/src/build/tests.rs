use super::*;
use crate::resources::{Object, Resources};
use crate::validate::{self, validate};
use std::sync::Arc;

fn stages() -> Vec<Stage> {
    let resource = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
    let mut resources = Resources::new("shop");
    let of = |kind: &str, name: &str, spec: &str| {
        let mut object = json!({"apiVersion": "headwater.dev/v1alpha1", "kind": kind, "metadata": {"name": name}});
        object["spec"] = resource(spec);
        object
    };
    let cluster = of(
        "KafkaCluster",
        "default",
        "{bootstrapServers: [k:9092], sasl: {username: u, passwordSecretKeyRef: {name: kafka, key: password}}}",
    );
    resources.add(Object::KafkaCluster(Arc::new(
        serde_json::from_value(cluster).unwrap(),
    )));
    let source = of("EventSource", "orders", "{}");
    resources.add(Object::EventSource(Arc::new(
        serde_json::from_value(source).unwrap(),
    )));
    let view = of(
        "ContextView",
        "orders",
        "{from: [{name: all, sourceRef: {name: orders}}], replicas: 2, pod: {nodeSelector: {disk: fast}, tolerations: [{key: a, operator: Exists}], imagePullSecrets: [{name: registry}], priorityClassName: batch, annotations: {example.com/team: x}, labels: {team: y}, resources: {requests: {memory: 1Gi}}}}",
    );
    resources.add(Object::ContextView(Arc::new(
        serde_json::from_value(view).unwrap(),
    )));
    let agent = of(
        "Agent",
        "helper",
        "{trigger: {sourceRef: {name: orders}}, prompt: {user: hi}}",
    );
    resources.add(Object::Agent(Arc::new(
        serde_json::from_value(agent).unwrap(),
    )));
    let validation = validate(&resources, &validate::Settings::default());
    assert!(validation.is_ok(), "{:?}", validation.findings());
    crate::plan::plan(&validation, &crate::plan::Options::default()).stages
}

fn settings() -> Settings {
    Settings {
        image: "headwater:1".into(),
        image_pull_policy: "IfNotPresent".into(),
        log: "info".into(),
        network_policies: true,
    }
}

fn owner() -> OwnerReference {
    OwnerReference {
        api_version: "headwater.dev/v1alpha1".into(),
        kind: "ContextView".into(),
        name: "orders".into(),
        uid: "u1".into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn secrets(version: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("kafka".to_owned(), format!("uid/{version}"))])
}

fn made(
    stage: &Stage,
    settings: &Settings,
    secrets: &BTreeMap<String, String>,
) -> BTreeMap<String, Desired> {
    objects(stage, &owner(), settings, secrets)
        .into_iter()
        .map(|desired| (desired.resource.kind.clone(), desired))
        .collect()
}

#[test]
fn objects_of_a_view_with_every_pod_setting() {
    let stages = stages();
    let objects: Vec<Value> = objects(&stages[0], &owner(), &settings(), &secrets("1"))
        .into_iter()
        .map(|desired| desired.object)
        .collect();
    insta::assert_json_snapshot!(objects);
}

#[test]
fn stateful_set_of_an_agent_by_default() {
    let stages = stages();
    insta::assert_json_snapshot!(
        made(&stages[1], &settings(), &secrets("1"))["StatefulSet"].object
    );
}

#[test]
fn a_new_version_of_a_secret_rolls_the_pods_and_nothing_else() {
    let stages = stages();
    let (before, after) = (
        made(&stages[1], &settings(), &secrets("1")),
        made(&stages[1], &settings(), &secrets("2")),
    );
    for (kind, object) in &before {
        assert_eq!(
            object.hash == after[kind].hash,
            kind != "StatefulSet",
            "{kind}"
        );
    }
    let annotation = |made: &BTreeMap<String, Desired>| {
        made["StatefulSet"].object["spec"]["template"]["metadata"]["annotations"][CONFIGURATION]
            .clone()
    };
    assert_ne!(annotation(&before), annotation(&after));
}

#[test]
fn another_share_of_a_models_limits_rolls_nothing() {
    let with = |requests| {
        let mut stage = stages().remove(1);
        let config::Role::Agent(agent) = &mut stage.config.role else {
            panic!("no agent")
        };
        let model = json!({
            "name": "chat", "provider": {"scripted": {"rules": []}}, "model": "m", "parameters": {},
            "contextWindowTokens": 1_000, "maxOutputTokens": 10, "requestTimeoutMs": 1_000,
            "retry": {"maxAttempts": 1, "initialBackoffMs": 1, "maxBackoffMs": 1},
            "limits": {"requestsPerMinute": requests},
        });
        agent.model = Some(serde_json::from_value(model).unwrap());
        made(&stage, &settings(), &secrets("1"))
    };
    let (before, after) = (with(10.0), with(20.0));
    for (kind, object) in &before {
        assert_eq!(
            object.hash == after[kind].hash,
            kind != "ConfigMap",
            "{kind}"
        );
    }
}

#[test]
fn a_secret_of_others_rolls_nothing() {
    let stages = stages();
    let mut more = secrets("1");
    more.insert("model".into(), "uid/9".into());
    assert_eq!(
        made(&stages[1], &settings(), &secrets("1")),
        made(&stages[1], &settings(), &more)
    );
}

#[test]
fn network_policies_are_made_if_asked_for() {
    let stages = stages();
    let without = made(
        &stages[1],
        &Settings {
            network_policies: false,
            ..settings()
        },
        &secrets("1"),
    );
    assert!(!without.contains_key("NetworkPolicy"));
    assert_eq!(without.len(), 4);
}

#[test]
fn rows_are_served_by_the_pods_of_the_generation_that_is_read() {
    let mut stage = stages().remove(0);
    assert!(serving(&stage, &owner()).is_none());
    let plain = made(&stage, &settings(), &secrets("1"));
    assert!(!plain["StatefulSet"].object.to_string().contains("8081"));
    let view = stage.config.views.get_mut("orders").unwrap();
    view.serve = Some(config::Serve {
        path: "/orders".into(),
        token_file: Some("/etc/headwater/secrets/readers/token".into()),
    });
    let generation = view.generation.clone();
    let service = serving(&stage, &owner()).unwrap();
    assert_eq!(service.name, "orders-view");
    let spec = &service.object["spec"];
    assert_eq!(spec["selector"]["headwater.dev/generation"], generation);
    assert_eq!(
        spec["ports"][0],
        json!({"name": "http", "port": 8080, "targetPort": "rows", "protocol": "TCP"})
    );
    assert!(service.object["metadata"]["labels"]["headwater.dev/generation"].is_null());
    let served = made(&stage, &settings(), &secrets("1"));
    let ports = &served["StatefulSet"].object["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports[1]["name"], "rows");
    let policy = &served["NetworkPolicy"].object["spec"]["ingress"][0]["ports"];
    assert_eq!(policy[1]["port"], "rows");
}

#[test]
fn names_of_the_longest_views_fit() {
    let mut stage = stages().remove(0);
    stage.name = "v".repeat(45);
    assert_eq!(stage.workload().len(), 52);
}
