//! `Agent`: what triggers it, what it knows, what it asks, what it may do, where the answer goes.

mod context;
mod delivery;
mod tools;
mod trigger;

pub use context::{Conversation, OnStale, Prompt, ResultFormat, SearchQuery, Slot};
pub use delivery::{Audit, AuditContent, Autoscaling, Delivery, OnFailure, Outcome, Output};
pub use tools::{
    Action, Approval, EmitTool, McpTool, PolicyRule, Repeat, Tool, ViewArgument, ViewTool,
};
pub use trigger::{Deletes, ForEach, Once, StartFrom, Trigger};

use crate::common::{DeletionPolicy, LocalRef, number};
use crate::{limits, pod::Pod, status::AgentStatus};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Answers events: on each trigger it assembles a prompt from views that are as fresh as the log, asks a model, acts, and writes outputs.
/// For an answer `trigger`, `modelRef` and `outputs` are enough.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "Agent",
    namespaced,
    status = "AgentStatus",
    derive = "PartialEq",
    schema = "disabled",
    shortname = "ag",
    category = "headwater",
    doc = "Answers events: on each trigger it assembles a prompt from views that are as fresh as the log, asks a model, acts, and writes outputs.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Model",
        type_ = "string",
        description = "The Model that is asked.",
        json_path = ".spec.modelRef.name"
    ),
    printcolumn(
        name = "Trigger",
        type_ = "string",
        description = "The source or view that starts runs.",
        json_path = ".spec.trigger['sourceRef','viewRef'].name"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        description = "Pods that there are.",
        json_path = ".status.replicas"
    ),
    printcolumn(
        name = "Suspended",
        type_ = "boolean",
        description = "Whether it is told to start no runs.",
        json_path = ".spec.suspend",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "(has(self.outputs) && self.outputs.size() > 0) || (has(self.tools) && self.tools.size() > 0)",
        "an agent without outputs and tools does nothing; give outputs, e.g. [{name: answer, sourceRef: {name: answers}}]",
    ),
    validation = Rule::new("has(self.modelRef) || !has(self.tools)")
        .message("tools are called by a model; name one with modelRef")
        .field_path(".tools"),
    validation = Rule::new("has(self.modelRef) || !has(self.result)")
        .message("result is about a model's answer; name a model with modelRef")
        .field_path(".result"),
    validation = Rule::new("has(self.modelRef) || !has(self.conversation)")
        .message("a conversation keeps a model's answers; name a model with modelRef")
        .field_path(".conversation"),
    validation = Rule::new(
        "has(self.modelRef) || has(self.prompt) || !has(self.outputs) || self.outputs.all(o, has(o.value))"
    )
    .message("without modelRef and prompt there is nothing to write by default: give every output a value, e.g. event")
    .field_path(".outputs"),
    validation = Rule::new(
        "!has(self.policy) || self.policy.all(p, !has(p.tools) || p.tools.all(t, has(self.tools) && self.tools.exists(x, x.name == t)))"
    )
    .message("each of a rule's tools must be the name of one of the agent's tools")
    .field_path(".policy"),
)]
pub struct AgentSpec {
    /// What starts a run.
    pub trigger: Trigger,
    /// Slots: what a run reads from views before its prompt is made. They may name each other in any order, without cycles.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub context: Vec<Slot>,
    /// Milliseconds that a run waits at most until the views hold every event that was in the log when its trigger arrived. After that it
    /// goes on, and its record says what was missing.
    #[schemars(range(min = 0, max = 60_000))]
    #[serde(default = "number::<250>")]
    pub freshness_wait_milliseconds: u32,
    /// CEL over what the trigger and `context` give; gives a bool: false ends the run as Skipped, before the model, e.g.
    /// `size(context.bookings) > 0`. Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Remembers the turns of a key. Default: each run stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// What the model is asked. Default: the event as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    /// The Model that is asked. Default: none; the prompt, if there is one, is the result, for others to infer on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_ref: Option<LocalRef>,
    /// What the answer must look like. Default: text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ResultFormat>,
    /// What the model may call.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tools: Vec<Tool>,
    /// How many times the model may call tools in a run; then it is asked for an answer without.
    #[schemars(range(min = 1, max = 64))]
    #[serde(default = "number::<6>")]
    pub max_tool_rounds: u32,
    /// Rules about tool calls. All are asked before each call, and again after an approval: Deny goes before RequireApproval before Allow. A
    /// tool that an Allow rule names is denied whatever no Allow rule allows. No rule: allowed. Their order means nothing.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub policy: Vec<PolicyRule>,
    /// How a person is asked where a rule requires it.
    #[serde(default)]
    pub approval: Approval,
    /// What is written when a run ends.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub outputs: Vec<Output>,
    /// How often a run is tried, and what then.
    #[serde(default)]
    pub delivery: Delivery,
    /// What is kept of each run.
    #[serde(default)]
    pub audit: Audit,
    /// Runs under way at once in each pod.
    #[schemars(range(min = 1, max = 4_096))]
    #[serde(default = "number::<64>")]
    pub concurrency: u32,
    /// Pods that share the work; more than the trigger's partitions are idle. Default: 1. Leave it out with `autoscaling`.
    #[schemars(range(min = 0, max = limits::REPLICAS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Lets KEDA set `replicas` by how far the agent is behind. Default: nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// true: start no runs; triggers wait in Kafka.
    #[serde(default)]
    pub suspend: bool,
    /// What becomes of the agent's topics when it is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Settings of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

impl AgentSpec {
    /// Pods, 1 where none are given.
    pub fn replicas(&self) -> u32 {
        self.replicas.unwrap_or(1)
    }
}
