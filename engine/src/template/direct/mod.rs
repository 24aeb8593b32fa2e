//! Templates of the usual kind, rendered straight from the JSON that they read.
//!
//! Most templates only print fields, loop over lists and ask simple questions. Such a one is rendered here without
//! converting its input for the template engine, which is most of that engine's work. Whatever else a template says, and
//! whatever would fail, is left to the engine: then nothing is rendered here. Invariant: what is rendered here is what the
//! engine renders (a property test holds it), and it would have had the steps for it.

mod lower;
#[cfg(test)]
mod tests;

use super::escape::Escape;
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Write as _;

/// Nodes, items and 64 bytes of text that are looked at; each costs the engine some instructions of its much larger budget.
const STEPS_MAX: usize = 50_000;
/// The longest output, in bytes.
const BYTES_MAX: usize = 256 * 1_024;

/// A template that can be rendered here.
#[derive(Debug)]
pub(super) struct Direct(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(Box<str>),
    Print(Node),
    If {
        test: Node,
        then: Vec<Part>,
        otherwise: Vec<Part>,
    },
    For {
        list: Node,
        body: Vec<Part>,
        otherwise: Vec<Part>,
    },
}

#[derive(Debug)]
enum Node {
    Root(Box<str>),
    /// The item of a loop, counted from the outermost.
    Item(usize),
    Place(usize, Place),
    Field(Box<Node>, Box<str>),
    At(Box<Node>, usize),
    /// Characters of a text.
    Slice(Box<Node>, usize, Option<usize>),
    Text(Box<str>),
    Int(i64),
    Bool(bool),
    Null,
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    Choose {
        test: Box<Node>,
        then: Box<Node>,
        otherwise: Box<Node>,
    },
    /// Whether it is there.
    Defined(Box<Node>),
    IsNull(Box<Node>),
    Default(Box<Node>, Box<Node>),
    Join(Box<Node>, Box<str>),
    Length(Box<Node>),
    Upper(Box<Node>),
    Lower(Box<Node>),
    Trim(Box<Node>),
}

/// What `loop` says.
#[derive(Clone, Copy, Debug)]
enum Place {
    Index,
    Index0,
    First,
    Last,
    Length,
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

/// What is not rendered here.
struct Other;

/// A value as it is seen; JSON that has a variant of its own is never [`Seen::Json`].
#[derive(Clone, Debug)]
enum Seen<'a> {
    Text(Cow<'a, str>),
    Int(i64),
    Bool(bool),
    /// Null, a list, an object, a number that is no `i64`.
    Json(&'a Value),
}

static NULL: Value = Value::Null;

impl<'a> From<&'a Value> for Seen<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::String(text) => Self::Text(Cow::Borrowed(text)),
            Value::Bool(bool) => Self::Bool(*bool),
            Value::Number(number) => number.as_i64().map_or(Self::Json(value), Self::Int),
            _ => Self::Json(value),
        }
    }
}

impl Seen<'_> {
    fn truth(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Int(int) => *int != 0,
            Self::Bool(bool) => *bool,
            Self::Json(Value::Array(items)) => !items.is_empty(),
            Self::Json(Value::Object(fields)) => !fields.is_empty(),
            Self::Json(Value::Number(number)) => number.as_f64() != Some(0.0),
            Self::Json(_) => false,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Json(Value::Null))
    }

    /// `None` where only the engine knows.
    fn equals(&self, other: &Self) -> Option<bool> {
        match (self, other) {
            (Self::Json(left), Self::Json(right)) if left.is_null() && right.is_null() => {
                Some(true)
            }
            (Self::Text(_) | Self::Int(_) | Self::Bool(_), null)
            | (null, Self::Text(_) | Self::Int(_) | Self::Bool(_))
                if null.is_null() =>
            {
                Some(false)
            }
            (Self::Bool(left), Self::Bool(right)) => Some(left == right),
            _ => self.order(other).map(Ordering::is_eq),
        }
    }

    /// `None` where only the engine knows.
    fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(left), Self::Text(right)) => Some(left.cmp(right)),
            (Self::Int(left), Self::Int(right)) => Some(left.cmp(right)),
            _ => None,
        }
    }
}

impl Direct {
    /// `None` where the template says more than is rendered here.
    pub(super) fn compile(name: &str, text: &str) -> Option<Self> {
        lower::template(name, text).map(Self)
    }

    /// `None` where the engine has to render it, be it to say what is wrong.
    pub(super) fn render(&self, input: &Value, escape: &Escape) -> Option<String> {
        let mut run = Run {
            input,
            escape,
            loops: Vec::new(),
            output: String::with_capacity(4_096),
            steps: 0,
        };
        run.parts(&self.0).ok()?;
        Some(run.output)
    }
}

struct Loop<'a> {
    items: &'a [Value],
    index: usize,
}

struct Run<'a> {
    input: &'a Value,
    escape: &'a Escape,
    loops: Vec<Loop<'a>>,
    output: String,
    steps: usize,
}

impl<'a> Run<'a> {
    fn pay(&mut self, steps: usize) -> Result<(), Other> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > STEPS_MAX || self.output.len() > BYTES_MAX {
            return Err(Other);
        }
        Ok(())
    }

    fn parts(&mut self, parts: &'a [Part]) -> Result<(), Other> {
        for part in parts {
            self.pay(1)?;
            match part {
                Part::Text(text) => self.output.push_str(text),
                Part::Print(node) => {
                    let seen = self.value(node)?;
                    self.print(&seen)?;
                }
                Part::If {
                    test,
                    then,
                    otherwise,
                } => {
                    let branch = if self.value(test)?.truth() {
                        then
                    } else {
                        otherwise
                    };
                    self.parts(branch)?;
                }
                Part::For {
                    list,
                    body,
                    otherwise,
                } => self.repeat(list, body, otherwise)?,
            }
        }
        Ok(())
    }

    fn repeat(
        &mut self,
        list: &'a Node,
        body: &'a [Part],
        otherwise: &'a [Part],
    ) -> Result<(), Other> {
        let Seen::Json(Value::Array(items)) = self.value(list)? else {
            return Err(Other);
        };
        if items.is_empty() {
            return self.parts(otherwise);
        }
        self.loops.push(Loop { items, index: 0 });
        for index in 0..items.len() {
            if let Some(innermost) = self.loops.last_mut() {
                innermost.index = index;
            }
            self.parts(body)?;
        }
        self.loops.pop();
        Ok(())
    }

    fn print(&mut self, seen: &Seen<'_>) -> Result<(), Other> {
        match seen {
            Seen::Text(text) => self.output.push_str(&self.escape.apply(text)),
            Seen::Int(int) => write!(self.output, "{int}").map_err(|_| Other)?,
            Seen::Bool(bool) => self.output.push_str(if *bool { "true" } else { "false" }),
            Seen::Json(value) => {
                let text = serde_json::to_string(value).map_err(|_| Other)?;
                self.output.push_str(&self.escape.apply(&text));
            }
        }
        Ok(())
    }

    /// What is there; the engine says what it thinks of the rest.
    fn value(&mut self, node: &'a Node) -> Result<Seen<'a>, Other> {
        self.find(node)?.ok_or(Other)
    }

    /// `None`: a field or an item that is not there.
    fn find(&mut self, node: &'a Node) -> Result<Option<Seen<'a>>, Other> {
        self.pay(1)?;
        let input = self.input;
        Ok(Some(match node {
            // What is no part of the input may still be something to the engine.
            Node::Root(name) => input.get(&**name).ok_or(Other)?.into(),
            Node::Item(depth) => {
                let at = self.loops.get(*depth).ok_or(Other)?;
                at.items.get(at.index).ok_or(Other)?.into()
            }
            Node::Place(depth, place) => self.place(*depth, *place)?,
            Node::Field(of, name) => match self.value(of)? {
                Seen::Json(Value::Object(fields)) => {
                    return Ok(fields.get(&**name).map(Seen::from));
                }
                _ => return Err(Other),
            },
            Node::At(of, place) => match self.value(of)? {
                Seen::Json(Value::Array(items)) => return Ok(items.get(*place).map(Seen::from)),
                _ => return Err(Other),
            },
            Node::Slice(of, from, to) => Seen::Text(self.slice(of, *from, *to)?),
            Node::Text(text) => Seen::Text(Cow::Borrowed(text)),
            Node::Int(int) => Seen::Int(*int),
            Node::Bool(bool) => Seen::Bool(*bool),
            Node::Null => Seen::Json(&NULL),
            Node::Not(of) => Seen::Bool(!self.value(of)?.truth()),
            Node::And(left, right) => {
                let left = self.value(left)?;
                if left.truth() {
                    return self.find(right);
                }
                left
            }
            Node::Or(left, right) => {
                let left = self.value(left)?;
                if !left.truth() {
                    return self.find(right);
                }
                left
            }
            Node::Compare(comparison, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                self.pay_for(&left)?;
                self.pay_for(&right)?;
                Seen::Bool(compare(*comparison, &left, &right).ok_or(Other)?)
            }
            Node::Choose {
                test,
                then,
                otherwise,
            } => {
                let branch = if self.value(test)?.truth() {
                    then
                } else {
                    otherwise
                };
                return self.find(branch);
            }
            Node::Defined(of) => Seen::Bool(self.find(of)?.is_some()),
            Node::IsNull(of) => Seen::Bool(self.value(of)?.is_null()),
            Node::Default(of, other) => match self.find(of)? {
                Some(seen) => seen,
                None => return self.find(other),
            },
            Node::Join(of, between) => Seen::Text(Cow::Owned(self.join(of, between)?)),
            Node::Length(of) => {
                let seen = self.value(of)?;
                self.pay_for(&seen)?;
                let length = match seen {
                    Seen::Text(text) => text.chars().count(),
                    Seen::Json(Value::Array(items)) => items.len(),
                    Seen::Json(Value::Object(fields)) => fields.len(),
                    _ => return Err(Other),
                };
                int(length)?
            }
            Node::Upper(of) => Seen::Text(Cow::Owned(self.text(of)?.to_uppercase())),
            Node::Lower(of) => Seen::Text(Cow::Owned(self.text(of)?.to_lowercase())),
            Node::Trim(of) => Seen::Text(Cow::Owned(self.text(of)?.trim().to_owned())),
        }))
    }

    fn place(&self, depth: usize, place: Place) -> Result<Seen<'a>, Other> {
        let at = self.loops.get(depth).ok_or(Other)?;
        match place {
            Place::Index => int(at.index + 1),
            Place::Index0 => int(at.index),
            Place::First => Ok(Seen::Bool(at.index == 0)),
            Place::Last => Ok(Seen::Bool(at.index + 1 == at.items.len())),
            Place::Length => int(at.items.len()),
        }
    }

    fn text(&mut self, node: &'a Node) -> Result<Cow<'a, str>, Other> {
        let seen = self.value(node)?;
        self.pay_for(&seen)?;
        match seen {
            Seen::Text(text) => Ok(text),
            _ => Err(Other),
        }
    }

    fn pay_for(&mut self, seen: &Seen<'_>) -> Result<(), Other> {
        match seen {
            Seen::Text(text) => self.pay(text.len() / 64),
            _ => Ok(()),
        }
    }

    fn slice(
        &mut self,
        of: &'a Node,
        from: usize,
        to: Option<usize>,
    ) -> Result<Cow<'a, str>, Other> {
        let text = self.text(of)?;
        let (start, end) = if text.is_ascii() {
            (from, to.unwrap_or(text.len()))
        } else {
            let byte = |place: usize| {
                let mut places = text.char_indices().map(|(byte, _)| byte);
                places.nth(place).unwrap_or(text.len())
            };
            (byte(from), to.map_or(text.len(), byte))
        };
        let end = end.min(text.len());
        let start = start.min(end);
        Ok(match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.get(start..end).ok_or(Other)?),
            Cow::Owned(text) => Cow::Owned(text.get(start..end).ok_or(Other)?.to_owned()),
        })
    }

    fn join(&mut self, of: &'a Node, between: &str) -> Result<String, Other> {
        let Seen::Json(Value::Array(items)) = self.value(of)? else {
            return Err(Other);
        };
        let mut joined = String::new();
        for (index, item) in items.iter().enumerate() {
            self.pay(1)?;
            if index > 0 {
                joined.push_str(between);
            }
            joined.push_str(item.as_str().ok_or(Other)?);
            if joined.len() > BYTES_MAX {
                return Err(Other);
            }
        }
        Ok(joined)
    }
}

fn compare(comparison: Comparison, left: &Seen<'_>, right: &Seen<'_>) -> Option<bool> {
    Some(match comparison {
        Comparison::Equal => left.equals(right)?,
        Comparison::NotEqual => !left.equals(right)?,
        Comparison::Less => left.order(right)?.is_lt(),
        Comparison::LessOrEqual => left.order(right)?.is_le(),
        Comparison::More => left.order(right)?.is_gt(),
        Comparison::MoreOrEqual => left.order(right)?.is_ge(),
    })
}

fn int<'a>(number: usize) -> Result<Seen<'a>, Other> {
    i64::try_from(number).map(Seen::Int).map_err(|_| Other)
}
