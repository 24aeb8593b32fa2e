//! One pass over a JSON text: whether it is valid, and where its top-level fields are.
//!
//! It accepts exactly what [`super::decode`] accepts and builds nothing. Beside it says of what form the text is, so that a text
//! which needs no rewriting is kept as it came. Producers write the fields of one topic in one order: the scanner remembers the
//! names and separators of the last text and, where they stand again, compares them instead of reading them.
//!
//! Invariants: a text of form [`Form::Plain`] is what `serde_json` writes for its value, but for the order of fields; a field's
//! range holds one whole value.

use super::{BYTES_MAX, DEPTH_MAX};
use std::ops::Range;

/// Objects of more fields than this are not read by field.
const FIELDS_MAX: usize = 256;
/// Nested objects of more fields than this, out of order, count as [`Form::Other`]: names are compared in pairs.
const NAMES_MAX: usize = 32;

/// How a valid text differs from what `serde_json` would write, the order of fields apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    Plain,
    /// Blanks and line ends between tokens.
    Spaced,
    /// Escapes or numbers in another notation, or a field that stands twice.
    Other,
}

/// Byte ranges of one top-level field: its name without quotes, its value whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    name: (u32, u32),
    value: (u32, u32),
}

impl Field {
    pub(crate) fn name(self) -> Range<usize> {
        self.name.0 as usize..self.name.1 as usize
    }

    pub(crate) fn value(self) -> Range<usize> {
        self.value.0 as usize..self.value.1 as usize
    }
}

/// What was found of a valid text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scanned<'s> {
    pub(crate) form: Form,
    /// The fields in the order of the text, where it is an object that can be read by field.
    pub(crate) fields: Option<&'s [Field]>,
}

/// Scans texts one after the other; its memory is used again.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    fields: Vec<Field>,
    shape: Shape,
    names: Vec<(u32, u32)>,
}

/// What stood before each value of the last object: `{"a":`, `,"b":`.
#[derive(Debug, Default)]
struct Shape {
    bytes: Vec<u8>,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// End in `Shape::bytes`; it begins where the former ends.
    end: u32,
    /// The name's range, counted from the beginning of the step.
    name: (u32, u32),
    /// Form of this and all former steps together.
    form: Form,
    /// A bit for each name so far, to find candidates for one that stands twice.
    seen: u64,
}

impl Scanner {
    /// `None` where the bytes are not what [`super::decode`] accepts; ask it why.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Option<Scanned<'_>> {
        if bytes.len() > BYTES_MAX {
            return None;
        }
        self.fields.clear();
        let mut cursor = Cursor {
            bytes,
            at: 0,
            high: 0,
            form: Form::Plain,
            names: &mut self.names,
        };
        let mut by_field = false;
        if bytes.first() == Some(&b'{') || cursor.peek() == Some(b'{') {
            by_field = cursor.object_of_fields(&mut self.fields, &mut self.shape)?;
        } else {
            cursor.value(0)?;
        }
        if cursor.at != bytes.len() {
            cursor.blanks();
            if cursor.at != bytes.len() {
                return None;
            }
        }
        let (high, form) = (cursor.high, cursor.form);
        // Only strings may hold such bytes, so it is enough to look once.
        if high & HIGH != 0 && std::str::from_utf8(bytes).is_err() {
            return None;
        }
        Some(Scanned {
            form,
            fields: by_field.then_some(&*self.fields),
        })
    }
}

/// Ranges of the items of a compact JSON list, as the engine writes it; `None` where it is none.
pub(crate) fn items(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut names = Vec::new();
    let mut cursor = Cursor {
        bytes,
        at: 0,
        high: 0,
        form: Form::Plain,
        names: &mut names,
    };
    let mut items = Vec::new();
    cursor.expect(b'[')?;
    if bytes.get(1) == Some(&b']') {
        return (bytes.len() == 2).then_some(items);
    }
    loop {
        let start = cursor.at;
        cursor.value(1)?;
        items.push(start..cursor.at);
        match cursor.next()? {
            b',' => {}
            b']' => return (cursor.at == bytes.len()).then_some(items),
            _ => return None,
        }
    }
}

/// Appends a valid text without the blanks between its tokens.
pub(crate) fn compact(bytes: &[u8], out: &mut Vec<u8>) {
    let mut start = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                loop {
                    at = plain_until(bytes, at, &mut 0);
                    match bytes.get(at) {
                        Some(b'\\') => at += 2,
                        Some(b'"') | None => break,
                        Some(_) => at += 1,
                    }
                }
                at += 1;
            }
            b' ' | b'\n' | b'\t' | b'\r' => {
                out.extend_from_slice(&bytes[start..at]);
                at += 1;
                start = at;
            }
            _ => at += 1,
        }
    }
    out.extend_from_slice(bytes.get(start..).unwrap_or_default());
}

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Of eight bytes, the lowest high bit that is set belongs to the first quote, backslash or control character.
fn special(word: u64) -> u64 {
    let quote = word ^ (LOW * 0x22);
    let backslash = word ^ (LOW * 0x5c);
    // A borrow may mark bytes above a match, never below it.
    (quote.wrapping_sub(LOW) & !quote
        | backslash.wrapping_sub(LOW) & !backslash
        | word.wrapping_sub(LOW * 0x20) & !word)
        & HIGH
}

/// The place of the next quote, backslash or control character, or the end. `high` takes the bits of what is passed.
#[inline]
fn plain_until(bytes: &[u8], mut at: usize, high: &mut u64) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let found = special(word);
        if found == 0 {
            *high |= word;
            at += 8;
            continue;
        }
        let passed = found.trailing_zeros() & !7;
        *high |= word & ((1u64 << passed) - 1);
        return at + (passed / 8) as usize;
    }
    while let Some(byte) = bytes.get(at) {
        if matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            break;
        }
        *high |= u64::from(*byte);
        at += 1;
    }
    at
}

struct Cursor<'b, 'n> {
    bytes: &'b [u8],
    at: usize,
    /// Bits of all bytes that stand in strings.
    high: u64,
    form: Form,
    /// Names of the nested objects that are open.
    names: &'n mut Vec<(u32, u32)>,
}

impl Cursor<'_, '_> {
    #[inline]
    fn next(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn blanks(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
            self.form = self.form.max(Form::Spaced);
        }
    }

    /// The next byte that is no blank, left where it is.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        if *self.bytes.get(self.at)? <= b' ' {
            self.blanks();
        }
        self.bytes.get(self.at).copied()
    }

    /// The outermost object. Gives whether it can be read by field.
    fn object_of_fields(&mut self, fields: &mut Vec<Field>, shape: &mut Shape) -> Option<bool> {
        let mut begin = 0;
        // As long as the text goes as the last one did.
        for step in &shape.steps {
            let expected = &shape.bytes[begin..step.end as usize];
            let Some(rest) = self.bytes.get(self.at..) else {
                break;
            };
            // Blanks before the object were passed, and are no part of a step.
            if !starts_with(rest, expected) {
                break;
            }
            let name = (self.at as u32 + step.name.0, self.at as u32 + step.name.1);
            self.at += expected.len();
            self.peek()?;
            let start = self.at;
            self.value(1)?;
            fields.push(Field {
                name,
                value: (start as u32, self.at as u32),
            });
            begin = step.end as usize;
        }
        let known = fields.len();
        if let Some(step) = known.checked_sub(1).and_then(|last| shape.steps.get(last)) {
            self.form = self.form.max(step.form);
        }
        if self.bytes.get(self.at) == Some(&b'}') && known > 0 {
            self.at += 1;
            return Some(true);
        }
        shape.steps.truncate(known);
        shape.bytes.truncate(begin);
        self.learn(fields, shape)
    }

    /// Reads what is left of the outermost object and remembers how it goes.
    fn learn(&mut self, fields: &mut Vec<Field>, shape: &mut Shape) -> Option<bool> {
        let mut by_field = true;
        loop {
            let begin = self.at;
            let before = std::mem::replace(&mut self.form, Form::Plain);
            if fields.is_empty() && by_field {
                self.expect(b'{')?;
                if self.peek()? == b'}' {
                    self.at += 1;
                    self.form = self.form.max(before);
                    return Some(true);
                }
            } else {
                match self.peek()? {
                    b'}' => {
                        self.at += 1;
                        self.form = self.form.max(before);
                        return Some(by_field);
                    }
                    b',' => self.at += 1,
                    _ => return None,
                }
                self.peek()?;
            }
            self.expect(b'"')?;
            let start = self.at;
            let escaped = self.string()?;
            let name = (start as u32, self.at as u32 - 1);
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            self.peek()?;
            if by_field && (escaped || fields.len() == FIELDS_MAX) {
                by_field = false;
                self.form = Form::Other;
            }
            if by_field {
                self.form = self
                    .form
                    .max(shape.push(self.bytes, begin..self.at, name, self.form));
            }
            self.form = self.form.max(before);
            let start = self.at;
            self.value(1)?;
            if by_field {
                fields.push(Field {
                    name,
                    value: (start as u32, self.at as u32),
                });
            }
        }
    }

    /// A value inside `depth` lists and objects.
    #[inline]
    fn value(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'"' => {
                self.at += 1;
                self.string().map(|_| ())
            }
            b'-' | b'0'..=b'9' => self.number(),
            b'{' if depth < DEPTH_MAX => self.object(depth + 1),
            b'[' if depth < DEPTH_MAX => self.list(depth + 1),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => None,
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        if self.bytes.get(self.at..)?.starts_with(word) {
            self.at += word.len();
            return Some(());
        }
        None
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.value(depth)?;
            let next = self.peek()?;
            self.at += 1;
            match next {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        let first = self.names.len();
        let mut ascending = true;
        loop {
            if self.peek()? != b'"' {
                return None;
            }
            self.at += 1;
            let start = self.at;
            if self.string()? {
                self.form = Form::Other;
            }
            let name = (start as u32, self.at as u32 - 1);
            if let Some(former) = self.names.get(first..).and_then(<[_]>::last) {
                ascending &= slice(self.bytes, *former) < slice(self.bytes, name);
            }
            self.names.push(name);
            if self.peek()? != b':' {
                return None;
            }
            self.at += 1;
            self.value(depth)?;
            let next = self.peek()?;
            self.at += 1;
            match next {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        if !ascending && self.form != Form::Other {
            let names = &self.names[first..];
            let twice = names.len() > NAMES_MAX
                || names.iter().enumerate().any(|(place, name)| {
                    names[..place]
                        .iter()
                        .any(|former| slice(self.bytes, *former) == slice(self.bytes, *name))
                });
            if twice {
                self.form = Form::Other;
            }
        }
        self.names.truncate(first);
        Some(())
    }

    /// Passes a string whose opening quote was passed. Gives whether it holds an escape.
    #[inline]
    fn string(&mut self) -> Option<bool> {
        let mut escaped = false;
        loop {
            self.at = plain_until(self.bytes, self.at, &mut self.high);
            match self.next()? {
                b'"' => return Some(escaped),
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return None,
            }
        }
    }

    #[cold]
    fn escape(&mut self) -> Option<()> {
        match self.next()? {
            b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'/' => {
                self.form = Form::Other;
                Some(())
            }
            b'u' => {
                self.form = Form::Other;
                match self.hex()? {
                    0xdc00..=0xdfff => None,
                    0xd800..=0xdbff => {
                        self.expect(b'\\')?;
                        self.expect(b'u')?;
                        matches!(self.hex()?, 0xdc00..=0xdfff).then_some(())
                    }
                    _ => Some(()),
                }
            }
            _ => None,
        }
    }

    fn hex(&mut self) -> Option<u32> {
        let mut number = 0;
        for _ in 0..4 {
            number = number * 16 + char::from(self.next()?).to_digit(16)?;
        }
        Some(number)
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.bytes.get(self.at), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Option<()> {
        let start = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let negative = self.at > start;
        let zero = self.bytes.get(self.at) == Some(&b'0');
        let whole = if zero {
            self.at += 1;
            1
        } else {
            self.digits()
        };
        if whole == 0 {
            return None;
        }
        match self.bytes.get(self.at) {
            Some(b'.') => {}
            Some(b'e' | b'E') => return self.unusual(start),
            // Eighteen digits fit an i64; the negative zero is a double.
            _ if whole <= 18 && !(negative && zero) => return Some(()),
            _ => return self.unusual(start),
        }
        self.at += 1;
        let point = self.at;
        let fraction = self.digits();
        if fraction == 0 {
            return None;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            return self.unusual(start);
        }
        let last = self.bytes.get(self.at - 1);
        // Fifteen digits are told apart by every double, so they are also the shortest that name theirs. Very small ones are
        // written with an exponent.
        let usual = whole + fraction <= 15
            && (last != Some(&b'0') || fraction == 1)
            && (!zero
                || slice(self.bytes, (point as u32, self.at as u32))
                    .iter()
                    .take(3)
                    .any(|digit| *digit != b'0')
                || fraction == 1);
        if usual { Some(()) } else { self.unusual(start) }
    }

    /// A number whose range or notation only `serde_json` can judge.
    #[cold]
    fn unusual(&mut self, start: usize) -> Option<()> {
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return None;
            }
        }
        let token = self.bytes.get(start..self.at)?;
        let number: serde_json::Number = serde_json::from_slice(token).ok()?;
        if number.to_string().as_bytes() != token {
            self.form = Form::Other;
        }
        Some(())
    }
}

impl Shape {
    /// Remembers a step. Gives its form, which is [`Form::Other`] where its name stood before.
    fn push(&mut self, text: &[u8], range: Range<usize>, name: (u32, u32), form: Form) -> Form {
        let found = slice(text, name);
        let mut seen = 0;
        let mut form = form;
        let mut begin = 0;
        let ends = [found.first(), found.last()].map(|byte| usize::from(*byte.unwrap_or(&0)));
        let bit = 1u64 << ((found.len() * 7 + ends[0] + ends[1] * 3) % 64);
        if let Some(last) = self.steps.last() {
            seen = last.seen;
            form = form.max(last.form);
        }
        if seen & bit != 0 {
            for step in &self.steps {
                let former = (begin + step.name.0, begin + step.name.1);
                if slice(&self.bytes, former) == found {
                    form = Form::Other;
                }
                begin = step.end;
            }
        }
        let start = range.start as u32;
        self.bytes.extend_from_slice(&text[range]);
        self.steps.push(Step {
            end: self.bytes.len() as u32,
            name: (name.0 - start, name.1 - start),
            form,
            seen: seen | bit,
        });
        form
    }
}

/// As `text.starts_with(expected)`, but without a call for what is as short as a name and its separators.
#[inline]
fn starts_with(text: &[u8], expected: &[u8]) -> bool {
    let length = expected.len();
    if text.len() < length {
        return false;
    }
    let word = |bytes: &[u8], at: usize| {
        bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<8>())
            .map(|chunk| u64::from_le_bytes(*chunk))
    };
    if length < 8 {
        return text.starts_with(expected);
    }
    let mut at = 0;
    while at + 8 < length {
        if word(text, at) != word(expected, at) {
            return false;
        }
        at += 8;
    }
    // The last word may begin before the one before it ended.
    word(text, length - 8) == word(expected, length - 8)
}

#[inline]
fn slice(bytes: &[u8], range: (u32, u32)) -> &[u8] {
    bytes
        .get(range.0 as usize..range.1 as usize)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
