//! The pod of a stage: security context, volumes, probes, resources, and what the resource may say of it.

use super::{PORT, ROOT, ROWS_PORT, Settings, selector, serves};
use crate::plan::Stage;
use headwater_crds::pod::Resources;
use serde_json::{Map, Value, json};

/// User and group of the image.
const USER: i64 = 65_532;

pub(super) fn spec(stage: &Stage, settings: &Settings, grace_seconds: i64) -> Value {
    let mut spec = json!({
        "serviceAccountName": stage.workload(),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(stage, settings)],
        "volumes": [volume(stage)],
    });
    if let Some(spec) = spec.as_object_mut() {
        extras(spec, stage);
    }
    spec
}

fn container(stage: &Stage, settings: &Settings) -> Value {
    let mut ports = vec![json!({"name": "http", "containerPort": PORT, "protocol": "TCP"})];
    if serves(stage) {
        ports.push(json!({"name": "rows", "containerPort": ROWS_PORT, "protocol": "TCP"}));
    }
    json!({
        "name": "stage",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": [stage.kind.to_string(), "--config", format!("{ROOT}/stage.json")],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
            {"name": "HEADWATER_LOG", "value": settings.log},
            // The client's threads would each take an arena of their own.
            {"name": "MALLOC_ARENA_MAX", "value": "2"},
        ],
        "ports": ports,
        "livenessProbe": probe("/healthz", 10, 6),
        "readinessProbe": probe("/readyz", 2, 3),
        "resources": resources(stage.pod.resources.as_ref()),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "configuration", "mountPath": ROOT, "readOnly": true}],
    })
}

fn probe(path: &str, period_seconds: i32, failures: i32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "http", "scheme": "HTTP"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    })
}

/// Configuration and Secrets in one volume, so that they change together.
fn volume(stage: &Stage) -> Value {
    let mut sources = vec![json!({"configMap": {
        "name": stage.workload(),
        "items": [{"key": "stage.json", "path": "stage.json"}],
    }})];
    sources.extend(stage.secrets.iter().map(|(secret, keys)| {
        let items: Vec<Value> = keys
            .iter()
            .map(|key| json!({"key": key, "path": format!("secrets/{secret}/{key}")}))
            .collect();
        json!({"secret": {"name": secret, "items": items}})
    }));
    json!({"name": "configuration", "projected": {"defaultMode": 0o440, "sources": sources}})
}

/// What is given counts whole; a memory limit there always is, so that one stage cannot take a node down.
fn resources(given: Option<&Resources>) -> Value {
    let Some(given) = given else {
        return json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}});
    };
    let mut limits = Map::new();
    for (name, quantity) in &given.limits {
        limits.insert(name.clone(), json!(quantity));
    }
    limits.entry("memory").or_insert_with(|| {
        given
            .requests
            .get("memory")
            .map_or_else(|| json!("512Mi"), |memory| json!(memory))
    });
    let mut resources = json!({"limits": limits});
    if !given.requests.is_empty() {
        resources["requests"] = json!(given.requests);
    }
    resources
}

/// Fields that are there only where somebody says something: an empty one would be dropped by the API
/// server, and seem to differ for ever.
fn extras(spec: &mut Map<String, Value>, stage: &Stage) {
    let pod = &stage.pod;
    if !pod.node_selector.is_empty() {
        spec.insert("nodeSelector".into(), json!(pod.node_selector));
    }
    if !pod.tolerations.is_empty() {
        spec.insert("tolerations".into(), json!(pod.tolerations));
    }
    if !pod.image_pull_secrets.is_empty() {
        spec.insert("imagePullSecrets".into(), json!(pod.image_pull_secrets));
    }
    if let Some(class) = &pod.priority_class_name {
        spec.insert("priorityClassName".into(), json!(class));
    }
    if stage.replicas > 1 {
        spec.insert(
            "topologySpreadConstraints".into(),
            json!([{
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(stage)},
            }]),
        );
    }
}
