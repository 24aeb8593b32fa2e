//! `headwater explain`: what resources come to, and why.

use super::{OutputFormat, print_json};
use crate::error::Error;
use crate::folder::DEFAULT_NAMESPACE;
use crate::project::{Project, Secrets};
use crate::terminal::say;
use headwater_operator::plan::{Partitions, Plan, Topic};
use headwater_operator::resources::Id;
use serde_json::{Value, json};
use std::collections::BTreeSet;
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
                say(&as_text(plan));
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
    let mut text = format!("Namespace {}\n", plan.namespace);
    let owners: BTreeSet<&Id> = plan
        .topics
        .iter()
        .map(|topic| &topic.owner)
        .chain(plan.why.keys())
        .collect();
    for id in owners {
        let runs = match plan.stages.iter().find(|stage| stage.id() == *id) {
            Some(stage) if stage.replicas == 1 => format!(", 1 pod of {}", stage.workload()),
            Some(stage) => format!(", {} pods of {}", stage.replicas, stage.workload()),
            None => String::new(),
        };
        text.push_str(&format!("\n{} {}{runs}\n", id.kind, id.name));
        for line in plan.why.get(id).into_iter().flatten() {
            text.push_str(&format!("  {line}\n"));
        }
        for topic in plan.topics.iter().filter(|topic| topic.owner == *id) {
            text.push_str(&format!(
                "  topic {}: {}; {}\n",
                topic.name,
                topic.why,
                size(topic)
            ));
        }
    }
    text
}

fn size(topic: &Topic) -> String {
    let partitions = match &topic.partitions {
        Partitions::Fixed(1) | Partitions::Initially(1) => "1 partition".to_owned(),
        Partitions::Fixed(count) | Partitions::Initially(count) => format!("{count} partitions"),
        Partitions::SameAs(other) => format!("as many partitions as {other}"),
        Partitions::InitiallySameAs(other) => {
            format!("as many partitions as {other} has when it is made")
        }
        Partitions::Largest { of, at_most } => format!(
            "as many partitions as the largest of {}, at most {at_most}",
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
                Partitions::InitiallySameAs(other) => json!({ "initiallySameAs": other }),
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
