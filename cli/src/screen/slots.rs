//! What a run read: how fresh it was, a line for each slot, and in full where every row comes from.

use super::words::{age, count};
use crate::terminal::{Style, Terminal, clean, fit, wrap};
use headwater_engine::audit::{Record, Slot};
use headwater_engine::time::rfc3339;

/// Whether the views held everything that was in the log, or what they lacked.
pub(super) fn freshness(record: &Record) -> String {
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
pub(super) fn table(slots: &[Slot], terminal: &Terminal) -> String {
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

/// Every row that was shown, and up to where each view had read.
pub(super) fn origins(slots: &[Slot], terminal: &Terminal) -> String {
    let mut text = String::new();
    let mut line = |content: &str| {
        for part in wrap(content, terminal.width.saturating_sub(2)) {
            text.push_str(&format!("  {part}\n"));
        }
    };
    for slot in slots {
        let covered: Vec<String> = slot
            .covered
            .iter()
            .map(|covered| format!("{} to {}", covered.partition, covered.next))
            .collect();
        let covered = match covered.as_slice() {
            [] => String::new(),
            some => format!(": it had read {}", some.join(", ")),
        };
        line(&format!(
            "{} from view {}, generation {}{covered}",
            slot.slot, slot.view, slot.generation
        ));
        for row in &slot.rows {
            line(&format!(
                "  {}  {}  {}",
                clean(&row.key, false),
                row.position,
                rfc3339(row.time)
            ));
        }
        if slot.rows.len() < slot.count {
            line(&format!(
                "  {} rows, too many to be listed in the audit",
                count(slot.count)
            ));
        }
        for missing in &slot.missing {
            line(&format!("  {}  nothing is there", clean(missing, false)));
        }
    }
    text
}
