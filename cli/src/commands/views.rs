//! `headwater views`: what views hold, and where each value comes from.

use super::target::{Where, block_on};
use super::{OutputFormat, print_json};
use crate::control::{Look, Row, Seen, ViewFigures, Views};
use crate::error::Error;
use crate::screen::{bytes, count, counted};
use crate::terminal::{Style, Terminal, clean, fit, say};
use serde_json::Value;

/// Look into views: how large, how far behind; their keys; a value, and the record it comes from.
///
/// Without VIEW every view is listed, with VIEW its first keys, with KEY the value (of a history its events, newest first).
/// A running `up` answers from the partitions that it folds. With --kafka the view is read from its state topic and folded on
/// to the end of its log, as an agent does; the list then says what the last checkpoint holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Name of a ContextView.
    view: Option<String>,
    /// A key of it.
    #[arg(requires = "view")]
    key: Option<String>,
    /// How many keys are listed.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    #[command(flatten)]
    to: Where,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let target = arguments.to.open()?;
    let namespace = arguments.to.namespace();
    let json = arguments.output == OutputFormat::Json;
    let Some(view) = arguments.view.clone() else {
        let views = block_on(target.views(Views { namespace }))?;
        if json {
            return print_json(&views);
        }
        say(&list(&views));
        return Ok(());
    };
    let look = Look {
        namespace,
        view,
        key: arguments.key.clone(),
        limit: arguments.limit,
    };
    let seen = block_on(target.look(look))?;
    if json {
        return print_json(&seen);
    }
    let terminal = Terminal::stdout();
    say(&match arguments.key {
        Some(_) => value(&terminal, &seen),
        None => keys(&terminal, &seen, arguments.limit),
    });
    Ok(())
}

fn list(views: &[ViewFigures]) -> String {
    if views.is_empty() {
        return "there are no views\n".to_owned();
    }
    let several = views
        .iter()
        .any(|view| view.namespace != views[0].namespace);
    let name = |view: &ViewFigures| {
        if several {
            format!("{}/{}", view.namespace, view.name)
        } else {
            view.name.clone()
        }
    };
    let unknown = || "-".to_owned();
    let header = [
        "VIEW",
        "KEYS",
        "BYTES",
        "EVENTS/S",
        "BEHIND",
        "GENERATION",
        "STATE",
    ];
    let mut table = vec![header.map(str::to_owned)];
    table.extend(views.iter().map(|view| {
        let number = |number: u64| count(usize::try_from(number).unwrap_or(usize::MAX));
        let behind = match (view.behind, view.behind_ms) {
            (None, _) => unknown(),
            (Some(records), Some(ms)) if records > 0 => format!("{} ({ms} ms)", number(records)),
            (Some(records), _) => number(records),
        };
        let state = match (view.ready, view.restored_percent) {
            (None, _) => unknown(),
            (Some(true), _) if view.problems.is_empty() => "ready".to_owned(),
            (Some(true), _) => "ready, but see below".to_owned(),
            (Some(false), Some(percent)) if percent < 100 => format!("restoring, {percent} %"),
            (Some(false), _) => "catching up".to_owned(),
        };
        [
            name(view),
            number(view.keys),
            bytes(view.bytes),
            view.records_per_second
                .map_or_else(unknown, |rate| format!("{rate:.1}")),
            behind,
            view.generation.clone(),
            state,
        ]
    }));
    let mut text = columns(&table);
    for view in views {
        if let Some(letters) = view.dead_letters.filter(|letters| *letters > 0) {
            let letters = counted(usize::try_from(letters).unwrap_or(usize::MAX), "record");
            text.push_str(&format!(
                "! {}: {letters} refused; see: headwater dead-letters view/{}\n",
                name(view),
                view.name
            ));
        }
        for problem in &view.problems {
            text.push_str(&format!("! {}: {}\n", name(view), clean(problem, false)));
        }
    }
    text
}

/// Names to the left, numbers to the right, two spaces between.
fn columns(table: &[[String; 7]]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max();
    let mut text = String::new();
    for row in table {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(column, cell)| {
                let width = width(column).unwrap_or(0);
                if (1..=4).contains(&column) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn keys(terminal: &Terminal, seen: &Seen, limit: u32) -> String {
    if seen.rows.is_empty() {
        return format!("view '{}' has no keys\n", seen.view);
    }
    let mut keys: Vec<(&Row, usize)> = Vec::new();
    for row in &seen.rows {
        match keys.last_mut() {
            Some((last, events)) if last.key == row.key && last.partition == row.partition => {
                *events += 1;
            }
            _ => keys.push((row, 1)),
        }
    }
    let longest = keys.iter().map(|(row, _)| row.key.chars().count()).max();
    let width = longest.unwrap_or(0).min(terminal.width / 2);
    let mut text = String::new();
    for (row, events) in &keys {
        let key = fit(&clean(&row.key, false), width);
        let value = match (&row.position, seen.fold.as_str()) {
            (None, _) => {
                "(not seen by readers: expired, or a required source has nothing for it)".to_owned()
            }
            (_, "history") => format!("{}, the newest {}", counted(*events, "event"), row.value),
            _ => row.value.to_string(),
        };
        let line = fit(
            &format!("{key:<width$}  {}", clean(&value, false)),
            terminal.width,
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if keys.len() == usize::try_from(limit).unwrap_or(usize::MAX) {
        text.push_str("… the first keys; more with --limit\n");
    }
    text
}

fn value(terminal: &Terminal, seen: &Seen) -> String {
    let mut text = String::new();
    for row in &seen.rows {
        let value = match &row.value {
            Value::String(value) => value.clone(),
            value => serde_json::to_string_pretty(value).unwrap_or_default(),
        };
        text.push_str(&clean(&value, true));
        text.push('\n');
        let mut fact = |name: &str, value: &str| {
            let line = format!("  {name:<10} {}", clean(value, false));
            text.push_str(&terminal.paint(Style::Faint, &line));
            text.push('\n');
        };
        fact("from", row.position.as_deref().unwrap_or("-"));
        fact("event time", row.time.as_deref().unwrap_or("-"));
    }
    if let Some(row) = seen.rows.first() {
        let line = format!(
            "  held in partition {} of {}, folded up to offset {}; generation {}",
            row.partition, seen.input, row.next, seen.generation
        );
        text.push_str(&terminal.paint(Style::Faint, &line));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figures(name: &str) -> ViewFigures {
        ViewFigures {
            namespace: "default".into(),
            name: name.into(),
            generation: "a1b2c3".into(),
            ready: Some(true),
            restored_percent: Some(100),
            keys: 1_204,
            bytes: 310 << 10,
            records_per_second: Some(12.34),
            behind: Some(0),
            behind_ms: Some(0),
            dead_letters: Some(0),
            problems: Vec::new(),
        }
    }

    fn plain() -> Terminal {
        Terminal {
            colour: false,
            width: 80,
        }
    }

    #[test]
    fn the_list_says_what_each_view_is_at() {
        let late = ViewFigures {
            ready: Some(false),
            restored_percent: Some(40),
            behind: Some(3_000),
            behind_ms: Some(1_200),
            dead_letters: Some(2),
            problems: vec!["Stopped: it stands still".into()],
            ..figures("board")
        };
        let from_log = ViewFigures {
            ready: None,
            restored_percent: None,
            records_per_second: None,
            behind_ms: None,
            dead_letters: None,
            ..figures("plain")
        };
        insta::assert_snapshot!(list(&[late, figures("flights"), from_log]));
    }

    #[test]
    fn a_value_comes_with_its_origin() {
        let row = |value| Row {
            key: "k".into(),
            value,
            position: Some("default.flights-1-8".into()),
            time: Some("2026-11-24T10:30:00Z".into()),
            partition: 1,
            next: 9,
        };
        let seen = Seen {
            view: "flights".into(),
            generation: "a1b2c3".into(),
            fold: "history".into(),
            input: "default.flights".into(),
            rows: vec![row(json!({"gate": "C61"})), row(json!("\u{1b}[2Jtext"))],
        };
        insta::assert_snapshot!(format!(
            "{}---\n{}",
            value(&plain(), &seen),
            keys(&plain(), &seen, 1)
        ));
    }
}
