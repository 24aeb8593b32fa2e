//! The resources of one namespace, by kind and name, and what is known of its Secrets.
//!
//! The input of [`crate::validate`]: from files (`headwater validate`, `explain`, `up`) or from the
//! API server (the operator). Of Secrets it knows names and keys, never values.

use headwater_crds::{Agent, ContextView, EventSource, KafkaCluster, Model, ToolServer};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum Kind {
    KafkaCluster,
    Model,
    EventSource,
    ContextView,
    ToolServer,
    Agent,
}

impl Kind {
    /// All kinds, those first that others refer to.
    pub const ALL: [Self; 6] = [
        Self::KafkaCluster,
        Self::Model,
        Self::EventSource,
        Self::ContextView,
        Self::ToolServer,
        Self::Agent,
    ];

    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KafkaCluster => "KafkaCluster",
            Self::Model => "Model",
            Self::EventSource => "EventSource",
            Self::ContextView => "ContextView",
            Self::ToolServer => "ToolServer",
            Self::Agent => "Agent",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One resource of a namespace. Displayed as `ContextView 'bookings'`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Id {
    pub kind: Kind,
    pub name: String,
}

impl Id {
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.kind, self.name)
    }
}

/// A key in a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretKey {
    pub secret: String,
    pub key: String,
}

impl SecretKey {
    pub fn new(secret: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            secret: secret.into(),
            key: key.into(),
        }
    }

    /// Its file below the directory that holds Secrets: `<secret>/<key>`.
    pub fn file(&self) -> String {
        format!("{}/{}", self.secret, self.key)
    }
}

/// What is known of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// It was looked for and does not exist.
    Missing,
    Found {
        /// `type` of the Secret, e.g. `Opaque`.
        kind: String,
        keys: BTreeSet<String>,
    },
}

/// The resources of one namespace.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub namespace: String,
    pub clusters: BTreeMap<String, Arc<KafkaCluster>>,
    pub models: BTreeMap<String, Arc<Model>>,
    pub sources: BTreeMap<String, Arc<EventSource>>,
    pub views: BTreeMap<String, Arc<ContextView>>,
    pub tool_servers: BTreeMap<String, Arc<ToolServer>>,
    pub agents: BTreeMap<String, Arc<Agent>>,
    /// Of a Secret that is not in here nothing is known, and nothing is said.
    pub secrets: BTreeMap<String, Secret>,
}

/// A resource of any kind.
#[derive(Clone, Debug)]
pub enum Object {
    KafkaCluster(Arc<KafkaCluster>),
    Model(Arc<Model>),
    EventSource(Arc<EventSource>),
    ContextView(Arc<ContextView>),
    ToolServer(Arc<ToolServer>),
    Agent(Arc<Agent>),
}

impl Resources {
    pub fn new(namespace: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            ..Self::default()
        }
    }

    /// Adds a resource under its name; gives back the id if one of this kind and name was there, which it replaces.
    pub fn add(&mut self, object: Object) -> Option<Id> {
        let (kind, name, replaced) = match object {
            Object::KafkaCluster(o) => (
                Kind::KafkaCluster,
                o.name_any(),
                self.clusters.insert(o.name_any(), o).is_some(),
            ),
            Object::Model(o) => (
                Kind::Model,
                o.name_any(),
                self.models.insert(o.name_any(), o).is_some(),
            ),
            Object::EventSource(o) => (
                Kind::EventSource,
                o.name_any(),
                self.sources.insert(o.name_any(), o).is_some(),
            ),
            Object::ContextView(o) => (
                Kind::ContextView,
                o.name_any(),
                self.views.insert(o.name_any(), o).is_some(),
            ),
            Object::ToolServer(o) => (
                Kind::ToolServer,
                o.name_any(),
                self.tool_servers.insert(o.name_any(), o).is_some(),
            ),
            Object::Agent(o) => (
                Kind::Agent,
                o.name_any(),
                self.agents.insert(o.name_any(), o).is_some(),
            ),
        };
        replaced.then(|| Id::new(kind, name))
    }

    /// Names of all Secrets that resources refer to, whether they exist or not.
    pub fn secret_names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for cluster in self.clusters.values() {
            let tls = cluster.spec.tls.as_ref();
            names.extend(
                tls.and_then(|tls| tls.ca_secret_key_ref.as_ref())
                    .map(|r| r.name.clone()),
            );
            names.extend(
                tls.and_then(|tls| tls.client_certificate_secret_ref.as_ref())
                    .map(|r| r.name.clone()),
            );
            names.extend(
                cluster
                    .spec
                    .sasl
                    .as_ref()
                    .map(|sasl| sasl.password_secret_key_ref.name.clone()),
            );
        }
        for model in self.models.values() {
            let spec = &model.spec;
            let (keys, headers): (Vec<_>, Vec<_>) = [
                spec.openai
                    .as_ref()
                    .map(|own| (&own.api_key_secret_key_ref, &own.headers)),
                spec.anthropic
                    .as_ref()
                    .map(|own| (&own.api_key_secret_key_ref, &own.headers)),
            ]
            .into_iter()
            .flatten()
            .unzip();
            let headers = headers.into_iter().flatten();
            let of_headers = headers.filter_map(|header| header.secret_key_ref.as_ref());
            let all = keys.into_iter().flatten().chain(of_headers);
            names.extend(all.map(|key| key.name.clone()));
        }
        for view in self.views.values() {
            let token = view
                .spec
                .serve
                .as_ref()
                .and_then(|serve| serve.http.token_secret_key_ref.as_ref());
            names.extend(token.map(|token| token.name.clone()));
        }
        for server in self.tool_servers.values() {
            if let Some(mcp) = &server.spec.mcp {
                names.extend(
                    mcp.headers
                        .iter()
                        .filter_map(|h| h.secret_key_ref.as_ref())
                        .map(|r| r.name.clone()),
                );
            }
        }
        names
    }

    /// Whether there is nothing of Headwater's.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
            && self.models.is_empty()
            && self.sources.is_empty()
            && self.views.is_empty()
            && self.tool_servers.is_empty()
            && self.agents.is_empty()
    }
}
