//! Status: the same on every kind, with what some kinds add.
//!
//! It holds nothing that changes on its own (offsets, lag, times of looking), so that an idle minute writes nothing.

use crate::{limits, schema};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Until the operator has looked: older than every real generation.
fn unobserved() -> i64 {
    -1
}

/// Types of conditions. Every kind has the first three, as kstatus names them.
pub mod condition {
    /// True when the resource does what it says.
    pub const READY: &str = "Ready";
    /// True while the operator is at work on it.
    pub const RECONCILING: &str = "Reconciling";
    /// True when a person must change something; the message says what.
    pub const STALLED: &str = "Stalled";
    /// True when it works but somebody should know something, as a credential over an unencrypted connection. Absent otherwise.
    pub const WARNING: &str = "Warning";
}

/// What every status has, for code that treats all kinds alike.
pub trait Status: Default {
    /// Generation of the resource that the status is about; -1 until the operator has looked.
    fn observed_generation(&self) -> i64;
    /// The conditions, in no order.
    fn conditions(&self) -> &[Condition];
    /// Replaces both.
    fn observe(&mut self, generation: i64, conditions: Vec<Condition>);
}

macro_rules! statuses {
    ($($status:ident { $($field:ident),* })*) => {$(
        impl Default for $status {
            fn default() -> Self {
                Self {
                    observed_generation: unobserved(),
                    conditions: Vec::new(),
                    $($field: Default::default(),)*
                }
            }
        }

        impl Status for $status {
            fn observed_generation(&self) -> i64 {
                self.observed_generation
            }

            fn conditions(&self) -> &[Condition] {
                &self.conditions
            }

            fn observe(&mut self, generation: i64, conditions: Vec<Condition>) {
                self.observed_generation = generation;
                self.conditions = conditions;
            }
        }
    )*};
}

statuses! {
    KafkaClusterStatus {}
    ModelStatus {}
    EventSourceStatus { topic, partitions, initial_partitions, topics }
    ContextViewStatus { topic, partitions, topics, generation, building, plan, replicas, ready_replicas, selector }
    ToolServerStatus { tools }
    AgentStatus { topics, plan, replicas, ready_replicas, selector }
}

/// What the operator last found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaClusterStatus {
    /// Generation of the resource that this status is about; -1 until the operator has looked.
    #[schemars(range(min = -1))]
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Ready, Reconciling and Stalled, and Warning if there is one, with a reason and a message that says what to do.
    #[schemars(schema_with = "schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What the operator last found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// Generation of the resource that this status is about; -1 until the operator has looked.
    #[schemars(range(min = -1))]
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Ready, Reconciling and Stalled, and Warning if there is one, with a reason and a message that says what to do.
    #[schemars(schema_with = "schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What the operator last found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventSourceStatus {
    /// Generation of the resource that this status is about; -1 until the operator has looked.
    #[schemars(range(min = -1))]
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Ready, Reconciling and Stalled, and Warning if there is one, with a reason and a message that says what to do.
    #[schemars(schema_with = "schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The topic's name in Kafka.
    #[schemars(length(max = limits::TOPIC))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// How many partitions the topic has.
    #[schemars(range(min = 0, max = i32::MAX))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// How many partitions the topic had when Headwater first saw it. Where it has more by now, views of it fold a topic of their own.
    #[schemars(range(min = 0, max = i32::MAX))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_partitions: Option<i32>,
    /// The topic, if Headwater created it, with Kafka's id. Only a topic of this id is ever deleted.
    #[schemars(length(max = limits::STATUS_LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub topics: Vec<CreatedTopic>,
}

impl EventSourceStatus {
    /// Whether the topic has more partitions than when it was first seen: records of one key may be in several then.
    pub fn has_grown(&self) -> bool {
        self.partitions
            .zip(self.initial_partitions)
            .is_some_and(|(now, first)| now > first)
    }
}

/// What the operator last found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContextViewStatus {
    /// Generation of the resource that this status is about; -1 until the operator has looked.
    #[schemars(range(min = -1))]
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Ready, Reconciling and Stalled, and Warning if there is one, with a reason and a message that says what to do.
    #[schemars(schema_with = "schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The topic that holds the view's state.
    #[schemars(length(max = limits::TOPIC))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// How many partitions that topic has.
    #[schemars(range(min = 0, max = i32::MAX))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// The topics that Headwater created for this resource. Only these are ever deleted.
    #[schemars(length(max = limits::STATUS_LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub topics: Vec<CreatedTopic>,
    /// The generation of the view that is read: six hexadecimal characters over all that decides what its rows are.
    #[schemars(length(max = 6))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// The generation that is being built beside it, or as the first.
    #[schemars(length(max = 6))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub building: Option<String>,
    /// How the view is kept and why, a line each.
    #[schemars(length(max = limits::STATUS_LIST), inner(length(max = limits::TEXT)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
    /// Pods that there are.
    #[schemars(range(min = 0, max = i32::MAX))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Pods that are ready.
    #[schemars(range(min = 0, max = i32::MAX))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Label selector of the pods, for the scale subresource.
    #[schemars(length(max = limits::TEXT))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// What the operator last found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ToolServerStatus {
    /// Generation of the resource that this status is about; -1 until the operator has looked.
    #[schemars(range(min = -1))]
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Ready, Reconciling and Stalled, and Warning if there is one, with a reason and a message that says what to do.
    #[schemars(schema_with = "schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The tools that agents saw on the server.
    #[schemars(length(max = limits::STATUS_LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tools: Vec<SeenTool>,
}

/// What the operator last found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Generation of the resource that this status is about; -1 until the operator has looked.
    #[schemars(range(min = -1))]
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Ready, Reconciling and Stalled, and Warning if there is one, with a reason and a message that says what to do.
    #[schemars(schema_with = "schema::conditions")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The topics that Headwater created for this resource. Only these are ever deleted.
    #[schemars(length(max = limits::STATUS_LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub topics: Vec<CreatedTopic>,
    /// How each slot is read and why, a line each.
    #[schemars(length(max = limits::STATUS_LIST), inner(length(max = limits::TEXT)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
    /// Pods that there are.
    #[schemars(range(min = 0, max = i32::MAX))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Pods that are ready.
    #[schemars(range(min = 0, max = i32::MAX))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// Label selector of the pods, for the scale subresource.
    #[schemars(length(max = limits::TEXT))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// A topic that Headwater created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreatedTopic {
    /// The topic's name in Kafka.
    #[schemars(length(max = limits::TOPIC))]
    pub name: String,
    /// Kafka's id of the topic, by which it is known if it is deleted and created again.
    #[schemars(length(max = 64))]
    pub id: String,
}

/// A tool as agents saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeenTool {
    /// The tool's name on the server.
    #[schemars(length(max = 128))]
    pub name: String,
    /// SHA-256 of the tool's description and schema, hexadecimal. It changes when the server changes the tool.
    #[schemars(length(max = 64))]
    pub hash: String,
}
