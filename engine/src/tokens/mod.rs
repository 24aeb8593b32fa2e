//! How many tokens a text is, by the o200k vocabulary.
//!
//! Every budget counts by this one vocabulary, whatever the model: a prompt must not change because
//! a model is exchanged. Exact for models that use o200k, an estimate for others.
//!
//! Counting is on the path of every run, so lines that were counted before are looked up (`lines`), and
//! of the others most text never reaches the regular expressions of the reference tokenizer: pieces of
//! ASCII are cut by hand, and a piece that is itself a token counts one. A piece that touches anything else is cut by the reference tokenizer. Invariant: the count
//! equals the reference tokenizer's for every text (a property test holds it).

mod lines;

use bpe_openai::{Tokenizer, o200k_base};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

/// What a chat message costs beside its content: its two delimiters, its role, the line between.
pub const MESSAGE_OVERHEAD: usize = 4;
/// What a prompt costs beside its messages: the opening of the reply.
pub const REPLY_OVERHEAD: usize = 3;

/// The tokens of `text` alone.
pub fn count(text: &str) -> usize {
    lines::count(text)
}

fn count_pieces(text: &str) -> usize {
    let mut rest = text;
    let mut tokens = 0;
    while !rest.is_empty() {
        let end = next_piece(rest);
        tokens += count_piece(&rest.as_bytes()[..end]);
        rest = &rest[end..];
    }
    tokens
}

/// Loads the vocabulary, so that the first prompt does not wait for it.
pub fn prepare() {
    LazyLock::force(&VOCABULARY);
}

struct Vocabulary {
    tokenizer: &'static Tokenizer,
    /// Every token longer than one byte.
    whole: HashSet<&'static [u8], BuildHasherDefault<PieceHasher>>,
}

static VOCABULARY: LazyLock<Vocabulary> = LazyLock::new(|| {
    let tokenizer = o200k_base();
    let tokens = u32::try_from(tokenizer.bpe.num_tokens()).unwrap_or(u32::MAX);
    let whole = (0..tokens)
        .map(|token| tokenizer.bpe.token_bytes(token))
        .filter(|bytes| bytes.len() > 1)
        .collect();
    Vocabulary { tokenizer, whole }
});

fn count_piece(piece: &[u8]) -> usize {
    if piece.len() == 1 || VOCABULARY.whole.contains(piece) {
        return 1;
    }
    VOCABULARY.tokenizer.bpe.count(piece)
}

/// Where the first piece of a text ends; never 0 for a text that is not empty.
fn next_piece(text: &str) -> usize {
    ascii_piece(text.as_bytes())
        .or_else(|| {
            let piece = VOCABULARY.tokenizer.split(text).next()?;
            (!piece.is_empty()).then_some(piece.len())
        })
        .unwrap_or(text.len())
}

/// The alternatives of o200k's pattern, in their order, for text that is ASCII up to one byte past
/// the piece; `None` where a byte beyond ASCII could have a say.
fn ascii_piece(text: &[u8]) -> Option<usize> {
    let at = |index: usize| text.get(index).copied();
    let first = at(0)?;
    if !first.is_ascii() {
        return None;
    }
    // Letters, after at most one character that is neither letter, digit nor line break.
    let start = usize::from(!first.is_ascii_alphanumeric() && first != b'\r' && first != b'\n');
    match at(start) {
        Some(letter) if letter.is_ascii_alphabetic() => return word(text, start),
        Some(other) if !other.is_ascii() => return None,
        _ => {}
    }
    if first.is_ascii_digit() {
        let end = run(text, 0, 3, |byte| byte.is_ascii_digit());
        return (end == 3 || ascii_or_end(text, end)).then_some(end);
    }
    let symbols = usize::from(first == b' ');
    let end = run(text, symbols, usize::MAX, |byte| {
        byte.is_ascii() && !is_space(byte) && !byte.is_ascii_alphanumeric()
    });
    if end > symbols {
        if !ascii_or_end(text, end) {
            return None;
        }
        return Some(run(text, end, usize::MAX, |byte| {
            matches!(byte, b'\r' | b'\n' | b'/')
        }));
    }
    let end = run(text, 0, usize::MAX, is_space);
    if !ascii_or_end(text, end) {
        return None;
    }
    let line = text[..end]
        .iter()
        .rposition(|byte| matches!(byte, b'\r' | b'\n'));
    Some(match line {
        Some(line) => line + 1,
        // The last space before a word belongs to the word.
        None if end == text.len() || end == 1 => end,
        None => end - 1,
    })
}

/// The end of a word from `start`: capitals then small letters, and an English contraction.
fn word(text: &[u8], start: usize) -> Option<usize> {
    let capitals = run(text, start, usize::MAX, |byte| byte.is_ascii_uppercase());
    let end = run(text, capitals, usize::MAX, |byte| byte.is_ascii_lowercase());
    if !ascii_or_end(text, end) {
        return None;
    }
    if text.get(end) != Some(&b'\'') {
        return Some(end);
    }
    if !ascii_or_end(text, end + 1) {
        return None;
    }
    let tail: Vec<u8> = text[end + 1..]
        .iter()
        .take(2)
        .map(u8::to_ascii_lowercase)
        .collect();
    Some(match tail.as_slice() {
        [b's' | b't' | b'm' | b'd', ..] => end + 2,
        [b'r' | b'v', b'e'] | [b'l', b'l'] => end + 3,
        _ => end,
    })
}

fn run(text: &[u8], from: usize, limit: usize, holds: impl Fn(u8) -> bool) -> usize {
    from + text[from..]
        .iter()
        .take(limit)
        .take_while(|byte| holds(**byte))
        .count()
}

fn ascii_or_end(text: &[u8], index: usize) -> bool {
    text.get(index).is_none_or(u8::is_ascii)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | 0x0b | 0x0c | b'\r' | b' ')
}

/// Hashes a few bytes in a few steps. The vocabulary is fixed, so nobody can make it collide.
#[derive(Default)]
struct PieceHasher(u64);

impl PieceHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for PieceHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            let mut whole = [0; 8];
            whole.copy_from_slice(word);
            self.add(u64::from_le_bytes(whole));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.add(u64::from_le_bytes(last));
        }
    }

    fn write_usize(&mut self, length: usize) {
        self.add(length as u64);
    }

    fn finish(&self) -> u64 {
        // The table takes the upper bits for its tags and the lower for its place.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str) {
        let expected = o200k_base().count(text);
        assert_eq!(count_pieces(text), expected, "{text:?}");
        assert_eq!(count(text), expected, "{text:?}");
        // As it is remembered.
        assert_eq!(count(text), expected, "{text:?}");
    }

    #[test]
    fn known_counts() {
        assert_eq!(count(""), 0);
        assert_eq!(count("hello world"), 2);
        assert_eq!(count("tiktoken is great!"), 6);
    }

    #[test]
    fn counts_equal_the_reference_tokenizer() {
        for text in [
            "Hello World, HTTPServer's don't WE'LL I'd've x'",
            "a  b   c \n\n d\t\te \r\n  f   ",
            "   ",
            " \n ",
            "12345 1,234.56 2026-11-24T20:35:18.123Z",
            r#"{"gate":"A22","flight_id":"HW 117","at":"2026-11-23T10:00:00Z","seats":[12,13]}"#,
            "https://example.com/a/b//c\n/d\r\n",
            "caf\u{e9} na\u{ef}ve \u{4e2d}\u{6587} \u{1f600}\u{1f600} it'\u{17f} e\u{301}",
            "a\u{a0}b \u{2003}c\u{3000}\n",
            "\u{0}\u{1}\u{1c}x\u{7f}y",
            "'s 't '",
            "don'",
        ] {
            check(text);
        }
        check(&"abc DEF 12 {\"k\": [1, 2]}\n".repeat(2_000));
        check(&"a".repeat(20_000));
    }

    #[test]
    fn parts_end_where_no_piece_reaches_across() {
        for text in [
            "some words in a line\n",
            "some words in a line\n\n  and a line that is set in\n",
            "some words in a line!\n/and a slash that follows\n\r\n",
            "some words in a line \n \n \u{3000}and a wide space\n\u{a0}",
            "some words in a line\r\n- and a list's item\r\n\t",
        ] {
            check(text);
            check(&text.repeat(3));
        }
        let long = "words and words of a line that's long, 1 2 3 a b it's we'll ".repeat(20);
        check(&long);
        check(&long.replace(' ', "  "));
        check(&long.replace(' ', ""));
        check(&long.replace('a', "\u{e9}"));
    }

    #[test]
    fn more_lines_than_are_remembered() {
        let lines: String = (0..20_000)
            .map(|n| format!("line number {n}, some text\n"))
            .collect();
        check(&lines);
    }

    proptest! {
        #[test]
        fn lines_count_as_the_reference_does(
            text in "((word |it's |HW117, |1,234.5 |\u{e9}t\u{e9} |- |// ){1,60}(\n|\r\n|\n\n| \n |\n/|\n\u{3000}|!\n|\n\t)){1,6}"
        ) {
            check(&text);
        }

        #[test]
        fn any_text_counts_as_the_reference_does(text in "\\PC{0,80}") {
            check(&text);
        }

        #[test]
        fn ascii_with_little_else_counts_as_the_reference_does(
            text in "([ -~]|[ '\\n\\r\\t/]|[a-zA-Z]{1,6}|'(s|t|re|VE|ll|d)|\u{e9}|\u{a0}|\u{17f}|[0-9]){0,40}"
        ) {
            check(&text);
        }
    }
}
