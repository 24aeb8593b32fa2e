//! What the resources of a namespace come to: topics, stages with their configuration, and why. Pure and
//! deterministic: equal resources give equal bytes.
//!
//! Only what works is planned: of a broken resource there is no topic and no stage in the plan. Names of
//! internal topics are the engine's ([`headwater_engine::names`]).

pub(crate) mod generation;
pub(crate) mod stage;
mod topics;

pub use generation::{Folded, Generation};
pub use topics::{Partitions, Topic};

use crate::resources::{Id, Kind};
use crate::validate::{Outcome, Validation, checked::View};
use headwater_crds::pod::Pod;
use headwater_engine::{
    config::{self, Role},
    names::Owner,
};
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

/// The generations of one view that there are to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generations {
    /// The one that readers read; `None` while there is none yet.
    pub read: Option<Folded>,
    /// Each has a stage and topics.
    pub stages: Vec<Generation>,
}

/// One process kind of the data plane, and how many of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    pub kind: Owner,
    pub name: String,
    /// Of a view.
    pub generation: Option<String>,
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

    /// Name of its objects in Kubernetes: `<name>-agent`, or `<name>-<generation>`, which is at most 52 characters.
    pub fn workload(&self) -> String {
        match &self.generation {
            Some(generation) => view_workload(&self.name, generation),
            None => agent_workload(&self.name),
        }
    }

    /// The generations of other views that it reads, by view.
    pub fn reads(&self) -> BTreeMap<&str, &str> {
        let own = (self.kind == Owner::View).then_some(&self.name);
        self.config
            .views
            .values()
            .filter(|view| Some(&view.name) != own)
            .map(|view| (view.name.as_str(), view.generation.as_str()))
            .collect()
    }
}

/// Name of the objects of a generation of a view.
pub(crate) fn view_workload(view: &str, generation: &str) -> String {
    format!("{view}-{generation}")
}

/// Name of an agent's objects.
pub(crate) fn agent_workload(agent: &str) -> String {
    format!("{agent}-{}", Owner::Agent)
}

/// Plans all that works, each view as the only generation that its resource asks for.
pub fn plan(validation: &Validation, options: &Options) -> Plan {
    plan_generations(validation, &declared(validation), options)
}

/// What views come to where none was built before.
fn declared(validation: &Validation) -> BTreeMap<String, Generations> {
    let mut all = BTreeMap::new();
    let mut read = BTreeMap::new();
    for name in joined_first(&validation.views) {
        let Some(view) = validation.views.get(name).and_then(Outcome::ok) else {
            continue;
        };
        let namespace = &validation.namespace;
        let Some(generation) = generation::wanted(namespace, view, &validation.sources, &read)
        else {
            continue;
        };
        read.insert(name.to_owned(), generation.folded.clone());
        let generations = Generations {
            read: Some(generation.folded.clone()),
            stages: vec![generation],
        };
        all.insert(name.to_owned(), generations);
    }
    all
}

/// Names of the views that work, those first that others join.
pub(crate) fn joined_first(views: &BTreeMap<String, Outcome<View>>) -> Vec<&str> {
    fn visit<'a>(
        name: &'a str,
        views: &'a BTreeMap<String, Outcome<View>>,
        seen: &mut BTreeSet<&'a str>,
        order: &mut Vec<&'a str>,
    ) {
        let Some(view) = views.get(name).and_then(Outcome::ok) else {
            return;
        };
        if seen.insert(name) {
            for joined in view.joined() {
                visit(joined, views, seen, order);
            }
            order.push(name);
        }
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for name in views.keys() {
        visit(name, views, &mut seen, &mut order);
    }
    order
}

/// Generations of a view write its changes as long as there is an agent that they trigger.
fn with_changes(
    validation: &Validation,
    views: &BTreeMap<String, Generations>,
) -> BTreeMap<String, Generations> {
    let namespace = &validation.namespace;
    let mut views = views.clone();
    for (name, generations) in &mut views {
        let wanted = validation.triggering.contains(name);
        let stages = generations.stages.iter_mut().map(|it| &mut it.folded);
        for folded in stages.chain(&mut generations.read) {
            folded.write_changes(namespace, wanted);
        }
    }
    views
}

/// How many replicas there are of all agents that ask a model, be it in the place of another, by its name.
fn users(validation: &Validation) -> BTreeMap<String, u32> {
    let mut users: BTreeMap<String, u32> = BTreeMap::new();
    for (_, agent) in working(&validation.agents).filter(|(_, agent)| !agent.suspend) {
        let models = agent.config.model.iter().flat_map(|model| model.chain());
        for model in models {
            *users.entry(model.name.clone()).or_default() += agent.replicas;
        }
    }
    users
}

/// Plans all that works, with these generations of views.
pub(crate) fn plan_generations(
    validation: &Validation,
    views: &BTreeMap<String, Generations>,
    options: &Options,
) -> Plan {
    let namespace = &validation.namespace;
    let views = &with_changes(validation, views);
    let mut plan = Plan {
        namespace: namespace.clone(),
        topics: topics::topics(validation, views),
        stages: Vec::new(),
        why: BTreeMap::new(),
    };
    let mut read = BTreeMap::new();
    for (name, view) in working(&validation.views) {
        plan.why
            .insert(Id::new(Kind::ContextView, name), view.why.clone());
        let (Some(cluster), Some(generations)) = (
            validation.clusters.get(&view.cluster).and_then(Outcome::ok),
            views.get(name),
        ) else {
            continue;
        };
        read.extend(
            generations
                .read
                .clone()
                .map(|folded| (name.to_owned(), folded)),
        );
        for generation in &generations.stages {
            let mut config = stage::view(namespace, generation, cluster);
            stage::rebase(&mut config, &options.secrets_root);
            plan.stages.push(Stage {
                kind: Owner::View,
                name: name.to_owned(),
                generation: Some(generation.id().to_owned()),
                cluster: view.cluster.clone(),
                config,
                replicas: view.replicas,
                pod: view.pod.clone(),
                secrets: mounts(cluster.secrets.union(&view.secrets)),
                why: view.why.clone(),
            });
        }
    }
    let users = users(validation);
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
        let Some(mut config) = stage::agent(namespace, agent, cluster, &validation.sources, &read)
        else {
            continue;
        };
        stage::rebase(&mut config, &options.secrets_root);
        if let Role::Agent(agent) = &mut config.role
            && let Some(model) = &mut agent.model
        {
            model.each_of_chain(|model| {
                let users = users.get(&model.name).copied().unwrap_or_default();
                model.limits = model.limits.divided(users);
            });
        }
        plan.stages.push(Stage {
            kind: Owner::Agent,
            name: name.to_owned(),
            generation: None,
            cluster: agent.cluster.clone(),
            config,
            replicas: if agent.suspend { 0 } else { agent.replicas },
            pod: agent.pod.clone(),
            secrets: mounts(agent.secrets.iter()),
            why: agent.why.clone(),
        });
    }
    plan
}

pub(crate) fn working<T>(all: &BTreeMap<String, Outcome<T>>) -> impl Iterator<Item = (&str, &T)> {
    all.iter()
        .filter_map(|(name, outcome)| Some((name.as_str(), outcome.ok()?)))
}

fn mounts<'a>(
    keys: impl Iterator<Item = &'a crate::resources::SecretKey>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut mounts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for key in keys {
        mounts
            .entry(key.secret.clone())
            .or_default()
            .insert(key.key.clone());
    }
    mounts
}
