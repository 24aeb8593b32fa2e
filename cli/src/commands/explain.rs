//! `headwater explain`: what resources come to, and why.

use super::{OutputFormat, print_json};
use crate::error::Error;
use crate::folder::DEFAULT_NAMESPACE;
use crate::project::{Project, Secrets};
use headwater_operator::plan::{Partitions, Plan, Topic};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Show the plan: topics, stages, how each slot is read and why.
///
/// The plan is what the operator would apply. Resources with errors are left out of it; the errors are
/// printed, as `headwater validate` prints them, and the exit code is 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folders (their .yaml, .yml and .json files) or files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Namespace of resources that name none.
    #[arg(long, short, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let project = Project::read(&arguments.paths, &arguments.namespace, Secrets::Manifests)?;
    let plans = project.plans(None);
    match arguments.output {
        OutputFormat::Json => print_json(&json!({
            "namespaces": plans.iter().map(as_json).collect::<Vec<_>>(),
            "findings": project.findings,
        }))?,
        OutputFormat::Text => {
            for plan in &plans {
                print!("{}", as_text(plan));
            }
            for finding in project.findings.iter() {
                eprintln!("{finding}");
            }
        }
    }
    match project.error_count() {
        0 => Ok(()),
        errors => Err(Error::Findings(format!(
            "{errors} errors; what they break is not in the plan"
        ))),
    }
}

fn as_text(plan: &Plan) -> String {
    let mut text = format!("Namespace {}\n\nTopics\n", plan.namespace);
    let widest = plan
        .topics
        .iter()
        .map(|topic| topic.name.len())
        .max()
        .unwrap_or_default();
    let sizes: Vec<String> = plan.topics.iter().map(size).collect();
    let size_widest = sizes
        .iter()
        .map(|size| size.chars().count())
        .max()
        .unwrap_or_default();
    for (topic, size) in plan.topics.iter().zip(&sizes) {
        text.push_str(&format!(
            "  {:widest$}  {size:size_widest$}  {} of {}\n",
            topic.name, topic.why, topic.owner
        ));
    }
    text.push_str("\nViews and agents\n");
    for (id, why) in &plan.why {
        let stage = plan.stages.iter().find(|stage| stage.id() == *id);
        let runs = match stage {
            Some(stage) if stage.replicas == 1 => format!("1 replica of {}", stage.workload()),
            Some(stage) => format!("{} replicas of {}", stage.replicas, stage.workload()),
            None => "no stage of its own".to_owned(),
        };
        text.push_str(&format!("  {} {}: {runs}\n", id.kind, id.name));
        for line in why {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text.push('\n');
    text
}

fn size(topic: &Topic) -> String {
    let partitions = match &topic.partitions {
        Partitions::Fixed(1) | Partitions::Initially(1) => "1 partition".to_owned(),
        Partitions::Fixed(count) | Partitions::Initially(count) => format!("{count} partitions"),
        Partitions::SameAs(other) => format!("partitions of {other}"),
        Partitions::Largest { of, at_most } => format!(
            "partitions of the largest of {}, at most {at_most}",
            of.join(", ")
        ),
    };
    let policy = topic
        .config
        .get("cleanup.policy")
        .map_or("", String::as_str);
    if policy == "compact" {
        format!("{partitions}, compacted")
    } else {
        partitions
    }
}

fn as_json(plan: &Plan) -> Value {
    let topics: Vec<Value> = plan
        .topics
        .iter()
        .map(|topic| {
            let partitions = match &topic.partitions {
                Partitions::Fixed(count) | Partitions::Initially(count) => json!(count),
                Partitions::SameAs(other) => json!({ "sameAs": other }),
                Partitions::Largest { of, at_most } => {
                    json!({ "largestOf": of, "atMost": at_most })
                }
            };
            json!({
                "name": topic.name,
                "owner": topic.owner,
                "partitions": partitions,
                "replicationFactor": topic.replication_factor,
                "config": topic.config,
                "management": topic.management,
                "why": topic.why,
            })
        })
        .collect();
    let stages: Vec<Value> = plan
        .stages
        .iter()
        .map(|stage| {
            json!({
                "kind": stage.kind,
                "name": stage.name,
                "workload": stage.workload(),
                "replicas": stage.replicas,
                "secrets": stage.secrets,
                "config": stage.config,
                "why": stage.why,
            })
        })
        .collect();
    let why: Vec<Value> = plan
        .why
        .iter()
        .map(|(id, lines)| json!({ "resource": id, "why": lines }))
        .collect();
    json!({ "namespace": plan.namespace, "topics": topics, "stages": stages, "why": why })
}
