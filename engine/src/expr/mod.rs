//! Expressions: CEL with optionals and Kubernetes' list and string functions.
//!
//! The `cel` crate parses; checking and evaluating are done here, over a tree of our own, because an
//! expression of a user must be checked before it meets an event, must end within a budget, must not
//! copy the event that it looks at, and must never put an event's values into an error.
//!
//! Invariants: an evaluation is a function of the variables; a failure is a [`Fault`] with the
//! expression's text, never a silent `false`; what an expression does not read costs nothing.

mod compile;
mod direct;
mod evaluate;
mod functions;
mod lists;
mod names;
mod strings;
mod times;
mod value;

#[cfg(test)]
mod tests;

pub use names::{Fields, Names, Shape};

use crate::fault::{Fault, Reason, quote};
use crate::key::{Key, Text};
use jiff::Timestamp;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use value::Val;

/// The longest expression, in bytes.
pub const BYTES_MAX: usize = 16 * 1_024;

/// Where an expression finds its variables. Asked once for each use, by name.
pub trait Variables: Sync + Send {
    /// `None`: there is no such variable.
    fn get(&self, name: &str) -> Option<Variable<'_>>;
}

/// A variable's value, borrowed.
#[derive(Clone, Copy)]
pub enum Variable<'a> {
    Json(&'a Value),
    Text(&'a str),
    /// Milliseconds since the epoch.
    Timestamp(i64),
    Int(i64),
    Bool(bool),
    Null,
    /// An object whose fields are made or found when they are asked for.
    Object(&'a dyn Variables),
}

impl Variables for BTreeMap<String, Value> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        BTreeMap::get(self, name).map(Variable::Json)
    }
}

impl Variables for serde_json::Map<String, Value> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        serde_json::Map::get(self, name).map(Variable::Json)
    }
}

/// What an expression gave, as it stands: nothing that it only points to is copied.
#[derive(Clone, Debug, PartialEq)]
pub enum Given<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Time(Timestamp),
    Text(Cow<'a, str>),
    /// A list or an object.
    Json(Value),
}

/// Why a text is no expression that can work here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub message: String,
    /// A name that was probably meant, or what to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 1 {
            write!(f, "line {}, ", self.line)?;
        }
        write!(f, "column {}: {}", self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, ". {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// What an expression has to give, as far as that can be told before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Anything,
    /// A filter or another condition.
    Bool,
    /// One key: text, int, bool, a list of these, or null.
    Key,
    /// A list of keys, or of anything.
    List,
    Text,
    /// A timestamp, or an int of milliseconds.
    Time,
}

/// A checked expression, ready to run. Shared between threads.
pub struct Expression {
    text: Box<str>,
    root: evaluate::Node,
    /// The same, where it is of the simplest kind.
    direct: Option<direct::Direct>,
    locals: usize,
    /// Fields read below each root; `None` among them stands for the root as a whole.
    reads: BTreeMap<String, BTreeSet<Option<String>>>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl Expression {
    /// Parses and checks an expression: syntax, size, depth, names, known fields, functions and their
    /// argument counts, and types where they are known.
    ///
    /// # Errors
    /// The first problem, with its line and column.
    pub fn compile(text: &str, names: &Names) -> Result<Self, Error> {
        Self::compile_for(text, names, Wanted::Anything)
    }

    /// The same for an expression that has to give something certain: a filter that cannot be a bool
    /// is refused.
    ///
    /// # Errors
    /// As [`Expression::compile`].
    pub fn compile_for(text: &str, names: &Names, wanted: Wanted) -> Result<Self, Error> {
        compile::compile(text, names, wanted)
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The fields read directly below `root`: the slots that `context.<slot>` names.
    pub fn fields_of(&self, root: &str) -> BTreeSet<String> {
        self.reads
            .get(root)
            .map(|fields| fields.iter().flatten().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether `root` is named at all.
    pub fn reads(&self, root: &str) -> bool {
        self.reads.contains_key(root)
    }

    /// Whether `root` is used other than by its fields: all of it is needed.
    pub fn reads_whole(&self, root: &str) -> bool {
        self.reads
            .get(root)
            .is_some_and(|fields| fields.contains(&None))
    }

    /// # Errors
    /// `ExpressionFailed`, with the expression and the reason; `AbsentField` where a field or an item
    /// that it reads is not there.
    pub fn evaluate(&self, variables: &dyn Variables) -> Result<Value, Fault> {
        self.run(variables, |value| value.into_json())
    }

    /// The result as it stands; `None` where the expression reads a field or an item that is not there.
    ///
    /// # Errors
    /// `ExpressionFailed`, with the expression and the reason; also where the result is a duration, whose text has no order.
    pub fn given<'a>(&'a self, variables: &'a dyn Variables) -> Result<Option<Given<'a>>, Fault> {
        if let Some(given) = self.direct.as_ref().and_then(|own| own.given(variables)) {
            return Ok(Some(given));
        }
        let given = match evaluate::evaluate(&self.root, self.locals, variables) {
            Ok(value) => Self::give(value),
            Err(failure) if failure.absent => return Ok(None),
            Err(failure) => Err(failure),
        };
        given.map(Some).map_err(|failure| self.fault(&failure))
    }

    fn give(value: Val<'_>) -> Result<Given<'_>, value::Failure> {
        Ok(match value {
            Val::Null | Val::Optional(None) => Given::Null,
            Val::Bool(bool) => Given::Bool(bool),
            Val::Int(int) => Given::Int(int),
            Val::Uint(uint) => Given::Uint(uint),
            Val::Double(double) => Given::Double(double),
            Val::Timestamp(time) => Given::Time(time),
            Val::Text(text) => Given::Text(text),
            Val::Duration(_) => {
                return Err("gives a duration; take its seconds: getSeconds()".into());
            }
            Val::Optional(Some(value)) => return Self::give(Arc::unwrap_or_clone(value)),
            other => match other.into_json()? {
                Value::String(text) => Given::Text(Cow::Owned(text)),
                json => Given::Json(json),
            },
        })
    }

    /// The result, which has to be a bool.
    ///
    /// # Errors
    /// `ExpressionFailed`, also where the result is no bool.
    pub fn truth(&self, variables: &dyn Variables) -> Result<bool, Fault> {
        if let Some(truth) = self.direct.as_ref().and_then(|own| own.truth(variables)) {
            return Ok(truth);
        }
        self.run(variables, |value| match value {
            Val::Bool(bool) => Ok(bool),
            other => Err(format!("gives {}, a bool is needed", other.described()).into()),
        })
    }

    /// The result as text, which it has to be.
    ///
    /// # Errors
    /// `ExpressionFailed`, also where the result is no string.
    pub fn string(&self, variables: &dyn Variables) -> Result<String, Fault> {
        self.run(variables, |value| match value {
            Val::Text(text) => Ok(text.into_owned()),
            other => Err(format!("gives {}, a string is needed", other.described()).into()),
        })
    }

    /// The result as a key; null, "" and none are no key.
    ///
    /// # Errors
    /// `ExpressionFailed`, or the faults of [`Key::from_json`].
    pub fn key(&self, variables: &dyn Variables) -> Result<Option<Key>, Fault> {
        Ok(self.key_text(variables)?.map(|text| text.to_key()))
    }

    /// As [`Expression::key`], borrowing from the variables where the result is a text of theirs.
    ///
    /// # Errors
    /// As [`Expression::key`].
    pub fn key_text<'a>(&'a self, variables: &'a dyn Variables) -> Result<Option<Text<'a>>, Fault> {
        if let Some(text) = self.direct.as_ref().and_then(|own| own.text(variables)) {
            return Text::from_text(text).map_err(|fault| self.at(fault));
        }
        let found = evaluate::evaluate(&self.root, self.locals, variables)
            .map_err(|failure| self.fault(&failure))?;
        match found {
            Val::Text(Cow::Borrowed(text)) => Text::from_text(text),
            Val::Text(Cow::Owned(text)) => Key::from_text(&text).map(|key| key.map(Text::from)),
            other => {
                let value = other.into_json().map_err(|failure| self.fault(&failure))?;
                Key::from_json(&value).map(|key| key.map(Text::from))
            }
        }
        .map_err(|fault| self.at(fault))
    }

    /// The result as keys, in its order; null is no key, and null and empty items are left out.
    ///
    /// # Errors
    /// `ExpressionFailed`, also where the result is neither a list nor null; or the faults of
    /// [`Key::from_json`].
    pub fn keys(&self, variables: &dyn Variables) -> Result<Vec<Key>, Fault> {
        let value = self.evaluate(variables)?;
        match value {
            Value::Null => Ok(Vec::new()),
            Value::Array(items) => items
                .iter()
                .filter_map(|item| Key::from_json(item).transpose())
                .collect::<Result<_, _>>()
                .map_err(|fault| self.at(fault)),
            other => Err(self.fault(
                &format!(
                    "gives {}, a list of keys is needed",
                    crate::key::type_of(&other)
                )
                .into(),
            )),
        }
    }

    /// The result as a time in milliseconds since the epoch: a timestamp, or an int of milliseconds.
    ///
    /// # Errors
    /// `ExpressionFailed`, also where the result is neither.
    pub fn timestamp_ms(&self, variables: &dyn Variables) -> Result<i64, Fault> {
        self.run(variables, |value| match value {
            Val::Timestamp(timestamp) => Ok(timestamp.as_millisecond()),
            Val::Int(milliseconds) => Ok(milliseconds),
            other => Err(format!(
                "gives {}, a timestamp or an int of milliseconds is needed",
                other.described()
            )
            .into()),
        })
    }

    fn run<T>(
        &self,
        variables: &dyn Variables,
        finish: impl FnOnce(Val<'_>) -> Result<T, value::Failure>,
    ) -> Result<T, Fault> {
        evaluate::evaluate(&self.root, self.locals, variables)
            .and_then(finish)
            .map_err(|failure| self.fault(&failure))
    }

    fn fault(&self, failure: &value::Failure) -> Fault {
        let reason = if failure.absent {
            Reason::AbsentField
        } else {
            Reason::ExpressionFailed
        };
        Fault::new(
            reason,
            format!("`{}`: {}", quote(&self.text), failure.message),
        )
    }

    /// A fault of a key that this expression gave, with the expression in front.
    fn at(&self, fault: Fault) -> Fault {
        if matches!(fault.reason, Reason::ExpressionFailed | Reason::AbsentField) {
            return fault;
        }
        fault.at(format_args!("`{}`", quote(&self.text)))
    }
}
