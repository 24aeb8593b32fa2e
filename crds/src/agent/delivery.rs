//! What is written when a run ends, how often it is tried, what is kept of it.

use crate::common::{LocalRef, number};
use crate::{limits, rules};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is written to a source when a run ends, in one transaction with the trigger's offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.outcome == 'Done' || has(self.value)",
    "a failed run has no result to write by default: give value, e.g. {'reason': failure.reason, 'message': failure.message}",
))]
pub struct Output {
    /// Name of the output.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub name: String,
    /// The EventSource that is written to.
    pub source_ref: LocalRef,
    /// Which runs write it.
    #[serde(default)]
    pub outcome: Outcome,
    /// CEL over what the run knows, `result` or `failure` included, and `now.<slot>`: what the slot's lookup finds when the model has answered,
    /// e.g. `result.text != 'NOTHING' && size(now.seats) > 0`; gives a bool: whether it is written. Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// CEL over the same; gives a list, each `item` of which is a record, e.g. `result.json.offers`. Default: one record.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<String>,
    /// CEL over the same and `item`; gives the record's key, e.g. `event.session_id`. Default: the run's key.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// CEL over the same and `item`; gives the record's value. Default: `{'text': result.text}`, with a schema `result.json`, without a
    /// model `{'messages': prompt.messages}`. Required with `outcome: Failed`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Which runs write an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// those that came to an end as they should.
    #[default]
    Done,
    /// those whose attempts are used up; `failure` says why.
    Failed,
}

/// How often a run is tried, and what then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// How many attempts a run has in all.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default = "number::<5>")]
    pub max_attempts: u32,
    /// Seconds that one attempt may take, without the time that it waits for a person.
    #[schemars(range(min = 1, max = 86_400))]
    #[serde(default = "number::<120>")]
    pub attempt_timeout_seconds: u32,
    /// How many agents a chain of events may pass through; a run beyond is a dead letter. Ends loops.
    #[schemars(range(min = 1, max = 1_000))]
    #[serde(default = "number::<16>")]
    pub max_hops: u32,
    /// What becomes of a trigger whose attempts are used up. The outputs with `outcome: Failed` are written either way.
    #[serde(default)]
    pub on_failure: OnFailure,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            attempt_timeout_seconds: 120,
            max_hops: 16,
            on_failure: OnFailure::DeadLetter,
        }
    }
}

/// What becomes of a trigger whose attempts are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// it is kept in the dead-letter topic, with reason and position, and its key goes on.
    #[default]
    DeadLetter,
    /// its key goes on.
    Skip,
    /// the partition waits, with a condition, until a person decides.
    Stop,
}

/// What is kept of each run, in the topic `<namespace>.agent.<name>.runs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// How much.
    #[serde(default)]
    pub content: AuditContent,
    /// Seconds that it is kept.
    #[schemars(range(min = 60, max = limits::SECONDS))]
    #[serde(default = "number::<604_800>")]
    pub retention_seconds: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            content: AuditContent::Full,
            retention_seconds: 604_800,
        }
    }
}

/// How much of a run is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AuditContent {
    /// all that it read, asked and was answered: personal data too, if events hold any. `replay` needs it.
    #[default]
    Full,
    /// where it came from and hashes, no values.
    Hashes,
}

/// Lets KEDA set the number of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.minReplicas <= self.maxReplicas",
    "minReplicas must not be more than maxReplicas",
))]
pub struct Autoscaling {
    /// The fewest pods.
    #[schemars(range(min = 0, max = limits::REPLICAS))]
    #[serde(default = "number::<1>")]
    pub min_replicas: u32,
    /// The most pods, e.g. 12; no more than the trigger has partitions are of use.
    #[schemars(range(min = 1, max = limits::REPLICAS))]
    pub max_replicas: u32,
    /// Triggers that may wait for each pod, e.g. 50; more call for another.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub lag: u32,
}
