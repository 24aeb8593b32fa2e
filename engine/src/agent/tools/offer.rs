//! What the model is told of its tools, from what the servers list of theirs.

use super::{Agent, Does, Tool};
use crate::fault::{Fault, Reason};
use crate::model::ToolSpec;
use crate::schema::Schema;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is kept of a description, in bytes.
const DESCRIPTION_BYTES: usize = 4_096;

/// A tool as its server lists it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Listed {
    pub description: String,
    /// JSON Schema of the arguments, an object's.
    pub schema: Value,
}

/// The tools of each server, by the server's name and the tool's.
pub type Listing = BTreeMap<String, BTreeMap<String, Listed>>;

/// The tools of an agent as they are offered to its model.
#[derive(Debug, Default)]
pub struct Offer {
    pub(super) specs: Arc<[ToolSpec]>,
    /// Of the whole arguments, fixed ones too, by tool.
    pub(super) schemas: BTreeMap<String, Arc<Schema>>,
}

impl Offer {
    /// What the model is told.
    pub fn specs(&self) -> Arc<[ToolSpec]> {
        Arc::clone(&self.specs)
    }
}

impl Agent {
    /// What the model is told of its tools. `listing` has every server of [`Agent::tool_servers`].
    ///
    /// # Errors
    /// `ToolFailed`: a server does not have a tool that the agent names, or has it with a schema that cannot be used.
    pub fn offer(&self, listing: &Listing) -> Result<Offer, Fault> {
        let mut specs = Vec::new();
        let mut schemas = BTreeMap::new();
        for tool in self.tools.iter().flat_map(|tools| &tools.tools) {
            let (listed, schema) = match &tool.does {
                Does::Server {
                    server, tool: name, ..
                } => {
                    let listed = find(listing, server, name)?;
                    let schema = Schema::compile(&listed.schema).map_err(|why| {
                        Fault::new(
                            Reason::ToolFailed,
                            format!("tool '{name}' of ToolServer '{server}': its schema {why}"),
                        )
                    })?;
                    (listed.clone(), Arc::new(schema))
                }
                Does::Emit(emit) => (described(&emit.asked), Arc::clone(&emit.schema)),
                Does::View(view) => (described(&view.asked), Arc::clone(&view.schema)),
            };
            specs.push(tool.spec(listed));
            schemas.insert(tool.name.clone(), schema);
        }
        Ok(Offer {
            specs: specs.into(),
            schemas,
        })
    }
}

impl Tool {
    fn spec(&self, listed: Listed) -> ToolSpec {
        let fixed: BTreeSet<&str> = self.fixed.iter().map(|(name, _)| name.as_str()).collect();
        let description = self.description.clone().unwrap_or(listed.description);
        let kept = crate::fault::shorten(&description, DESCRIPTION_BYTES);
        ToolSpec {
            name: self.name.clone(),
            description: crate::template::without_markers(kept).into_owned(),
            parameters: without(listed.schema, &fixed),
        }
    }
}

/// The agent's own tools have its description.
fn described(schema: &Value) -> Listed {
    Listed {
        description: String::new(),
        schema: schema.clone(),
    }
}

fn find<'a>(listing: &'a Listing, server: &str, tool: &str) -> Result<&'a Listed, Fault> {
    let tools = listing.get(server);
    tools.and_then(|tools| tools.get(tool)).ok_or_else(|| {
        let has = match tools {
            None => "its tools are not known".to_owned(),
            Some(tools) if tools.is_empty() => "it has none".to_owned(),
            // Names are the server's data, but whoever configures it has to see them.
            Some(tools) => {
                let names: Vec<&str> = tools.keys().map(String::as_str).take(16).collect();
                format!("it has {}", names.join(", "))
            }
        };
        Fault::new(
            Reason::ToolFailed,
            format!("ToolServer '{server}' has no tool '{tool}': {has}"),
        )
    })
}

/// The schema of an object without these properties.
fn without(mut schema: Value, names: &BTreeSet<&str>) -> Value {
    if names.is_empty() {
        return schema;
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.retain(|name, _| !names.contains(name.as_str()));
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|name| name.as_str().is_none_or(|name| !names.contains(name)));
    }
    schema
}
