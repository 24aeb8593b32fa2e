//! What a resource sets on Kafka clients and topics, held against the allow-lists of
//! [`headwater_kafka::allow`], with a hint for what is not on them.

use super::findings::Findings;
use crate::hint;
use crate::reason::Reason;
use headwater_kafka::allow::{
    CLIENT_CONFIG, TOPIC_CONFIG, client_config_allowed, topic_config_allowed,
};
use std::collections::BTreeMap;

pub(super) fn client_config(findings: &mut Findings, config: &BTreeMap<String, String>) {
    for property in config.keys() {
        if client_config_allowed(property) {
            continue;
        }
        let instead = match property.split('.').next() {
            Some("ssl" | "security") => {
                "; TLS is set with spec.tls and verification is always on".to_owned()
            }
            Some("sasl") => "; credentials are set with spec.sasl".to_owned(),
            _ if property == "bootstrap.servers" || property == "metadata.broker.list" => {
                "; servers are set with spec.bootstrapServers".to_owned()
            }
            _ => hint::instead(property, CLIENT_CONFIG.iter().copied()),
        };
        findings.problem(
            Reason::NotAllowed,
            format!("spec.clientConfig[{property}]"),
            format!("the client property '{property}' may not be set{instead}"),
        );
    }
}

pub(super) fn topic_config(findings: &mut Findings, path: &str, config: &BTreeMap<String, String>) {
    for (property, value) in config {
        let path = format!("{path}[{property}]");
        if property == "unclean.leader.election.enable" {
            findings.problem(
                Reason::NotAllowed,
                path,
                "the topic property 'unclean.leader.election.enable' may not be set: it loses acknowledged records",
            );
        } else if !topic_config_allowed(property) {
            let hint = hint::instead(property, TOPIC_CONFIG.iter().copied());
            findings.problem(
                Reason::NotAllowed,
                path,
                format!("the topic property '{property}' may not be set{hint}"),
            );
        } else if let Some(expected) = wrong(property, value) {
            findings.problem(
                Reason::InvalidSpec,
                path,
                format!("'{value}' is no {property}; {expected}"),
            );
        }
    }
}

/// What a value should have been. Bounds are Kafka's to check; it names the property when it refuses.
fn wrong(property: &str, value: &str) -> Option<String> {
    let one_of = |allowed: &[&str]| {
        (!allowed.contains(&value)).then(|| format!("it is one of {}", allowed.join(", ")))
    };
    match property {
        "cleanup.policy" => one_of(&["delete", "compact", "compact,delete", "delete,compact"]),
        "compression.type" => {
            one_of(&["producer", "uncompressed", "zstd", "lz4", "snappy", "gzip"])
        }
        "message.timestamp.type" => one_of(&["CreateTime", "LogAppendTime"]),
        "preallocate" | "remote.storage.enable" => one_of(&["true", "false"]),
        "min.cleanable.dirty.ratio" => (!value
            .parse::<f64>()
            .is_ok_and(|ratio| (0.0..=1.0).contains(&ratio)))
        .then(|| "it is a number from 0 to 1".to_owned()),
        _ => value
            .parse::<i64>()
            .is_err()
            .then(|| "it is a whole number, as text".to_owned()),
    }
}
