//! The six CustomResourceDefinitions, put together from the types.

use crate::{
    Agent, AgentSpec, ContextView, ContextViewSpec, EventSource, EventSourceSpec, KafkaCluster,
    KafkaClusterSpec, Model, ModelSpec, ToolServer, ToolServerSpec, limits, rules, schema, status,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceValidation,
    JSONSchemaProps,
};
use kube::CustomResourceExt;
use schemars::JsonSchema;
use serde_json::json;

/// A schema that Kubernetes' types cannot hold; a mistake in this crate's types.
#[derive(Debug, thiserror::Error)]
#[error("the schema of {name} is not one that Kubernetes takes")]
pub struct Error {
    name: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    pub(crate) fn new(
        definition: &CustomResourceDefinition,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            name: definition.metadata.name.clone().unwrap_or_default(),
            source: source.into(),
        }
    }
}

/// All kinds, in the order in which people meet them.
///
/// # Errors
/// Never for types whose tests pass; see [`Error`].
pub fn all() -> Result<Vec<CustomResourceDefinition>, Error> {
    Ok(vec![
        definition::<KafkaCluster, KafkaClusterSpec, status::KafkaClusterStatus>()?,
        definition::<Model, ModelSpec, status::ModelStatus>()?,
        definition::<EventSource, EventSourceSpec, status::EventSourceStatus>()?,
        definition::<ContextView, ContextViewSpec, status::ContextViewStatus>()?,
        definition::<ToolServer, ToolServerSpec, status::ToolServerStatus>()?,
        definition::<Agent, AgentSpec, status::AgentStatus>()?,
    ])
}

/// The derive gives names, columns of the kind and subresources; schema and common columns are added here, where they are the same for all.
fn definition<Kind, Spec, Status>() -> Result<CustomResourceDefinition, Error>
where
    Kind: CustomResourceExt,
    Spec: JsonSchema,
    Status: JsonSchema,
{
    let mut definition = Kind::crd();
    let mut rules = vec![json!({
        "rule": format!("self.metadata.name.size() <= {} && {}", limits::NAME, rules::LABEL.0.replace("self.", "self.metadata.name.")),
        "message": "metadata.name must be a DNS label: lower-case letters, digits and '-', a letter or digit at both ends, at most 45 characters; it becomes part of the names of topics, pods and services",
    })];
    rules.extend(rules_of_root(&definition.spec.names.kind));
    let mut spec = schema::of::<Spec>();
    let description = spec
        .as_object_mut()
        .and_then(|spec| spec.insert("description".into(), json!("What is wanted.")));
    let mut status = schema::of::<Status>();
    if let Some(status) = status.as_object_mut() {
        // Until the operator has looked, tools that know kstatus see that the status is not about this generation.
        status.insert("default".into(), json!({ "observedGeneration": -1 }));
    }
    let root = json!({
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": { "spec": spec, "status": status },
        "x-kubernetes-validations": rules,
    });
    let root: JSONSchemaProps =
        serde_json::from_value(root).map_err(|source| Error::new(&definition, source))?;
    for version in &mut definition.spec.versions {
        version.schema = Some(CustomResourceValidation {
            open_api_v3_schema: Some(root.clone()),
        });
        let own = version
            .additional_printer_columns
            .take()
            .unwrap_or_default();
        version.additional_printer_columns = Some(columns(own));
    }
    Ok(definition)
}

/// Rules that need the resource's own name.
fn rules_of_root(kind: &str) -> Vec<serde_json::Value> {
    match kind {
        "Model" => vec![json!({
            "rule": "!has(self.spec.fallbackModelRef) || self.spec.fallbackModelRef.name != self.metadata.name",
            "message": "a model cannot be its own fallback; name another one in fallbackModelRef",
            "fieldPath": ".spec.fallbackModelRef",
        })],
        "ContextView" => vec![json!({
            "rule": "self.spec.from.all(f, !has(f.joins) || f.joins.all(j, j.viewRef.name != self.metadata.name))",
            "message": "a view cannot join itself; name another one in viewRef",
            "fieldPath": ".spec.from",
        })],
        _ => Vec::new(),
    }
}

/// Whether it works and why not comes first, its age and what to do last.
fn columns(own: Vec<CustomResourceColumnDefinition>) -> Vec<CustomResourceColumnDefinition> {
    let ready =
        |name: &str, field: &str, description: &str, priority| CustomResourceColumnDefinition {
            name: name.into(),
            type_: "string".into(),
            description: Some(description.into()),
            json_path: format!(".status.conditions[?(@.type==\"Ready\")].{field}"),
            priority,
            format: None,
        };
    let age = CustomResourceColumnDefinition {
        name: "Age".into(),
        type_: "date".into(),
        description: Some("When it was created.".into()),
        json_path: ".metadata.creationTimestamp".into(),
        priority: None,
        format: None,
    };
    let mut columns = vec![
        ready("Ready", "status", "Whether it does what it says.", None),
        ready("Reason", "reason", "Why.", None),
    ];
    columns.extend(own);
    columns.push(age);
    columns.push(ready("Message", "message", "Why, and what to do.", Some(1)));
    columns
}
