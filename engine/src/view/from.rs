//! One entry of a view's `from`: how a record of its source becomes a change of one key.
//!
//! The steps, in this order: decode, null events (semantics 4), filter, joins (semantics 7), key, delete, value. A filter that reads no
//! join comes before them, so that an event that is left out needs no rows of others.
//!
//! Joins read at the moment of the call. That the views then hold what they have to is the caller's ([`super::intake`]).

use super::definition::{Change, Projected};
use super::origin::Origin;
use crate::config::{self, By, Fold, Order};
use crate::expr::{Expression, Names, Variable, Variables, Wanted};
use crate::fault::{Fault, Reason};
use crate::json::Document;
use crate::json::scan::Scanner;
use crate::key::type_of;
use crate::lookup::{Lookup, Views};
use crate::problem::{CompileError, reason};
use crate::record::Record;
use crate::source::{Lent, Source};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most events of a joined history.
const ROWS_MAX: u32 = 1_000;

#[derive(Debug)]
pub(super) struct From {
    pub(super) name: String,
    pub(super) topic: Arc<str>,
    source: Source,
    joins: Vec<Join>,
    filter: Option<Expression>,
    key: Option<Expression>,
    /// Directly, or through the key of a join.
    key_reads_event: bool,
    value: Option<Expression>,
    delete: Option<Expression>,
    /// Whether an expression uses `event` other than by its fields.
    whole: bool,
    /// Whether the filter waits for the joins.
    filters_joined: bool,
}

#[derive(Debug)]
struct Join {
    name: String,
    lookup: Lookup,
    reads_event: bool,
}

impl From {
    /// Compiles an entry over its source, which is found in `sources` by name; `path` is the field that holds the entry, for problems.
    /// `None` where there are some.
    pub(super) fn compile(
        entry: &config::From,
        sources: &BTreeMap<String, config::Source>,
        path: &str,
        problems: &mut CompileError,
    ) -> Option<Self> {
        let Some(source) = sources.get(&entry.source) else {
            problems.add(
                format!("{path}.sourceRef"),
                reason::REFERENCE_NOT_FOUND,
                format!("EventSource '{}' does not exist", entry.source),
            );
            return None;
        };
        let mut names = Names::new(&["event", "key", "headers", "time"]);
        if let Some(schema) = &source.schema {
            names = names.schema("event", schema);
        }
        let joins: Vec<Join> = entry
            .joins
            .iter()
            .filter_map(|join| {
                let path = format!("{path}.joins[name={}]", join.name);
                let lookup = problems.merge(Lookup::compile(&lookup_of(join), &names, &path))?;
                Some(Join {
                    name: join.name.clone(),
                    reads_event: lookup.reads("event"),
                    lookup,
                })
            })
            .collect();
        if !entry.joins.is_empty() {
            let joined = entry.joins.iter().map(|join| &join.name);
            names = names.fields("joined", joined);
        }
        let mut expression = |field: &str, text: &Option<String>, wanted| {
            let text = text.as_ref()?;
            problems.take(
                format!("{path}.{field}"),
                reason::INVALID_EXPRESSION,
                Expression::compile_for(text, &names, wanted),
            )
        };
        let filter = expression("filter", &entry.filter, Wanted::Bool);
        let key = expression("key", &entry.key, Wanted::Key);
        let value = expression("value", &entry.value, Wanted::Anything);
        let delete = expression("delete", &entry.delete, Wanted::Bool);
        // Problems of the source itself are the source's to report; a view only needs it to work.
        let topic = source.topic.as_str().into();
        let source = problems.merge(Source::compile(source))?;
        let key_reads_event = key.as_ref().is_some_and(|key| {
            let through = |join: &Join| join.reads_event && reads_join(key, &join.name);
            key.reads("event") || joins.iter().any(through)
        });
        let whole = [&filter, &key, &value, &delete]
            .into_iter()
            .flatten()
            .any(|expression| expression.reads_whole("event"))
            || joins.iter().any(|join| join.lookup.reads_whole("event"));
        let filters_joined = filter.as_ref().is_some_and(|filter| filter.reads("joined"));
        Some(Self {
            filters_joined,
            name: entry.name.clone(),
            topic,
            whole,
            source,
            joins,
            filter,
            key,
            key_reads_event,
            value,
            delete,
        })
    }

    pub(super) fn has_joins(&self) -> bool {
        !self.joins.is_empty()
    }

    pub(super) fn joined_views(&self) -> impl Iterator<Item = &str> {
        self.joins.iter().map(|join| join.lookup.view())
    }

    /// What can be told of a record before its joins are read: the event's time, or that the entry leaves it out.
    ///
    /// # Errors
    /// The record's fault, as far as it shows without the joins.
    pub(super) fn admit(
        &self,
        fold: &Fold,
        record: &Record<'_>,
        scanner: &mut Scanner,
    ) -> Result<Option<i64>, Fault> {
        let event = self.source.lend(record, scanner, self.whole)?;
        if self.passes(fold, &event)? {
            Ok(Some(event.time))
        } else {
            Ok(None)
        }
    }

    /// Whether an event that the other entry lent is the one that this entry would lend.
    pub(super) fn lends_as(&self, other: &Self) -> bool {
        self.source.decodes_as(&other.source)
    }

    /// The event of a record, for [`From::project`].
    ///
    /// # Errors
    /// The record's fault: it does not decode.
    pub(super) fn lend<'a>(
        &self,
        record: &Record<'a>,
        scanner: &'a mut Scanner,
    ) -> Result<Lent<'a>, Fault> {
        self.source.lend(record, scanner, self.whole)
    }

    /// Hands over what an event does; `None` where it does nothing. `place` is the entry's among those of its view.
    ///
    /// # Errors
    /// The event's fault: an expression fails on it, it has no key.
    pub(super) fn project<T>(
        &self,
        fold: &Fold,
        place: u32,
        event: &mut Lent<'_>,
        views: &dyn Views,
        then: impl FnOnce(Projected<'_>) -> T,
    ) -> Result<Option<T>, Fault> {
        event.set_whole(self.whole);
        let event = &*event;
        if !self.passes(fold, event)? {
            return Ok(None);
        }
        let (partition, offset) = event.place();
        let origin = Origin {
            from: place,
            partition,
            offset,
        };
        if self.joins.is_empty() && event.before.is_null() {
            return self.hand_over(fold, origin, event, event, then).map(Some);
        }
        let alone = Scope {
            event,
            joined: None,
        };
        let joined = self.join(&alone, views)?;
        let scope = Scope {
            event,
            joined: Some(&joined),
        };
        if !event.null
            && let Some(filter) = &self.filter
            && self.filters_joined
            && !filter.truth(&scope)?
        {
            return Ok(None);
        }
        self.hand_over(fold, origin, event, &scope, then).map(Some)
    }

    /// Semantics 4: a null event deletes, where its key can be told and there is something to delete. Others pass a filter that needs no join.
    fn passes(&self, fold: &Fold, event: &Lent<'_>) -> Result<bool, Fault> {
        if event.null {
            let known = !self.key_reads_event || !event.before.is_null();
            return Ok(known && matches!(fold, Fold::Latest { .. }));
        }
        match &self.filter {
            Some(filter) if !self.filters_joined => filter.truth(event),
            _ => Ok(true),
        }
    }

    /// The rows that the joins find, by name.
    fn join(&self, scope: &Scope<'_>, views: &dyn Views) -> Result<Value, Fault> {
        let mut joined = Map::new();
        for join in &self.joins {
            let unknown = scope.event.null && scope.event.before.is_null() && join.reads_event;
            let row = if unknown {
                Value::Null
            } else {
                join.lookup
                    .read(scope, views, scope.event.time)
                    .map_err(|fault| fault.at(format_args!("join '{}'", join.name)))?
                    .value
            };
            joined.insert(join.name.clone(), row);
        }
        Ok(Value::Object(joined))
    }

    /// Says under which key what is kept of an event.
    fn hand_over<T>(
        &self,
        fold: &Fold,
        origin: Origin,
        event: &Lent<'_>,
        scope: &dyn Variables,
        then: impl FnOnce(Projected<'_>) -> T,
    ) -> Result<T, Fault> {
        let key = match &self.key {
            Some(expression) => expression.key_text(scope)?,
            None => event.key.clone(),
        }
        .ok_or_else(|| Fault::new(Reason::NullKey, "the key is null or empty"))?;
        let dropped = event.null
            || match &self.delete {
                Some(delete) => delete.truth(scope)?,
                None => false,
            };
        let built = match &self.value {
            Some(expression) if !dropped => Some(Document::built(expression.evaluate(scope)?)),
            _ => None,
        };
        let change = if dropped {
            Change::Drop
        } else {
            Change::Put(built.as_ref().unwrap_or(&event.document))
        };
        if let Change::Put(document) = change {
            check_fields(fold, document)?;
        }
        Ok(then(Projected {
            key,
            change,
            time: event.time,
            origin,
        }))
    }
}

/// `merge: Fields` puts objects together.
fn check_fields(fold: &Fold, document: &Document<'_>) -> Result<(), Fault> {
    let merges = matches!(
        fold,
        Fold::Latest {
            merge: config::Merge::Fields
        }
    );
    if merges && !document.is_object() {
        return Err(Fault::new(
            Reason::SchemaMismatch,
            format!(
                "merge: Fields needs objects, the value is {}",
                type_of(document.value())
            ),
        ));
    }
    Ok(())
}

/// A join reads what a slot with this key reads.
fn lookup_of(join: &config::Join) -> config::Lookup {
    config::Lookup {
        view: join.view.clone(),
        by: By::Key(join.key.clone()),
        index: None,
        filter: None,
        order_by: None,
        order: Order::Ascending,
        limit: ROWS_MAX,
    }
}

fn reads_join(expression: &Expression, join: &str) -> bool {
    expression.reads_whole("joined") || expression.fields_of("joined").contains(join)
}

/// What expressions see: the event, or of a delete the row that it took away, and the rows that were joined to it.
struct Scope<'a> {
    event: &'a Lent<'a>,
    joined: Option<&'a Value>,
}

impl Variables for Scope<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        match name {
            "event" if self.event.null => Some(Variable::Json(&self.event.before)),
            "joined" => self.joined.map(Variable::Json),
            other => self.event.get(other),
        }
    }
}

/// Names of views, each once.
pub(super) fn joined_views(from: &[From]) -> BTreeSet<&str> {
    from.iter().flat_map(From::joined_views).collect()
}
