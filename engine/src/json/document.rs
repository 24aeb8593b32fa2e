//! A JSON value that is read where it stands: one record's value, or what an expression made of it.
//!
//! Reading a field borrows its text; lists and objects are parsed when they are asked for, and once. What is kept of a value are
//! bytes without blanks, numbers and escapes as `serde_json` writes them, fields in the order of their producer: equal values are
//! those that differ in the order of fields at most, which [`Document::equals_kept`] tells.

use super::decode;
use super::scan::{Field, Form, Scanned, Scanner, compact};
use crate::expr::{Variable, Variables};
use crate::fault::Fault;
use serde_json::Value;
use std::ops::Range;
use std::sync::OnceLock;

/// A valid JSON value, borrowed or built.
#[derive(Debug)]
pub struct Document<'a> {
    bytes: &'a [u8],
    form: Form,
    /// Where it is an object that is read by field.
    fields: Option<&'a [Field]>,
    /// All of it; set from the beginning where there are no bytes.
    whole: OnceLock<Value>,
    /// Values of fields that cannot be borrowed.
    parts: OnceLock<Box<[OnceLock<Value>]>>,
}

impl<'a> Document<'a> {
    /// Reads bytes from outside, by the rules of [`decode`].
    ///
    /// # Errors
    /// Those of [`decode`].
    pub(crate) fn read(bytes: &'a [u8], scanner: &'a mut Scanner) -> Result<Self, Fault> {
        match scanner.scan(bytes) {
            Some(Scanned { form, fields }) => Ok(Self {
                bytes,
                form,
                fields,
                whole: OnceLock::new(),
                parts: OnceLock::new(),
            }),
            // The decoder says what is wrong.
            None => decode(bytes).map(Self::built),
        }
    }

    /// A value that an expression made.
    pub fn built(value: Value) -> Self {
        Self {
            bytes: &[],
            form: Form::Other,
            fields: None,
            whole: OnceLock::from(value),
            parts: OnceLock::new(),
        }
    }

    /// All of it, parsed when it is first asked for.
    pub fn value(&self) -> &Value {
        self.whole.get_or_init(|| parse(self.bytes))
    }

    /// As a variable whose fields are read where they stand. Expressions that use it as a whole need [`Document::value`].
    pub fn variable(&self) -> Variable<'_> {
        if self.fields.is_some() {
            Variable::Object(self)
        } else {
            Variable::Json(self.value())
        }
    }

    pub fn is_object(&self) -> bool {
        self.fields.is_some() || self.value().is_object()
    }

    /// The bytes that are kept of it: its own where they can be, else written to `room`.
    pub(crate) fn kept<'r>(&'r self, room: &'r mut Vec<u8>) -> &'r [u8] {
        match self.form {
            Form::Plain => return self.bytes,
            Form::Spaced => {
                room.clear();
                compact(self.bytes, room);
            }
            Form::Other => {
                room.clear();
                // A value has a JSON form, and writing into memory does not fail.
                let _ = serde_json::to_writer(&mut *room, self.value());
            }
        }
        room
    }

    /// Whether a kept value equals this one, whose kept bytes are `new`: the order of fields apart.
    pub(crate) fn equals_kept(&self, new: &[u8], kept: &[u8]) -> bool {
        // Whatever the order, the length is the same.
        if new.len() != kept.len() {
            return false;
        }
        let Some(place) = first_difference(new, kept) else {
            return true;
        };
        if self.form == Form::Plain
            && let Some(fields) = self.fields
            && differs_in_scalar(new, fields, place)
        {
            return false;
        }
        *self.value() == parse(kept)
    }

    fn field(&self, name: &str) -> Option<Variable<'_>> {
        let fields = self.fields?;
        // Of one that stands twice the last counts.
        let place = fields.iter().rposition(|field| {
            let range = field.name();
            range.len() == name.len() && self.bytes.get(range) == Some(name.as_bytes())
        })?;
        let range = fields.get(place)?.value();
        let text = self.bytes.get(range.clone())?;
        Some(match text {
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => match std::str::from_utf8(inner)
            {
                Ok(text) => Variable::Text(text),
                Err(_) => Variable::Null,
            },
            b"true" => Variable::Bool(true),
            b"false" => Variable::Bool(false),
            b"null" => Variable::Null,
            text => match small_int(text) {
                Some(int) => Variable::Int(int),
                None => Variable::Json(self.part(place, range)),
            },
        })
    }

    fn part(&self, place: usize, range: Range<usize>) -> &Value {
        static NULL: Value = Value::Null;
        let parse = || self.bytes.get(range).map(parse).unwrap_or_default();
        let count = self.fields.map_or(0, <[_]>::len);
        let parts = self
            .parts
            .get_or_init(|| (0..count).map(|_| OnceLock::new()).collect());
        parts
            .get(place)
            .map_or(&NULL, |part| part.get_or_init(parse))
    }
}

impl Variables for Document<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        self.field(name)
    }
}

/// Bytes that were checked before: read by the scanner, or written by the engine.
pub(crate) fn parse(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

/// An int as most are: at most 18 digits, no fraction, no exponent.
fn small_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    // The negative zero is a double.
    if digits.is_empty() || digits.len() > 18 || (negative && digits == b"0") {
        return None;
    }
    let mut number = 0i64;
    for digit in digits {
        number = number * 10 + i64::from(char::from(*digit).to_digit(10)?);
    }
    Some(if negative { -number } else { number })
}

/// The first place where two texts of one length differ.
fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    let (left_words, left_rest) = left.as_chunks::<8>();
    let (right_words, right_rest) = right.as_chunks::<8>();
    for (place, (left, right)) in left_words.iter().zip(right_words).enumerate() {
        let difference = u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
        if difference != 0 {
            return Some(place * 8 + (difference.trailing_zeros() / 8) as usize);
        }
    }
    let place = left_rest
        .iter()
        .zip(right_rest)
        .position(|(left, right)| left != right)?;
    Some(left_words.len() * 8 + place)
}

/// Whether the first difference lies in, or right behind, a field's value that is no list and no object. Up to there the texts have
/// the same fields, so this one has another value.
fn differs_in_scalar(new: &[u8], fields: &[Field], place: usize) -> bool {
    let next = fields.partition_point(|field| field.value().start <= place);
    next.checked_sub(1)
        .and_then(|last| fields.get(last))
        .is_some_and(|field| {
            place <= field.value().end && !matches!(new.get(field.value().start), Some(b'{' | b'['))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn reads(text: &str, check: impl FnOnce(&Document<'_>)) {
        let mut scanner = Scanner::default();
        check(&Document::read(text.as_bytes(), &mut scanner).unwrap());
    }

    #[test]
    fn fields_are_what_the_parsed_value_has() {
        let text = r#"{"text":"a","escaped":"\n","int":-12,"long":12345678901234567890,"zero":-0,"double":1.50,
            "yes":true,"no":false,"null":null,"list":[1],"object":{"a":1},"twice":1,"twice":2}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        reads(text, |document| {
            for (name, value) in value.as_object().unwrap() {
                let found = match document.get(name).unwrap() {
                    Variable::Json(value) => value.clone(),
                    Variable::Text(text) => Value::from(text),
                    Variable::Int(int) => Value::from(int),
                    Variable::Bool(bool) => Value::from(bool),
                    Variable::Null => Value::Null,
                    _ => panic!("{name}"),
                };
                assert_eq!(&found, value, "{name}");
            }
            assert!(document.get("absent").is_none());
            assert_eq!(document.value(), &value);
        });
    }

    #[test]
    fn what_is_no_object_is_whole() {
        for text in ["17", "\"text\"", "[1,2]", "null"] {
            reads(text, |document| {
                assert!(matches!(document.variable(), Variable::Json(_)));
                assert!(!document.is_object());
                assert_eq!(document.kept(&mut Vec::new()), text.as_bytes());
            });
        }
        reads("{}", |document| assert!(document.is_object()));
        let mut scanner = Scanner::default();
        assert_eq!(
            Document::read(b"{", &mut scanner).unwrap_err(),
            decode(b"{").unwrap_err()
        );
    }

    #[test]
    fn kept_bytes_have_no_blanks_and_usual_numbers() {
        for (text, kept) in [
            (r#"{"b":1,"a":"x"}"#, r#"{"b":1,"a":"x"}"#),
            (r#"{ "b": 1, "a": "x y" }"#, r#"{"b":1,"a":"x y"}"#),
            (r#"{"b":1.50,"a":"\u0041"}"#, r#"{"a":"A","b":1.5}"#),
            (r#"{"b":1,"b":2}"#, r#"{"b":2}"#),
        ] {
            reads(text, |document| {
                assert_eq!(document.kept(&mut Vec::new()), kept.as_bytes());
            });
        }
        let built = Document::built(json!({"b": 1, "a": [2]}));
        assert_eq!(built.kept(&mut Vec::new()), br#"{"a":[2],"b":1}"#);
    }

    proptest! {
        /// Against comparing values: small ones in any order, so that equal ones, permuted ones and near misses are many.
        #[test]
        fn equality_is_that_of_values(
            left in prop::collection::vec(("[ab]{1,2}", "(1|12|\"a\"|\"b,\"|\\[1\\]|\\{\"a\":1,\"b\":2\\}|\\{\"b\":2,\"a\":1\\}|true)"), 0..4),
            right in prop::collection::vec(("[ab]{1,2}", "(1|12|\"a\"|\"b,\"|\\[1\\]|\\{\"a\":1,\"b\":2\\}|\\{\"b\":2,\"a\":1\\}|true)"), 0..4),
            permuted in any::<bool>(),
        ) {
            let text = |fields: &[(String, String)]| {
                let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            };
            let right = if permuted {
                // What comes first stays, so that the difference lies behind a value that is the same.
                let mut fields = left.clone();
                fields.get_mut(1..).unwrap_or_default().reverse();
                fields
            } else {
                right
            };
            let (left, right) = (text(&left), text(&right));
            let (mut one, mut other) = (Scanner::default(), Scanner::default());
            let left = Document::read(left.as_bytes(), &mut one).unwrap();
            let right = Document::read(right.as_bytes(), &mut other).unwrap();
            let (mut left_room, mut right_room) = (Vec::new(), Vec::new());
            let equal = left.equals_kept(left.kept(&mut left_room), right.kept(&mut right_room));
            prop_assert_eq!(equal, left.value() == right.value());
        }
    }
}
