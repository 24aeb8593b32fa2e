//! EventSource: its topic, and how its records are read.

use super::{
    Context, allow,
    checked::{Cluster, Source},
    compile,
    findings::{Findings, Outcome},
    names,
};
use crate::plan::Partitions;
use crate::reason::Reason;
use crate::resources::Kind;
use headwater_crds::{
    EventSource,
    common::DeletionPolicy,
    event_source::{Envelope, Format, InvalidRecords, Management},
};
use headwater_engine::{config, names as topics};
use std::collections::BTreeMap;

pub(super) fn check(
    context: &Context<'_>,
    name: &str,
    object: &EventSource,
    clusters: &BTreeMap<String, Outcome<Cluster>>,
    duplicate: Option<&str>,
) -> Outcome<Source> {
    let mut findings = Findings::default();
    let spec = &object.spec;
    names::resource(&mut findings, name);
    let topic = spec
        .topic
        .name
        .clone()
        .unwrap_or_else(|| topics::source_topic(&context.resources.namespace, name));
    let cluster_name = spec.cluster().to_owned();
    let cluster = findings.refer(
        Kind::KafkaCluster,
        "spec.clusterRef.name",
        &cluster_name,
        clusters,
    );
    let owner = format!("EventSource '{name}'");
    names::topic(&mut findings, &topic);
    if let Some(cluster) = cluster {
        let allowed = &cluster.allowed_topics;
        if !allowed.is_empty() && !allowed.iter().any(|prefix| topic.starts_with(prefix)) {
            findings.problem(
                Reason::NotAllowed,
                "spec.topic.name",
                format!(
                    "topic '{topic}' is not allowed on KafkaCluster '{cluster_name}': its name must begin with {}",
                    allowed.iter().map(|prefix| format!("'{prefix}'")).collect::<Vec<_>>().join(" or ")
                ),
            );
        }
    }
    if let Some(other) = duplicate {
        findings.problem(
            Reason::DuplicateTopic,
            "spec.topic.name",
            format!("topic '{topic}' already belongs to EventSource '{other}'; refer to that one, or give {owner} a topic of its own"),
        );
    }
    if spec.topic.management == Management::Observe {
        if spec.topic.partitions.is_some()
            || spec.topic.replication_factor.is_some()
            || !spec.topic.config.is_empty()
        {
            findings.problem(
                Reason::InvalidSpec,
                "spec.topic",
                "an observed topic is not Headwater's to change; with management Observe give name alone",
            );
        }
        if spec.deletion_policy == DeletionPolicy::Delete {
            findings.problem(
                Reason::InvalidSpec,
                "spec.deletionPolicy",
                "an observed topic is not Headwater's to delete; leave deletionPolicy at Retain",
            );
        }
    }
    allow::topic_config(&mut findings, "spec.topic.config", &spec.topic.config);
    if spec.envelope == Envelope::Debezium && spec.key_format == Format::Text && spec.key.is_none()
    {
        findings.warn(
            Reason::UnreadableKey,
            "spec.keyFormat",
            "Debezium writes keys as JSON objects, so as text a key is `{\"id\":7}` and not `7`; set keyFormat to Json, or leave it if the connector writes plain keys",
        );
    }
    findings.not_supported(
        spec.ingest.is_some(),
        "spec.ingest",
        "ingest",
        "produce to the topic with a Kafka client, and leave ingest out",
    );
    let format = value_format(&mut findings, "spec.format", spec.format);
    let key_format = value_format(&mut findings, "spec.keyFormat", spec.key_format);
    let config = config::Source {
        name: name.to_owned(),
        topic,
        format,
        key_format,
        envelope: match spec.envelope {
            Envelope::None => config::Envelope::None,
            Envelope::Debezium => config::Envelope::Debezium,
        },
        schema: spec.schema.clone().map(serde_json::Value::Object),
        key: spec.key.clone(),
        event_time: spec.event_time.clone(),
        invalid_records: match spec.invalid_records {
            InvalidRecords::DeadLetter => config::InvalidRecords::DeadLetter,
            InvalidRecords::Skip => config::InvalidRecords::Skip,
            InvalidRecords::Stop => config::InvalidRecords::Stop,
        },
    };
    findings.compiled(compile::source(&config));
    findings.finish(cluster.map(|cluster| {
        Source {
            config,
            cluster: cluster_name,
            management: spec.topic.management,
            partitions: spec
                .topic
                .partitions
                .map_or(Partitions::Initially(cluster.partitions), Partitions::Fixed),
            replication_factor: spec.topic.replication_factor.or(cluster.replication_factor),
            topic_config: topic_config(cluster, &spec.topic.config),
            deletion: spec.deletion_policy,
            grown: object
                .status
                .as_ref()
                .is_some_and(|status| status.has_grown()),
        }
    }))
}

/// The cluster's defaults, the source's own over them, and a bound on record timestamps: one from the
/// far future would keep a topic's segments, or expire everything else.
fn topic_config(cluster: &Cluster, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut config = BTreeMap::from([(
        "message.timestamp.after.max.ms".to_owned(),
        "3600000".to_owned(),
    )]);
    config.extend(cluster.topic_config.clone());
    config.extend(own.clone());
    config
}

fn value_format(findings: &mut Findings, path: &str, format: Format) -> config::Format {
    findings.not_supported(
        matches!(format, Format::Avro | Format::Protobuf),
        path,
        match format {
            Format::Avro => "the format Avro",
            _ => "the format Protobuf",
        },
        "write records as Json or Text",
    );
    match format {
        Format::Text => config::Format::Text,
        Format::Json | Format::Avro | Format::Protobuf => config::Format::Json,
    }
}
