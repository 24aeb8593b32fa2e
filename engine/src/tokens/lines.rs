//! Lines whose tokens were counted before: prompts are made of the same ones again and again.
//!
//! A text is cut where no piece of the reference tokenizer can reach across, whatever comes before and after; so its tokens
//! are the sum of those of the parts. Of each part the count is remembered, in a table of the thread's own that has a few places
//! for a part and forgets what stood in one of them. Invariant: a count is only taken for the same bytes.

use super::{PieceHasher, count_pieces};
use std::cell::RefCell;
use std::hash::Hasher;

/// Places of the table; with [`PART_MAX`] bytes each it takes 2 MiB of a thread at most.
const PLACES: usize = 8_192;
/// Places in which a part may stand: lines that are in every prompt do not drive each other out.
const CHOICES: usize = 4;
/// Shorter parts are counted as fast as they are looked up, bytes.
const PART_MIN: usize = 12;
/// Where a line is longer, it is cut at the next word, bytes.
const PART_LONG: usize = 128;
/// Longer parts are not remembered, bytes.
const PART_MAX: usize = 256;

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

#[derive(Default)]
struct Table {
    places: Vec<Option<Counted>>,
    /// Which of its places the next new part takes.
    choice: usize,
}

struct Counted {
    part: Box<[u8]>,
    tokens: usize,
}

/// The tokens of a text, by its parts.
pub(super) fn count(text: &str) -> usize {
    let counted = TABLE.try_with(|table| {
        let mut table = table.try_borrow_mut().ok()?;
        let mut tokens = 0;
        let mut rest = text;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(first_part(rest));
            tokens += table.count(part);
            rest = after;
        }
        Some(tokens)
    });
    // A thread that ends has no table any more.
    counted.ok().flatten().unwrap_or_else(|| count_pieces(text))
}

impl Table {
    fn count(&mut self, part: &str) -> usize {
        if part.len() < PART_MIN || part.len() > PART_MAX {
            return count_pieces(part);
        }
        let bytes = part.as_bytes();
        let mut hasher = PieceHasher::default();
        hasher.write(bytes);
        #[allow(
            clippy::cast_possible_truncation,
            reason = "the low half is as good as the whole"
        )]
        let first = hasher.finish() as usize % (PLACES / CHOICES) * CHOICES;
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || None);
        }
        let Some(choices) = self.places.get_mut(first..first + CHOICES) else {
            return count_pieces(part);
        };
        let mut held = choices.iter().flatten();
        if let Some(held) = held.find(|held| *held.part == *bytes) {
            return held.tokens;
        }
        let tokens = count_pieces(part);
        self.choice = (self.choice + 1) % CHOICES;
        if let Some(place) = choices.get_mut(self.choice) {
            *place = Some(Counted {
                part: bytes.into(),
                tokens,
            });
        }
        tokens
    }
}

/// Where the first part of a text ends: behind a line break, or, of a long line, before a word.
fn first_part(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut from = 0;
    let line = loop {
        let Some(found) = text[from..].find('\n') else {
            break text.len();
        };
        from += found + 1;
        // Further white space, and slashes, may belong to the piece that the line break is of.
        match bytes.get(from) {
            Some(next) if next.is_ascii_graphic() && *next != b'/' => break from,
            None => break from,
            Some(_) => {}
        }
    };
    if line <= PART_MAX {
        return line;
    }
    // Between two words of letters, with one space, each piece has its word.
    let long = bytes.get(PART_LONG..line).unwrap_or_default();
    long.windows(3)
        .position(|around| {
            let [before, space, after] = around else {
                return false;
            };
            before.is_ascii_alphabetic() && *space == b' ' && after.is_ascii_alphabetic()
        })
        .map_or(line, |place| PART_LONG + place + 1)
}
