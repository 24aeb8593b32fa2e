//! Reference pages in Markdown, from the same schema that the API server gets.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value};

const CONVENTIONS: &str = "\
## Conventions

- All kinds belong to `headwater.dev/v1alpha1` and to a namespace. `kubectl get headwater` lists all of them, `kubectl explain agent.spec` shows \
what stands here.
- `fooRef: {name}` is a resource of the same namespace, `fooSecretRef: {name}` a Secret, `fooSecretKeyRef: {name, key}` one value in a Secret. \
Headwater never copies a Secret's value into another resource.
- Durations are integers with their unit in the name: `Seconds`, `Milliseconds`.
- A union is one field for each of its members; a rule says how many of them may be set.
- Lists of things with a `name` are maps by that name: their order means nothing.
- Expressions are CEL, up to 4,096 characters; templates are Jinja, up to 65,536.
- Names of resources are DNS labels of up to 45 characters.
- A default that depends on nothing else is written into the resource when it is created; any other is described, and the field stays absent.
";

/// The page that lists the others.
pub(crate) fn index(definitions: &[CustomResourceDefinition]) -> String {
    let mut page = format!(
        "{}# Reference\n\n| Kind | Short | Is |\n|---|---|---|\n",
        note()
    );
    for definition in definitions {
        let names = &definition.spec.names;
        page.push_str(&format!(
            "| [{}]({}.md) | `{}` | {} |\n",
            names.kind,
            names.kind.to_lowercase(),
            short_names(definition),
            cell(description_of_root(definition)),
        ));
    }
    page.push('\n');
    page.push_str(CONVENTIONS);
    page
}

/// The page of one kind. `value` is the definition as JSON.
pub(crate) fn page(definition: &CustomResourceDefinition, value: &Value) -> String {
    let names = &definition.spec.names;
    let version = &value["spec"]["versions"][0];
    let root = &version["schema"]["openAPIV3Schema"];
    let mut page = format!(
        "{}# {}\n\n{}\n\n`apiVersion: headwater.dev/v1alpha1`, `kind: {}`; in commands `{}` or `{}`. Conventions: [Reference](README.md).\n\n",
        note(),
        names.kind,
        description_of_root(definition),
        names.kind,
        names.plural,
        short_names(definition),
    );
    page.push_str(&rules(root));
    for part in ["spec", "status"] {
        section(&mut page, part, &root["properties"][part]);
    }
    page.push_str(&columns(version));
    page
}

fn note() -> String {
    format!(
        "<!-- Generated from crds/src with `{}`. Change the types, not this file. -->\n\n",
        crate::render::COMMAND
    )
}

fn short_names(definition: &CustomResourceDefinition) -> String {
    definition
        .spec
        .names
        .short_names
        .as_ref()
        .map(|names| names.join("`, `"))
        .unwrap_or_default()
}

fn description_of_root(definition: &CustomResourceDefinition) -> &str {
    definition
        .spec
        .versions
        .first()
        .and_then(|version| version.schema.as_ref())
        .and_then(|schema| schema.open_api_v3_schema.as_ref())
        .and_then(|schema| schema.description.as_deref())
        .unwrap_or_default()
}

/// One object's fields as a table, its rules, then the objects in it.
fn section(page: &mut String, path: &str, schema: &Value) {
    let Some(fields) = schema["properties"].as_object() else {
        return;
    };
    page.push_str(&format!("## {path}\n\n"));
    if let Some(description) = schema["description"].as_str() {
        page.push_str(&format!("{description}\n\n"));
    }
    page.push_str("| Field | Type | Default | Description |\n|---|---|---|---|\n");
    for (name, field) in fields {
        page.push_str(&format!(
            "| `{name}` | {} | {} | {} |\n",
            kind(&join(path, name), name, field),
            default(schema, name, field),
            cell(field["description"].as_str().unwrap_or_default()),
        ));
    }
    page.push('\n');
    page.push_str(&rules(schema));
    for (name, field) in fields {
        let path = join(path, name);
        if is_section(name, field) {
            section(page, &path, field);
        } else if is_section(name, &field["items"]) {
            section(page, &format!("{path}[]"), &field["items"]);
        }
    }
}

fn join(path: &str, name: &str) -> String {
    format!("{path}.{name}")
}

/// References are alike everywhere and described once.
fn is_section(name: &str, schema: &Value) -> bool {
    schema["properties"].is_object() && !name.ends_with("Ref")
}

fn anchor(path: &str) -> String {
    path.chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_lowercase()
}

/// What a field may hold.
fn kind(path: &str, name: &str, schema: &Value) -> String {
    if is_section(name, schema) {
        return format!("[object](#{})", anchor(path));
    }
    if let Some(fields) = schema["properties"].as_object() {
        return format!("`{{{}}}`", keys(fields));
    }
    match schema["type"].as_str() {
        Some("array") => {
            let items = &schema["items"];
            let what = if is_section(name, items) {
                format!("[object](#{})", anchor(path))
            } else {
                kind(path, name, items)
            };
            format!(
                "list of {what}{}",
                range(&schema["minItems"], &schema["maxItems"])
            )
        }
        Some("object") if schema["additionalProperties"].is_object() => {
            format!(
                "map of {}",
                kind(path, name, &schema["additionalProperties"])
            )
        }
        Some("object") => "JSON object".into(),
        Some("string") => match schema["enum"].as_array() {
            Some(members) => members
                .iter()
                .filter_map(Value::as_str)
                .map(|member| format!("`{member}`"))
                .collect::<Vec<_>>()
                .join(", "),
            None => match schema["maxLength"].as_i64() {
                Some(length) => format!("string, up to {}", grouped(length)),
                None => "string".into(),
            },
        },
        Some("integer") => format!("integer{}", range(&schema["minimum"], &schema["maximum"])),
        Some(other) => other.into(),
        None if schema["x-kubernetes-int-or-string"] == Value::Bool(true) => "quantity".into(),
        None => "any JSON".into(),
    }
}

fn keys(fields: &Map<String, Value>) -> String {
    // `name` before `key`, as people write them.
    let mut keys: Vec<&str> = fields.keys().map(String::as_str).collect();
    keys.sort_by_key(|key| *key != "name");
    keys.join(", ")
}

fn range(minimum: &Value, maximum: &Value) -> String {
    match (minimum.as_i64(), maximum.as_i64()) {
        (Some(minimum), Some(maximum)) => {
            format!(", {} to {}", grouped(minimum), grouped(maximum))
        }
        (None, Some(maximum)) => format!(", up to {}", grouped(maximum)),
        (Some(minimum), None) => format!(", from {}", grouped(minimum)),
        (None, None) => String::new(),
    }
}

/// Digits in groups of three.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if number < 0 { format!("-{out}") } else { out }
}

fn default(parent: &Value, name: &str, schema: &Value) -> String {
    let required = parent["required"]
        .as_array()
        .is_some_and(|required| required.iter().any(|field| field == name));
    match &schema["default"] {
        Value::Null if required => "**required**".into(),
        Value::Null => String::new(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

/// Messages of the rules on an object and on its plain fields.
fn rules(schema: &Value) -> String {
    let mut lines: Vec<String> = messages(schema)
        .map(|message| format!("- {message}."))
        .collect();
    if let Some(fields) = schema["properties"].as_object() {
        for (name, field) in fields {
            if is_section(name, field) {
                continue;
            }
            lines.extend(messages(field).map(|message| format!("- `{name}` {message}.")));
        }
    }
    if lines.is_empty() {
        return String::new();
    }
    format!("Rules:\n\n{}\n\n", lines.join("\n"))
}

fn messages(schema: &Value) -> impl Iterator<Item = &str> {
    schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|rule| rule["message"].as_str())
}

fn columns(version: &Value) -> String {
    let mut out =
        String::from("## Columns of kubectl get\n\n| Column | Shown | Is |\n|---|---|---|\n");
    for column in version["additionalPrinterColumns"]
        .as_array()
        .into_iter()
        .flatten()
    {
        out.push_str(&format!(
            "| {} | {} | {} |\n",
            column["name"].as_str().unwrap_or_default().to_uppercase(),
            if column["priority"].as_i64().unwrap_or(0) == 0 {
                "always"
            } else {
                "`-o wide`"
            },
            cell(column["description"].as_str().unwrap_or_default()),
        ));
    }
    out
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace("\n\n", "<br>")
        .replace('\n', "<br>")
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_are_grouped_by_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(-1_234_567), "-1,234,567");
    }
}
