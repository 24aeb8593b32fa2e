//! Every name that Headwater gives on Kafka: topics, groups, transactional ids, headers.
//!
//! Decided here once; the operator creates by these names and the data plane reads by them, so a
//! change of a name here is a change of the contract with running clusters.

use std::fmt;

/// Headers that Headwater writes on the records of an agent's outputs.
pub mod header {
    /// The run that wrote the record: 26 base32 characters, kept by retries.
    pub const RUN: &str = "headwater-run";
    /// The agent, as `<namespace>/<name>`.
    pub const AGENT: &str = "headwater-agent";
    /// The position of the trigger: `<topic>-<partition>-<offset>`.
    pub const TRIGGER: &str = "headwater-trigger";
    /// The position of the first event of the chain, the trigger's own position if it has no root.
    pub const ROOT: &str = "headwater-root";
    /// How many agents a chain has passed through, decimal.
    pub const HOPS: &str = "headwater-hops";
    /// SHA-256 of the prompt, hexadecimal.
    pub const PROMPT: &str = "headwater-prompt";
    /// W3C trace context, handed through as it came.
    pub const TRACE_PARENT: &str = "traceparent";
    /// Internal topics: position of the source record that caused a value.
    pub const SOURCE: &str = "hw-s";
    /// Internal topics: event time of that record, ASCII decimal, milliseconds since the epoch.
    pub const TIME: &str = "hw-t";
    /// State topics: fold state where the value is not all of it; the first byte is the codec version.
    pub const STATE: &str = "hw-st";
    /// State topics of views that expire: event time of the key's last event, ASCII decimal, milliseconds since the epoch.
    pub const LAST: &str = "hw-l";
    /// Input logs of agents: the record's own key, as it was.
    pub const TAKEN_KEY: &str = "hw-k";
    /// Input logs of agents: the row that the run is for, as JSON; null where it is for none.
    pub const TAKEN_ROW: &str = "hw-m";
    /// Input logs of agents: where the record stood, and whether it was refused, as JSON.
    pub const TAKEN: &str = "hw-in";
    /// Audit records: how far the runs of the partition are with this transaction, as [`crate::journal::Reached`] has it.
    pub const REACHED: &str = "hw-at";
    /// Dead letters: why, and where the record came from.
    pub const REASON: &str = "headwater-reason";
    /// Dead letters: what was expected and where, in words.
    pub const MESSAGE: &str = "headwater-message";
    /// Dead letters: the record's own key, as it was.
    pub const KEY: &str = "headwater-key";
    /// Dead letters: `<topic>-<partition>-<offset>` of the record that was refused.
    pub const POSITION: &str = "headwater-position";
    /// Dead letters: the record's own timestamp, decimal, milliseconds since the epoch.
    pub const TIMESTAMP: &str = "headwater-timestamp";
    /// Dead letters: written without the record's value, which was too large beside these headers.
    pub const NO_VALUE: &str = "headwater-no-value";
    /// On a record that was a dead letter and was fed again: the position that it was refused at. On a
    /// record of a dead-letter topic without a value: where the letter of its key was fed again.
    pub const RETRIED: &str = "headwater-retried";
}

/// Keys that begin with this byte are Headwater's own in state topics; views refuse them.
pub const RESERVED: u8 = 0;
/// Key of a mark in a state topic or an input log.
pub const MARK_KEY: &[u8] = b"\0m";

/// The kinds of resources that own topics and stages.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Owner {
    Source,
    View,
    Agent,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::View => "view",
            Self::Agent => "agent",
        })
    }
}

/// The topic of a source that names none: `<namespace>.<name>`.
pub fn source_topic(namespace: &str, source: &str) -> String {
    format!("{namespace}.{source}")
}

/// The compacted state topic of a view's generation.
pub fn state_topic(namespace: &str, view: &str, generation: &str) -> String {
    format!("{namespace}.view.{view}.{generation}")
}

/// The input log of a view's generation, where no source can be it.
pub fn input_topic(namespace: &str, view: &str, generation: &str) -> String {
    format!("{namespace}.view.{view}.{generation}-in")
}

/// Each change of a row of a view's generation, for agents that are triggered by it.
pub fn changes_topic(namespace: &str, view: &str, generation: &str) -> String {
    format!("{namespace}.view.{view}.{generation}.changes")
}

/// The generation that a topic belongs to, if it is one of a generation of this view.
pub fn generation_of<'a>(namespace: &str, view: &str, topic: &'a str) -> Option<&'a str> {
    let rest = topic
        .strip_prefix(namespace)?
        .strip_prefix(".view.")?
        .strip_prefix(view)?
        .strip_prefix('.')?;
    let (generation, part) = rest.split_at_checked(6)?;
    let hexadecimal = generation
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (hexadecimal && matches!(part, "" | "-in" | ".changes")).then_some(generation)
}

/// The turns of an agent's conversations.
pub fn conversation_topic(namespace: &str, agent: &str) -> String {
    format!("{namespace}.agent.{agent}.conversation")
}

/// Where an agent's runs start, if not from the records of what triggers it.
pub fn trigger_topic(namespace: &str, agent: &str) -> String {
    format!("{namespace}.agent.{agent}.in")
}

/// Steps of an agent's runs that are not over.
pub fn journal_topic(namespace: &str, agent: &str) -> String {
    format!("{namespace}.agent.{agent}.journal")
}

/// What people are asked before calls of an agent's tools, and what they say.
pub fn approvals_topic(namespace: &str, agent: &str) -> String {
    format!("{namespace}.agent.{agent}.approvals")
}

/// The audit records of an agent's runs.
pub fn runs_topic(namespace: &str, agent: &str) -> String {
    format!("{namespace}.agent.{agent}.runs")
}

/// The dead letters of a resource.
pub fn dead_topic(namespace: &str, owner: Owner, name: &str) -> String {
    format!("{namespace}.{owner}.{name}.dead")
}

/// Consumer group of a stage's role: `<ns>.<kind>.<name>[.<generation>].<role>`.
pub fn group(
    namespace: &str,
    owner: Owner,
    name: &str,
    generation: Option<&str>,
    role: &str,
) -> String {
    match generation {
        Some(generation) => format!("{namespace}.{owner}.{name}.{generation}.{role}"),
        None => format!("{namespace}.{owner}.{name}.{role}"),
    }
}

/// Static member id and transactional id of one replica in a group.
pub fn member(group: &str, ordinal: u32) -> String {
    format!("{group}.{ordinal}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generations_topics_are_told_from_all_others() {
        let of = |topic: &str| generation_of("shop", "orders", topic).map(str::to_owned);
        assert_eq!(
            of(&state_topic("shop", "orders", "0a1b2c")).as_deref(),
            Some("0a1b2c")
        );
        assert_eq!(
            of(&input_topic("shop", "orders", "0a1b2c")).as_deref(),
            Some("0a1b2c")
        );
        for other in [
            dead_topic("shop", Owner::View, "orders"),
            state_topic("shop", "orders-2", "0a1b2c"),
            state_topic("shops", "orders", "0a1b2c"),
            "shop.view.orders.0a1b2c-other".to_owned(),
            "shop.view.orders.0a1b2".to_owned(),
            "shop.view.orders.0a1b2g".to_owned(),
        ] {
            assert_eq!(of(&other), None, "{other}");
        }
    }
}
