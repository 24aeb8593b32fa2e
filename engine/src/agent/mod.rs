//! One agent: from a trigger to what is written, as pure steps.
//!
//! [`Agent::trigger`] reads a record; [`Agent::assemble`] reads the slots and makes the prompt;
//! whoever drives the engine asks the model and makes the calls that it asks for ([`Agent::next`]);
//! [`Agent::complete`] makes outputs, the conversation's turn and the audit record. [`Agent::skip`], [`Agent::fail`] and
//! [`Agent::refuse`] end a run in the other ways. Each ends in one [`Completion`], whose records go in
//! one transaction with the trigger's offset.
//!
//! Reading, waiting, asking, retrying and writing are left to the caller. Invariant: every step is a
//! function of its arguments, times included, so replay gives the same bytes.

mod again;
mod answer;
mod assemble;
mod complete;
mod end;
mod for_each;
mod input;
pub mod intake;
mod once;
mod origin;
mod scope;
mod slots;
mod steps;
#[cfg(test)]
mod tests;
mod tools;
mod trigger;

pub use again::Now;
pub use assemble::{Assembled, Assembly, Context, Freshness, Ready, ViewFreshness};
pub use origin::Origin;
pub(crate) use scope::Scope;
pub use steps::{Heard, Next, Round};
pub use tools::{Asking, Invocation, Listed, Listing, Look, Offer, Prepared, Settled};
pub use trigger::Trigger;

use crate::audit;
use crate::config;
use crate::conversation::{Appended, Limits};
use crate::expr::{Expression, Names, Shape, Wanted};
use crate::journal::Change;
use crate::output::Output;
use crate::problem::{CompileError, reason};
use crate::prompt::Prompt;
use crate::record::NewRecord;
use crate::run::sha256;
use slots::Slot;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A compiled agent. Shared between threads.
#[derive(Debug)]
pub struct Agent {
    namespace: String,
    name: String,
    /// `<namespace>/<name>`.
    full_name: String,
    origin: Origin,
    trigger: trigger::Rules,
    /// The topic that runs start from, if not the origin's.
    input: Option<String>,
    /// Each after those that it names.
    slots: Vec<Slot>,
    when: Option<Expression>,
    conversation: Option<Conversation>,
    prompt: Option<Prompt>,
    model: Option<config::Model>,
    answer: Option<answer::Answer>,
    tools: Option<tools::Tools>,
    outputs: Vec<Output>,
    /// Slots that outputs read as `now`.
    again: BTreeSet<String>,
    delivery: config::Delivery,
    audit: config::Audit,
    topics: config::AgentTopics,
    spec_hash: String,
}

#[derive(Debug)]
struct Conversation {
    topic: String,
    limits: Limits,
    user_text: Option<Expression>,
}

/// What a run comes to: all of it is written in one transaction, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Outputs, turn and tombstones, audit record, dead letter.
    pub records: Vec<NewRecord>,
    /// For [`crate::conversation::Store::apply`], once the transaction is committed.
    pub turn: Option<Appended>,
    /// For [`crate::journal::Store::apply`], likewise; what the journal had of the run itself ends with
    /// [`crate::journal::Store::ending`].
    pub journal: Vec<Change>,
    /// For whoever watches: the audit record with all values, whatever was written.
    pub summary: Arc<audit::Record>,
}

impl Agent {
    /// Compiles the agent of a stage; paths of problems are those of an Agent's spec.
    ///
    /// # Errors
    /// Everything that cannot work: expressions, templates, slots that need each other, outputs
    /// without a value, and a trigger that is not there.
    pub fn compile(stage: &config::Stage) -> Result<Self, CompileError> {
        let config::Role::Agent(agent) = &stage.role else {
            return Err(CompileError::one(
                "spec",
                reason::INVALID_SPEC,
                "the stage is no agent",
            ));
        };
        let origin = Origin::compile(&agent.trigger, stage)?;
        let mut problems = CompileError::default();
        let event_names = origin.names();
        let trigger = problems.merge(trigger::Rules::compile(agent, &stage.views, &event_names));
        let names = run_names(agent, trigger::with_match(&agent.trigger, event_names));
        let slots = problems.merge(slots::compile(agent, &stage.views, &names));
        let when = agent.when.as_ref().and_then(|text| {
            problems.take(
                "spec.when",
                reason::INVALID_EXPRESSION,
                Expression::compile_for(text, &names, Wanted::Bool),
            )
        });
        let prompt = problems.merge(Prompt::compile(
            agent,
            &names.clone().shape("time", Shape::Text),
        ));
        let conversation = problems.merge(compile_conversation(agent, &names));
        let answer = problems.merge(compile_answer(agent));
        let has_prompt = agent.prompt.is_some() || agent.model.is_some();
        let outputs = problems.merge(Output::compile_all(agent, has_prompt, &names));
        let tools = agent.tools.as_ref().and_then(|tools| {
            problems.merge(tools::Tools::compile(stage, tools, &agent.slots, &names))
        });
        if agent.tools.is_some() && agent.model.is_none() {
            problems.add(
                "spec.tools",
                reason::INVALID_SPEC,
                "tools are called by a model. Add modelRef, or leave out tools",
            );
        }
        problems.finish()?;
        let (Some(trigger), Some(slots), Some(prompt), Some(conversation), Some(outputs)) =
            (trigger, slots, prompt, conversation, outputs)
        else {
            return Err(CompileError::one(
                "spec",
                reason::INVALID_SPEC,
                "the agent cannot be compiled",
            ));
        };
        let again = again::named(&outputs, &slots);
        Ok(Self {
            full_name: format!("{}/{}", stage.namespace, agent.name),
            namespace: stage.namespace.clone(),
            name: agent.name.clone(),
            origin,
            trigger,
            input: agent.trigger.input.clone(),
            slots,
            when,
            conversation,
            prompt,
            model: agent.model.clone(),
            answer: answer.flatten(),
            tools,
            again,
            outputs,
            delivery: agent.delivery.clone(),
            audit: agent.audit,
            topics: agent.topics.clone(),
            spec_hash: spec_hash(agent),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `<namespace>/<name>`.
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    /// Whose records trigger.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The topic that runs start from: its partitions are those of the agent's other topics.
    pub fn topic(&self) -> &str {
        self.input.as_deref().unwrap_or_else(|| self.origin.topic())
    }

    /// Whether runs start from a log of the agent's own, which its intake writes.
    pub fn has_input(&self) -> bool {
        self.input.is_some()
    }

    /// What happens to records of the trigger's topic that do not decode.
    pub fn invalid_records(&self) -> config::InvalidRecords {
        self.origin.invalid_records()
    }

    /// The views that slots and tools read.
    pub fn views(&self) -> BTreeSet<&str> {
        let slots = self.slots.iter().map(|slot| slot.lookup.view());
        let tools = self.tools.iter().flat_map(tools::Tools::views);
        slots.chain(tools).collect()
    }

    /// The view that gives a run for each of its rows.
    pub fn for_each(&self) -> Option<&str> {
        self.trigger.for_each.as_ref().map(|own| own.view())
    }

    /// How much of conversations is kept; absent: the agent has none.
    pub fn conversation(&self) -> Option<Limits> {
        self.conversation.as_ref().map(|own| own.limits)
    }

    pub fn model(&self) -> Option<&config::Model> {
        self.model.as_ref()
    }

    pub fn delivery(&self) -> &config::Delivery {
        &self.delivery
    }

    /// The compiled templates; `None`: no prompt is made. What replay renders again.
    pub fn prompt(&self) -> Option<&Prompt> {
        self.prompt.as_ref()
    }
}

/// What expressions and templates see after the trigger.
fn run_names(agent: &config::Agent, event: Names) -> Names {
    let slots = || agent.slots.iter().map(|slot| slot.name.as_str());
    let meta = Shape::Object(crate::expr::Fields {
        known: slots()
            .map(|slot| (slot.to_owned(), meta_shape()))
            .collect(),
        closed: true,
        strict: true,
    });
    let names = event
        .fields("context", slots())
        .shape("meta", meta)
        .fields("run", ["id", "attempt", "agent", "root", "hops"]);
    if agent.conversation.is_some() {
        names.shape("conversation", Shape::List(Box::new(Shape::Any)))
    } else {
        names
    }
}

fn meta_shape() -> Shape {
    let fields = [
        "age_seconds",
        "stale_seconds",
        "as_of",
        "count",
        "omitted",
        "missing",
    ];
    Shape::Object(crate::expr::Fields {
        known: fields.map(|field| (field.to_owned(), Shape::Any)).into(),
        closed: true,
        strict: true,
    })
}

fn compile_conversation(
    agent: &config::Agent,
    names: &Names,
) -> Result<Option<Conversation>, CompileError> {
    let Some(conversation) = &agent.conversation else {
        return Ok(None);
    };
    let mut problems = CompileError::default();
    let user_text = conversation.user_text.as_ref().and_then(|text| {
        problems.take(
            "spec.conversation.userText",
            reason::INVALID_EXPRESSION,
            Expression::compile_for(text, names, Wanted::Text),
        )
    });
    if agent.model.is_none() {
        problems.add(
            "spec.conversation",
            reason::INVALID_SPEC,
            "a conversation needs a model that answers. Add modelRef, or leave out conversation",
        );
    }
    if agent.topics.conversation.is_none() {
        problems.add(
            "spec.conversation",
            reason::INVALID_SPEC,
            "the agent has no conversation topic",
        );
    }
    problems.finish()?;
    Ok(agent
        .topics
        .conversation
        .as_ref()
        .map(|topic| Conversation {
            topic: topic.clone(),
            limits: Limits::of(conversation),
            user_text,
        }))
}

fn compile_answer(agent: &config::Agent) -> Result<Option<answer::Answer>, CompileError> {
    let Some(schema) = &agent.result_schema else {
        return Ok(None);
    };
    let mut problems = CompileError::default();
    let compiled = problems.take(
        "spec.result.schema",
        reason::INVALID_SCHEMA,
        answer::Answer::compile(schema),
    );
    if agent.model.is_none() {
        problems.add(
            "spec.result",
            reason::INVALID_SPEC,
            "a result needs a model that answers. Add modelRef, or leave out result",
        );
    }
    problems.finish()?;
    Ok(compiled)
}

/// SHA-256 of the configuration as canonical JSON.
fn spec_hash(agent: &config::Agent) -> String {
    // Every field serializes: keys are text, numbers are integers or already JSON.
    let canonical = serde_json::to_value(agent.without_shares()).unwrap_or_default();
    sha256(canonical.to_string().as_bytes())
}
