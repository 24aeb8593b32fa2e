//! The API server's objects in memory: the six kinds, and the StatefulSets that the operator made.
//!
//! What nobody reads (managed fields, the last applied manifest) is dropped before an object is kept.
//! A change wakes the namespace that it is in.

use crate::build::MANAGED;
use crate::resources::{Object, Resources};
use crate::snapshot::{Managed, Snapshot};
use futures::StreamExt;
use headwater_crds::{Agent, ContextView, EventSource, KafkaCluster, Model, ToolServer};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::Store;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Objects that one request lists at most: bounds what a start holds in memory twice.
const PAGE: u32 = 100;

/// Namespaces in which something changed.
#[derive(Default)]
pub(crate) struct Wakes {
    changed: Mutex<BTreeSet<String>>,
    notify: Notify,
}

impl Wakes {
    fn wake(&self, namespaces: impl IntoIterator<Item = String>) {
        self.changed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(namespaces);
        self.notify.notify_one();
    }

    /// Waits for changes and takes them.
    pub(crate) async fn take(&self) -> BTreeSet<String> {
        loop {
            let changed =
                std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner));
            if !changed.is_empty() {
                return changed;
            }
            self.notify.notified().await;
        }
    }
}

/// One kind, in all namespaces or in each of some.
struct Kept<K: kube::Resource<DynamicType = ()> + Clone + 'static>(Vec<Store<K>>);

impl<K: kube::Resource<DynamicType = ()> + Clone + 'static> Kept<K> {
    fn of(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0
            .iter()
            .flat_map(|store| {
                store.state_filter(|object| object.meta().namespace.as_deref() == Some(namespace))
            })
            .collect()
    }

    async fn ready(&self) -> bool {
        for store in &self.0 {
            if store.wait_until_ready().await.is_err() {
                return false;
            }
        }
        true
    }
}

pub(crate) struct Stores {
    clusters: Kept<KafkaCluster>,
    models: Kept<Model>,
    sources: Kept<EventSource>,
    views: Kept<ContextView>,
    tool_servers: Kept<ToolServer>,
    agents: Kept<Agent>,
    sets: Kept<StatefulSet>,
}

/// Everything of one namespace, at one moment.
pub(crate) struct Content {
    /// Without what is being deleted.
    pub(crate) resources: Resources,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) sets: BTreeMap<String, Arc<StatefulSet>>,
}

impl Stores {
    /// Starts watching; tasks end with `shutdown`.
    pub(crate) fn watch(
        client: &Client,
        namespaces: &[String],
        wakes: &Arc<Wakes>,
        tasks: &mut JoinSet<()>,
        shutdown: &CancellationToken,
    ) -> Self {
        let plain = || watcher::Config::default().page_size(PAGE);
        let mut watching = Watching {
            client,
            namespaces,
            wakes,
            tasks,
            shutdown,
        };
        Self {
            clusters: watching.kind(plain()),
            models: watching.kind(plain()),
            sources: watching.kind(plain()),
            views: watching.kind(plain()),
            tool_servers: watching.kind(plain()),
            agents: watching.kind(plain()),
            sets: watching.kind(plain().labels(MANAGED)),
        }
    }

    /// Waits until everything is listed once; false if a watch ended before.
    pub(crate) async fn ready(&self) -> bool {
        self.clusters.ready().await
            && self.models.ready().await
            && self.sources.ready().await
            && self.views.ready().await
            && self.tool_servers.ready().await
            && self.agents.ready().await
            && self.sets.ready().await
    }

    pub(crate) fn content(&self, namespace: &str) -> Content {
        let mut content = Content {
            resources: Resources::new(namespace),
            snapshots: Vec::new(),
            sets: self
                .sets
                .of(namespace)
                .into_iter()
                .map(|set| (set.name_any(), set))
                .collect(),
        };
        take(&mut content, &self.clusters, Object::KafkaCluster);
        take(&mut content, &self.models, Object::Model);
        take(&mut content, &self.sources, Object::EventSource);
        take(&mut content, &self.views, Object::ContextView);
        take(&mut content, &self.tool_servers, Object::ToolServer);
        take(&mut content, &self.agents, Object::Agent);
        content.snapshots.sort_by(|a, b| a.id.cmp(&b.id));
        content
    }
}

fn take<K: Managed + Clone + 'static>(
    content: &mut Content,
    kept: &Kept<K>,
    object: fn(Arc<K>) -> Object,
) {
    for found in kept.of(&content.resources.namespace.clone()) {
        content.snapshots.push(found.snapshot());
        if found.meta().deletion_timestamp.is_none() {
            content.resources.add(object(found));
        }
    }
}

struct Watching<'a> {
    client: &'a Client,
    namespaces: &'a [String],
    wakes: &'a Arc<Wakes>,
    tasks: &'a mut JoinSet<()>,
    shutdown: &'a CancellationToken,
}

impl Watching<'_> {
    fn kind<K>(&mut self, config: watcher::Config) -> Kept<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let apis: Vec<Api<K>> = if self.namespaces.is_empty() {
            vec![Api::all(self.client.clone())]
        } else {
            self.namespaces
                .iter()
                .map(|namespace| Api::namespaced(self.client.clone(), namespace))
                .collect()
        };
        Kept(
            apis.into_iter()
                .map(|api| self.one(api, config.clone()))
                .collect(),
        )
    }

    fn one<K>(&mut self, api: Api<K>, config: watcher::Config) -> Store<K>
    where
        K: kube::Resource<DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let (store, writer) = reflector::store();
        let mut events = watcher::watcher(api, config)
            .default_backoff()
            .modify(trim)
            .reflect(writer)
            .boxed();
        let (wakes, shutdown) = (Arc::clone(self.wakes), self.shutdown.clone());
        let known = store.clone();
        self.tasks.spawn(async move {
            // Namespaces that were known before a list began: what is missing after it was deleted unseen.
            let mut before = BTreeSet::new();
            loop {
                let event = tokio::select! {
                    () = shutdown.cancelled() => return,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(Event::Apply(object) | Event::Delete(object))) => wakes.wake(object.namespace()),
                    Some(Ok(Event::Init)) => before = namespaces(&known),
                    Some(Ok(Event::InitApply(_))) => {}
                    Some(Ok(Event::InitDone)) => wakes.wake(namespaces(&known).union(&before).cloned()),
                    Some(Err(error)) => tracing::warn!(kind = %K::kind(&()), %error, "watching the API server failed, it is tried again"),
                    None => return,
                }
            }
        });
        store
    }
}

fn namespaces<K: kube::Resource<DynamicType = ()> + Clone + 'static>(
    store: &Store<K>,
) -> BTreeSet<String> {
    store
        .state()
        .iter()
        .filter_map(|object| object.meta().namespace.clone())
        .collect()
}

fn trim<K: kube::Resource>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}
