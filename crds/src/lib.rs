//! Headwater's resources: types, rules, and the CustomResourceDefinitions generated from them.
//!
//! A type here is what a user writes, no more: defaults that do not depend on anything are in the schema (and in serde, alike), others in
//! accessors. What the API server can refuse, it refuses, by the rules beside the fields; what needs other resources, Kafka or a parser is
//! the operator's. No Secret's value is ever part of a type.

#![allow(
    clippy::duplicated_attributes,
    reason = "the columns of a kind are attributes that repeat their types"
)]

pub mod agent;
pub mod common;
pub mod context_view;
mod definition;
pub mod event_source;
pub mod kafka_cluster;
pub mod limits;
pub mod model;
pub mod pod;
mod reference;
pub mod render;
mod rules;
mod schema;
pub mod status;
pub mod tool_server;

pub use agent::{Agent, AgentSpec};
pub use context_view::{ContextView, ContextViewSpec};
pub use definition::{Error, all};
pub use event_source::{EventSource, EventSourceSpec};
pub use kafka_cluster::{KafkaCluster, KafkaClusterSpec};
pub use model::{Model, ModelSpec};
pub use status::{
    AgentStatus, ContextViewStatus, EventSourceStatus, KafkaClusterStatus, ModelStatus, Status,
    ToolServerStatus,
};
pub use tool_server::{ToolServer, ToolServerSpec};

/// The API group of all kinds.
pub const GROUP: &str = "headwater.dev";
/// The version of all kinds.
pub const VERSION: &str = "v1alpha1";
