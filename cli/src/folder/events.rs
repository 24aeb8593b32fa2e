//! Events in files: `events/<source>.ndjson`, one JSON object a line.
//!
//! A line is `{"key": "k", "value": {...}, "timestamp": "2026-11-23T10:00:00Z", "headers": {}}`; only
//! `value` is needed, and null is a delete. They are put in the order in which they are fed: by
//! timestamp; without one, what starts runs goes last of all and everything else first, so that
//! questions find their context. Lines of one source keep their order.
//!
//! A file may be a recording of a million events: values stay the text that they are, and a large file is read
//! by all processors.

use crate::error::Error;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// What is worth another thread.
const BYTES_A_THREAD: usize = 1 << 20;

/// One event to be fed.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) source: Arc<str>,
    pub(crate) key: Option<String>,
    /// `None` is a delete.
    pub(crate) value: Option<Box<RawValue>>,
    /// Milliseconds since the epoch.
    pub(crate) timestamp: Option<i64>,
    pub(crate) headers: BTreeMap<String, String>,
    /// For messages.
    pub(crate) at: At,
}

impl Event {
    /// The value, parsed.
    pub(crate) fn json(&self) -> Value {
        let value = self.value.as_ref();
        // A raw value is JSON.
        value
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default()
    }
}

/// Written `<file>:<line>`.
#[derive(Clone, Debug)]
pub(crate) struct At {
    file: Arc<str>,
    line: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    key: Option<String>,
    value: Box<RawValue>,
    #[serde(default)]
    timestamp: Option<jiff::Timestamp>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
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
    let (source, file): (Arc<str>, Arc<str>) = (source.into(), file.into());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let pieces = pieces(text, (text.len() / BYTES_A_THREAD).clamp(1, processors));
    if let [(first, piece)] = pieces.as_slice() {
        return parse_piece(piece, *first, &source, &file);
    }
    let parsed = std::thread::scope(|scope| {
        let (source, file) = (&source, &file);
        let threads: Vec<_> = pieces
            .iter()
            .map(|(first, piece)| scope.spawn(move || parse_piece(piece, *first, source, file)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| Error::internal("a thread that reads events panicked"))?
            })
            .collect::<Result<Vec<_>, Error>>()
    })?;
    Ok(parsed.into_iter().flatten().collect())
}

/// Cuts a text between lines; each piece with the number of its first line, from 0.
fn pieces(text: &str, count: usize) -> Vec<(usize, &str)> {
    let mut pieces = Vec::with_capacity(count);
    let (mut rest, mut line) = (text, 0);
    for left in (1..count).rev() {
        let about = rest.len() / (left + 1);
        let end = rest.as_bytes()[about..]
            .iter()
            .position(|byte| *byte == b'\n');
        let Some(end) = end.map(|place| about + place + 1) else {
            break;
        };
        let (piece, after) = rest.split_at(end);
        pieces.push((line, piece));
        line += piece.bytes().filter(|byte| *byte == b'\n').count();
        rest = after;
    }
    pieces.push((line, rest));
    pieces
}

fn parse_piece(
    text: &str,
    first: usize,
    source: &Arc<str>,
    file: &Arc<str>,
) -> Result<Vec<Event>, Error> {
    let mut events = Vec::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let at = At {
            file: Arc::clone(file),
            line: first + index + 1,
        };
        let line: Line = serde_json::from_str(line).map_err(|error| {
            let reason = error.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            Error::usage(format!(
                "{at}:{}: not an event: {reason}; a line is {{\"key\": \"k\", \"value\": {{...}}, \"timestamp\": \"2026-11-23T10:00:00Z\", \"headers\": {{}}}}",
                error.column().max(1)
            ))
        })?;
        events.push(Event {
            source: Arc::clone(source),
            key: line.key,
            value: (line.value.get() != "null").then_some(line.value),
            timestamp: line.timestamp.map(jiff::Timestamp::as_millisecond),
            headers: line.headers,
            at,
        });
    }
    Ok(events)
}

/// Stable: lines of one source with one timestamp stay as they are.
fn sort(events: &mut [Event], sources: &BTreeMap<String, bool>) {
    let starts_runs = |event: &Event| sources.get(&*event.source).copied().unwrap_or_default();
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
            value: None,
            timestamp,
            headers: BTreeMap::new(),
            at: At {
                file: "".into(),
                line: 1,
            },
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
            .map(|event| (&*event.source, event.timestamp))
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

    #[test]
    fn a_large_file_is_read_in_pieces_and_lines_keep_their_numbers() {
        let text: String = (0..100_000)
            .map(|number| format!("{{\"key\": \"{number}\", \"value\": {{\"n\": {number}}}}}\n"))
            .collect();
        let events = parse(&text, "s", "f").unwrap();
        assert_eq!(events.len(), 100_000);
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event.key.as_deref(), Some(number.to_string().as_str()));
            assert_eq!(event.at.to_string(), format!("f:{}", number + 1));
        }
        for count in 1..9 {
            for text in ["", "\n", "a", "a\nb", "a\nb\n\nc\n", "a\n\n\n\n\n\n\n\n\nb"] {
                let pieces = pieces(text, count);
                let joined: String = pieces.iter().map(|(_, piece)| *piece).collect();
                assert_eq!(joined, text);
                for (line, piece) in pieces {
                    let before = text.find(piece).unwrap_or(0);
                    if !piece.is_empty() && text.matches(piece).count() == 1 {
                        assert_eq!(line, text[..before].matches('\n').count());
                    }
                }
            }
        }
        let broken = format!("{text}{{\"value\": 1\n");
        let error = parse(&broken, "s", "f").unwrap_err().to_string();
        assert!(error.contains("f:100001:"), "{error}");
    }

    #[test]
    fn null_is_a_delete_and_a_value_stays_as_it_stands() {
        let events = parse(
            "{\"value\": null}\n{\"value\": {\"b\": 1.0, \"a\": 1e2} }",
            "s",
            "f",
        )
        .unwrap();
        assert!(events[0].value.is_none());
        let raw = events[1].value.as_ref().unwrap();
        assert_eq!(raw.get(), "{\"b\": 1.0, \"a\": 1e2}");
    }
}
