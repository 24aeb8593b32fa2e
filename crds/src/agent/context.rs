//! What a run knows and what it asks: slots, conversation, prompt, the answer's shape.

use crate::common::{JsonObject, LocalRef, Order, number};
use crate::{limits, rules, schema};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A named lookup, which expressions and templates read as `context.<name>`. With `key` and no `index` it is the row or null (of a history
/// its events); else a list of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "[has(self.key), has(self.keys), has(self.search)].filter(x, x).size() <= 1",
        "set at most one of key, keys and search; none means every row of the view",
    ),
    validation = (
        "!has(self.index) || has(self.key) || has(self.keys)",
        "index says which keys are looked up: give key or keys with it",
    ),
)]
pub struct Slot {
    /// Name of the slot: `context.<name>` is what it read, `meta.<name>` says how old that is, how many rows and which keys are missing.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::IDENTIFIER)]
    pub name: String,
    /// The ContextView that is read.
    pub view_ref: LocalRef,
    /// Index of the view that `key` or `keys` are looked up in. Default: the rows' own keys.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub index: Option<String>,
    /// CEL over what the trigger and other slots give; gives one key, e.g. `event.customer_id`. A null or empty key reads nothing.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// CEL over the same; gives a list of keys, e.g. `context.bookings.map(b, b.flight_id)`. Rows come in their order, each once.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// Rows by meaning or by words, best first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchQuery>,
    /// CEL over the same and `value`, the row; gives a bool: whether the row counts, before order and limit. Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "where")]
    pub filter: Option<String>,
    /// CEL over the same and `value`; gives what rows are ordered by, e.g. `value.departure`. Default: an index by key, `keys` as given, a
    /// history newest first, a search best first.
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
    /// true: null, or no rows, fails the run; and the slot never gives way to the budget.
    #[serde(default)]
    pub required: bool,
    /// Seconds that the view may be behind the log, beyond which `onStale` applies.
    #[schemars(range(min = 0, max = limits::SECONDS))]
    #[serde(default)]
    pub max_staleness_seconds: u32,
    /// What happens to a slot that is older.
    #[serde(default)]
    pub on_stale: OnStale,
    /// Tokens that the slot may take in the prompt, e.g. 800; rows beyond are left out from the end. Default: what the prompt's budget leaves.
    #[schemars(range(min = 1, max = limits::TOKENS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_tokens: Option<u32>,
    /// Over the prompt's budget, slots of lower priority give way first.
    #[schemars(range(min = -1_000, max = 1_000))]
    #[serde(default)]
    pub priority: i32,
}

/// What happens to a slot whose view is behind the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnStale {
    /// it is used; `meta.<name>.stale_seconds` says how old it is.
    #[default]
    Mark,
    /// the run fails, and is tried again.
    Fail,
    /// it is left out: null, or an empty list.
    Omit,
}

/// A search in a view that has `search`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SearchQuery {
    /// CEL over what the trigger and other slots give; gives the text to search for, e.g. `event.text`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    pub query: String,
    /// How alike a row must be, from 0 to 100. Default: 0; `limit` alone bounds the rows.
    #[schemars(range(min = 0, max = 100))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_score_percent: Option<u32>,
}

/// Remembers the turns of a key: of each Done run what the user said and what the model answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    /// The most turns that precede the prompt. Where there would be more, the older half goes at once, so that prompts begin as the
    /// one before and a server's prompt cache holds.
    #[schemars(range(min = 1, max = 1_000))]
    #[serde(default = "number::<20>")]
    pub turns: u32,
    /// Seconds after its last turn when a conversation is forgotten.
    #[schemars(range(min = 1, max = limits::SECONDS))]
    #[serde(default = "number::<86_400>")]
    pub expire_after_seconds: u32,
    /// CEL over what the trigger and `context` give; gives what is kept as the user's part of the turn, e.g. `event.text`. Default: the
    /// rendered `prompt.user`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_text: Option<String>,
}

/// What the model is asked. Values are data: they cannot begin or end a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Prompt {
    /// Jinja over what the trigger, `context`, `meta` and `conversation` give: the system message. Default: none.
    #[schemars(length(max = limits::TEMPLATE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Jinja over the same: the user's message, e.g. `{{ event.text }}`. Default: `{{ event }}`.
    #[schemars(length(max = limits::TEMPLATE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Tokens (o200k) of the whole prompt, e.g. 6000. Over it, slots give way, lowest priority first, then the oldest turns; then the run
    /// fails. Default: the model's window less its output.
    #[schemars(range(min = 1, max = limits::TOKENS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_tokens: Option<u32>,
}

impl Prompt {
    /// The user's message of a prompt that gives none.
    pub const DEFAULT_USER: &'static str = "{{ event }}";

    /// The template of the user's message.
    pub fn user(&self) -> &str {
        self.user.as_deref().unwrap_or(Self::DEFAULT_USER)
    }
}

/// What the answer must look like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResultFormat {
    /// JSON Schema of the answer, which expressions then read as `result.json`. Asked for natively where the provider can, always checked;
    /// an answer that does not fit is sent back once for repair. Without remote `$ref`.
    #[schemars(schema_with = "schema::object")]
    pub schema: JsonObject,
}
