//! From slots and turns to messages: templates, tokens, budget, hash.
//!
//! The messages are: the system template if there is one and it gives any text, the turns of the
//! conversation, the user template. A prompt costs the tokens of its contents, 4 for each message and
//! 3 for the reply's opening. Invariant: the messages are a function of templates, template input and
//! turns; the input says which turns, so that the recorded input renders the recorded prompt.

mod budget;
mod draft;

pub use budget::fit;
pub use draft::{Draft, Held, SlotPlan};

use crate::config;
use crate::expr::Names;
use crate::fault::Fault;
use crate::model::{Message, Role};
use crate::problem::{CompileError, reason};
use crate::run::sha256;
use crate::template::{Input, Template};
use crate::tokens;
use serde_json::{Value, json};
use std::sync::Arc;

/// The user template of an agent that has none.
pub const DEFAULT_USER: &str = "{{ event }}";

/// The compiled templates of an agent.
#[derive(Debug)]
pub struct Prompt {
    system: Option<Template>,
    user: Template,
    /// The most tokens of a prompt; absent: no bound.
    budget: Option<usize>,
    template_hash: String,
}

/// Templates rendered once, not yet messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub system: Option<String>,
    pub user: String,
    /// Of the whole prompt, turns included.
    pub tokens: usize,
}

impl Prompt {
    /// The prompt of an agent, if it has one: it has if it says so or asks a model.
    ///
    /// # Errors
    /// Every template that cannot work, with its field path; a budget of nothing.
    pub fn compile(agent: &config::Agent, names: &Names) -> Result<Option<Self>, CompileError> {
        let default = config::Prompt::default();
        let prompt = match (&agent.prompt, &agent.model) {
            (Some(prompt), _) => prompt,
            (None, Some(_)) => &default,
            (None, None) => return Ok(None),
        };
        let mut problems = CompileError::default();
        let mut template = |field: &str, text: &str| {
            let path = format!("spec.prompt.{field}");
            let compiled = Template::compile(field, text, names);
            problems.take(path, reason::INVALID_TEMPLATE, compiled)
        };
        let system = prompt.system.as_ref().map(|text| template("system", text));
        let user_text = prompt.user.as_deref().unwrap_or(DEFAULT_USER);
        let user = template("user", user_text);
        let window = agent.model.as_ref().map(config::Model::prompt_tokens);
        let budget = prompt.budget_tokens.map(i64::from).or(window);
        if budget.is_some_and(|budget| budget <= 0) {
            problems.add(
                "spec.prompt.budgetTokens",
                reason::INVALID_SPEC,
                "no token is left for the prompt: the model's output takes its whole window. Lower the model's maxOutputTokens",
            );
        }
        let hashed = json!({"system": prompt.system, "user": user_text});
        problems.finish()?;
        Ok(user.map(|user| Self {
            system: system.flatten(),
            user,
            budget: budget.and_then(|budget| usize::try_from(budget).ok()),
            template_hash: sha256(hashed.to_string().as_bytes()),
        }))
    }

    /// SHA-256 of the templates' texts, hexadecimal.
    pub fn template_hash(&self) -> &str {
        &self.template_hash
    }

    /// The prompt that an input recorded in an audit gives with these templates: messages and hash.
    ///
    /// # Errors
    /// `TemplateFailed`.
    pub fn replay(&self, input: &Value) -> Result<(Arc<[Message]>, String), Fault> {
        let rendered = self.render(input, 0)?;
        let recorded = input.get("conversation").and_then(Value::as_array);
        let turns = recorded.into_iter().flatten().map(|message| {
            let role = match message["role"].as_str() {
                Some("assistant") => Role::Assistant,
                _ => Role::User,
            };
            Message::new(role, message["content"].as_str().unwrap_or_default())
        });
        let messages = messages(rendered, turns);
        let hash = hash(&messages);
        Ok((messages, hash))
    }

    /// `turns` is what the turns cost, with their overhead.
    fn render(&self, input: &Value, turns: usize) -> Result<Rendered, Fault> {
        let input = Input::from(input);
        let system = match &self.system {
            Some(template) => {
                Some(template.render_input(&input)?).filter(|text| !text.trim().is_empty())
            }
            None => None,
        };
        let user = self.user.render_input(&input)?;
        let tokens = system.as_deref().map_or(0, message_tokens)
            + turns
            + message_tokens(&user)
            + tokens::REPLY_OVERHEAD;
        Ok(Rendered {
            system,
            user,
            tokens,
        })
    }
}

/// The tokens of a message of this content.
pub fn message_tokens(content: &str) -> usize {
    tokens::count(content) + tokens::MESSAGE_OVERHEAD
}

/// System, turns, user.
fn messages(rendered: Rendered, turns: impl Iterator<Item = Message>) -> Arc<[Message]> {
    let system = rendered.system.map(|text| Message::new(Role::System, text));
    system
        .into_iter()
        .chain(turns)
        .chain([Message::new(Role::User, rendered.user)])
        .collect()
}

/// The messages of what a draft shows.
pub fn messages_of(rendered: Rendered, draft: &Draft) -> Arc<[Message]> {
    let turns = draft.turns().iter().flat_map(|turn| {
        [
            Message::new(Role::User, turn.user.as_str()),
            Message::new(Role::Assistant, turn.assistant.as_str()),
        ]
    });
    messages(rendered, turns)
}

/// SHA-256 of the canonical JSON of the messages: compact, fields in the order of their names.
pub fn hash(messages: &[Message]) -> String {
    let said: usize = messages.iter().map(|own| own.content.len() + 64).sum();
    let mut canonical = Vec::with_capacity(said + said / 16);
    // Messages hold text only, which always serializes, and writing into memory does not fail.
    let _ = serde_json::to_writer(&mut canonical, messages);
    sha256(&canonical)
}
