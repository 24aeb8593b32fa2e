//! What a resource's status says, from what validation, Kafka, the API server and its workload say. Pure.

use crate::build;
use crate::generations::{self, Phase, Progress};
use crate::plan::{Plan, Stage};
use crate::reason::Reason;
use crate::resources::{Id, Kind};
use crate::snapshot::Snapshot;
use crate::status::{Shown, State, topics};
use crate::topics::{Ensured, Known as Topic};
use crate::validate::{Finding, Outcome, Problem, Validation};
use headwater_engine::config::Input;
use k8s_openapi::api::apps::v1::StatefulSet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of each cluster; one that has not answered yet is missing.
pub(crate) type Known = BTreeMap<String, Result<Ensured, Problem>>;

/// What a status is to say.
pub(crate) struct Verdict {
    pub(crate) state: State,
    pub(crate) warnings: Vec<Problem>,
    pub(crate) shown: Option<Shown>,
}

/// Troubles with Kafka of sources, views and agents that are valid themselves, each with those of what it refers to.
pub(crate) fn troubles(validation: &Validation, known: &Known) -> BTreeMap<Id, Vec<Problem>> {
    let mut all: BTreeMap<Id, Vec<Problem>> = BTreeMap::new();
    let own = |id: &Id, cluster: &str| -> Vec<Problem> {
        match known.get(cluster) {
            Some(Err(problem)) => vec![Problem {
                path: "spec".to_owned(),
                ..problem.clone()
            }],
            Some(Ok(ensured)) => ensured.problems.get(id).cloned().into_iter().collect(),
            None => Vec::new(),
        }
    };
    for (name, source) in crate::plan::working(&validation.sources) {
        let id = Id::new(Kind::EventSource, name);
        let problems = own(&id, &source.cluster);
        all.insert(id, problems);
    }
    for (name, view) in crate::plan::working(&validation.views) {
        let id = Id::new(Kind::ContextView, name);
        let mut problems = own(&id, &view.cluster);
        for part in &view.config.from {
            let path = format!("spec.from[name={}].sourceRef.name", part.name);
            problems.extend(waits(
                &all,
                &Id::new(Kind::EventSource, &part.source),
                path,
                &problems,
            ));
        }
        all.insert(id, problems);
    }
    for (name, view) in crate::plan::working(&validation.views) {
        let id = Id::new(Kind::ContextView, name);
        let own = all.get(&id).cloned().unwrap_or_default();
        let joined = view
            .joined()
            .filter_map(|joined| {
                waits(
                    &all,
                    &Id::new(Kind::ContextView, joined),
                    "spec.from".to_owned(),
                    &own,
                )
            })
            .collect::<Vec<_>>();
        all.entry(id).or_default().extend(joined);
    }
    for (name, agent) in crate::plan::working(&validation.agents) {
        let id = Id::new(Kind::Agent, name);
        let mut problems = own(&id, &agent.cluster);
        for source in &agent.sources {
            problems.extend(waits(
                &all,
                &Id::new(Kind::EventSource, source),
                "spec".to_owned(),
                &problems,
            ));
        }
        let slots = agent.config.slots.iter().map(|slot| {
            let path = format!("spec.context[name={}].viewRef.name", slot.name);
            (slot.lookup.view.as_str(), path)
        });
        let trigger = &agent.config.trigger;
        let starts = trigger.from.view().into_iter();
        let starts = starts.map(|view| (view, "spec.trigger.viewRef.name".to_owned()));
        let rows = trigger.for_each.iter();
        let rows = rows.map(|it| {
            (
                it.view.as_str(),
                "spec.trigger.forEach.viewRef.name".to_owned(),
            )
        });
        for (view, path) in starts.chain(rows).chain(slots) {
            problems.extend(waits(
                &all,
                &Id::new(Kind::ContextView, view),
                path,
                &problems,
            ));
        }
        all.insert(id, problems);
    }
    all.retain(|_, problems| !problems.is_empty());
    all
}

/// The trouble of what a resource refers to, unless it has the same one itself.
fn waits(
    all: &BTreeMap<Id, Vec<Problem>>,
    id: &Id,
    path: String,
    own: &[Problem],
) -> Option<Problem> {
    let first = all.get(id)?.first()?;
    if own.iter().any(|problem| problem.message == first.message) {
        return None;
    }
    Some(Problem {
        reason: Reason::DependencyNotReady,
        path,
        message: format!("waits for {id}: {first}"),
    })
}

/// The StatefulSet of a stage, if it is the resource's own.
pub(crate) fn set_of<'a>(
    snapshot: &'a Snapshot,
    stage: Option<&Stage>,
    sets: &'a BTreeMap<String, Arc<StatefulSet>>,
) -> Option<&'a StatefulSet> {
    let mut owned = generations::owned(snapshot, sets);
    match stage {
        Some(stage) => {
            let name = stage.workload();
            owned.find(|set| set.metadata.name.as_deref() == Some(&name))
        }
        None => owned.next(),
    }
}

/// What a round found, for verdicts.
pub(crate) struct Planned<'a> {
    pub(crate) validation: &'a Validation,
    pub(crate) plan: &'a Plan,
    pub(crate) known: &'a Known,
    pub(crate) findings: &'a BTreeMap<Id, Finding<'a>>,
    pub(crate) troubles: &'a BTreeMap<Id, Vec<Problem>>,
    /// How far views are with their generations.
    pub(crate) progress: &'a BTreeMap<String, Progress>,
    /// Agents that wait for a view of another generation, with the view.
    pub(crate) held: &'a BTreeMap<Id, String>,
}

impl Planned<'_> {
    /// Whether objects of the resource may be brought about: it is valid, and its topics are there.
    pub(crate) fn works(&self, id: &Id) -> bool {
        self.findings
            .get(id)
            .is_some_and(|finding| finding.problems.is_empty())
            && !self.troubles.contains_key(id)
            && self
                .cluster(id)
                .is_none_or(|cluster| self.known.get(cluster).is_some_and(Result::is_ok))
    }

    /// `None` while nothing can be said, because Kafka has not answered yet.
    pub(crate) fn verdict(
        &self,
        snapshot: &Snapshot,
        stage: Option<&Stage>,
        set: Option<&StatefulSet>,
        failed: &[Problem],
        created: &BTreeMap<String, String>,
    ) -> Option<Verdict> {
        let id = &snapshot.id;
        let finding = self.findings.get(id)?;
        let mut warnings = finding.warnings.to_vec();
        let broken = |problems: &[Problem], warnings: Vec<Problem>| {
            let running = set.is_some();
            Some(Verdict {
                state: State::of_problems(problems, running),
                warnings,
                shown: None,
            })
        };
        if !finding.problems.is_empty() {
            return broken(finding.problems, warnings);
        }
        let cluster = self.cluster(id);
        let ensured = match cluster.map(|cluster| self.known.get(cluster)) {
            Some(None) => return None,
            Some(Some(Err(problem))) if id.kind == Kind::KafkaCluster => {
                return broken(std::slice::from_ref(problem), warnings);
            }
            Some(Some(Ok(ensured))) => Some(ensured),
            Some(Some(Err(_))) | None => None,
        };
        if let Some(problems) = self.troubles.get(id) {
            return broken(problems, warnings);
        }
        if !failed.is_empty() {
            return broken(failed, warnings);
        }
        let topic = |name: &str| -> Option<&Topic> { ensured?.topics.get(name) };
        warnings.extend(
            ensured
                .iter()
                .flat_map(|ensured| ensured.topics.values())
                .filter(|known| known.owner == *id)
                .filter_map(|known| known.warning.clone()),
        );
        let mut shown = Shown::default();
        let state = match id.kind {
            Kind::KafkaCluster => State::new(
                Reason::Available,
                format!("Kafka answers at {}", self.servers(&id.name)),
            ),
            Kind::Model => State::new(
                Reason::Available,
                "references and Secrets are there; agents ask the model when they run",
            ),
            Kind::ToolServer => State::new(
                Reason::Available,
                "references and Secrets are there; agents see its tools when they ask for them",
            ),
            Kind::EventSource => {
                let source = self.validation.sources.get(&id.name)?.ok()?;
                let name = &source.config.topic;
                let known = topic(name)?;
                shown.topic = Some(name.clone());
                shown.partitions = Some(known.partitions);
                shown.initial_partitions = Some(self.initial_partitions(snapshot, name, known));
                shown.topics = topics(created);
                State::new(
                    Reason::Available,
                    format!(
                        "topic {name} is there, with {} partitions",
                        known.partitions
                    ),
                )
            }
            Kind::ContextView => {
                let progress = self.progress.get(&id.name)?;
                shown.generation.clone_from(&progress.step.served);
                shown.building.clone_from(&progress.step.building);
                let read = stage.and_then(|stage| stage.config.views.get(&id.name));
                if let Some(read) = read {
                    shown.topic = Some(read.state_topic.clone());
                    shown.partitions = topic(&read.state_topic).map(|known| known.partitions);
                }
                let state = self.of_stage(&mut shown, id, stage, set, created);
                self.of_generations(&id.name, progress, state)
            }
            Kind::Agent => {
                let state = self.of_stage(&mut shown, id, stage, set, created);
                match self.held.get(id) {
                    None => state,
                    Some(view) => State::new(
                        Reason::BuildingGeneration,
                        format!(
                            "waits until ContextView '{view}' is built anew, which this configuration needs; the last one that worked goes on running"
                        ),
                    ),
                }
            }
        };
        Some(Verdict {
            state,
            warnings,
            shown: Some(shown),
        })
    }

    fn of_stage(
        &self,
        shown: &mut Shown,
        id: &Id,
        stage: Option<&Stage>,
        set: Option<&StatefulSet>,
        created: &BTreeMap<String, String>,
    ) -> State {
        shown.topics = topics(created);
        shown.plan = self.plan.why.get(id).cloned().unwrap_or_default();
        let Some(stage) = stage else {
            return State::new(
                Reason::BuildingGeneration,
                if id.kind == Kind::Agent {
                    "waits for the first generation of a view that it reads"
                } else {
                    "its first generation is about to be built"
                },
            );
        };
        let status = set.and_then(|set| set.status.as_ref());
        let ready = status
            .and_then(|status| status.ready_replicas)
            .unwrap_or_default();
        shown.replicas = Some(status.map_or(0, |status| status.replicas));
        shown.ready_replicas = Some(ready);
        shown.selector = Some(build::selector_text(stage));
        let wanted = i32::try_from(stage.replicas).unwrap_or(i32::MAX);
        let suspended = self
            .validation
            .agents
            .get(&id.name)
            .and_then(Outcome::ok)
            .is_some_and(|agent| agent.suspend);
        if id.kind == Kind::Agent && suspended {
            return State::new(
                Reason::Suspended,
                "suspend is true: no runs start, triggers wait in Kafka",
            );
        }
        let scaled = set
            .and_then(|set| set.spec.as_ref())
            .is_some_and(|spec| spec.replicas == Some(wanted));
        if scaled && set.is_some_and(generations::is_rolled_out) {
            return State::new(
                Reason::Available,
                if wanted == 1 {
                    "1 pod is ready".to_owned()
                } else {
                    format!("{wanted} pods are ready")
                },
            );
        }
        State::new(
            Reason::RollingOut,
            format!(
                "{ready} of {wanted} pods are ready with the newest configuration; if it stays so, see: kubectl -n {} describe pods -l {}",
                self.plan.namespace,
                build::selector_text(stage)
            ),
        )
    }

    /// What a view's state is besides that of the stage that is read.
    fn of_generations(&self, name: &str, progress: &Progress, read: State) -> State {
        let Progress {
            step,
            wanted,
            lacks,
            grown,
            readers,
            leftover: _,
        } = progress;
        let Some(served) = step.served.as_ref().or(step.read.as_ref()) else {
            return read;
        };
        let because = grown.as_ref().map_or_else(String::new, |topic| {
            format!(" Topic {topic} has more partitions than {served} was built with, and what is in the new ones is missing in it.")
        });
        match step.phase {
            Phase::Building if served != wanted && step.building.as_ref() != Some(wanted) => {
                State::new(
                    Reason::BuildingGeneration,
                    format!(
                        "generation {wanted} is to be built beside {served}, which readers read. Before that Kafka has to say whether the sources hold all it needs (the operator's principal needs Describe and DescribeConfigs on their topics), and what is left of a former {wanted} has to go"
                    ),
                )
            }
            Phase::Building if served != wanted => State::new(
                Reason::BuildingGeneration,
                format!(
                    "generation {wanted} is built beside {served}, which readers read until it has caught up.{because} If it stays so, see: kubectl -n {} describe pods -l {}",
                    self.plan.namespace,
                    build::selector_of_view(name, wanted)
                ),
            ),
            Phase::Building | Phase::Settled => read,
            Phase::Moving => State::new(
                Reason::MovingReaders,
                match readers.len() {
                    0 => {
                        format!("generation {wanted} is read; what was before it is being removed")
                    }
                    _ => format!(
                        "generation {wanted} is ready; what was before it goes once these have moved to it: {}",
                        readers
                            .iter()
                            .map(Id::to_string)
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                },
            ),
            Phase::Refused => State::new(
                Reason::RebuildIncomplete,
                format!(
                    "generation {wanted} is not built, as it would lack something: {}.{because} Generation {served} goes on serving. To build it from what is left, set rebuild to Always; to stay with what is served, undo the change",
                    lacks.join("; ")
                ),
            ),
        }
    }

    /// The fewest partitions that a source's topic was ever seen with: by its status, or by what a view's state was made for.
    fn initial_partitions(&self, snapshot: &Snapshot, name: &str, now: &Topic) -> u32 {
        let before = ["initialPartitions", "partitions"]
            .iter()
            .find_map(|field| snapshot.status.get(*field)?.as_u64())
            .and_then(|count| u32::try_from(count).ok())
            .unwrap_or(now.partitions);
        let states = self
            .plan
            .stages
            .iter()
            .filter_map(|stage| stage.config.views.get(&stage.name))
            .filter(|view| matches!(&view.input, Input::Source { topic } if topic == name))
            .filter_map(|view| {
                let known = self.known.values().flatten();
                known
                    .filter_map(|ensured| ensured.topics.get(&view.state_topic))
                    .map(|state| state.partitions)
                    .next()
            });
        states.fold(before, u32::min).min(now.partitions)
    }

    /// The cluster whose answer decides.
    fn cluster(&self, id: &Id) -> Option<&str> {
        match id.kind {
            Kind::KafkaCluster => self
                .validation
                .clusters
                .get_key_value(&id.name)
                .map(|(name, _)| name.as_str()),
            Kind::EventSource => self
                .validation
                .sources
                .get(&id.name)?
                .ok()
                .map(|source| source.cluster.as_str()),
            Kind::ContextView => self
                .validation
                .views
                .get(&id.name)?
                .ok()
                .map(|view| view.cluster.as_str()),
            Kind::Agent => self
                .validation
                .agents
                .get(&id.name)?
                .ok()
                .map(|agent| agent.cluster.as_str()),
            Kind::Model | Kind::ToolServer => None,
        }
    }

    fn servers(&self, cluster: &str) -> String {
        let cluster = self.validation.clusters.get(cluster).and_then(Outcome::ok);
        cluster
            .map(|cluster| cluster.config.bootstrap_servers.join(","))
            .unwrap_or_default()
    }
}
