//! What the resources of a namespace mean, or why they cannot work. Pure: no Kafka, no API server, no clock.
//!
//! A resource either becomes a checked one ([`checked`]) or a list of problems, each with a reason, the
//! exact field and a message that says what to do. A broken resource breaks those that refer to it,
//! which say so, and no others. The operator, `headwater validate`, `explain` and `up` all go through
//! here, so they say the same.

mod agent;
mod allow;
pub mod checked;
mod cluster;
mod compile;
mod fallback;
mod findings;
mod joins;
mod model;
mod names;
mod pod;
mod slot;
mod source;
mod tool_server;
mod tools;
mod trigger;
mod url;
mod view;
mod why;

pub use findings::{Outcome, Problem};

use crate::resources::{Id, Kind, Resources};
use headwater_engine::names::source_topic;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};

/// What whoever runs the operator allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Annotation keys that `pod.annotations` may have; `None`: any but Headwater's own.
    pub pod_annotations: Option<Vec<String>>,
    /// Label keys that `pod.labels` may have; `None`: any but Headwater's own.
    pub pod_labels: Option<Vec<String>>,
}

struct Context<'a> {
    resources: &'a Resources,
    settings: &'a Settings,
}

/// What became of every resource of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Validation {
    pub namespace: String,
    pub clusters: BTreeMap<String, Outcome<checked::Cluster>>,
    pub models: BTreeMap<String, Outcome<checked::Model>>,
    pub sources: BTreeMap<String, Outcome<checked::Source>>,
    pub views: BTreeMap<String, Outcome<checked::View>>,
    pub tool_servers: BTreeMap<String, Outcome<checked::ToolServer>>,
    pub agents: BTreeMap<String, Outcome<checked::Agent>>,
    /// Names of views whose changes trigger an agent, be it one that works now or one that is to be mended.
    pub triggering: BTreeSet<String>,
}

/// What was found in one resource.
#[derive(Clone, Copy, Debug)]
pub struct Finding<'a> {
    pub problems: &'a [Problem],
    pub warnings: &'a [Problem],
}

impl Validation {
    /// What was found in each resource, by kind and name.
    pub fn findings(&self) -> BTreeMap<Id, Finding<'_>> {
        let mut all = BTreeMap::new();
        collect(&mut all, Kind::KafkaCluster, &self.clusters);
        collect(&mut all, Kind::Model, &self.models);
        collect(&mut all, Kind::EventSource, &self.sources);
        collect(&mut all, Kind::ContextView, &self.views);
        collect(&mut all, Kind::ToolServer, &self.tool_servers);
        collect(&mut all, Kind::Agent, &self.agents);
        all
    }

    /// Whether every resource works.
    pub fn is_ok(&self) -> bool {
        self.findings()
            .values()
            .all(|finding| finding.problems.is_empty())
    }
}

fn collect<'a, T>(
    all: &mut BTreeMap<Id, Finding<'a>>,
    kind: Kind,
    outcomes: &'a BTreeMap<String, Outcome<T>>,
) {
    for (name, outcome) in outcomes {
        let finding = Finding {
            problems: outcome.problems(),
            warnings: &outcome.warnings,
        };
        all.insert(Id::new(kind, name), finding);
    }
}

/// Checks all resources of a namespace against each other.
pub fn validate(resources: &Resources, settings: &Settings) -> Validation {
    let context = Context {
        resources,
        settings,
    };
    let clusters = each(&resources.clusters, |_, object| {
        cluster::check(&context, object)
    });
    let mut models = BTreeMap::new();
    for name in fallback::order(&resources.models) {
        if let Some(object) = resources.models.get(name) {
            let outcome = model::check(&context, name, object, &models);
            models.insert(name.to_owned(), outcome);
        }
    }
    let duplicates = duplicate_topics(resources);
    let sources = each(&resources.sources, |name, object| {
        source::check(
            &context,
            name,
            object,
            &clusters,
            duplicates.get(name).map(String::as_str),
        )
    });
    let mut views = BTreeMap::new();
    for name in joins::order(&resources.views) {
        if let Some(object) = resources.views.get(name) {
            let outcome = view::check(&context, name, object, &sources, &views);
            views.insert(name.to_owned(), outcome);
        }
    }
    let tool_servers = each(&resources.tool_servers, |name, object| {
        tool_server::check(&context, name, object)
    });
    let agents = each(&resources.agents, |name, object| {
        let around = agent::Around {
            clusters: &clusters,
            models: &models,
            sources: &sources,
            views: &views,
            tool_servers: &tool_servers,
        };
        agent::check(&context, name, object, &around)
    });
    let triggers = resources.agents.values().map(|agent| &agent.spec.trigger);
    let triggering = triggers
        .filter_map(|trigger| Some(trigger.view_ref.as_ref()?.name.clone()))
        .collect();
    Validation {
        namespace: resources.namespace.clone(),
        clusters,
        models,
        sources,
        views,
        tool_servers,
        agents,
        triggering,
    }
}

fn each<K, T>(
    objects: &BTreeMap<String, std::sync::Arc<K>>,
    check: impl Fn(&str, &K) -> Outcome<T>,
) -> BTreeMap<String, Outcome<T>> {
    objects
        .iter()
        .map(|(name, object)| (name.clone(), check(name, object)))
        .collect()
}

/// Sources whose topic another one has on the same cluster, with that other one: the older, else the first by name.
fn duplicate_topics(resources: &Resources) -> BTreeMap<String, String> {
    let mut by_topic: BTreeMap<(String, String), Vec<(Option<_>, &String)>> = BTreeMap::new();
    for (name, source) in &resources.sources {
        let topic = source
            .spec
            .topic
            .name
            .clone()
            .unwrap_or_else(|| source_topic(&resources.namespace, name));
        let created = source.creation_timestamp().map(|time| time.0);
        by_topic
            .entry((source.spec.cluster().to_owned(), topic))
            .or_default()
            .push((created, name));
    }
    let mut duplicates = BTreeMap::new();
    for mut claims in by_topic.into_values() {
        claims.sort();
        let mut claims = claims.into_iter();
        if let Some((_, first)) = claims.next() {
            duplicates.extend(claims.map(|(_, name)| (name.clone(), first.clone())));
        }
    }
    duplicates
}
