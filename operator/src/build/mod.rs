//! The Kubernetes objects of a stage, as JSON for server-side apply. Pure: a stage, its owner and settings in, objects out.
//!
//! Every object is named after the stage (`<name>-<generation>` of a view, `<name>-agent`) and has one controlling owner,
//! the resource; the Service of what a view serves is `<name>-view`, whichever generation is read. A pod gets no token of Kubernetes, runs under Pod Security's `restricted` profile with a
//! read-only root, and sees of each Secret only the keys that it uses, as files.

mod pod;
mod workload;

use crate::plan::{Stage, generation::hash};
use headwater_engine::config;
use headwater_engine::names::Owner;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ApiResource;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Annotation: hash of what was last applied, to see a change of what is wanted.
pub(crate) const APPLIED: &str = "headwater.dev/applied";
/// Annotation of pods: hash of the configuration and of which versions of Secrets it is for; a change rolls the pods.
pub(crate) const CONFIGURATION: &str = "headwater.dev/configuration";
/// Annotation of StatefulSets: which generations of views the pods read, as a JSON object by view.
pub(crate) const READS: &str = "headwater.dev/reads";
/// Label of a view's stage: its generation.
const GENERATION: &str = "headwater.dev/generation";
const COMPONENT: &str = "app.kubernetes.io/component";
const INSTANCE: &str = "app.kubernetes.io/instance";
/// Selects all objects that the operator made.
pub(crate) const MANAGED: &str = "app.kubernetes.io/managed-by=headwater";
/// The one file of a stage's configuration, and key of its ConfigMap.
pub(crate) const STAGE_FILE: &str = "stage.json";
/// Where a stage reads its configuration, and below which its Secrets are.
const ROOT: &str = "/etc/headwater";
/// Every stage's port: health, metrics, status.
const PORT: i32 = 8080;
/// Where a view's rows are served, if they are.
const ROWS_PORT: i32 = 8081;

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
        ("app.kubernetes.io/name", Some("headwater-stage".to_owned())),
        (COMPONENT, Some(stage.kind.to_string())),
        (INSTANCE, Some(stage.name.clone())),
        (GENERATION, stage.generation.clone()),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .collect()
}

fn label<'a>(set: &'a StatefulSet, key: &str) -> Option<&'a str> {
    set.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// The generation of the view's stage that a StatefulSet is.
pub(crate) fn generation_of(set: &StatefulSet) -> Option<&str> {
    label(set, GENERATION)
}

/// The kind of resource that a StatefulSet is the stage of.
pub(crate) fn owner_of(set: &StatefulSet) -> Option<Owner> {
    let component = label(set, COMPONENT)?;
    [Owner::View, Owner::Agent]
        .into_iter()
        .find(|owner| owner.to_string() == component)
}

/// The name of the resource that a StatefulSet is the stage of.
pub(crate) fn instance_of(set: &StatefulSet) -> Option<&str> {
    label(set, INSTANCE)
}

/// Which generations of views the pods of a StatefulSet read, by view.
pub(crate) fn reads_of(set: &StatefulSet) -> Option<BTreeMap<String, String>> {
    let reads = set.metadata.annotations.as_ref()?.get(READS)?;
    serde_json::from_str(reads).ok()
}

/// The selector of a view's generation, as kubectl wants it.
pub(crate) fn selector_of_view(view: &str, generation: &str) -> String {
    format!("{INSTANCE}={view},{GENERATION}={generation}")
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
    let configuration = hash(&(without_shares(&stage.config), used));
    kinds()
        .into_iter()
        .filter_map(|resource| {
            let body = match resource.kind.as_str() {
                "ServiceAccount" => json!({"automountServiceAccountToken": false}),
                // A string of JSON, not an object: a ConfigMap holds texts.
                "ConfigMap" => json!({"data": {STAGE_FILE: workload::configuration(stage)}}),
                "Service" => workload::service(stage),
                "NetworkPolicy" if settings.network_policies => workload::network_policy(stage),
                "StatefulSet" => workload::stateful_set(stage, settings, &configuration),
                _ => return None,
            };
            Some(desired(resource, stage, owner, body))
        })
        .collect()
}

/// What pods have to be made anew for: a share of a model's limits goes by how many there are, and is read again by those that run.
fn without_shares(config: &config::Stage) -> config::Stage {
    let mut config = config.clone();
    if let config::Role::Agent(agent) = &mut config.role {
        **agent = agent.without_shares();
    }
    config
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
    if resource.kind == "StatefulSet" {
        // Maps of texts always become JSON.
        let reads = serde_json::to_string(&stage.reads()).unwrap_or_default();
        object["metadata"]["annotations"] = json!({READS: reads});
    }
    finish(resource, stage.workload(), object)
}

/// Adds the hash of what is wanted.
fn finish(resource: ApiResource, name: String, mut object: Value) -> Desired {
    let hash = hash(&object);
    object["metadata"]["annotations"][APPLIED] = json!(hash);
    Desired {
        resource,
        name,
        object,
        hash,
    }
}

/// Name of the Service that serves a view's rows.
pub(crate) fn serving_name(view: &str) -> String {
    format!("{view}-view")
}

/// Whether a stage serves rows.
fn serves(stage: &Stage) -> bool {
    let own = stage.config.views.get(&stage.name);
    stage.kind == Owner::View && own.is_some_and(|view| view.serve.is_some())
}

/// The kind of [`serving`].
pub(crate) fn serving_kind() -> ApiResource {
    let [_, _, service, _, _] = kinds();
    service
}

/// The Service that serves a view's rows, from the pods of the generation that is read; `None` where the view serves none.
pub(crate) fn serving(stage: &Stage, owner: &OwnerReference) -> Option<Desired> {
    if !serves(stage) {
        return None;
    }
    let mut labels = selector(stage);
    labels.remove(GENERATION);
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        "headwater".to_owned(),
    );
    let resource = serving_kind();
    let object = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": serving_name(&stage.name),
            "namespace": stage.config.namespace,
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {
            "type": "ClusterIP",
            "selector": selector(stage),
            "ports": [{"name": "http", "port": PORT, "targetPort": "rows", "protocol": "TCP"}],
        },
    });
    Some(finish(resource, serving_name(&stage.name), object))
}

#[cfg(test)]
mod tests;
