//! Replicas of view stages on a memory log with everything going wrong that may ([`crate::simulated`]); and then the same comparison as
//! ever.

use crate::catalogue::{self, ViewSpec};
use crate::compare::Compared;
use crate::events::Draw;
use crate::folds::{self, Kind};
use crate::records;
use crate::simulated::{self, DEADLINE, Fleet, chaos::Fates};
use crate::world::World;
use headwater_engine::record::TopicPartition;
use headwater_runtime::stage;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const REPLICAS: u32 = 3;

/// Whether somebody has each partition, and nothing is left to do.
fn is_idle(fleet: &Fleet<'_>, world: &World, views: &[ViewSpec]) -> bool {
    if !fleet.is_complete() || !stage::idle(fleet.handles(), &*world.log).unwrap() {
        return false;
    }
    let had: BTreeSet<(String, i32)> = fleet
        .handles()
        .flat_map(|handle| handle.status().parts.into_values())
        .flat_map(|part| part.positions)
        .map(|it| (it.topic, it.partition))
        .collect();
    views
        .iter()
        .flat_map(|view| view.inputs(&world.prefix))
        .all(|partition| had.contains(&partition))
        && views.iter().all(|view| is_written(world, view))
}

/// Whether the marks cover the whole input: what a process holds and never wrote is nobody's.
fn is_written(world: &World, view: &ViewSpec) -> bool {
    let prefix = &world.prefix;
    let state = world.read(&view.state_topic(prefix));
    let input: Arc<str> = view.input_topic(prefix).into();
    let partitions: Vec<_> = (0..view.partitions)
        .map(|it| TopicPartition::new(Arc::clone(&input), it))
        .collect();
    let ends = world.log.ends(&partitions).unwrap();
    ends.iter().zip(0..).all(|(end, partition)| {
        let last = state.get(&partition).and_then(|records| records.last());
        last.map_or(0, |raw| records::mark(raw).next) >= *end
    })
}

async fn until_idle(fleet: &mut Fleet<'_>, world: &World, views: &[ViewSpec], seed: u64) {
    let begun = Instant::now();
    while !is_idle(fleet, world, views) {
        fleet.supervise().await;
        assert!(
            begun.elapsed() < DEADLINE,
            "seed {seed}: not idle after {DEADLINE:?}: {}",
            fleet.statuses()
        );
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

pub struct Outcome {
    pub compared: Compared,
    pub fates: Arc<Fates>,
}

pub async fn check(seed: u64) -> Outcome {
    let draw = Draw::new(seed ^ 0x5eed);
    let (own, direct): (Vec<_>, Vec<_>) = catalogue::views(&draw)
        .into_iter()
        .partition(|view| view.own);
    let views = [draw.one_of(&own).clone(), draw.one_of(&direct).clone()];
    let memory = simulated::memory();
    let world = World::memory(memory.clone(), &views);
    simulated::late_markers(&memory, seed);
    let places = views.len() * REPLICAS as usize;
    let start = |place: usize, services| {
        let view = &views[place / REPLICAS as usize];
        world.start(view, place as u32 % REPLICAS, services)
    };
    let mut fleet = Fleet::new(&memory, seed, places, Box::new(start));
    (0..places)
        .step_by(REPLICAS as usize)
        .for_each(|place| fleet.start(place));
    let below = &mut |end| draw.below(end);
    for batch in folds::batches(&draw, &world, 120, 12) {
        simulated::write(&memory, &batch, below).await;
        for _ in 0..below(6) {
            fleet.act(below).await;
            tokio::time::sleep(Duration::from_micros(below(8_000) as u64)).await;
        }
    }
    fleet.calm().await;
    until_idle(&mut fleet, &world, &views, seed).await;
    // Down to one replica of each.
    fleet
        .keep(|place| place.is_multiple_of(REPLICAS as usize))
        .await;
    until_idle(&mut fleet, &world, &views, seed).await;
    fleet.end().await;
    let fates = Arc::clone(&fleet.fates);
    simulated::markers_in_time(&memory).await;
    let mut all = Compared::default();
    for view in &views {
        let one = folds::compare(&world, view, false, Kind::Simulation, seed);
        all.keys += one.keys;
        all.reads += one.reads;
        all.letters += one.letters;
        all.changes += one.changes;
    }
    Outcome {
        compared: all,
        fates,
    }
}
