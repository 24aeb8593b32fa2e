//! The rules of an agent about calls: asked before each one, about what would be sent.
//!
//! `Deny` goes before `RequireApproval`, and that before `Allow`. A rule that cannot be evaluated denies. A tool that an
//! `Allow` rule is about is denied whatever no rule allows or lets a person decide; without rules a call is allowed. The
//! order of the rules means nothing: of several that deny, or that ask, the first by name is told.

use crate::config::{self, Action};
use crate::expr::{Expression, Names, Shape, Variables, Wanted};
use crate::problem::{CompileError, reason};
use crate::template::Template;
use serde_json::Value;
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Policy {
    /// By name.
    rules: Vec<Rule>,
    /// Slots that it reads as `now`.
    now: BTreeSet<String>,
}

#[derive(Debug)]
struct Rule {
    name: String,
    /// Empty: all.
    tools: BTreeSet<String>,
    when: Option<Expression>,
    action: Action,
    message: Option<Template>,
}

/// What the rules say of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allowed,
    /// A person decides.
    Asks {
        rule: String,
        /// For that person.
        message: String,
    },
    Denied {
        /// Absent where no rule allows it.
        rule: Option<String>,
        /// For the model.
        message: String,
    },
}

impl Policy {
    /// `names` are what expressions see after the trigger.
    pub(super) fn compile(
        rules: &[config::PolicyRule],
        slots: &[config::Slot],
        names: &Names,
    ) -> Result<Self, CompileError> {
        let slots: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        let names = names
            .clone()
            .fields("call", ["tool", "arguments"])
            .shape("calls", Shape::List(Box::new(Shape::Any)))
            .fields("now", &slots);
        let mut problems = CompileError::default();
        let mut compiled: Vec<Rule> = rules
            .iter()
            .map(|rule| {
                let path = format!("spec.policy[name={}]", rule.name);
                Rule {
                    name: rule.name.clone(),
                    tools: rule.tools.iter().cloned().collect(),
                    when: rule.when.as_ref().and_then(|text| {
                        problems.take(
                            format!("{path}.when"),
                            reason::INVALID_EXPRESSION,
                            Expression::compile_for(text, &names, Wanted::Bool),
                        )
                    }),
                    action: rule.action,
                    message: rule.message.as_ref().and_then(|text| {
                        problems.take(
                            format!("{path}.message"),
                            reason::INVALID_TEMPLATE,
                            Template::compile("message", text, &names),
                        )
                    }),
                }
            })
            .collect();
        problems.finish()?;
        compiled.sort_by(|left, right| left.name.cmp(&right.name));
        let mut now = BTreeSet::new();
        for rule in &compiled {
            let whole = rule.when.iter().any(|when| when.reads_whole("now"))
                || rule.message.iter().any(|text| text.reads_whole("now"));
            if whole {
                now.extend(slots.iter().map(|slot| (*slot).to_owned()));
            }
            now.extend(rule.when.iter().flat_map(|when| when.fields_of("now")));
            now.extend(rule.message.iter().flat_map(|text| text.fields_of("now")));
        }
        Ok(Self {
            rules: compiled,
            now,
        })
    }

    pub(super) fn now(&self) -> &BTreeSet<String> {
        &self.now
    }

    /// `variables` are for the rules' conditions, `input` the same for their messages.
    pub(super) fn verdict(
        &self,
        tool: &str,
        variables: &dyn Variables,
        input: impl Fn() -> Value,
    ) -> Verdict {
        let (mut judges, mut allowed) = (false, false);
        let mut asks: Option<&Rule> = None;
        for rule in self.rules.iter().filter(|rule| rule.is_about(tool)) {
            let holds = rule
                .when
                .as_ref()
                .map_or(Ok(true), |when| when.truth(variables));
            match (rule.action, holds) {
                (_, Err(fault)) => {
                    return Verdict::Denied {
                        rule: Some(rule.name.clone()),
                        message: format!("the rule '{}' could not be asked: {fault}", rule.name),
                    };
                }
                (Action::Deny, Ok(true)) => {
                    return Verdict::Denied {
                        rule: Some(rule.name.clone()),
                        message: rule.told(&input(), "denied by the rule"),
                    };
                }
                (Action::RequireApproval, Ok(true)) => {
                    asks.get_or_insert(rule);
                }
                (Action::Deny | Action::RequireApproval, Ok(false)) => {}
                (Action::Allow, Ok(holds)) => {
                    judges = true;
                    allowed |= holds;
                }
            }
        }
        if let Some(rule) = asks {
            return Verdict::Asks {
                rule: rule.name.clone(),
                message: rule.told(&input(), "asked for by the rule"),
            };
        }
        if judges && !allowed {
            return Verdict::Denied {
                rule: None,
                message: format!("no rule allows this call of '{tool}'"),
            };
        }
        Verdict::Allowed
    }
}

impl Rule {
    fn is_about(&self, tool: &str) -> bool {
        self.tools.is_empty() || self.tools.contains(tool)
    }

    /// A message that cannot be rendered gives way to the rule's name.
    fn told(&self, input: &Value, otherwise: &str) -> String {
        let message = self.message.as_ref();
        message
            .and_then(|message| message.render(input).ok())
            .unwrap_or_else(|| format!("{otherwise} '{}'", self.name))
    }
}
