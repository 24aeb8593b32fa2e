//! Runs of agents against what is promised of them ([`desk::check`]), on a memory log where everything goes wrong that may.
//!
//! A seed that fails is printed with its number: `HEADWATER_SEED` runs one seed, `HEADWATER_SEEDS` so many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking, tells what it saw, and draws small numbers"
)]

#[path = "../desk/mod.rs"]
mod desk;
#[path = "../rounds/draw.rs"]
#[allow(dead_code, reason = "shared with rounds on a real Kafka")]
mod draw;
#[path = "../naive/mod.rs"]
mod naive;
#[path = "../simulated/mod.rs"]
mod simulated;
mod simulation;

use std::collections::BTreeMap;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_question_is_answered_once_whatever_goes_wrong() {
    let begun = Instant::now();
    let seeds = simulated::seeds(200);
    let outcomes = simulated::every(&seeds, simulation::check).await;
    let (mut ends, mut prompts, mut stale, mut repaired) = (BTreeMap::new(), 0, 0, 0);
    let (mut calls, mut again) = (0, 0);
    let (mut called, mut unknown) = (0, 0);
    let mut settled = [0; 3];
    for outcome in &outcomes {
        for (agent, counts) in &outcome.counts {
            for (end, count) in counts {
                *ends.entry(format!("{agent} {end}")).or_insert(0) += count;
            }
        }
        prompts += outcome.replayed;
        stale += outcome.stale;
        repaired += outcome.repaired;
        calls += outcome.calls.0;
        again += outcome.calls.1;
        called += outcome.called.0;
        unknown += outcome.called.1;
        for (sum, count) in settled.iter_mut().zip(outcome.settled) {
            *sum += count;
        }
    }
    let [approved, denied, expired] = settled;
    println!(
        "{} seeds in {:.1?}: {ends:?}; {calls} calls of the model, {again} of them again; {prompts} prompts rendered again, {stale} runs named as stale, {repaired} repaired; {called} called tools, {unknown} of them do not know what came of it; people approved {approved} calls, denied {denied}, and said nothing to {expired}",
        seeds.len(),
        begun.elapsed()
    );
    let fates: Vec<_> = outcomes.into_iter().map(|it| it.fates).collect();
    simulated::told(&fates);
    assert!(prompts > 0 && repaired > 0 && called > 0);
    assert!(settled.iter().sum::<u64>() > 0);
    // Foreign transactions that stay open are named; all else is waited for.
    assert!(stale * 10 < prompts, "too many go on without their context");
}
