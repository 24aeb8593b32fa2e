//! `trigger.forEach`: the rows that one event starts a run for each of.

use crate::config::{self, Fold};
use crate::expr::Names;
use crate::fault::Fault;
use crate::key::Key;
use crate::lookup::{Lookup, Views};
use crate::problem::{CompileError, reason};
use crate::source::Event;
use serde_json::Value;
use std::collections::BTreeMap;

const PATH: &str = "spec.trigger.forEach";

#[derive(Debug)]
pub(super) struct ForEach {
    lookup: Lookup,
    /// Its rows are events, several of one key.
    history: bool,
}

impl ForEach {
    pub(super) fn compile(
        lookup: &config::Lookup,
        views: &BTreeMap<String, config::View>,
        names: &Names,
    ) -> Result<Self, CompileError> {
        let mut problems = CompileError::default();
        let all = config::Lookup {
            limit: u32::MAX,
            ..lookup.clone()
        };
        let compiled = problems.merge(Lookup::compile(&all, names, PATH));
        let view = views.get(&lookup.view);
        match view {
            None => problems.add(
                format!("{PATH}.viewRef.name"),
                reason::REFERENCE_NOT_FOUND,
                format!("there is no ContextView '{}'", lookup.view),
            ),
            Some(view) => {
                if let Some(index) = &lookup.index
                    && !view.indexes.iter().any(|own| own.name == *index)
                {
                    problems.add(
                        format!("{PATH}.index"),
                        reason::REFERENCE_NOT_FOUND,
                        format!("the view '{}' has no index '{index}'", view.name),
                    );
                }
            }
        }
        problems.finish()?;
        match (compiled, view) {
            (Some(lookup), Some(view)) => Ok(Self {
                lookup,
                history: matches!(view.fold, Fold::History { .. }),
            }),
            _ => Err(CompileError::one(
                PATH,
                reason::INVALID_SPEC,
                "forEach cannot be compiled",
            )),
        }
    }

    pub(super) fn view(&self) -> &str {
        self.lookup.view()
    }

    /// The rows at the event's time, in the order of the lookup: what tells each from the others, its key, and what
    /// `match` is.
    ///
    /// # Errors
    /// An expression that fails, on the event or on a row.
    pub(super) fn rows(
        &self,
        event: &Event,
        views: &dyn Views,
    ) -> Result<Vec<(String, Key, Value)>, Fault> {
        let read = self
            .lookup
            .read(event, views, event.time)
            .map_err(|fault| fault.at("trigger.forEach"))?;
        let rows = read.into_rows().into_iter().map(|(origin, value)| {
            let id = if self.history {
                format!("{}@{}", origin.key.as_str(), origin.position)
            } else {
                origin.key.as_str().to_owned()
            };
            (id, origin.key, value)
        });
        Ok(rows.collect())
    }
}
