//! The engine at work: the log, models, HTTP and metrics around the pure core.
//!
//! A stage owns threads that drive the log, and tasks that call models; what a record or a reply means
//! is decided in the engine. It knows no Kubernetes.

pub mod backoff;
pub mod clock;
pub mod http;
pub mod log;
pub mod metrics;
pub mod model;
pub mod observe;
mod outgoing;
pub mod secret;
pub mod stage;
pub mod stage_file;
pub mod tools;
