//! A view as it was declared, compiled: how a record of each source becomes a change of one key.

use super::aggregate::Aggregate;
use super::from::{self, From};
use super::indexes::Places;
use super::origin::{self, Origin};
use crate::config::{self, Fold, IndexKey, Input};
use crate::expr::{Expression, Names, Variable, Variables, Wanted};
use crate::fault::{Fault, Reason};
use crate::json::Document;
use crate::json::scan::Scanner;
use crate::key::Text;
use crate::lookup::Views;
use crate::problem::{CompileError, reason};
use crate::record::Record;
use crate::source::Lent;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// More `from` entries than the presence bits of a merged row hold.
const FROM_MAX: usize = 64;

/// A compiled view. Shared by all its partitions.
#[derive(Debug)]
pub struct Definition {
    name: String,
    fold: Fold,
    input: Input,
    state_topic: String,
    changes_topic: Option<String>,
    from: Vec<From>,
    indexes: Vec<Index>,
    /// Of an `aggregate` view.
    aggregate: Option<Aggregate>,
    expire_after: Option<i64>,
    /// Bits of the `from` entries that a merged row needs to be seen.
    required: u64,
}

#[derive(Debug)]
struct Index {
    name: String,
    key: Expression,
    many: bool,
}

/// What one event does to one key.
#[derive(Clone, Debug)]
pub struct Projected<'a> {
    pub key: Text<'a>,
    pub change: Change<'a>,
    /// Event time, milliseconds.
    pub time: i64,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Put(&'a Document<'a>),
    /// The key goes; with `merge: Fields`, the fields of this source.
    Drop,
}

impl Definition {
    /// Compiles a view over its sources, which are found in `sources` by name.
    ///
    /// # Errors
    /// Every problem with its field path: unknown sources, expressions that cannot work, indexes on a history.
    pub fn compile(
        view: &config::View,
        sources: &BTreeMap<String, config::Source>,
    ) -> Result<Arc<Self>, CompileError> {
        let sources = &*view.sources_in(sources);
        let mut problems = CompileError::default();
        if view.from.is_empty() || view.from.len() > FROM_MAX {
            problems.add(
                "spec.from",
                reason::INVALID_SPEC,
                format!(
                    "a view has 1 to {FROM_MAX} entries here, this one has {}",
                    view.from.len()
                ),
            );
        }
        let mut from = Vec::new();
        let mut required = 0;
        for (place, entry) in origin::sorted(&view.from).into_iter().enumerate() {
            let path = format!("spec.from[name={}]", entry.name);
            if entry.required {
                required |= 1u64.checked_shl(place as u32).unwrap_or(0);
            }
            from.extend(From::compile(entry, sources, &path, &mut problems));
        }
        let mut aggregate = match &view.fold {
            Fold::Aggregate { fields } => {
                let names = known(view, sources, Names::new(&["value"]));
                Aggregate::compile(fields, &names, &mut problems)
            }
            _ => None,
        };
        let indexes = compile_indexes(view, sources, aggregate.as_mut(), &mut problems);
        problems.finish()?;
        Ok(Arc::new(Self {
            name: view.name.clone(),
            fold: view.fold.clone(),
            input: view.input.clone(),
            state_topic: view.state_topic.clone(),
            changes_topic: view.changes_topic.clone(),
            from,
            indexes,
            aggregate,
            expire_after: view.expire_after_ms,
            required,
        }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn fold(&self) -> &Fold {
        &self.fold
    }

    pub fn is_history(&self) -> bool {
        matches!(self.fold, Fold::History { .. })
    }

    /// The fields of an `aggregate` view.
    pub(super) fn aggregate(&self) -> Option<&Aggregate> {
        self.aggregate.as_ref()
    }

    /// Milliseconds after its last event when a key is gone.
    pub(super) fn expire_after(&self) -> Option<i64> {
        self.expire_after
    }

    pub fn input(&self) -> &Input {
        &self.input
    }

    pub fn state_topic(&self) -> &str {
        &self.state_topic
    }

    /// Where each change of a row is written; absent: nobody asks for them.
    pub fn changes_topic(&self) -> Option<&str> {
        self.changes_topic.as_deref()
    }

    /// Topics of the sources, in the order that [`Origin::from`] counts.
    pub fn source_topics(&self) -> impl Iterator<Item = &str> {
        self.from.iter().map(|from| &*from.topic)
    }

    pub(super) fn source_topic(&self, from: u32) -> Option<&Arc<str>> {
        self.from.get(from as usize).map(|from| &from.topic)
    }

    pub(super) fn required(&self) -> u64 {
        self.required
    }

    pub(super) fn index_place(&self, name: &str) -> Option<usize> {
        self.indexes.iter().position(|index| index.name == name)
    }

    pub(super) fn index_count(&self) -> usize {
        self.indexes.len()
    }

    /// Views whose rows are joined to events, each once.
    pub fn joined_views(&self) -> BTreeSet<&str> {
        from::joined_views(&self.from)
    }

    /// Whether the entry at `place` reads other views.
    pub(super) fn has_joins(&self, place: u32) -> bool {
        self.entry(place).is_ok_and(From::has_joins)
    }

    /// What can be told of a record before its joins are read: the event's time; `None` where the entry leaves it out.
    ///
    /// # Errors
    /// The record's fault, as far as it shows without the joins.
    pub(super) fn admit(
        &self,
        place: u32,
        record: &Record<'_>,
        scanner: &mut Scanner,
    ) -> Result<Option<i64>, Fault> {
        let from = self.entry(place)?;
        from.admit(&self.fold, record, scanner)
            .map_err(|fault| self.at(from, fault))
    }

    /// Whether both views read the same source, and as the only one: an event that one lent is the one that the other would lend.
    pub(super) fn lends_as(&self, other: &Self) -> bool {
        match (self.from.as_slice(), other.from.as_slice()) {
            ([from], [other]) => from.lends_as(other),
            _ => false,
        }
    }

    /// The event of a record of the `from` entry at `place`.
    ///
    /// # Errors
    /// The record's fault: it does not decode. [`Definition::project`] says where.
    pub(super) fn lend<'a>(
        &self,
        place: u32,
        record: &Record<'a>,
        scanner: &'a mut Scanner,
    ) -> Result<Lent<'a>, Fault> {
        self.entry(place)?.lend(record, scanner)
    }

    /// Hands over what an event of the `from` entry at `place` does; `None` where it does nothing. Joins read `views` now.
    ///
    /// # Errors
    /// The event's fault: it does not decode, an expression fails on it, it has no key.
    pub(super) fn project<T>(
        &self,
        place: u32,
        event: Result<&mut Lent<'_>, Fault>,
        views: &dyn Views,
        then: impl FnOnce(Projected<'_>) -> T,
    ) -> Result<Option<T>, Fault> {
        let from = self.entry(place)?;
        event
            .and_then(|event| from.project(&self.fold, place, event, views, then))
            .map_err(|fault| self.at(from, fault))
    }

    fn entry(&self, place: u32) -> Result<&From, Fault> {
        self.from
            .get(place as usize)
            .ok_or_else(|| origin::invalid("from"))
    }

    fn at(&self, from: &From, fault: Fault) -> Fault {
        fault.at(format_args!("view '{}', from '{}'", self.name, from.name))
    }

    /// Under which index keys a row stands: places of the indexes with keys, each once.
    ///
    /// # Errors
    /// An index expression that fails, other than on an absent field, which leaves the row out of that index.
    pub(super) fn index_keys(&self, key: &str, value: &Document<'_>) -> Result<Places, Fault> {
        let mut keys = BTreeSet::new();
        for (place, index) in self.indexes.iter().enumerate() {
            let row = RowVariables {
                key,
                value,
                whole: index.key.reads_whole("value"),
            };
            let found = if index.many {
                index.key.keys(&row)
            } else {
                index.key.key(&row).map(|key| key.into_iter().collect())
            };
            match found {
                Ok(found) => keys.extend(found.into_iter().map(|key| (place, key))),
                Err(fault) if fault.reason == Reason::AbsentField => {}
                Err(fault) => return Err(fault.at(format_args!("index '{}'", index.name))),
            }
        }
        Ok(keys)
    }
}

struct RowVariables<'a> {
    key: &'a str,
    value: &'a Document<'a>,
    whole: bool,
}

impl Variables for RowVariables<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        match name {
            "key" => Some(Variable::Text(self.key)),
            "value" if self.whole => Some(Variable::Json(self.value.value())),
            "value" => Some(self.value.variable()),
            _ => None,
        }
    }
}

/// What is folded is known where it is one source's events as they came.
fn known(view: &config::View, sources: &BTreeMap<String, config::Source>, names: Names) -> Names {
    if let [only] = view.from.as_slice()
        && only.value.is_none()
        && let Some(schema) = sources
            .get(&only.source)
            .and_then(|source| source.schema.as_ref())
    {
        return names.schema("value", schema);
    }
    names
}

fn compile_indexes(
    view: &config::View,
    sources: &BTreeMap<String, config::Source>,
    mut aggregate: Option<&mut Aggregate>,
    problems: &mut CompileError,
) -> Vec<Index> {
    if matches!(view.fold, Fold::History { .. }) && !view.indexes.is_empty() {
        problems.add(
            "spec.indexes",
            reason::INVALID_SPEC,
            "a history has no indexes; put them on a latest view",
        );
    }
    let names = Names::new(&["key", "value"]);
    let names = match &view.fold {
        Fold::Aggregate { fields } => names.fields("value", fields.iter().map(|field| &field.name)),
        _ => known(view, sources, names),
    };
    view.indexes
        .iter()
        .filter_map(|index| {
            let (field, text, wanted) = match &index.key {
                IndexKey::One(text) => ("key", text, Wanted::Key),
                IndexKey::Many(text) => ("keys", text, Wanted::List),
            };
            let path = format!("spec.indexes[name={}].{field}", index.name);
            let key = problems.take(
                &path,
                reason::INVALID_EXPRESSION,
                Expression::compile_for(text, &names, wanted),
            )?;
            if let Some(aggregate) = &mut aggregate {
                problems.take(path, reason::INVALID_SPEC, aggregate.index(&key))?;
            }
            Some(Index {
                name: index.name.clone(),
                key,
                many: wanted == Wanted::List,
            })
        })
        .collect()
}
