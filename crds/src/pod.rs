//! What a resource may say about its pods: an allow-list, never a whole pod template.
//!
//! Image, command, identity, volumes and security context stay with the operator, so that whoever may write a view or an agent cannot
//! run something else with them.

use crate::{common::SecretRef, limits, schema};
use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::api::resource::Quantity};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Settings of the stage's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pod {
    /// CPU and memory of the stage's container. Default: requests of 100m and 128Mi, a limit of 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Labels that a node must have, e.g. `{kubernetes.io/arch: amd64}`.
    #[schemars(schema_with = "schema::texts")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[schemars(schema_with = "schema::tolerations")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Annotations of the pods. The operator refuses keys that its chart does not list in `pods.allowedAnnotations`.
    #[schemars(schema_with = "schema::texts")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = (
        "self.all(k, !k.contains('headwater.dev/'))",
        "keys of headwater.dev are Headwater's own; use a prefix of yours, e.g. example.com/team",
    ))]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the pods. The operator refuses keys that its chart does not list in `pods.allowedLabels`.
    #[schemars(schema_with = "schema::texts")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = (
        "self.all(k, !k.contains('headwater.dev/') && !k.startsWith('app.kubernetes.io/'))",
        "keys of headwater.dev and app.kubernetes.io are Headwater's own, its selectors use them; use a prefix of yours, e.g. example.com/team",
    ))]
    pub labels: BTreeMap<String, String>,
    /// Secrets with the credentials of image registries.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Vec<SecretRef>,
    /// PriorityClass of the pods; none of Kubernetes' own `system-` classes.
    #[schemars(length(min = 1, max = limits::SECRET_NAME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = (
        "!self.startsWith('system-')",
        "the system- classes are for Kubernetes itself; name a PriorityClass of your own",
    ))]
    pub priority_class_name: Option<String>,
}

/// CPU and memory, as in a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler sets aside, e.g. `{cpu: 500m, memory: 256Mi}`.
    #[schemars(schema_with = "schema::quantities")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Quantity>,
    /// What the container gets at most, e.g. `{memory: 1Gi}`. A stage stops its intake near its memory limit.
    #[schemars(schema_with = "schema::quantities")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Quantity>,
}
