//! A call on its way: read, completed, checked, judged; then made by whoever drives the engine, or over.

use super::park::{Asking, Settled};
use super::policy::Verdict;
use super::result::{called, refused, unknown};
use super::{ARGUMENT, Agent, CALLS_MAX, Does, Emit, KEY, Offer, Tool};
use crate::agent::assemble::Freshness;
use crate::agent::scope::Scope;
use crate::agent::{Now, Ready, Trigger};
use crate::config::Repeat;
use crate::expr::{Variable, Variables};
use crate::fault::{Fault, Reason};
use crate::json;
use crate::key::Key;
use crate::lookup::Views;
use crate::model::scripted::call_value;
use crate::model::{CallOutcome, Called, ToolCall};
use crate::schema::Schema;
use serde_json::{Map, Value, json};

/// What is to be done about a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Prepared {
    /// Nothing more: it was refused, or is carried out with the run.
    Over(Called),
    /// To be sent.
    Send(Invocation),
    /// To be looked up, see [`Agent::look_up`].
    Look(Look),
    /// A person is to be asked first, see [`Agent::park`].
    Ask(Asking),
}

/// A call of a server's tool, as it is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Invocation {
    pub server: String,
    /// As the server calls it.
    pub tool: String,
    pub arguments: Map<String, Value>,
    /// The same whenever this call of this run is made.
    pub key: String,
    pub repeat: Repeat,
    call: ToolCall,
    approved_by: Option<String>,
}

/// A lookup that a model asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    key: String,
    arguments: Value,
    call: ToolCall,
    approved_by: Option<String>,
}

impl Invocation {
    /// The tool's answer; `failed`: it says that it failed. `milliseconds`: since it was asked.
    pub fn answered(self, result: Value, failed: bool, milliseconds: u64) -> Called {
        let outcome = if failed {
            CallOutcome::Failed
        } else {
            CallOutcome::Done
        };
        self.over(outcome, result, milliseconds)
    }

    /// It certainly was not made.
    pub fn not_made(self, why: &str, milliseconds: u64) -> Called {
        let result = Value::String(format!("The call was not made: {why}."));
        self.over(CallOutcome::Failed, result, milliseconds)
    }

    /// It may have been made.
    pub fn unknown(self, why: &str, milliseconds: u64) -> Called {
        let result = Value::String(unknown(self.repeat, why));
        self.over(CallOutcome::Unknown, result, milliseconds)
    }

    fn over(self, outcome: CallOutcome, result: Value, milliseconds: u64) -> Called {
        let arguments = Value::Object(self.arguments);
        Called {
            approved_by: self.approved_by,
            ..called(&self.call, arguments, outcome, result, milliseconds)
        }
    }
}

impl Agent {
    /// Whether [`Agent::prepare`] needs slots read once more, see [`Agent::look_for_policy`].
    pub fn policy_looks_again(&self) -> bool {
        let tools = self.tools.as_ref();
        tools.is_some_and(|tools| !tools.policy_reads().is_empty())
    }

    /// What is to be done about the call of this place in the run's last reply. `before`: those of the reply before it;
    /// `settled`: what a person said of this one.
    #[allow(clippy::too_many_arguments, reason = "all that a call depends on")]
    pub fn prepare(
        &self,
        trigger: &Trigger,
        ready: &Ready,
        offer: &Offer,
        before: &[Called],
        settled: Option<&Settled>,
        now: Option<&Now>,
        call: &ToolCall,
    ) -> Prepared {
        match self.prepared(trigger, ready, offer, before, settled, now, call) {
            Ok(prepared) => prepared,
            Err(over) => Prepared::Over(*over),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "all that a call depends on")]
    fn prepared(
        &self,
        trigger: &Trigger,
        ready: &Ready,
        offer: &Offer,
        before: &[Called],
        settled: Option<&Settled>,
        now: Option<&Now>,
        call: &ToolCall,
    ) -> Result<Prepared, Box<Called>> {
        let place = before.len();
        let deny = |why: String| Box::new(refused(call, Value::Null, CallOutcome::Denied, why));
        let found = self.tools.as_ref().and_then(|tools| {
            let tool = tools.get(&call.tool)?;
            Some((tools, tool, offer.schemas.get(&call.tool)?))
        });
        let Some((tools, tool, schema)) = found else {
            return Err(deny(format!(
                "there is no tool '{}'; the tools are: {}",
                crate::fault::quote(&call.tool),
                offer
                    .specs
                    .iter()
                    .map(|spec| spec.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            )));
        };
        if place >= CALLS_MAX {
            return Err(deny(format!(
                "no more than {CALLS_MAX} calls are made at once; ask for this one again"
            )));
        }
        let arguments = tool
            .arguments(call, schema, &Scope::new(&trigger.event, &ready.input))
            .map_err(|(outcome, why)| Box::new(refused(call, Value::Null, outcome, why)))?;
        let sent = Value::Object(arguments.clone());
        let asked = json!({"tool": call.tool, "arguments": sent});
        let former: Vec<Value> = ready.called().chain(before).map(call_value).collect();
        let former = Value::Array(former);
        let none = json!({});
        let now = now.map_or(&none, |now| &now.values);
        let more = [("call", &asked), ("calls", &former), ("now", now)];
        let scope = Scope {
            more: &more,
            ..Scope::new(&trigger.event, &ready.input)
        };
        let input = || {
            let mut input = ready.input.as_object().cloned().unwrap_or_default();
            input.extend(more.map(|(name, value)| (name.to_owned(), value.clone())));
            Value::Object(input)
        };
        let verdict = tools.policy.verdict(&call.tool, &scope, input);
        let denied = |rule: Option<String>, message: String| {
            Box::new(Called {
                rule,
                ..refused(call, sent.clone(), CallOutcome::Denied, message)
            })
        };
        let approved_by = match (verdict, settled) {
            // A rule decides about the moment of the call, whoever approved it before.
            (Verdict::Denied { rule, message }, _) => return Err(denied(rule, message)),
            (_, Some(settled)) => {
                let by = settled.approves(&call.tool, &sent);
                Some(by.map_err(|why| denied(Some(settled.rule.clone()), why))?)
            }
            (Verdict::Asks { rule, message }, None) => {
                return Ok(Prepared::Ask(Asking {
                    rule,
                    message,
                    tool: call.tool.clone(),
                    arguments: sent,
                    approval: ready.call_key(trigger, place),
                }));
            }
            (Verdict::Allowed, None) => None,
        };
        Ok(match &tool.does {
            Does::Server {
                server,
                tool,
                repeat,
            } => Prepared::Send(Invocation {
                server: server.clone(),
                tool: tool.clone(),
                arguments,
                key: ready.call_key(trigger, place),
                repeat: *repeat,
                call: call.clone(),
                approved_by,
            }),
            Does::Emit(emit) => Prepared::Over(match emit.key(trigger, &ready.input, &asked) {
                // It goes with the run's outputs, which it cannot be told of before.
                Ok(_) => Called {
                    approved_by,
                    ..called(
                        call,
                        sent,
                        CallOutcome::Done,
                        Value::String("Accepted; it is written when this run is done.".to_owned()),
                        0,
                    )
                },
                Err(fault) => refused(call, sent, CallOutcome::Failed, fault.message),
            }),
            Does::View(_) => Prepared::Look(Look {
                key: match arguments.get(KEY) {
                    Some(Value::String(key)) => key.clone(),
                    _ => String::new(),
                },
                arguments: sent,
                call: call.clone(),
                approved_by,
            }),
        })
    }

    /// Makes a lookup of a view tool, at the trigger's time like those of slots.
    pub fn look_up(
        &self,
        trigger: &Trigger,
        ready: &Ready,
        look: Look,
        views: &dyn Views,
        freshness: &Freshness,
        milliseconds: u64,
    ) -> Called {
        let Look {
            key,
            arguments,
            call,
            approved_by,
        } = look;
        let tool = self.tools.as_ref().and_then(|tools| tools.get(&call.tool));
        let Some(Does::View(view)) = tool.map(|tool| &tool.does) else {
            return refused(
                &call,
                arguments,
                CallOutcome::Failed,
                "it looks nothing up any more",
            );
        };
        let variables = WithArgument {
            scope: Scope::new(&trigger.event, &ready.input),
            argument: &key,
        };
        match view.lookup.read(&variables, views, trigger.time) {
            Ok(read) => {
                let mut result = read.value;
                let behind = freshness.views.get(view.lookup.view());
                let stale_ms = behind.map_or(0, |view| view.stale_ms);
                if stale_ms > 0 || read.beyond_limit > 0 {
                    let mut told = Map::from_iter([("found".to_owned(), result.take())]);
                    if stale_ms > 0 {
                        let seconds = crate::agent::assemble::stale_seconds(stale_ms);
                        told.insert("stale_seconds".to_owned(), seconds.into());
                    }
                    if read.beyond_limit > 0 {
                        told.insert("left_out".to_owned(), read.beyond_limit.into());
                    }
                    result = Value::Object(told);
                }
                Called {
                    approved_by,
                    ..called(&call, arguments, CallOutcome::Done, result, milliseconds)
                }
            }
            Err(fault) => refused(&call, arguments, CallOutcome::Failed, fault.message),
        }
    }
}

impl Tool {
    /// What is sent, or why nothing is.
    fn arguments(
        &self,
        call: &ToolCall,
        schema: &Schema,
        scope: &Scope<'_>,
    ) -> Result<Map<String, Value>, (CallOutcome, String)> {
        let denied = |why: String| (CallOutcome::Denied, why);
        let written = match call.arguments.trim() {
            // Of a tool without arguments.
            "" => "{}",
            written => written,
        };
        let given = json::decode(written.as_bytes())
            .map_err(|fault| denied(format!("the arguments are no JSON: {}", fault.message)))?;
        let Value::Object(mut arguments) = given else {
            return Err(denied("the arguments are no JSON object".to_owned()));
        };
        for (name, expression) in &self.fixed {
            let value = expression.evaluate(scope).map_err(|fault| {
                let why = format!("its argument '{name}' could not be made: {}", fault.message);
                (CallOutcome::Failed, why)
            })?;
            arguments.insert(name.clone(), value);
        }
        let whole = Value::Object(arguments);
        // For whoever gave them; those that are fixed are no secret of a kind that a model must not know why it failed.
        let complaints = schema.complaints(&whole, 8);
        match schema.conform(whole) {
            Ok(Value::Object(arguments)) => Ok(arguments),
            Ok(_) => Err(denied("the arguments are no JSON object".to_owned())),
            Err(_) => Err(denied(format!(
                "the arguments do not fit the tool's schema: {}",
                self.tellable(&complaints)
            ))),
        }
    }

    /// Complaints without those about what the model does not know of.
    fn tellable(&self, complaints: &[String]) -> String {
        let told: Vec<&str> = complaints
            .iter()
            .map(String::as_str)
            .filter(|complaint| {
                let mut fixed = self.fixed.iter();
                !fixed.any(|(name, _)| complaint.contains(&format!("`/{name}")))
            })
            .map(|complaint| crate::fault::shorten(complaint, 400))
            .collect();
        if told.is_empty() {
            "an argument that is set for you does not fit".to_owned()
        } else {
            told.join("; ")
        }
    }
}

impl Emit {
    /// The key of the event that a call writes.
    pub(in crate::agent) fn key(
        &self,
        trigger: &Trigger,
        input: &Value,
        call: &Value,
    ) -> Result<Key, Fault> {
        let more = [("call", call)];
        let scope = Scope {
            more: &more,
            ..Scope::new(&trigger.event, input)
        };
        let key = match &self.key {
            Some(key) => key.key(&scope)?,
            None => trigger.key.clone(),
        };
        key.ok_or_else(|| {
            Fault::new(
                Reason::NullKey,
                "the event's key is null or empty. Give the tool's emit a key",
            )
        })
    }
}

impl Ready {
    /// The same whenever the call of this place in the last reply is made: `<run>-<step>-<place>`.
    fn call_key(&self, trigger: &Trigger, place: usize) -> String {
        format!("{}-{}-{}", trigger.run, self.heard(), place + 1)
    }

    /// All calls of finished steps, oldest first.
    pub(in crate::agent) fn called(&self) -> impl Iterator<Item = &Called> {
        self.said.iter().flat_map(|did| did.results())
    }
}

struct WithArgument<'a> {
    scope: Scope<'a>,
    argument: &'a str,
}

impl Variables for WithArgument<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        if name == ARGUMENT {
            return Some(Variable::Text(self.argument));
        }
        self.scope.get(name)
    }
}
