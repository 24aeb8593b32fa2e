//! Generations of views, side by side: which there are, which is read, and what is to be done next.
//!
//! Pure: [`settle`] takes what the API server and Kafka hold and gives what the plan is to be about. The
//! decision for one view is [`step`]'s. Views that others join are settled first, since a generation of
//! a view is over the generations that it joins.

mod complete;
mod step;

pub(crate) use complete::{Look, Seen};
pub(crate) use step::{Complete, Phase, Step};

use crate::build;
use crate::plan::{
    Folded, Generation, Generations, Plan, Stage, agent_workload, generation, joined_first, working,
};
use crate::resources::{Id, Kind};
use crate::snapshot::Snapshot;
use crate::validate::{Validation, checked::View};
use headwater_crds::context_view::Rebuild;
use headwater_engine::config;
use headwater_engine::names::Owner;
use k8s_openapi::api::apps::v1::StatefulSet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use step::{Facts, Found, step};

/// Configurations of generations that resources do not ask for any more, by the view's uid and the generation.
pub(crate) type Kept = BTreeMap<(String, String), Generation>;

/// What there is.
pub(crate) struct Around<'a> {
    pub(crate) validation: &'a Validation,
    pub(crate) snapshots: &'a [Snapshot],
    pub(crate) sets: &'a BTreeMap<String, Arc<StatefulSet>>,
    pub(crate) kept: &'a Kept,
    /// Uids of views of which a generation could not be looked up: they are left as they are.
    pub(crate) unread: &'a BTreeSet<String>,
    /// Topics on record, by the uid of their resource.
    pub(crate) created: &'a BTreeMap<String, BTreeMap<String, String>>,
    /// What is known of sources' logs, by cluster.
    pub(crate) seen: BTreeMap<&'a str, &'a BTreeMap<Look, Seen>>,
}

/// What became of each view; one that nothing can be said of now is missing.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) views: BTreeMap<String, Generations>,
    pub(crate) progress: BTreeMap<String, Progress>,
    /// What Kafka has to be asked, by cluster.
    pub(crate) looks: BTreeMap<String, BTreeSet<Look>>,
}

/// How far a view is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) step: Step,
    pub(crate) wanted: String,
    /// What the sources lack.
    pub(crate) lacks: Vec<String>,
    /// A source has more partitions than the generation that is read was built with.
    pub(crate) grown: Option<String>,
    /// Who may read a generation that is not the wanted one.
    pub(crate) readers: BTreeSet<Id>,
    /// Topics, with their ids, of generations that go and have no stage any more.
    pub(crate) leftover: BTreeMap<String, String>,
}

/// Decides for every view that works.
pub(crate) fn settle(around: &Around<'_>) -> Settled {
    let mut settled = Settled::default();
    let mut read: BTreeMap<String, Folded> = BTreeMap::new();
    let readers = Readers::of(around.sets, around.validation);
    for name in joined_first(&around.validation.views) {
        let id = Id::new(Kind::ContextView, name);
        let alive = |snapshot: &&Snapshot| snapshot.id == id && snapshot.deleting.is_none();
        let (Some(view), Some(snapshot)) = (
            around
                .validation
                .views
                .get(name)
                .and_then(|outcome| outcome.ok()),
            around.snapshots.iter().find(alive),
        ) else {
            continue;
        };
        if around.unread.contains(&snapshot.uid) {
            continue;
        }
        let namespace = &around.validation.namespace;
        let Some(wanted) = generation::wanted(namespace, view, &around.validation.sources, &read)
        else {
            continue;
        };
        one(around, &mut settled, &readers, view, snapshot, &wanted);
        if let Some(folded) = settled.views.get(name).and_then(|all| all.read.clone()) {
            read.insert(name.to_owned(), folded);
        }
    }
    settled
}

fn one(
    around: &Around<'_>,
    settled: &mut Settled,
    readers: &Readers,
    view: &View,
    snapshot: &Snapshot,
    wanted: &Generation,
) {
    let name = &view.config.name;
    let stages = stages(snapshot, around.sets);
    let kept = |generation: &String| {
        if generation == wanted.id() {
            return Some(wanted.clone());
        }
        let key = (snapshot.uid.clone(), generation.clone());
        let mut kept = around.kept.get(&key)?.clone();
        // How rows are served is the resource's word, whatever they are folded from.
        kept.folded.config.serve.clone_from(&view.config.serve);
        Some(kept)
    };
    let remembered = Remembered::of(snapshot);
    let adopted = || {
        let ready = stages.iter().filter(|(_, found)| **found == Found::Ready);
        let mut others = ready.map(|(generation, _)| generation.clone());
        others.find(|generation| generation != wanted.id())
    };
    let served = match &remembered {
        Remembered {
            served: None,
            building: None,
        } => adopted(),
        known => known.served.clone(),
    }
    .filter(|generation| kept(generation).is_some());
    let folded = &wanted.folded;
    let (complete, lacks) = match view.rebuild {
        Rebuild::Always => (Complete::Yes, Vec::new()),
        Rebuild::IfComplete => {
            let none = BTreeMap::new();
            let seen = around.seen.get(view.cluster.as_str()).copied();
            complete::judge(&folded.config, &folded.sources, seen.unwrap_or(&none))
        }
    };
    let on_record = topics(around, snapshot);
    let facts = Facts {
        wanted: wanted.id().to_owned(),
        served,
        building: remembered.building,
        used: readers.used(name, &stages),
        topics: on_record.keys().cloned().collect(),
        stages,
        complete,
    };
    let step = step(&facts);
    let begun = facts.building.as_deref() == Some(wanted.id())
        || facts.served.as_deref() == Some(wanted.id());
    // Asked until the status says that it is decided, and on while the answer is no: somebody may change the topic.
    if !begun && facts.served.is_some() && view.rebuild == Rebuild::IfComplete {
        settled
            .looks
            .entry(view.cluster.clone())
            .or_default()
            .extend(complete::looks(&folded.config, &folded.sources));
    }
    let planned = Generations {
        read: step.read.as_ref().and_then(kept).map(|kept| kept.folded),
        stages: step
            .keep
            .iter()
            .filter(|generation| begun || *generation != wanted.id())
            .filter_map(kept)
            .collect(),
    };
    let grown = planned.read.as_ref().and_then(|read| {
        let sources = around.validation.sources.values();
        let config::Input::Source { topic } = &read.config.input else {
            return None;
        };
        sources
            .filter_map(|source| source.ok())
            .find(|source| source.grown && source.config.topic == *topic)
            .map(|source| source.config.topic.clone())
    });
    settled.views.insert(name.clone(), planned);
    settled.progress.insert(
        name.clone(),
        Progress {
            wanted: wanted.id().to_owned(),
            lacks,
            grown,
            readers: readers.of_others(name, wanted.id()),
            leftover: on_record
                .into_iter()
                .filter(|(generation, _)| {
                    step.remove.contains(generation) && !facts.stages.contains_key(generation)
                })
                .flat_map(|(_, topics)| topics)
                .collect(),
            step,
        },
    );
}

/// What the status remembers.
pub(crate) struct Remembered {
    pub(crate) served: Option<String>,
    pub(crate) building: Option<String>,
}

impl Remembered {
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let text = |field: &str| {
            let value = snapshot.status.get(field)?.as_str()?;
            Some(value.to_owned())
        };
        Self {
            served: text("generation"),
            building: text("building"),
        }
    }
}

/// The stages of a view that exist, by generation.
fn stages(
    snapshot: &Snapshot,
    sets: &BTreeMap<String, Arc<StatefulSet>>,
) -> BTreeMap<String, Found> {
    owned(snapshot, sets)
        .filter_map(|set| {
            let found = if set.metadata.deletion_timestamp.is_some() {
                Found::Going
            } else if is_rolled_out(set) && ready(set) >= 1 {
                Found::Ready
            } else {
                Found::NotReady
            };
            Some((build::generation_of(set)?.to_owned(), found))
        })
        .collect()
}

/// The StatefulSets that a resource controls.
pub(crate) fn owned<'a>(
    snapshot: &'a Snapshot,
    sets: &'a BTreeMap<String, Arc<StatefulSet>>,
) -> impl Iterator<Item = &'a StatefulSet> {
    sets.values().map(Arc::as_ref).filter(|set| {
        let owners = set.metadata.owner_references.as_deref().unwrap_or_default();
        owners.iter().any(|owner| owner.uid == snapshot.uid)
    })
}

fn ready(set: &StatefulSet) -> i32 {
    let status = set.status.as_ref();
    status
        .and_then(|status| status.ready_replicas)
        .unwrap_or_default()
}

/// Whether all pods have the newest configuration and are ready.
pub(crate) fn is_rolled_out(set: &StatefulSet) -> bool {
    let wanted = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    set.status.as_ref().is_some_and(|status| {
        status.observed_generation >= set.metadata.generation
            && status.updated_replicas.unwrap_or_default() >= wanted
            && status.replicas == wanted
            && ready(set) >= wanted
    })
}

/// Topics on record of a view's generations, by generation.
pub(crate) fn topics(
    around: &Around<'_>,
    snapshot: &Snapshot,
) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let created = around.created.get(&snapshot.uid);
    for (topic, id) in created.into_iter().flatten() {
        let namespace = &around.validation.namespace;
        if let Some(generation) =
            headwater_engine::names::generation_of(namespace, &snapshot.id.name, topic)
        {
            all.entry(generation.to_owned())
                .or_default()
                .insert(topic.clone(), id.clone());
        }
    }
    all
}

/// Which generations of views the stages of others read.
struct Readers {
    all: Vec<Reader>,
}

struct Reader {
    id: Id,
    reads: BTreeMap<String, String>,
    /// Views of which it may read any generation: pods of a former configuration may still run, or it was just made.
    unknown: BTreeSet<String>,
}

impl Readers {
    fn of(sets: &BTreeMap<String, Arc<StatefulSet>>, validation: &Validation) -> Self {
        let mut all = Vec::new();
        for set in sets.values() {
            let (Some(reads), Some(owner), Some(name)) = (
                build::reads_of(set),
                build::owner_of(set),
                build::instance_of(set),
            ) else {
                continue;
            };
            // A view that joins no other reads none.
            if owner == Owner::View && reads.is_empty() {
                continue;
            }
            let kind = if owner == Owner::Agent {
                Kind::Agent
            } else {
                Kind::ContextView
            };
            let settled = is_rolled_out(set) && set.metadata.deletion_timestamp.is_none();
            all.push(Reader {
                id: Id::new(kind, name),
                reads,
                unknown: if settled {
                    BTreeSet::new()
                } else {
                    validation.views.keys().cloned().collect()
                },
            });
        }
        // Created a moment ago, it may not be in the store yet.
        for (name, agent) in working(&validation.agents) {
            if !sets.contains_key(&agent_workload(name)) {
                all.push(Reader {
                    id: Id::new(Kind::Agent, name),
                    reads: BTreeMap::new(),
                    unknown: agent.views.clone(),
                });
            }
        }
        Self { all }
    }

    fn used(&self, view: &str, stages: &BTreeMap<String, Found>) -> BTreeSet<String> {
        let read = |reader: &Reader| reader.reads.get(view).cloned();
        let mut used: BTreeSet<String> = self.all.iter().filter_map(read).collect();
        if self.all.iter().any(|reader| reader.unknown.contains(view)) {
            let there = stages.iter().filter(|(_, found)| **found != Found::Going);
            used.extend(there.map(|(generation, _)| generation.clone()));
        }
        used
    }

    fn of_others(&self, view: &str, wanted: &str) -> BTreeSet<Id> {
        self.all
            .iter()
            .filter(|reader| {
                let other = reader.reads.get(view).is_some_and(|read| read != wanted);
                other || reader.unknown.contains(view)
            })
            .map(|reader| reader.id.clone())
            .collect()
    }
}

/// Takes agents out of the plan that do not fit the generations they would read now, as one that names
/// an index which only the next one has; says for which view each waits.
pub(crate) fn hold_back(plan: &mut Plan, validation: &Validation) -> BTreeMap<Id, String> {
    let mut held = BTreeMap::new();
    plan.stages.retain(|stage| {
        let Some(view) = older(stage, validation) else {
            return true;
        };
        if headwater_engine::agent::Agent::compile(&stage.config).is_ok() {
            return true;
        }
        held.insert(stage.id(), view);
        false
    });
    held
}

/// A view of which an agent's stage is given another generation than the resource asks for.
fn older(stage: &Stage, validation: &Validation) -> Option<String> {
    if stage.kind != Owner::Agent {
        return None;
    }
    let differs = |(view, generation): &(&str, &str)| {
        let outcome = validation.views.get(*view);
        outcome
            .and_then(|outcome| outcome.ok())
            .is_some_and(|checked| checked.config.generation != *generation)
    };
    stage
        .reads()
        .into_iter()
        .find(differs)
        .map(|(view, _)| view.to_owned())
}
