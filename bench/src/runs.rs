//! Runs a second of an agent whose questions wait in the log, and what they cost: prompts from three views, a model that answers
//! at once, every answer, audit record and offset in a transaction.
//!
//! Also how long it takes from the start of the stage until the first run is committed, with the views still to be folded, and how
//! much memory the process then has.

use crate::Result;
use crate::bed::Bed;
use crate::committed;
use crate::measure::{self, cpu_of_process, load, resident};
use crate::stages::{services, until};
use crate::travel::{ALTERNATIVES, BOOKINGS, CUSTOMERS, FLIGHTS, data, desk::Desk};
use headwater_runtime::metrics;
use headwater_runtime::observe::Happening;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const PARTITIONS: i32 = 4;
/// The first are not counted: connections are made, lines are met for the first time.
const WARM: usize = 5_000;
const RUNS: usize = 30_000;

pub fn run() -> Result<()> {
    let mut bed = Bed::new()?;
    let desk = Desk::open(&mut bed, PARTITIONS, true, ALTERNATIVES)?;
    bed.write(&desk.topics.questions, (0..WARM + RUNS).map(data::question))?;
    let before = resident()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let _entered = runtime.enter();
    let services = services(&bed);
    let seen = Arc::new(Seen::default());
    let watcher = watch(services.observer.watch(), &seen);
    let started = Instant::now();
    let agent = desk.start(&bed, &services)?;
    // Happenings may be missed by who is slow; what was committed is counted.
    let committed = || {
        let runs = &services.metrics.runs;
        let done = metrics::Run {
            agent: "assistant".to_owned(),
            outcome: "Done".to_owned(),
        };
        usize::try_from(runs.get_or_create(&done).get()).unwrap_or(usize::MAX)
    };
    let reached = |count: usize| move || committed() >= count;
    until(&agent, "no run was committed", reached(1))?;
    let first = started.elapsed();
    until(&agent, "the first runs were not committed", reached(WARM))?;
    let (cpu, began, at) = (cpu_of_process("self")?, Instant::now(), committed());
    until(&agent, "not every run was committed", reached(WARM + RUNS))?;
    let took = began.elapsed().as_secs_f64();
    let cpu = (cpu_of_process("self")? - cpu).as_secs_f64();
    let memory = resident()?;
    services.shutdown.cancel();
    runtime.block_on(agent.join());
    drop(services);
    runtime.block_on(watcher)?;
    committed::each_once(&bed.bootstrap, &desk.topics.answers, WARM + RUNS)?;

    let runs = (WARM + RUNS - at) as f64;
    println!(
        "{CUSTOMERS} customers, {BOOKINGS} bookings, {FLIGHTS} flights; {} runs, each answered once; load {}",
        WARM + RUNS,
        load()
    );
    println!(
        "bytes of a prompt, mean                {:>10.0}",
        seen.bytes.load(Ordering::Relaxed) as f64 / seen.runs.load(Ordering::Relaxed).max(1) as f64
    );
    println!(
        "runs per second                        {:>10.0}",
        runs / took
    );
    println!(
        "CPU-seconds per 1,000 runs             {:>10.3}",
        cpu * 1e3 / runs
    );
    println!(
        "stage's start to the first run, seconds{:>10.2}",
        first.as_secs_f64()
    );
    println!(
        "resident memory, MB                    {:>10.1}   of it before the stage {:.1}",
        measure::megabytes(memory),
        measure::megabytes(before)
    );
    Ok(())
}

#[derive(Default)]
struct Seen {
    runs: AtomicUsize,
    /// Of their prompts.
    bytes: AtomicUsize,
}

fn watch(
    mut happenings: tokio::sync::broadcast::Receiver<Arc<Happening>>,
    seen: &Arc<Seen>,
) -> tokio::task::JoinHandle<()> {
    use tokio::sync::broadcast::error::RecvError;
    let seen = Arc::clone(seen);
    tokio::spawn(async move {
        loop {
            match happenings.recv().await {
                Ok(happening) => {
                    if let Happening::RunFinished { record, .. } = &*happening {
                        let messages = record
                            .prompt
                            .as_ref()
                            .and_then(|prompt| prompt.messages.as_deref());
                        let bytes: usize = messages
                            .into_iter()
                            .flatten()
                            .map(|message| message.content.len())
                            .sum();
                        seen.bytes.fetch_add(bytes, Ordering::Relaxed);
                        seen.runs.fetch_add(1, Ordering::Relaxed);
                    }
                }
                // The mean is one of those that were seen.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    })
}
