//! The slots of an agent: compiled, and put in an order in which each comes after those that its
//! lookup names (semantics 11).

use crate::config::{self, OnStale};
use crate::expr::Names;
use crate::lookup::Lookup;
use crate::problem::{CompileError, reason};
use crate::prompt::SlotPlan;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) plan: SlotPlan,
    pub(super) lookup: Lookup,
    pub(super) generation: String,
    pub(super) max_staleness_ms: Option<i64>,
    pub(super) on_stale: OnStale,
}

impl Slot {
    /// The slots that its lookup reads.
    fn needs(&self) -> BTreeSet<String> {
        let mut needs = self.lookup.fields_of("context");
        needs.extend(self.lookup.fields_of("meta"));
        needs
    }
}

/// Slots in the order in which they are read; among those that could come next, by name.
pub(super) fn compile(
    agent: &config::Agent,
    views: &BTreeMap<String, config::View>,
    names: &Names,
) -> Result<Vec<Slot>, CompileError> {
    let mut problems = CompileError::default();
    let mut slots = BTreeMap::new();
    for slot in &agent.slots {
        let path = path(&slot.name);
        let compiled = problems.merge(Lookup::compile(&slot.lookup, names, &path));
        let Some(view) = known(&mut problems, &slot.lookup, views, &path) else {
            continue;
        };
        if let Some(lookup) = compiled {
            let slot = Slot {
                plan: SlotPlan {
                    name: slot.name.clone(),
                    required: slot.required,
                    priority: slot.priority,
                    budget_tokens: slot.budget_tokens.map(|tokens| tokens as usize),
                },
                lookup,
                generation: view.generation.clone(),
                max_staleness_ms: slot.max_staleness_ms,
                on_stale: slot.on_stale,
            };
            slots.insert(slot.plan.name.clone(), slot);
        }
    }
    problems.finish()?;
    order(slots)
}

/// The view of a lookup, if it is there; an index that it does not have is a problem. `path`: of the field that holds the lookup.
pub(super) fn known<'a>(
    problems: &mut CompileError,
    lookup: &config::Lookup,
    views: &'a BTreeMap<String, config::View>,
    path: &str,
) -> Option<&'a config::View> {
    let Some(view) = views.get(&lookup.view) else {
        problems.add(
            format!("{path}.viewRef.name"),
            reason::REFERENCE_NOT_FOUND,
            format!("there is no ContextView '{}'", lookup.view),
        );
        return None;
    };
    if let Some(index) = &lookup.index
        && !view.indexes.iter().any(|own| own.name == *index)
    {
        problems.add(
            format!("{path}.index"),
            reason::REFERENCE_NOT_FOUND,
            format!("the view '{}' has no index '{index}'", view.name),
        );
    }
    Some(view)
}

fn order(mut slots: BTreeMap<String, Slot>) -> Result<Vec<Slot>, CompileError> {
    let mut ordered: Vec<Slot> = Vec::with_capacity(slots.len());
    while !slots.is_empty() {
        let next = slots
            .iter()
            .find(|(_, slot)| slot.needs().iter().all(|need| !slots.contains_key(need)))
            .map(|(name, _)| name.clone());
        match next.and_then(|name| slots.remove(&name)) {
            Some(slot) => ordered.push(slot),
            None => return Err(cycle(&slots)),
        }
    }
    Ok(ordered)
}

/// Each of these needs another of them, so following needs from any comes to a circle.
fn cycle(slots: &BTreeMap<String, Slot>) -> CompileError {
    let mut walked: Vec<&str> = Vec::new();
    let mut at = slots.keys().next().map(String::as_str);
    while let Some(name) = at {
        if let Some(start) = walked.iter().position(|walked| *walked == name) {
            walked.drain(..start);
            break;
        }
        walked.push(name);
        at = slots.get(name).and_then(|slot| {
            let needs = slot.needs();
            slots
                .keys()
                .map(String::as_str)
                .find(|other| needs.contains(*other))
        });
    }
    let first = walked.first().copied().unwrap_or_default();
    walked.push(first);
    CompileError::one(
        path(first),
        reason::INVALID_SPEC,
        format!(
            "slots need each other in a circle: {}. One of them has to do without the others",
            walked.join(" -> ")
        ),
    )
}

fn path(slot: &str) -> String {
    format!("spec.context[name={slot}]")
}
