//! `headwater dead-letters`: what was refused, why, and feeding it again.

use super::target::{Where, block_on};
use super::{OutputFormat, print_json};
use crate::control::{Letter, Letters, Retried, Retry};
use crate::error::Error;
use crate::terminal::{Style, Terminal, clean, fit, say};
use serde_json::Value;

/// List the records that a view or an agent refused, and feed them to their sources again.
///
/// Each is shown with when and why it was refused, where it came from, its key and its value. With --retry it is written to its
/// source again, as it was, and its new position is printed: once the view, the agent or its source is mended, say. One that was
/// fed again before is left unless --again is given.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// view/NAME or agent/NAME.
    resource: String,
    /// Only the letter of the record at this position, <topic>-<partition>-<offset>.
    position: Option<String>,
    /// Feed the one at POSITION again, or with --all every one.
    #[arg(long)]
    retry: bool,
    /// With --retry: every letter that was not fed again yet.
    #[arg(long, requires = "retry", conflicts_with = "position")]
    all: bool,
    /// With --retry: also what was fed again before.
    #[arg(long, requires = "retry")]
    again: bool,
    /// How many letters are listed, the newest last.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000), conflicts_with = "retry")]
    limit: u32,
    #[command(flatten)]
    to: Where,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    if arguments.retry && arguments.position.is_none() && !arguments.all {
        return Err(Error::usage(
            "--retry: say which letter, by its position, or --all",
        ));
    }
    let target = arguments.to.open()?;
    let json = arguments.output == OutputFormat::Json;
    let (namespace, resource) = (arguments.to.namespace(), arguments.resource.clone());
    let position = arguments.position.clone();
    if arguments.retry {
        let retry = Retry {
            namespace,
            resource,
            position,
            again: arguments.again,
        };
        let retried = block_on(target.retry(retry))?;
        if json {
            print_json(&retried)?;
        } else {
            say(&fed(&retried));
        }
        // Whoever asked for one and did not get it has to see it from the exit code.
        return match (
            &arguments.position,
            retried.iter().find_map(|one| one.left.clone()),
        ) {
            (Some(position), Some(left)) => Err(Error::refused(format!("{position}: {left}"))),
            _ => Ok(()),
        };
    }
    let letters = Letters {
        namespace,
        resource,
        position,
        limit: arguments.limit,
    };
    let letters = block_on(target.letters(letters))?;
    if json {
        return print_json(&letters);
    }
    let terminal = Terminal::stdout();
    if letters.is_empty() {
        say(&format!("{} refused nothing\n", arguments.resource));
    }
    for letter in &letters {
        say(&shown(&terminal, letter, arguments.position.is_some()));
    }
    Ok(())
}

fn fed(retried: &[Retried]) -> String {
    let line = |one: &Retried| match (&one.fed_to, &one.left) {
        (Some(to), _) => format!("{} fed again: {to}\n", one.position),
        (None, left) => format!(
            "{} left: {}\n",
            one.position,
            left.as_deref().unwrap_or_default()
        ),
    };
    if retried.is_empty() {
        return "there is nothing to feed again\n".to_owned();
    }
    retried.iter().map(line).collect()
}

/// `whole`: without shortening.
fn shown(terminal: &Terminal, letter: &Letter, whole: bool) -> String {
    let bytes = |value: &Value| match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let head = format!("{}  {}", letter.position, letter.reason);
    let mut text = format!(
        "{}  {}\n",
        terminal.paint(Style::Bad, &clean(&head, false)),
        letter.refused_at
    );
    // The reason is what one came for: it is never cut off.
    text.push_str(&format!(
        "  {:<8} {}\n",
        "why",
        clean(&letter.message, false)
    ));
    let mut fact = |name: &str, value: &str| {
        let line = format!("  {name:<8} {}", clean(value, whole));
        let line = if whole {
            line
        } else {
            fit(&line, terminal.width)
        };
        text.push_str(&line);
        text.push('\n');
    };
    fact("key", &bytes(&letter.key));
    if letter.value_left_out {
        fact("value", "(too large to be kept beside the reason)");
    } else {
        fact("value", &bytes(&letter.value));
    }
    for (name, value) in &letter.headers {
        fact("header", &format!("{name}: {}", bytes(value)));
    }
    if let Some(from) = &letter.fed_again_from {
        fact(
            "before",
            &format!("refused at {from}, and fed again from there"),
        );
    }
    if let Some(to) = &letter.fed_again_to {
        fact("then", &format!("fed again as {to}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[test]
    fn a_letter_says_what_why_and_what_became_of_it() {
        let terminal = Terminal {
            colour: false,
            width: 72,
        };
        let letter = Letter {
            position: "default.facts-0-1".into(),
            refused_at: "2026-11-24T10:30:00Z".into(),
            reason: "NotJson".into(),
            message:
                "view 'facts', from 'facts': the value is no JSON: it ends too early at byte 12"
                    .into(),
            key: json!("a"),
            value: json!({"base64": "/w=="}),
            value_left_out: false,
            headers: BTreeMap::from([("trace".into(), json!("\u{1b}[31mx"))]),
            timestamp: None,
            fed_again_from: Some("default.facts-0-0".into()),
            fed_again_to: Some("default.facts-0-9".into()),
        };
        let retried = [
            Retried {
                position: "default.facts-0-1".into(),
                fed_to: Some("default.facts-0-9".into()),
                left: None,
            },
            Retried {
                position: "default.facts-0-2".into(),
                fed_to: None,
                left: Some("it was fed again before".into()),
            },
        ];
        insta::assert_snapshot!(format!(
            "{}---\n{}---\n{}",
            shown(&terminal, &letter, false),
            fed(&retried),
            fed(&[])
        ));
    }
}
