//! What is to be done about the generations of one view. Pure: from what there is and what is wanted to the next step.
//!
//! The resource asks for one generation. It is built beside the one that is read; once its stage is
//! ready it is read instead, and what nobody reads any more goes. Two names in the resource's status are
//! all that is remembered, and each change of them is a step of its own: first it is written, then acted
//! upon, so an operator that starts anew goes on where the last one stopped.
//!
//! Invariants: readers are given a generation that was ready, or the first one while none ever was.
//! Nothing of a generation goes while a reader may read it. A generation whose topics are partly gone is
//! never taken up again: what is left of it goes first.

use std::collections::{BTreeMap, BTreeSet};

/// A stage's StatefulSet as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// All its pods have the newest configuration, and hold what was in the log when they started.
    Ready,
    NotReady,
    /// It is being deleted.
    Going,
}

/// Whether the sources hold all that the wanted generation is folded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complete {
    /// Kafka was not asked yet.
    Unknown,
    Yes,
    No,
}

/// What is known of one view.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The generation that the resource asks for.
    pub(crate) wanted: String,
    /// The one that is read, by the status.
    pub(crate) served: Option<String>,
    /// The one that is being built, by the status.
    pub(crate) building: Option<String>,
    /// Stages that exist, by generation.
    pub(crate) stages: BTreeMap<String, Found>,
    /// Generations that a reader may read.
    pub(crate) used: BTreeSet<String>,
    /// Generations of which topics are on record.
    pub(crate) topics: BTreeSet<String>,
    pub(crate) complete: Complete,
}

/// How far a view is with its generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is one, and it is read.
    Settled,
    /// The wanted one is being built, or is about to be.
    Building,
    /// The wanted one is read; others are still there.
    Moving,
    /// The wanted one cannot be built from what the sources hold.
    Refused,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What the status has to say before anything else happens.
    pub(crate) served: Option<String>,
    pub(crate) building: Option<String>,
    /// What readers are given.
    pub(crate) read: Option<String>,
    /// Whose topics and stages there are to be. Those in neither list are left as they are.
    pub(crate) keep: BTreeSet<String>,
    /// Whose stages, and then topics, go.
    pub(crate) remove: BTreeSet<String>,
    pub(crate) phase: Phase,
}

pub(crate) fn step(facts: &Facts) -> Step {
    let wanted = &facts.wanted;
    let begun = facts.building.as_ref() == Some(wanted);
    let mut step = Step {
        served: facts.served.clone(),
        building: facts.building.clone(),
        read: facts.served.clone(),
        keep: facts.served.iter().cloned().collect(),
        remove: BTreeSet::new(),
        phase: Phase::Building,
    };
    let mut unclean = false;
    if facts.served.as_ref() == Some(wanted) {
        step.building = None;
        step.phase = Phase::Settled;
    } else if begun {
        step.keep.insert(wanted.clone());
        step.read.get_or_insert_with(|| wanted.clone());
        if facts.stages.get(wanted) == Some(&Found::Ready) {
            step.served = Some(wanted.clone());
            step.building = None;
        }
    } else if let (None, Some(first)) = (&facts.served, &facts.building)
        && facts.stages.get(first) == Some(&Found::Ready)
    {
        // Readers have it already: another one takes its place only when it is ready too.
        step.served = Some(first.clone());
        step.building = None;
    } else {
        // Where nothing is remembered, nothing was ever taken away either.
        let fresh = facts.served.is_none() && facts.building.is_none();
        match facts.stages.get(wanted) {
            Some(Found::Ready | Found::NotReady) => step.building = Some(wanted.clone()),
            Some(Found::Going) => unclean = true,
            None if facts.topics.contains(wanted) && !fresh => unclean = true,
            None => match (&facts.served, facts.complete) {
                (Some(_), Complete::Unknown) => {}
                (Some(_), Complete::No) => {
                    step.building = None;
                    step.phase = Phase::Refused;
                }
                (None, _) | (_, Complete::Yes) => step.building = Some(wanted.clone()),
            },
        }
    }
    let all = facts.stages.keys().chain(&facts.topics);
    let named = |generation: &String| {
        [&facts.served, &step.served, &facts.building, &step.building]
            .iter()
            .any(|name| name.as_ref() == Some(generation))
    };
    step.remove = all
        .filter(|generation| {
            let superseded = *generation != wanted && !named(generation);
            superseded && !facts.used.contains(*generation)
        })
        .cloned()
        .collect();
    if unclean {
        step.remove.insert(wanted.clone());
    }
    if step.phase == Phase::Settled && facts.stages.keys().any(|generation| generation != wanted) {
        step.phase = Phase::Moving;
    }
    step
}

#[cfg(test)]
mod tests;
