//! What the model is told of a call: bounded, and in words where there is no result.

use crate::config::Repeat;
use crate::fault::shorten;
use crate::model::{CallOutcome, Called, ToolCall};
use serde_json::Value;

/// The longest result, in bytes as text.
const BYTES_MAX: usize = 64 * 1_024;

/// What came of a call that was not made.
pub(super) fn refused(
    call: &ToolCall,
    arguments: Value,
    outcome: CallOutcome,
    why: impl Into<String>,
) -> Called {
    called(call, arguments, outcome, Value::String(why.into()), 0)
}

pub(super) fn called(
    call: &ToolCall,
    arguments: Value,
    outcome: CallOutcome,
    result: Value,
    milliseconds: u64,
) -> Called {
    Called {
        id: call.id.clone(),
        tool: call.tool.clone(),
        arguments,
        outcome,
        result: bounded(result),
        rule: None,
        approved_by: None,
        milliseconds,
    }
}

/// What is too long is cut, and says so.
fn bounded(result: Value) -> Value {
    let text = match result {
        Value::String(text) if text.len() > BYTES_MAX => text,
        Value::String(text) => return Value::String(text),
        other => {
            let text = other.to_string();
            if text.len() <= BYTES_MAX {
                return other;
            }
            text
        }
    };
    let kept = shorten(&text, BYTES_MAX);
    Value::String(format!(
        "{kept}\n[cut: these are the first {} of {} bytes]",
        kept.len(),
        text.len()
    ))
}

/// What is told of a call of which nobody knows whether it was made.
pub(super) fn unknown(repeat: Repeat, why: &str) -> String {
    let again = match repeat {
        Repeat::Never => "It is not made again.",
        Repeat::Always => "It was made again as often as may be.",
    };
    format!(
        "It is not known whether this call was made: {why}. {again} Do not say that it was done or that it failed."
    )
}
