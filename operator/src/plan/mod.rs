//! What the resources of a namespace come to: topics, stages with their configuration, and why. Pure and
//! deterministic: equal resources give equal bytes.
//!
//! Only what works is planned: of a broken resource there is no topic and no stage in the plan. Names of
//! internal topics are the engine's ([`headwater_engine::names`]).

pub(crate) mod generation;
pub(crate) mod stage;
mod topics;

pub use topics::{Partitions, Topic};

use crate::resources::{Id, Kind};
use crate::validate::{Outcome, Validation};
use headwater_crds::pod::Pod;
use headwater_engine::{config, names::Owner};
use std::collections::{BTreeMap, BTreeSet};

/// Where things are in the process that runs a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Directory below which a Secret's key is the file `<secret>/<key>`.
    pub secrets_root: String,
}

impl Default for Options {
    /// As in the pods that the operator creates.
    fn default() -> Self {
        Self {
            secrets_root: "/etc/headwater/secrets".to_owned(),
        }
    }
}

/// Topics and stages of one namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub namespace: String,
    /// A topic comes after those that its number of partitions follows.
    pub topics: Vec<Topic>,
    /// Views first, then agents, by name.
    pub stages: Vec<Stage>,
    /// For each view and agent, how it is read and why, a line each.
    pub why: BTreeMap<Id, Vec<String>>,
}

/// One process kind of the data plane, and how many of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub kind: Owner,
    pub name: String,
    /// Name of the KafkaCluster.
    pub cluster: String,
    pub config: config::Stage,
    /// 0 where the agent is suspended.
    pub replicas: u32,
    pub pod: Pod,
    /// Keys of Secrets that are mounted as files: secret -> keys.
    pub secrets: BTreeMap<String, BTreeSet<String>>,
    pub why: Vec<String>,
}

impl Stage {
    /// The resource that the stage belongs to.
    pub fn id(&self) -> Id {
        let kind = if self.kind == Owner::Agent {
            Kind::Agent
        } else {
            Kind::ContextView
        };
        Id::new(kind, &self.name)
    }

    /// Name of its objects in Kubernetes: `<name>-<kind>`.
    pub fn workload(&self) -> String {
        format!("{}-{}", self.name, self.kind)
    }
}

/// Plans all that works.
pub fn plan(validation: &Validation, options: &Options) -> Plan {
    let mut plan = Plan {
        namespace: validation.namespace.clone(),
        topics: topics::topics(validation),
        stages: Vec::new(),
        why: BTreeMap::new(),
    };
    for (name, view) in working(&validation.views) {
        plan.why
            .insert(Id::new(Kind::ContextView, name), view.why.clone());
        let Some(cluster) = validation.clusters.get(&view.cluster).and_then(Outcome::ok) else {
            continue;
        };
        let Some(mut config) = stage::view(
            &validation.namespace,
            name,
            view,
            cluster,
            &validation.sources,
        ) else {
            continue;
        };
        stage::rebase(&mut config, &options.secrets_root);
        plan.stages.push(Stage {
            kind: Owner::View,
            name: name.to_owned(),
            cluster: view.cluster.clone(),
            config,
            replicas: view.replicas,
            pod: view.pod.clone(),
            secrets: mounts(&cluster.secrets),
            why: view.why.clone(),
        });
    }
    for (name, agent) in working(&validation.agents) {
        plan.why
            .insert(Id::new(Kind::Agent, name), agent.why.clone());
        let Some(cluster) = validation
            .clusters
            .get(&agent.cluster)
            .and_then(Outcome::ok)
        else {
            continue;
        };
        let Some(mut config) = stage::agent(
            &validation.namespace,
            agent,
            cluster,
            &validation.sources,
            &validation.views,
        ) else {
            continue;
        };
        stage::rebase(&mut config, &options.secrets_root);
        plan.stages.push(Stage {
            kind: Owner::Agent,
            name: name.to_owned(),
            cluster: agent.cluster.clone(),
            config,
            replicas: if agent.suspend { 0 } else { agent.replicas },
            pod: agent.pod.clone(),
            secrets: mounts(&agent.secrets),
            why: agent.why.clone(),
        });
    }
    plan
}

pub(crate) fn working<T>(all: &BTreeMap<String, Outcome<T>>) -> impl Iterator<Item = (&str, &T)> {
    all.iter()
        .filter_map(|(name, outcome)| Some((name.as_str(), outcome.ok()?)))
}

fn mounts(keys: &BTreeSet<crate::resources::SecretKey>) -> BTreeMap<String, BTreeSet<String>> {
    let mut mounts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for key in keys {
        mounts
            .entry(key.secret.clone())
            .or_default()
            .insert(key.key.clone());
    }
    mounts
}
