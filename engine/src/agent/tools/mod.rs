//! What a model may call: the tools of an agent, and the way of a call from what the model wrote to what
//! came of it.
//!
//! [`Agent::offer`] makes of what the servers list what the model is told. A call goes through
//! [`Agent::prepare`]: its arguments are read, `fixed` ones are put over whatever the model gave, the whole is
//! checked against the tool's schema, and every rule of the policy is asked about it as it would be sent. What
//! is left is made by whoever drives the engine, and finished here. No call fails a run: the model is told.
//!
//! Invariant: what the model neither sees nor sets is the same whatever it writes.

mod offer;
mod park;
mod policy;
mod prepare;
mod result;

pub use offer::{Listed, Listing, Offer};
pub use park::{Asking, Settled};
pub use prepare::{Invocation, Look, Prepared};

use super::Agent;
use crate::config::{self, Repeat};
use crate::expr::{Expression, Names, Shape, Wanted};
use crate::lookup::Lookup;
use crate::problem::{CompileError, reason};
use crate::schema::Schema;
use policy::Policy;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Calls of one reply that are made; what a model asks for beyond is denied.
pub(super) const CALLS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Tools {
    /// By name.
    tools: Vec<Tool>,
    pub(super) max_rounds: usize,
    policy: Policy,
    approval: Option<config::Approval>,
}

#[derive(Debug)]
struct Tool {
    name: String,
    description: Option<String>,
    does: Does,
    /// By the argument's name.
    fixed: Vec<(String, Expression)>,
}

#[derive(Debug)]
enum Does {
    Server {
        server: String,
        tool: String,
        repeat: Repeat,
    },
    Emit(Emit),
    View(Box<View>),
}

/// Writes an event.
#[derive(Debug)]
pub(super) struct Emit {
    pub(super) topic: String,
    pub(super) key: Option<Expression>,
    /// Of the arguments.
    schema: Arc<Schema>,
    asked: Value,
}

/// Reads a view.
#[derive(Debug)]
struct View {
    lookup: Lookup,
    schema: Arc<Schema>,
    asked: Value,
}

impl Tools {
    /// `names` are what expressions see after the trigger.
    pub(super) fn compile(
        stage: &config::Stage,
        tools: &config::Tools,
        slots: &[config::Slot],
        names: &Names,
    ) -> Result<Self, CompileError> {
        let mut problems = CompileError::default();
        let mut seen = BTreeSet::new();
        let mut compiled = Vec::new();
        for tool in &tools.tools {
            let path = path(&tool.name);
            if !seen.insert(tool.name.as_str()) {
                problems.add(
                    &path,
                    reason::INVALID_SPEC,
                    format!("the name '{}' is given twice", tool.name),
                );
            }
            compiled.extend(problems.merge(Tool::compile(stage, tools, tool, names, &path)));
        }
        let policy = problems.merge(Policy::compile(&tools.policy, slots, names));
        if tools.approval.is_none() && tools.policy.iter().any(config::PolicyRule::asks) {
            problems.add(
                "spec.policy",
                reason::INVALID_SPEC,
                "a rule asks for approval, and nothing says how a person is asked",
            );
        }
        problems.finish()?;
        Ok(Self {
            tools: compiled,
            max_rounds: tools.max_rounds as usize,
            policy: policy.unwrap_or_default(),
            approval: tools.approval.clone(),
        })
    }

    fn get(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// What a call of this tool writes, if it is one that does.
    pub(super) fn emit(&self, name: &str) -> Option<&Emit> {
        match self.get(name).map(|tool| &tool.does) {
            Some(Does::Emit(emit)) => Some(emit),
            _ => None,
        }
    }

    /// The slots that the policy reads as `now`.
    pub(super) fn policy_reads(&self) -> &BTreeSet<String> {
        self.policy.now()
    }

    /// The views that tools read.
    pub(super) fn views(&self) -> impl Iterator<Item = &str> {
        self.tools.iter().filter_map(|tool| match &tool.does {
            Does::View(view) => Some(view.lookup.view()),
            Does::Server { .. } | Does::Emit(_) => None,
        })
    }
}

impl Tool {
    fn compile(
        stage: &config::Stage,
        tools: &config::Tools,
        tool: &config::Tool,
        names: &Names,
        path: &str,
    ) -> Result<Self, CompileError> {
        let mut problems = CompileError::default();
        let fixed = tool.fixed.iter().filter_map(|(name, text)| {
            let compiled = problems.take(
                format!("{path}.fixed[{name}]"),
                reason::INVALID_EXPRESSION,
                Expression::compile(text, names),
            );
            Some((name.clone(), compiled?))
        });
        let fixed: Vec<_> = fixed.collect();
        let does = match &tool.does {
            config::ToolDoes::Server {
                server,
                tool,
                repeat,
            } => {
                if !tools.servers.contains_key(server) {
                    problems.add(
                        format!("{path}.mcp.toolServerRef.name"),
                        reason::REFERENCE_NOT_FOUND,
                        format!("there is no ToolServer '{server}'"),
                    );
                }
                Some(Does::Server {
                    server: server.clone(),
                    tool: tool.clone(),
                    repeat: *repeat,
                })
            }
            config::ToolDoes::Emit {
                topic, key, schema, ..
            } => {
                let with_call = names.clone().fields("call", ["tool", "arguments"]);
                let key = key.as_ref().and_then(|text| {
                    problems.take(
                        format!("{path}.emit.key"),
                        reason::INVALID_EXPRESSION,
                        Expression::compile_for(text, &with_call, Wanted::Key),
                    )
                });
                let asked = schema.clone().unwrap_or_else(|| json!({"type": "object"}));
                let compiled = problems.take(
                    format!("{path}.schema"),
                    reason::INVALID_SCHEMA,
                    Schema::compile(&asked),
                );
                compiled.map(|schema| {
                    Does::Emit(Emit {
                        topic: topic.clone(),
                        key,
                        schema: Arc::new(schema),
                        asked,
                    })
                })
            }
            config::ToolDoes::View { lookup } => {
                let names = names.clone().shape(ARGUMENT, Shape::Text);
                let lookup = &config::Lookup {
                    by: config::By::Key(ARGUMENT.to_owned()),
                    ..lookup.clone()
                };
                problems
                    .merge(View::compile(stage, lookup, &names, path))
                    .map(|view| Does::View(Box::new(view)))
            }
        };
        problems.finish()?;
        does.map(|does| Self {
            name: tool.name.clone(),
            description: tool.description.clone(),
            does,
            fixed,
        })
        .ok_or_else(|| CompileError::one(path, reason::INVALID_SPEC, "the tool does nothing"))
    }
}

/// What a view tool's lookup sees of the call, and what the model calls it.
const ARGUMENT: &str = "argument";
const KEY: &str = "key";

impl View {
    fn compile(
        stage: &config::Stage,
        lookup: &config::Lookup,
        names: &Names,
        path: &str,
    ) -> Result<Self, CompileError> {
        let path = format!("{path}.view");
        let mut problems = CompileError::default();
        let compiled = problems.merge(Lookup::compile(lookup, names, &path));
        super::slots::known(&mut problems, lookup, &stage.views, &path);
        let asked = json!({
            "type": "object",
            "properties": {KEY: {"type": "string", "description": "The key to look up."}},
            "required": [KEY],
            "additionalProperties": false,
        });
        let schema = problems.take(&path, reason::INVALID_SCHEMA, Schema::compile(&asked));
        problems.finish()?;
        match (compiled, schema) {
            (Some(lookup), Some(schema)) => Ok(Self {
                lookup,
                schema: Arc::new(schema),
                asked,
            }),
            _ => Err(CompileError::one(
                path,
                reason::INVALID_SPEC,
                "the lookup cannot be compiled",
            )),
        }
    }
}

impl Agent {
    /// Names of the servers whose tools the agent has.
    pub fn tool_servers(&self) -> BTreeSet<&str> {
        let tools = self.tools.iter().flat_map(|tools| &tools.tools);
        tools
            .filter_map(|tool| match &tool.does {
                Does::Server { server, .. } => Some(server.as_str()),
                Does::Emit(_) | Does::View(_) => None,
            })
            .collect()
    }
}

fn path(tool: &str) -> String {
    format!("spec.tools[name={tool}]")
}
