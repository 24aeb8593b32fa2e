//! What a model's answer has to be, where the agent has a `result.schema`: read, checked, and what is said
//! of one that does not fit.

use crate::fault::{Fault, Reason, shorten};
use crate::json;
use crate::model::Reply;
use crate::schema::Schema;
use serde_json::Value;
use std::sync::Arc;

/// So many complaints are told; one wrong type can give hundreds.
const COMPLAINTS: usize = 8;
/// The longest complaint, in bytes: it holds the value that is complained about.
const COMPLAINT_BYTES: usize = 400;
const FENCE: &str = "```";

/// The compiled `result.schema`.
#[derive(Debug)]
pub(super) struct Answer {
    schema: Schema,
    /// As it is asked for.
    asked: Arc<Value>,
}

/// An answer that does not fit.
pub(super) struct Misfit {
    /// Without values.
    pub(super) fault: Fault,
    /// For the model, with its values.
    complaint: String,
}

impl Answer {
    /// # Errors
    /// Why it cannot be used, as what follows its name.
    pub(super) fn compile(schema: &Value) -> Result<Self, String> {
        Ok(Self {
            schema: Schema::compile(schema)?,
            asked: Arc::new(schema.clone()),
        })
    }

    pub(super) fn asked(&self) -> Arc<Value> {
        Arc::clone(&self.asked)
    }

    /// The JSON value that the reply is; it may stand alone in a Markdown fence, as models like to write it.
    pub(super) fn read(&self, reply: &Reply) -> Result<Value, Misfit> {
        let value = json::decode(unfenced(&reply.text).as_bytes()).map_err(|fault| Misfit {
            complaint: format!("it is not one JSON value: {}", fault.message),
            fault,
        })?;
        let complaints = self.schema.complaints(&value, COMPLAINTS);
        self.schema.conform(value).map_err(|fault| Misfit {
            complaint: complaints
                .iter()
                .map(|complaint| shorten(complaint, COMPLAINT_BYTES))
                .collect::<Vec<_>>()
                .join("; "),
            fault,
        })
    }

    /// What asks once more, after a reply that does not fit.
    pub(super) fn again(&self, reply: &Reply) -> String {
        let complaint = match self.read(reply) {
            Err(misfit) => misfit.complaint,
            Ok(_) => "it was not taken".to_owned(),
        };
        format!(
            "Your answer does not fit what is asked for: {complaint}.\nAnswer again, with nothing but one JSON value that fits this JSON Schema:\n{}",
            self.asked
        )
    }
}

impl Misfit {
    /// The failure of a run whose answer and repair do not fit.
    pub(super) fn into_failure(self) -> Fault {
        Fault::new(
            Reason::InvalidResult,
            format!(
                "neither the model's answer nor its repair fits result.schema: {}. Say in the prompt what the answer has to look like, or loosen the schema",
                self.fault.message
            ),
        )
    }
}

/// What is in a fence that is all of the text.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix(FENCE)
        .and_then(|rest| rest.strip_suffix(FENCE))
        .and_then(|inside| inside.split_once('\n'))
        // The first line names the language at most.
        .filter(|(language, _)| language.trim().chars().all(char::is_alphanumeric))
        .map_or(text, |(_, inside)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer() -> Answer {
        let schema = json!({
            "type": "object", "required": ["offers"], "additionalProperties": false,
            "properties": {"offers": {"type": "array", "items": {"type": "object", "required": ["price"],
                "properties": {"price": {"type": "number"}}}}},
        });
        Answer::compile(&schema).unwrap()
    }

    fn read(text: &str) -> Result<Value, Misfit> {
        answer().read(&Reply {
            text: text.to_owned(),
            ..Reply::default()
        })
    }

    #[test]
    fn a_value_that_fits_is_read_fenced_or_not_and_numbers_are_doubles() {
        for text in [
            "{\"offers\": [{\"price\": 3}]}",
            " \n{\"offers\": [{\"price\": 3}]}\n",
            "```json\n{\"offers\": [{\"price\": 3}]}\n```",
            "```\n{\"offers\":\n [{\"price\": 3.0}]}```\n",
        ] {
            let value = read(text).ok().unwrap_or_default();
            assert_eq!(value, json!({"offers": [{"price": 3.0}]}), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_with_values_to_the_model_and_without_to_others() {
        for (text, told) in [
            ("", "not one JSON value"),
            ("Sure! {\"offers\": []}", "not one JSON value"),
            ("```json\n{\"offers\": []}", "not one JSON value"),
            (
                "``` not a language!\n{\"offers\": []}\n```",
                "not one JSON value",
            ),
            ("{\"offers\": []} {}", "not one JSON value"),
            ("{}", "\"offers\" is a required property"),
            (
                "{\"offers\": \"secret\"}",
                "\"secret\" is not of type \"array\"",
            ),
            ("{\"offers\": [], \"secret\": 1}", "'secret'"),
        ] {
            let Err(misfit) = read(text) else {
                panic!("{text} fits")
            };
            assert!(misfit.complaint.contains(told), "{}", misfit.complaint);
            let fault = misfit.into_failure();
            assert_eq!(fault.reason, Reason::InvalidResult);
            assert!(!fault.message.contains("secret"), "{fault}");
        }
    }

    #[test]
    fn the_repair_says_what_is_wrong_and_what_is_wanted() {
        let reply = Reply {
            text: format!("{{\"offers\": [{}]}}", vec!["7"; 90].join(",")),
            ..Reply::default()
        };
        let asked = answer().again(&reply);
        assert!(
            asked.contains("`/offers/7`: 7 is not of type \"object\""),
            "{asked}"
        );
        assert!(!asked.contains("`/offers/8`"), "{asked}");
        assert!(asked.contains("\"additionalProperties\":false"), "{asked}");
    }
}
