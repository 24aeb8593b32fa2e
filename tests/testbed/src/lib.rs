//! A real Kafka and a real Kubernetes on this machine, for tests and for trying things by hand.
//!
//! It starts on demand and is then shared by every test process, guarded by a file lock. What it needs is fetched once into a cache
//! (see [`layout`]). What a user already has comes first: `KAFKA_BOOTSTRAP`, `KUBECONFIG`, `KUBEBUILDER_ASSETS`.
//!
//! The bed knows nothing of Headwater; topics are the business of the tests that use it.

pub mod cluster;
pub mod error;
mod fetch;
pub mod image;
pub mod kafka;
pub mod layout;
mod machine;
pub mod node;
mod process;
mod run;
mod status;
mod tools;

pub use cluster::ControlPlane;
pub use error::{Error, Result};
pub use kafka::Kafka;
pub use node::Node;
pub use status::{Part, down, environment, prepare, status};

/// The shared broker: the one at `KAFKA_BOOTSTRAP`, else the bed's own, started if it does not run.
///
/// # Errors
/// When Kafka cannot be fetched, or does not answer in time.
pub fn kafka() -> Result<Kafka> {
    Kafka::shared()
}

/// The shared control plane: the cluster of `KUBECONFIG`, else the bed's own (its programs from `KUBEBUILDER_ASSETS` where they are there,
/// else built), started if it does not run.
///
/// # Errors
/// When a program cannot be built, or does not answer in time.
pub fn control_plane() -> Result<ControlPlane> {
    ControlPlane::shared()
}

/// The shared node, on the control plane that [`control_plane`] gives: started if it does not run, and ready for pods.
///
/// With `KUBECONFIG` it is the user's cluster, onto which the bed can bring no images.
///
/// # Errors
/// When this process is not root, something cannot be built or installed, or the node is not ready in time.
pub fn node() -> Result<Node> {
    Node::shared()
}
