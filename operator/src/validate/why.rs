//! The plan's lines for an agent: what starts it, how each slot is read and why, what it writes.

use super::{
    checked::{Source, View},
    findings::Outcome,
};
use headwater_engine::config::{self, By};
use std::collections::BTreeMap;

pub(super) fn agent(
    agent: &config::Agent,
    sources: &BTreeMap<String, Outcome<Source>>,
    views: &BTreeMap<String, &View>,
) -> Vec<String> {
    let mut lines = Vec::new();
    let ([every, one], of) = match &agent.trigger.from {
        config::TriggerFrom::Source(name) => {
            let source = sources.get(name).and_then(Outcome::ok);
            let topic = source.map_or("?", |source| source.config.topic.as_str());
            (["every event", "an event"], topic.to_owned())
        }
        config::TriggerFrom::View(name) => (
            ["every change of a row", "a change of a row"],
            format!("view {name}"),
        ),
    };
    let which = agent.trigger.filter.as_ref().map_or_else(
        || every.to_owned(),
        |filter| format!("{one} where `{filter}`"),
    );
    let begin = match agent.trigger.start_from {
        config::StartFrom::Latest => "a new agent begins with what comes next",
        config::StartFrom::Earliest => "a new agent begins with the oldest",
    };
    lines.push(format!("trigger: {which} of {of}; {begin}"));
    if let Some(view) = agent.trigger.from.view() {
        lines.push(format!(
            "changes: the stage of view {view} writes each to a topic beside its rows, in the same transaction, from when the first agent asks for them on"
        ));
    }
    if let Some(for_each) = &agent.trigger.for_each {
        let reading = views.get(&for_each.view).map(|view| reading(view));
        lines.push(format!(
            "for each: a run for each of {}, as they are when the event is taken in, {}",
            lookup(for_each),
            reading.unwrap_or_default()
        ));
    }
    if let Some(once) = &agent.trigger.once {
        lines.push(format!(
            "once: no second run of a key for `{}` within {} s of one that was done, which {} remembers",
            once.key.trim(),
            once.within_ms / 1_000,
            agent.topics.journal
        ));
    }
    if agent.trigger.coalesce_ms > 0 {
        lines.push(format!(
            "coalescing: a trigger waits {} ms, and for its key's run before; the newest of its key runs, those before it end as Coalesced",
            agent.trigger.coalesce_ms
        ));
    }
    if let Some(input) = &agent.trigger.input {
        let key = match (&agent.trigger.key, &agent.trigger.for_each) {
            (Some(key), _) => format!("the run's key is `{}` and not the record's", key.trim()),
            (None, Some(_)) => "the run's key is the row's and not the record's".to_owned(),
            (None, None) => "the event's key is computed and not the record's".to_owned(),
        };
        lines.push(format!(
            "runs start from {input}, a topic of the agent's own, where every trigger stands once: {key}, so triggers move to other partitions"
        ));
    }
    for slot in &agent.slots {
        let Some(view) = views.get(&slot.lookup.view) else {
            continue;
        };
        lines.push(format!(
            "slot {}: {}, {}",
            slot.name,
            lookup(&slot.lookup),
            reading(view)
        ));
    }
    if let Some(conversation) = &agent.conversation {
        lines.push(format!(
            "conversation: the last {} turns of the run's key, kept in {}",
            conversation.turns,
            agent.topics.conversation.as_deref().unwrap_or("?")
        ));
    }
    match &agent.model {
        Some(model) => lines.extend(model.chain().enumerate().map(|(place, model)| {
            let instead = if place == 0 {
                ""
            } else {
                "where that gives no answer, "
            };
            format!("{instead}{}", asked(model))
        })),
        None => {
            lines.push("model: none; the prompt is the result, for others to infer on".to_owned())
        }
    }
    if agent.result_schema.is_some() {
        lines.push(format!(
            "result: JSON that fits its schema, sent back once if it does not; that step is kept in {} before the model is asked again",
            agent.topics.journal
        ));
    }
    for tool in agent.tools.iter().flat_map(|tools| &tools.tools) {
        lines.push(format!("tool {}: {}", tool.name, does(tool, views)));
    }
    if let Some(tools) = agent
        .tools
        .as_ref()
        .filter(|tools| !tools.policy.is_empty())
    {
        let rules: Vec<&str> = tools.policy.iter().map(|rule| rule.name.as_str()).collect();
        lines.push(format!(
            "policy: asked before each call: {}",
            rules.join(", ")
        ));
    }
    for output in &agent.outputs {
        let when = match output.outcome {
            config::Outcome::Done => "",
            config::Outcome::Failed => " when a run fails",
        };
        lines.push(format!("output {}: to {}{when}, in one transaction with the turn, the audit and the trigger's offset", output.name, output.topic));
    }
    lines
}

fn does(tool: &config::Tool, views: &BTreeMap<String, &View>) -> String {
    match &tool.does {
        config::ToolDoes::Server {
            server,
            tool: name,
            repeat,
        } => {
            let repeat = match repeat {
                config::Repeat::Never => "never made again where nobody knows whether it was made",
                config::Repeat::Always => {
                    "made again, under the same key, where nobody knows whether it was made"
                }
            };
            let fixed: Vec<&str> = tool.fixed.keys().map(String::as_str).collect();
            let fixed = if fixed.is_empty() {
                String::new()
            } else {
                format!("; the model neither sees nor sets {}", fixed.join(", "))
            };
            format!("calls {name} of tool server {server}, {repeat}{fixed}")
        }
        config::ToolDoes::Emit { topic, .. } => {
            format!("writes to {topic}, with the run's outputs")
        }
        config::ToolDoes::View { lookup: read } => {
            let reading = views.get(&read.view).map(|view| reading(view));
            format!(
                "{}, which the model gives; {}",
                lookup(read),
                reading.unwrap_or_default()
            )
        }
    }
}

fn lookup(lookup: &config::Lookup) -> String {
    let view = &lookup.view;
    match (&lookup.by, &lookup.index) {
        (By::Key(key), None) => format!("the row of view {view} under `{key}`"),
        (By::Keys(keys), None) => format!("the rows of view {view} under each of `{keys}`"),
        (By::Key(key), Some(index)) => {
            format!("the rows of view {view} by index {index} under `{key}`")
        }
        (By::Keys(keys), Some(index)) => {
            format!("the rows of view {view} by index {index} under each of `{keys}`")
        }
        (By::All, _) => format!("all rows of view {view}"),
    }
}

fn reading(view: &View) -> String {
    let (input, state) = (view.config.input.topic(), &view.config.state_topic);
    format!(
        "folded in the agent from {input}, so as fresh as the log; {state} makes its start short"
    )
}

fn asked(model: &config::Model) -> String {
    let name = &model.name;
    match (&model.provider, model.provider.base_url()) {
        (config::Provider::Scripted { rules }, _) => {
            format!("model {name}: scripted, {} rules", rules.len())
        }
        (_, url) => {
            let url = url.and_then(|url| url.split(['?', '#']).next());
            format!(
                "model {name}: {} at {}",
                model.model,
                url.unwrap_or_default()
            )
        }
    }
}
