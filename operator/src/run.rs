//! The operator's process: leadership, watches, a task for each namespace, shutdown.
//!
//! # Rights
//! What it asks of the API server, and so all that its role has to allow:
//!
//! | resource | verbs | what for |
//! |---|---|---|
//! | the six kinds of `headwater.dev` | list, watch | to know them |
//! | `*/status` of the six kinds | patch | conditions and what they show |
//! | eventsources, contextviews, agents | patch | the finalizer of `deletionPolicy: Delete` |
//! | `*/finalizers` of contextviews, agents | update | owner references that block the owner's deletion |
//! | statefulsets | list, watch (labelled ones), get, create, patch, delete | workloads |
//! | configmaps, services, serviceaccounts, networkpolicies | get, create, patch, delete | what workloads need |
//! | secrets | get | by the names that resources give |
//! | events (`events.k8s.io`) | create, patch | to say what changed |
//! | leases, in its own namespace | get, create, patch | leadership |

use crate::brokers::Brokers;
use crate::build;
use crate::http;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::namespace::{self, Shared};
use crate::stores::{Stores, Wakes};
use crate::validate;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How often connections to Kafka are looked at, to close idle ones.
const TIDY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces whose resources are acted on; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Image of the stages' pods: the operator's own.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Log filter of stages.
    pub log: String,
    /// Whether a NetworkPolicy lets nothing but a stage's port in.
    pub network_policies: bool,
    /// Annotation keys that resources may give their pods; `None`: any but Headwater's own.
    pub pod_annotations: Option<Vec<String>>,
    /// Label keys that resources may give their pods; `None`: any but Headwater's own.
    pub pod_labels: Option<Vec<String>>,
    /// `None`: this is the only operator.
    pub election: Option<Election>,
    /// Where health and metrics are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// Who says so in Events: the pod's name.
    pub identity: String,
}

/// Leader election.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the lease: the operator's own.
    pub namespace: String,
    /// Name of the lease.
    pub lease: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the API server's address and credentials were not found: set KUBECONFIG, or run in a pod with a service account"
    )]
    Configuration(#[source] Box<kube::Error>),
    #[error(
        "no lease: the operator's role must allow to get, create and patch leases in its namespace"
    )]
    Lease(#[source] Box<kube_lease_manager::LeaseManagerError>),
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// Runs the operator with the API server of the environment, until `shutdown`.
///
/// # Errors
/// What keeps it from starting. Later failures are retried, and shown in conditions and logs.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), Error> {
    let client = Client::try_default()
        .await
        .map_err(|error| Error::Configuration(Box::new(error)))?;
    run_with(client, options, shutdown).await
}

/// Runs the operator with this API server, until `shutdown`.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    client: Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let metrics = Arc::new(Metrics::default());
    let ready = Arc::new(AtomicBool::new(false));
    let mut serving = JoinSet::new();
    if let Some(address) = options.listen {
        let served = http::serve(
            address,
            Arc::clone(&metrics),
            Arc::clone(&ready),
            shutdown.clone(),
        );
        serving.spawn(async move {
            served
                .await
                .map_err(|source| Error::Listen { address, source })
        });
    }
    let working = lead(client, &options, &metrics, &ready, &shutdown);
    tokio::pin!(working);
    let result = tokio::select! {
        result = &mut working => result,
        Some(served) = serving.join_next() => match served {
            Ok(Err(error)) => Err(error),
            // Serving ended in order: the shutdown has begun.
            _ => working.await,
        },
    };
    shutdown.cancel();
    while serving.join_next().await.is_some() {}
    result
}

/// Works while it leads.
async fn lead(
    client: Client,
    options: &Options,
    metrics: &Arc<Metrics>,
    ready: &Arc<AtomicBool>,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let mut alone = None;
    let mut leadership = match &options.election {
        Some(election) => Leadership::campaign(
            client.clone(),
            &election.namespace,
            &election.lease,
            &options.identity,
        )
        .await
        .map_err(|error| Error::Lease(Box::new(error)))?,
        None => {
            let (leadership, sender) = Leadership::alone();
            alone = Some(sender);
            leadership
        }
    };
    ready.store(true, Ordering::Relaxed);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            leads = leadership.until(true) => if !leads { break },
        }
        metrics.leads(true);
        tracing::info!("leading");
        let stop = shutdown.child_token();
        let working = work(client.clone(), options, metrics, stop.clone());
        tokio::pin!(working);
        tokio::select! {
            () = &mut working => {}
            _ = leadership.until(false) => {
                tracing::warn!("no longer leading");
                stop.cancel();
                working.await;
            }
        }
        metrics.leads(false);
        if shutdown.is_cancelled() {
            break;
        }
    }
    drop(alone);
    leadership.resign().await;
    Ok(())
}

async fn work(client: Client, options: &Options, metrics: &Arc<Metrics>, stop: CancellationToken) {
    let wakes = Arc::new(Wakes::default());
    let mut tasks = JoinSet::new();
    let stores = Stores::watch(
        &client,
        &options.watch_namespaces,
        &wakes,
        &mut tasks,
        &stop,
    );
    let listed = tokio::select! {
        () = stop.cancelled() => false,
        listed = stores.ready() => listed,
    };
    if listed {
        let shared = Arc::new(Shared {
            recorder: Recorder::new(
                client.clone(),
                Reporter {
                    controller: "headwater-operator".to_owned(),
                    instance: Some(options.identity.clone()),
                },
            ),
            client,
            stores,
            brokers: Arc::new(Brokers::default()),
            metrics: Arc::clone(metrics),
            validation: validate::Settings {
                pod_annotations: options.pod_annotations.clone(),
                pod_labels: options.pod_labels.clone(),
            },
            build: build::Settings {
                image: options.image.clone(),
                image_pull_policy: options.image_pull_policy.clone(),
                log: options.log.clone(),
                network_policies: options.network_policies,
            },
        });
        dispatch(&shared, &wakes, &stop, &mut tasks).await;
    }
    stop.cancel();
    while tasks.join_next().await.is_some() {}
}

struct Attended {
    changed: Arc<Notify>,
    stop: CancellationToken,
}

/// Wakes the task of each namespace in which something changed; starts it with the first resource and ends it with the last.
async fn dispatch(
    shared: &Arc<Shared>,
    wakes: &Wakes,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    let mut attended: BTreeMap<String, Attended> = BTreeMap::new();
    let mut tidy = tokio::time::interval(TIDY);
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            _ = tidy.tick() => {
                shared.brokers.close_idle().await;
                while tasks.try_join_next().is_some() {}
                continue;
            }
            changed = wakes.take() => changed,
        };
        for namespace in changed {
            if shared.stores.content(&namespace).snapshots.is_empty() {
                if let Some(left) = attended.remove(&namespace) {
                    left.stop.cancel();
                }
            } else if let Some(known) = attended.get(&namespace) {
                known.changed.notify_one();
            } else {
                let new = Attended {
                    changed: Arc::new(Notify::new()),
                    stop: stop.child_token(),
                };
                let task = namespace::look_after(
                    namespace.clone(),
                    Arc::clone(shared),
                    Arc::clone(&new.changed),
                    new.stop.clone(),
                );
                tasks.spawn(task);
                attended.insert(namespace, new);
            }
        }
        shared.metrics.namespaces(attended.len());
    }
}
