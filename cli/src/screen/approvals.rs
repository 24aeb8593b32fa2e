//! What runs ask people, as a person reads it.
//!
//! What a call would send is never cut: whoever approves has to see all of it.

use crate::control::{Decided, Question};
use crate::terminal::{Style, Terminal, clean};
use headwater_engine::approval::Asked;

/// As it is asked, in the middle of what else happens.
pub(super) fn asked(asked: &Asked, terminal: &Terminal) -> String {
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "headwater".to_owned());
    let asked = Question::from(asked.clone());
    format!(
        "{}  {} --approve {}   or: --deny {}\n",
        question(&asked, terminal),
        terminal.paint(Style::Accent, &format!("{program} approvals")),
        asked.approval,
        asked.approval
    )
}

pub(crate) fn question(question: &Question, terminal: &Terminal) -> String {
    let head = format!("? {}", clean(&question.message, false));
    let mut text = format!("{}\n", terminal.paint(Style::Accent, &head));
    let mut fact = |name: &str, value: &str| {
        text.push_str(&format!("  {name:<8} {}\n", clean(value, false)));
    };
    fact("id", &question.approval);
    fact(
        "agent",
        &format!(
            "{}/{}, by the rule '{}'",
            question.namespace, question.agent, question.rule
        ),
    );
    fact("call", &format!("{} {}", question.tool, question.arguments));
    fact("until", &question.expires_at);
    text
}

pub(crate) fn decided(decided: &Decided) -> String {
    let did = if decided.approved {
        "approved"
    } else {
        "denied"
    };
    format!(
        "{did} by {}: {} {}\n",
        clean(&decided.by, false),
        decided.question.tool,
        clean(&decided.question.arguments.to_string(), false)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_question_shows_all_that_would_be_sent_and_no_control_characters() {
        let terminal = Terminal {
            colour: false,
            width: 40,
        };
        let asked = Question {
            approval: "ab12-1-1".into(),
            namespace: "bank".into(),
            agent: "fraud".into(),
            run: "ab12".into(),
            rule: "block".into(),
            message: "Block \u{1b}[31mcard c1?".into(),
            tool: "block_card".into(),
            arguments: json!({"card": "c1", "note": "x".repeat(60)}),
            asked_at: "2026-11-24T10:00:00Z".into(),
            expires_at: "2026-11-24T10:15:00Z".into(),
        };
        let done = Decided {
            by: "ana".into(),
            approved: true,
            question: asked.clone(),
        };
        insta::assert_snapshot!(format!(
            "{}---\n{}",
            question(&asked, &terminal),
            decided(&done)
        ));
    }
}
