//! Lookups: what a slot reads from a view (semantics 2 and 9).
//!
//! `key` without `index` gives the value or null, on a history its events; all else a list of rows. First `where`, then order, then
//! `limit`. The same input gives the same rows in the same order.

use crate::config::{self, By, Order};
use crate::expr::{Expression, Names, Shape, Variable, Variables, Wanted};
use crate::fault::{Fault, Reason};
use crate::key::Key;
use crate::problem::{CompileError, reason};
use crate::record::Position;
use crate::view::{Row, View};
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Views by name, as whoever holds them lets them be read; the closure sees one state, unchanged while it runs.
pub trait Views {
    /// Does nothing where there is no such view.
    fn read(&self, name: &str, f: &mut dyn FnMut(&View));
}

/// For whoever has no views and needs none.
pub struct NoViews;

impl Views for NoViews {
    fn read(&self, _: &str, _: &mut dyn FnMut(&View)) {}
}

/// A compiled lookup.
#[derive(Debug)]
pub struct Lookup {
    view: String,
    by: CompiledBy,
    index: Option<String>,
    filter: Option<Expression>,
    order_by: Option<Expression>,
    order: Order,
    limit: usize,
}

#[derive(Debug)]
enum CompiledBy {
    Key(Expression),
    Keys(Expression),
    All,
}

/// What a lookup found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// Null or a value where `one`, else a list whose n-th element is `rows[n]`.
    pub value: Value,
    pub rows: Vec<RowOrigin>,
    /// One value was asked for: by `key`, without an index, of a view that is no history.
    pub one: bool,
    /// Keys asked for.
    pub keys: Vec<Key>,
    /// Keys asked for that hold nothing.
    pub missing: Vec<Key>,
    /// Rows that `limit` left out.
    pub beyond_limit: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowOrigin {
    pub key: Key,
    /// The source record that caused the value.
    pub position: Position,
    /// Event time, milliseconds.
    pub time: i64,
}

impl Lookup {
    /// Compiles a lookup that sees `names`; `where` and `orderBy` also see `value`, the row. `path` is the field that holds it, for problems.
    ///
    /// # Errors
    /// Every expression that cannot work, with its field path.
    pub fn compile(
        lookup: &config::Lookup,
        names: &Names,
        path: &str,
    ) -> Result<Self, CompileError> {
        let mut problems = CompileError::default();
        let row_names = names.clone().shape("value", Shape::Any);
        let mut expression = |field: &str, text: &str, names: &Names, wanted| {
            problems.take(
                format!("{path}.{field}"),
                reason::INVALID_EXPRESSION,
                Expression::compile_for(text, names, wanted),
            )
        };
        let by = match &lookup.by {
            By::Key(text) => expression("key", text, names, Wanted::Key).map(CompiledBy::Key),
            By::Keys(text) => expression("keys", text, names, Wanted::List).map(CompiledBy::Keys),
            By::All => Some(CompiledBy::All),
        };
        let filter = lookup
            .filter
            .as_ref()
            .and_then(|text| expression("where", text, &row_names, Wanted::Bool));
        let order_by = lookup
            .order_by
            .as_ref()
            .and_then(|text| expression("orderBy", text, &row_names, Wanted::Anything));
        problems.finish()?;
        Ok(Self {
            view: lookup.view.clone(),
            // Without problems there is one.
            by: by.unwrap_or(CompiledBy::All),
            index: lookup.index.clone(),
            filter,
            order_by,
            order: lookup.order,
            limit: lookup.limit as usize,
        })
    }

    pub fn view(&self) -> &str {
        &self.view
    }

    /// Whether an expression uses the variable `root` other than by its fields.
    pub(crate) fn reads_whole(&self, root: &str) -> bool {
        self.expressions()
            .any(|expression| expression.reads_whole(root))
    }

    /// Fields of the variable `root` that the expressions read: with `context`, the slots that this one needs.
    pub fn fields_of(&self, root: &str) -> BTreeSet<String> {
        self.expressions()
            .flat_map(|expression| expression.fields_of(root))
            .collect()
    }

    /// Whether an expression reads the variable `root`.
    pub fn reads(&self, root: &str) -> bool {
        self.expressions().any(|expression| expression.reads(root))
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let by = match &self.by {
            CompiledBy::Key(expression) | CompiledBy::Keys(expression) => Some(expression),
            CompiledBy::All => None,
        };
        by.into_iter().chain(&self.filter).chain(&self.order_by)
    }

    /// Reads at the time `at`, milliseconds: histories hold what is younger than it less their window.
    ///
    /// # Errors
    /// An expression that fails, on what it reads or on a row.
    pub fn read(
        &self,
        variables: &dyn Variables,
        views: &dyn Views,
        at: i64,
    ) -> Result<Read, Fault> {
        let keys = match &self.by {
            CompiledBy::Key(key) => Some(key.key(variables)?.into_iter().collect()),
            CompiledBy::Keys(keys) => Some(distinct(keys.keys(variables)?)),
            CompiledBy::All => None,
        };
        let mut result = Ok(Read::default());
        views.read(&self.view, &mut |view| {
            result = self.read_view(variables, view, keys.clone(), at);
        });
        result.map_err(|fault| fault.at(format_args!("view '{}'", self.view)))
    }

    fn read_view(
        &self,
        variables: &dyn Variables,
        view: &View,
        keys: Option<Vec<Key>>,
        at: i64,
    ) -> Result<Read, Fault> {
        let history = view.definition().is_history();
        let one = matches!(self.by, CompiledBy::Key(_)) && self.index.is_none() && !history;
        let mut missing = Vec::new();
        let rows = match (&keys, &self.index) {
            (None, _) if history => view
                .all_keys()
                .into_iter()
                .flat_map(|key| view.history(&key, at))
                .collect(),
            (None, _) => view
                .all_keys()
                .into_iter()
                .filter_map(|key| view.get(&key, at))
                .collect(),
            (Some(keys), index) => {
                let mut rows = Vec::new();
                // Several index keys may lead to one row: it stands where it was found first. Keys themselves are distinct.
                let mut seen = (index.is_some() && keys.len() > 1).then(BTreeSet::new);
                for key in keys {
                    let found = match index {
                        Some(index) => view.by_index(index, key, at),
                        None if history => view.history(key, at),
                        None => view.get(key, at).into_iter().collect(),
                    };
                    if found.is_empty() {
                        missing.push(key.clone());
                    }
                    match &mut seen {
                        Some(seen) => rows.extend(
                            found
                                .into_iter()
                                .filter(|row| history || seen.insert(row.key.clone())),
                        ),
                        None => rows.extend(found),
                    }
                }
                rows
            }
        };
        let mut rows = self.filtered(variables, rows)?;
        self.sort(variables, &mut rows)?;
        let beyond_limit = rows.len().saturating_sub(self.limit);
        rows.truncate(self.limit);
        let origins = rows
            .iter()
            .map(|row| RowOrigin {
                key: row.key.clone(),
                position: row.position.clone(),
                time: row.time,
            })
            .collect();
        let value = if one {
            rows.into_iter().next().map_or(Value::Null, |row| row.value)
        } else {
            rows.into_iter()
                .map(|row| element(&row.key, row.value))
                .collect()
        };
        Ok(Read {
            value,
            rows: origins,
            one,
            keys: keys.unwrap_or_default(),
            missing,
            beyond_limit,
        })
    }

    fn filtered(&self, variables: &dyn Variables, mut rows: Vec<Row>) -> Result<Vec<Row>, Fault> {
        let Some(filter) = &self.filter else {
            return Ok(rows);
        };
        let mut kept = Vec::with_capacity(rows.len());
        for row in rows.drain(..) {
            if filter.truth(&WithRow {
                variables,
                value: &row.value,
            })? {
                kept.push(row);
            }
        }
        Ok(kept)
    }

    /// Stable: rows that are equal by `orderBy` keep the order in which they were found. Rows without the field come last.
    fn sort(&self, variables: &dyn Variables, rows: &mut Vec<Row>) -> Result<(), Fault> {
        let Some(order_by) = &self.order_by else {
            if self.order == Order::Descending {
                rows.reverse();
            }
            return Ok(());
        };
        let mut keyed = Vec::with_capacity(rows.len());
        for row in rows.drain(..) {
            let by = match order_by.evaluate(&WithRow {
                variables,
                value: &row.value,
            }) {
                Ok(by) => by,
                Err(fault) if fault.reason == Reason::AbsentField => Value::Null,
                Err(fault) => return Err(fault),
            };
            keyed.push((by, row));
        }
        keyed.sort_by(|(left, _), (right, _)| match (left, right) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Greater,
            (_, Value::Null) => Ordering::Less,
            _ if self.order == Order::Descending => compare(right, left),
            _ => compare(left, right),
        });
        rows.extend(keyed.into_iter().map(|(_, row)| row));
        Ok(())
    }
}

impl Read {
    /// Each row as an element of a list, a single value too.
    pub(crate) fn into_rows(self) -> Vec<(RowOrigin, Value)> {
        let values = match self.value {
            Value::Array(values) if !self.one => values,
            value => self
                .rows
                .iter()
                .map(|row| element(&row.key, value.clone()))
                .collect(),
        };
        self.rows.into_iter().zip(values).collect()
    }
}

/// A row as an element of a list: `_key` beside its fields, or beside `_value` where it is no object.
fn element(key: &Key, value: Value) -> Value {
    let mut object = match value {
        Value::Object(object) => object,
        other => Map::from_iter([("_value".to_owned(), other)]),
    };
    object.insert("_key".to_owned(), Value::from(key.as_str()));
    Value::Object(object)
}

/// Each once, where it stands first.
fn distinct(keys: Vec<Key>) -> Vec<Key> {
    let mut seen = BTreeSet::new();
    keys.into_iter()
        .filter(|key| seen.insert(key.clone()))
        .collect()
}

/// A total order over JSON values: by type (bool, number, string, list, object), then by value.
fn compare(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => left
                .as_f64()
                .unwrap_or(f64::MAX)
                .total_cmp(&right.as_f64().unwrap_or(f64::MAX)),
        },
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => left
            .iter()
            .zip(right)
            .map(|(left, right)| compare(left, right))
            .find(|ordering| ordering.is_ne())
            .unwrap_or_else(|| left.len().cmp(&right.len())),
        // Objects have no order that anybody expects; their text gives a stable one.
        (Value::Object(_), Value::Object(_)) => left.to_string().cmp(&right.to_string()),
        _ => rank(left).cmp(&rank(right)),
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

struct WithRow<'a> {
    variables: &'a dyn Variables,
    value: &'a Value,
}

impl Variables for WithRow<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        match name {
            "value" => Some(Variable::Json(self.value)),
            other => self.variables.get(other),
        }
    }
}
