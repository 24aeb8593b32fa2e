//! The Kubernetes objects of a stage, as JSON for server-side apply. Pure: a stage, its owner and settings in, objects out.
//!
//! Every object is named after the stage (`<name>-view`, `<name>-agent`) and has one controlling owner, the
//! resource. A pod gets no token of Kubernetes, runs under Pod Security's `restricted` profile with a
//! read-only root, and sees of each Secret only the keys that it uses, as files.

mod pod;
mod workload;

use crate::plan::{Stage, generation::hash};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ApiResource;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Annotation: hash of what was last applied, to see a change of what is wanted.
pub(crate) const APPLIED: &str = "headwater.dev/applied";
/// Annotation of pods: hash of the configuration and of which versions of Secrets it is for; a change rolls the pods.
pub(crate) const CONFIGURATION: &str = "headwater.dev/configuration";
/// Selects all objects that the operator made.
pub(crate) const MANAGED: &str = "app.kubernetes.io/managed-by=headwater";
/// Where a stage reads its configuration, and below which its Secrets are.
const ROOT: &str = "/etc/headwater";
/// The stage's one port: health, metrics, status.
const PORT: i32 = 8080;

/// What whoever runs the operator says of stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Image of the stages' pods.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Log filter of stages.
    pub log: String,
    /// Whether a NetworkPolicy lets nothing but the stage's port in.
    pub network_policies: bool,
}

/// One object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Desired {
    pub(crate) resource: ApiResource,
    pub(crate) name: String,
    /// With apiVersion, kind, metadata and everything that the operator has to say about it.
    pub(crate) object: Value,
    /// Hash of `object`.
    pub(crate) hash: String,
}

/// The kinds of objects of a stage, in the order in which they are applied: what a pod needs comes before it.
pub(crate) fn kinds() -> [ApiResource; 5] {
    let of = |group: &str, kind: &str, plural: &str| ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: if group.is_empty() {
            "v1".to_owned()
        } else {
            format!("{group}/v1")
        },
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    [
        of("", "ServiceAccount", "serviceaccounts"),
        of("", "ConfigMap", "configmaps"),
        of("", "Service", "services"),
        of("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
        of("apps", "StatefulSet", "statefulsets"),
    ]
}

/// Labels that select a stage's pods.
pub(crate) fn selector(stage: &Stage) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "headwater-stage".to_owned()),
        ("app.kubernetes.io/component", stage.kind.to_string()),
        ("app.kubernetes.io/instance", stage.name.clone()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
}

/// The selector as the scale subresource wants it.
pub(crate) fn selector_text(stage: &Stage) -> String {
    selector(stage)
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

/// All objects of a stage. `secrets` gives the identity (uid and version, never the value) of each Secret that it uses.
pub(crate) fn objects(
    stage: &Stage,
    owner: &OwnerReference,
    settings: &Settings,
    secrets: &BTreeMap<String, String>,
) -> Vec<Desired> {
    let used: BTreeMap<&String, Option<&String>> = stage
        .secrets
        .keys()
        .map(|name| (name, secrets.get(name)))
        .collect();
    let configuration = hash(&(&stage.config, used));
    kinds()
        .into_iter()
        .filter_map(|resource| {
            let body = match resource.kind.as_str() {
                "ServiceAccount" => json!({"automountServiceAccountToken": false}),
                // A string of JSON, not an object: a ConfigMap holds texts.
                "ConfigMap" => json!({"data": {"stage.json": workload::configuration(stage)}}),
                "Service" => workload::service(stage),
                "NetworkPolicy" if settings.network_policies => workload::network_policy(stage),
                "StatefulSet" => workload::stateful_set(stage, settings, &configuration),
                _ => return None,
            };
            Some(desired(resource, stage, owner, body))
        })
        .collect()
}

fn desired(resource: ApiResource, stage: &Stage, owner: &OwnerReference, body: Value) -> Desired {
    let mut labels = selector(stage);
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        "headwater".to_owned(),
    );
    let mut object = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": stage.workload(),
            "namespace": stage.config.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
    });
    if let (Some(object), Value::Object(body)) = (object.as_object_mut(), body) {
        object.extend(body);
    }
    let hash = hash(&object);
    object["metadata"]["annotations"] = json!({APPLIED: hash});
    Desired {
        resource,
        name: stage.workload(),
        object,
        hash,
    }
}

#[cfg(test)]
mod tests;
