//! Asking natively for an answer that fits a JSON Schema: `response_format`.
//!
//! It helps the model; whether the answer fits is checked by whoever asked. Only a schema of an object is
//! asked for, as OpenAI takes no other. `strict` is asked for where the schema is one that it allows: every
//! object closed, all of its properties required, and no keyword that it might refuse.

use serde_json::{Map, Value, json};

/// Keywords that strict servers take wherever they stand.
const PLAIN: [&str; 9] = [
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "enum",
    "const",
    "description",
    "title",
];

/// What to put under `response_format`; `None` where it cannot be asked for.
pub(super) fn response_format(schema: &Value) -> Option<Value> {
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return None;
    }
    Some(json!({
        "type": "json_schema",
        "json_schema": {"name": "result", "schema": schema, "strict": is_strict(schema)},
    }))
}

fn is_strict(schema: &Value) -> bool {
    let Some(schema) = schema.as_object() else {
        return false;
    };
    schema
        .keys()
        .all(|keyword| PLAIN.contains(&keyword.as_str()))
        && schema.get("items").is_none_or(is_strict)
        && (schema.get("type").and_then(Value::as_str) != Some("object") || is_closed(schema))
}

fn is_closed(object: &Map<String, Value>) -> bool {
    let Some(properties) = object.get("properties").and_then(Value::as_object) else {
        return false;
    };
    let required = object.get("required").and_then(Value::as_array);
    let is_required = |name: &String| {
        let mut required = required.into_iter().flatten();
        required.any(|own| own.as_str() == Some(name))
    };
    object.get("additionalProperties") == Some(&Value::Bool(false))
        && properties.keys().all(is_required)
        && properties.values().all(is_strict)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strict(schema: Value) -> Option<bool> {
        response_format(&schema)?["json_schema"]["strict"].as_bool()
    }

    #[test]
    fn only_objects_are_asked_for_and_strictly_only_what_is_closed() {
        let closed = |properties: Value, required: Value| json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false});
        let plain = closed(json!({"a": {"type": "string"}}), json!(["a"]));
        assert_eq!(strict(plain.clone()), Some(true));
        let deep = closed(
            json!({"a": {"type": "array", "items": plain}}),
            json!(["a"]),
        );
        assert_eq!(strict(deep), Some(true));
        for loose in [
            json!({"type": "object"}),
            json!({"type": "object", "properties": {}}),
            closed(json!({"a": {"type": "string"}}), json!([])),
            closed(json!({"a": {"type": "object"}}), json!(["a"])),
            closed(
                json!({"a": {"type": "string", "minLength": 1}}),
                json!(["a"]),
            ),
            closed(json!({"a": true}), json!(["a"])),
            json!({"type": "object", "properties": {}, "additionalProperties": false, "patternProperties": {}}),
        ] {
            assert_eq!(strict(loose.clone()), Some(false), "{loose}");
        }
        for other in [
            json!({"type": "array"}),
            json!({}),
            json!({"type": ["object", "null"]}),
            json!(true),
        ] {
            assert_eq!(response_format(&other), None, "{other}");
        }
    }
}
