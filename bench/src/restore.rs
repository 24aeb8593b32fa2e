//! How long a reader takes to have a view of a million keys again: from its state topic, by folding the sources
//! again, and how long a bare consumer takes to read the bytes of that state.
//!
//! The reader is an agent's stage, from its start until its view has caught up.

use crate::Result;
use crate::bed::Bed;
use crate::data;
use crate::fold::consume;
use crate::measure::{cpu_of, load};
use crate::stages::{Place, services, until, views_are_there};
use headwater_engine::record::TopicPartition;
use headwater_engine::view::Partition;
use headwater_runtime::log::{Isolation, Log, Start};
use std::sync::Arc;
use std::time::{Duration, Instant};

const KEYS: usize = 1_000_000;
/// In the source, for each key.
const EVENTS_A_KEY: usize = 5;
const PARTITIONS: i32 = 2;
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run() -> Result<()> {
    let mut bed = Bed::new()?;
    let source = bed.topic("source", PARTITIONS, &[])?;
    bed.fill(&source, 0..KEYS * EVENTS_A_KEY, KEYS)?;
    let saved = Place::new(&mut bed, "saved", &source, PARTITIONS, false)?;
    let records = save(&bed, &saved)?;
    println!(
        "{} keys of 220 B, {EVENTS_A_KEY} events each in the source, {PARTITIONS} partitions; the best of {ROUNDS} rounds, folding once; load {}",
        data::kept(KEYS),
        load()
    );
    let runtime = tokio::runtime::Runtime::new()?;
    let mut restored = Took::WORST;
    let mut bare = Took::WORST;
    for _ in 0..ROUNDS {
        restored = restored.min(read(&bed, &runtime, &saved)?);
        bare = bare.min(took(|| {
            let threads: Vec<_> = (0..PARTITIONS)
                .map(|partition| {
                    let (bootstrap, topic) = (bed.bootstrap.clone(), saved.state.clone());
                    let records = records[partition as usize];
                    std::thread::spawn(move || {
                        consume(&bootstrap, &topic, partition, records).map_err(|it| it.to_string())
                    })
                })
                .collect();
            for thread in threads {
                thread.join().map_err(|_| "a consumer panicked")??;
            }
            Ok(())
        })?);
    }
    let anew = Place::new(&mut bed, "anew", &source, PARTITIONS, false)?;
    let folded = read(&bed, &runtime, &anew)?;
    let line = |what: &str, took: Took| {
        println!(
            "{what:<36} {:>6.2} s, {:>6.2} CPU-s",
            took.wall.as_secs_f64(),
            took.cpu.as_secs_f64()
        );
    };
    line("restore from the state topic", restored);
    line("fold the source again", folded);
    line("bare consumer of the state topic", bare);
    let over = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
    println!(
        "restore over folding again: {:.1} times as fast ({:.1} by CPU)",
        over(folded.wall, restored.wall),
        over(folded.cpu, restored.cpu)
    );
    println!(
        "restore over a bare consume: {:.2} of it ({:.2} by CPU)",
        over(bare.wall, restored.wall),
        over(bare.cpu, restored.cpu)
    );
    Ok(())
}

#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

impl Took {
    const WORST: Self = Self {
        wall: Duration::MAX,
        cpu: Duration::MAX,
    };

    fn min(self, other: Self) -> Self {
        Self {
            wall: self.wall.min(other.wall),
            cpu: self.cpu.min(other.cpu),
        }
    }
}

fn took(work: impl FnOnce() -> Result<()>) -> Result<Took> {
    let begun = Instant::now();
    let ((), cpu) = cpu_of(work)?;
    Ok(Took {
        wall: begun.elapsed(),
        cpu,
    })
}

/// Starts a reader and waits for its view.
fn read(bed: &Bed, runtime: &tokio::runtime::Runtime, place: &Place) -> Result<Took> {
    let services = services(bed);
    let _entered = runtime.enter();
    let mut handle = None;
    let took = took(|| {
        let started = handle.insert(place.start_agent(bed, &services)?);
        until(started, "the view is not there", || {
            views_are_there(started)
        })
    });
    services.shutdown.cancel();
    if let Some(handle) = handle {
        runtime.block_on(handle.join());
    }
    took
}

/// Writes the state of the whole source, as a view's stage does; gives the records of each partition.
fn save(bed: &Bed, place: &Place) -> Result<Vec<usize>> {
    let definition = data::definition(&place.source, &data::latest())?;
    let mut counts = Vec::new();
    for number in 0..PARTITIONS {
        let at = TopicPartition::new(place.source.as_str(), number);
        let end = bed.kafka.ends(std::slice::from_ref(&at))?[0];
        let mut state = Partition::new(Arc::clone(&definition), number);
        let mut reader = bed.kafka.reader(Isolation::ReadCommitted)?;
        reader.assign(&[(at, Start::Earliest)])?;
        while state.next() < end {
            reader.poll(PATIENCE, &mut |record| {
                state.fold(record);
            })?;
        }
        let mut records = state.checkpoint();
        for record in &mut records {
            record.topic.clone_from(&place.state);
        }
        let mut writer = bed.kafka.writer()?;
        for some in records.chunks(10_000) {
            writer.write(some)?;
        }
        counts.push(records.len());
    }
    Ok(counts)
}
