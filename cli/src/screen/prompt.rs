//! A prompt on the screen: its shape at a glance, or whole.
//!
//! A long prompt is shortened part by part: of each paragraph the first lines stand, and how many
//! follow, so that every section is seen and none pushes the others out.

use super::Show;
use crate::terminal::{Style, Terminal, clean, fit, wrap};
use headwater_engine::model::Message;

/// Lines that are shown of a paragraph.
const OF_PARAGRAPH: usize = 4;
/// Lines that are shown of a message.
const OF_MESSAGE: usize = 48;
/// Columns in front of a line: role and bar.
const MARGIN: usize = 14;

/// The messages, each line behind its role and a bar.
pub(super) fn lines(messages: &[Message], show: Show, terminal: &Terminal) -> String {
    let mut text = String::new();
    let bar = terminal.paint(Style::Accent, "│");
    let mut left_out = false;
    for message in messages {
        let content = clean(&message.content, true);
        let width = terminal.width.saturating_sub(MARGIN);
        let lines = match show {
            Show::Full => wrap(content.trim_end(), width),
            _ => {
                let (lines, cut) = shorten(content.trim_end(), width);
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

/// The first lines of each paragraph, each cut to the width; and whether anything was left out.
fn shorten(content: &str, width: usize) -> (Vec<String>, bool) {
    let mut lines = Vec::new();
    let mut cut = false;
    let mut paragraphs = content
        .split("\n\n")
        .map(str::trim_end)
        .filter(|paragraph| !paragraph.is_empty())
        .peekable();
    while let Some(paragraph) = paragraphs.next() {
        let all: Vec<&str> = paragraph.trim_start_matches('\n').lines().collect();
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
        if lines.len() >= OF_MESSAGE && paragraphs.peek().is_some() {
            lines.push("…".to_owned());
            return (lines, true);
        }
        if paragraphs.peek().is_some() {
            lines.push(String::new());
        }
    }
    (lines, cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_paragraph_is_seen() {
        let content = "# Rules\n1\n2\n3\n4\n5\n\n\n# Data\n- a very long line indeed\n";
        let (lines, cut) = shorten(content, 12);
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
        assert_eq!(
            shorten("one\ntwo", 12),
            (vec!["one".to_owned(), "two".to_owned()], false)
        );
    }
}
