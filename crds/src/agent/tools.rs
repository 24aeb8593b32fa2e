//! What a model may call, and under which rules.

use crate::common::{JsonObject, LocalRef, Order, number};
use crate::{limits, rules, schema};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something that the model may call. Exactly one of `mcp`, `emit` and `view` says what a call does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "[has(self.mcp), has(self.emit), has(self.view)].exists_one(x, x)",
        "set exactly one of mcp, emit and view",
    ),
    validation = (
        "has(self.mcp) || has(self.description)",
        "description is required for emit and view: the model must be told what the tool does",
    ),
    validation = (
        "has(self.emit) || !has(self.schema)",
        "schema is for emit only: a tool of a server has the server's, a view's has one key or query",
    ),
    validation = (
        "!has(self.view) || !has(self.fixed)",
        "fixed is for mcp and emit; bind what a view shows with its where, e.g. value.customer_id == event.customer_id",
    ),
)]
pub struct Tool {
    /// Name of the tool, as the model and `policy` know it.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub name: String,
    /// Calls a tool of a ToolServer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp: Option<McpTool>,
    /// Writes an event, in the run's transaction; the arguments are its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emit: Option<EmitTool>,
    /// Reads a view.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewTool>,
    /// What the tool does, for the model to read. Required for `emit` and `view`. Default: the server's.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// With `emit`: JSON Schema of the arguments. Default: the source's.
    #[schemars(schema_with = "schema::object")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<JsonObject>,
    /// Arguments that the model neither sees nor sets, each CEL over what the trigger and `context` give, e.g.
    /// `{customer: event.customer_id}`.
    #[schemars(schema_with = "schema::expressions")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fixed: BTreeMap<String, String>,
}

/// A tool of a ToolServer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpTool {
    /// The ToolServer.
    pub tool_server_ref: LocalRef,
    /// Name of the tool on that server.
    #[schemars(length(min = 1, max = 128))]
    pub tool: String,
    /// What becomes of a call of which nobody knows whether it was made.
    #[serde(default)]
    pub repeat: Repeat,
}

/// What becomes of a call that a crash left open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Repeat {
    /// it is not made again; the model is told that its outcome is unknown.
    #[default]
    Never,
    /// it is made again, with the same id in `_meta`. For tools that only read, or that honour the id.
    Always,
}

/// Writes an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmitTool {
    /// The EventSource that is written to.
    pub source_ref: LocalRef,
    /// CEL over what the trigger, `context` and `call` give; gives the event's key, e.g. `event.customer_id`. Default: the run's key.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Reads a view with a key or question that the model chooses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.argument == 'Key' || !has(self.index)",
        "index is for argument Key: a search has none",
    ),
    validation = (
        "self.argument == 'Query' || !has(self.minScorePercent)",
        "minScorePercent is for argument Query: a key is found or not",
    ),
)]
pub struct ViewTool {
    /// The ContextView.
    pub view_ref: LocalRef,
    /// What the model gives. Written out, because it means that the model chooses whose rows are read; `where` bounds it.
    pub argument: ViewArgument,
    /// With `argument: Key`: index of the view that the key is looked up in. Default: the rows' own keys.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub index: Option<String>,
    /// With `argument: Query`: how alike a row must be, from 0 to 100. Default: 0.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score_percent: Option<u32>,
    /// CEL over what the trigger and `context` give and `value`, the row; gives a bool: whether the model may see it. Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "where")]
    pub filter: Option<String>,
    /// CEL over the same; gives what rows are ordered by. Default: an index by key, a search best first.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_by: Option<String>,
    /// Direction of `orderBy`.
    #[serde(default)]
    pub order: Order,
    /// How many rows at most.
    #[schemars(range(min = 1, max = limits::ROWS))]
    #[serde(default = "number::<20>")]
    pub limit: u32,
}

/// What the model gives to a view tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ViewArgument {
    /// a key.
    Key,
    /// a text to search for; needs the view's `search`.
    Query,
}

/// A rule about tool calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// Name of the rule, as the audit shows it.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub name: String,
    /// Names of the tools that it is about. Default: all.
    #[schemars(length(min = 1, max = limits::LIST), inner(length(min = 1, max = limits::NAME)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub tools: Vec<String>,
    /// CEL over what the trigger, `context`, `now`, `call` and `calls` give; gives a bool: whether the rule applies, e.g.
    /// `size(now.flights) == 0`. One that fails denies. Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What happens to the call.
    #[serde(default)]
    pub action: Action,
    /// Jinja over the same: what the model is told of a denied call, and a person who is asked. Default: the rule's name.
    #[schemars(length(max = limits::TEMPLATE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a rule does to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// it is not made; the model is told.
    #[default]
    Deny,
    /// it waits for a person; silence denies.
    RequireApproval,
    /// it is made, and what no Allow rule allows of this tool is denied.
    Allow,
}

/// How a person is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// Seconds after which silence denies.
    #[schemars(range(min = 1, max = limits::SECONDS))]
    #[serde(default = "number::<900>")]
    pub timeout_seconds: u32,
    /// An EventSource that gets a copy of what is asked, for a chat or ticket system. Answers are never read from it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_source_ref: Option<LocalRef>,
}

impl Default for Approval {
    fn default() -> Self {
        Self {
            timeout_seconds: 900,
            requests_source_ref: None,
        }
    }
}
