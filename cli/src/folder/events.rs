//! Events in files: `events/<source>.ndjson`, one JSON object a line.
//!
//! A line is `{"key": "k", "value": {...}, "timestamp": "2026-11-23T10:00:00Z", "headers": {}}`; only
//! `value` is needed, and null is a delete. They are put in the order in which they are fed: by
//! timestamp; without one, what starts runs goes last of all and everything else first, so that
//! questions find their context. Lines of one source keep their order.

use crate::error::Error;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One event to be fed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) source: String,
    pub(crate) key: Option<String>,
    pub(crate) value: Value,
    /// Milliseconds since the epoch.
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: BTreeMap<String, String>,
    /// `<file>:<line>`, for messages.
    pub(crate) at: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    key: Option<String>,
    #[serde(deserialize_with = "present")]
    value: Option<Value>,
    #[serde(default)]
    timestamp: Option<jiff::Timestamp>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// A `value` must be there, even if it is null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Reads every `<source>.ndjson` of the folders, in feeding order.
///
/// # Errors
/// A file that cannot be read, a line that is no event, or a file whose name is no source of
/// `sources`: each with file and line. `sources` says of each whether it starts runs.
pub(crate) fn read(
    folders: &[PathBuf],
    sources: &BTreeMap<String, bool>,
) -> Result<Vec<Event>, Error> {
    let mut events = Vec::new();
    for folder in folders {
        let cannot = |source| Error::file("read", folder, source);
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .map_err(cannot)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "ndjson")
            })
            .collect();
        files.sort();
        for file in files {
            let name = file
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            if !sources.contains_key(name) {
                let hint = headwater_engine::problem::did_you_mean(
                    name,
                    sources.keys().map(String::as_str),
                )
                .map(|near| format!("; did you mean '{near}'?"))
                .unwrap_or_default();
                return Err(Error::usage(format!(
                    "{}: there is no EventSource '{name}' that these events could go to{hint}",
                    file.display()
                )));
            }
            let text = std::fs::read_to_string(&file)
                .map_err(|error| Error::file("read", &file, error))?;
            events.extend(parse(&text, name, &file.display().to_string())?);
        }
    }
    sort(&mut events, sources);
    Ok(events)
}

/// Every line of a text as an event of the source; empty lines are left out.
///
/// # Errors
/// A line that is no event, with file, line and column.
pub(crate) fn parse(text: &str, source: &str, file: &str) -> Result<Vec<Event>, Error> {
    let mut events = Vec::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let line: Line = serde_json::from_str(line).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            Error::usage(format!(
                "{file}:{}:{}: not an event: {reason}; a line is {{\"key\": \"k\", \"value\": {{...}}, \"timestamp\": \"2026-11-23T10:00:00Z\", \"headers\": {{}}}}",
                index + 1,
                error.column().max(1)
            ))
        })?;
        events.push(Event {
            source: source.to_owned(),
            key: line.key,
            value: line.value.unwrap_or_default(),
            timestamp: line.timestamp.map(jiff::Timestamp::as_millisecond),
            headers: line.headers,
            at: format!("{file}:{}", index + 1),
        });
    }
    Ok(events)
}

/// Stable: lines of one source with one timestamp stay as they are.
fn sort(events: &mut [Event], sources: &BTreeMap<String, bool>) {
    let starts_runs = |event: &Event| sources.get(&event.source).copied().unwrap_or_default();
    events.sort_by_key(|event| match event.timestamp {
        None if starts_runs(event) => (2, 0, true),
        None => (0, 0, false),
        Some(timestamp) => (1, timestamp, starts_runs(event)),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(source: &str, timestamp: Option<i64>) -> Event {
        Event {
            source: source.into(),
            key: None,
            value: Value::Null,
            timestamp,
            headers: BTreeMap::new(),
            at: String::new(),
        }
    }

    #[test]
    fn context_comes_before_the_questions_about_it() {
        let sources = BTreeMap::from([("facts".to_owned(), false), ("questions".to_owned(), true)]);
        let mut events = vec![
            event("questions", Some(5)),
            event("questions", None),
            event("facts", Some(9)),
            event("facts", Some(5)),
            event("facts", None),
        ];
        sort(&mut events, &sources);
        let order: Vec<_> = events
            .iter()
            .map(|event| (event.source.as_str(), event.timestamp))
            .collect();
        assert_eq!(
            order,
            [
                ("facts", None),
                ("facts", Some(5)),
                ("questions", Some(5)),
                ("facts", Some(9)),
                ("questions", None)
            ]
        );
    }

    #[test]
    fn a_line_needs_a_value_and_nothing_unknown() {
        let parse = |line: &str| serde_json::from_str::<Line>(line);
        assert!(parse(r#"{"value": null}"#).is_ok());
        assert!(parse(r#"{"key": "k"}"#).is_err());
        assert!(parse(r#"{"value": 1, "timestmap": "2026-11-23T10:00:00Z"}"#).is_err());
        assert!(parse(r#"{"value": 1, "timestamp": "yesterday"}"#).is_err());
    }
}
