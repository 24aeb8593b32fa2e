//! One run on the screen: what triggered it, what it read and from where, the prompt, the answer.

use super::words::{age, count, counted, duration};
use super::{Show, prompt};
use crate::terminal::{Style, Terminal, clean, fit, wrap};
use headwater_engine::audit::{Outcome, Record, Slot};
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
        (None, None) => format!("{:?}", record.outcome),
    };
    let took = milliseconds
        .map(|milliseconds| format!(" in {}", duration(milliseconds)))
        .unwrap_or_default();
    let line = format!("{}{}: {}", title(record), took, clean(&what, false));
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
    let event = record
        .input
        .as_ref()
        .and_then(|input| input.get("event"))
        .map(Value::to_string)
        .unwrap_or_default();
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
        line("Context", &freshness(record));
        text.push_str(&slots(&record.slots, terminal));
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
    text.push_str(&ending(record, milliseconds, terminal));
    text
}

/// Whether the views held everything that was in the log, or what they lacked.
fn freshness(record: &Record) -> String {
    let behind: Vec<String> = record
        .slots
        .iter()
        .flat_map(|slot| &slot.behind)
        .map(|behind| {
            format!(
                "{} at {} of {}",
                behind.partition, behind.position, behind.end
            )
        })
        .collect();
    if behind.is_empty() {
        "everything that was in the log when the trigger arrived".to_owned()
    } else {
        format!("behind the log in {}", behind.join(", "))
    }
}

/// A table: slot, view, rows, where the newest row comes from, how old it is.
fn slots(slots: &[Slot], terminal: &Terminal) -> String {
    let rows: Vec<[String; 5]> = slots
        .iter()
        .map(|slot| {
            let newest = slot.rows.iter().max_by_key(|row| row.time);
            let mut rows = count(slot.count);
            if slot.omitted > 0 {
                rows.push_str(&format!(" (+{} omitted)", slot.omitted));
            }
            if !slot.missing.is_empty() {
                rows.push_str(&format!(" ({} missing)", slot.missing.len()));
            }
            let mut old = slot.age_seconds.map(age).unwrap_or_default();
            if slot.stale {
                old.push_str(" stale");
            }
            [
                slot.slot.clone(),
                slot.view.clone(),
                rows,
                newest
                    .map(|row| row.position.to_string())
                    .unwrap_or_default(),
                old,
            ]
        })
        .collect();
    let heads = ["slot", "view", "rows", "newest from", "age"];
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([heads[column].len()]).max().unwrap_or_default()
        })
        .collect();
    let row = |cells: &[&str]| {
        let cells: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("  {}", cells.join("  ").trim_end())
    };
    let mut text = format!("{}\n", terminal.paint(Style::Faint, &row(&heads)));
    for cells in &rows {
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        text.push_str(&format!("{}\n", fit(&row(&cells), terminal.width)));
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
            style = Style::Bad;
        }
        (None, Some(model)) => {
            line("Answer", &format!("by model {}{took}", model.name));
            body = model.answer.clone().unwrap_or_default();
        }
        (None, None) if record.outcome == Outcome::Skipped => {
            line("Skipped", &format!("`when` is false{took}"))
        }
        (None, None) => line("Done", &format!("no model; the prompt is the result{took}")),
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
