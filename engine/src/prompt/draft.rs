//! What a prompt is rendered from, and how much of it is shown.
//!
//! A draft owns the template input. Cutting a slot moves its last rows aside and showing more moves
//! them back: nothing is copied, however often a budget is tried. Invariant: `context`, `meta` and
//! `conversation` of the input always say the same as [`Held`] and the turns shown.

use super::message_tokens;
use crate::conversation::{Past, Turn};
use crate::key::Key;
use crate::lookup::{Read, RowOrigin};
use crate::template::without_markers;
use crate::time::rfc3339;
use crate::tokens;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::sync::Arc;

/// What the budget must know of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotPlan {
    pub name: String,
    pub required: bool,
    pub priority: i32,
    /// The most tokens of its rows, as compact JSON.
    pub budget_tokens: Option<usize>,
}

/// A slot as it was read, and how many of its rows are shown.
#[derive(Debug)]
pub struct Held {
    plan: SlotPlan,
    one: bool,
    rows: Vec<RowOrigin>,
    keys: Vec<Key>,
    missing: Vec<Key>,
    kept: usize,
    /// The rows not shown, the first of them last.
    aside: Vec<Value>,
    stale_seconds: i64,
}

impl Held {
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    pub fn one(&self) -> bool {
        self.one
    }

    pub fn kept(&self) -> usize {
        self.kept
    }

    pub fn omitted(&self) -> usize {
        self.rows.len() - self.kept
    }

    /// The rows shown.
    pub fn rows(&self) -> &[RowOrigin] {
        &self.rows[..self.kept]
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    pub fn missing(&self) -> &[Key] {
        &self.missing
    }

    /// Newest event time among the rows shown.
    pub fn as_of(&self) -> Option<i64> {
        self.rows().iter().map(|row| row.time).max()
    }

    /// From [`Held::as_of`] to `at` in whole seconds; an event time yet to come is 0 old.
    pub fn age_seconds(&self, at: i64) -> Option<i64> {
        self.as_of().map(|as_of| ((at - as_of) / 1_000).max(0))
    }
}

/// A turn in which nobody's words end or start a message: what a customer wrote, and what a model was led to say.
fn harmless(turn: &Arc<Turn>) -> Arc<Turn> {
    match (
        without_markers(&turn.user),
        without_markers(&turn.assistant),
    ) {
        (Cow::Borrowed(_), Cow::Borrowed(_)) => Arc::clone(turn),
        (user, assistant) => Arc::new(Turn {
            user: user.into_owned(),
            assistant: assistant.into_owned(),
            ..(**turn).clone()
        }),
    }
}

/// The template input of a run, in the making.
#[derive(Debug)]
pub struct Draft {
    input: Value,
    slots: Vec<Held>,
    turns: Vec<Arc<Turn>>,
    /// Number of the first of them in its conversation.
    first_turn: u64,
    /// Tokens of each turn's two messages, filled when first asked for.
    turn_tokens: Vec<usize>,
    turns_shown: usize,
    assembled_at: i64,
}

impl Draft {
    /// `input` holds what does not change: the event and the run.
    pub fn new(
        mut input: Map<String, Value>,
        slots: &[SlotPlan],
        past: &Past,
        assembled_at: i64,
    ) -> Self {
        let turns: Vec<Arc<Turn>> = past.turns.iter().map(harmless).collect();
        let unread = || -> Map<String, Value> {
            slots
                .iter()
                .map(|slot| (slot.name.clone(), Value::Null))
                .collect()
        };
        input.insert("context".to_owned(), Value::Object(unread()));
        input.insert("meta".to_owned(), Value::Object(unread()));
        let mut draft = Self {
            input: Value::Object(input),
            slots: Vec::with_capacity(slots.len()),
            turn_tokens: turns
                .iter()
                .map(|turn| message_tokens(&turn.user) + message_tokens(&turn.assistant))
                .collect(),
            first_turn: past.next.saturating_sub(turns.len() as u64),
            turns,
            turns_shown: 0,
            assembled_at,
        };
        draft.show_turns(past.turns.len());
        draft
    }

    pub fn input(&self) -> &Value {
        &self.input
    }

    pub fn into_input(self) -> Value {
        self.input
    }

    pub fn slots(&self) -> &[Held] {
        &self.slots
    }

    /// The turns shown, oldest first.
    pub fn turns(&self) -> &[Arc<Turn>] {
        &self.turns[self.turns.len() - self.turns_shown..]
    }

    pub fn turns_omitted(&self) -> usize {
        self.turns.len() - self.turns_shown
    }

    /// How many of the turns shown stay where the first one has to be the same for some runs to come: more than half of them.
    pub fn steady_turns(&self) -> usize {
        let shown = self.turns_shown as u64;
        let step = (shown / 2).checked_ilog2().map_or(1, |power| 1 << power);
        let first = self.first_turn + self.turns_omitted() as u64;
        let skipped = first.div_ceil(step) * step - first;
        usize::try_from(shown - skipped).unwrap_or(self.turns_shown)
    }

    /// What the turns shown cost as messages.
    pub fn turn_tokens(&self) -> usize {
        self.turn_tokens[self.turns.len() - self.turns_shown..]
            .iter()
            .sum()
    }

    /// Adds a slot as it was read; its own budget cuts it at once, to one row at least where it is
    /// required. `show` false: it shows nothing, all is omitted.
    pub fn add(&mut self, plan: &SlotPlan, read: Read, stale_seconds: i64, show: bool) {
        let kept = read.rows.len();
        let within = if show {
            plan.budget_tokens
                .map_or(kept, |budget| rows_within(&read, budget))
                .max(usize::from(plan.required && kept > 0))
        } else {
            0
        };
        self.set("context", &plan.name, read.value);
        self.slots.push(Held {
            plan: plan.clone(),
            one: read.one,
            rows: read.rows,
            keys: read.keys,
            missing: read.missing,
            kept,
            aside: Vec::new(),
            stale_seconds,
        });
        self.show_rows(self.slots.len() - 1, within);
    }

    /// Shows the first `kept` rows of a slot, by its place in [`Draft::slots`].
    pub fn show_rows(&mut self, slot: usize, kept: usize) {
        let Some(held) = self.slots.get_mut(slot) else {
            return;
        };
        let Some(value) = self
            .input
            .get_mut("context")
            .and_then(|context| context.get_mut(&held.plan.name))
        else {
            return;
        };
        let kept = kept.min(held.rows.len());
        while held.kept > kept {
            let row = match value {
                Value::Array(rows) if !held.one => rows.pop(),
                _ => Some(value.take()),
            };
            held.aside.push(row.unwrap_or_default());
            held.kept -= 1;
        }
        while held.kept < kept {
            let row = held.aside.pop().unwrap_or_default();
            match value {
                Value::Array(rows) if !held.one => rows.push(row),
                _ => *value = row,
            }
            held.kept += 1;
        }
        let name = held.plan.name.clone();
        let meta = json!({
            "age_seconds": held.age_seconds(self.assembled_at),
            "stale_seconds": held.stale_seconds,
            "as_of": held.as_of().map(rfc3339),
            "count": held.kept,
            "omitted": held.omitted(),
            "missing": held.missing,
        });
        self.set("meta", &name, meta);
    }

    /// Shows the newest `shown` turns.
    pub fn show_turns(&mut self, shown: usize) {
        self.turns_shown = shown.min(self.turns.len());
        let conversation: Vec<Value> = self
            .turns()
            .iter()
            .flat_map(|turn| {
                let time = rfc3339(turn.time);
                [
                    json!({"role": "user", "content": turn.user, "time": time}),
                    json!({"role": "assistant", "content": turn.assistant, "time": time}),
                ]
            })
            .collect();
        if let Value::Object(input) = &mut self.input {
            input.insert("conversation".to_owned(), Value::Array(conversation));
        }
    }

    /// Slots that may give way, by their place, in the order in which they do.
    pub fn giving_way(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.slots.len())
            .filter(|place| !self.slots[*place].plan.required && self.slots[*place].kept > 0)
            .collect();
        places.sort_by_key(|place| {
            let plan = &self.slots[*place].plan;
            (plan.priority, plan.name.clone())
        });
        places
    }

    fn set(&mut self, section: &str, slot: &str, value: Value) {
        if let Some(Value::Object(section)) = self.input.get_mut(section) {
            section.insert(slot.to_owned(), value);
        }
    }
}

/// How many rows, from the first, have no more tokens than the budget as compact JSON.
fn rows_within(read: &Read, budget: usize) -> usize {
    let rows = match &read.value {
        Value::Array(rows) if !read.one => rows.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut left = budget;
    rows.iter()
        .take(read.rows.len())
        .take_while(|row| {
            let cost = tokens::count(&row.to_string());
            let fits = cost <= left;
            left = left.saturating_sub(cost);
            fits
        })
        .count()
}
