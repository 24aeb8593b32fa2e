//! A model that answers from rules, for tests, examples and rehearsals.
//!
//! The first rule whose `when` holds answers: with text from a template, with calls of tools, or with an
//! error as a provider would give it. It is as strict as a real model is not: no rule is an error that says
//! what to add. The rules see `request`: `messages`, `tools`, `prompt` (the last message of the user),
//! `context` (what the slots held) and `calls` (what was called so far, with what came of it). Waiting is
//! left to the caller.

use super::{Called, Reply, Request, Said, ToolCall, Usage};
use crate::config;
use crate::expr::{Expression, Names, Wanted};
use crate::fault::{Fault, Reason};
use crate::key::type_of;
use crate::problem::{CompileError, reason};
use crate::template::Template;
use crate::tokens;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

/// The compiled rules of a scripted model. Shared between threads.
#[derive(Debug)]
pub struct Scripted {
    model: String,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    when: Option<Expression>,
    says: Says,
    delay_ms: u64,
}

#[derive(Debug)]
enum Says {
    Reply {
        text: Option<Box<Template>>,
        calls: Vec<Calls>,
    },
    Error {
        status: u16,
        /// How many requests still get it; absent: all.
        left: Option<AtomicU32>,
    },
}

#[derive(Debug)]
struct Calls {
    tool: String,
    arguments: Option<Expression>,
}

/// What a rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub outcome: Outcome,
    /// How long the provider is to seem to take.
    pub delay_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Reply(Reply),
    /// The HTTP status of a provider's refusal; retried as that status would be.
    Error {
        status: u16,
    },
}

impl Scripted {
    /// `model` is how messages call it. Paths of problems are those of a Model's spec.
    ///
    /// # Errors
    /// Every expression or template that cannot work, and every rule that says nothing or two things.
    pub fn compile(model: &str, rules: &[config::Rule]) -> Result<Self, CompileError> {
        let fields = ["messages", "tools", "prompt", "context", "calls"];
        let names = Names::default().fields("request", fields);
        let mut problems = CompileError::default();
        let rules = rules
            .iter()
            .enumerate()
            .filter_map(|(place, rule)| {
                let path = format!("spec.scripted.rules[{place}]");
                let when = rule.when.as_ref().and_then(|text| {
                    problems.take(
                        format!("{path}.when"),
                        reason::INVALID_EXPRESSION,
                        Expression::compile_for(text, &names, Wanted::Bool),
                    )
                });
                let says = match (&rule.error, &rule.reply, &rule.tool_calls[..]) {
                    (Some(error), None, []) => Some(Says::Error {
                        status: error.status,
                        left: error.times.map(AtomicU32::new),
                    }),
                    (None, None, []) | (Some(_), ..) => {
                        problems.add(
                            path,
                            reason::INVALID_SPEC,
                            "a rule answers with `reply`, `toolCalls` or both, or else with `error` alone",
                        );
                        None
                    }
                    (None, reply, calls) => {
                        let text = reply.as_ref().and_then(|reply| {
                            problems.take(
                                format!("{path}.reply"),
                                reason::INVALID_TEMPLATE,
                                Template::compile("reply", reply, &names),
                            )
                        });
                        let calls = problems.merge(compile_calls(calls, &names, &path));
                        calls.map(|calls| Says::Reply {
                            text: text.map(Box::new),
                            calls,
                        })
                    }
                };
                says.map(|says| Rule {
                    when,
                    says,
                    delay_ms: rule.delay_ms,
                })
            })
            .collect();
        problems.finish()?;
        Ok(Self {
            model: model.to_owned(),
            rules,
        })
    }

    /// What the first rule that holds says. A rule whose errors are used up is passed over.
    ///
    /// # Errors
    /// `ModelFailed` where no rule holds or one cannot be evaluated: asking again would not help.
    pub fn answer(&self, request: &Request) -> Result<Answer, Fault> {
        let variables = Map::from_iter([("request".to_owned(), request_value(request))]);
        let variables = Value::Object(variables);
        for (place, rule) in self.rules.iter().enumerate() {
            let failed = |fault: Fault| {
                let message = format!("model '{}', rule {place}: {}", self.model, fault.message);
                Fault::new(Reason::ModelFailed, message)
            };
            if let (Some(when), Value::Object(variables)) = (&rule.when, &variables)
                && !when.truth(variables).map_err(failed)?
            {
                continue;
            }
            let outcome = match &rule.says {
                Says::Reply { text, calls } => {
                    let text = text.as_ref().map(|text| text.render(&variables));
                    let text = text.transpose().map_err(failed)?.unwrap_or_default();
                    let calls = (1..).zip(calls).map(|(number, calls)| {
                        Ok(ToolCall {
                            // As unique as those of a provider: a run has so many calls before.
                            id: format!("call-{}-{number}", request.calls().count()),
                            tool: calls.tool.clone(),
                            arguments: calls.arguments(&variables)?,
                        })
                    });
                    let calls = calls.collect::<Result<_, Fault>>().map_err(failed)?;
                    Outcome::Reply(reply(text, calls, request))
                }
                Says::Error { status, left } => {
                    if left.as_ref().is_some_and(|left| !take_one(left)) {
                        continue;
                    }
                    Outcome::Error { status: *status }
                }
            };
            return Ok(Answer {
                outcome,
                delay_ms: rule.delay_ms,
            });
        }
        Err(Fault::new(
            Reason::ModelFailed,
            format!(
                "model '{}': none of its {} scripted rules holds for this request. Add one without `when` at the end, as {{reply: ...}}",
                self.model,
                self.rules.len()
            ),
        ))
    }
}

fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    })
    .is_ok()
}

impl Calls {
    /// As JSON.
    fn arguments(&self, variables: &Value) -> Result<String, Fault> {
        let (Some(arguments), Value::Object(variables)) = (&self.arguments, variables) else {
            return Ok("{}".to_owned());
        };
        match arguments.evaluate(variables)? {
            Value::Object(arguments) => Ok(Value::Object(arguments).to_string()),
            other => Err(Fault::new(
                Reason::ExpressionFailed,
                format!(
                    "`{}` gives {}, a map of arguments is needed",
                    arguments.text(),
                    type_of(&other)
                ),
            )),
        }
    }
}

fn compile_calls(
    calls: &[config::RuleToolCall],
    names: &Names,
    path: &str,
) -> Result<Vec<Calls>, CompileError> {
    let mut problems = CompileError::default();
    let compiled = calls.iter().enumerate().map(|(place, call)| Calls {
        tool: call.tool.clone(),
        arguments: call.arguments.as_ref().and_then(|text| {
            problems.take(
                format!("{path}.toolCalls[{place}].arguments"),
                reason::INVALID_EXPRESSION,
                Expression::compile(text, names),
            )
        }),
    });
    let compiled = compiled.collect();
    problems.finish()?;
    Ok(compiled)
}

fn request_value(request: &Request) -> Value {
    let said = request.said.iter().flat_map(message_values);
    let messages: Vec<Value> = request
        .messages
        .iter()
        .map(|message| json!({"role": message.role, "content": message.content}))
        .chain(said)
        .collect();
    let tools = if request.may_call {
        &*request.tools
    } else {
        &[]
    };
    let calls: Vec<Value> = request.calls().map(call_value).collect();
    json!({
        "messages": messages,
        "tools": tools,
        "prompt": request.prompt(),
        "context": request.context(),
        "calls": calls,
    })
}

fn message_values(said: &Said) -> Vec<Value> {
    match said {
        Said::Again(text) => vec![json!({"role": "user", "content": text})],
        Said::Reply { text, .. } => vec![json!({"role": "assistant", "content": text})],
        Said::Results(called) => called
            .iter()
            .map(|called| json!({"role": "tool", "content": called.content()}))
            .collect(),
    }
}

/// A call as expressions see it.
pub(crate) fn call_value(called: &Called) -> Value {
    json!({
        "tool": called.tool,
        "arguments": called.arguments,
        "outcome": called.outcome,
        "result": called.result,
        "approved_by": called.approved_by,
    })
}

fn reply(text: String, calls: Vec<ToolCall>, request: &Request) -> Reply {
    let asked: usize = calls
        .iter()
        .map(|call| tokens::count(&call.tool) + tokens::count(&call.arguments))
        .sum();
    Reply {
        usage: Usage {
            input_tokens: Some(request.tokens() as u64),
            output_tokens: Some((tokens::count(&text) + asked) as u64),
        },
        text,
        finish_reason: if calls.is_empty() {
            "stop".to_owned()
        } else {
            "tool_calls".to_owned()
        },
        calls,
        ..Reply::default()
    }
}

#[cfg(test)]
#[path = "scripted_tests.rs"]
mod tests;
