//! Where an agent begins, and what it takes over with a partition.

use super::super::first::{self, NOTHING};
use super::super::life::Life;
use super::super::positions::{self, Last};
use super::super::reading::{persist, to_end};
use super::super::resume::{self, Intent};
use super::super::{Error, Stall};
use super::Setup;
use super::progress::Progress;
use crate::log::{self, Committed, Log};
use headwater_engine::config::StartFrom;
use headwater_engine::conversation::{self, Limits};
use headwater_engine::fault::Fault;
use headwater_engine::journal;
use headwater_engine::record::{Record, TopicPartition};
use std::sync::Arc;

/// Where the group stands.
pub(super) enum Found {
    /// The next offset of each partition that was asked for, or why it cannot go on.
    Offsets(Vec<(TopicPartition, Result<Place, Stall>)>),
    /// A new agent, or one whose group was forgotten: these are to be committed, then asked again.
    New(Vec<(TopicPartition, Committed)>),
    /// A new agent, whose first offsets another replica fixes: ask again.
    NotYet,
}

/// Where one partition goes on.
pub(super) struct Place {
    pub(super) progress: Progress,
    /// Of a trigger that is gone past, whatever it is.
    pub(super) skip: Option<i64>,
    /// Somebody said where it goes on.
    pub(super) decided: bool,
}

/// Waits until a predecessor's transactions are decided, so that what is read afterwards is complete.
pub(super) fn find(
    setup: &Setup,
    life: &Life,
    ask: impl FnMut(&[TopicPartition]) -> log::Result<first::Offsets>,
    topic: &str,
    partitions: i32,
    assigned: &[TopicPartition],
) -> Result<Found, Error> {
    let log = &*setup.context.services.log;
    let topic: Arc<str> = topic.into();
    let all: Vec<TopicPartition> = (0..partitions)
        .map(|partition| TopicPartition::new(Arc::clone(&topic), partition))
        .collect();
    let start_from = if setup.agent.has_input() {
        // Where the agent begins, its intake decided.
        StartFrom::Earliest
    } else {
        setup.config.trigger.start_from
    };
    let journal = &setup.config.topics.journal;
    let worked =
        || Ok(has_run(setup, life, log)? || positions::is_journaled(log, life, journal, &all)?);
    let told = (journal.as_str(), setup.config.topics.runs.as_str());
    let is_clean = |at: &Committed| Progress::read(at, &at.metadata).is_some_and(|at| at.clean);
    let own = all.clone();
    let mut committed = match first::find(log, life, ask, own, assigned, start_from, worked)? {
        first::Found::Offsets(committed) => committed,
        first::Found::New(offsets) => return Ok(Found::New(offsets)),
        first::Found::NotYet => return Ok(Found::NotYet),
        first::Found::Lost => {
            let known = positions::of_runs(log, life, told, &all, is_clean)?;
            return positions::of_group(log, life, known)?
                .map(Found::New)
                .ok_or_else(|| Error::Stalled(lost(setup)));
        }
    };
    let mut gone = Vec::new();
    let missing = first::missing(&committed, assigned);
    if !missing.is_empty() {
        for (partition, last) in positions::of_runs(log, life, told, &missing, is_clean)? {
            match last {
                Last::Said(at) => {
                    committed.insert(partition, Some(at));
                }
                Last::Never => {}
                Last::Lost => gone.push(partition),
            }
        }
    }
    let bounds = persist(life, "watermarks", || log.watermarks(assigned))?;
    let resource = setup.resource();
    let next = |partition: &TopicPartition| {
        if gone.contains(partition) {
            return Err(Stall {
                at: partition.to_string(),
                ..lost(setup)
            });
        }
        let bounds = bounds.get(partition).copied().unwrap_or(NOTHING);
        let committed = committed.get(partition).and_then(Option::as_ref);
        let progress = match committed {
            Some(at) => {
                Stall::position(&resource, partition, at.offset, bounds)?;
                Progress::read(at, resume::progress(at))
                    .ok_or_else(|| unreadable(&resource, partition))?
            }
            // Added since the agent began.
            None => Progress {
                next: bounds.low,
                finished: Vec::new(),
                clean: true,
            },
        };
        Ok(Place {
            progress,
            skip: Intent::skipped(committed),
            decided: committed.is_some_and(|at| matches!(Intent::of(at), Some(Intent::From(_)))),
        })
    };
    let offsets = assigned
        .iter()
        .map(|partition| (partition.clone(), next(partition)));
    Ok(Found::Offsets(offsets.collect()))
}

/// What is finished is written in a way that this version does not know.
fn unreadable(resource: &str, partition: &TopicPartition) -> Stall {
    Stall {
        reason: "PositionsLost",
        at: partition.to_string(),
        message: format!(
            "the committed offset of '{partition}' has metadata that this version cannot read, so it cannot tell which triggers have been run. Run the version that wrote it, or say where to go on: headwater resume {resource} --from Earliest|Latest|POSITION"
        ),
    }
}

fn has_run(setup: &Setup, life: &Life, log: &dyn Log) -> Result<bool, Error> {
    let topic = &setup.config.topics.runs;
    let counts = super::super::reading::partitions(log, life, std::slice::from_ref(topic))?;
    let runs: Vec<TopicPartition> = (0..counts.first().copied().unwrap_or(0))
        .map(|partition| TopicPartition::new(topic.as_str(), partition))
        .collect();
    let ends = persist(life, "ends", || log.ends(&runs))?;
    Ok(ends.iter().any(|end| *end != 0))
}

fn lost(setup: &Setup) -> Stall {
    let trigger = &setup.config.trigger;
    let resource = setup.resource();
    // An input log of the agent's own is not made anew with the view.
    if let (Some(view), None) = (trigger.from.view(), &trigger.input) {
        let runs = &setup.config.topics.runs;
        return first::lost_among_changes(view, setup.agent.topic(), runs, &resource);
    }
    Stall {
        reason: "PositionsLost",
        at: String::new(),
        message: format!(
            "the agent has run before (see topic '{}'), but its consumer group has no offsets any more, as after a week without members. Say where it is to go on: headwater resume {} --from Earliest|Latest|POSITION",
            setup.config.topics.runs, resource
        ),
    }
}

/// What comes with a partition.
pub(super) struct Restored {
    pub(super) conversations: Option<conversation::Store>,
    pub(super) journal: journal::Store,
    /// How far the runs are, where the audit or the journal says more than the group's offset.
    pub(super) ahead: Option<Progress>,
}

/// Reads what a partition's conversations and journal came to, up to now.
pub(super) fn take_over(
    setup: &Setup,
    life: &Life,
    partition: i32,
    place: &Place,
) -> Result<Restored, Error> {
    let topics = &setup.config.topics;
    let mut conversations = match (&setup.config.conversation, &topics.conversation) {
        (Some(config), Some(topic)) => Some((topic, conversation::Store::new(Limits::of(config)))),
        _ => None,
    };
    if let Some((topic, store)) = &mut conversations {
        restore(setup, life, topic, partition, |record| {
            store.restore(record)
        })?;
    }
    let mut journal = journal::Store::default();
    restore(setup, life, &topics.journal, partition, |record| {
        journal.restore(record)
    })?;
    Ok(Restored {
        conversations: conversations.map(|(_, store)| store),
        ahead: ahead(setup, life, partition, &journal, place)?,
        journal,
    })
}

/// A committed offset may be lost with the marker of its transaction; what ran then is in the audit, or in the journal, all the same.
fn ahead(
    setup: &Setup,
    life: &Life,
    partition: i32,
    journal: &journal::Store,
    place: &Place,
) -> Result<Option<Progress>, Error> {
    if place.decided {
        return Ok(None);
    }
    let of = TopicPartition::new(setup.agent.topic(), partition);
    let Some(kept) = journal.reached(&of.to_string()) else {
        return Ok(None);
    };
    let log = &*setup.context.services.log;
    let (told, _) = positions::audited(log, life, &setup.config.topics.runs, &of)?;
    let last = told.filter(|told| told.mark == kept.mark);
    let last = last.unwrap_or_else(|| kept.clone());
    let at = Committed {
        offset: last.next,
        metadata: last.progress,
    };
    let last = Progress::read(&at, &at.metadata);
    Ok(last.filter(|last| last.is_beyond(&place.progress)))
}

fn restore(
    setup: &Setup,
    life: &Life,
    topic: &str,
    partition: i32,
    mut take: impl FnMut(&Record<'_>) -> Result<(), Fault>,
) -> Result<(), Error> {
    let partition = TopicPartition::new(topic, partition);
    let mut bad: Option<Fault> = None;
    to_end(
        &*setup.context.services.log,
        life,
        std::slice::from_ref(&partition),
        &mut |_| {},
        &mut |record| {
            if let Err(fault) = take(record) {
                bad.get_or_insert(fault.at(record.position()));
            }
        },
    )?;
    match bad {
        Some(fault) => Err(Error::Stalled(Stall::state(&partition, &fault))),
        None => Ok(()),
    }
}
