//! `ToolServer`: tools that agents may call.

use crate::common::{Header, JsonObject, number};
use crate::{limits, rules, schema, status::ToolServerStatus};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// A server of tools that agents may call. Exactly one of `mcp` and `scripted` says what it is.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "ToolServer",
    namespaced,
    status = "ToolServerStatus",
    derive = "PartialEq",
    schema = "disabled",
    shortname = "tsrv",
    category = "headwater",
    doc = "A server of tools that agents may call.",
    printcolumn(
        name = "URL",
        type_ = "string",
        description = "Where the MCP server is.",
        json_path = ".spec.mcp.url"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.mcp) != has(self.scripted)",
    "set exactly one of mcp and scripted",
))]
pub struct ToolServerSpec {
    /// A server that speaks MCP over streamable HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp: Option<Mcp>,
    /// No server: results from expressions. For tests, and for trying a pipeline without the real tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scripted: Option<ScriptedTools>,
    /// How long one call may take, in seconds.
    #[schemars(range(min = 1, max = 3_600))]
    #[serde(default = "number::<20>")]
    pub timeout_seconds: u32,
}

/// An MCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mcp {
    /// The server's endpoint, e.g. `https://desk.example.com/mcp`. Redirects are not followed.
    #[schemars(length(min = 1, max = limits::URL))]
    #[x_kube(validation = rules::URL)]
    pub url: String,
    /// Headers of each request, e.g. `{name: Authorization, secretKeyRef: {name: desk, key: bearer}}`.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<Header>,
}

/// Tools without a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScriptedTools {
    /// The tools.
    #[schemars(length(min = 1, max = limits::LIST))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tools: Vec<ScriptedTool>,
}

/// A tool without a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScriptedTool {
    /// Name of the tool, as `tools[].mcp.tool` of an agent says it.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub name: String,
    /// What the tool does, for the model to read.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    pub description: String,
    /// JSON Schema of the arguments, an object's. Default: no arguments.
    #[schemars(schema_with = "schema::object")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<JsonObject>,
    /// CEL over `arguments`; gives the result, any value, e.g. `{'booked': true, 'seat': arguments.seat}`. An expression that fails is a
    /// failed call.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    pub result: String,
}
