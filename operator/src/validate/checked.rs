//! Resources that were found to work: parsed once, with defaults in place and every reference known to be good.
//!
//! Configurations in here name the files of Secrets as `<secret>/<key>`; [`crate::plan`] puts the
//! directory before them where it is known where they are mounted.

use crate::plan::Partitions;
use crate::resources::SecretKey;
use headwater_crds::{
    common::DeletionPolicy, context_view::Rebuild, event_source::Management, pod::Pod,
};
use headwater_engine::config;
use std::collections::{BTreeMap, BTreeSet};

/// A KafkaCluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub config: config::Kafka,
    /// Secret keys that clients of the cluster need as files.
    pub secrets: BTreeSet<SecretKey>,
    pub partitions: u32,
    /// `None`: the broker's default.
    pub replication_factor: Option<u32>,
    pub topic_config: BTreeMap<String, String>,
    /// Prefixes; empty: any topic.
    pub allowed_topics: Vec<String>,
}

/// A Model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub config: config::Model,
    pub secrets: BTreeSet<SecretKey>,
}

/// An EventSource.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub config: config::Source,
    /// Name of the KafkaCluster.
    pub cluster: String,
    pub management: Management,
    pub partitions: Partitions,
    pub replication_factor: Option<u32>,
    pub topic_config: BTreeMap<String, String>,
    pub deletion: DeletionPolicy,
    /// The topic has more partitions than when it was first seen, so records of one key may be in several.
    pub grown: bool,
}

/// A ContextView.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub config: config::View,
    pub cluster: String,
    /// Secret keys that only its own stage needs as files.
    pub secrets: BTreeSet<SecretKey>,
    pub replicas: u32,
    pub rebuild: Rebuild,
    pub pod: Pod,
    pub deletion: DeletionPolicy,
    /// How the view is kept and why, for people.
    pub why: Vec<String>,
}

impl View {
    /// Names of the sources it is folded from.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.config.from.iter().map(|from| from.source.as_str())
    }

    /// Names of the views that it joins.
    pub fn joined(&self) -> impl Iterator<Item = &str> {
        let joins = self.config.from.iter().flat_map(|from| &from.joins);
        joins.map(|join| join.view.as_str())
    }
}

/// A ToolServer.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolServer {
    pub config: config::ToolServer,
    pub secrets: BTreeSet<SecretKey>,
}

/// An Agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    pub config: config::Agent,
    pub cluster: String,
    /// Names of all sources that its stage needs: trigger, outputs, tools, and what its views are folded from.
    pub sources: BTreeSet<String>,
    /// Names of the views that its slots and tools read, and its trigger.
    pub views: BTreeSet<String>,
    pub secrets: BTreeSet<SecretKey>,
    pub replicas: u32,
    pub suspend: bool,
    pub pod: Pod,
    pub deletion: DeletionPolicy,
    pub audit_retention_seconds: u32,
    pub why: Vec<String>,
}
