//! `EventSource`: a topic, how its records are read, and how events get in.

use crate::common::{DeletionPolicy, Header, JsonObject, LocalRef, SecretKeyRef, number};
use crate::{limits, rules, schema, status::EventSourceStatus};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The KafkaCluster of a source that names none.
pub const DEFAULT_CLUSTER: &str = "default";

/// A Kafka topic whose records are events, for views to fold, agents to be triggered by and outputs to be written to.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "EventSource",
    namespaced,
    status = "EventSourceStatus",
    derive = "PartialEq",
    schema = "disabled",
    shortname = "evs",
    category = "headwater",
    doc = "A Kafka topic whose records are events, for views to fold, agents to be triggered by and outputs to be written to.",
    printcolumn(
        name = "Topic",
        type_ = "string",
        description = "The topic's name in Kafka.",
        json_path = ".status.topic"
    ),
    printcolumn(
        name = "Partitions",
        type_ = "integer",
        description = "How many partitions the topic has.",
        json_path = ".status.partitions"
    ),
    printcolumn(
        name = "Format",
        type_ = "string",
        description = "How values are written.",
        json_path = ".spec.format"
    ),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        description = "The KafkaCluster, if it is not `default`.",
        json_path = ".spec.clusterRef.name",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.clusterRef) ? self.clusterRef.name : 'default') == (has(oldSelf.clusterRef) ? oldSelf.clusterRef.name : 'default')"
    )
    .message("clusterRef is immutable: the events are where they are. Create a source of another name on the other cluster")
    .field_path(".clusterRef"),
    validation = Rule::new("self.topic.management != 'Observe' || self.deletionPolicy == 'Retain'")
        .message("an observed topic is not Headwater's to delete: leave deletionPolicy at Retain")
        .field_path(".deletionPolicy"),
    validation = Rule::new("self.envelope != 'Debezium' || self.format != 'Text'")
        .message("a Debezium envelope is an object: set format to Json, Avro or Protobuf")
        .field_path(".envelope"),
)]
pub struct EventSourceSpec {
    /// The KafkaCluster that the topic is on. Immutable. Default: the one called `default`. Views and agents live with their sources, all on
    /// one cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_ref: Option<LocalRef>,
    /// The topic in Kafka.
    #[serde(default)]
    pub topic: Topic,
    /// How values are written.
    #[serde(default)]
    pub format: Format,
    /// How keys are written.
    #[serde(default = "text")]
    pub key_format: Format,
    /// What a value is wrapped in.
    #[serde(default)]
    pub envelope: Envelope,
    /// JSON Schema of a value, with an envelope of the row in it, e.g. `{type: object, required: [flight_id]}`. A record that does not fit is
    /// invalid. Without remote `$ref`.
    #[schemars(schema_with = "schema::object")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<JsonObject>,
    /// CEL over `event`, `key`, `headers` and `time`; gives the event's key: text, an integer, a bool, or a list of these, e.g.
    /// `event.flight_id`. Ingest writes it as the record's key. Default: the record's key, as for a null event if the expression reads `event`
    /// and no envelope says which row was deleted.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// CEL over `event`, `key` and `headers`; gives when the event happened, a timestamp, e.g. `timestamp(event.at)` or
    /// `timestampMillis(event.ts)`. More than an hour after the record's timestamp is invalid. Default: the record's timestamp; with a
    /// Debezium envelope its `source.ts_ms`.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time: Option<String>,
    /// What becomes of a record that cannot be read: not in `format`, not fitting `schema`, or failing `key` or `eventTime`.
    #[serde(default)]
    pub invalid_records: InvalidRecords,
    /// How events get into the topic through Headwater. At most one way. Default: none; others produce to the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingest: Option<Ingest>,
    /// What becomes of the topic when the source is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

impl Default for EventSourceSpec {
    fn default() -> Self {
        Self {
            cluster_ref: None,
            topic: Topic::default(),
            format: Format::Json,
            key_format: Format::Text,
            envelope: Envelope::None,
            schema: None,
            key: None,
            event_time: None,
            invalid_records: InvalidRecords::DeadLetter,
            ingest: None,
            deletion_policy: DeletionPolicy::Retain,
        }
    }
}

impl EventSourceSpec {
    /// Name of the KafkaCluster.
    pub fn cluster(&self) -> &str {
        self.cluster_ref
            .as_ref()
            .map_or(DEFAULT_CLUSTER, |cluster| &cluster.name)
    }

    /// Name of the topic, `<namespace>.<name>` of the source where none is given.
    pub fn topic_name(&self, namespace: &str, name: &str) -> String {
        self.topic
            .name
            .clone()
            .unwrap_or_else(|| format!("{namespace}.{name}"))
    }
}

fn text() -> Format {
    Format::Text
}

/// The topic in Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)")
        .message("topic.name is immutable, given or not: the events are where they are. Create a source of another name for the other topic")
        .field_path(".name"),
    validation = Rule::new(
        "self.management == 'Observe' || !has(oldSelf.partitions) || (has(self.partitions) && self.partitions >= oldSelf.partitions)"
    )
    .message("partitions only grow, and stay given: Kafka cannot take partitions away. Set at least as many as before")
    .field_path(".partitions"),
    validation = (
        "self.management == 'Create' || (!has(self.partitions) && !has(self.replicationFactor) && !has(self.config))",
        "an observed topic is not Headwater's to change: with management Observe give name alone, without partitions, replicationFactor and config",
    ),
)]
pub struct Topic {
    /// The topic's name. Immutable. Default: `<namespace>.<name>` of the source.
    #[schemars(length(min = 1, max = limits::TOPIC))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::TOPIC)]
    pub name: Option<String>,
    /// Whose the topic is.
    #[serde(default)]
    pub management: Management,
    /// How many partitions; may grow, never shrink. Default: the cluster's `topicDefaults.partitions`.
    #[schemars(range(min = 1, max = limits::PARTITIONS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// How many brokers hold each partition; set when the topic is created. Default: the cluster's `topicDefaults.replicationFactor`.
    #[schemars(range(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u32>,
    /// Topic configuration over the cluster's `topicDefaults.config`, values as text, e.g. `{retention.ms: "604800000"}`. Only properties
    /// that the operator lists are taken; what is not named here is left as it is.
    #[schemars(schema_with = "schema::texts")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
}

/// Whose a topic is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Management {
    /// Headwater creates it if it is missing, adds partitions and sets its configuration.
    #[default]
    Create,
    /// it belongs to others; Headwater waits until it is there and changes nothing.
    Observe,
}

/// How keys or values are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// JSON in UTF-8.
    #[default]
    Json,
    /// text in UTF-8.
    Text,
    /// Avro with a schema id; needs the cluster's `schemaRegistry`. Written with the subject's latest schema.
    Avro,
    /// Protobuf with a schema id; needs the cluster's `schemaRegistry`. Written with the subject's latest schema.
    Protobuf,
}

/// What a value is wrapped in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Envelope {
    /// the value is the event.
    #[default]
    None,
    /// a change event: `event` is the row after it, null for a delete; `headers.op` says which; truncations (`t`) and messages (`m`) are invalid.
    /// With `keyFormat: Json` the key is the primary key: one column's value, or those of several by name.
    Debezium,
}

/// What becomes of a record that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum InvalidRecords {
    /// each reader keeps it in its dead-letter topic, with reason and position, and goes on.
    #[default]
    DeadLetter,
    /// it is counted and passed over.
    Skip,
    /// the partition waits, with a condition, until a person decides.
    Stop,
}

/// How events get into the topic through Headwater.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "[has(self.http), has(self.poll), has(self.schedule)].filter(x, x).size() <= 1",
    "set at most one of http, poll and schedule",
))]
pub struct Ingest {
    /// Others post events to the Service `<name>-source`, port 8080.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpIngest>,
    /// Headwater fetches a URL again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll: Option<Poll>,
    /// Headwater writes the same value again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
}

/// Events by HTTP: `POST` of a JSON value up to 1 MiB is answered with 202 and `{"id": ...}` once Kafka has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(self.auth == 'None') != has(self.tokenSecretKeyRef)",
    "auth Token and Signed need tokenSecretKeyRef; to let anybody post, write auth: None and leave it out",
))]
pub struct HttpIngest {
    /// Path that is posted to, e.g. `/flight-updates`.
    #[schemars(length(min = 2, max = 256))]
    #[x_kube(validation = rules::PATH)]
    pub path: String,
    /// How a sender proves that it may post.
    #[serde(default)]
    pub auth: IngestAuth,
    /// The token, or the key of signatures. Of several lines each is valid, for rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_key_ref: Option<SecretKeyRef>,
    /// Names of the HTTP headers that become headers of the record, e.g. `[traceparent]`. Default: none. Never `headwater-` ones.
    #[schemars(length(max = limits::LIST), inner(length(min = 1, max = 128)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = (
        "self.all(h, h.matches('^[A-Za-z0-9_.-]+$') && !h.lowerAscii().startsWith('headwater-'))",
        "must be names of HTTP headers: letters, digits, '-', '_' and '.'; those that begin with headwater- are written by Headwater alone",
    ))]
    pub headers: Vec<String>,
}

/// How a sender proves that it may post.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IngestAuth {
    /// `Authorization: Bearer` with the token.
    #[default]
    Token,
    /// an HMAC-SHA-256 signature over time and body, valid for 300 s and once.
    Signed,
    /// anybody who reaches the port may post.
    None,
}

/// Events from a URL that is fetched again and again. An item like the last one of its key is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Poll {
    /// URL that is fetched with `GET`; redirects are not followed.
    #[schemars(length(min = 1, max = limits::URL))]
    #[x_kube(validation = rules::URL)]
    pub url: String,
    /// Seconds between two fetches.
    #[schemars(range(min = 1, max = limits::SECONDS))]
    #[serde(default = "number::<10>")]
    pub every_seconds: u32,
    /// Headers of each request.
    #[schemars(length(max = limits::LIST))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<Header>,
    /// CEL over `body`; gives a list, each item an event, e.g. `body.flights`. Default: the body is one event.
    #[schemars(length(min = 1, max = limits::EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<String>,
}

/// The same event again and again, at full multiples of its interval since 1970.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Seconds between two events.
    #[schemars(range(min = 1, max = limits::SECONDS))]
    #[serde(default = "number::<60>")]
    pub every_seconds: u32,
    /// The event, any JSON value, e.g. `{kind: tick}`.
    #[schemars(schema_with = "schema::anything")]
    pub value: serde_json::Value,
}
