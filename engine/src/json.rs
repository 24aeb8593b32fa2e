//! JSON from outside: strict, bounded, and the same for every reader.
//!
//! UTF-8, one value to the end of the bytes, at most 64 levels deep, at most 1 MiB. Of duplicate keys
//! the last counts. Objects are sorted by key, so that equal values have equal bytes.

mod document;
pub(crate) mod scan;

pub use document::Document;
pub(crate) use document::parse;

use crate::fault::{Fault, Reason};
use serde_json::Value;

/// The largest value, in bytes.
pub const BYTES_MAX: usize = 1_048_576;
/// How deep lists and objects may be nested.
pub const DEPTH_MAX: usize = 64;

/// # Errors
/// `TooLarge`, `NotUtf8`, `NotJson` with line and column, `TooDeep`.
pub fn decode(bytes: &[u8]) -> Result<Value, Fault> {
    let text = decode_text(bytes)?;
    let value: Value = serde_json::from_str(text).map_err(|error| {
        // The parser has a limit of its own, higher than ours.
        if error.to_string().starts_with("recursion limit") {
            return too_deep();
        }
        Fault::new(Reason::NotJson, error.to_string())
    })?;
    if deeper_than(&value, DEPTH_MAX) {
        return Err(too_deep());
    }
    Ok(value)
}

/// # Errors
/// `TooLarge`, `NotUtf8`.
pub fn decode_text(bytes: &[u8]) -> Result<&str, Fault> {
    if bytes.len() > BYTES_MAX {
        return Err(Fault::new(
            Reason::TooLarge,
            format!(
                "the value has {} bytes, the limit is {BYTES_MAX}",
                bytes.len()
            ),
        ));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        Fault::new(
            Reason::NotUtf8,
            format!("the value is not UTF-8 at byte {}", error.valid_up_to()),
        )
    })
}

fn too_deep() -> Fault {
    Fault::new(
        Reason::TooDeep,
        format!("the value is nested deeper than {DEPTH_MAX}"),
    )
}

/// Whether lists and objects are nested in more than so many levels.
pub(crate) fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => {
            levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1))
        }
        Value::Object(object) => {
            levels == 0 || object.values().any(|item| deeper_than(item, levels - 1))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_one_json_value_is_refused() {
        for (bytes, reason, message) in [
            (b"".as_slice(), Reason::NotJson, "EOF"),
            (b"{", Reason::NotJson, "line 1 column 1"),
            (
                b"1 2",
                Reason::NotJson,
                "trailing characters at line 1 column 3",
            ),
            (b"NaN", Reason::NotJson, "expected value"),
            (b"[1e999]", Reason::NotJson, "number out of range"),
            (b"{'a':1}", Reason::NotJson, "key must be a string"),
            (b"\"\xff\"", Reason::NotUtf8, "at byte 1"),
        ] {
            let fault = decode(bytes).unwrap_err();
            assert_eq!(fault.reason, reason);
            assert!(fault.message.contains(message), "{fault}");
        }
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(decode(nested(64).as_bytes()).is_ok());
        assert_eq!(
            decode(nested(65).as_bytes()).unwrap_err().reason,
            Reason::TooDeep
        );
        assert_eq!(
            decode(nested(5_000).as_bytes()).unwrap_err().reason,
            Reason::TooDeep
        );
        let large = format!("\"{}\"", "a".repeat(BYTES_MAX));
        assert_eq!(
            decode(large.as_bytes()).unwrap_err().reason,
            Reason::TooLarge
        );
    }

    #[test]
    fn of_duplicate_keys_the_last_counts_and_objects_are_sorted() {
        assert_eq!(
            decode(br#"{"b":1,"a":2,"b":3}"#).unwrap(),
            json!({"a": 2, "b": 3})
        );
        assert_eq!(
            decode(br#"{"b":1,"a":2}"#).unwrap().to_string(),
            r#"{"a":2,"b":1}"#
        );
    }
}
