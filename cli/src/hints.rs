//! Commands to go on with, made from the folder's own events, so that they work as they stand.

use crate::folder::events::Event;
use crate::terminal::clean;
use headwater_engine::config::Role;
use headwater_operator::plan::Plan;
use serde_json::Value;
use std::collections::BTreeSet;

/// One line each: a question to every agent, and one event of what they know.
pub(crate) fn of(plans: &[Plan], events: &[Event]) -> Vec<String> {
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "headwater".to_owned());
    let mut hints = Vec::new();
    let mut triggers = BTreeSet::new();
    for stage in plans.iter().flat_map(|plan| &plan.stages) {
        let Role::Agent(agent) = &stage.config.role else {
            continue;
        };
        let Some(source) = agent.trigger.from.source() else {
            continue;
        };
        triggers.insert(source);
        let first = events.iter().find(|event| *event.source == *source);
        if let Some(Value::Object(fields)) = first.map(Event::json)
            && let Some(Value::String(text)) = fields.get("text")
        {
            let text = text.clone();
            let mut with = fields;
            with.remove("text");
            hints.push(format!(
                "{program} chat {} --with {} {}",
                agent.name,
                quote(&Value::Object(with).to_string()),
                quote(&text)
            ));
        }
    }
    let last = events
        .iter()
        .rev()
        .find(|event| !triggers.contains(&*event.source) && event.value.is_some());
    if let Some(event) = last {
        let key = event
            .key
            .as_ref()
            .map(|key| format!(" --key {}", quote(key)))
            .unwrap_or_default();
        hints.push(format!(
            "{program} send {}{key} {}",
            event.source,
            quote(&event.json().to_string())
        ));
    }
    hints
}

/// As a shell takes it for one word.
fn quote(text: &str) -> String {
    format!("'{}'", clean(text, false).replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn a_shell_sees_one_word() {
        assert_eq!(quote("it's $HOME"), r"'it'\''s $HOME'");
    }
}
