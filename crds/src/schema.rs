//! From Rust types to the structural schemas that Kubernetes takes.
//!
//! The types say most through schemars; here is what it cannot say (free-form JSON, maps with bounds, types of Kubernetes), and [`Crd`], a
//! transform that ends where `kubectl explain` begins: members of enums described, no `null`, defaults of objects as `{}`, paragraphs
//! instead of source lines.

use crate::limits;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde_json::{Value, json};

/// A JSON object without a schema of its own.
pub(crate) fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Any JSON value.
pub(crate) fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// A map of short texts.
pub(crate) fn texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": limits::LIST,
        "additionalProperties": { "type": "string", "maxLength": limits::TEXT },
    })
}

/// A map of CEL expressions.
pub(crate) fn expressions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": limits::LIST,
        "additionalProperties": { "type": "string", "minLength": 1, "maxLength": limits::EXPRESSION },
    })
}

/// A map of Kubernetes' quantities: `500m`, `1Gi`, or a number.
pub(crate) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": limits::LIST,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "maxLength": 64,
            "pattern": "^[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$",
        },
    })
}

/// Kubernetes' tolerations.
pub(crate) fn tolerations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": limits::LIST,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "object",
            "properties": {
                "key": {
                    "description": "Key of the taint. Default: any, with `operator: Exists`.",
                    "type": "string",
                    "maxLength": 317,
                },
                "operator": {
                    "description": "How `value` is compared.\n\n- `Equal` (default): the taint's value is this one.\n- `Exists`: any value.",
                    "type": "string",
                    "enum": ["Equal", "Exists"],
                },
                "value": {
                    "description": "Value of the taint, with `operator: Equal`.",
                    "type": "string",
                    "maxLength": 63,
                },
                "effect": {
                    "description": "Effect of the taint. Default: any.\n\n- `NoSchedule`: no new pods.\n- `PreferNoSchedule`: no new pods if there is another node.\n- `NoExecute`: no pods.",
                    "type": "string",
                    "enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"],
                },
                "tolerationSeconds": {
                    "description": "With `effect: NoExecute`: seconds that a pod stays. Default: for good.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                    "maximum": limits::SECONDS,
                },
            },
        },
    })
}

/// Kubernetes' conditions, a map by type.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": limits::LIST,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "description": "Ready, Reconciling, Stalled or Warning.",
                    "type": "string",
                    "maxLength": 316,
                },
                "status": {
                    "description": "True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "observedGeneration": {
                    "description": "Generation of the resource that the condition is about.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "When `status` last changed.",
                    "type": "string",
                    "format": "date-time",
                },
                "reason": {
                    "description": "Why, in one word of a closed list.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1_024,
                },
                "message": {
                    "description": "Why, and what to do.",
                    "type": "string",
                    "maxLength": 32_768,
                },
            },
        },
    })
}

/// The structural schema of a type.
pub(crate) fn of<T: JsonSchema>() -> Value {
    SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(Crd)
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

/// Makes what schemars generates structural, and readable in `kubectl explain`.
#[derive(Clone, Debug)]
struct Crd;

impl Transform for Crd {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        unwrap_optional(schema);
        gather_members(schema);
        // A null is pruned by the API server where the schema does not ask for it; rules need not think of it then.
        schema.remove("nullable");
        schema.remove("title");
        name_integer_format(schema);
        if let Some(default @ Value::Object(_)) = schema.get_mut("default") {
            // The fields have their own defaults, which fill it.
            *default = json!({});
        }
        if let Some(Value::String(description)) = schema.get_mut("description") {
            *description = paragraphs(description);
        }
    }
}

/// `anyOf: [T, null]` is an optional enum: T itself, under the field's own description.
fn unwrap_optional(schema: &mut Schema) {
    let Some(Value::Array(alternatives)) = schema.get("anyOf") else {
        return;
    };
    let [Value::Object(inner), Value::Object(null)] = alternatives.as_slice() else {
        return;
    };
    if null.get("nullable") != Some(&json!(true)) && null.get("enum") != Some(&json!([null])) {
        return;
    }
    let inner = inner.clone();
    schema.remove("anyOf");
    for (key, value) in inner {
        let object = schema.ensure_object();
        if !object.contains_key(&key) {
            object.insert(key, value);
        }
    }
}

/// `oneOf` of constants is an enum: its members as a list, their descriptions as lines below the field's.
fn gather_members(schema: &mut Schema) {
    let Some(Value::Array(members)) = schema.get("oneOf") else {
        return;
    };
    let members: Option<Vec<(String, String)>> = members.iter().map(member).collect();
    let Some(members) = members else {
        return;
    };
    let default = schema.get("default").cloned();
    let mut description = match schema.get("description") {
        Some(Value::String(description)) => description.clone(),
        _ => String::new(),
    };
    description.push('\n');
    for (name, text) in &members {
        let mark = if default.as_ref() == Some(&json!(name)) {
            " (default)"
        } else {
            ""
        };
        description.push_str(&format!("\n- `{name}`{mark}: {text}"));
    }
    let names: Vec<String> = members.into_iter().map(|(name, _)| name).collect();
    schema.remove("oneOf");
    schema.insert("type".into(), json!("string"));
    schema.insert("enum".into(), json!(names));
    schema.insert("description".into(), json!(description));
}

/// Name and description of an enum's member.
fn member(schema: &Value) -> Option<(String, String)> {
    let name = match schema.get("enum").and_then(Value::as_array) {
        Some(names) => match names.as_slice() {
            [Value::String(name)] => name.clone(),
            _ => return None,
        },
        None => schema.get("const")?.as_str()?.to_owned(),
    };
    let description = schema.get("description")?.as_str()?;
    Some((name, paragraphs(description)))
}

/// Kubernetes knows int32 and int64 alone and warns of others.
fn name_integer_format(schema: &mut Schema) {
    if schema.get("type") != Some(&json!("integer")) {
        return;
    }
    let small = schema
        .get("maximum")
        .and_then(Value::as_i64)
        .is_some_and(|maximum| maximum <= i64::from(i32::MAX));
    schema.insert(
        "format".into(),
        json!(if small { "int32" } else { "int64" }),
    );
}

/// Source lines of one paragraph become one line; empty lines and list items stay.
fn paragraphs(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines().map(str::trim_end) {
        if !out.is_empty() {
            let breaks = line.is_empty() || line.starts_with("- ") || out.ends_with('\n');
            out.push(if breaks { '\n' } else { ' ' });
        }
        out.push_str(line);
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::paragraphs;

    #[test]
    fn lines_of_a_paragraph_are_joined_and_lists_are_kept() {
        assert_eq!(
            paragraphs("one\ntwo\n\nthree\n\n- a\n- b"),
            "one two\n\nthree\n\n- a\n- b"
        );
    }

    #[test]
    fn one_line_stays_as_it_is() {
        assert_eq!(paragraphs("one"), "one");
    }
}
