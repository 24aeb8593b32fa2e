//! A model that answers from rules, for tests, examples and rehearsals.
//!
//! The first rule whose `when` holds answers: with text from a template, or with an error as a
//! provider would give it. It is as strict as a real model is not: no rule is an error that says what
//! to add. The rules see `request`: `messages`, `tools`, `prompt` (the last message of the user) and
//! `context` (what the slots held). Waiting is left to the caller.

use super::{Message, Reply, Request, Usage};
use crate::config;
use crate::expr::{Expression, Names, Wanted};
use crate::fault::{Fault, Reason};
use crate::problem::{CompileError, reason};
use crate::prompt::message_tokens;
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
    Reply(Box<Template>),
    Error {
        status: u16,
        /// How many requests still get it; absent: all.
        left: Option<AtomicU32>,
    },
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
        let names = Names::default().fields("request", ["messages", "tools", "prompt", "context"]);
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
                let says = match (&rule.reply, &rule.error) {
                    (Some(reply), None) => problems
                        .take(
                            format!("{path}.reply"),
                            reason::INVALID_TEMPLATE,
                            Template::compile("reply", reply, &names),
                        )
                        .map(|reply| Says::Reply(Box::new(reply))),
                    (None, Some(error)) => Some(Says::Error {
                        status: error.status,
                        left: error.times.map(AtomicU32::new),
                    }),
                    _ => {
                        problems.add(
                            path,
                            reason::INVALID_SPEC,
                            "a rule has exactly one of `reply` and `error`",
                        );
                        None
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
                Says::Reply(template) => {
                    let text = template.render(&variables).map_err(failed)?;
                    Outcome::Reply(reply(text, &request.messages))
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

fn request_value(request: &Request) -> Value {
    json!({
        "messages": &*request.messages,
        "tools": [],
        "prompt": request.prompt(),
        "context": request.context(),
    })
}

fn reply(text: String, messages: &[Message]) -> Reply {
    let input: usize = messages
        .iter()
        .map(|message| message_tokens(&message.content))
        .sum();
    Reply {
        usage: Usage {
            input_tokens: Some((input + tokens::REPLY_OVERHEAD) as u64),
            output_tokens: Some(tokens::count(&text) as u64),
        },
        text,
        finish_reason: "stop".to_owned(),
        ..Reply::default()
    }
}

#[cfg(test)]
#[path = "scripted_tests.rs"]
mod tests;
