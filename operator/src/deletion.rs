//! `deletionPolicy: Delete`: topics go with their resource.
//!
//! Only then has a resource a finalizer. The workload goes first, pods and all, so that nothing writes
//! to a topic that is being deleted; then topics, by the ids recorded when they were created; then the
//! finalizer. Kafka out of reach for five minutes is no reason to hold a namespace: what is left is
//! named in an Event.

use crate::apply::{self, Removal};
use crate::brokers::{Brokers, Key};
use crate::build;
use crate::kafka::Connection;
use crate::reason::Reason;
use crate::snapshot::{Snapshot, api_resource};
use crate::topics;
use headwater_crds::common::DeletionPolicy;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const FINALIZER: &str = "headwater.dev/topics";
/// How long Kafka may be out of reach before a resource is let go of.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// Whether a resource that is not being deleted must get, or lose, the finalizer.
pub(crate) fn finalizer_differs(snapshot: &Snapshot) -> bool {
    let has = snapshot
        .finalizers
        .iter()
        .any(|finalizer| finalizer == FINALIZER);
    has != (snapshot.deletion == DeletionPolicy::Delete)
}

/// Sets or takes the finalizer, if the resource is still the one that was looked at.
///
/// # Errors
/// The API server's. A resource that changed or went in the meantime is no error: it is looked at again.
pub(crate) async fn finalizer(
    client: &Client,
    namespace: &str,
    snapshot: &Snapshot,
    wanted: bool,
) -> kube::Result<()> {
    let mut finalizers: Vec<&str> = snapshot
        .finalizers
        .iter()
        .map(String::as_str)
        .filter(|finalizer| *finalizer != FINALIZER)
        .collect();
    if wanted {
        finalizers.push(FINALIZER);
    }
    let patch = json!({"metadata": {
        "uid": snapshot.uid,
        "resourceVersion": snapshot.resource_version,
        "finalizers": finalizers,
    }});
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &api_resource(snapshot.id.kind));
    match api
        .patch(
            &snapshot.id.name,
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A resource that is going, and what it takes along.
pub(crate) struct Going {
    pub(crate) namespace: String,
    pub(crate) snapshot: Snapshot,
    /// Names of its StatefulSets.
    pub(crate) workloads: BTreeSet<String>,
    pub(crate) topics: BTreeMap<String, String>,
    pub(crate) cluster: String,
    /// `None` where nobody knows any more how to reach Kafka.
    pub(crate) connection: Option<Connection>,
}

/// One attempt; true if the resource was let go of. What it could not do, the next one does.
///
/// # Errors
/// The API server's.
pub(crate) async fn attempt(
    client: &Client,
    brokers: &Brokers,
    recorder: &Recorder,
    going: Going,
) -> Result<bool, Error> {
    let Going {
        namespace,
        snapshot,
        workloads,
        topics,
        cluster,
        connection,
    } = going;
    let [.., stateful_set] = build::kinds();
    let mut under_way = false;
    for workload in &workloads {
        let removal =
            apply::remove(client, &namespace, &stateful_set, workload, &snapshot.uid).await?;
        under_way |= removal == Removal::UnderWay;
    }
    if under_way {
        return Ok(false);
    }
    let left = match connection {
        _ if topics.is_empty() => BTreeMap::new(),
        None => topics,
        Some(Connection { settings, version }) => {
            let all = topics.clone();
            let key = Key {
                namespace: namespace.clone(),
                cluster,
            };
            match brokers
                .with(&key, &version, &settings, move |admin| {
                    topics::delete(admin, &all)
                })
                .await
            {
                Ok(left) => left,
                Err(error) => {
                    tracing::warn!(namespace, resource = %snapshot.id, %error, "deleting topics");
                    topics
                }
            }
        }
    };
    if !left.is_empty() {
        let since = snapshot.deleting.map_or(SignedDuration::ZERO, |at| {
            Timestamp::now().duration_since(at)
        });
        if since < PATIENCE {
            return Ok(false);
        }
        let names = left.keys().cloned().collect::<Vec<_>>().join(", ");
        tracing::warn!(namespace, resource = %snapshot.id, topics = names, "topics are left behind");
        let event = Event {
            type_: EventType::Warning,
            reason: Reason::TopicsLeft.as_str().to_owned(),
            note: Some(note(&format!(
                "Kafka was out of reach for five minutes; delete these topics yourself: {names}"
            ))),
            action: "Delete".to_owned(),
            secondary: None,
        };
        // In a namespace that is going nobody may create Events any more; the log has it.
        if let Err(error) = recorder
            .publish(&event, &snapshot.reference(&namespace))
            .await
        {
            tracing::warn!(namespace, resource = %snapshot.id, %error, "the Event was not taken");
        }
    }
    finalizer(client, &namespace, &snapshot, false)
        .await
        .map_err(Error::Finalizer)?;
    Ok(true)
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Workload(#[from] apply::Error),
    #[error("the finalizer could not be taken away")]
    Finalizer(#[source] kube::Error),
}

/// The API server takes notes of up to a kilobyte.
pub(crate) fn note(text: &str) -> String {
    let mut end = text.len().min(1_000);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
