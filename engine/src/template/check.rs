//! Checks of a template's text: nesting, names, fields, filters, with line and column.

use super::Error;
use crate::expr::{Names, Shape};
use crate::nesting;
use crate::problem::did_you_mean;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

/// minijinja's filters as built here.
const FILTERS: [&str; 48] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "zip",
];
/// How many `elif` a template may have.
const BRANCHES_MAX: usize = 100;
/// Functions of templates.
const GLOBALS: [&str; 3] = ["range", "dict", "namespace"];

pub(super) fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = &text[..byte.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |tail| tail.chars().count())
        + 1;
    (line, column)
}

fn at(text: &str, byte: usize, message: String) -> Error {
    let (line, column) = line_and_column(text, byte);
    Error {
        line,
        column,
        message,
        hint: None,
    }
}

pub(super) fn syntax(text: &str, error: &minijinja::Error) -> Error {
    let message = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match (error.range(), error.line()) {
        (Some(range), _) => at(text, range.start, message),
        (None, line) => Error {
            line: line.unwrap_or(1),
            column: 1,
            message,
            hint: None,
        },
    }
}

/// The insides of `{{ }}` and `{% %}`.
fn tags(text: &str) -> Vec<Range<usize>> {
    let mut tags = Vec::new();
    let mut index = 0;
    while let Some(start) = text[index..].find('{').map(|found| index + found) {
        let close = match text[start + 1..].chars().next() {
            Some('{') => "}}",
            Some('%') => "%}",
            Some('#') => {
                index = text[start..]
                    .find("#}")
                    .map_or(text.len(), |end| start + end + 2);
                continue;
            }
            _ => {
                index = start + 1;
                continue;
            }
        };
        let inside = start + 2;
        let mut quote = None;
        let mut end = text.len();
        for (offset, char) in text[inside..].char_indices() {
            match (quote, char) {
                (Some(open), char) if open == char => quote = None,
                (None, '\'' | '"') => quote = Some(char),
                (None, _) if text[inside + offset..].starts_with(close) => {
                    end = inside + offset;
                    break;
                }
                _ => {}
            }
        }
        tags.push(inside..end);
        index = (end + 2).min(text.len());
        while !text.is_char_boundary(index) {
            index += 1;
        }
    }
    tags
}

/// A tag with the contents of its strings blanked, so that names in them are not found.
fn without_strings(tag: &str) -> String {
    let mut quote = None;
    tag.chars()
        .map(|char| match (quote, char) {
            (Some(open), _) if open == char => {
                quote = None;
                char
            }
            // As many bytes as before, so that places stay.
            (Some(_), _) if char.is_ascii() => ' ',
            (None, '\'' | '"') => {
                quote = Some(char);
                char
            }
            (_, char) => char,
        })
        .collect()
}

/// What a tag holds, bounded before the parser sees it.
pub(super) fn nesting(text: &str) -> Result<(), Error> {
    let mut branches = 0;
    for tag in tags(text) {
        let inside = &text[tag.clone()];
        nesting::check(inside, nesting::Language::Jinja)
            .map_err(|(byte, message)| at(text, tag.start + byte, message))?;
        // Each `elif` is a level of its own for the parser.
        branches += usize::from(
            inside
                .trim_start_matches(['-', '+', ' ', '\n'])
                .starts_with("elif"),
        );
        if branches > BRANCHES_MAX {
            let message = format!("there are more than {BRANCHES_MAX} `elif`");
            return Err(at(text, tag.start, message));
        }
    }
    Ok(())
}

/// Where a path as `context.flights` first stands in a tag.
fn place_of(text: &str, path: &str) -> usize {
    let boundary =
        |char: Option<char>| char.is_none_or(|char| !(char.is_alphanumeric() || char == '_'));
    for tag in tags(text) {
        let blank = without_strings(&text[tag.clone()]);
        let mut index = 0;
        while let Some(found) = blank[index..].find(path).map(|found| index + found) {
            let before = blank[..found].chars().next_back();
            let after = blank[found + path.len()..].chars().next();
            if boundary(before) && before != Some('.') && boundary(after) {
                return tag.start + found;
            }
            index = found + path.len();
        }
    }
    0
}

/// Checks every path that a template reads, and gives what it reads below each root.
pub(super) fn names(
    text: &str,
    paths: &HashSet<String>,
    names: &Names,
) -> Result<BTreeMap<String, BTreeSet<Option<String>>>, Error> {
    let mut reads: BTreeMap<String, BTreeSet<Option<String>>> = BTreeMap::new();
    let mut first: Option<(usize, Error)> = None;
    for path in paths {
        let mut parts = path.split('.');
        let root = parts.next().unwrap_or_default();
        if GLOBALS.contains(&root) {
            continue;
        }
        let fields: Vec<&str> = parts.collect();
        let found = match names.get(root) {
            None => Err((
                path.as_str(),
                root,
                names.roots().map(str::to_owned).collect(),
            )),
            Some(shape) => {
                walk(shape, &fields).map_err(|(field, known)| (path.as_str(), field, known))
            }
        };
        match found {
            Ok(()) => {
                reads
                    .entry(root.to_owned())
                    .or_default()
                    .insert(fields.first().map(|field| (*field).to_owned()));
            }
            Err((path, name, known)) => {
                let place = place_of(text, path);
                let is_root = name == root;
                let message = if is_root {
                    format!("there is no `{name}` here")
                } else {
                    format!("there is no field `{name}` in `{path}`")
                };
                let mut error = at(text, place, message);
                error.hint = Some(hint(name, &known));
                // The first in the text is the one that is told.
                if first.as_ref().is_none_or(|(other, _)| place < *other) {
                    first = Some((place, error));
                }
            }
        }
    }
    match first {
        Some((_, error)) => Err(error),
        None => Ok(reads),
    }
}

fn hint(name: &str, known: &[String]) -> String {
    match did_you_mean(name, known.iter().map(String::as_str)) {
        Some(found) => format!("Did you mean `{found}`?"),
        None if known.is_empty() => "There are none".to_owned(),
        None => {
            let listed: Vec<&str> = known.iter().take(20).map(String::as_str).collect();
            format!("There are: {}", listed.join(", "))
        }
    }
}

/// Follows fields as far as they are known; the first that cannot be there, with those that can.
fn walk<'p>(shape: &Shape, fields: &[&'p str]) -> Result<(), (&'p str, Vec<String>)> {
    let Some((field, rest)) = fields.split_first() else {
        return Ok(());
    };
    let Shape::Object(known) = shape else {
        // Methods of strings and lists look like fields.
        return Ok(());
    };
    match known.known.get(*field) {
        Some(shape) => walk(shape, rest),
        // Objects have methods too.
        None if known.closed && !matches!(*field, "items" | "keys" | "values" | "get") => {
            Err((field, known.known.keys().cloned().collect()))
        }
        None => Ok(()),
    }
}

/// Every `| name` has to be a filter that is there.
pub(super) fn filters(text: &str) -> Result<(), Error> {
    for tag in tags(text) {
        let blank = without_strings(&text[tag.clone()]);
        let mut index = 0;
        while let Some(found) = blank[index..].find('|').map(|found| index + found) {
            index = found + 1;
            let rest = &blank[index..];
            let name_start = rest.len() - rest.trim_start().len();
            let name: String = rest[name_start..]
                .chars()
                .take_while(|char| char.is_alphanumeric() || *char == '_')
                .collect();
            if name.is_empty() {
                continue;
            }
            if !FILTERS.contains(&name.as_str()) {
                let mut error = at(
                    text,
                    tag.start + index + name_start,
                    format!("there is no filter `{name}`"),
                );
                error.hint =
                    did_you_mean(&name, FILTERS).map(|found| format!("Did you mean `{found}`?"));
                return Err(error);
            }
        }
    }
    Ok(())
}
