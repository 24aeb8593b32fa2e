//! What starts a run.

use super::SearchQuery;
use crate::common::LocalRef;
use crate::{limits, rules};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What starts a run: an event of a source, or a change of a view's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.sourceRef) != has(self.viewRef)",
    "set exactly one of sourceRef (a run for every event) and viewRef (a run for every change of a row)",
))]
pub struct Trigger {
    /// The EventSource: a run for every event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ref: Option<LocalRef>,
    /// The ContextView: a run for every change of a row. `event` is the row, null where it is gone; `previous` is what it was before, null
    /// where there was none. Changes are kept from when the first agent asks for them on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view_ref: Option<LocalRef>,
    /// Where a new agent, or a new trigger, begins.
    #[serde(default)]
    pub start_from: StartFrom,
    /// What a null event, or a row that goes away, does.
    #[serde(default)]
    pub deletes: Deletes,
    /// CEL over `event`, `key`, `headers`, `time` and `previous`; gives a bool: whether the event starts a run, e.g. `event.text != ''`.
    /// Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// A run for every row found, each with its row as `match`. Default: one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_each: Option<ForEach>,
    /// CEL over the same and `match`; gives the run's key, e.g. `event.session_id`: runs of one key are in order, and a conversation is a
    /// key's. Default: the event's key, with `forEach` the row's.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Keeps runs apart that would do the same. Default: every trigger runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub once: Option<Once>,
    /// Milliseconds that a trigger waits for a newer one of its key, which takes its place. It does so too while a run of its key is under
    /// way. 0: every trigger runs.
    #[schemars(range(min = 0, max = limits::MILLISECONDS))]
    #[serde(default)]
    pub coalesce_milliseconds: u32,
}

/// Where a new agent begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum StartFrom {
    /// with what comes after it.
    #[default]
    Latest,
    /// with the oldest event that the topic holds.
    Earliest,
}

/// What a null event does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Deletes {
    /// nothing.
    #[default]
    Ignore,
    /// it starts a run, `event` being null.
    Run,
}

/// A run for every row of a view that is found, without a limit.
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
    validation = (
        "!has(self.search) || has(self.search.minScorePercent)",
        "every row has some likeness: with forEach a search needs minScorePercent, e.g. 60",
    ),
)]
pub struct ForEach {
    /// The ContextView.
    pub view_ref: LocalRef,
    /// Index of the view that `key` or `keys` are looked up in. Default: the rows' own keys.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub index: Option<String>,
    /// CEL over `event`, `key`, `headers`, `time` and `previous`; gives one key, e.g. `event.flight_id`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// CEL over the same; gives a list of keys.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// Rows by meaning or by words, with `minScorePercent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchQuery>,
    /// CEL over the same and `value`, the row; gives a bool: whether the row counts. Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "where")]
    pub filter: Option<String>,
}

/// No second run for the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Once {
    /// CEL over `event`, `key`, `headers`, `time`, `previous` and `match`; gives what must not run twice under one run's key, e.g.
    /// `event.flight_id`. A trigger ends as Duplicate if a run of the same keys was Done since, or waits.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    pub key: String,
    /// Seconds for which a Done run counts, e.g. 86400.
    #[schemars(range(min = 1, max = limits::SECONDS))]
    pub within_seconds: u32,
}
