//! `headwater chat`: questions to an agent, and its answers.

use super::target::{Target, Where, block_on};
use super::{OutputFormat, print_json};
use crate::control::{Answer, Ask};
use crate::error::Error;
use crate::secrets::random_text;
use crate::terminal::{Style, Terminal, clean, say};
use serde_json::Value;
use std::io::{BufRead as _, IsTerminal as _};

/// Talk to an agent.
///
/// Each line is an event of the agent's trigger: the JSON of --with and the line as its field `text`.
/// Printed is what the run wrote to the agent's outputs. With TEXT it is one question; without,
/// every line of standard input is one.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Name of the Agent.
    agent: String,
    /// The question.
    text: Option<String>,
    /// What every event holds beside the text, e.g. '{"customer_id": "c-1"}'.
    #[arg(long, value_name = "JSON", default_value = "{}")]
    with: String,
    /// Key of the events, which names the conversation: the same key goes on with it. Without it, as the
    /// source's `key` says, else a new one for this command.
    #[arg(long)]
    key: Option<String>,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    #[command(flatten)]
    to: Where,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let with: Value = serde_json::from_str(&arguments.with)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| {
            Error::usage("--with takes a JSON object, e.g. --with '{\"customer_id\": \"c-1\"}'")
        })?;
    let chat = Chat {
        arguments,
        with,
        fallback_key: format!("chat-{}", random_text(4)?),
        target: arguments.to.open()?,
        terminal: Terminal::stdout(),
    };
    match &arguments.text {
        Some(text) => {
            let answer = block_on(chat.ask(text))?;
            chat.print(&answer)?;
            failure(&answer)
        }
        None => chat.converse(),
    }
}

struct Chat<'a> {
    arguments: &'a Arguments,
    with: Value,
    fallback_key: String,
    target: Target,
    terminal: Terminal,
}

impl Chat<'_> {
    /// Every line is a question; a question that cannot be asked ends nothing.
    fn converse(&self) -> Result<(), Error> {
        let stdin = std::io::stdin();
        let prompt = stdin.is_terminal();
        let mut failed = Ok(());
        loop {
            if prompt {
                say(&format!("{} ", self.terminal.paint(Style::Accent, ">")));
            }
            let mut line = String::new();
            let read = stdin
                .lock()
                .read_line(&mut line)
                .map_err(|error| Error::failed(format!("cannot read standard input: {error}")))?;
            if read == 0 {
                return failed;
            }
            let text = line.trim();
            if text.is_empty() {
                continue;
            }
            let done = block_on(self.ask(text)).and_then(|answer| {
                self.print(&answer)?;
                failure(&answer)
            });
            if let Err(error) = done {
                if prompt {
                    eprintln!("headwater: {error}");
                } else {
                    failed = Err(error);
                }
            }
        }
    }

    async fn ask(&self, text: &str) -> Result<Answer, Error> {
        let ask = Ask {
            namespace: self.arguments.to.namespace(),
            agent: self.arguments.agent.clone(),
            key: self.arguments.key.clone(),
            fallback_key: self.fallback_key.clone(),
            with: self.with.clone(),
            text: Some(text.to_owned()),
            timeout_seconds: self.arguments.timeout,
        };
        self.target.ask(ask).await
    }

    fn print(&self, answer: &Answer) -> Result<(), Error> {
        if self.arguments.output == OutputFormat::Json {
            return print_json(answer);
        }
        for output in &answer.outputs {
            // An answer is text in most cases; else it is shown as it was written.
            let text = output.value.get("text").unwrap_or(&output.value);
            match text {
                Value::String(text) => say(&format!("{}\n", clean(text, true))),
                value => say(&format!("{}\n", clean(&value.to_string(), false))),
            }
        }
        Ok(())
    }
}

/// A run that wrote nothing has to say why.
fn failure(answer: &Answer) -> Result<(), Error> {
    let why = answer
        .message
        .clone()
        .map(|message| format!(": {}", clean(&message, false)))
        .unwrap_or_default();
    match answer.outcome.as_str() {
        "Done" => Ok(()),
        "Skipped" => Err(Error::refused(
            "the agent's `when` is false for this event, so no model was asked",
        )),
        "Filtered" => Err(Error::refused(format!("no run was started{why}"))),
        outcome => Err(Error::failed(format!("the run ended as {outcome}{why}"))),
    }
}
