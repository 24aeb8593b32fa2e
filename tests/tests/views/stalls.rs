//! An input that lost records, or was made anew, is not guessed at: the stage says so and writes nothing more of it.

use crate::catalogue::{self, ViewSpec};
use crate::events::{self, Draw};
use crate::folds::idle;
use crate::world::{DEADLINE, World};
use headwater_engine::record::TopicPartition;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::stage::Handle;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A view of the catalogue, its stage having folded what was there and gone.
struct Rested {
    memory: Memory,
    world: World,
    view: ViewSpec,
    draw: Draw,
}

impl Rested {
    async fn new(name: &str) -> Self {
        let draw = Draw::new(7);
        let mut views = catalogue::views(&draw);
        views.retain(|view| view.name == name);
        let memory = Memory::new();
        let rested = Self {
            world: World::memory(memory.clone(), &views),
            view: views.remove(0),
            memory,
            draw,
        };
        rested.write();
        let (handle, token) = rested.start();
        idle(std::slice::from_ref(&handle), &rested.world, 7).await;
        token.cancel();
        handle.join().await;
        rested
    }

    fn start(&self) -> (Handle, CancellationToken) {
        let token = CancellationToken::new();
        let services = self.world.services(&token);
        (self.world.start(&self.view, 0, services), token)
    }

    fn write(&self) {
        for source in catalogue::sources() {
            let topic = self.world.topic(source.name);
            self.world
                .write(&events::records(&self.draw, &topic, 90, 10));
        }
    }

    fn end(&self, partition: &TopicPartition) -> i64 {
        let ends = self.world.log.ends(std::slice::from_ref(partition));
        ends.unwrap()[0]
    }

    /// Starts the stage again and waits for a problem; then its state topic is as it was.
    async fn stalls(&self, reason: &str, at: &str) {
        let state = self.view.state_topic(&self.world.prefix);
        let before = self.world.read(&state);
        let (handle, _token) = self.start();
        let begun = Instant::now();
        let told = |handle: &Handle| {
            let problems = handle.status().problems;
            problems.iter().any(|it| it.reason == reason && it.at == at)
        };
        while !told(&handle) {
            assert!(
                begun.elapsed() < DEADLINE,
                "no {reason}: {:#?}",
                handle.status()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(!handle.is_ready());
        handle.crash().await;
        assert_eq!(self.world.read(&state), before);
    }
}

pub async fn records_that_are_gone() {
    for name in ["plain", "several"] {
        let rested = Rested::new(name).await;
        let partition = TopicPartition::new(rested.world.topic("orders"), 1);
        rested.write();
        rested.memory.cut(&partition, i64::MAX);
        rested.stalls("InputLost", &partition.to_string()).await;
    }
}

pub async fn a_topic_made_anew() {
    for name in ["plain", "several"] {
        let rested = Rested::new(name).await;
        let topic = rested.world.topic("orders");
        rested.memory.delete(&topic);
        rested.world.create_sources();
        rested
            .stalls("InputReset", &TopicPartition::new(topic, 0).to_string())
            .await;
    }
}

/// What retention takes away was folded long ago.
pub async fn retention_behind_the_view() {
    let rested = Rested::new("plain").await;
    let before = rested
        .world
        .read(&rested.view.state_topic(&rested.world.prefix));
    for partition in 0..3 {
        let partition = TopicPartition::new(rested.world.topic("orders"), partition);
        rested.memory.cut(&partition, rested.end(&partition));
    }
    let (handle, token) = rested.start();
    idle(std::slice::from_ref(&handle), &rested.world, 7).await;
    token.cancel();
    handle.join().await;
    let after = rested
        .world
        .read(&rested.view.state_topic(&rested.world.prefix));
    assert_eq!(after, before);
}
