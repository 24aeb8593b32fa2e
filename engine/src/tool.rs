//! A server of tools whose results are those of expressions, for tests, examples and rehearsals.
//!
//! It lists and answers as a server would; an expression that fails is a failed call.

use crate::agent::Listed;
use crate::config;
use crate::expr::{Expression, Names, Shape, Wanted};
use crate::fault::{Fault, Reason};
use crate::problem::{CompileError, reason};
use crate::schema::Schema;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The compiled tools of a scripted server. Shared between threads.
#[derive(Debug)]
pub struct Scripted {
    server: String,
    tools: BTreeMap<String, Tool>,
}

#[derive(Debug)]
struct Tool {
    listed: Listed,
    result: Expression,
}

impl Scripted {
    /// `server` is how messages call it. Paths of problems are those of a ToolServer's spec.
    ///
    /// # Errors
    /// Every expression and schema that cannot work, and every name that is given twice.
    pub fn compile(server: &str, tools: &[config::ScriptedTool]) -> Result<Self, CompileError> {
        let mut problems = CompileError::default();
        let mut compiled = BTreeMap::new();
        for tool in tools {
            let path = format!("spec.scripted.tools[name={}]", tool.name);
            let schema = tool.schema.clone().unwrap_or_else(without_arguments);
            problems.take(
                format!("{path}.schema"),
                reason::INVALID_SCHEMA,
                Schema::compile(&schema),
            );
            let names = Names::default().shape("arguments", Shape::of_schema(&schema));
            let result = problems.take(
                format!("{path}.result"),
                reason::INVALID_EXPRESSION,
                Expression::compile_for(&tool.result, &names, Wanted::Anything),
            );
            if compiled.contains_key(&tool.name) {
                problems.add(
                    path,
                    reason::INVALID_SPEC,
                    format!("the name '{}' is given twice", tool.name),
                );
            }
            if let Some(result) = result {
                let listed = Listed {
                    description: tool.description.clone(),
                    schema,
                };
                compiled.insert(tool.name.clone(), Tool { listed, result });
            }
        }
        problems.finish()?;
        Ok(Self {
            server: server.to_owned(),
            tools: compiled,
        })
    }

    /// Its tools, by name.
    pub fn list(&self) -> BTreeMap<String, Listed> {
        let tools = self.tools.iter();
        tools
            .map(|(name, tool)| (name.clone(), tool.listed.clone()))
            .collect()
    }

    /// The result of a call.
    ///
    /// # Errors
    /// `ToolFailed`: there is no such tool, or its expression fails.
    pub fn call(&self, tool: &str, arguments: &Map<String, Value>) -> Result<Value, Fault> {
        let Some(own) = self.tools.get(tool) else {
            return Err(Fault::new(
                Reason::ToolFailed,
                format!("ToolServer '{}' has no tool '{tool}'", self.server),
            ));
        };
        let arguments = Value::Object(arguments.clone());
        let variables = Map::from_iter([("arguments".to_owned(), arguments)]);
        own.result
            .evaluate(&variables)
            .map_err(|fault| Fault::new(Reason::ToolFailed, fault.message))
    }
}

fn without_arguments() -> Value {
    json!({"type": "object", "properties": {}, "additionalProperties": false})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, schema: Value, result: &str) -> config::ScriptedTool {
        config::ScriptedTool {
            name: name.to_owned(),
            description: "Rebooks.".to_owned(),
            schema: (!schema.is_null()).then_some(schema),
            result: result.to_owned(),
        }
    }

    #[test]
    fn a_call_is_answered_by_its_expression() {
        let schema = json!({"type": "object", "required": ["seat"],
            "properties": {"seat": {"type": "string"}}});
        let tools = [
            tool(
                "rebook",
                schema.clone(),
                "{'booked': arguments.seat.upperAscii()}",
            ),
            tool("ping", Value::Null, "'pong'"),
        ];
        let server = Scripted::compile("desk", &tools).unwrap();
        assert_eq!(server.list()["rebook"].schema, schema);
        assert_eq!(server.list()["ping"].schema, without_arguments());
        let seat = Map::from_iter([("seat".to_owned(), json!("34k"))]);
        assert_eq!(server.call("rebook", &seat), Ok(json!({"booked": "34K"})));
        assert_eq!(server.call("ping", &Map::new()), Ok(json!("pong")));
        for (name, told) in [("rebook", "seat"), ("gone", "has no tool 'gone'")] {
            let fault = server.call(name, &Map::new()).unwrap_err();
            assert_eq!(fault.reason, Reason::ToolFailed);
            assert!(fault.message.contains(told), "{fault}");
        }
    }

    #[test]
    fn what_cannot_work_is_said_at_its_place() {
        let tools = [
            tool("a", json!({"type": "objekt"}), "arguments"),
            tool(
                "b",
                json!({"type": "object", "properties": {}, "additionalProperties": false}),
                "arguments.seat",
            ),
            tool("b", Value::Null, "1"),
        ];
        let error = Scripted::compile("desk", &tools).unwrap_err();
        let paths: Vec<&str> = error.problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "spec.scripted.tools[name=a].schema",
                "spec.scripted.tools[name=b].result",
            ]
        );
        let twice = [tool("b", Value::Null, "1"), tool("b", Value::Null, "2")];
        let error = Scripted::compile("desk", &twice).unwrap_err();
        assert!(error.problems[0].message.contains("twice"), "{error}");
    }
}
