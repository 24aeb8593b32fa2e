//! ConfigMap content, Service, NetworkPolicy and StatefulSet of a stage.

use super::{CONFIGURATION, PORT, Settings, pod, selector, serves};
use crate::plan::Stage;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Seconds that a stage has to finish what is in flight, commit and leave its groups.
const GRACE_SECONDS: i64 = 30;

/// What is mounted as `stage.json`.
pub(super) fn configuration(stage: &Stage) -> String {
    // Configurations are plain data: texts, numbers, lists and maps keyed by text always become JSON.
    serde_json::to_string_pretty(&stage.config).unwrap_or_default()
}

/// Headless: a name for each pod, known before the pod is ready.
pub(super) fn service(stage: &Stage) -> Value {
    json!({"spec": {
        "clusterIP": "None",
        "publishNotReadyAddresses": true,
        "selector": selector(stage),
        "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
    }})
}

/// Nothing but the stage's ports is reachable. What it may reach is not said here: Kafka and models are anywhere.
pub(super) fn network_policy(stage: &Stage) -> Value {
    let mut ports = vec![json!({"port": "http", "protocol": "TCP"})];
    if serves(stage) {
        ports.push(json!({"port": "rows", "protocol": "TCP"}));
    }
    json!({"spec": {
        "podSelector": {"matchLabels": selector(stage)},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": ports}],
    }})
}

pub(super) fn stateful_set(stage: &Stage, settings: &Settings, configuration: &str) -> Value {
    let mut labels: BTreeMap<String, String> = stage.pod.labels.clone();
    labels.extend(selector(stage));
    let mut annotations: BTreeMap<String, String> = stage.pod.annotations.clone();
    annotations.insert(CONFIGURATION.to_owned(), configuration.to_owned());
    json!({"spec": {
        "replicas": stage.replicas,
        "serviceName": stage.workload(),
        // Replicas share the work and need no order among them; a pod that cannot start must not keep
        // a mended configuration from being rolled out.
        "podManagementPolicy": "Parallel",
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector(stage)},
        "template": {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": pod::spec(stage, settings, GRACE_SECONDS),
        },
    }})
}
