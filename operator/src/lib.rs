//! From resources to topics and workloads.
//!
//! The way is always the same: dereference (I/O) -> [`validate`] (pure) -> [`plan`] (pure) -> build (pure)
//! -> apply -> status. The pure part is what `headwater validate`, `explain` and `up` use too.

mod hint;
pub mod plan;
mod reason;
pub mod resources;
pub mod validate;

pub use reason::{Class, Reason};
#[path = "../../kafka/src/allow.rs"] pub mod allow_tmp;
