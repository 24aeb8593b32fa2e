//! The part of an agent's stage that takes events into the agent's own input log, where it has one.
//!
//! With `forEach` it holds the view whose rows it starts runs for, apart from those that runs read: what keeps one of
//! the slots' views behind does not keep events from being taken in.

use super::super::held::{Folder, Held};
use super::super::intake::{Begin, Joins, Loop, Task};
use super::super::reading::partitions;
use super::super::{Context, Error, Parts};
use super::{Setup, definitions};
use headwater_engine::agent::intake::Intake;
use headwater_engine::names::{self, Owner};
use std::sync::Arc;

pub(super) fn parts(context: &Arc<Context>, setup: &Arc<Setup>) -> Result<Parts, Error> {
    let mut parts: Parts = Vec::new();
    let Some(topic) = setup.config.trigger.input.clone() else {
        return Ok(parts);
    };
    let held = match setup.agent.for_each() {
        Some(view) => Some(Arc::new(Held::new(definitions(context, [view])?))),
        None => None,
    };
    if let Some(held) = held.clone() {
        let context = Arc::clone(context);
        parts.push((
            "rows",
            Box::new(move |life| Folder::new(context, life, held).named("rows").run()),
        ));
    }
    let (context, setup) = (Arc::clone(context), Arc::clone(setup));
    parts.push((
        "intake",
        Box::new(move |life| {
            let topics = [topic, setup.config.topics.dead.clone()];
            let counts = partitions(&*context.services.log, &life, &topics)?;
            let count = counts.first().copied().unwrap_or(1);
            let Some(intake) = Intake::new(Arc::clone(&setup.agent), count) else {
                return Ok(());
            };
            let joins = held.map(|held| Joins::new(Arc::clone(&context), Arc::clone(&life), held));
            let task = task(&context, &setup, count);
            Loop::new(context, life, task, Box::new(intake), joins).run()
        }),
    ));
    Ok(parts)
}

fn task(context: &Context, setup: &Setup, partitions: i32) -> Task {
    let (config, agent) = (&setup.config, &setup.agent);
    Task {
        group: names::group(
            &context.config.namespace,
            Owner::Agent,
            &config.name,
            None,
            "intake",
        ),
        sources: vec![agent.origin().topic().to_owned()],
        entries: Vec::new(),
        topic: agent.topic().to_owned(),
        partitions,
        dead_topic: config.topics.dead.clone(),
        journal: Some(config.topics.journal.clone()),
        begin: Begin::Once(config.trigger.start_from),
    }
}
