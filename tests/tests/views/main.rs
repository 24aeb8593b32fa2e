//! Views against a naive model that was written apart from the engine.
//!
//! `folds` drives every kind of fold with random events through the view stage, on the memory log and on a real Kafka;
//! `simulation` does so with replicas that crash, hang, and come back, on a memory log where everything goes wrong that may.
//!
//! A seed that fails is printed with the command that runs it again: `HEADWATER_SEED` runs one seed, `HEADWATER_SEEDS` so many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a test fails by panicking, tells what it compared, and draws small numbers"
)]

mod catalogue;
mod compare;
mod events;
mod expressions;
mod folds;
#[path = "../support/follow.rs"]
mod follow;
#[path = "../naive/mod.rs"]
mod naive;
mod records;
#[path = "../simulated/mod.rs"]
mod simulated;
mod simulation;
mod stalls;
mod state;
mod world;

use compare::Compared;
use folds::Kind;
use simulated::seeds;
use std::time::Instant;

fn told(kind: Kind, seeds: usize, begun: Instant, all: &Compared) {
    println!(
        "{kind:?}: {seeds} seeds in {:.1?}: {all:?}",
        begun.elapsed()
    );
}

async fn folds(kind: Kind, count: u64, events: usize, keys: usize) {
    let begun = Instant::now();
    let seeds = seeds(count);
    let mut all = Compared::default();
    for seed in &seeds {
        let one = folds::check(kind, *seed, events, keys).await;
        all.keys += one.keys;
        all.reads += one.reads;
        all.letters += one.letters;
        all.changes += one.changes;
    }
    told(kind, seeds.len(), begun, &all);
    assert!(all.keys > 0 && all.reads > all.keys && all.letters > 0 && all.changes > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_the_models_on_the_memory_log() {
    folds(Kind::Memory, 8, 500, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_the_models_on_kafka() {
    folds(Kind::Kafka, 1, 2_500, 150).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_are_the_models_whatever_goes_wrong() {
    let begun = Instant::now();
    let seeds = seeds(200);
    let outcomes = simulated::every(&seeds, simulation::check).await;
    let mut all = Compared::default();
    for outcome in &outcomes {
        all.keys += outcome.compared.keys;
        all.reads += outcome.compared.reads;
        all.letters += outcome.compared.letters;
        all.changes += outcome.compared.changes;
    }
    told(Kind::Simulation, seeds.len(), begun, &all);
    let fates: Vec<_> = outcomes.into_iter().map(|it| it.fates).collect();
    simulated::told(&fates);
    assert!(all.keys > 0 && all.reads > 0 && all.changes > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_lost_records_is_not_guessed_at() {
    stalls::records_that_are_gone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_was_made_anew_is_not_guessed_at() {
    stalls::a_topic_made_anew().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_may_take_what_was_folded() {
    stalls::retention_behind_the_view().await;
}
