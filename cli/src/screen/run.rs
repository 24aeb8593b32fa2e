//! One run on the screen: what triggered it, what it read and from where, the prompt, the answer.

use super::slots;
use super::words::{counted, duration};
use super::{Show, prompt};
use crate::terminal::{Style, Terminal, clean, fit, wrap};
use headwater_engine::audit::{Call, Model, Outcome, Record};
use headwater_engine::model::Called;
use headwater_engine::time::rfc3339;
use serde_json::Value;
use std::collections::BTreeSet;

/// Columns that labels take.
const LABEL: usize = 11;

/// `flight-assistant ran for default.questions-2-0`
pub(super) fn title(record: &Record) -> String {
    let name = record.agent.rsplit('/').next().unwrap_or(&record.agent);
    let did = match record.outcome {
        Outcome::Done => "answered",
        Outcome::Skipped => "skipped",
        Outcome::Duplicate => "duplicate",
        Outcome::Coalesced => "coalesced",
        Outcome::Failed => "failed on",
        Outcome::Waiting => "waits for a person at",
    };
    format!("{name} {did} {}", record.trigger.position)
}

/// One line.
pub(super) fn brief(record: &Record, milliseconds: Option<u64>, terminal: &Terminal) -> String {
    let what = match (
        &record.failure,
        record
            .model
            .as_ref()
            .and_then(|model| model.answer.as_ref()),
    ) {
        (Some(failure), _) => format!("{}: {}", failure.reason, failure.message),
        (None, Some(answer)) => answer.clone(),
        (None, None) => without_answer(record).to_owned(),
    };
    let took = milliseconds
        .map(|milliseconds| format!(" in {}", duration(milliseconds)))
        .unwrap_or_default();
    // In the past the run is what one goes on with: its prompt, or to replay it.
    let id = match milliseconds {
        None => format!("{}  ", record.run),
        Some(_) => String::new(),
    };
    let line = format!("{id}{}{took}: {}", title(record), clean(&what, false));
    format!("{}\n", fit(&line, terminal.width))
}

/// Everything, as much of the prompt as `show` says.
pub(super) fn whole(
    record: &Record,
    milliseconds: Option<u64>,
    show: Show,
    terminal: &Terminal,
    seen: &mut BTreeSet<String>,
) -> String {
    let mut text = String::new();
    let mut line = |label: &str, content: &str| {
        text.push_str(&format!(
            "{} {content}\n",
            terminal.paint(Style::Heading, &format!("{label:<LABEL$}"))
        ));
    };
    line("Run", &about(record));
    let input = |name: &str| record.input.as_ref().and_then(|input| input.get(name));
    let event = match (input("event"), input("previous")) {
        (Some(Value::Null), Some(previous)) if !previous.is_null() => format!("gone: {previous}"),
        (event, _) => event.map(Value::to_string).unwrap_or_default(),
    };
    let key = record
        .trigger
        .key
        .as_deref()
        .map(|key| format!("key {}  ", clean(key, false)))
        .unwrap_or_default();
    line(
        "Trigger",
        &format!(
            "{key}{}",
            fit(
                &clean(&event, false),
                terminal
                    .width
                    .saturating_sub(LABEL + 1 + key.chars().count())
            )
        ),
    );
    if !record.slots.is_empty() {
        line("Context", &slots::freshness(record));
        text.push_str(&slots::table(&record.slots, terminal));
        if show == Show::Full {
            text.push_str(&slots::origins(&record.slots, terminal));
        }
    }
    let mut line = |label: &str, content: &str| {
        text.push_str(&format!(
            "{} {content}\n",
            terminal.paint(Style::Heading, &format!("{label:<LABEL$}"))
        ));
    };
    if let Some(shown) = &record.prompt {
        let turns = match record.turns.shown {
            0 => String::new(),
            turns => format!(", {} of the conversation", counted(turns, "turn")),
        };
        let hash: String = shown.hash.chars().take(12).collect();
        line(
            "Prompt",
            &format!("{}{turns}, sha256 {hash}…", counted(shown.tokens, "token")),
        );
        if let Some(messages) = &shown.messages {
            text.push_str(&prompt::lines(messages, show, terminal, seen));
        }
    }
    if !record.now.is_empty() {
        text.push_str(&format!(
            "{} read once more when the model had answered, for the outputs\n{}",
            terminal.paint(Style::Heading, &format!("{:<LABEL$}", "Now")),
            slots::table(&record.now, terminal)
        ));
    }
    if !record.calls.is_empty() {
        text.push_str(&format!(
            "{} {}\n{}",
            terminal.paint(Style::Heading, &format!("{:<LABEL$}", "Tools")),
            counted(record.calls.len(), "call"),
            called(&record.calls, terminal)
        ));
    }
    text.push_str(&ending(record, milliseconds, terminal));
    if let (None, Some(timing)) = (milliseconds, timing(record)) {
        text.push_str(&format!(
            "{} {timing}\n",
            terminal.paint(Style::Heading, &format!("{:<LABEL$}", "Timing"))
        ));
    }
    text
}

/// Its id, and what is not usual of it.
fn about(record: &Record) -> String {
    let mut text = record.run.clone();
    if record.attempt > 1 {
        text.push_str(&format!(", attempt {}", record.attempt));
    }
    if record.hops > 1 {
        text.push_str(&format!(
            ", hop {} of the chain that began at {}",
            record.hops, record.root
        ));
    }
    text
}

/// Why there is neither an answer nor a failure.
fn without_answer(record: &Record) -> &'static str {
    match record.outcome {
        Outcome::Skipped => "`when` is false",
        Outcome::Duplicate => "a run of the same `once` key was done before, or waits",
        Outcome::Coalesced => "a newer trigger of its key took its place",
        Outcome::Waiting => "a person is asked about a call",
        // The audit may hold hashes only.
        _ if record.model.is_some() => "the answer is not in the audit",
        _ => "no model; the outputs are made from the event and the context",
    }
}

/// How long it waited for its views, its model and the rest.
fn timing(record: &Record) -> Option<String> {
    let assembled = record.assembled_at?;
    let mut parts = Vec::new();
    if let Some(waited) = record.waited_ms {
        parts.push(format!("{} for the views", duration(waited)));
    }
    parts.push(format!("assembled at {}", rfc3339(assembled)));
    if let Some(model) = &record.model {
        let asked: u64 = model.calls.iter().map(|call| call.milliseconds).sum();
        parts.push(format!("{} at the model", duration(asked)));
    }
    let rest = u64::try_from(record.finished_at - assembled).unwrap_or_default();
    parts.push(format!("ended {} after it was assembled", duration(rest)));
    Some(parts.join(", "))
}

/// `by model chat, 1,041 tokens in, 88 out`
fn asked(model: &Model) -> String {
    let mut text = format!("by model {}", model.name);
    if model.calls.len() > 1 {
        text.push_str(&format!(" at the {} call", ordinal(model.calls.len())));
    }
    let tokens = |tokens: u64, way: &str| {
        format!(
            ", {} {way}",
            counted(usize::try_from(tokens).unwrap_or(usize::MAX), "token")
        )
    };
    if let Some(read) = model.usage.input_tokens {
        text.push_str(&tokens(read, "in"));
    }
    if let Some(written) = model.usage.output_tokens {
        text.push_str(&tokens(written, "out"));
    }
    if let Some(other) = model
        .calls
        .last()
        .and_then(|call| call.answered_by.as_ref())
    {
        text.push_str(&format!(", answered by {} instead", clean(other, false)));
    }
    let usual = ["", "stop", "end_turn", "tool_calls", "tool_use"];
    if !usual.contains(&model.finish_reason.as_str()) {
        text.push_str(&format!(
            ", ended by {}",
            clean(&model.finish_reason, false)
        ));
    }
    text
}

fn ordinal(number: usize) -> String {
    match number {
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        other => format!("{other}th"),
    }
}

/// Answers that did not fit the result's schema, and why.
fn rejected(calls: &[Call], terminal: &Terminal) -> String {
    let mut text = String::new();
    for call in calls {
        let Some(why) = &call.rejected else {
            continue;
        };
        let answer = call.answer.as_deref().unwrap_or("(not in the audit)");
        let line = format!(
            "rejected: {}; it was: {}",
            clean(why, false),
            clean(answer, false)
        );
        text.push_str(&format!(
            "  {}\n",
            terminal.paint(Style::Bad, &fit(&line, terminal.width.saturating_sub(2)))
        ));
    }
    text
}

/// What was called, in its order, and what came of it.
fn called(calls: &[Called], terminal: &Terminal) -> String {
    let mut text = String::new();
    for called in calls {
        let value = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(text) => format!(" {}", clean(text, false)),
            other => format!(" {}", clean(&other.to_string(), false)),
        };
        let took = match called.milliseconds {
            0 => String::new(),
            milliseconds => format!(" in {}", duration(milliseconds)),
        };
        let by = match (&called.rule, &called.approved_by) {
            (Some(rule), _) => format!(" by rule {}", clean(rule, false)),
            (None, Some(person)) => format!(", approved by {}", clean(person, false)),
            (None, None) => String::new(),
        };
        // What came of it first: arguments and results are cut where they are long.
        let line = format!(
            "{} → {}{by}{took}{}{}",
            clean(&called.tool, false),
            called.outcome.as_str(),
            value(&called.arguments),
            match value(&called.result).as_str() {
                "" => String::new(),
                result => format!(" →{result}"),
            }
        );
        let style = if called.is_done() {
            Style::Faint
        } else {
            Style::Bad
        };
        text.push_str(&format!(
            "  {}\n",
            terminal.paint(style, &fit(&line, terminal.width.saturating_sub(2)))
        ));
    }
    text
}

/// Answer or failure, and where it went.
fn ending(record: &Record, milliseconds: Option<u64>, terminal: &Terminal) -> String {
    let took = milliseconds
        .map(|milliseconds| format!(", {} from trigger to commit", duration(milliseconds)))
        .unwrap_or_default();
    let mut text = String::new();
    let mut line = |label: &str, content: &str| {
        text.push_str(&format!(
            "{} {content}\n",
            terminal.paint(Style::Heading, &format!("{label:<LABEL$}"))
        ));
    };
    let mut body = String::new();
    let mut style = Style::Good;
    match (&record.failure, &record.model) {
        (Some(failure), _) => {
            let how = match record.attempt {
                0 => "the trigger was refused".to_owned(),
                1 => "at the first attempt".to_owned(),
                attempts => format!("after {attempts} attempts"),
            };
            line("Failed", &format!("{how}{took}"));
            body = format!("{}: {}", failure.reason, failure.message);
            for output in &failure.outputs {
                body.push_str(&format!("\nan output failed too: {output}"));
            }
            style = Style::Bad;
        }
        (None, Some(model)) => {
            line("Answer", &format!("{}{took}", asked(model)));
            body = match &model.answer {
                Some(answer) => answer.clone(),
                None => format!("({})", without_answer(record)),
            };
        }
        (None, None) => line(
            &format!("{:?}", record.outcome),
            &format!("{}{took}", without_answer(record)),
        ),
    }
    if let Some(model) = &record.model {
        text.push_str(&rejected(&model.calls, terminal));
    }
    if !body.is_empty() {
        for part in wrap(
            clean(&body, true).trim_end(),
            terminal.width.saturating_sub(2),
        ) {
            text.push_str(&format!("  {}\n", terminal.paint(style, &part)));
        }
    }
    for written in &record.outputs {
        let to = format!("→ {} key {}", written.topic, clean(&written.key, false));
        text.push_str(&format!(
            "  {}\n",
            terminal.paint(Style::Faint, &fit(&to, terminal.width.saturating_sub(2)))
        ));
    }
    text
}
