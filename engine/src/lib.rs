//! The pure core of Headwater: records, views, slots, prompts and runs.
//!
//! It takes records and times and returns values and actions. It knows no Kafka, no Kubernetes, no
//! HTTP and no clock of its own; Kafka, the memory log, replay and tests drive the same code.

pub mod agent;
pub mod approval;
pub mod audit;
pub mod config;
pub mod conversation;
pub mod expr;
pub mod fault;
pub mod intake;
pub mod journal;
pub mod json;
pub mod key;
pub mod lookup;
pub mod model;
pub mod names;
mod nesting;
mod output;
pub mod problem;
pub mod prompt;
pub mod record;
pub mod replay;
pub mod run;
mod schema;
pub mod source;
pub mod template;
pub mod time;
pub mod tokens;
pub mod tool;
pub mod view;
