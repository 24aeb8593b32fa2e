//! The files that are generated from the types: CustomResourceDefinitions as YAML, the same in a chart, and the reference.
//!
//! They are kept in the repository, so that a change of a type shows what it means for users; a test fails where they differ.

use crate::{Error, all, reference};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Number, Value, json};

/// How the files are written anew.
pub const COMMAND: &str = "cargo run -p headwater-crds --example generate";

/// A generated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Path from the root of the repository.
    pub path: String,
    pub contents: String,
}

/// All generated files.
///
/// # Errors
/// As [`all`].
pub fn files() -> Result<Vec<File>, Error> {
    let definitions = all()?;
    let mut files = Vec::new();
    for definition in &definitions {
        let name = definition.metadata.name.as_deref().unwrap_or_default();
        files.push(File {
            path: format!("crds/yaml/{name}.yaml"),
            contents: yaml(definition)?,
        });
        files.push(File {
            path: format!("charts/headwater-crds/templates/{name}.yaml"),
            contents: chart_template(definition)?,
        });
        files.push(File {
            path: format!(
                "docs/reference/{}.md",
                definition.spec.names.kind.to_lowercase()
            ),
            contents: reference::page(definition, &value(definition)?),
        });
    }
    files.push(File {
        path: "docs/reference/README.md".into(),
        contents: reference::index(&definitions),
    });
    Ok(files)
}

/// A definition as YAML, with a note of where it comes from.
///
/// # Errors
/// As [`all`].
pub fn yaml(definition: &CustomResourceDefinition) -> Result<String, Error> {
    Ok(format!(
        "# Generated from crds/src with `{COMMAND}`. Change the types, not this file.\n{}",
        text(definition, &value(definition)?)?
    ))
}

/// The same for Helm: kept when the chart is uninstalled, since with a definition go all its resources; braces that Helm would read are quoted.
fn chart_template(definition: &CustomResourceDefinition) -> Result<String, Error> {
    let mut value = value(definition)?;
    value["metadata"]["annotations"] = json!({ "helm.sh/resource-policy": "keep" });
    let text = text(definition, &value)?.replace("{{", "{{ \"{{\" }}");
    Ok(format!(
        "{{{{- /* Generated from crds/src with `{COMMAND}`. Change the types, not this file. */ -}}}}\n{text}"
    ))
}

/// A definition as JSON, numbers as people write them.
fn value(definition: &CustomResourceDefinition) -> Result<Value, Error> {
    let mut value =
        serde_json::to_value(definition).map_err(|source| Error::new(definition, source))?;
    write_integers(&mut value);
    Ok(value)
}

fn text(definition: &CustomResourceDefinition, value: &Value) -> Result<String, Error> {
    serde_yaml::to_string(value).map_err(|source| Error::new(definition, source))
}

/// Kubernetes' types hold bounds as floats: 1.0 is 1.
fn write_integers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|_| number.is_f64()) {
                // Bounds are far below 2^53, where every integer is a float.
                if float.fract() == 0.0 && float.abs() < 9e15 {
                    *number = Number::from(float as i64);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(write_integers),
        Value::Object(fields) => fields.values_mut().for_each(write_integers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_floats_become_integers_and_others_stay() {
        let mut value = json!({"a": [1.0, -1.0, 0.5], "b": 3});
        write_integers(&mut value);
        assert_eq!(value.to_string(), r#"{"a":[1,-1,0.5],"b":3}"#);
    }

    #[test]
    fn helm_does_not_read_braces_of_descriptions() {
        for definition in all().unwrap() {
            let template = chart_template(&definition).unwrap();
            let body = template.split_once('\n').unwrap().1;
            let plain = text(&definition, &value(&definition).unwrap()).unwrap();
            assert_eq!(
                body.matches("{{ \"{{\" }}").count(),
                plain.matches("{{").count()
            );
            assert_eq!(body.matches("{{").count(), 2 * plain.matches("{{").count());
        }
    }
}
