//! What holds for every field of every kind: described, bounded, no floats; and defaults that serde and Rust agree on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use headwater_crds::agent::{Approval, Audit, Delivery};
use headwater_crds::context_view::Chunk;
use headwater_crds::event_source::{EventSourceSpec, Topic};
use headwater_crds::kafka_cluster::TopicDefaults;
use headwater_crds::model::Retry;
use headwater_crds::{
    AgentStatus, ContextViewStatus, EventSourceStatus, KafkaClusterStatus, ModelStatus,
    ToolServerStatus, all,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::fmt::Debug;

/// Fields that the API server fills with `{}`, and with them the defaults inside. No other struct has a default: whether it is there says
/// something.
const DEFAULTED_STRUCTS: [&str; 7] = [
    "topic",
    "topicDefaults",
    "retry",
    "chunk",
    "approval",
    "delivery",
    "audit",
];

/// Calls `look` with the path and schema of every property, item and map value of every kind.
fn each_schema(look: &mut dyn FnMut(&str, &str, &Value)) {
    for definition in all().unwrap() {
        let value = serde_json::to_value(&definition).unwrap();
        let root = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        descend(&definition.spec.names.kind, "", root, look);
    }
}

fn descend(path: &str, name: &str, schema: &Value, look: &mut dyn FnMut(&str, &str, &Value)) {
    look(path, name, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        descend(&format!("{path}.{name}"), name, property, look);
    }
    if schema["items"].is_object() {
        descend(&format!("{path}[]"), "", &schema["items"], look);
    }
    if schema["additionalProperties"].is_object() {
        descend(
            &format!("{path}{{}}"),
            "",
            &schema["additionalProperties"],
            look,
        );
    }
}

/// Collects what `complaint` says of any schema.
fn complaints(complaint: impl Fn(&str, &Value) -> Option<&'static str>) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = 0;
    each_schema(&mut |path, name, schema| {
        seen += 1;
        if let Some(complaint) = complaint(name, schema) {
            found.push(format!("{path} {complaint}"));
        }
    });
    assert!(seen > 300, "only {seen} schemas were looked at");
    found
}

#[test]
fn every_property_is_described() {
    let found = complaints(|name, schema| {
        (!name.is_empty() && schema["description"].as_str().is_none_or(str::is_empty))
            .then_some("has no description; write a doc comment")
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_member_of_an_enum_is_described() {
    let found = complaints(|name, schema| {
        let members = schema["enum"].as_array()?;
        let description = schema["description"].as_str().unwrap_or_default();
        // The status of a condition is Kubernetes' own.
        (name != "status"
            && members
                .iter()
                .any(|member| !description.contains(&format!("- `{}`", member.as_str().unwrap()))))
        .then_some("does not describe all its members; write doc comments on the variants")
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn there_are_no_floats_and_integers_are_bounded() {
    let found = complaints(|name, schema| match schema["type"].as_str() {
        Some("number") => Some("is a float; use an integer with a unit in its name"),
        Some("integer") if schema["minimum"].is_null() => Some("has no minimum"),
        // Generations are the API server's.
        Some("integer") if schema["maximum"].is_null() && name != "observedGeneration" => {
            Some("has no maximum")
        }
        Some("integer") if schema["format"] != "int32" && schema["format"] != "int64" => {
            Some("has a format that Kubernetes does not know")
        }
        _ => None,
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn lists_maps_and_texts_are_bounded() {
    let found = complaints(|_, schema| match schema["type"].as_str() {
        Some("array") if schema["maxItems"].is_null() => Some("has no maxItems"),
        Some("object")
            if schema["additionalProperties"].is_object() && schema["maxProperties"].is_null() =>
        {
            Some("has no maxProperties")
        }
        Some("string")
            if schema["enum"].is_null()
                && schema["format"] != "date-time"
                && schema["maxLength"].is_null() =>
        {
            Some("has no maxLength")
        }
        _ => None,
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn lists_of_named_things_are_maps_by_name() {
    let found = complaints(|_, schema| {
        if schema["type"] != "array" {
            return None;
        }
        let kind = schema["x-kubernetes-list-type"].as_str();
        let named = schema["items"]["properties"]["name"].is_object();
        match kind {
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array()?;
                let required = schema["items"]["required"].as_array().cloned();
                keys.iter()
                    .any(|key| !required.as_ref().is_some_and(|all| all.contains(key)))
                    .then_some("has a key that its items need not have")
            }
            _ if named => Some("is a list of named things, so it must be a map by name"),
            Some("set" | "atomic") => None,
            // Lines of text of the operator's own.
            None if schema["items"]["type"] == "string" => None,
            _ => Some("does not say how it is merged"),
        }
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn only_these_structs_have_a_default() {
    let found = complaints(|name, schema| {
        if schema["type"] != "object" || schema["default"].is_null() || name == "status" {
            return None;
        }
        if !DEFAULTED_STRUCTS.contains(&name) {
            return Some("is a struct with a default");
        }
        (schema["default"] != json!({})).then_some("has a default other than {}")
    });
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_rule_has_a_message() {
    let found = complaints(|_, schema| {
        schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|rule| rule["message"].is_null() && rule["messageExpression"].is_null())
            .then_some("has a rule without a message")
    });
    assert_eq!(found, Vec::<String>::new());
}

/// What is read from nothing is Rust's default too.
fn agrees<T: Default + DeserializeOwned + Serialize + PartialEq + Debug>() {
    let read: T = serde_json::from_value(json!({})).unwrap();
    assert_eq!(read, T::default());
}

#[test]
fn defaults_of_rust_and_of_serde_agree() {
    agrees::<Approval>();
    agrees::<Audit>();
    agrees::<Chunk>();
    agrees::<Delivery>();
    agrees::<EventSourceSpec>();
    agrees::<Retry>();
    agrees::<Topic>();
    agrees::<TopicDefaults>();
    agrees::<KafkaClusterStatus>();
    agrees::<ModelStatus>();
    agrees::<EventSourceStatus>();
    agrees::<ContextViewStatus>();
    agrees::<ToolServerStatus>();
    agrees::<AgentStatus>();
}
