//! Names: of resources, and of topics in Kafka.

use super::findings::Findings;
use crate::reason::Reason;

/// Most characters of a resource's name: with `-agent` behind it, 52 is the most a StatefulSet takes.
const RESOURCE: usize = 45;
/// Most characters of a topic's name in Kafka.
const TOPIC: usize = 249;

/// Names are DNS labels: topics, groups and hosts are made of them.
pub(super) fn resource(findings: &mut Findings, name: &str) {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = !name.is_empty()
        && name.len() <= RESOURCE
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !good {
        findings.problem(
            Reason::InvalidSpec,
            "metadata.name",
            format!(
                "'{name}' is no name for a resource: lower-case letters, digits and '-', a letter or digit at both ends, at most {RESOURCE} characters, e.g. flight-updates"
            ),
        );
    }
}

/// A topic that an EventSource may stand for.
pub(super) fn topic(findings: &mut Findings, topic: &str) {
    let good = !topic.is_empty()
        && topic.len() <= TOPIC
        && topic != "."
        && topic != ".."
        && topic
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !good {
        findings.problem(
            Reason::InvalidSpec,
            "spec.topic.name",
            format!("'{topic}' is no name that Kafka accepts: letters, digits, '.', '_' and '-', at most {TOPIC} characters"),
        );
    }
    if reserved(topic) {
        findings.problem(
            Reason::ReservedTopic,
            "spec.topic.name",
            format!(
                "topic '{topic}' is one that Headwater keeps its own state in; choose another name"
            ),
        );
    }
}

/// `<namespace>.<source|view|agent>.<name>.<part>`: topics of views and agents, of any namespace, and Kafka's own.
fn reserved(topic: &str) -> bool {
    let mut segments = topic.split('.').skip(1);
    let ours =
        matches!(segments.next(), Some("source" | "view" | "agent")) && segments.count() >= 2;
    ours || topic.starts_with("__")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_topics_are_reserved_in_every_namespace() {
        for topic in [
            "shop.view.flights.a1b2c3",
            "other.agent.assistant.runs",
            "shop.view.flights.a1b2c3-in",
            "__consumer_offsets",
        ] {
            assert!(reserved(topic), "{topic}");
        }
        for topic in [
            "shop.flights",
            "shop.view.flights",
            "view.agent",
            "shop.orders.view.x",
        ] {
            assert!(!reserved(topic), "{topic}");
        }
    }
}
