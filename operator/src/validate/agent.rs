//! Agent: trigger, slots, conversation, prompt, model and outputs, and that all of it fits together.

use super::{
    Context,
    checked::{Agent, Cluster, Model, Source, ToolServer, View},
    compile,
    findings::{Findings, Outcome},
    names, pod, slot, tools, trigger,
};
use crate::plan::{Folded, stage};
use crate::reason::Reason;
use crate::resources::Kind;
use headwater_crds::{self as crds, agent as crd};
use headwater_engine::{config, names as topics};
use std::collections::{BTreeMap, BTreeSet};

/// What an agent may refer to.
pub(super) struct Around<'a> {
    pub(super) clusters: &'a BTreeMap<String, Outcome<Cluster>>,
    pub(super) models: &'a BTreeMap<String, Outcome<Model>>,
    pub(super) sources: &'a BTreeMap<String, Outcome<Source>>,
    pub(super) views: &'a BTreeMap<String, Outcome<View>>,
    pub(super) tool_servers: &'a BTreeMap<String, Outcome<ToolServer>>,
}

pub(super) fn check(
    context: &Context<'_>,
    name: &str,
    object: &crds::Agent,
    around: &Around<'_>,
) -> Outcome<Agent> {
    let mut findings = Findings::default();
    let spec = &object.spec;
    let namespace = &context.resources.namespace;
    names::resource(&mut findings, name);
    refuse_unsupported(&mut findings, spec);
    let mut clusters = BTreeSet::new();
    let mut sources = BTreeSet::new();
    let mut views: BTreeMap<String, &View> = BTreeMap::new();
    let trigger = trigger::check(
        &mut findings,
        &spec.trigger,
        &topics::trigger_topic(namespace, name),
        around,
        &mut sources,
        &mut views,
    );
    if let Some((name, source)) = trigger.from.source().and_then(|name| {
        let source = around.sources.get(name)?.ok()?;
        Some((name, source))
    }) {
        clusters.insert((format!("EventSource '{name}'"), source.cluster.clone()));
    }
    let slots = slot::check(&mut findings, &spec.context, around.views, &mut views);
    let (tools, needs) = tools::check(&mut findings, spec, around, &mut views);
    clusters.extend(needs.clusters);
    sources.extend(needs.sources);
    for (name, view) in &views {
        clusters.insert((format!("ContextView '{name}'"), view.cluster.clone()));
        sources.extend(view.sources().map(str::to_owned));
    }
    let model = spec.model_ref.as_ref().and_then(|model| {
        findings.refer(
            Kind::Model,
            "spec.modelRef.name",
            &model.name,
            around.models,
        )
    });
    let outputs = outputs(
        &mut findings,
        &spec.outputs,
        around,
        &mut clusters,
        &mut sources,
    );
    findings.one_cluster(
        "spec",
        "the trigger, views, outputs and tools of an agent",
        &clusters,
    );
    let does = !spec.outputs.is_empty() || !spec.tools.is_empty();
    if spec.model_ref.is_none() && spec.prompt.is_none() && !does {
        findings.problem(
            Reason::InvalidSpec,
            "spec",
            "the agent does nothing; give it a modelRef, a prompt or outputs",
        );
    }
    let pod = pod::check(&mut findings, context.settings, spec.pod.as_ref());
    let prompt = match (&spec.prompt, &spec.model_ref) {
        (Some(prompt), _) => Some(config::Prompt {
            system: prompt.system.clone(),
            user: prompt.user.clone(),
            budget_tokens: prompt.budget_tokens,
        }),
        (None, Some(_)) => Some(config::Prompt::default()),
        (None, None) => None,
    };
    let asks = tools.as_ref().is_some_and(|tools| tools.approval.is_some());
    let config = config::Agent {
        name: name.to_owned(),
        trigger,
        slots,
        freshness_wait_ms: u64::from(spec.freshness_wait_milliseconds),
        when: spec.when.clone(),
        conversation: spec
            .conversation
            .as_ref()
            .map(|conversation| config::Conversation {
                turns: conversation.turns,
                expire_after_ms: i64::from(conversation.expire_after_seconds) * 1_000,
                user_text: conversation.user_text.clone(),
            }),
        prompt,
        model: model.map(|model| model.config.clone()),
        result_schema: spec
            .result
            .as_ref()
            .map(|result| result.schema.clone().into()),
        tools,
        outputs,
        delivery: delivery(&spec.delivery),
        audit: match spec.audit.content {
            crd::AuditContent::Full => config::Audit::Full,
            crd::AuditContent::Hashes => config::Audit::Hashes,
        },
        concurrency: spec.concurrency,
        topics: config::AgentTopics {
            conversation: spec
                .conversation
                .is_some()
                .then(|| topics::conversation_topic(namespace, name)),
            journal: topics::journal_topic(namespace, name),
            runs: topics::runs_topic(namespace, name),
            approvals: asks.then(|| topics::approvals_topic(namespace, name)),
            dead: topics::dead_topic(namespace, topics::Owner::Agent, name),
        },
    };
    let cluster_name = clusters.iter().next().map(|(_, cluster)| cluster.clone());
    let cluster = cluster_name
        .as_ref()
        .and_then(|name| around.clusters.get(name))
        .and_then(Outcome::ok);
    let mut secrets = cluster
        .map(|cluster| cluster.secrets.clone())
        .unwrap_or_default();
    secrets.extend(model.iter().flat_map(|model| model.secrets.clone()));
    secrets.extend(needs.secrets);
    let checked = cluster_name.map(|cluster| Agent {
        why: super::why::agent(&config, around.sources, &views),
        config,
        cluster,
        sources,
        views: views.keys().cloned().collect(),
        secrets,
        replicas: spec.replicas(),
        suspend: spec.suspend,
        pod,
        deletion: spec.deletion_policy,
        audit_retention_seconds: spec.audit.retention_seconds,
    });
    // Compiling what lacks its parts would report errors that are none.
    if findings.references_resolved()
        && let (Some(checked), Some(cluster)) = (&checked, cluster)
        && let Some(read) = declared(namespace, &checked.config.trigger, &views, around.sources)
        && let Some(stage) = stage::agent(namespace, checked, cluster, around.sources, &read)
    {
        findings.compiled(compile::agent(&stage));
    }
    findings.finish(checked)
}

/// The views as their resources have them now.
fn declared(
    namespace: &str,
    trigger: &config::Trigger,
    views: &BTreeMap<String, &View>,
    sources: &BTreeMap<String, Outcome<Source>>,
) -> Option<BTreeMap<String, Folded>> {
    let folded = |view: &View| -> Option<Folded> {
        let sources = view.sources().map(|name| {
            let source = sources.get(name)?.ok()?;
            Some((name.to_owned(), source.config.clone()))
        });
        Some(Folded {
            config: view.config.clone(),
            sources: sources.collect::<Option<_>>()?,
        })
    };
    views
        .iter()
        .map(|(name, view)| {
            let mut folded = folded(view)?;
            folded.write_changes(namespace, trigger.from.view() == Some(name));
            Some((name.clone(), folded))
        })
        .collect()
}

fn outputs(
    findings: &mut Findings,
    outputs: &[crd::Output],
    around: &Around<'_>,
    clusters: &mut BTreeSet<(String, String)>,
    sources: &mut BTreeSet<String>,
) -> Vec<config::Output> {
    let mut seen = BTreeSet::new();
    let mut checked = Vec::new();
    for output in outputs {
        let path = format!("spec.outputs[name={}]", output.name);
        if !seen.insert(output.name.as_str()) {
            findings.problem(
                Reason::InvalidSpec,
                &path,
                format!("the name '{}' is given twice", output.name),
            );
        }
        let name = &output.source_ref.name;
        let Some(source) = findings.refer(
            Kind::EventSource,
            format!("{path}.sourceRef.name"),
            name,
            around.sources,
        ) else {
            continue;
        };
        clusters.insert((format!("EventSource '{name}'"), source.cluster.clone()));
        sources.insert(name.clone());
        findings.writes(&format!("{path}.sourceRef.name"), name, source);
        checked.push(config::Output {
            name: output.name.clone(),
            source: name.clone(),
            topic: source.config.topic.clone(),
            format: source.config.format,
            outcome: match output.outcome {
                crd::Outcome::Done => config::Outcome::Done,
                crd::Outcome::Failed => config::Outcome::Failed,
            },
            when: output.when.clone(),
            items: output.items.clone(),
            key: output.key.clone(),
            value: output.value.clone(),
        });
    }
    checked.sort_by(|a, b| a.name.cmp(&b.name));
    checked
}

fn delivery(delivery: &crd::Delivery) -> config::Delivery {
    config::Delivery {
        max_attempts: delivery.max_attempts,
        attempt_timeout_ms: u64::from(delivery.attempt_timeout_seconds) * 1_000,
        max_hops: delivery.max_hops,
        on_failure: match delivery.on_failure {
            crd::OnFailure::DeadLetter => config::OnFailure::DeadLetter,
            crd::OnFailure::Skip => config::OnFailure::Skip,
            crd::OnFailure::Stop => config::OnFailure::Stop,
        },
    }
}

fn refuse_unsupported(findings: &mut Findings, spec: &crds::AgentSpec) {
    findings.not_supported(
        spec.autoscaling.is_some(),
        "spec.autoscaling",
        "autoscaling",
        "set replicas",
    );
}
