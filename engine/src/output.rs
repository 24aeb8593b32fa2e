//! What a run writes to sources: which outputs, how many records of each, with which key and value.
//!
//! An output for `outcome: Done` sees `result` (with a model), `prompt`, and `now`, the slots read once more; one for `outcome: Failed`
//! sees `failure`, and null where the run did not get. Headers and partitions are the caller's.

use crate::agent::Scope;
use crate::config::{self, Format, Outcome};
use crate::expr::{Expression, Fields, Names, Shape, Variables, Wanted};
use crate::fault::{Fault, Reason};
use crate::key::{Key, type_of};
use crate::problem::{CompileError, reason};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A compiled output.
#[derive(Debug)]
pub struct Output {
    name: String,
    topic: String,
    format: Format,
    outcome: Outcome,
    when: Option<Expression>,
    items: Option<Expression>,
    key: Option<Expression>,
    value: Option<Expression>,
    /// Whether the result is JSON that fits a schema.
    has_json: bool,
}

/// One record of an output, without headers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) key: Key,
    pub(crate) value: Vec<u8>,
}

impl Output {
    /// The outputs of an agent; `names` are what its expressions see before the model.
    ///
    /// # Errors
    /// Every expression that cannot work, and every output that would have no value.
    pub fn compile_all(
        agent: &config::Agent,
        has_prompt: bool,
        names: &Names,
    ) -> Result<Vec<Self>, CompileError> {
        let mut problems = CompileError::default();
        let outputs = agent
            .outputs
            .iter()
            .filter_map(|output| {
                let own = names_of(output, agent, has_prompt, names);
                let path = format!("spec.outputs[name={}]", output.name);
                if output.value.is_none() && (!has_prompt || output.outcome == Outcome::Failed) {
                    let why = match output.outcome {
                        Outcome::Done => "the agent has neither a model nor a prompt",
                        Outcome::Failed => "a failed run has no result",
                    };
                    problems.add(
                        format!("{path}.value"),
                        reason::INVALID_SPEC,
                        format!("is needed, because {why}. For instance: {{'reason': failure.reason}}, or the event's fields"),
                    );
                }
                problems.merge(Self::compile(output, agent, &own, &path))
            })
            .collect();
        problems.finish()?;
        Ok(outputs)
    }

    fn compile(
        output: &config::Output,
        agent: &config::Agent,
        names: &Names,
        path: &str,
    ) -> Result<Self, CompileError> {
        let mut problems = CompileError::default();
        let with_item = if output.items.is_some() {
            names.clone().shape("item", Shape::Any)
        } else {
            names.clone()
        };
        let mut expression = |field: &str, text: &Option<String>, names: &Names, wanted| {
            text.as_ref().and_then(|text| {
                let compiled = Expression::compile_for(text, names, wanted);
                let path = format!("{path}.{field}");
                problems.take(path, reason::INVALID_EXPRESSION, compiled)
            })
        };
        let compiled = Self {
            name: output.name.clone(),
            topic: output.topic.clone(),
            format: output.format,
            outcome: output.outcome,
            when: expression("when", &output.when, names, Wanted::Bool),
            items: expression("items", &output.items, names, Wanted::List),
            key: expression("key", &output.key, &with_item, Wanted::Key),
            value: expression("value", &output.value, &with_item, Wanted::Anything),
            has_json: agent.result_schema.is_some(),
        };
        problems.finish()?;
        Ok(compiled)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Fields of the variable `root` that the expressions read.
    pub(crate) fn fields_of(&self, root: &str) -> BTreeSet<String> {
        self.expressions()
            .flat_map(|expression| expression.fields_of(root))
            .collect()
    }

    /// Whether an expression uses the variable `root` other than by its fields.
    pub(crate) fn reads_whole(&self, root: &str) -> bool {
        self.expressions()
            .any(|expression| expression.reads_whole(root))
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        [&self.when, &self.items, &self.key, &self.value]
            .into_iter()
            .flatten()
    }

    /// Whether an expression reads the variable `root`.
    pub(crate) fn reads(&self, root: &str) -> bool {
        self.expressions().any(|expression| expression.reads(root))
    }

    /// The records of a run, none where `when` is false or there are no items.
    ///
    /// # Errors
    /// An expression that fails; a key that is null or empty (`NullKey`); items that are no list
    /// (`OutputFailed`). All say the output's name.
    pub(crate) fn make(
        &self,
        trigger_key: Option<&Key>,
        scope: &Scope<'_>,
    ) -> Result<Vec<Made>, Fault> {
        self.made(trigger_key, scope)
            .map_err(|fault| fault.at(format_args!("output '{}'", self.name)))
    }

    fn made(&self, trigger_key: Option<&Key>, scope: &Scope<'_>) -> Result<Vec<Made>, Fault> {
        if let Some(when) = &self.when
            && !when.truth(scope)?
        {
            return Ok(Vec::new());
        }
        let Some(expression) = &self.items else {
            return Ok(vec![self.one(trigger_key, scope)?]);
        };
        match expression.evaluate(scope)? {
            Value::Array(items) => items
                .iter()
                .map(|item| self.one(trigger_key, &scope.with_item(item)))
                .collect(),
            other => Err(Fault::new(
                Reason::OutputFailed,
                format!("`items` gives {}, a list is needed", type_of(&other)),
            )),
        }
    }

    fn one(&self, trigger_key: Option<&Key>, variables: &dyn Variables) -> Result<Made, Fault> {
        let key = match &self.key {
            Some(key) => key.key(variables)?,
            None => trigger_key.cloned(),
        };
        let key = key.ok_or_else(|| {
            let whose = match &self.key {
                Some(key) => format!("`{}` gives", key.text()),
                None => "the trigger has".to_owned(),
            };
            Fault::new(
                Reason::NullKey,
                format!("{whose} no key, but every record that is written needs one"),
            )
        })?;
        let value = match &self.value {
            Some(value) => value.evaluate(variables)?,
            None => self.default_value(variables),
        };
        let value = match (self.format, value) {
            (Format::Text, Value::String(text)) => text.into_bytes(),
            (_, value) => value.to_string().into_bytes(),
        };
        Ok(Made { key, value })
    }

    /// The model's JSON or text, or the prompt for others to infer on.
    fn default_value(&self, variables: &dyn Variables) -> Value {
        let field = |root: &str, field: &str| match variables.get(root) {
            Some(crate::expr::Variable::Json(value)) => value.get(field).cloned(),
            _ => None,
        };
        if self.has_json {
            return field("result", "json").unwrap_or(Value::Null);
        }
        match field("result", "text") {
            Some(text) => json!({"text": text}),
            None => json!({"messages": field("prompt", "messages").unwrap_or(Value::Null)}),
        }
    }
}

fn result_shape(json: Shape) -> Shape {
    let fields = [
        ("text", Shape::Text),
        ("json", json),
        ("usage", Shape::Any),
        ("finish_reason", Shape::Text),
    ];
    Shape::Object(Fields {
        known: fields
            .map(|(field, shape)| (field.to_owned(), shape))
            .into(),
        closed: true,
        strict: true,
    })
}

fn names_of(
    output: &config::Output,
    agent: &config::Agent,
    has_prompt: bool,
    names: &Names,
) -> Names {
    let mut own = names.clone();
    if has_prompt {
        own = own.fields("prompt", ["messages", "tokens", "hash"]);
    }
    if output.outcome == Outcome::Done {
        own = own.fields("now", agent.slots.iter().map(|slot| slot.name.as_str()));
    }
    if agent.tools.is_some() {
        own = own.shape("calls", Shape::List(Box::new(Shape::Any)));
    }
    match output.outcome {
        Outcome::Failed => own.fields("failure", ["reason", "message"]),
        Outcome::Done if agent.model.is_some() => {
            let json = agent
                .result_schema
                .as_ref()
                .map_or(Shape::Any, Shape::of_schema);
            own.shape("result", result_shape(json))
        }
        Outcome::Done => own,
    }
}
