//! `ContextView`: state folded from sources, by key, always up to date.

use crate::common::{DeletionPolicy, LocalRef, SecretKeyRef, number};
use crate::{limits, pod::Pod, rules, status::ContextViewStatus};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Items of a TopK that says no limit.
pub const TOP_K_LIMIT: u32 = 5;

/// State folded from one or more sources, a row for each key, which agents and other views read.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "ContextView",
    namespaced,
    status = "ContextViewStatus",
    derive = "PartialEq",
    schema = "disabled",
    shortname = "cv",
    category = "headwater",
    doc = "State folded from one or more sources, a row for each key, which agents and other views read.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Source",
        type_ = "string",
        description = "The first of the sources that it is folded from.",
        json_path = ".spec.from[0].sourceRef.name"
    ),
    printcolumn(
        name = "Partitions",
        type_ = "integer",
        description = "How many partitions share the work.",
        json_path = ".status.partitions"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        description = "Pods that there are.",
        json_path = ".status.replicas"
    ),
    printcolumn(
        name = "Topic",
        type_ = "string",
        description = "The topic that holds the view's state.",
        json_path = ".status.topic",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "[has(self.latest), has(self.history), has(self.aggregate)].filter(x, x).size() <= 1",
        "set at most one of latest, history and aggregate; none means latest",
    ),
    validation = Rule::new("!has(self.indexes) || !has(self.history)")
        .message("a history has no indexes; take latest or aggregate, or leave indexes out")
        .field_path(".indexes"),
    validation = Rule::new("!has(self.search) || (!has(self.history) && !has(self.aggregate))")
        .message("search is for latest only; leave history and aggregate out")
        .field_path(".search"),
    validation = Rule::new(
        "(has(self.latest) && self.latest.merge == 'Fields') || self.from.all(f, !f.required)"
    )
    .message("required is about rows put together from several sources: set latest.merge to Fields, or leave required out")
    .field_path(".from"),
)]
pub struct ContextViewSpec {
    /// What is folded. Names say which source a value came from; their order means nothing.
    #[schemars(length(min = 1, max = limits::LIST))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub from: Vec<From>,
    /// A row is the newest value of its key. The default, if neither `history` nor `aggregate` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<Latest>,
    /// A row is the list of the newest events of its key, newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<History>,
    /// A row is computed from all events of its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// Further ways to find rows. Not on a history; on an aggregate over fields without `withinSeconds` only, as what a window holds
    /// changes while time passes and nothing happens.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub indexes: Vec<Index>,
    /// Finds rows by meaning or by words. With `latest` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
    /// Serves rows to others. Default: only Headwater reads them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve: Option<Serve>,
    /// Seconds after its key's last event, by event time, when a row is gone, e.g. 2592000 (30 days). A key that gets an event after that
    /// begins anew. A run reads at the time of its trigger; passing time triggers nothing. Default: never.
    #[schemars(range(min = 1, max = limits::SECONDS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_after_seconds: Option<u32>,
    /// When a change of `from`, of the fold, of `expireAfterSeconds` or of how a source is read may build the view anew: as another
    /// generation, beside the one that is read until it has caught up. Readers move to it then; topics of a generation that nobody reads any
    /// more are removed, whatever `deletionPolicy` says.
    #[serde(default)]
    pub rebuild: Rebuild,
    /// What becomes of the view's topics when it is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Pods that share the work; more than partitions are idle. Default: 1.
    #[schemars(range(min = 0, max = limits::REPLICAS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Settings of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
}

/// The fold of a view, with the default in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fold<'a> {
    /// See [`ContextViewSpec::latest`].
    Latest(Latest),
    /// See [`ContextViewSpec::history`].
    History(History),
    /// See [`ContextViewSpec::aggregate`].
    Aggregate(&'a Aggregate),
}

impl ContextViewSpec {
    /// How rows come about. Where several are given, which the API server refuses, history goes before aggregate before latest.
    pub fn fold(&self) -> Fold<'_> {
        match (self.history, &self.aggregate) {
            (Some(history), _) => Fold::History(history),
            (None, Some(aggregate)) => Fold::Aggregate(aggregate),
            (None, None) => Fold::Latest(self.latest.unwrap_or_default()),
        }
    }

    /// Pods, 1 where none are given.
    pub fn replicas(&self) -> u32 {
        self.replicas.unwrap_or(1)
    }
}

/// One source of a view: which of its events count, under which key, with which value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct From {
    /// Name of this part, e.g. `schedule`.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub name: String,
    /// The EventSource.
    pub source_ref: LocalRef,
    /// Rows of other views that the expressions below see as `joined.<name>`. Each is read once, when the event is taken in; later changes
    /// of it alter nothing that was folded.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub joins: Vec<Join>,
    /// CEL over `event`, `key`, `headers`, `time` and `joined`; gives a bool: whether the event counts, e.g. `event.status != 'archived'`.
    /// Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// CEL over the same; gives the row's key: text, an integer, a bool, or a list of these, e.g. `event.flight_id`. Default: `key`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// CEL over the same; gives what is folded, e.g. `{'gate': event.gate}`. Default: `event`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// CEL over the same; gives a bool: whether the event drops the key, e.g. `event.op == 'd'`. Default: `false`; a null event drops its
    /// key in a latest view either way.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<String>,
    /// With `latest.merge: Fields`: no row while this source has nothing for the key.
    #[serde(default)]
    pub required: bool,
}

/// A row of another view, read as an event is taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    /// Name of the joined row in expressions: `joined.<name>`, null where there is none.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::IDENTIFIER)]
    pub name: String,
    /// The ContextView.
    pub view_ref: LocalRef,
    /// CEL over `event`, `key`, `headers` and `time`; gives the row's key in that view, e.g. `event.plane_id`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    pub key: String,
}

/// A row is the newest value of its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Latest {
    /// What a new value does to the one before.
    #[serde(default)]
    pub merge: Merge,
}

/// What a new value does to the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Merge {
    /// it takes its place.
    #[default]
    Replace,
    /// its top-level fields take the place of fields of the same name; a delete takes the fields of its source.
    Fields,
}

/// A row is the list of the newest events of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// How many events are kept for a key.
    #[schemars(range(min = 1, max = limits::ROWS))]
    #[serde(default = "number::<20>")]
    pub limit: u32,
    /// Seconds that an event is in, counted back from the time of the run that reads, e.g. 86400. Default: for all time.
    #[schemars(range(min = 1, max = limits::SECONDS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_seconds: Option<u32>,
}

/// A row is computed from all events of its key. It may take 900 KiB; an event that would need more is a fault and counts in no field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Aggregate {
    /// The fields of a row.
    #[schemars(length(min = 1, max = limits::LIST))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub fields: Vec<AggregateField>,
}

/// One field of an aggregate's row. It counts events: a row that its source writes again counts again. Null events are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.compute == 'Count' || has(self.of)",
        "of is required unless compute is Count: the expression that is computed with, e.g. value.amount",
    ),
    validation = (
        "self.compute == 'TopK' || !has(self.limit)",
        "limit is for compute TopK only; leave it out",
    ),
)]
pub struct AggregateField {
    /// Name of the field in the row, e.g. `spent`.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::IDENTIFIER)]
    pub name: String,
    /// How it is computed.
    pub compute: Compute,
    /// CEL over `value`; gives what is computed with, e.g. `value.amount`. An event for which that is null or absent does not count for
    /// this field; any other failure is a fault of the event, which then counts in no field. Required unless `compute` is `Count`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// CEL over `value`; gives a bool: whether the event counts, e.g. `value.paid`. Default: `true`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "where")]
    pub filter: Option<String>,
    /// Seconds that an event counts, back from the time of the run that reads, e.g. 3600. An event that comes when later ones are more than
    /// twice that ahead of it is too late for this field. Default: for all time.
    #[schemars(range(min = 1, max = limits::SECONDS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_seconds: Option<u32>,
    /// With `TopK`: how many values. Default: 5.
    #[schemars(range(min = 1, max = limits::ROWS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl AggregateField {
    /// How many values a `TopK` gives.
    pub fn limit(&self) -> u32 {
        self.limit.unwrap_or(TOP_K_LIMIT)
    }
}

/// How an aggregate's field is computed. Of no events: counts and sums 0, TopK an empty list, else null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Compute {
    /// how many events; with `of`, those that have it.
    Count,
    /// the sum, in log order: of ints an int, else a double. What is no number, or out of range, is a fault.
    Sum,
    /// the smallest: bools come before numbers, these before timestamps and texts. Lists and objects are a fault.
    Min,
    /// the largest, by the same order.
    Max,
    /// the mean, a double.
    Average,
    /// of the oldest event, by event time, then log order.
    First,
    /// of the newest event, by the same order.
    Last,
    /// how many different values, exactly; 1 and 1.0 are one.
    CountDistinct,
    /// the most frequent values, exactly: a list of `{value, count}`, by count, then in the order of Min.
    TopK,
}

/// A further way to find rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.key) != has(self.keys)",
    "set exactly one of key (a row is under one key) and keys (a row is under each of a list)",
))]
pub struct Index {
    /// Name of the index, as lookups say it, e.g. `byCustomer`.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::LOCAL_NAME)]
    pub name: String,
    /// CEL over `value` and `key`; gives the one key that the row is under, e.g. `value.customer_id`. Null or absent: it is not in the index.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// CEL over `value` and `key`; gives a list, the row being under each of its items, e.g. `value.tags`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
}

/// Finds rows by meaning or by words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Search {
    /// CEL over `value` and `key`; gives the text that is searched, e.g. `value.title`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    pub text: String,
    /// The Model that embeds passages and questions. Default: none; search is by words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_model_ref: Option<LocalRef>,
    /// How a text is cut into passages.
    #[serde(default)]
    pub chunk: Chunk,
}

/// How a text is cut into passages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "!has(self.overlapTokens) || !has(self.tokens) || self.overlapTokens < self.tokens",
    "overlapTokens must be less than tokens",
))]
pub struct Chunk {
    /// Tokens of a passage.
    #[schemars(range(min = 16, max = 8_192))]
    #[serde(default = "number::<300>")]
    pub tokens: u32,
    /// Tokens that a passage has in common with the one before it.
    #[schemars(range(min = 0, max = 4_096))]
    #[serde(default = "number::<40>")]
    pub overlap_tokens: u32,
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            tokens: 300,
            overlap_tokens: 40,
        }
    }
}

/// Serves rows to others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Serve {
    /// By HTTP, read only, at the Service `<name>-view`, port 8080.
    pub http: HttpServe,
}

/// Rows by HTTP: `GET <path>/KEY`, `GET <path>?index=I&key=K`, `GET <path>?query=Q&limit=N`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(self.auth == 'None') != has(self.tokenSecretKeyRef)",
    "auth Token needs tokenSecretKeyRef; to let anybody read, write auth: None and leave it out",
))]
pub struct HttpServe {
    /// Path of the rows, e.g. `/flights`.
    #[schemars(length(min = 2, max = 256))]
    #[x_kube(validation = rules::PATH)]
    pub path: String,
    /// How a reader proves that it may read.
    #[serde(default)]
    pub auth: ServeAuth,
    /// The token. Of several lines each is valid, for rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_key_ref: Option<SecretKeyRef>,
}

/// How a reader proves that it may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ServeAuth {
    /// `Authorization: Bearer` with the token.
    #[default]
    Token,
    /// anybody who reaches the port may read.
    None,
}

/// When a changed view may be built anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Rebuild {
    /// only if the sources still hold all it needs: from their first record, or as far back as windows and expiry go, or, for a plain
    /// `latest` without filter and computed key, compacted. Else it is Stalled with `RebuildIncomplete` and the old one goes on serving.
    #[default]
    IfComplete,
    /// from what the sources still hold.
    Always,
}
