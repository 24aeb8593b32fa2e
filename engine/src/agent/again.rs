//! Slots read once more, when the model has answered: what outputs and the rules about calls see as `now`.
//!
//! A model may take its time, and what it was told may be over. An output or a rule that names `now.<slot>` gets
//! what the slot's lookup finds at this moment; the keys that it looks up come from `context`, as the prompt showed it, and
//! histories and windows are those of the trigger's time. Nothing is cut for a budget, and `required` is not
//! asked: that there is nothing any more is what one wants to know.

use super::assemble::{Found, audited, stale_seconds};
use super::scope::Scope;
use super::tools::Tools;
use super::{Agent, Freshness, Ready, Slot, Trigger};
use crate::audit;
use crate::config::Outcome;
use crate::conversation::Past;
use crate::fault::Fault;
use crate::lookup::Views;
use crate::output::Output;
use crate::prompt::{Draft, SlotPlan};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What slots read again.
#[derive(Clone, Debug, PartialEq)]
pub struct Now {
    /// By slot; only of those that outputs read.
    pub(super) values: Value,
    /// By name.
    pub(super) slots: Vec<audit::Slot>,
}

/// The slots that outputs of finished runs read as `now`.
pub(super) fn named(outputs: &[Output], slots: &[Slot]) -> BTreeSet<String> {
    let done = || {
        outputs
            .iter()
            .filter(|output| output.outcome() == Outcome::Done)
    };
    if done().any(|output| output.reads_whole("now")) {
        return slots.iter().map(|slot| slot.plan.name.clone()).collect();
    }
    done().flat_map(|output| output.fields_of("now")).collect()
}

impl Agent {
    /// Whether [`Agent::look_again`] has anything to do before [`Agent::complete`].
    pub fn looks_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// Makes the lookups again whose slots outputs read as `now`. `at`: milliseconds since the epoch.
    ///
    /// # Errors
    /// A lookup that fails; `StaleSlot`.
    pub fn look_again(
        &self,
        trigger: &Trigger,
        ready: &mut Ready,
        views: &dyn Views,
        freshness: &Freshness,
        at: i64,
    ) -> Result<(), Fault> {
        ready.now = Some(self.look(&self.again, trigger, ready, views, freshness, at)?);
        Ok(())
    }

    /// Makes the lookups again whose slots the policy reads as `now`. `at`: milliseconds since the epoch.
    ///
    /// # Errors
    /// As [`Agent::look_again`].
    pub fn look_for_policy(
        &self,
        trigger: &Trigger,
        ready: &Ready,
        views: &dyn Views,
        freshness: &Freshness,
        at: i64,
    ) -> Result<Now, Fault> {
        let none = BTreeSet::new();
        let named = self.tools.as_ref().map_or(&none, Tools::policy_reads);
        self.look(named, trigger, ready, views, freshness, at)
    }

    fn look(
        &self,
        named: &BTreeSet<String>,
        trigger: &Trigger,
        ready: &Ready,
        views: &dyn Views,
        freshness: &Freshness,
        at: i64,
    ) -> Result<Now, Fault> {
        let again: Vec<&Slot> = self
            .slots
            .iter()
            .filter(|slot| named.contains(&slot.plan.name))
            .collect();
        let whole = |slot: &&Slot| SlotPlan {
            budget_tokens: None,
            ..slot.plan.clone()
        };
        let plans: Vec<SlotPlan> = again.iter().map(whole).collect();
        let mut draft = Draft::new(Map::new(), &plans, &Past::default(), at);
        for (slot, plan) in again.iter().zip(&plans) {
            let name = &plan.name;
            let scope = Scope::new(&trigger.event, &ready.input);
            let found = slot
                .find(&scope, views, freshness, trigger.time)
                .map_err(|fault| fault.at(format_args!("now.{name}")))?;
            let Found {
                read,
                stale_ms,
                show,
            } = found;
            draft.add(plan, read, stale_seconds(stale_ms), show);
        }
        let both = again.iter().zip(draft.slots());
        let mut slots: Vec<audit::Slot> = both
            .map(|(slot, held)| audited(slot, held, freshness, at))
            .collect();
        slots.sort_by(|left, right| left.slot.cmp(&right.slot));
        Ok(Now {
            values: draft.into_input()["context"].take(),
            slots,
        })
    }
}
