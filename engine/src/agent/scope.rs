//! What expressions of a run see: the event, the template input, and what has come of it so far.

use crate::expr::{Variable, Variables};
use crate::source::Event;
use serde_json::Value;

/// Variables of a run, borrowed.
pub(crate) struct Scope<'a> {
    pub(crate) event: &'a Event,
    /// `context`, `meta`, `conversation`, `run`.
    pub(crate) input: &'a Value,
    /// `prompt`, `result`, `failure`.
    pub(crate) more: &'a [(&'a str, &'a Value)],
    /// `item`, where there are items.
    pub(crate) item: Option<&'a Value>,
}

impl<'a> Scope<'a> {
    /// What is seen before the model.
    pub(crate) fn new(event: &'a Event, input: &'a Value) -> Self {
        Self {
            event,
            input,
            more: &[],
            item: None,
        }
    }

    /// The same with this item.
    pub(crate) fn with_item<'b>(&'b self, item: &'b Value) -> Scope<'b> {
        Scope {
            item: Some(item),
            ..*self
        }
    }
}

impl Variables for Scope<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        if let Some(variable) = self.event.get(name) {
            return Some(variable);
        }
        if name == "item" {
            return self.item.map(Variable::Json);
        }
        self.more
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, value)| *value)
            .or_else(|| self.input.get(name))
            .map(Variable::Json)
    }
}
