//! `KafkaCluster`: how to reach Kafka, and what may be done there.

use crate::common::{BasicAuth, SecretKeyRef, SecretRef, number};
use crate::{limits, rules, schema, status::KafkaClusterStatus};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A Kafka cluster that the sources of this namespace live on, with all views and agents that read them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "KafkaCluster",
    namespaced,
    status = "KafkaClusterStatus",
    derive = "PartialEq",
    schema = "disabled",
    shortname = "kcl",
    category = "headwater",
    doc = "A Kafka cluster that the sources of this namespace live on, with all views and agents that read them.",
    printcolumn(
        name = "Servers",
        type_ = "string",
        description = "Where Kafka is first asked.",
        json_path = ".spec.bootstrapServers"
    ),
    printcolumn(
        name = "User",
        type_ = "string",
        description = "Who Headwater is to Kafka.",
        json_path = ".spec.sasl.username",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct KafkaClusterSpec {
    /// Where Kafka is first asked, as `HOST:PORT`, e.g. `[kafka-0:9092, kafka-1:9092]`. Replicas and leaders are learned from there.
    #[schemars(length(min = 1, max = limits::LIST), inner(length(min = 3, max = 261)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = (
        "self.all(s, s.matches('^([A-Za-z0-9._-]+|\\\\[[0-9A-Fa-f:.]+\\\\]):[0-9]{1,5}$'))",
        "each server must be HOST:PORT, e.g. kafka:9092; TLS is asked for with tls, not with a scheme",
    ))]
    pub bootstrap_servers: Vec<String>,
    /// TLS with host names verified, version 1.2 or later. `{}` trusts the certificate authorities of the system. Default: no TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Who Headwater is to Kafka. Without `tls` the credentials cross the network readable, and a condition warns of it. Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<Sasl>,
    /// Where the schemas of Avro and Protobuf are. Needed only by sources in these formats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_registry: Option<SchemaRegistry>,
    /// What topics get that Headwater creates, where their source does not say.
    #[serde(default)]
    pub topic_defaults: TopicDefaults,
    /// Prefixes, one of which the topic of every EventSource must have, e.g. `[shop.]`. Default: any topic that Kafka lets Headwater use.
    #[schemars(length(min = 1, max = limits::LIST), inner(length(min = 1, max = limits::TOPIC)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_topics: Vec<String>,
    /// Properties of librdkafka for all clients, values as text, e.g. `{socket.timeout.ms: "30000"}`. Only properties that the operator
    /// lists are taken: none that names files, plugins or commands, switches verification off, or sets ids.
    #[schemars(schema_with = "schema::texts")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub client_config: BTreeMap<String, String>,
}

/// TLS towards Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Certificate authorities in PEM that are trusted instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_key_ref: Option<SecretKeyRef>,
    /// A Secret of type `kubernetes.io/tls` with the certificate (`tls.crt`) and key (`tls.key`) that Headwater shows to Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_secret_ref: Option<SecretRef>,
}

/// User and password for Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sasl {
    /// How the password is proven.
    #[serde(default)]
    pub mechanism: SaslMechanism,
    /// The user's name, e.g. `headwater`.
    #[schemars(length(min = 1, max = limits::TEXT))]
    pub username: String,
    /// Where the password is.
    pub password_secret_key_ref: SecretKeyRef,
}

/// SASL mechanism.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// SCRAM-SHA-512.
    #[default]
    ScramSha512,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// the password itself; only with `tls`.
    Plain,
}

/// A schema registry that speaks Confluent's REST API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchemaRegistry {
    /// Base URL, e.g. `http://registry:8081`.
    #[schemars(length(min = 1, max = limits::URL))]
    #[x_kube(validation = rules::URL)]
    pub url: String,
    /// User and password for the registry. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<BasicAuth>,
}

/// What created topics get, where their source does not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicDefaults {
    /// How many partitions. They bound how many replicas of a view or agent share the work.
    #[schemars(range(min = 1, max = limits::PARTITIONS))]
    #[serde(default = "number::<6>")]
    pub partitions: u32,
    /// How many brokers hold each partition, e.g. 3. Default: the broker's `default.replication.factor`.
    #[schemars(range(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_factor: Option<u32>,
    /// Topic configuration, values as text, e.g. `{retention.ms: "604800000"}`. Only properties that the operator lists are taken.
    #[schemars(schema_with = "schema::texts")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
}

impl Default for TopicDefaults {
    fn default() -> Self {
        Self {
            partitions: 6,
            replication_factor: None,
            config: BTreeMap::new(),
        }
    }
}
