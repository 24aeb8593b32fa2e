//! What the operator needs of a resource of any kind beyond its spec: identity, life cycle, last status.

use crate::resources::{Id, Kind};
use headwater_crds::{
    Agent, ContextView, EventSource, KafkaCluster, Model, ToolServer, common::DeletionPolicy,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::{ApiResource, ObjectMeta};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A resource at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) id: Id,
    pub(crate) uid: String,
    pub(crate) generation: i64,
    pub(crate) resource_version: String,
    /// When somebody asked for its deletion.
    pub(crate) deleting: Option<Timestamp>,
    pub(crate) finalizers: Vec<String>,
    /// The status as it stands, or null.
    pub(crate) status: Value,
    pub(crate) deletion: DeletionPolicy,
    /// Topics that Headwater created for it, with their ids.
    pub(crate) created: BTreeMap<String, String>,
    /// Of an EventSource: its KafkaCluster.
    pub(crate) cluster: Option<String>,
    /// Of a view or an agent: the source, or the view, that it reads first.
    pub(crate) reads: Option<Id>,
}

/// What makes a [`Snapshot`] of each kind.
pub(crate) trait Managed: kube::Resource<DynamicType = ()> {
    const KIND: Kind;

    fn deletion_policy(&self) -> DeletionPolicy {
        DeletionPolicy::Retain
    }

    fn status(&self) -> Value;

    fn created(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    fn cluster(&self) -> Option<String> {
        None
    }

    fn reads(&self) -> Option<Id> {
        None
    }

    fn snapshot(&self) -> Snapshot {
        let meta: &ObjectMeta = self.meta();
        Snapshot {
            id: Id::new(Self::KIND, meta.name.clone().unwrap_or_default()),
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.as_ref().map(|time| time.0),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            status: self.status(),
            deletion: self.deletion_policy(),
            created: self.created(),
            cluster: self.cluster(),
            reads: self.reads(),
        }
    }
}

/// Statuses are plain data and always become JSON.
fn json(status: Option<&impl Serialize>) -> Value {
    status
        .and_then(|status| serde_json::to_value(status).ok())
        .unwrap_or_default()
}

macro_rules! managed {
    ($($kind:ident { $($created:tt)* })*) => {$(
        impl Managed for $kind {
            const KIND: Kind = Kind::$kind;

            fn status(&self) -> Value {
                json(self.status.as_ref())
            }

            $($created)*
        }
    )*};
}

managed! {
    KafkaCluster {}
    Model {}
    ToolServer {}
    EventSource {
        fn cluster(&self) -> Option<String> {
            Some(self.spec.cluster().to_owned())
        }

        fn deletion_policy(&self) -> DeletionPolicy {
            self.spec.deletion_policy
        }

        fn created(&self) -> BTreeMap<String, String> {
            let topics = self.status.iter().flat_map(|status| &status.topics);
            topics.map(|topic| (topic.name.clone(), topic.id.clone())).collect()
        }
    }
    ContextView {
        fn reads(&self) -> Option<Id> {
            let first = self.spec.from.first()?;
            Some(Id::new(Kind::EventSource, &first.source_ref.name))
        }

        fn deletion_policy(&self) -> DeletionPolicy {
            self.spec.deletion_policy
        }

        fn created(&self) -> BTreeMap<String, String> {
            let topics = self.status.iter().flat_map(|status| &status.topics);
            topics.map(|topic| (topic.name.clone(), topic.id.clone())).collect()
        }
    }
    Agent {
        fn reads(&self) -> Option<Id> {
            let trigger = &self.spec.trigger;
            let source = trigger.source_ref.as_ref();
            let source = source.map(|source| Id::new(Kind::EventSource, &source.name));
            let view = trigger.view_ref.as_ref();
            source.or_else(|| view.map(|view| Id::new(Kind::ContextView, &view.name)))
        }

        fn deletion_policy(&self) -> DeletionPolicy {
            self.spec.deletion_policy
        }

        fn created(&self) -> BTreeMap<String, String> {
            let topics = self.status.iter().flat_map(|status| &status.topics);
            topics.map(|topic| (topic.name.clone(), topic.id.clone())).collect()
        }
    }
}

impl Snapshot {
    /// Owner of what the operator makes for the resource.
    pub(crate) fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: format!("{}/{}", headwater_crds::GROUP, headwater_crds::VERSION),
            kind: self.id.kind.as_str().to_owned(),
            name: self.id.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// What Events are about.
    pub(crate) fn reference(&self, namespace: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some(format!(
                "{}/{}",
                headwater_crds::GROUP,
                headwater_crds::VERSION
            )),
            kind: Some(self.id.kind.as_str().to_owned()),
            name: Some(self.id.name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(self.uid.clone()),
            resource_version: Some(self.resource_version.clone()),
            ..ObjectReference::default()
        }
    }
}

/// The kind in the API.
pub(crate) fn api_resource(kind: Kind) -> ApiResource {
    match kind {
        Kind::KafkaCluster => ApiResource::erase::<KafkaCluster>(&()),
        Kind::Model => ApiResource::erase::<Model>(&()),
        Kind::EventSource => ApiResource::erase::<EventSource>(&()),
        Kind::ContextView => ApiResource::erase::<ContextView>(&()),
        Kind::ToolServer => ApiResource::erase::<ToolServer>(&()),
        Kind::Agent => ApiResource::erase::<Agent>(&()),
    }
}
