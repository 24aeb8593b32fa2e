//! Keys: text, from a string, an integer, a bool, or a list of these (semantics 1 and 2).
//!
//! 7 and "7" are one key. A list is a composite key, written as the compact JSON list of its texts, so
//! that no two composite keys meet: `["a","b,c"]` is not `["a,b","c"]`.

use crate::fault::{Fault, Reason};
use crate::names;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// The longest key, in bytes.
const BYTES_MAX: usize = 16 * 1_024;

/// A key that is not empty and not reserved. Cheap to clone; ordered by its bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

impl Key {
    /// The key of a value; null and "" are no key.
    ///
    /// # Errors
    /// `InvalidKey` for a fraction, an object, a list with anything but strings, integers and bools,
    /// and for more than 16 KiB; `ReservedKey` where it begins with the byte 0.
    pub fn from_json(value: &Value) -> Result<Option<Self>, Fault> {
        match value {
            Value::Null => Ok(None),
            Value::String(text) => Self::from_text(text),
            Value::Array(parts) => {
                if parts.is_empty() {
                    return Err(Fault::new(Reason::InvalidKey, "a key is an empty list"));
                }
                let texts = parts
                    .iter()
                    .map(|part| match part {
                        Value::String(text) => Ok(text.clone()),
                        other => scalar(other).ok_or_else(|| {
                            Fault::new(
                                Reason::InvalidKey,
                                format!(
                                    "a part of a composite key is {}; parts are strings, integers or bools",
                                    type_of(other)
                                ),
                            )
                        }),
                    })
                    .collect::<Result<Vec<_>, _>>()?;
                Self::from_text(&Value::from(texts).to_string())
            }
            other => match scalar(other) {
                Some(text) => Self::from_text(&text),
                None => Err(Fault::new(
                    Reason::InvalidKey,
                    format!(
                        "a key is {}; keys are strings, integers, bools or lists of these",
                        type_of(other)
                    ),
                )),
            },
        }
    }

    /// The key of a text; "" is no key.
    ///
    /// # Errors
    /// `ReservedKey` where it begins with the byte 0, `InvalidKey` over 16 KiB.
    pub fn from_text(text: &str) -> Result<Option<Self>, Fault> {
        Ok(Self::check(text)?.then(|| Self(text.into())))
    }

    /// Whether a text is a key: "" is none.
    fn check(text: &str) -> Result<bool, Fault> {
        if text.is_empty() {
            return Ok(false);
        }
        if text.as_bytes()[0] == names::RESERVED {
            return Err(Fault::new(
                Reason::ReservedKey,
                "a key begins with the byte 0, which is reserved",
            ));
        }
        if text.len() > BYTES_MAX {
            return Err(Fault::new(
                Reason::InvalidKey,
                format!("a key has {} bytes, the limit is {BYTES_MAX}", text.len()),
            ));
        }
        Ok(true)
    }

    /// The key of a record's bytes, as they stand.
    ///
    /// # Errors
    /// `InvalidKey` where they are not UTF-8, else as [`Key::from_text`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        Ok(Text::from_bytes(bytes)?.map(|text| text.to_key()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A key that is perhaps still where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    Lent(&'a str),
    Own(Key),
}

impl<'a> Text<'a> {
    /// The key of a text; "" is no key.
    ///
    /// # Errors
    /// As [`Key::from_text`].
    pub fn from_text(text: &'a str) -> Result<Option<Self>, Fault> {
        Ok(Key::check(text)?.then_some(Self::Lent(text)))
    }

    /// The key of a record's bytes, as they stand.
    ///
    /// # Errors
    /// As [`Key::from_bytes`].
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Option<Self>, Fault> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::from_text(text),
            Err(error) => Err(Fault::new(
                Reason::InvalidKey,
                format!("the key is not UTF-8 at byte {}", error.valid_up_to()),
            )),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Lent(text) => text,
            Self::Own(key) => key.as_str(),
        }
    }

    pub fn to_key(&self) -> Key {
        match self {
            Self::Lent(text) => Key((*text).into()),
            Self::Own(key) => key.clone(),
        }
    }
}

impl From<Key> for Text<'_> {
    fn from(key: Key) -> Self {
        Self::Own(key)
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(bool) => Some(bool.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

/// The type of a JSON value, with its article, for messages.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(number) if number.is_f64() => "a double",
        Value::Number(_) => "an int",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The partition that Kafka's Java clients choose for a key: murmur2, so that topics written by
/// Headwater and by others are partitioned alike. `partitions` below 1 gives 0.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    if partitions < 1 {
        return 0;
    }
    // The Java client clears the sign bit ("toPositive") before the remainder.
    (murmur2(key) & 0x7fff_ffff).cast_signed() % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java's lengths are 32 bits wide, and so is a Kafka key's.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(value: &Value) -> Option<String> {
        Key::from_json(value).unwrap().map(|key| key.to_string())
    }

    #[test]
    fn semantics_1_keys_are_text() {
        assert_eq!(key(&json!(7)), Some("7".into()));
        assert_eq!(key(&json!(7)), key(&json!("7")));
        assert_eq!(key(&json!(true)), Some("true".into()));
        assert_eq!(key(&json!(u64::MAX)), Some(u64::MAX.to_string()));
        assert_eq!(
            key(&json!(["a", 1, false])),
            Some(r#"["a","1","false"]"#.into())
        );
        assert_ne!(key(&json!(["a", "b,c"])), key(&json!(["a,b", "c"])));
        for bad in [
            json!(7.0),
            json!({}),
            json!([]),
            json!([null]),
            json!([1.5]),
            json!([["a"]]),
        ] {
            assert_eq!(
                Key::from_json(&bad).unwrap_err().reason,
                Reason::InvalidKey,
                "{bad}"
            );
        }
        assert_eq!(
            Key::from_json(&json!("\u{0}m")).unwrap_err().reason,
            Reason::ReservedKey
        );
        assert_eq!(
            Key::from_bytes(&[0xff]).unwrap_err().reason,
            Reason::InvalidKey
        );
    }

    #[test]
    fn semantics_2_null_and_empty_are_no_key() {
        assert_eq!(key(&json!(null)), None);
        assert_eq!(key(&json!("")), None);
    }

    /// Vectors of Kafka's own UtilsTest.testMurmur2.
    #[test]
    fn murmur2_is_that_of_the_java_client() {
        for (text, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
        assert!((0..50).all(|n| (0..3).contains(&partition_of(format!("k{n}").as_bytes(), 3))));
    }
}
