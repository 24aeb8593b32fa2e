//! `Model`: a chat or embedding model, where it is served and how it may be used.

use crate::common::{Header, JsonObject, LocalRef, SecretKeyRef, number};
use crate::{limits, rules, schema, status::ModelStatus};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A model that agents ask, or that a view's search embeds with. Exactly one of `openAI`, `anthropic` and `scripted` says where it is.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "Model",
    namespaced,
    status = "ModelStatus",
    derive = "PartialEq",
    schema = "disabled",
    shortname = "mdl",
    category = "headwater",
    doc = "A model that agents ask, or that a view's search embeds with.",
    printcolumn(
        name = "Model",
        type_ = "string",
        description = "What the provider calls the model.",
        json_path = ".spec.model"
    ),
    printcolumn(
        name = "Fallback",
        type_ = "string",
        description = "The model that is asked when this one gives no answer.",
        json_path = ".spec.fallbackModelRef.name"
    ),
    printcolumn(
        name = "URL",
        type_ = "string",
        description = "Where the model is served.",
        json_path = ".spec['openAI','anthropic'].baseURL",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "[has(self.openAI), has(self.anthropic), has(self.scripted)].exists_one(x, x)",
        "set exactly one of openAI, anthropic and scripted",
    ),
    validation = (
        "has(self.model) || has(self.scripted)",
        "model is required: what the provider calls the model, e.g. gpt-4o-mini",
    ),
    validation = (
        "self.maxOutputTokens < self.contextWindowTokens",
        "maxOutputTokens must be less than contextWindowTokens: what is left of the window is for the prompt",
    ),
)]
pub struct ModelSpec {
    /// A server with OpenAI's API, whoever runs it; chat completions or embeddings.
    #[serde(default, rename = "openAI", skip_serializing_if = "Option::is_none")]
    pub openai: Option<OpenAi>,
    /// Anthropic's Messages API, with prompt caching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anthropic: Option<Anthropic>,
    /// No server: answers from rules, embeddings from hashed words. For tests, and for trying a pipeline without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scripted: Option<Scripted>,
    /// What the provider calls the model, e.g. `gpt-4o-mini`. Required unless `scripted`.
    #[schemars(length(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Merged into each request as it is, e.g. `{temperature: 0.2}`. Never `model`, `messages`, `system` or `tools`, which Headwater sets. With `stream: true` the answer comes in pieces, for gateways that close quiet connections; a run goes on when all of it is there.
    #[schemars(schema_with = "schema::object")]
    #[serde(default, skip_serializing_if = "JsonObject::is_empty")]
    pub parameters: JsonObject,
    /// How many tokens prompt and answer may have together.
    #[schemars(range(min = 256, max = limits::TOKENS))]
    #[serde(default = "number::<32_768>")]
    pub context_window_tokens: u32,
    /// How many tokens an answer may have. A prompt's budget is the window less these, where the agent does not say.
    #[schemars(range(min = 1, max = limits::TOKENS))]
    #[serde(default = "number::<4_096>")]
    pub max_output_tokens: u32,
    /// How long one request may take, in seconds, to the last byte of the answer.
    #[schemars(range(min = 1, max = 3_600))]
    #[serde(default = "number::<30>")]
    pub request_timeout_seconds: u32,
    /// How often and after what pause a request is made again: after 408, 409, 429, 5xx and broken connections. `Retry-After` is obeyed.
    #[serde(default)]
    pub retry: Retry,
    /// What all replicas of all agents may ask of the model together. Default: as much as they like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// The model that is asked when the last attempt failed. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_model_ref: Option<LocalRef>,
}

impl ModelSpec {
    /// What the provider calls the model; a scripted model that names none is called `scripted`.
    pub fn model_name(&self) -> &str {
        self.model.as_deref().unwrap_or("scripted")
    }
}

/// A server with OpenAI's API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenAi {
    /// What comes before `/chat/completions` and `/embeddings`, e.g. `http://ollama:11434/v1`.
    #[schemars(length(min = 1, max = limits::URL))]
    #[serde(rename = "baseURL")]
    #[x_kube(validation = rules::URL)]
    pub base_url: String,
    /// The API key, sent as `Authorization: Bearer`. Default: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_key_ref: Option<SecretKeyRef>,
    /// Headers of each request, for gateways and Azure (`api-key`).
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<Header>,
    /// Query parameters of each request, e.g. `{api-version: "2024-10-21"}`. Not for credentials.
    #[schemars(schema_with = "schema::texts")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = (
        "self.all(k, !(k.lowerAscii() in ['key', 'api_key', 'api-key', 'apikey', 'token', 'access_token']))",
        "a credential must not stand in a resource as text: use apiKeySecretKeyRef, or headers with a secretKeyRef",
    ))]
    pub query: BTreeMap<String, String>,
}

/// Anthropic's Messages API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Anthropic {
    /// What comes before `/messages`.
    #[schemars(length(min = 1, max = limits::URL))]
    #[serde(rename = "baseURL", default = "anthropic_url")]
    #[x_kube(validation = rules::URL)]
    pub base_url: String,
    /// The API key, sent as `x-api-key`. Default: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_key_ref: Option<SecretKeyRef>,
    /// Headers of each request, for gateways.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<Header>,
}

fn anthropic_url() -> String {
    "https://api.anthropic.com/v1".into()
}

/// A model that answers from rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scripted {
    /// Asked in order: the first whose `when` holds answers. That none holds is an error of the model.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub rules: Vec<ScriptedRule>,
}

/// One answer of a scripted model, and when it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.error) ? !has(self.reply) && !has(self.toolCalls) : has(self.reply) || has(self.toolCalls)",
    "set what the rule answers: reply, toolCalls or both; or else error alone",
))]
pub struct ScriptedRule {
    /// CEL over `request`, with `messages`, `tools`, `prompt` (the last user message), `context`, and `calls` (what the run called so far:
    /// `tool`, `arguments`, `outcome`, `result`), e.g. `size(request.calls) == 0`; gives a bool. Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Jinja over `request`: the text of the answer.
    #[schemars(length(max = limits::TEMPLATE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// Tools that the answer calls, all at once.
    #[schemars(length(min = 1, max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tool_calls: Vec<ScriptedToolCall>,
    /// The request fails, as it would at a provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ScriptedError>,
    /// How long the model takes, in milliseconds.
    #[schemars(range(min = 0, max = limits::MILLISECONDS))]
    #[serde(default)]
    pub delay_milliseconds: u32,
}

/// A tool call of a scripted model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScriptedToolCall {
    /// Name of the tool, as the agent has it.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub tool: String,
    /// CEL over `request`; gives the arguments, a map, e.g. `{'booking': request.context.bookings[0].id}`. Default: `{}`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// A failure of a scripted model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScriptedError {
    /// HTTP status that the provider would answer, e.g. 429.
    #[schemars(range(min = 400, max = 599))]
    pub status: u32,
    /// How many requests fail so; after them the rule no longer holds and the next ones are asked. Default: all.
    #[schemars(range(min = 1, max = 1_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

/// How a failed request is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.initialBackoffMilliseconds) || !has(self.maxBackoffMilliseconds) || self.initialBackoffMilliseconds <= self.maxBackoffMilliseconds",
    "initialBackoffMilliseconds must not be more than maxBackoffMilliseconds",
))]
pub struct Retry {
    /// How many requests are made in all.
    #[schemars(range(min = 1, max = 100))]
    #[serde(default = "number::<4>")]
    pub max_attempts: u32,
    /// Pause after the first failure, in milliseconds; it doubles with each further one.
    #[schemars(range(min = 1, max = limits::MILLISECONDS))]
    #[serde(default = "number::<250>")]
    pub initial_backoff_milliseconds: u32,
    /// The longest pause, in milliseconds.
    #[schemars(range(min = 1, max = limits::MILLISECONDS))]
    #[serde(default = "number::<8_000>")]
    pub max_backoff_milliseconds: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 4,
            initial_backoff_milliseconds: 250,
            max_backoff_milliseconds: 8_000,
        }
    }
}

/// What all replicas of all agents may ask of a model together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Requests a minute, e.g. 600. Default: no limit.
    #[schemars(range(min = 1, max = 10_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, of prompts and answers, e.g. 200000. Default: no limit.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u32>,
    /// Requests under way at once, e.g. 32. Default: no limit but the agents' `concurrency`.
    #[schemars(range(min = 1, max = 100_000))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u32>,
}
