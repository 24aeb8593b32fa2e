//! One namespace: dereference, validate, plan, topics, apply, status; again whenever something changed.
//!
//! A task of its own per namespace, one round at a time. Everything of the namespace is looked at in a
//! round, so whatever mends a resource mends those that refer to it in the same round. A round that
//! finds nothing different writes nothing.

mod objects;

use crate::apply;
use crate::brokers::Brokers;
use crate::build;
use crate::deletion::{self, Going};
use crate::generations::{self, Around, Look};
use crate::judge::{self, Verdict};
use crate::kafka::{Answer, Clusters};
use crate::kept::Archive;
use crate::metrics::Metrics;
use crate::plan::{self, Plan, Stage, agent_workload, plan_generations, view_workload};
use crate::reason::Reason;
use crate::removals::{Removals, Removed};
use crate::resources::Kind;
use crate::secrets::Secrets;
use crate::snapshot::Snapshot;
use crate::status;
use crate::stores::{Content, Stores};
use crate::validate::{self, Problem, Validation, validate};
use jiff::Timestamp;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(100);
/// How soon a round is repeated that the API server did not let finish.
const RETRY: Duration = Duration::from_secs(5);
/// Least time between two attempts to delete what a resource takes along.
const PACE: Duration = Duration::from_secs(2);
/// How long an object that was found right is believed to be so, if nothing says otherwise.
const BELIEVED: Duration = Duration::from_secs(600);
/// Answers of clusters that wait to be read: more than that many clusters in a namespace wait to be heard.
const ANSWERS: usize = 16;

/// What all namespaces share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) stores: Stores,
    pub(crate) brokers: Arc<Brokers>,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) validation: validate::Settings,
    pub(crate) build: build::Settings,
}

/// When, and in which form, an object was last found right.
struct Verified {
    hash: String,
    /// Generation of a StatefulSet: it changes with whatever somebody else does to its spec.
    generation: Option<i64>,
    at: Instant,
}

struct Namespace {
    name: String,
    shared: Arc<Shared>,
    secrets: Secrets,
    clusters: Clusters,
    verified: BTreeMap<(String, String), Verified>,
    archive: Archive,
    removals: Removals,
    /// Topics created for each resource, by its uid: newer than what its status in the store may say.
    created: BTreeMap<String, BTreeMap<String, String>>,
    /// KafkaCluster of each resource, by its uid.
    homes: BTreeMap<String, String>,
    /// Deletions under way, each of which gives back the uid it was about.
    deletions: JoinSet<String>,
    /// When the last attempt of each began, and whether it is still under way.
    attempts: BTreeMap<String, (Instant, bool)>,
}

/// Looks after a namespace until told to stop.
pub(crate) async fn look_after(
    name: String,
    shared: Arc<Shared>,
    changed: Arc<Notify>,
    stop: CancellationToken,
) {
    let (sender, mut answers) = mpsc::channel::<Answer>(ANSWERS);
    let mut namespace = Namespace {
        clusters: Clusters::new(
            &name,
            Arc::clone(&shared.brokers),
            Arc::clone(&shared.metrics),
            sender,
        ),
        name,
        shared,
        secrets: Secrets::default(),
        verified: BTreeMap::new(),
        archive: Archive::default(),
        removals: Removals::default(),
        created: BTreeMap::new(),
        homes: BTreeMap::new(),
        deletions: JoinSet::new(),
        attempts: BTreeMap::new(),
    };
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep_until(next.into()) => {}
            Some(answer) = answers.recv() => namespace.clusters.accept(answer),
            Some(over) = namespace.deletions.join_next() => namespace.attempted(over),
            removed = namespace.removals.next() => namespace.removed(removed),
        }
        while let Ok(answer) = answers.try_recv() {
            namespace.clusters.accept(answer);
        }
        while let Some(over) = namespace.deletions.try_join_next() {
            namespace.attempted(over);
        }
        let began = Instant::now();
        let done = namespace.round().await;
        namespace.shared.metrics.reconciled(!done, began.elapsed());
        let mut wakes = vec![began + if done { BELIEVED } else { RETRY }];
        wakes.extend(namespace.secrets.next());
        wakes.extend(namespace.clusters.next());
        // Never at once: what is due but could not be done now is tried again after a moment.
        next = wakes
            .into_iter()
            .min()
            .unwrap_or(began)
            .max(Instant::now() + Duration::from_secs(1));
    }
}

impl Namespace {
    /// True if all was done that could be.
    async fn round(&mut self) -> bool {
        let Content {
            mut resources,
            snapshots,
            sets,
        } = self.shared.stores.content(&self.name);
        let mut done = self.refresh_secrets(&resources).await;
        resources.secrets = self.secrets.known();
        let validation = validate(&resources, &self.shared.validation);
        self.recall(&snapshots);
        self.archive
            .refresh(&self.shared.client, &validation, &snapshots, &sets)
            .await;
        done &= self.archive.unread.is_empty();
        let settled = generations::settle(&Around {
            validation: &validation,
            snapshots: &snapshots,
            sets: &sets,
            kept: &self.archive.generations,
            unread: &self.archive.unread,
            created: &self.created,
            seen: validation
                .clusters
                .keys()
                .filter_map(|name| Some((name.as_str(), self.clusters.seen(name)?)))
                .collect(),
        });
        let mut plan = plan_generations(&validation, &settled.views, &plan::Options::default());
        let held = generations::hold_back(&mut plan, &validation);
        done &= self.finalizers(&snapshots).await;
        let known = self.ask_kafka(&validation, &plan, &settled.looks);
        self.remember(&snapshots, &known);
        let findings = validation.findings();
        let troubles = judge::troubles(&validation, &known);
        for snapshot in &snapshots {
            if snapshot.deleting.is_some() {
                self.delete(snapshot, &sets);
                done &= snapshot.finalizers.is_empty();
                continue;
            }
            let of_it = |stage: &&Stage| stage.id() == snapshot.id;
            let stages: Vec<&Stage> = plan.stages.iter().filter(of_it).collect();
            let progress = (snapshot.id.kind == Kind::ContextView)
                .then(|| settled.progress.get(&snapshot.id.name))
                .flatten();
            // What is read is shown.
            let read = progress.and_then(|progress| progress.step.read.as_ref());
            let stage = stages
                .iter()
                .find(|stage| read.is_none() || stage.generation.as_ref() == read)
                .copied();
            let planned = judge::Planned {
                validation: &validation,
                plan: &plan,
                known: &known,
                findings: &findings,
                troubles: &troubles,
                progress: &settled.progress,
                held: &held,
            };
            let mut failed = Vec::new();
            if planned.works(&snapshot.id) {
                failed = self.bring_about(snapshot, &stages, progress, &sets).await;
                done &= failed.is_empty();
                if let Some(progress) = progress {
                    self.remove_topics(snapshot, progress);
                }
            }
            let set = judge::set_of(snapshot, stage, &sets);
            let created = self.created.get(&snapshot.uid).cloned().unwrap_or_default();
            let Some(verdict) = planned.verdict(snapshot, stage, set, &failed, &created) else {
                continue;
            };
            done &= self.tell(snapshot, &verdict).await;
        }
        done
    }

    async fn refresh_secrets(&mut self, resources: &crate::resources::Resources) -> bool {
        let names = resources.secret_names();
        let of_clusters = crate::resources::Resources {
            clusters: resources.clusters.clone(),
            ..Default::default()
        };
        let refreshed = self
            .secrets
            .refresh(
                &self.shared.client,
                &self.name,
                &names,
                &of_clusters.secret_names(),
            )
            .await;
        if let Err(error) = &refreshed {
            tracing::warn!(namespace = self.name, %error, "a Secret could not be read");
        }
        refreshed.is_ok()
    }

    /// Before anything is created that would have to be deleted.
    async fn finalizers(&self, snapshots: &[Snapshot]) -> bool {
        let mut done = true;
        for snapshot in snapshots
            .iter()
            .filter(|snapshot| snapshot.deleting.is_none())
        {
            if !deletion::finalizer_differs(snapshot) {
                continue;
            }
            let wanted = !snapshot
                .finalizers
                .iter()
                .any(|finalizer| finalizer == deletion::FINALIZER);
            match deletion::finalizer(&self.shared.client, &self.name, snapshot, wanted).await {
                Ok(()) => self.shared.metrics.wrote("finalizer"),
                Err(error) => {
                    tracing::warn!(namespace = self.name, resource = %snapshot.id, %error, "the finalizer could not be changed");
                    done = false;
                }
            }
        }
        done
    }

    fn ask_kafka(
        &mut self,
        validation: &Validation,
        plan: &Plan,
        looks: &BTreeMap<String, BTreeSet<Look>>,
    ) -> judge::Known {
        let mut known = judge::Known::default();
        for (name, outcome) in &validation.clusters {
            let Some(cluster) = outcome.ok() else {
                continue;
            };
            // A login without its password would be refused, and say so.
            if !self.secrets.knows(&cluster.secrets) {
                continue;
            }
            let topics = plan
                .topics
                .iter()
                .filter(|topic| topic.cluster == *name)
                .cloned()
                .collect();
            let looks = looks.get(name).cloned().unwrap_or_default();
            if let Some(found) = self
                .clusters
                .ensure(name, cluster, &self.secrets, topics, looks)
            {
                known.insert(name.clone(), found.clone());
            }
        }
        known
    }

    /// What statuses say that was created, where this operator knows nothing newer.
    fn recall(&mut self, snapshots: &[Snapshot]) {
        for snapshot in snapshots {
            self.created
                .entry(snapshot.uid.clone())
                .or_insert_with(|| snapshot.created.clone());
        }
    }

    /// What has to be known of resources after they broke or began to go.
    fn remember(&mut self, snapshots: &[Snapshot], known: &judge::Known) {
        let uids: BTreeSet<&String> = snapshots.iter().map(|snapshot| &snapshot.uid).collect();
        self.created.retain(|uid, _| uids.contains(uid));
        self.homes.retain(|uid, _| uids.contains(uid));
        self.attempts.retain(|uid, _| uids.contains(uid));
        for snapshot in snapshots {
            let created = self.created.entry(snapshot.uid.clone()).or_default();
            for (topic, now) in known.values().flatten().flat_map(|ensured| &ensured.topics) {
                if now.owner != snapshot.id {
                    continue;
                }
                if now.created {
                    created.insert(topic.clone(), now.id.clone());
                } else if created.get(topic).is_some_and(|id| *id != now.id) {
                    // It was deleted and created again by somebody else: not ours any more.
                    created.remove(topic);
                }
            }
            if let Some(home) = home(snapshot, snapshots) {
                self.homes.insert(snapshot.uid.clone(), home.to_owned());
            }
        }
    }

    fn removed(&mut self, removed: Option<Removed>) {
        let Some(Removed { uid, topics }) = removed else {
            return;
        };
        if let Some(created) = self.created.get_mut(&uid) {
            created.retain(|topic, _| !topics.contains(topic));
        }
        if !topics.is_empty() {
            tracing::info!(
                namespace = self.name,
                ?topics,
                "topics of a former generation are deleted"
            );
        }
    }

    fn attempted(&mut self, over: Result<String, tokio::task::JoinError>) {
        match over {
            Ok(uid) => {
                if let Some((_, under_way)) = self.attempts.get_mut(&uid) {
                    *under_way = false;
                }
            }
            // Which one it was is not known; none is attempted twice at once where all are over.
            Err(error) => {
                tracing::error!(namespace = self.name, %error, "a deletion broke off");
                if self.deletions.is_empty() {
                    self.attempts.clear();
                }
            }
        }
    }

    /// In the background: Kafka may take its time, and other resources shall not wait.
    fn delete(
        &mut self,
        snapshot: &Snapshot,
        sets: &BTreeMap<String, Arc<k8s_openapi::api::apps::v1::StatefulSet>>,
    ) {
        let ours = snapshot
            .finalizers
            .iter()
            .any(|finalizer| finalizer == deletion::FINALIZER);
        let paced = self
            .attempts
            .get(&snapshot.uid)
            .is_some_and(|(began, under_way)| *under_way || began.elapsed() < PACE);
        if !ours || paced {
            return;
        }
        self.attempts
            .insert(snapshot.uid.clone(), (Instant::now(), true));
        let home = self
            .homes
            .get(&snapshot.uid)
            .cloned()
            .unwrap_or_else(|| "default".to_owned());
        let going = Going {
            namespace: self.name.clone(),
            snapshot: snapshot.clone(),
            workloads: workloads(snapshot, sets),
            topics: self
                .created
                .get(&snapshot.uid)
                .cloned()
                .unwrap_or_else(|| snapshot.created.clone()),
            connection: self.clusters.connection(&home).cloned(),
            cluster: home,
        };
        let shared = Arc::clone(&self.shared);
        self.deletions.spawn(async move {
            let (namespace, id) = (going.namespace.clone(), going.snapshot.id.clone());
            let uid = going.snapshot.uid.clone();
            match deletion::attempt(&shared.client, &shared.brokers, &shared.recorder, going).await {
                Ok(true) => shared.metrics.wrote("finalizer"),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(namespace, resource = %id, error = %Chain(&error), "a deletion did not get on");
                }
            }
            uid
        });
    }

    /// Writes the status if it says something else than before, and an Event if the reason changed.
    async fn tell(&self, snapshot: &Snapshot, verdict: &Verdict) -> bool {
        let status = status::status(
            snapshot,
            &verdict.state,
            &verdict.warnings,
            verdict.shown.as_ref(),
            Timestamp::now(),
        );
        if status == snapshot.status {
            return true;
        }
        if let Err(error) = status::write(&self.shared.client, &self.name, snapshot, &status).await
        {
            tracing::warn!(namespace = self.name, resource = %snapshot.id, %error, "the status could not be written");
            return false;
        }
        self.shared.metrics.wrote("status");
        self.announce(snapshot, verdict, &status).await;
        true
    }

    async fn announce(&self, snapshot: &Snapshot, verdict: &Verdict, status: &Value) {
        let (before, now) = (
            status::ready_reason(&snapshot.status),
            status::ready_reason(status),
        );
        if before == now {
            return;
        }
        let state = &verdict.state;
        tracing::info!(namespace = self.name, resource = %snapshot.id, reason = %state.reason, message = state.message, "changed");
        let good = matches!(
            state.reason.class(),
            crate::Class::Good | crate::Class::Working
        );
        let event = Event {
            type_: if good {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason: state.reason.as_str().to_owned(),
            note: Some(deletion::note(&state.message)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self
            .shared
            .recorder
            .publish(&event, &snapshot.reference(&self.name))
            .await
        {
            tracing::warn!(namespace = self.name, resource = %snapshot.id, %error, "the Event was not taken");
        }
    }
}

/// Names of the StatefulSets that a resource has or may have: those in the store, and those it may have just been given.
fn workloads(
    snapshot: &Snapshot,
    sets: &BTreeMap<String, Arc<k8s_openapi::api::apps::v1::StatefulSet>>,
) -> BTreeSet<String> {
    let name = &snapshot.id.name;
    let mut workloads: BTreeSet<String> = generations::owned(snapshot, sets)
        .filter_map(|set| set.metadata.name.clone())
        .collect();
    match snapshot.id.kind {
        Kind::ContextView => {
            let remembered = generations::Remembered::of(snapshot);
            let generations = [remembered.served, remembered.building];
            workloads.extend(
                generations
                    .iter()
                    .flatten()
                    .map(|generation| view_workload(name, generation)),
            );
        }
        Kind::Agent => {
            workloads.insert(agent_workload(name));
        }
        Kind::KafkaCluster | Kind::Model | Kind::EventSource | Kind::ToolServer => {}
    }
    workloads
}

/// The KafkaCluster that a resource's topics are on: a source's own, else that of what it reads.
fn home<'a>(snapshot: &'a Snapshot, all: &'a [Snapshot]) -> Option<&'a str> {
    let mut at = snapshot;
    // An agent may read a view, and that a source.
    for _ in 0..2 {
        if at.cluster.is_some() {
            break;
        }
        let reads = at.reads.as_ref()?;
        at = all.iter().find(|other| other.id == *reads)?;
    }
    at.cluster.as_deref()
}

fn problem_of(error: &apply::Error) -> Problem {
    let reason = match error {
        apply::Error::NameTaken { .. } => Reason::NameTaken,
        apply::Error::StillDeleting { .. } | apply::Error::Refused { .. } => {
            Reason::ApiServerFailed
        }
    };
    Problem {
        reason,
        path: "metadata.name".to_owned(),
        message: Chain(error).to_string(),
    }
}

/// An error with what caused it.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Managed;
    use headwater_crds::{Agent, ContextView, EventSource};
    use serde::de::DeserializeOwned;
    use serde_json::json;

    fn named<K: Managed + DeserializeOwned>(name: &str, spec: &Value) -> Snapshot {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        serde_json::from_value::<K>(object).unwrap().snapshot()
    }

    #[test]
    fn topics_of_an_agent_are_on_the_cluster_of_what_triggers_it() {
        let reference = |name: &str| json!({"name": name});
        let from = json!([{"name": "all", "sourceRef": reference("orders")}]);
        let all = [
            named::<EventSource>("orders", &json!({"clusterRef": reference("east")})),
            named::<ContextView>("board", &json!({"from": from})),
            named::<Agent>("a", &json!({"trigger": {"sourceRef": reference("orders")}})),
            named::<Agent>("b", &json!({"trigger": {"viewRef": reference("board")}})),
            named::<Agent>("c", &json!({"trigger": {"viewRef": reference("gone")}})),
        ];
        let homes: Vec<Option<&str>> = all.iter().map(|snapshot| home(snapshot, &all)).collect();
        let east = Some("east");
        assert_eq!(homes, [east, east, east, east, None]);
    }
}
