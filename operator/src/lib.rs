//! From resources to topics and workloads.
//!
//! The way is always the same: dereference (I/O) -> [`validate`] (pure) -> [`plan`] (pure) -> build (pure)
//! -> apply -> status. The pure part is what `headwater validate`, `explain` and `up` use too; [`run`] is
//! the operator.

mod apply;
mod brokers;
mod build;
mod deletion;
mod generations;
mod hint;
mod http;
mod judge;
mod kafka;
mod kept;
mod leader;
mod metrics;
mod namespace;
pub mod plan;
mod reason;
mod removals;
pub mod resources;
mod run;
mod secrets;
mod snapshot;
mod status;
mod stores;
mod topics;
pub mod validate;

pub use reason::{Class, Reason};
pub use run::{Election, Error, Options, run, run_with};
