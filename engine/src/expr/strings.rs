//! Functions over strings: CEL's and Kubernetes'. Positions count characters.

use super::evaluate::{Run, Search};
use super::functions::{count, int_of, text, wrong};
use super::value::{Failure, Val, duration_text};
use regex::Regex;

/// A regular expression that a user wrote, bounded in what it may cost to compile and run.
pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    const BYTES_MAX: usize = 256 * 1_024;
    regex::RegexBuilder::new(pattern)
        .size_limit(BYTES_MAX)
        .dfa_size_limit(BYTES_MAX)
        .nest_limit(32)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "is too large".to_owned(),
            other => {
                let message = other.to_string();
                message.lines().last().unwrap_or_default().trim().to_owned()
            }
        })
}

pub(super) fn search<'a>(
    run: &mut Run<'a>,
    search: Search,
    arguments: &[Val<'a>],
    regex: &Regex,
) -> Result<Val<'a>, Failure> {
    let text = text(&arguments[0])?;
    run.spend_text(text.len())?;
    match search {
        Search::Matches => Ok(Val::Bool(regex.is_match(text))),
        Search::Find => Ok(Val::text(
            regex.find(text).map_or("", |found| found.as_str()),
        )),
        Search::FindAll => {
            let limit = match arguments.get(1) {
                // As in Kubernetes, a limit below 0 is none.
                Some(limit) if limit.as_integer().is_some_and(|limit| limit < 0) => usize::MAX,
                Some(limit) => count(limit)?,
                None => usize::MAX,
            };
            let found: Vec<Val<'a>> = regex
                .find_iter(text)
                .take(limit)
                .map(|found| Val::text(found.as_str()))
                .collect();
            run.spend(found.len())?;
            Ok(Val::list(found))
        }
    }
}

pub(super) fn string(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    Ok(Val::text(match value {
        Val::Text(text) => text.clone().into_owned(),
        Val::Bool(bool) => bool.to_string(),
        Val::Int(int) => int.to_string(),
        Val::Uint(uint) => uint.to_string(),
        Val::Double(double) => double.to_string(),
        Val::Timestamp(timestamp) => timestamp.to_string(),
        Val::Duration(duration) => duration_text(*duration),
        Val::Bytes(bytes) => std::str::from_utf8(bytes)
            .map_err(|_| "the bytes are not UTF-8")?
            .to_owned(),
        other => return Err(wrong("a number, a bool, a time or bytes", other)),
    }))
}

/// The byte at which a character begins; the end counts as one.
fn byte_at(text: &str, position: usize) -> Option<usize> {
    text.char_indices()
        .map(|(byte, _)| byte)
        .chain([text.len()])
        .nth(position)
}

fn beyond(text: &str) -> Failure {
    format!(
        "the string has {} characters, the index is beyond",
        text.chars().count()
    )
    .into()
}

pub(super) fn char_at<'a>(_: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let text = text(&arguments[0])?;
    let start = byte_at(text, count(&arguments[1])?).ok_or_else(|| beyond(text))?;
    Ok(Val::text(
        text[start..]
            .chars()
            .next()
            .map(String::from)
            .unwrap_or_default(),
    ))
}

pub(super) fn substring<'a>(
    run: &mut Run<'a>,
    arguments: Vec<Val<'a>>,
) -> Result<Val<'a>, Failure> {
    let text = text(&arguments[0])?;
    let start = byte_at(text, count(&arguments[1])?).ok_or_else(|| beyond(text))?;
    let end = match arguments.get(2) {
        Some(end) => byte_at(text, count(end)?).ok_or_else(|| beyond(text))?,
        None => text.len(),
    };
    let part = text
        .get(start..end)
        .ok_or("the substring ends before it begins")?;
    run.spend_text(part.len())?;
    Ok(Val::text(part))
}

pub(super) fn index_of<'a>(arguments: &[Val<'a>], last: bool) -> Result<Val<'a>, Failure> {
    let (whole, part) = (text(&arguments[0])?, text(&arguments[1])?);
    let byte = match (arguments.get(2), last) {
        (None, false) => whole.find(part),
        (None, true) => whole.rfind(part),
        (Some(offset), false) => {
            let start = byte_at(whole, count(offset)?).ok_or_else(|| beyond(whole))?;
            whole[start..].find(part).map(|byte| start + byte)
        }
        (Some(offset), true) => {
            let start = byte_at(whole, count(offset)?).ok_or_else(|| beyond(whole))?;
            // The last that begins at or before the offset.
            let end = (start + part.len()).min(whole.len());
            whole.get(..end).and_then(|head| head.rfind(part))
        }
    };
    Ok(byte.map_or(Val::Int(-1), |byte| int_of(whole[..byte].chars().count())))
}

pub(super) fn replace<'a>(run: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let (whole, from, to) = (
        text(&arguments[0])?,
        text(&arguments[1])?,
        text(&arguments[2])?,
    );
    let limit = match arguments.get(3) {
        Some(limit) if limit.as_integer().is_some_and(|limit| limit < 0) => usize::MAX,
        Some(limit) => count(limit)?,
        None => usize::MAX,
    };
    let hits = whole.matches(from).take(limit).count();
    run.spend_text(whole.len().saturating_add(hits.saturating_mul(to.len())))?;
    Ok(Val::text(whole.replacen(from, to, limit)))
}

pub(super) fn split<'a>(run: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let (whole, by) = (text(&arguments[0])?, text(&arguments[1])?);
    run.spend(whole.len())?;
    let limit = match arguments.get(2) {
        Some(limit) if limit.as_integer().is_some_and(|limit| limit < 0) => usize::MAX,
        Some(limit) => count(limit)?,
        None => usize::MAX,
    };
    let parts: Vec<Val<'a>> = if by.is_empty() {
        whole
            .chars()
            .take(limit)
            .map(|char| Val::text(char.to_string()))
            .collect()
    } else if limit == 0 {
        Vec::new()
    } else {
        whole.splitn(limit, by).map(Val::text).collect()
    };
    Ok(Val::list(parts))
}

pub(super) fn join<'a>(run: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let items = arguments[0]
        .items()
        .ok_or_else(|| wrong("a list", &arguments[0]))?;
    let by = match arguments.get(1) {
        Some(by) => text(by)?,
        None => "",
    };
    let mut joined = String::new();
    for (index, item) in items.iter().enumerate() {
        let item = text(&item)
            .map_err(|_| wrong("a list of strings", &item))?
            .to_owned();
        run.spend(1 + item.len() / 64)?;
        if index > 0 {
            joined.push_str(by);
        }
        joined.push_str(&item);
        run.spend_text(joined.len().min(64))?;
        if joined.len() > 1_048_576 {
            return Err("builds a text of over 1 MiB".into());
        }
    }
    Ok(Val::text(joined))
}

/// `'%s: %d, %.2f'.format([name, count, price])`.
pub(super) fn format<'a>(run: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let pattern = text(&arguments[0])?;
    let items = arguments[1]
        .items()
        .ok_or_else(|| wrong("a list", &arguments[1]))?;
    let mut output = String::new();
    let mut next = 0;
    let mut rest = pattern;
    while let Some(percent) = rest.find('%') {
        output.push_str(&rest[..percent]);
        rest = &rest[percent + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            output.push('%');
            rest = after;
            continue;
        }
        let precision = rest.strip_prefix('.').map(|digits| {
            let end = digits
                .find(|char: char| !char.is_ascii_digit())
                .unwrap_or(digits.len());
            let precision = digits[..end].parse::<usize>().unwrap_or(0).min(30);
            rest = &digits[end..];
            precision
        });
        let verb = rest.chars().next().ok_or("the pattern ends in `%`")?;
        rest = &rest[verb.len_utf8()..];
        let item = items
            .get(next)
            .ok_or("the pattern names more values than there are")?;
        next += 1;
        match (verb, &item) {
            ('s', Val::Null) => output.push_str("null"),
            ('s', Val::Json(_) | Val::List(_) | Val::Map(_)) => {
                output.push_str(&item.clone().into_json()?.to_string());
            }
            ('s', item) => output.push_str(text(&string(item)?)?),
            ('d', Val::Int(_) | Val::Uint(_)) => output.push_str(text(&string(&item)?)?),
            ('f', Val::Double(double)) => {
                output.push_str(&format!("{double:.*}", precision.unwrap_or(6)));
            }
            ('f', Val::Int(int)) => {
                #[allow(clippy::cast_precision_loss, reason = "printed with a fraction")]
                let double = *int as f64;
                output.push_str(&format!("{double:.*}", precision.unwrap_or(6)));
            }
            ('x', Val::Int(int)) => output.push_str(&format!("{int:x}")),
            ('d' | 'f' | 'x', item) => {
                return Err(format!("`%{verb}` does not print {}", item.described()).into());
            }
            _ => return Err(format!("`%{verb}` is not known; %s, %d, %f and %x are").into()),
        }
        run.spend_text(output.len())?;
    }
    output.push_str(rest);
    run.spend_text(output.len())?;
    Ok(Val::text(output))
}
