//! The checks that the API server makes when a resource is applied, made here from the same schema:
//! names, types and bounds of fields, defaults, and the rules (CEL) beside them.
//!
//! Rules about the former state of a resource (`oldSelf`) need one and are left to the API server.

use super::yaml::{Entry, Kind, Node, Place};
use headwater_engine::expr::{Expression, Names, Variable, Variables};
use headwater_engine::problem::did_you_mean;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The six kinds and their schemas.
pub(crate) struct Schemas(BTreeMap<String, Value>);

/// What a schema says against a resource.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) path: String,
    pub(crate) place: Place,
    pub(crate) message: String,
}

impl Schemas {
    /// The schemas of the resource definitions that this binary was built with.
    pub(crate) fn load() -> Result<Self, headwater_crds::Error> {
        let definitions = headwater_crds::all()?;
        let schemas = definitions.into_iter().filter_map(|definition| {
            let schema = definition.spec.versions.into_iter().next()?.schema?;
            let schema = serde_json::to_value(schema.open_api_v3_schema?).ok()?;
            Some((definition.spec.names.kind, schema))
        });
        Ok(Self(schemas.collect()))
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The resource as the API server would store it, defaults filled in, and what it would refuse.
    /// `None` for a kind that there is not.
    pub(crate) fn check(&self, kind: &str, document: &Node) -> Option<(Value, Vec<Mismatch>)> {
        let schema = self.0.get(kind)?;
        let mut check = Check::default();
        let value = check.node(document, schema, "");
        if check.mismatches.is_empty() {
            check.rules(&value, schema, "", document);
        }
        Some((value, check.mismatches))
    }
}

#[derive(Default)]
struct Check {
    mismatches: Vec<Mismatch>,
}

/// Fields of every resource that the schema of its kind does not name.
const COMMON: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Check {
    fn wrong(&mut self, path: &str, place: Place, message: impl Into<String>) {
        self.mismatches.push(Mismatch {
            path: path.to_owned(),
            place,
            message: message.into(),
        });
    }

    /// Checks one value and gives it back with defaults.
    fn node(&mut self, node: &Node, schema: &Value, path: &str) -> Value {
        if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
            && schema.get("properties").is_none()
        {
            if schema.get("type").is_some() && !matches!(node.kind, Kind::Map(_)) {
                self.wrong(
                    path,
                    node.place,
                    format!("must be an object, not {}", named(node)),
                );
            }
            return node.to_json();
        }
        match &node.kind {
            Kind::Map(entries) => self.map(node, entries, schema, path),
            Kind::List(items) => self.list(node, items, schema, path),
            Kind::Scalar(value) => {
                self.scalar(node, value, schema, path);
                value.clone()
            }
        }
    }

    fn map(&mut self, node: &Node, entries: &[Entry], schema: &Value, path: &str) -> Value {
        if schema["type"] != "object" {
            self.wrong(
                path,
                node.place,
                format!("must be {}, not an object", expected(schema)),
            );
            return node.to_json();
        }
        let none = Map::new();
        let properties = schema["properties"].as_object().unwrap_or(&none);
        let additional = schema
            .get("additionalProperties")
            .filter(|schema| schema.is_object());
        let mut value = Map::new();
        for entry in entries {
            let below = join(path, &entry.key);
            match properties.get(&entry.key).or(additional) {
                _ if path.is_empty() && COMMON.contains(&entry.key.as_str()) => {
                    value.insert(entry.key.clone(), entry.value.to_json());
                }
                // As the API server prunes it: a null is as if the field were not there.
                Some(_) if matches!(entry.value.kind, Kind::Scalar(Value::Null)) => {}
                Some(schema) => {
                    let checked = self.node(&entry.value, schema, &below);
                    value.insert(entry.key.clone(), checked);
                }
                None => {
                    let known = properties.keys().map(String::as_str);
                    let hint = match did_you_mean(&entry.key, known.clone()) {
                        Some(near) => format!("did you mean '{near}'?"),
                        None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
                    };
                    self.wrong(
                        &below,
                        entry.place,
                        format!("there is no field '{}'; {hint}", entry.key),
                    );
                }
            }
        }
        if let Some(most) = schema["maxProperties"]
            .as_u64()
            .filter(|most| entries.len() as u64 > *most)
        {
            self.wrong(
                path,
                node.place,
                format!("must have at most {most} entries"),
            );
        }
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !value.contains_key(name)
                && properties
                    .get(name)
                    .is_none_or(|schema| schema.get("default").is_none())
            {
                let below = join(path, name);
                let meaning = properties
                    .get(name)
                    .and_then(|schema| schema["description"].as_str())
                    .and_then(|text| text.split(". ").next())
                    .map(|text| format!(": {}", text.trim_end_matches('.')))
                    .unwrap_or_default();
                self.wrong(&below, node.place, format!("the field is missing{meaning}"));
            }
        }
        fill(&mut value, properties);
        Value::Object(value)
    }

    fn list(&mut self, node: &Node, items: &[Node], schema: &Value, path: &str) -> Value {
        if schema["type"] != "array" {
            self.wrong(
                path,
                node.place,
                format!("must be {}, not a list", expected(schema)),
            );
            return node.to_json();
        }
        if let Some(least) = schema["minItems"]
            .as_u64()
            .filter(|least| (items.len() as u64) < *least)
        {
            self.wrong(
                path,
                node.place,
                format!("must have at least {least} item{}", plural(least)),
            );
        }
        if let Some(most) = schema["maxItems"]
            .as_u64()
            .filter(|most| items.len() as u64 > *most)
        {
            self.wrong(path, node.place, format!("must have at most {most} items"));
        }
        let keyed = schema["x-kubernetes-list-type"] == "map";
        let mut seen = BTreeSet::new();
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let name = item.get("name").and_then(Node::text).filter(|_| keyed);
            let below = match name {
                Some(name) => format!("{path}[name={name}]"),
                None => format!("{path}[{index}]"),
            };
            if name.is_some_and(|name| !seen.insert(name.to_owned())) {
                self.wrong(
                    &below,
                    item.place,
                    "the name is given twice; names in a list must differ",
                );
            }
            values.push(self.node(item, &schema["items"], &below));
        }
        Value::Array(values)
    }

    fn scalar(&mut self, node: &Node, value: &Value, schema: &Value, path: &str) {
        let fits = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some(_) => false,
            None => {
                schema["x-kubernetes-int-or-string"] != true || value.is_string() || value.is_i64()
            }
        };
        if !fits {
            let quote = if schema["type"] == "string" && !value.is_null() {
                "; put it in quotes"
            } else {
                ""
            };
            self.wrong(
                path,
                node.place,
                format!("must be {}, not {}{quote}", expected(schema), named(node)),
            );
            return;
        }
        if let Some(allowed) = schema["enum"].as_array()
            && !allowed.contains(value)
        {
            let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            let hint = value
                .as_str()
                .and_then(|text| did_you_mean(text, names.iter().copied()))
                .map(|near| format!("; did you mean '{near}'?"))
                .unwrap_or_default();
            self.wrong(
                path,
                node.place,
                format!("must be one of {}{hint}", names.join(", ")),
            );
        }
        if let Some(text) = value.as_str() {
            let length = text.chars().count() as u64;
            if schema["minLength"]
                .as_u64()
                .is_some_and(|least| length < least)
            {
                self.wrong(path, node.place, "must not be empty");
            }
            if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
                self.wrong(
                    path,
                    node.place,
                    format!("must have at most {most} characters, has {length}"),
                );
            }
        }
        if let Some(number) = value.as_f64() {
            let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
            if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
                let bounds = match (least, most) {
                    (Some(least), Some(most)) => format!("between {least} and {most}"),
                    (Some(least), None) => format!("at least {least}"),
                    (_, most) => format!("at most {}", most.unwrap_or_default()),
                };
                self.wrong(path, node.place, format!("must be {bounds}"));
            }
        }
    }

    /// The rules beside the fields, after the defaults, as the API server has it.
    fn rules(&mut self, value: &Value, schema: &Value, path: &str, document: &Node) {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let text = rule["rule"].as_str().unwrap_or_default();
            if text.contains("oldSelf") || holds(text, value) != Some(false) {
                continue;
            }
            let at = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
            let at = at.trim_start_matches('.').to_owned();
            let place = document.locate(&at);
            self.wrong(&at, place, rule["message"].as_str().unwrap_or(text));
        }
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    let schema = match &schema["properties"][name] {
                        Value::Null => &schema["additionalProperties"],
                        schema => schema,
                    };
                    self.rules(field, schema, &join(path, name), document);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let below = match item["name"].as_str() {
                        Some(name) if schema["x-kubernetes-list-type"] == "map" => {
                            format!("{path}[name={name}]")
                        }
                        _ => format!("{path}[{index}]"),
                    };
                    self.rules(item, &schema["items"], &below, document);
                }
            }
            _ => {}
        }
    }
}

/// Whether a rule holds; `None` if it cannot be asked here.
fn holds(rule: &str, value: &Value) -> Option<bool> {
    struct OneVariable<'a>(&'a Value);
    impl Variables for OneVariable<'_> {
        fn get(&self, name: &str) -> Option<Variable<'_>> {
            (name == "self").then_some(Variable::Json(self.0))
        }
    }
    let rule = Expression::compile(rule, &Names::new(&["self"])).ok()?;
    rule.truth(&OneVariable(value)).ok()
}

/// Defaults of fields that are not given; a default object gets its own fields' defaults.
fn fill(value: &mut Map<String, Value>, properties: &Map<String, Value>) {
    for (name, schema) in properties {
        let Some(default) = schema.get("default").filter(|_| !value.contains_key(name)) else {
            continue;
        };
        // Status is the operator's to write.
        if name == "status" {
            continue;
        }
        let mut default = default.clone();
        if let (Some(default), Some(properties)) =
            (default.as_object_mut(), schema["properties"].as_object())
        {
            fill(default, properties);
        }
        value.insert(name.clone(), default);
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn expected(schema: &Value) -> &'static str {
    match schema["type"].as_str() {
        Some("object") => "an object",
        Some("array") => "a list",
        Some("string") => "a text",
        Some("boolean") => "true or false",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        _ => "a text or a whole number",
    }
}

fn named(node: &Node) -> &'static str {
    match &node.kind {
        Kind::Map(_) => "an object",
        Kind::List(_) => "a list",
        Kind::Scalar(Value::Null) => "null",
        Kind::Scalar(Value::Bool(_)) => "true or false",
        Kind::Scalar(Value::Number(_)) => "a number",
        Kind::Scalar(_) => "a text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::yaml;

    fn rules<'a>(schema: &'a Value, all: &mut Vec<&'a str>) {
        match schema {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name == "x-kubernetes-validations" {
                        let rules = value.as_array().into_iter().flatten();
                        all.extend(rules.filter_map(|rule| rule["rule"].as_str()));
                    } else {
                        rules(value, all);
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| rules(item, all)),
            _ => {}
        }
    }

    #[test]
    fn every_rule_can_be_asked_here() {
        let schemas = Schemas::load().expect("the six kinds");
        let mut all = Vec::new();
        schemas
            .0
            .values()
            .for_each(|schema| rules(schema, &mut all));
        assert!(all.len() > 50, "the rules are gone");
        all.retain(|rule| {
            !rule.contains("oldSelf") && Expression::compile(rule, &Names::new(&["self"])).is_err()
        });
        assert_eq!(all, [""; 0], "the engine cannot ask these");
    }

    #[test]
    fn defaults_are_those_of_the_schema() {
        let schemas = Schemas::load().expect("the six kinds");
        let text = "kind: EventSource\nmetadata: {name: a}\nspec: {format: null}\n";
        let document = &yaml::parse(text).expect("valid YAML")[0];
        let (value, mismatches) = schemas.check("EventSource", document).expect("a kind");
        assert_eq!(mismatches, []);
        // A null is as if it were not there, so the default stands; nested defaults too.
        assert_eq!(value["spec"]["format"], "Json");
        assert_eq!(value["spec"]["topic"]["management"], "Create");
        assert_eq!(value.get("status"), None);
    }

    #[test]
    fn rules_are_asked_after_the_defaults() {
        let schemas = Schemas::load().expect("the six kinds");
        let text = "kind: Model\nmetadata: {name: Chat}\nspec:\n  scripted: {rules: []}\n";
        let document = &yaml::parse(text).expect("valid YAML")[0];
        let (_, mismatches) = schemas.check("Model", document).expect("a kind");
        assert!(
            mismatches
                .iter()
                .any(|mismatch| mismatch.message.contains("DNS label")),
            "{mismatches:?}"
        );
    }
}
