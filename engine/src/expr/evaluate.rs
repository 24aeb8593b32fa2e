//! Runs a checked expression, within a budget.
//!
//! Every node costs a step and everything built costs by its size; a run that spends its budget fails,
//! so that no expression holds up a partition for long. `&&` and `||` follow CEL: an error on one side
//! does not matter if the other side decides.

use super::functions::Function;
use super::value::{Failure, Items, MapKey, Val};
use super::{Variable, Variables};
use regex::Regex;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Steps of one evaluation: in the order of 100 ms.
const BUDGET: u64 = 2_000_000;
/// The longest text that an expression builds, in bytes.
const TEXT_BYTES_MAX: usize = 1_048_576;
/// Bytes of built text that cost one step.
const BYTES_PER_STEP: usize = 64;

pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Box<str>),
    Bytes(Arc<[u8]>),
    Type(&'static str),
    /// A variable from outside.
    Root(Box<str>),
    /// A variable of a macro, by its depth.
    Local(usize),
    Select(Box<Node>, Box<str>),
    OptionalSelect(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    Index(Box<Node>, Box<Node>),
    OptionalIndex(Box<Node>, Box<Node>),
    List(Vec<Item>),
    Map(Vec<(Node, Item)>),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<[Node; 3]>),
    Negate(Box<Node>),
    Binary(Operator, Box<Node>, Box<Node>),
    Each(Box<Each>),
    OptionalMap {
        of: Box<Node>,
        step: Box<Node>,
        flat: bool,
    },
    Call(&'static Function, Vec<Node>),
    /// A call with a regular expression, compiled once.
    Regex(Search, Vec<Node>, Regex),
}

pub(super) struct Item {
    pub(super) node: Node,
    /// Left out where it is none.
    pub(super) optional: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    In,
}

/// A macro over a list or an object's keys.
pub(super) struct Each {
    pub(super) kind: EachKind,
    pub(super) range: Node,
    pub(super) condition: Option<Node>,
    pub(super) step: Option<Node>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EachKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    SortBy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    Matches,
    Find,
    FindAll,
}

pub(super) fn evaluate<'a>(
    root: &'a Node,
    locals: usize,
    variables: &'a dyn Variables,
) -> Result<Val<'a>, Failure> {
    let mut run = Run {
        variables,
        locals: Vec::with_capacity(locals),
        budget: BUDGET,
    };
    run.node(root)
}

pub(super) struct Run<'a> {
    variables: &'a dyn Variables,
    locals: Vec<Val<'a>>,
    budget: u64,
}

impl<'a> Run<'a> {
    /// # Errors
    /// Where the budget is spent.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Failure> {
        self.budget = self
            .budget
            .checked_sub(steps as u64)
            .ok_or("takes too many steps; look at fewer items, or filter them earlier")?;
        Ok(())
    }

    /// Pays for a text to be built.
    pub(super) fn spend_text(&mut self, bytes: usize) -> Result<(), Failure> {
        if bytes > TEXT_BYTES_MAX {
            return Err("builds a text of over 1 MiB".into());
        }
        self.spend(1 + bytes / BYTES_PER_STEP)
    }

    fn node(&mut self, node: &'a Node) -> Result<Val<'a>, Failure> {
        self.spend(1)?;
        match node {
            Node::Null => Ok(Val::Null),
            Node::Bool(bool) => Ok(Val::Bool(*bool)),
            Node::Int(int) => Ok(Val::Int(*int)),
            Node::Uint(uint) => Ok(Val::Uint(*uint)),
            Node::Double(double) => Ok(Val::Double(*double)),
            Node::Text(text) => Ok(Val::Text(Cow::Borrowed(text))),
            Node::Bytes(bytes) => Ok(Val::Bytes(Arc::clone(bytes))),
            Node::Type(name) => Ok(Val::Type(name)),
            Node::Root(name) => match self.variables.get(name) {
                Some(variable) => Ok(Val::from(variable)),
                None => Err(format!("`{name}` has no value here").into()),
            },
            Node::Local(slot) => self
                .locals
                .get(*slot)
                .cloned()
                .ok_or_else(|| Failure::from("a variable of a macro is missing")),
            Node::Select(of, field) => {
                // A field of a variable, as most are, without the variable as a value.
                if let Node::Root(name) = &**of
                    && let Some(Variable::Object(object)) = self.variables.get(name)
                    && let Some(found) = object.get(field)
                {
                    self.spend(1)?;
                    return Ok(Val::from(found));
                }
                let value = self.node(of)?;
                select(of, &value, field)
            }
            Node::OptionalSelect(of, field) => {
                let value = self.node(of)?;
                optional_field(&value, field)
            }
            Node::Has(of, field) => {
                let value = self.node(of)?;
                match &value {
                    Val::Optional(inner) => {
                        Ok(Val::Bool(inner.as_ref().is_some_and(|inner| {
                            matches!(inner.field(field), Some(Some(_)))
                        })))
                    }
                    value => match value.field(field) {
                        Some(found) => Ok(Val::Bool(found.is_some())),
                        None => Err(no_fields(of, value)),
                    },
                }
            }
            Node::Index(of, index) => {
                let value = self.node(of)?;
                let index = self.node(index)?;
                if let Val::Optional(inner) = &value {
                    return Ok(match inner {
                        Some(inner) => optional_index(inner, &index),
                        None => Val::Optional(None),
                    });
                }
                index_into(of, &value, &index)
            }
            Node::OptionalIndex(of, index) => {
                let value = self.node(of)?;
                let index = self.node(index)?;
                Ok(match &value {
                    Val::Optional(None) => Val::Optional(None),
                    Val::Optional(Some(inner)) => optional_index(inner, &index),
                    value => optional_index(value, &index),
                })
            }
            Node::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    if let Some(value) = self.item(item)? {
                        list.push(value);
                    }
                }
                Ok(Val::list(list))
            }
            Node::Map(entries) => {
                let mut map = BTreeMap::new();
                for (key, item) in entries {
                    let key = MapKey::of(&self.node(key)?)?;
                    if let Some(value) = self.item(item)?
                        && map.insert(key, value).is_some()
                    {
                        return Err("builds an object with the same key twice".into());
                    }
                }
                Ok(Val::Map(Arc::new(map)))
            }
            Node::Not(of) => match self.node(of)? {
                Val::Bool(bool) => Ok(Val::Bool(!bool)),
                other => Err(format!("`!` is applied to {}", other.described()).into()),
            },
            Node::And(left, right) => self.logic(left, right, false),
            Node::Or(left, right) => self.logic(left, right, true),
            Node::Conditional(parts) => {
                let [condition, then, otherwise] = &**parts;
                if self.truth(condition, "the condition of `? :`")? {
                    self.node(then)
                } else {
                    self.node(otherwise)
                }
            }
            Node::Negate(of) => match self.node(of)? {
                Val::Int(int) => int.checked_neg().map(Val::Int).ok_or_else(overflow),
                Val::Double(double) => Ok(Val::Double(-double)),
                Val::Duration(duration) => duration
                    .checked_neg()
                    .map(Val::Duration)
                    .ok_or_else(overflow),
                other => Err(format!("`-` is applied to {}", other.described()).into()),
            },
            Node::Binary(operator, left, right) => {
                let left = self.node(left)?;
                let right = self.node(right)?;
                self.binary(*operator, &left, &right)
            }
            Node::Each(each) => self.each(each),
            Node::OptionalMap { of, step, flat } => match self.node(of)? {
                Val::Optional(None) => Ok(Val::Optional(None)),
                Val::Optional(Some(inner)) => {
                    let value = self.with(Arc::unwrap_or_clone(inner), step)?;
                    match (flat, value) {
                        (false, value) => Ok(Val::some(value)),
                        (true, value @ Val::Optional(_)) => Ok(value),
                        (true, other) => Err(format!(
                            "optFlatMap gives {}, an optional is needed",
                            other.described()
                        )
                        .into()),
                    }
                }
                other => Err(format!("optMap is applied to {}", other.described()).into()),
            },
            Node::Call(function, arguments) => {
                let arguments = self.nodes(arguments)?;
                function.call(self, arguments)
            }
            Node::Regex(search, arguments, regex) => {
                let arguments = self.nodes(arguments)?;
                super::strings::search(self, *search, &arguments, regex)
            }
        }
    }

    fn nodes(&mut self, nodes: &'a [Node]) -> Result<Vec<Val<'a>>, Failure> {
        nodes.iter().map(|node| self.node(node)).collect()
    }

    fn item(&mut self, item: &'a Item) -> Result<Option<Val<'a>>, Failure> {
        let value = self.node(&item.node)?;
        if !item.optional {
            return Ok(Some(value));
        }
        match value {
            Val::Optional(inner) => Ok(inner.map(Arc::unwrap_or_clone)),
            other => Err(format!("`?` needs an optional, not {}", other.described()).into()),
        }
    }

    /// Evaluates with one more local variable.
    fn with(&mut self, value: Val<'a>, step: &'a Node) -> Result<Val<'a>, Failure> {
        self.locals.push(value);
        let result = self.node(step);
        self.locals.pop();
        result
    }

    fn truth(&mut self, node: &'a Node, what: &str) -> Result<bool, Failure> {
        match self.node(node)? {
            Val::Bool(bool) => Ok(bool),
            other => Err(format!("{what} is {}, a bool is needed", other.described()).into()),
        }
    }

    /// `&&` (decided by false) and `||` (decided by true).
    fn logic(
        &mut self,
        left: &'a Node,
        right: &'a Node,
        decides: bool,
    ) -> Result<Val<'a>, Failure> {
        let what = if decides {
            "a side of `||`"
        } else {
            "a side of `&&`"
        };
        let left = self.truth(left, what);
        if left == Ok(decides) {
            return Ok(Val::Bool(decides));
        }
        let right = self.truth(right, what)?;
        if right == decides {
            return Ok(Val::Bool(decides));
        }
        left.map(Val::Bool)
    }

    fn each(&mut self, each: &'a Each) -> Result<Val<'a>, Failure> {
        let range = self.node(&each.range)?;
        let items = match range.items() {
            Some(items) => items,
            None => match range.entries() {
                Some(entries) => {
                    Items::Built(Arc::new(entries.keys().map(MapKey::to_val).collect()))
                }
                None => {
                    return Err(format!(
                        "{} is {}, a list or an object is needed",
                        path(&each.range)
                            .map_or("what a macro goes through".into(), |path| format!(
                                "`{path}`"
                            )),
                        range.described()
                    )
                    .into());
                }
            },
        };
        match each.kind {
            EachKind::All => self.quantify(each, &items, false),
            EachKind::Exists => self.quantify(each, &items, true),
            EachKind::ExistsOne => {
                let mut found = 0;
                for item in items.iter() {
                    found += usize::from(self.holds(each, &item)?);
                }
                Ok(Val::Bool(found == 1))
            }
            EachKind::Filter | EachKind::Map => {
                let mut list = Vec::new();
                for item in items.iter() {
                    self.spend(1)?;
                    if each.condition.is_some() && !self.holds(each, &item)? {
                        continue;
                    }
                    list.push(match &each.step {
                        Some(step) => self.with(item, step)?,
                        None => item,
                    });
                }
                Ok(Val::list(list))
            }
            EachKind::SortBy => {
                let mut keyed = Vec::with_capacity(items.len());
                for item in items.iter() {
                    let key = match &each.step {
                        Some(step) => self.with(item.clone(), step)?,
                        None => item.clone(),
                    };
                    keyed.push((key, item));
                }
                super::lists::sort(self, &mut keyed)?;
                Ok(Val::list(keyed.into_iter().map(|(_, item)| item).collect()))
            }
        }
    }

    fn holds(&mut self, each: &'a Each, item: &Val<'a>) -> Result<bool, Failure> {
        let Some(condition) = &each.condition else {
            return Ok(true);
        };
        match self.with(item.clone(), condition)? {
            Val::Bool(bool) => Ok(bool),
            other => Err(format!(
                "the condition of a macro gives {}, a bool is needed",
                other.described()
            )
            .into()),
        }
    }

    /// `exists` is decided by true, `all` by false, whatever else fails.
    fn quantify(
        &mut self,
        each: &'a Each,
        items: &Items<'a>,
        decides: bool,
    ) -> Result<Val<'a>, Failure> {
        let mut failure = None;
        for item in items.iter() {
            self.spend(1)?;
            match self.holds(each, &item) {
                Ok(bool) if bool == decides => return Ok(Val::Bool(decides)),
                Ok(_) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(Val::Bool(!decides)),
        }
    }

    fn binary(
        &mut self,
        operator: Operator,
        left: &Val<'a>,
        right: &Val<'a>,
    ) -> Result<Val<'a>, Failure> {
        use Operator as O;
        Ok(match operator {
            O::Equal => Val::Bool(self.equal(left, right)?),
            O::NotEqual => Val::Bool(!self.equal(left, right)?),
            O::Less => Val::Bool(left.compare(right)?.is_lt()),
            O::LessOrEqual => Val::Bool(left.compare(right)?.is_le()),
            O::Greater => Val::Bool(left.compare(right)?.is_gt()),
            O::GreaterOrEqual => Val::Bool(left.compare(right)?.is_ge()),
            O::In => Val::Bool(self.contains(right, left)?),
            O::Add => match (left, right) {
                (Val::Text(left), Val::Text(right)) => {
                    self.spend_text(left.len() + right.len())?;
                    Val::text(format!("{left}{right}"))
                }
                (Val::Bytes(left), Val::Bytes(right)) => {
                    self.spend_text(left.len() + right.len())?;
                    Val::Bytes([left.as_ref(), right.as_ref()].concat().into())
                }
                (left, right) => match (left.items(), right.items()) {
                    (Some(left), Some(right)) => {
                        self.spend(left.len() + right.len())?;
                        Val::list(left.iter().chain(right.iter()).collect())
                    }
                    _ => arithmetic(operator, left, right)?,
                },
            },
            O::Subtract | O::Multiply | O::Divide | O::Remainder => {
                arithmetic(operator, left, right)?
            }
        })
    }

    fn equal(&mut self, left: &Val<'a>, right: &Val<'a>) -> Result<bool, Failure> {
        if let (Some(left), Some(_)) = (left.items(), right.items()) {
            self.spend(left.len())?;
        }
        Ok(left.equals(right))
    }

    fn contains(&mut self, whole: &Val<'a>, part: &Val<'a>) -> Result<bool, Failure> {
        if let Some(items) = whole.items() {
            self.spend(items.len())?;
            return Ok(items.iter().any(|item| item.equals(part)));
        }
        match (whole, part) {
            (Val::Json(_) | Val::Object(_), Val::Text(name)) => {
                Ok(matches!(whole.field(name), Some(Some(_))))
            }
            (Val::Map(map), part) => Ok(map.contains_key(&MapKey::of(part)?)),
            (Val::Json(_) | Val::Object(_), _) => Ok(false),
            _ => Err(format!(
                "`in` looks into {}, a list or an object is needed",
                whole.described()
            )
            .into()),
        }
    }
}

fn arithmetic<'a>(operator: Operator, left: &Val<'a>, right: &Val<'a>) -> Result<Val<'a>, Failure> {
    use Operator::{Add, Divide, Multiply, Remainder, Subtract};
    match (left, right) {
        (Val::Int(left), Val::Int(right)) => match operator {
            Add => left.checked_add(*right),
            Subtract => left.checked_sub(*right),
            Multiply => left.checked_mul(*right),
            Divide | Remainder if *right == 0 => return Err("divides by zero".into()),
            Divide => left.checked_div(*right),
            Remainder => left.checked_rem(*right),
            _ => None,
        }
        .map(Val::Int)
        .ok_or_else(overflow),
        (Val::Uint(left), Val::Uint(right)) => match operator {
            Add => left.checked_add(*right),
            Subtract => left.checked_sub(*right),
            Multiply => left.checked_mul(*right),
            Divide | Remainder if *right == 0 => return Err("divides by zero".into()),
            Divide => left.checked_div(*right),
            Remainder => left.checked_rem(*right),
            _ => None,
        }
        .map(Val::Uint)
        .ok_or_else(overflow),
        (Val::Double(left), Val::Double(right)) => match operator {
            Add => Ok(Val::Double(left + right)),
            Subtract => Ok(Val::Double(left - right)),
            Multiply => Ok(Val::Double(left * right)),
            Divide => Ok(Val::Double(left / right)),
            _ => Err("`%` is for ints".into()),
        },
        (Val::Timestamp(left), Val::Duration(right)) => match operator {
            Add => left.checked_add(*right).ok(),
            Subtract => left.checked_sub(*right).ok(),
            _ => return Err(mixed(operator, "a timestamp", "a duration")),
        }
        .map(Val::Timestamp)
        .ok_or_else(overflow),
        (Val::Duration(left), Val::Timestamp(right)) if operator == Add => right
            .checked_add(*left)
            .map(Val::Timestamp)
            .map_err(|_| overflow()),
        (Val::Timestamp(left), Val::Timestamp(right)) if operator == Subtract => {
            Ok(Val::Duration(left.duration_since(*right)))
        }
        (Val::Duration(left), Val::Duration(right)) => match operator {
            Add => left.checked_add(*right),
            Subtract => left.checked_sub(*right),
            _ => return Err(mixed(operator, "a duration", "a duration")),
        }
        .map(Val::Duration)
        .ok_or_else(overflow),
        (left, right) => Err(mixed(operator, left.described(), right.described())),
    }
}

/// Why an operator does not work on two types, and what would.
pub(super) fn mixed(operator: Operator, left: &str, right: &str) -> Failure {
    let sign = match operator {
        Operator::Add => "+",
        Operator::Subtract => "-",
        Operator::Multiply => "*",
        Operator::Divide => "/",
        Operator::Remainder => "%",
        _ => "an operator",
    };
    let numbers = ["an int", "a uint", "a double"];
    let hint = if numbers.contains(&left) && numbers.contains(&right) {
        "; convert one, as in double(x)"
    } else if sign == "+" && (left == "a string" || right == "a string") {
        "; convert one, as in string(x)"
    } else {
        ""
    };
    format!("`{sign}` does not take {left} and {right}{hint}").into()
}

fn overflow() -> Failure {
    "a number overflows".into()
}

fn select<'a>(of: &Node, value: &Val<'a>, field: &str) -> Result<Val<'a>, Failure> {
    if matches!(value, Val::Optional(_)) {
        return optional_field(value, field);
    }
    match value.field(field) {
        Some(Some(found)) => Ok(found),
        Some(None) => Err(Failure::absent(match path(of) {
            Some(path) => format!("`{path}` has no field `{field}`"),
            None => format!("there is no field `{field}`"),
        })),
        None => Err(no_fields(of, value)),
    }
}

fn optional_field<'a>(value: &Val<'a>, field: &str) -> Result<Val<'a>, Failure> {
    let inner = match value {
        Val::Optional(None) => return Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => inner,
        value => value,
    };
    // What is null has no fields, which is what an optional is for.
    Ok(match inner.field(field) {
        Some(Some(found)) => Val::some(found),
        _ => Val::Optional(None),
    })
}

fn optional_index<'a>(value: &Val<'a>, index: &Val<'a>) -> Val<'a> {
    index_of(value, index).map_or(Val::Optional(None), Val::some)
}

fn index_of<'a>(value: &Val<'a>, index: &Val<'a>) -> Option<Val<'a>> {
    if let Some(items) = value.items() {
        let index = match index {
            Val::Double(double) if double.fract() == 0.0 => match MapKey::of(index).ok()? {
                MapKey::Int(int) => int,
                _ => return None,
            },
            index => index.as_integer()?,
        };
        return items.get(usize::try_from(index).ok()?);
    }
    match (value, index) {
        (Val::Map(map), index) => map.get(&MapKey::of(index).ok()?).cloned(),
        (value, Val::Text(name)) => value.field(name).flatten(),
        _ => None,
    }
}

fn index_into<'a>(of: &Node, value: &Val<'a>, index: &Val<'a>) -> Result<Val<'a>, Failure> {
    if let Some(found) = index_of(value, index) {
        return Ok(found);
    }
    let place = path(of).map_or_else(|| "a value".to_owned(), |path| format!("`{path}`"));
    Err(match value {
        Val::Json(_) | Val::List(_) | Val::Map(_) | Val::Object(_) => match value.items() {
            Some(items) if index.as_integer().is_some() => Failure::absent(format!(
                "{place} has {} items, the index is beyond",
                items.len()
            )),
            Some(_) => format!("{place} is a list, its index is {}", index.described()).into(),
            None => Failure::absent(format!("{place} has no such key")),
        },
        other => format!("{place} is {}, it has no items", other.described()).into(),
    })
}

fn no_fields(of: &Node, value: &Val<'_>) -> Failure {
    let message = match path(of) {
        Some(path) => format!("`{path}` is {}, it has no fields", value.described()),
        None => format!("{} has no fields", value.described()),
    };
    // What is below null is not there; what is below a string is a mistake.
    if matches!(value, Val::Null) {
        Failure::absent(message)
    } else {
        message.into()
    }
}

/// The text of a node that is a path, for messages.
fn path(node: &Node) -> Option<String> {
    match node {
        Node::Root(name) => Some(name.to_string()),
        Node::Select(of, field) => Some(format!("{}.{field}", path(of)?)),
        Node::OptionalSelect(of, field) => Some(format!("{}.?{field}", path(of)?)),
        _ => None,
    }
}
