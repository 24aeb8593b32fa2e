//! The functions of expressions: names, argument counts, what they give.
//!
//! CEL's own, the optionals, Kubernetes' list and string functions, and `timestampMillis`. A method's
//! first argument is what it is called on. `has` and the macros are syntax: see `compile`.

use super::evaluate::Run;
use super::names::Shape;
use super::value::{Failure, Val};
use super::{lists, strings, times};
use data_encoding::BASE64;
use std::sync::Arc;

type Call = for<'a, 'r> fn(&'r mut Run<'a>, Vec<Val<'a>>) -> Result<Val<'a>, Failure>;

pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) method: bool,
    /// Least and most arguments, what a method is called on not counted.
    pub(super) arguments: (usize, usize),
    pub(super) gives: Shape,
    call: Call,
}

impl Function {
    pub(super) fn call<'a>(
        &self,
        run: &mut Run<'a>,
        arguments: Vec<Val<'a>>,
    ) -> Result<Val<'a>, Failure> {
        (self.call)(run, arguments)
            .map_err(|failure| format!("{}: {}", self.name, failure.message).into())
    }
}

const fn function(
    name: &'static str,
    arguments: (usize, usize),
    gives: Shape,
    call: Call,
) -> Function {
    Function {
        name,
        method: false,
        arguments,
        gives,
        call,
    }
}

const fn method(
    name: &'static str,
    arguments: (usize, usize),
    gives: Shape,
    call: Call,
) -> Function {
    Function {
        name,
        method: true,
        arguments,
        gives,
        call,
    }
}

/// Regular expressions are literals and compiled with the expression; see `compile`.
pub(super) const SEARCHES: [&str; 3] = ["matches", "find", "findAll"];
/// Macros: their variables are names of their own.
pub(super) const MACROS: [&str; 9] = [
    "all",
    "exists",
    "exists_one",
    "existsOne",
    "filter",
    "map",
    "sortBy",
    "optMap",
    "optFlatMap",
];

pub(super) static FUNCTIONS: &[Function] = &[
    function("size", (1, 1), Shape::Int, |_, a| size(&a[0])),
    method("size", (0, 0), Shape::Int, |_, a| size(&a[0])),
    function("dyn", (1, 1), Shape::Any, |_, mut a| Ok(a.remove(0))),
    function("type", (1, 1), Shape::Any, |_, a| {
        Ok(Val::Type(a[0].type_name()))
    }),
    function("bool", (1, 1), Shape::Bool, |_, a| bool(&a[0])),
    function("int", (1, 1), Shape::Int, |_, a| int(&a[0])),
    function("uint", (1, 1), Shape::Any, |_, a| uint(&a[0])),
    function("double", (1, 1), Shape::Double, |_, a| double(&a[0])),
    function("string", (1, 1), Shape::Text, |_, a| strings::string(&a[0])),
    function("bytes", (1, 1), Shape::Bytes, |_, a| bytes(&a[0])),
    function("timestamp", (1, 1), Shape::Timestamp, |_, a| {
        times::timestamp(&a[0])
    }),
    function("timestampMillis", (1, 1), Shape::Timestamp, |_, a| {
        times::timestamp_millis(&a[0])
    }),
    function("duration", (1, 1), Shape::Duration, |_, a| {
        times::duration(&a[0])
    }),
    function("base64.encode", (1, 1), Shape::Text, |run, a| match &a[0] {
        Val::Bytes(bytes) => {
            run.spend_text(bytes.len())?;
            Ok(Val::text(BASE64.encode(bytes)))
        }
        other => Err(wrong("bytes", other)),
    }),
    function("base64.decode", (1, 1), Shape::Bytes, |_, a| {
        BASE64
            .decode(text(&a[0])?.as_bytes())
            .map(|bytes| Val::Bytes(bytes.into()))
            .map_err(|_| "the text is not base64".into())
    }),
    function("optional.of", (1, 1), Shape::Any, |_, mut a| {
        Ok(Val::some(a.remove(0)))
    }),
    function("optional.none", (0, 0), Shape::Any, |_, _| {
        Ok(Val::Optional(None))
    }),
    function("optional.ofNonZeroValue", (1, 1), Shape::Any, |_, mut a| {
        Ok(if is_zero(&a[0]) {
            Val::Optional(None)
        } else {
            Val::some(a.remove(0))
        })
    }),
    method("hasValue", (0, 0), Shape::Bool, |_, a| {
        Ok(Val::Bool(optional(&a[0])?.is_some()))
    }),
    method("value", (0, 0), Shape::Any, |_, a| {
        optional(&a[0])?
            .map(|value| (**value).clone())
            .ok_or("the optional is none".into())
    }),
    method("orValue", (1, 1), Shape::Any, |_, mut a| {
        Ok(match optional(&a[0])? {
            Some(value) => (**value).clone(),
            None => a.remove(1),
        })
    }),
    method("or", (1, 1), Shape::Any, |_, mut a| {
        optional(&a[1])?;
        Ok(a.remove(usize::from(optional(&a[0])?.is_none())))
    }),
    function("math.greatest", (1, 64), Shape::Any, |_, a| {
        lists::extreme(&numbers(a), true)
    }),
    function("math.least", (1, 64), Shape::Any, |_, a| {
        lists::extreme(&numbers(a), false)
    }),
    function("math.abs", (1, 1), Shape::Any, |_, a| match &a[0] {
        Val::Int(int) => int
            .checked_abs()
            .map(Val::Int)
            .ok_or("a number overflows".into()),
        Val::Uint(uint) => Ok(Val::Uint(*uint)),
        Val::Double(double) => Ok(Val::Double(double.abs())),
        other => Err(wrong("a number", other)),
    }),
    function("math.ceil", (1, 1), Shape::Double, |_, a| {
        rounded(&a[0], f64::ceil)
    }),
    function("math.floor", (1, 1), Shape::Double, |_, a| {
        rounded(&a[0], f64::floor)
    }),
    function("math.round", (1, 1), Shape::Double, |_, a| {
        rounded(&a[0], f64::round)
    }),
    function("math.trunc", (1, 1), Shape::Double, |_, a| {
        rounded(&a[0], f64::trunc)
    }),
    method("contains", (1, 1), Shape::Bool, |_, a| {
        Ok(Val::Bool(text(&a[0])?.contains(text(&a[1])?)))
    }),
    method("startsWith", (1, 1), Shape::Bool, |_, a| {
        Ok(Val::Bool(text(&a[0])?.starts_with(text(&a[1])?)))
    }),
    method("endsWith", (1, 1), Shape::Bool, |_, a| {
        Ok(Val::Bool(text(&a[0])?.ends_with(text(&a[1])?)))
    }),
    method("charAt", (1, 1), Shape::Text, strings::char_at),
    method("indexOf", (1, 2), Shape::Int, |_, a| index_of(&a, false)),
    method("lastIndexOf", (1, 2), Shape::Int, |_, a| index_of(&a, true)),
    method("lowerAscii", (0, 0), Shape::Text, |run, a| {
        let text = text(&a[0])?;
        run.spend_text(text.len())?;
        Ok(Val::text(text.to_ascii_lowercase()))
    }),
    method("upperAscii", (0, 0), Shape::Text, |run, a| {
        let text = text(&a[0])?;
        run.spend_text(text.len())?;
        Ok(Val::text(text.to_ascii_uppercase()))
    }),
    method("trim", (0, 0), Shape::Text, |_, a| {
        Ok(Val::text(text(&a[0])?.trim()))
    }),
    method("replace", (2, 3), Shape::Text, strings::replace),
    method("split", (1, 2), Shape::Any, strings::split),
    method("join", (0, 1), Shape::Text, strings::join),
    method("substring", (1, 2), Shape::Text, strings::substring),
    method("format", (1, 1), Shape::Text, strings::format),
    method("reverse", (0, 0), Shape::Any, |run, a| match &a[0] {
        Val::Text(text) => {
            run.spend_text(text.len())?;
            Ok(Val::text(text.chars().rev().collect::<String>()))
        }
        list => lists::reverse(run, list),
    }),
    method("isSorted", (0, 0), Shape::Bool, |run, a| {
        lists::is_sorted(run, &a[0])
    }),
    method("sum", (0, 0), Shape::Any, |run, a| lists::sum(run, &a[0])),
    method("min", (0, 0), Shape::Any, |_, a| {
        lists::extreme(&a[0], false)
    }),
    method("max", (0, 0), Shape::Any, |_, a| {
        lists::extreme(&a[0], true)
    }),
    method("sort", (0, 0), Shape::Any, lists::sorted),
    method("distinct", (0, 0), Shape::Any, lists::distinct),
    method("flatten", (0, 0), Shape::Any, lists::flatten),
    method("slice", (2, 2), Shape::Any, lists::slice),
    method("first", (0, 0), Shape::Any, |_, a| lists::end(&a[0], false)),
    method("last", (0, 0), Shape::Any, |_, a| lists::end(&a[0], true)),
    function("lists.range", (1, 1), Shape::Any, lists::range),
    method("getFullYear", (0, 1), Shape::Int, times::year),
    method("getMonth", (0, 1), Shape::Int, times::month),
    method("getDate", (0, 1), Shape::Int, times::date),
    method("getDayOfMonth", (0, 1), Shape::Int, times::day_of_month),
    method("getDayOfWeek", (0, 1), Shape::Int, times::day_of_week),
    method("getDayOfYear", (0, 1), Shape::Int, times::day_of_year),
    method("getHours", (0, 1), Shape::Int, times::hours),
    method("getMinutes", (0, 1), Shape::Int, times::minutes),
    method("getSeconds", (0, 1), Shape::Int, times::seconds),
    method("getMilliseconds", (0, 1), Shape::Int, times::milliseconds),
];

/// A mismatch of types, for messages.
pub(super) fn wrong(wanted: &str, got: &Val<'_>) -> Failure {
    format!("{wanted} is needed, not {}", got.described()).into()
}

pub(super) fn text<'v>(value: &'v Val<'_>) -> Result<&'v str, Failure> {
    match value {
        Val::Text(text) => Ok(text),
        other => Err(wrong("a string", other)),
    }
}

fn optional<'v, 'a>(value: &'v Val<'a>) -> Result<Option<&'v Arc<Val<'a>>>, Failure> {
    match value {
        Val::Optional(inner) => Ok(inner.as_ref()),
        other => Err(wrong("an optional", other)),
    }
}

pub(super) fn int_of(value: usize) -> Val<'static> {
    Val::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

/// An argument that counts something; below 0 is refused.
pub(super) fn count(value: &Val<'_>) -> Result<usize, Failure> {
    match value.as_integer() {
        Some(int) => usize::try_from(int).map_err(|_| "an index is below 0".into()),
        None => Err(wrong("an int", value)),
    }
}

fn size(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    if let Some(items) = value.items() {
        return Ok(int_of(items.len()));
    }
    match value {
        Val::Text(text) => Ok(int_of(text.chars().count())),
        Val::Bytes(bytes) => Ok(int_of(bytes.len())),
        Val::Map(map) => Ok(int_of(map.len())),
        Val::Json(serde_json::Value::Object(object)) => Ok(int_of(object.len())),
        other => Err(wrong("a string, a list or an object", other)),
    }
}

fn bool(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    match value {
        Val::Bool(bool) => Ok(Val::Bool(*bool)),
        Val::Text(text) => match text.as_ref() {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Val::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Val::Bool(false)),
            _ => Err("the text is no bool".into()),
        },
        other => Err(wrong("a string", other)),
    }
}

fn int(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    match value {
        Val::Int(int) => Ok(Val::Int(*int)),
        Val::Uint(uint) => i64::try_from(*uint)
            .map(Val::Int)
            .map_err(|_| "a number overflows".into()),
        // 2^63 as a double is out of an int's range, and so are its neighbours.
        Val::Double(double) if double.abs() < 9_223_372_036_854_775_808.0 => {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "CEL truncates, and the range is checked"
            )]
            let int = *double as i64;
            Ok(Val::Int(int))
        }
        Val::Double(_) => Err("a number overflows".into()),
        Val::Text(text) => text
            .parse()
            .map(Val::Int)
            .map_err(|_| "the text is no int".into()),
        Val::Timestamp(timestamp) => Ok(Val::Int(timestamp.as_second())),
        other => Err(wrong("a number, a string or a timestamp", other)),
    }
}

fn uint(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    let value = match value {
        Val::Uint(uint) => return Ok(Val::Uint(*uint)),
        Val::Text(text) => {
            return text
                .parse()
                .map(Val::Uint)
                .map_err(|_| "the text is no uint".into());
        }
        other => int(other)?,
    };
    let int = value.as_integer().unwrap_or(-1);
    u64::try_from(int)
        .map(Val::Uint)
        .map_err(|_| "a number is below 0".into())
}

fn double(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    match value {
        Val::Double(double) => Ok(Val::Double(*double)),
        #[allow(
            clippy::cast_precision_loss,
            reason = "CEL rounds to the nearest double"
        )]
        Val::Int(int) => Ok(Val::Double(*int as f64)),
        #[allow(
            clippy::cast_precision_loss,
            reason = "CEL rounds to the nearest double"
        )]
        Val::Uint(uint) => Ok(Val::Double(*uint as f64)),
        Val::Text(text) => text
            .trim()
            .parse()
            .map(Val::Double)
            .map_err(|_| "the text is no number".into()),
        other => Err(wrong("a number or a string", other)),
    }
}

fn bytes(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    match value {
        Val::Bytes(bytes) => Ok(Val::Bytes(Arc::clone(bytes))),
        Val::Text(text) => Ok(Val::Bytes(text.as_bytes().into())),
        other => Err(wrong("a string", other)),
    }
}

fn rounded(value: &Val<'_>, round: fn(f64) -> f64) -> Result<Val<'static>, Failure> {
    match value {
        Val::Double(double) => Ok(Val::Double(round(*double))),
        other => Err(wrong("a double", other)),
    }
}

/// Numbers as arguments, or one list of them.
fn numbers(mut arguments: Vec<Val<'_>>) -> Val<'_> {
    if arguments.len() == 1 && arguments[0].items().is_some() {
        return arguments.remove(0);
    }
    Val::list(arguments)
}

fn is_zero(value: &Val<'_>) -> bool {
    match value {
        Val::Null | Val::Optional(None) => true,
        Val::Bool(bool) => !bool,
        Val::Int(int) => *int == 0,
        Val::Uint(uint) => *uint == 0,
        Val::Double(double) => *double == 0.0,
        other => size(other).is_ok_and(|size| size.as_integer() == Some(0)),
    }
}

fn index_of<'a>(arguments: &[Val<'a>], last: bool) -> Result<Val<'a>, Failure> {
    match &arguments[0] {
        Val::Text(_) => strings::index_of(arguments, last),
        list => lists::index_of(list, &arguments[1..], last),
    }
}
