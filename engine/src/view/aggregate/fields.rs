//! The fields of an aggregate, compiled: what each takes of an event.

use super::item::Item;
use crate::config::{AggregateField, Compute};
use crate::expr::{Expression, Names, Variable, Variables, Wanted};
use crate::fault::{Fault, Reason};
use crate::json::Document;
use crate::problem::{CompileError, reason};
use std::collections::BTreeSet;

/// In so many steps a window's worth of entries is pruned.
pub(super) const STEPS: i64 = 16;

/// The fields of a view, compiled. Shared by all its keys.
#[derive(Debug)]
pub(in crate::view) struct Aggregate {
    pub(super) fields: Vec<Field>,
    pub(super) inputs: Vec<Input>,
    /// Fields that indexes read, all of them over all time.
    pub(super) indexed: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) compute: Compute,
    pub(super) within: Option<i64>,
    pub(super) limit: usize,
    /// Which of [`Aggregate::inputs`] it takes.
    pub(super) input: usize,
}

/// What fields take of an event; several may take the same, which is evaluated once.
#[derive(Debug)]
pub(super) struct Input {
    /// Its first field.
    name: String,
    filter: Option<Expression>,
    of: Option<Expression>,
    /// One of them uses `value` other than by its fields.
    whole: bool,
}

/// What one event is to an input.
#[derive(Debug)]
pub(in crate::view) enum Taken {
    /// It does not count.
    No,
    /// It counts, without a value.
    Event,
    Item(Item),
}

impl Aggregate {
    /// Compiles the fields; `names` knows `value`. `None` with problems.
    pub(in crate::view) fn compile(
        fields: &[AggregateField],
        names: &Names,
        problems: &mut CompileError,
    ) -> Option<Self> {
        let before = problems.problems.len();
        let mut seen = BTreeSet::new();
        let mut texts: Vec<(Option<&String>, Option<&String>)> = Vec::new();
        let mut compiled = Self {
            fields: Vec::new(),
            inputs: Vec::new(),
            indexed: Vec::new(),
        };
        if fields.is_empty() {
            let message = "an aggregate has at least one field";
            problems.add("spec.aggregate.fields", reason::INVALID_SPEC, message);
        }
        for field in fields {
            let path = format!("spec.aggregate.fields[name={}]", field.name);
            if !seen.insert(&field.name) {
                let message = format!("the name '{}' is given twice", field.name);
                problems.add(&path, reason::INVALID_SPEC, message);
            }
            if field.of.is_none() && field.compute != Compute::Count {
                let message = format!(
                    "{:?} needs `of`: the expression that is computed with, e.g. value.amount",
                    field.compute
                );
                problems.add(format!("{path}.of"), reason::INVALID_SPEC, message);
            }
            let pair = (field.filter.as_ref(), field.of.as_ref());
            let input = texts.iter().position(|known| *known == pair);
            if input.is_none() {
                let mut expression = |of: &str, text: Option<&String>, wanted| {
                    let text = text?;
                    problems.take(
                        format!("{path}.{of}"),
                        reason::INVALID_EXPRESSION,
                        Expression::compile_for(text, names, wanted),
                    )
                };
                let filter = expression("where", field.filter.as_ref(), Wanted::Bool);
                let of = expression("of", field.of.as_ref(), Wanted::Anything);
                let mut both = filter.iter().chain(&of);
                compiled.inputs.push(Input {
                    name: field.name.clone(),
                    whole: both.any(|expression| expression.reads_whole("value")),
                    filter,
                    of,
                });
                texts.push(pair);
            }
            compiled.fields.push(Field {
                name: field.name.clone(),
                compute: field.compute,
                within: field.within_ms,
                limit: field.limit as usize,
                input: input.unwrap_or(texts.len() - 1),
            });
        }
        (problems.problems.len() == before).then_some(compiled)
    }

    /// Takes note of an index over the row. It may read fields over all time only: what a window holds changes as time passes, and
    /// nothing happens as time passes.
    ///
    /// # Errors
    /// A message that says what it may not read.
    pub(in crate::view) fn index(&mut self, key: &Expression) -> Result<(), String> {
        if key.reads_whole("value") {
            return Err(
                "an index on an aggregate names the fields that it reads: value.<field>".to_owned(),
            );
        }
        for name in key.fields_of("value") {
            let Some(place) = self.fields.iter().position(|field| field.name == name) else {
                continue;
            };
            if self.fields[place].within.is_some() {
                return Err(format!(
                    "reads '{name}', which has withinSeconds: it changes as time passes, and an index does not. Take a field over all time"
                ));
            }
            if !self.indexed.contains(&place) {
                self.indexed.push(place);
            }
        }
        Ok(())
    }

    /// Names of the fields, in the order of the resource.
    pub(in crate::view) fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|field| field.name.as_str())
    }

    /// What an event is to each input.
    ///
    /// # Errors
    /// An expression that fails, other than `of` on an absent field: then the event does not count.
    pub(super) fn take(&self, value: &Document<'_>, takes: &mut Vec<Taken>) -> Result<(), Fault> {
        takes.clear();
        for input in &self.inputs {
            let value = if input.whole {
                Variable::Json(value.value())
            } else {
                value.variable()
            };
            let taken = input
                .take(&OnlyValue(value))
                .map_err(|fault| fault.at(format_args!("aggregate field '{}'", input.name)))?;
            takes.push(taken);
        }
        Ok(())
    }
}

impl Input {
    fn take(&self, variables: &OnlyValue<'_>) -> Result<Taken, Fault> {
        if let Some(filter) = &self.filter
            && !filter.truth(variables)?
        {
            return Ok(Taken::No);
        }
        let Some(of) = &self.of else {
            return Ok(Taken::Event);
        };
        let Some(given) = of.given(variables)? else {
            return Ok(Taken::No);
        };
        match Item::of(given) {
            Ok(item) => Ok(item.map_or(Taken::No, Taken::Item)),
            Err(message) => Err(Fault::new(
                Reason::AggregateFailed,
                format!("`{}` {message}", crate::fault::quote(of.text())),
            )),
        }
    }
}

impl Field {
    /// Event times before this are not kept, by the fold's clock. It moves in steps, so that pruning is rare.
    pub(super) fn kept_from(&self, clock: i64) -> i64 {
        let Some(within) = self.within else {
            return i64::MIN;
        };
        let exact = clock.saturating_sub(within.saturating_mul(2));
        exact.saturating_sub(exact.rem_euclid((within / STEPS).max(1)))
    }
}

impl Taken {
    pub(super) fn taken(&self) -> Option<Option<&Item>> {
        match self {
            Self::No => None,
            Self::Event => Some(None),
            Self::Item(item) => Some(Some(item)),
        }
    }
}

/// What the expressions of a field see.
struct OnlyValue<'a>(Variable<'a>);

impl Variables for OnlyValue<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        (name == "value").then_some(self.0)
    }
}
