//! Topics: of sources, and the internal ones of views and agents, with their configuration.
//!
//! Internal topics carry the broker's time (event times would expire a backfill at once) and messages up
//! to 1 MiB. Compacted ones keep an hour of history, so that a slow restore still finds what it began with.

use super::{Generations, working};
use crate::resources::{Id, Kind};
use crate::validate::{
    Outcome, Validation,
    checked::{Cluster, Source},
};
use headwater_crds::event_source::Management;
use headwater_engine::config::{Input, TriggerFrom};
use std::collections::BTreeMap;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const JOURNAL_SEGMENT_MS: u64 = 600_000;
const JOURNAL_SEGMENT_BYTES: u64 = 16 << 20;
/// Most partitions of an input log of a view's or an agent's own.
const INPUT_PARTITIONS: u32 = 64;

/// How many partitions a topic has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Partitions {
    /// So many, and more when the number grows.
    Fixed(u32),
    /// So many at creation; a topic that is there keeps its number.
    Initially(u32),
    /// As many as that topic has, and more when it grows.
    SameAs(String),
    /// As many as that topic has at creation; a topic that is there keeps its number.
    InitiallySameAs(String),
    /// At creation as many as the largest of these has, at most so many; a topic that is there keeps its number.
    Largest { of: Vec<String>, at_most: u32 },
}

impl Partitions {
    /// The number, given those of other topics; `None` while one of them is not known.
    pub fn resolve(&self, known: impl Fn(&str) -> Option<u32>) -> Option<u32> {
        match self {
            Self::Fixed(count) | Self::Initially(count) => Some(*count),
            Self::SameAs(topic) | Self::InitiallySameAs(topic) => known(topic),
            Self::Largest { of, at_most } => {
                let counts: Option<Vec<u32>> = of.iter().map(|topic| known(topic)).collect();
                counts?.into_iter().max().map(|most| most.min(*at_most))
            }
        }
    }

    /// Whether a topic that is there gets more when the number grows.
    pub fn grows(&self) -> bool {
        match self {
            Self::Fixed(_) | Self::SameAs(_) => true,
            Self::Initially(_) | Self::InitiallySameAs(_) | Self::Largest { .. } => false,
        }
    }
}

/// A topic that has to be there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Topic {
    pub name: String,
    pub owner: Id,
    /// Name of the KafkaCluster.
    pub cluster: String,
    pub partitions: Partitions,
    /// `None`: the broker's default. Only at creation.
    pub replication_factor: Option<u32>,
    pub config: BTreeMap<String, String>,
    pub management: Management,
    /// What the topic is for, for people.
    pub why: String,
}

/// Of a view, those of each of its generations.
pub(super) fn topics(validation: &Validation, views: &BTreeMap<String, Generations>) -> Vec<Topic> {
    let mut topics = Vec::new();
    for (name, source) in working(&validation.sources) {
        topics.push(of_source(name, source));
    }
    for (name, view) in working(&validation.views) {
        let Some(cluster) = validation.clusters.get(&view.cluster).and_then(Outcome::ok) else {
            continue;
        };
        let internal = Internal {
            owner: Id::new(Kind::ContextView, name),
            cluster_name: &view.cluster,
            cluster,
        };
        for generation in views.get(name).iter().flat_map(|all| &all.stages) {
            let config = &generation.folded.config;
            if let Input::Own { topic } = &config.input {
                let sources = generation.folded.sources.values();
                let partitions = Partitions::Largest {
                    of: sources.map(|source| source.topic.clone()).collect(),
                    at_most: INPUT_PARTITIONS,
                };
                topics.push(internal.deleted(
                    topic,
                    partitions,
                    3 * DAY_MS,
                    "the one order that every reader folds",
                ));
            }
            // A log that grows spreads keys anew, so what is folded partition by partition keeps its partitions.
            let partitions = Partitions::InitiallySameAs(config.input.topic().to_owned());
            if let Some(changes) = &config.changes_topic {
                topics.push(internal.deleted(
                    changes,
                    partitions.clone(),
                    7 * DAY_MS,
                    "each change of a row, for the agents that it triggers",
                ));
            }
            topics.push(internal.compacted(
                &config.state_topic,
                partitions,
                "rows and marks, from which readers restore",
            ));
        }
        topics.push(internal.dead(&view.config.dead_topic));
    }
    for (name, agent) in working(&validation.agents) {
        let Some(cluster) = validation
            .clusters
            .get(&agent.cluster)
            .and_then(Outcome::ok)
        else {
            continue;
        };
        let Some(trigger) = trigger_topic(&agent.config.trigger.from, validation, views) else {
            continue;
        };
        let internal = Internal {
            owner: Id::new(Kind::Agent, name),
            cluster_name: &agent.cluster,
            cluster,
        };
        // Where runs start from.
        let log = match &agent.config.trigger.input {
            Some(input) => {
                let partitions = Partitions::Largest {
                    of: vec![trigger.to_owned()],
                    at_most: INPUT_PARTITIONS,
                };
                topics.push(internal.deleted(
                    input,
                    partitions,
                    3 * DAY_MS,
                    "the triggers, each once, by the run's key",
                ));
                input.as_str()
            }
            None => trigger,
        };
        let partitions = || Partitions::SameAs(log.to_owned());
        let own = &agent.config.topics;
        if let Some(conversation) = &own.conversation {
            topics.push(internal.compacted(
                conversation,
                partitions(),
                "turns of conversations, by the run's key",
            ));
        }
        topics.push(internal.journal(&own.journal, partitions()));
        let retention = u64::from(agent.audit_retention_seconds) * 1_000;
        topics.push(internal.deleted(
            &own.runs,
            partitions(),
            retention,
            "the audit: a record of each run",
        ));
        let approval = agent
            .config
            .tools
            .as_ref()
            .and_then(|tools| tools.approval.as_ref());
        if let (Some(approvals), Some(approval)) = (&own.approvals, approval) {
            topics.push(internal.deleted(
                approvals,
                partitions(),
                // As long as one is waited for, and what was said of it is to be seen after that.
                retention.max(approval.timeout_ms.saturating_mul(2)),
                "what people are asked before calls, and what they say",
            ));
        }
        topics.push(internal.dead(&own.dead));
    }
    topics
}

/// Where what triggers an agent stands; `None` while a view has no generation yet.
fn trigger_topic<'a>(
    from: &TriggerFrom,
    validation: &'a Validation,
    views: &'a BTreeMap<String, Generations>,
) -> Option<&'a str> {
    match from {
        TriggerFrom::Source(name) => {
            let source = validation.sources.get(name)?.ok()?;
            Some(&source.config.topic)
        }
        TriggerFrom::View(name) => {
            let read = views.get(name)?.read.as_ref()?;
            read.config.changes_topic.as_deref()
        }
    }
}

fn of_source(name: &str, source: &Source) -> Topic {
    let observed = source.management == Management::Observe;
    let mut config = if observed {
        BTreeMap::new()
    } else {
        source.topic_config.clone()
    };
    if !observed {
        in_sync(&mut config, source.replication_factor);
    }
    Topic {
        name: source.config.topic.clone(),
        owner: Id::new(Kind::EventSource, name),
        cluster: source.cluster.clone(),
        partitions: source.partitions.clone(),
        replication_factor: source.replication_factor,
        config,
        management: source.management,
        why: if observed {
            "observed: it belongs to others"
        } else {
            "the source's events"
        }
        .to_owned(),
    }
}

/// With three replicas, an acknowledged record is on two brokers. With fewer the broker's own setting stands.
fn in_sync(config: &mut BTreeMap<String, String>, replication_factor: Option<u32>) {
    if replication_factor.is_some_and(|replicas| replicas >= 3) {
        config
            .entry("min.insync.replicas".to_owned())
            .or_insert_with(|| "2".to_owned());
    }
}

struct Internal<'a> {
    owner: Id,
    cluster_name: &'a str,
    cluster: &'a Cluster,
}

impl Internal<'_> {
    fn compacted(&self, name: &str, partitions: Partitions, why: &str) -> Topic {
        let config = [
            ("cleanup.policy", "compact".to_owned()),
            ("min.compaction.lag.ms", HOUR_MS.to_string()),
            ("max.compaction.lag.ms", (7 * DAY_MS).to_string()),
            ("delete.retention.ms", DAY_MS.to_string()),
        ];
        self.topic(name, partitions, &config, why)
    }

    /// In small segments: nearly all that it ever held is over, and a partition that is taken over reads what is left.
    fn journal(&self, name: &str, partitions: Partitions) -> Topic {
        let why = "steps of runs that are not over, and what must not run twice";
        let mut topic = self.compacted(name, partitions, why);
        let segments = [
            ("segment.ms", JOURNAL_SEGMENT_MS.to_string()),
            ("segment.bytes", JOURNAL_SEGMENT_BYTES.to_string()),
        ];
        let segments = segments.map(|(name, value)| (name.to_owned(), value));
        topic.config.extend(segments);
        topic
    }

    fn deleted(&self, name: &str, partitions: Partitions, retention_ms: u64, why: &str) -> Topic {
        let config = [
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention_ms.to_string()),
        ];
        self.topic(name, partitions, &config, why)
    }

    fn dead(&self, name: &str) -> Topic {
        self.deleted(
            name,
            Partitions::Fixed(1),
            14 * DAY_MS,
            "records that were refused, with the reason",
        )
    }

    /// Of the cluster's defaults only what does not touch what an internal topic means.
    fn topic(
        &self,
        name: &str,
        partitions: Partitions,
        own: &[(&str, String)],
        why: &str,
    ) -> Topic {
        let defaults = &self.cluster.topic_config;
        let mut config: BTreeMap<String, String> = ["compression.type", "min.insync.replicas"]
            .iter()
            .filter_map(|property| Some(((*property).to_owned(), defaults.get(*property)?.clone())))
            .collect();
        config.insert(
            "message.timestamp.type".to_owned(),
            "LogAppendTime".to_owned(),
        );
        config.insert("max.message.bytes".to_owned(), "1048588".to_owned());
        config.extend(
            own.iter()
                .map(|(property, value)| ((*property).to_owned(), value.clone())),
        );
        in_sync(&mut config, self.cluster.replication_factor);
        Topic {
            name: name.to_owned(),
            owner: self.owner.clone(),
            cluster: self.cluster_name.to_owned(),
            partitions,
            replication_factor: self.cluster.replication_factor,
            config,
            management: Management::Create,
            why: why.to_owned(),
        }
    }
}
