//! A prompt on the screen: its shape at a glance, or whole.
//!
//! A long prompt is shortened part by part: of each paragraph the first lines stand, and how many
//! follow, so that every section is seen and none pushes the others out. Paragraphs that stood alike
//! in the run before are only counted: what is new is what there is to see.

use super::Show;
use crate::terminal::{Style, Terminal, clean, fit, wrap};
use headwater_engine::model::{Message, Role};
use std::collections::BTreeSet;

/// Lines that are shown of a paragraph.
const OF_PARAGRAPH: usize = 4;
/// Lines that are shown of a message.
const OF_MESSAGE: usize = 48;
/// Columns in front of a line: role and bar.
const MARGIN: usize = 14;

/// The messages, each line behind its role and a bar.
///
/// `seen` holds the paragraphs of the run before, and afterwards those of this one.
pub(super) fn lines(
    messages: &[Message],
    show: Show,
    terminal: &Terminal,
    seen: &mut BTreeSet<String>,
) -> String {
    let before = std::mem::take(seen);
    let mut text = String::new();
    let bar = terminal.paint(Style::Accent, "│");
    let mut left_out = false;
    for message in messages {
        let content = clean(&message.content, true);
        if message.role == Role::System {
            seen.extend(paragraphs(content.trim_end()).map(str::to_owned));
        }
        let width = terminal.width.saturating_sub(MARGIN);
        let lines = match show {
            Show::Full => wrap(content.trim_end(), width),
            _ => {
                let known = if message.role == Role::System {
                    &before
                } else {
                    &BTreeSet::new()
                };
                let (lines, cut) = shorten(content.trim_end(), width, known);
                left_out |= cut;
                lines
            }
        };
        for (index, line) in lines.iter().enumerate() {
            let role = if index == 0 {
                message.role.as_str()
            } else {
                ""
            };
            text.push_str(&format!(
                "  {} {bar} {line}\n",
                terminal.paint(Style::Accent, &format!("{role:<9}"))
            ));
        }
    }
    if left_out {
        text.push_str(&format!(
            "  {}\n",
            terminal.paint(
                Style::Faint,
                "          shortened; --show full shows every line"
            )
        ));
    }
    text
}

fn paragraphs(content: &str) -> impl Iterator<Item = &str> {
    content
        .split("\n\n")
        .map(|paragraph| paragraph.trim_end().trim_start_matches('\n'))
        .filter(|paragraph| !paragraph.is_empty())
}

/// The first lines of each paragraph that was not there before, each cut to the width; and whether
/// anything was left out.
fn shorten(content: &str, width: usize, before: &BTreeSet<String>) -> (Vec<String>, bool) {
    let mut lines: Vec<String> = Vec::new();
    let mut cut = false;
    let mut alike = 0;
    for paragraph in paragraphs(content) {
        if before.contains(paragraph) {
            alike += 1;
            continue;
        }
        note_alike(&mut lines, &mut alike);
        if lines.len() >= OF_MESSAGE {
            lines.push("…".to_owned());
            return (lines, true);
        }
        if !lines.is_empty() {
            lines.push(String::new());
        }
        let all: Vec<&str> = paragraph.lines().collect();
        // One line more is not worth a note that it was left out.
        let shown = if all.len() <= OF_PARAGRAPH + 1 {
            all.len()
        } else {
            OF_PARAGRAPH
        };
        for line in &all[..shown] {
            cut |= line.chars().count() > width;
            lines.push(fit(line, width));
        }
        if all.len() > shown {
            cut = true;
            lines.push(format!("… {} more lines", all.len() - shown));
        }
    }
    cut |= alike > 0;
    note_alike(&mut lines, &mut alike);
    (lines, cut)
}

fn note_alike(lines: &mut Vec<String>, alike: &mut usize) {
    match std::mem::take(alike) {
        0 => {}
        1 => lines.push("… 1 part as in the run before".to_owned()),
        count => lines.push(format!("… {count} parts as in the run before")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_paragraph_is_seen() {
        let content = "# Rules\n1\n2\n3\n4\n5\n\n\n# Data\n- a very long line indeed\n";
        let (lines, cut) = shorten(content, 12, &BTreeSet::new());
        assert_eq!(
            lines,
            [
                "# Rules",
                "1",
                "2",
                "3",
                "… 2 more lines",
                "",
                "# Data",
                "- a very lo…"
            ]
        );
        assert!(cut);
        let short = vec!["one".to_owned(), "two".to_owned()];
        assert_eq!(shorten("one\ntwo", 12, &BTreeSet::new()), (short, false));
    }

    #[test]
    fn what_stood_alike_before_is_counted() {
        let before = ["a", "b", "d"].map(str::to_owned).into();
        let (lines, cut) = shorten("a\n\nb\n\nc\n\nd", 12, &before);
        assert_eq!(
            lines,
            [
                "… 2 parts as in the run before",
                "",
                "c",
                "… 1 part as in the run before"
            ]
        );
        assert!(cut);
    }
}
