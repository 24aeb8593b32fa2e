//! What a reader is told, while the log goes on: never less than what was acknowledged before it asked, never
//! what no version of a view would have given, and where something is missing, its name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it measured"
)]

mod asked;
mod bed;
mod behind;
mod change;
#[path = "../support/follow.rs"]
mod follow;
mod turns;

use bed::{Bed, Kind};

macro_rules! on_both_logs {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$module::$name(super::Bed::new(super::Kind::Memory)).await; })*
        }
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$module::$name(super::Bed::new(super::Kind::Kafka)).await; })*
        }
    };
}

on_both_logs!(
    asked::what_was_acknowledged_before_a_question_is_in_its_answer,
    behind::a_stopped_stage_is_named_and_its_slot_is_stale,
    behind::a_foreign_open_transaction_is_named_and_not_waited_for,
    change::a_view_changed_under_load_shows_what_one_of_its_versions_gives,
    turns::a_turn_knows_the_turn_before_whoever_answered_it,
);
