//! Slots, `when`, prompt (semantics 13): everything before the model.

use super::again::Now;
use super::scope::Scope;
use super::slots::Slot;
use super::{Agent, Trigger};
use crate::audit;
use crate::config::OnStale;
use crate::conversation::Past;
use crate::fault::{Fault, Reason};
use crate::journal::Did;
use crate::key::Key;
use crate::lookup::{Read, Views};
use crate::model::Message;
use crate::prompt::{self, Draft, Held, SlotPlan};
use crate::time::rfc3339;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a run reads besides its trigger.
pub struct Context<'a> {
    pub views: &'a dyn Views,
    /// [`Past::default`] for an agent without a conversation and for a trigger without a key.
    pub conversation: &'a Past,
    /// As the barrier before this assembly found it.
    pub freshness: &'a Freshness,
    /// The only clock that an assembly sees, milliseconds since the epoch.
    pub assembled_at: i64,
    /// From 1.
    pub attempt: u32,
}

/// How far each view had got when the barrier let the run go on. A view that is not in it had folded
/// all that there was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Freshness {
    /// How long the run waited for them.
    pub waited_ms: u64,
    pub views: BTreeMap<String, ViewFreshness>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewFreshness {
    /// Per root source partition, the offset below which every record is in the view.
    pub covered: Vec<audit::Covered>,
    /// Since the view last held all that was in the log; 0 where it does.
    pub stale_ms: i64,
    pub behind: Vec<audit::Behind>,
}

/// Where a run stands before the model.
#[derive(Clone, Debug)]
pub enum Assembly {
    /// `when` was false; see [`Agent::skip`].
    Skipped(Ready),
    Ready(Ready),
}

/// A run that has been assembled. The journal keeps it whole, so that a run goes on from it elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Absent where the agent makes no prompt, and for a skipped run.
    pub prompt: Option<Assembled>,
    /// What the templates were rendered from.
    pub input: Arc<Value>,
    /// By name.
    pub slots: Vec<audit::Slot>,
    pub turns: audit::Turns,
    /// The user's side of the turn that this run adds.
    pub user_text: String,
    pub attempt: u32,
    /// For the views, before it was assembled.
    pub waited_ms: u64,
    pub assembled_at: i64,
    /// SHA-256 of the agent's configuration and of its templates, which made this.
    pub spec_hash: String,
    pub template_hash: Option<String>,
    /// The finished steps: what the model said that did not end the run, and what came of its calls.
    #[serde(skip)]
    pub said: Vec<Did>,
    /// What slots read once more.
    #[serde(skip)]
    pub(super) now: Option<Now>,
    /// Where the turn goes.
    pub(super) past: NextTurn,
}

/// A prompt as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assembled {
    pub messages: Arc<[Message]>,
    pub tokens: usize,
    /// SHA-256, hexadecimal.
    pub hash: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct NextTurn {
    pub(super) number: u64,
    pub(super) ends: Vec<u64>,
}

impl Ready {
    /// Puts the run's turn behind those that came while it waited.
    pub fn goes_behind(&mut self, conversation: &Past) {
        self.past = NextTurn::after(conversation);
    }
}

impl NextTurn {
    fn after(conversation: &Past) -> Self {
        Self {
            number: conversation.next,
            ends: conversation.ends.clone(),
        }
    }
}

impl Agent {
    /// Reads the slots at the trigger's time, asks `when`, and makes the prompt within its budget.
    ///
    /// # Errors
    /// What fails this run, and may not fail a later attempt: an expression or a template on what was
    /// read, `RequiredSlotEmpty`, `StaleSlot`, `OverBudget`.
    pub fn assemble(&self, trigger: &Trigger, context: &Context<'_>) -> Result<Assembly, Fault> {
        let plans: Vec<SlotPlan> = self.slots.iter().map(|slot| slot.plan.clone()).collect();
        let mut draft = Draft::new(
            self.base_input(trigger, context.attempt),
            &plans,
            context.conversation,
            context.assembled_at,
        );
        for slot in &self.slots {
            self.read_slot(slot, trigger, context, &mut draft)?;
        }
        if let Some(when) = &self.when {
            let scope = Scope::new(&trigger.event, draft.input());
            if !when.truth(&scope).map_err(|fault| fault.at("when"))? {
                let ready = self.ready(None, String::new(), draft, context);
                return Ok(Assembly::Skipped(ready));
            }
        }
        let Some(prompt) = &self.prompt else {
            let ready = self.ready(None, String::new(), draft, context);
            return Ok(Assembly::Ready(ready));
        };
        let rendered = prompt::fit(prompt, &mut draft)?;
        let user_text = match self.conversation.as_ref().map(|own| &own.user_text) {
            Some(Some(user_text)) => user_text
                .string(&Scope::new(&trigger.event, draft.input()))
                .map_err(|fault| fault.at("conversation.userText"))?,
            Some(None) => rendered.user.clone(),
            None => String::new(),
        };
        let tokens = rendered.tokens;
        let messages = prompt::messages_of(rendered, &draft);
        let assembled = Assembled {
            hash: prompt::hash(&messages),
            tokens,
            messages,
        };
        let ready = self.ready(Some(assembled), user_text, draft, context);
        Ok(Assembly::Ready(ready))
    }

    /// The template input before anything is read: the event and the run.
    pub(super) fn base_input(&self, trigger: &Trigger, attempt: u32) -> Map<String, Value> {
        let event = &trigger.event;
        let mut input = Map::from_iter([
            ("event".to_owned(), event.value.clone()),
            (
                "key".to_owned(),
                event
                    .key
                    .as_ref()
                    .map_or(Value::Null, |key| key.as_str().into()),
            ),
            ("headers".to_owned(), event.headers.clone()),
            ("time".to_owned(), rfc3339(event.time).into()),
            (
                "run".to_owned(),
                json!({
                    "id": trigger.run,
                    "attempt": attempt,
                    "agent": self.full_name,
                    "root": trigger.root.to_string(),
                    "hops": trigger.hops,
                }),
            ),
        ]);
        for (name, value) in [("previous", &event.previous), ("match", &event.row)] {
            if let Some(value) = value {
                input.insert(name.to_owned(), value.clone());
            }
        }
        input
    }

    /// The template input of a run that could not be assembled: every slot null.
    pub(super) fn empty_input(&self, trigger: &Trigger, attempt: u32) -> Value {
        let plans: Vec<SlotPlan> = self.slots.iter().map(|slot| slot.plan.clone()).collect();
        Draft::new(
            self.base_input(trigger, attempt),
            &plans,
            &Past::default(),
            0,
        )
        .into_input()
    }

    fn read_slot(
        &self,
        slot: &Slot,
        trigger: &Trigger,
        context: &Context<'_>,
        draft: &mut Draft,
    ) -> Result<(), Fault> {
        let name = &slot.plan.name;
        let scope = Scope::new(&trigger.event, draft.input());
        let found = slot
            .find(&scope, context.views, context.freshness, trigger.time)
            .map_err(|fault| fault.at(format_args!("slot '{name}'")))?;
        let Found {
            read,
            stale_ms,
            show,
        } = found;
        if slot.plan.required && (is_empty(&read) || !show) {
            let why = if show {
                "nothing was found"
            } else {
                "it is stale and omitted"
            };
            return Err(Fault::new(
                Reason::RequiredSlotEmpty,
                format!(
                    "slot '{name}' is required, and {why} in the view '{}'. If runs should go on without it, leave out `required`",
                    slot.lookup.view()
                ),
            ));
        }
        draft.add(&slot.plan, read, stale_seconds(stale_ms), show);
        Ok(())
    }

    fn ready(
        &self,
        prompt: Option<Assembled>,
        user_text: String,
        draft: Draft,
        context: &Context<'_>,
    ) -> Ready {
        let mut slots: Vec<audit::Slot> = self
            .slots
            .iter()
            .zip(draft.slots())
            .map(|(slot, held)| audited(slot, held, context.freshness, context.assembled_at))
            .collect();
        slots.sort_by(|left, right| left.slot.cmp(&right.slot));
        Ready {
            prompt,
            slots,
            turns: audit::Turns {
                shown: draft.turns().len(),
                omitted: draft.turns_omitted(),
            },
            input: Arc::new(draft.into_input()),
            user_text,
            attempt: context.attempt,
            waited_ms: context.freshness.waited_ms,
            assembled_at: context.assembled_at,
            spec_hash: self.spec_hash.clone(),
            template_hash: self.template_hash(),
            said: Vec::new(),
            now: None,
            past: NextTurn::after(context.conversation),
        }
    }
}

/// What a slot's lookup found.
pub(super) struct Found {
    pub(super) read: Read,
    pub(super) stale_ms: i64,
    /// Not where it is stale and `onStale` omits it.
    pub(super) show: bool,
}

impl Slot {
    /// Makes the lookup at the time `at`, milliseconds.
    pub(super) fn find(
        &self,
        scope: &Scope<'_>,
        views: &dyn Views,
        freshness: &Freshness,
        at: i64,
    ) -> Result<Found, Fault> {
        let read = self.lookup.read(scope, views, at)?;
        let stale_ms = freshness
            .views
            .get(self.lookup.view())
            .map_or(0, |view| view.stale_ms);
        let stale = self.is_stale(stale_ms);
        if stale && self.on_stale == OnStale::Fail {
            return Err(Fault::new(
                Reason::StaleSlot,
                format!(
                    "the view '{}' last held all that was in the log {stale_ms} ms ago, maxStalenessSeconds allows {} ms",
                    self.lookup.view(),
                    self.max_staleness_ms.unwrap_or(0),
                ),
            ));
        }
        Ok(Found {
            read,
            stale_ms,
            show: !(stale && self.on_stale == OnStale::Omit),
        })
    }

    fn is_stale(&self, stale_ms: i64) -> bool {
        self.max_staleness_ms.is_some_and(|most| stale_ms > most)
    }
}

/// Null, or no row.
fn is_empty(read: &Read) -> bool {
    read.rows.is_empty() || read.value.is_null()
}

/// Rounded up: only a view that holds all is stale by 0.
pub(super) fn stale_seconds(stale_ms: i64) -> i64 {
    stale_ms.max(0).saturating_add(999) / 1_000
}

/// `at`: when it was read.
pub(super) fn audited(slot: &Slot, held: &Held, freshness: &Freshness, at: i64) -> audit::Slot {
    let texts = |keys: &[Key]| keys.iter().map(|key| key.as_str().to_owned()).collect();
    let freshness = freshness.views.get(slot.lookup.view());
    let stale_ms = freshness.map_or(0, |view| view.stale_ms);
    audit::Slot {
        slot: held.name().to_owned(),
        view: slot.lookup.view().to_owned(),
        generation: slot.generation.clone(),
        one: held.one(),
        keys: texts(held.keys()),
        rows: held
            .rows()
            .iter()
            .map(|row| audit::Row {
                key: row.key.as_str().to_owned(),
                position: row.position.clone(),
                time: row.time,
            })
            .collect(),
        count: held.kept(),
        omitted: held.omitted(),
        missing: texts(held.missing()),
        as_of: held.as_of(),
        age_seconds: held.age_seconds(at),
        stale_seconds: stale_seconds(stale_ms),
        stale: slot.is_stale(stale_ms),
        covered: freshness
            .map(|view| view.covered.clone())
            .unwrap_or_default(),
        behind: freshness
            .map(|view| view.behind.clone())
            .unwrap_or_default(),
    }
}
