//! A real Kafka on this machine, for tests and for trying things by hand.
//!
//! It starts on demand and is then shared by every test process, guarded by a file lock. What it needs is fetched once into a cache
//! (see [`layout`]). What a user already has comes first: `KAFKA_BOOTSTRAP`.
//!
//! The bed knows nothing of Headwater; topics are the business of the tests that use it.

pub mod error;
mod fetch;
pub mod kafka;
pub mod layout;
mod machine;
mod process;
mod run;
mod status;

pub use error::{Error, Result};
pub use kafka::Kafka;
pub use status::{Part, down, environment, prepare, status};

/// The shared broker: the one at `KAFKA_BOOTSTRAP`, else the bed's own, started if it does not run.
///
/// # Errors
/// When Kafka cannot be fetched, or does not answer in time.
pub fn kafka() -> Result<Kafka> {
    Kafka::shared()
}
