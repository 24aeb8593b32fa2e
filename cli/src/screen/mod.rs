//! What a person sees of running pipelines: events that went in, runs with the prompt they assembled
//! and from what, and what went wrong.
//!
//! Text only, in lines as wide as the terminal. Everything from outside is cleaned before it is shown.

pub(crate) mod approvals;
pub(crate) mod difference;
pub(crate) mod prompt;
mod run;
mod slots;
mod words;

use crate::error::Error;
use crate::terminal::{Style, Terminal, clean, fit, say};
use clap::ValueEnum;
use headwater_engine::audit::Record;
use headwater_runtime::observe::Happening;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

pub(crate) use words::{bytes, count, counted};

/// How much of a prompt is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Show {
    /// One line a run.
    Brief,
    /// Context with its origin, the beginning of each part of the prompt, the answer.
    #[default]
    Normal,
    /// The whole prompt.
    Full,
}

/// The screen, shared by what happens in stages and what the command itself has to say.
pub(crate) struct Screen {
    terminal: Terminal,
    show: Show,
    json: bool,
    /// Held while something is printed, so that blocks do not mix.
    lock: Mutex<()>,
    /// Paragraphs of the last prompt of each agent.
    seen: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

/// Events that were fed from a source's file.
#[derive(Clone, Debug)]
pub(crate) struct Fed {
    pub(crate) source: String,
    pub(crate) topic: String,
    pub(crate) events: usize,
}

impl Screen {
    pub(crate) fn new(show: Show, json: bool) -> Self {
        Self {
            terminal: Terminal::stdout(),
            show,
            json,
            lock: Mutex::new(()),
            seen: Mutex::default(),
        }
    }

    fn print(&self, text: &str) {
        let _held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        say(text);
    }

    fn print_json(&self, value: &serde_json::Value) {
        self.print(&format!("{value}\n"));
    }

    fn rule(&self, title: &str) -> String {
        let line = self
            .terminal
            .width
            .saturating_sub(title.chars().count() + 4);
        format!(
            "\n{}\n",
            self.terminal
                .paint(Style::Heading, &format!("── {title} {}", "─".repeat(line)))
        )
    }

    /// What is about to run.
    pub(crate) fn start(&self, facts: &[(&str, String)]) {
        if self.json {
            return;
        }
        let mut text = String::new();
        for (name, fact) in facts {
            text.push_str(&format!(
                "{} {}\n",
                self.terminal.paint(Style::Faint, &format!("{name:<11}")),
                clean(fact, false)
            ));
        }
        self.print(&text);
    }

    /// Events that went in, by source.
    pub(crate) fn fed(&self, fed: &[Fed]) {
        if self.json {
            for fed in fed {
                self.print_json(&json!({"type": "fed", "source": fed.source, "topic": fed.topic, "events": fed.events}));
            }
            return;
        }
        let total: usize = fed.iter().map(|fed| fed.events).sum();
        let mut text = self.rule(&format!("{} in", counted(total, "event")));
        let name_width = fed
            .iter()
            .map(|fed| fed.source.chars().count())
            .max()
            .unwrap_or_default();
        let count_width = fed
            .iter()
            .map(|fed| count(fed.events).len())
            .max()
            .unwrap_or_default();
        for fed in fed {
            text.push_str(&format!(
                "  {:>count_width$}  {:name_width$}  {}\n",
                count(fed.events),
                fed.source,
                self.terminal.paint(Style::Faint, &fed.topic),
            ));
        }
        self.print(&text);
    }

    /// Something that a stage did.
    pub(crate) fn happened(&self, happening: &Happening) {
        if self.json {
            if let Some(value) = as_json(happening) {
                self.print_json(&value);
            }
            return;
        }
        let bad = |text: String| format!("{} {text}\n", self.terminal.paint(Style::Bad, "!"));
        let text = match happening {
            Happening::RunFinished {
                record,
                milliseconds,
                ..
            } => self.run(record, Some(*milliseconds)),
            Happening::RunWaits { asked, .. } => approvals::asked(asked, &self.terminal),
            Happening::RunRetried {
                agent,
                attempt,
                reason,
                message,
                ..
            } => bad(format!(
                "agent {agent}: attempt {attempt} failed and is made again: {reason}: {}",
                clean(message, false)
            )),
            Happening::DeadLetter {
                kind,
                name,
                position,
                reason,
                message,
            } => bad(format!(
                "{kind} {name}: the record at {position} was refused and is in its dead letters: {reason}: {}",
                clean(message, false)
            )),
            Happening::Failed {
                kind,
                name,
                message,
            } => bad(format!("{kind} {name} stopped: {}", clean(message, false))),
            _ => return,
        };
        self.print(&text);
    }

    fn run(&self, record: &Record, milliseconds: Option<u64>) -> String {
        if self.show == Show::Brief {
            return run::brief(record, milliseconds, &self.terminal);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(record.agent.clone()).or_default();
        let whole = run::whole(record, milliseconds, self.show, &self.terminal, seen);
        format!("{}{whole}", self.rule(&run::title(record)))
    }

    /// A run from the past.
    pub(crate) fn past_run(&self, record: &Record) -> Result<(), Error> {
        if self.json {
            let value =
                serde_json::to_value(record).map_err(|error| Error::internal(error.to_string()))?;
            self.print_json(&value);
        } else {
            let text = self.run(record, None);
            self.print(&text);
        }
        Ok(())
    }

    /// What a stage says is wrong, while it goes on trying.
    pub(crate) fn problem(&self, stage: &str, message: &str) {
        if self.json {
            self.print_json(&json!({"type": "problem", "stage": stage, "message": message}));
        } else {
            self.print(&format!(
                "{} {stage}: {}\n",
                self.terminal.paint(Style::Bad, "!"),
                clean(message, false)
            ));
        }
    }

    /// It waits; commands to go on with.
    pub(crate) fn waiting(&self, address: &str, served: &[(String, String)], hints: &[String]) {
        if self.json {
            let served: BTreeMap<_, _> = served.iter().cloned().collect();
            self.print_json(&json!({"type": "waiting", "address": address, "served": served}));
            return;
        }
        let mut text = self.rule("waiting for events; Ctrl-C ends it");
        for (view, url) in served {
            text.push_str(&format!("Rows of view {view}: {url}/KEY\n"));
        }
        if !hints.is_empty() {
            text.push_str("In another terminal:\n\n");
        }
        for hint in hints {
            text.push_str(&format!("  {}\n", self.terminal.paint(Style::Accent, hint)));
        }
        self.print(&text);
    }

    pub(crate) fn note(&self, text: &str) {
        if !self.json {
            self.print(&format!(
                "{}\n",
                self.terminal
                    .paint(Style::Faint, &fit(text, self.terminal.width))
            ));
        }
    }
}

/// What programs are told: runs, dead letters, failures; folding is in the metrics.
fn as_json(happening: &Happening) -> Option<serde_json::Value> {
    Some(match happening {
        Happening::RunFinished {
            record,
            milliseconds,
            ..
        } => {
            json!({"type": "run", "milliseconds": milliseconds, "record": **record})
        }
        Happening::RunWaits { asked, .. } => json!({"type": "approval", "asked": asked}),
        Happening::RunRetried {
            agent,
            run,
            attempt,
            reason,
            message,
        } => {
            json!({"type": "retry", "agent": agent, "run": run, "attempt": attempt, "reason": reason, "message": message})
        }
        Happening::DeadLetter {
            kind,
            name,
            position,
            reason,
            message,
        } => {
            json!({"type": "deadLetter", "kind": kind, "name": name, "position": position.to_string(), "reason": reason, "message": message})
        }
        Happening::Failed {
            kind,
            name,
            message,
        } => {
            json!({"type": "failed", "kind": kind, "name": name, "message": message})
        }
        Happening::Ready { kind, name } => json!({"type": "ready", "kind": kind, "name": name}),
        _ => return None,
    })
}
