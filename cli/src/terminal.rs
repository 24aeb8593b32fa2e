//! What the screen can show: its width, whether it has colours, and data made safe for it.
//!
//! Everything that came from outside (events, answers, names) passes through [`clean`] before it is
//! printed: an event must not move the cursor, change the title or hide what stands above it.

use std::borrow::Cow;
use std::io::{IsTerminal, Write as _};

/// Width where there is no terminal: what fits into most documents.
const DEFAULT_WIDTH: usize = 100;
/// Wider lines are hard to read.
const WIDEST: usize = 140;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    pub(crate) colour: bool,
    /// In characters.
    pub(crate) width: usize,
}

/// Prints to standard output. A reader that went away (`| head`) is no error and no reason to stop.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// How a piece of text is set off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Heading,
    Faint,
    Good,
    Bad,
    Accent,
}

impl Terminal {
    /// Standard output as it is. `NO_COLOR` is honoured (no-color.org).
    pub(crate) fn stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let width = rustix::termios::tcgetwinsize(std::io::stdout())
            .ok()
            .map(|size| usize::from(size.ws_col))
            .filter(|width| *width >= 40);
        Self {
            colour: terminal && !plain,
            width: width.unwrap_or(DEFAULT_WIDTH).min(WIDEST),
        }
    }

    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match style {
            Style::Heading => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Bad => "31",
            Style::Accent => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// The text without control characters: line breaks and tabs stay if `lines`, else they become spaces.
/// Also takes out the invisible characters that turn the direction of writing around.
pub(crate) fn clean(text: &str, lines: bool) -> Cow<'_, str> {
    let harmless = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\n' if lines => out.push('\n'),
            '\t' if lines => out.push_str("    "),
            '\n' | '\t' | '\r' if !lines => out.push(' '),
            // A control sequence goes as a whole, so that its parameters do not stay as text.
            '\u{1b}' if rest.peek() == Some(&'[') => {
                rest.next();
                for c in rest.by_ref() {
                    if ('\u{40}'..='\u{7e}').contains(&c) {
                        break;
                    }
                }
            }
            '\u{1b}' if rest.peek() == Some(&']') => {
                while let Some(c) = rest.next() {
                    if c == '\u{7}' || (c == '\u{1b}' && rest.next_if_eq(&'\\').is_some()) {
                        break;
                    }
                }
            }
            c if harmless(c) => out.push(c),
            _ => {}
        }
    }
    Cow::Owned(out)
}

/// At most `width` characters, the last of them `…` if something was left out.
pub(crate) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// The text in lines of at most `width` characters, broken between words where possible.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        let mut length = 0;
        for word in paragraph.split(' ') {
            let mut word: Vec<char> = word.chars().collect();
            if length > 0 && length + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
                length = 0;
            } else if length > 0 {
                line.push(' ');
                length += 1;
            }
            while word.len() > width {
                lines.push(word.drain(..width).collect());
            }
            length += word.len();
            line.extend(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_in_data_do_not_reach_the_terminal() {
        assert_eq!(clean("\x1b[2Jhello\x1b]0;title\x07!", true), "hello!");
        assert_eq!(
            clean("a\x1b]8;;http://x\x1b\\b\x08\x7f\u{9b}31m", true),
            "ab31m"
        );
        assert_eq!(clean("one\ntwo\tthree\r", false), "one two three ");
        assert_eq!(clean("one\ntwo\r\n", true), "one\ntwo\n");
        assert_eq!(clean("\u{202e}evil", true), "evil");
        assert!(matches!(clean("Chloé · 東京", true), Cow::Borrowed(_)));
    }

    #[test]
    fn wraps_between_words_and_breaks_long_ones() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("a\n\nb", 10), ["a", "", "b"]);
    }

    #[test]
    fn fits() {
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("abcd", 4), "abcd");
    }
}
