//! Kafka's client, as Headwater uses it: configuration, consuming, administration.
//!
//! It is librdkafka through rdkafka, and through its C interface for what rdkafka lacks: topics by id,
//! incremental changes of configuration, consuming that can be woken and takes any header. All
//! `unsafe` of the workspace is here, behind safe functions. Everything blocks, for a bounded time.
//!
//! It knows neither stages nor resources: the runtime and the operator give it [`Settings`].

#![allow(
    unsafe_code,
    reason = "librdkafka's C interface is called here and nowhere else"
)]

pub mod admin;
pub mod allow;
pub mod brokers;
pub mod consumer;
mod context;
pub mod error;
pub mod members;
mod message;
mod native;
pub mod offsets;
pub mod producer;
pub mod settings;

pub use allow::{client_config_allowed, topic_config_allowed};
pub use context::Context;
pub use error::{Error, Result};
pub use settings::Settings;
