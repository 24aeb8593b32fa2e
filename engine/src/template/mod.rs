//! Templates: Jinja (minijinja), strict about what is not there.
//!
//! Objects, lists, null, bools and numbers print as JSON, strings as they are. A printed value never
//! ends or starts a message, a tag or a fence of the prompt: see `escape`. A template is checked when it
//! is read: syntax, filters, variables and known fields. It loads and includes nothing, and renders
//! within a budget. A failure quotes the template, never a value.

mod check;
mod direct;
mod escape;

#[cfg(test)]
mod tests;

use crate::expr::Names;
use crate::fault::{Fault, Reason, quote};
use direct::Direct;
use escape::Escape;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, LazyLock};

/// The longest template, in bytes.
pub const BYTES_MAX: usize = 65_536;
/// Instructions of one rendering, with what it prints: in the order of a second at most.
const FUEL: u64 = 3_000_000;
/// The longest output, in bytes.
const OUTPUT_BYTES_MAX: usize = 4 * 1_048_576;
/// How deep macros may call each other.
const RECURSION_MAX: usize = 32;

/// A text in which nothing ends or starts a message, as where a template prints it.
pub(crate) fn without_markers(text: &str) -> Cow<'_, str> {
    static MARKERS: LazyLock<Escape> = LazyLock::new(|| Escape::of(""));
    // All of them begin with one of these, which most texts do not have.
    let bytes = text.as_bytes();
    if !bytes.contains(&b'<') && !bytes.contains(&b'[') {
        return Cow::Borrowed(text);
    }
    MARKERS.apply(text)
}

/// Why a text is no template that can work here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub message: String,
    /// A name that was probably meant, or which there are.
    pub hint: Option<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.line, self.column, self.message
        )?;
        match &self.hint {
            Some(hint) => write!(f, ". {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// What templates read, converted at most once for all templates of a prompt.
#[derive(Debug)]
pub struct Input<'a> {
    value: &'a Value,
    converted: OnceCell<minijinja::Value>,
}

impl<'a> From<&'a Value> for Input<'a> {
    fn from(value: &'a Value) -> Self {
        Self {
            value,
            converted: OnceCell::new(),
        }
    }
}

impl Input<'_> {
    /// For the template engine.
    fn converted(&self) -> minijinja::Value {
        self.converted
            .get_or_init(|| minijinja::Value::from(minijinja::value::Serde(self.value)))
            .clone()
    }
}

/// A checked template, ready to render. Shared between threads.
pub struct Template {
    environment: Environment<'static>,
    /// The same, where it is of the usual kind.
    direct: Option<Direct>,
    escape: Arc<Escape>,
    name: String,
    /// Fields read below each root; `None` among them stands for the root as a whole.
    reads: BTreeMap<String, BTreeSet<Option<String>>>,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Template").field(&self.name).finish()
    }
}

impl Template {
    /// Parses and checks a template. `name` is how messages call it.
    ///
    /// # Errors
    /// The first problem, with its line and column.
    pub fn compile(name: &str, text: &str, names: &Names) -> Result<Self, Error> {
        if text.len() > BYTES_MAX {
            return Err(Error {
                line: 1,
                column: 1,
                message: format!(
                    "the template has {} bytes, the limit is {BYTES_MAX}",
                    text.len()
                ),
                hint: None,
            });
        }
        check::nesting(text)?;
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_fuel(Some(FUEL));
        // Prints all that is there, which is more than a template should say.
        environment.remove_global("debug");
        let escape = Arc::new(Escape::of(text));
        let escaping = Arc::clone(&escape);
        environment.set_formatter(move |output, _, value| {
            let failed = |_| minijinja::Error::new(ErrorKind::WriteFailure, "output");
            match value.kind() {
                ValueKind::Undefined => Err(minijinja::Error::from(ErrorKind::UndefinedError)),
                ValueKind::String => match value.as_str() {
                    Some(text) => output.write_str(&escaping.apply(text)).map_err(failed),
                    None => Ok(()),
                },
                _ => {
                    let text = serde_json::to_string(value)
                        .map_err(|_| minijinja::Error::from(ErrorKind::BadSerialization))?;
                    output.write_str(&escaping.apply(&text)).map_err(failed)
                }
            }
        });
        environment
            .add_template_owned(name.to_owned(), text.to_owned())
            .map_err(|error| check::syntax(text, &error))?;
        let paths = match environment.get_template(name) {
            Ok(template) => template.undeclared_variables(true),
            Err(error) => return Err(check::syntax(text, &error)),
        };
        let reads = check::names(text, &paths, names)?;
        check::filters(text)?;
        Ok(Self {
            environment,
            direct: Direct::compile(name, text),
            escape,
            name: name.to_owned(),
            reads,
        })
    }

    /// The fields read directly below `root`: the slots that `context.<slot>` names.
    pub fn fields_of(&self, root: &str) -> BTreeSet<String> {
        self.reads
            .get(root)
            .map(|fields| fields.iter().flatten().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether `root` is named at all.
    pub fn reads(&self, root: &str) -> bool {
        self.reads.contains_key(root)
    }

    /// Whether `root` is used other than by its fields: all of it is needed.
    pub fn reads_whole(&self, root: &str) -> bool {
        self.reads
            .get(root)
            .is_some_and(|fields| fields.contains(&None))
    }

    /// # Errors
    /// As [`Template::render_input`].
    pub fn render(&self, input: &Value) -> Result<String, Fault> {
        self.render_input(&Input::from(input))
    }

    /// # Errors
    /// `TemplateFailed`, with the template's line and what it says there.
    pub fn render_input(&self, input: &Input<'_>) -> Result<String, Fault> {
        let direct = self.direct.as_ref();
        if let Some(rendered) = direct.and_then(|own| own.render(input.value, &self.escape)) {
            return Ok(rendered);
        }
        self.render_by_engine(input)
    }

    fn render_by_engine(&self, input: &Input<'_>) -> Result<String, Fault> {
        let rendered = self
            .environment
            .get_template(&self.name)
            .and_then(|template| template.render(input.converted()))
            .map_err(|error| self.fault(&error))?;
        if rendered.len() > OUTPUT_BYTES_MAX {
            return Err(Fault::new(
                Reason::TemplateFailed,
                format!(
                    "{}: renders {} bytes, the limit is {OUTPUT_BYTES_MAX}",
                    self.name,
                    rendered.len()
                ),
            ));
        }
        Ok(rendered)
    }

    /// The kind of an error and the place in the template; details of an error may quote values.
    fn fault(&self, error: &minijinja::Error) -> Fault {
        let what = match error.kind() {
            ErrorKind::UndefinedError => "a value that is used is not there".to_owned(),
            ErrorKind::OutOfFuel => "takes too many steps or prints too much".to_owned(),
            kind => kind.to_string(),
        };
        let source = self
            .environment
            .get_template(&self.name)
            .map(|template| template.source().to_owned())
            .unwrap_or_default();
        let place = match (error.range(), error.line()) {
            (Some(range), _)
                if source
                    .get(range.clone())
                    .is_some_and(|part| !part.is_empty()) =>
            {
                let (line, column) = check::line_and_column(&source, range.start);
                let part = source.get(range).unwrap_or_default();
                format!("line {line}, column {column}, at `{}`", quote(part))
            }
            (_, Some(line)) => {
                let text = source
                    .lines()
                    .nth(line.saturating_sub(1))
                    .unwrap_or_default();
                format!("line {line}, `{}`", quote(text.trim()))
            }
            _ => "the template".to_owned(),
        };
        Fault::new(
            Reason::TemplateFailed,
            format!("{}: {place}: {what}", self.name),
        )
    }
}
