//! Every way to fold, on random events, through the stages that run in a pod.

use crate::catalogue::{self, ViewSpec};
use crate::compare::{Check, Compared, Found};
use crate::events::{self, Draw};
use crate::world::{DEADLINE, World};
use headwater_engine::record::NewRecord;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::stage::{self, Handle, Phase};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Memory,
    Kafka,
    Simulation,
}

/// One seed: `count` events of each source, over `keys` keys, each key in every view a case of its own.
pub async fn check(kind: Kind, seed: u64, count: usize, keys: usize) -> Compared {
    let draw = Draw::new(seed);
    let views = catalogue::views(&draw);
    let world = match kind {
        Kind::Kafka => World::kafka(&views),
        Kind::Memory | Kind::Simulation => World::memory(Memory::new(), &views),
    };
    // Either everything waits when the stages start, or most of it comes while they run.
    let backlog = draw.percent(40);
    let records = batches(&draw, &world, count, keys);
    let token = CancellationToken::new();
    let mut handles = Vec::new();
    let (before, after) = records.split_at(if backlog { records.len() } else { 1 });
    before.iter().for_each(|batch| world.write(batch));
    for view in &views {
        handles.push(world.start(view, 0, world.services(&token)));
    }
    for batch in after {
        world.write(batch);
        if draw.percent(30) {
            idle(&handles, &world, seed).await;
        }
    }
    idle(&handles, &world, seed).await;
    token.cancel();
    for handle in handles {
        assert_eq!(handle.join().await.phase, Phase::Stopped);
    }
    let mut all = Compared::default();
    for view in &views {
        let one = compare(&world, view, backlog, kind, seed);
        all.keys += one.keys;
        all.reads += one.reads;
        all.letters += one.letters;
        all.changes += one.changes;
    }
    all
}

/// What is written at once.
pub fn batches(draw: &Draw, world: &World, count: usize, keys: usize) -> Vec<Vec<NewRecord>> {
    let mut lists: Vec<Vec<NewRecord>> = catalogue::sources()
        .iter()
        .map(|source| events::records(draw, &world.topic(source.name), count, keys))
        .collect();
    let mut batches = Vec::new();
    while lists.iter().any(|list| !list.is_empty()) {
        let mut batch = Vec::new();
        for list in &mut lists {
            let most = list.len().min(1 + count / 5);
            batch.extend(list.drain(..draw.below(most + 1)));
        }
        batches.push(batch);
    }
    batches
}

pub fn compare(world: &World, view: &ViewSpec, backlog: bool, kind: Kind, seed: u64) -> Compared {
    let check = Check {
        world,
        view,
        found: &Found::read(world, view),
        backlog,
    };
    check.run().unwrap_or_else(|difference| {
        panic!(
            "seed {seed} on {kind:?}, view '{}':\n{difference}\nconfiguration: {:#}\n\
             again: HEADWATER_SEED={seed} cargo test -p headwater-tests --test views",
            view.name,
            view.config("ns")
        )
    })
}

pub async fn idle(handles: &[Handle], world: &World, seed: u64) {
    let begun = Instant::now();
    while !stage::idle(handles, &*world.log).unwrap() {
        assert!(
            begun.elapsed() < DEADLINE,
            "seed {seed}: {:#?}",
            handles.iter().map(Handle::status).collect::<Vec<_>>()
        );
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
