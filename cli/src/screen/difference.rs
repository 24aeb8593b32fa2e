//! What changed between two prompts, message by message, as a unified difference.

use crate::terminal::{Style, Terminal, clean};
use headwater_engine::model::Message;
use similar::{ChangeTag, TextDiff};

/// Lines around a change.
const CONTEXT: usize = 3;

/// Empty where nothing changed. `name`: what the other prompt was made with.
pub(crate) fn unified(
    terminal: &Terminal,
    recorded: &[Message],
    rendered: &[Message],
    name: &str,
) -> String {
    let mut text = String::new();
    for index in 0..recorded.len().max(rendered.len()) {
        let (then, now) = (recorded.get(index), rendered.get(index));
        if then == now {
            continue;
        }
        let which = |message: Option<&Message>, how: &str| match message {
            Some(message) => format!("message {} ({}), {how}", index + 1, message.role),
            None => "/dev/null".to_owned(),
        };
        text.push_str(&format!(
            "{}\n{}\n",
            terminal.paint(Style::Bad, &format!("--- {}", which(then, "as recorded"))),
            terminal.paint(
                Style::Good,
                &format!("+++ {}", which(now, &format!("with {name}")))
            )
        ));
        let content = |message: Option<&Message>| {
            message.map_or_else(String::new, |message| {
                clean(&message.content, true).into_owned()
            })
        };
        text.push_str(&lines(terminal, &content(then), &content(now)));
    }
    text
}

fn lines(terminal: &Terminal, then: &str, now: &str) -> String {
    let difference = TextDiff::from_lines(then, now);
    let mut text = String::new();
    for hunk in difference
        .unified_diff()
        .context_radius(CONTEXT)
        .iter_hunks()
    {
        let place = hunk.header().to_string();
        text.push_str(&format!("{}\n", terminal.paint(Style::Accent, &place)));
        for change in hunk.iter_changes() {
            let line = change.value().trim_end_matches('\n');
            let painted = match change.tag() {
                ChangeTag::Equal => format!(" {line}"),
                ChangeTag::Delete => terminal.paint(Style::Bad, &format!("-{line}")),
                ChangeTag::Insert => terminal.paint(Style::Good, &format!("+{line}")),
            };
            text.push_str(&format!("{painted}\n"));
            if change.missing_newline() {
                text.push_str("\\ no newline at the end\n");
            }
        }
    }
    if text.is_empty() {
        // Other characters than those that can be shown.
        text.push_str("  differs in characters that are not shown; --output json has them\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_engine::model::Role;

    fn plain() -> Terminal {
        Terminal {
            colour: false,
            width: 100,
        }
    }

    #[test]
    fn only_what_changed_is_shown_with_what_stands_around() {
        let system = (1..=20)
            .map(|line| format!("line {line}\n"))
            .collect::<String>();
        let recorded = [
            Message::new(Role::System, system.clone()),
            Message::new(Role::User, "hello"),
        ];
        let rendered = [
            Message::new(Role::System, system.replace("line 10\n", "line ten\n")),
            Message::new(Role::User, "hello"),
        ];
        insta::assert_snapshot!(unified(&plain(), &recorded, &rendered, "agent.yaml"), @r"
        --- message 1 (system), as recorded
        +++ message 1 (system), with agent.yaml
        @@ -7,7 +7,7 @@
         line 7
         line 8
         line 9
        -line 10
        +line ten
         line 11
         line 12
         line 13
        ");
        assert_eq!(unified(&plain(), &recorded, &recorded, "x"), "");
    }

    #[test]
    fn a_message_that_is_new_or_gone_is_seen() {
        let one = [Message::new(Role::User, "a\x1b[2J")];
        let two = [
            Message::new(Role::System, "be kind"),
            Message::new(Role::User, "a\x1b[2J"),
        ];
        let text = unified(&plain(), &one, &two, "x");
        assert!(text.contains("+++ message 2 (user), with x\n"), "{text}");
        assert!(text.contains("--- /dev/null\n"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        let invisible = [Message::new(Role::User, "a\x1b[3J")];
        let text = unified(&plain(), &one, &invisible, "x");
        assert!(text.contains("characters that are not shown"), "{text}");
    }
}
