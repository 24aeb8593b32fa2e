//! ContextView: what it is folded from, how, and which log it folds.

use super::{
    Context,
    checked::{Source, View},
    compile,
    findings::{Findings, Outcome},
    names, pod,
};
use crate::plan::generation::generation;
use crate::reason::Reason;
use crate::resources::Kind;
use headwater_crds::{
    ContextView,
    context_view::{self as crd, Rebuild},
};
use headwater_engine::{config, names as topics};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(
    context: &Context<'_>,
    name: &str,
    object: &ContextView,
    sources: &BTreeMap<String, Outcome<Source>>,
) -> Outcome<View> {
    let mut findings = Findings::default();
    let spec = &object.spec;
    names::resource(&mut findings, name);
    refuse_unsupported(&mut findings, spec);
    if [
        spec.latest.is_some(),
        spec.history.is_some(),
        spec.aggregate.is_some(),
    ]
    .iter()
    .filter(|set| **set)
    .count()
        > 1
    {
        findings.problem(
            Reason::InvalidSpec,
            "spec",
            "set at most one of latest, history and aggregate; none means latest",
        );
    }
    let fold = match spec.fold() {
        crd::Fold::History(history) => config::Fold::History {
            limit: history.limit,
            within_ms: history
                .within_seconds
                .map(|seconds| i64::from(seconds) * 1_000),
        },
        crd::Fold::Latest(latest) => config::Fold::Latest {
            merge: match latest.merge {
                crd::Merge::Replace => config::Merge::Replace,
                crd::Merge::Fields => config::Merge::Fields,
            },
        },
        crd::Fold::Aggregate(_) => config::Fold::Latest {
            merge: config::Merge::Replace,
        },
    };
    let fields = matches!(
        fold,
        config::Fold::Latest {
            merge: config::Merge::Fields
        }
    );
    if spec.from.is_empty() {
        findings.problem(
            Reason::InvalidSpec,
            "spec.from",
            "name at least one source, e.g. [{name: flights, sourceRef: {name: flights}}]",
        );
    }
    let mut used: BTreeMap<String, &Source> = BTreeMap::new();
    let mut clusters = BTreeSet::new();
    let mut from_names = BTreeSet::new();
    let mut from = Vec::new();
    for part in &spec.from {
        let path = format!("spec.from[name={}]", part.name);
        if !from_names.insert(part.name.as_str()) {
            findings.problem(
                Reason::InvalidSpec,
                &path,
                format!("the name '{}' is given twice", part.name),
            );
        }
        if let Some(source) = findings.refer(
            Kind::EventSource,
            format!("{path}.sourceRef.name"),
            &part.source_ref.name,
            sources,
        ) {
            clusters.insert((
                format!("EventSource '{}'", part.source_ref.name),
                source.cluster.clone(),
            ));
            used.insert(part.source_ref.name.clone(), source);
        }
        findings.not_supported(
            !part.joins.is_empty(),
            format!("{path}.joins"),
            "a join",
            "read both views in the agent, the second slot by a key from the first",
        );
        if part.required && !fields {
            findings.problem(Reason::InvalidSpec, format!("{path}.required"), "required is about rows put together from several sources; set latest.merge to Fields, or leave required out");
        }
        from.push(config::From {
            name: part.name.clone(),
            source: part.source_ref.name.clone(),
            joins: Vec::new(),
            filter: part.filter.clone(),
            key: part.key.clone(),
            value: part.value.clone(),
            delete: part.delete.clone(),
            required: part.required,
        });
    }
    from.sort_by(|a, b| a.name.cmp(&b.name));
    findings.one_cluster("spec.from", "all sources of a view", &clusters);
    let indexes = indexes(&mut findings, spec);
    let pod = pod::check(&mut findings, context.settings, spec.pod.as_ref());
    let configs: BTreeMap<String, config::Source> = used
        .iter()
        .map(|(name, source)| (name.clone(), source.config.clone()))
        .collect();
    // Compiling against a part of the sources would report errors that are none.
    let complete = from.iter().all(|part| configs.contains_key(&part.source));
    let namespace = &context.resources.namespace;
    let choice = Input::choose(&from, &used);
    let generation = generation(&from, &fold, &configs, matches!(choice, Input::Own(_)));
    let state_topic = topics::state_topic(namespace, name, &generation);
    let input = match &choice {
        Input::Source(topic) => config::Input::Source {
            topic: topic.clone(),
        },
        Input::Own(_) => config::Input::Own {
            topic: topics::input_topic(namespace, name, &generation),
        },
    };
    let why = why(&choice, &input, &state_topic, &indexes);
    let config = config::View {
        name: name.to_owned(),
        generation,
        from,
        fold,
        indexes,
        input,
        state_topic,
        dead_topic: topics::dead_topic(namespace, topics::Owner::View, name),
        expire_after_ms: None,
        serve: None,
    };
    if complete {
        findings.compiled(compile::view(&config, &configs));
    }
    let cluster = clusters.into_iter().next().map(|(_, cluster)| cluster);
    findings.finish(cluster.map(|cluster| View {
        config,
        cluster,
        replicas: spec.replicas(),
        pod,
        deletion: spec.deletion_policy,
        why,
    }))
}

/// Which log the view folds.
enum Input {
    /// The source's topic.
    Source(String),
    /// A topic of the view's own, because of this.
    Own(String),
}

impl Input {
    fn choose(from: &[config::From], sources: &BTreeMap<String, &Source>) -> Self {
        let [part] = from else {
            return Self::Own(format!(
                "it has {} sources, whose order is then fixed once for every reader",
                from.len()
            ));
        };
        let Some(source) = sources.get(&part.source) else {
            return Self::Own(format!("EventSource '{}' is not known", part.source));
        };
        if let Some(key) = part.key.as_deref().filter(|key| key.trim() != "key") {
            return Self::Own(format!(
                "its key is `{}` and not the record's, so rows move to other partitions",
                key.trim()
            ));
        }
        if let Some(key) = &source.config.key {
            return Self::Own(format!(
                "EventSource '{}' takes its key from `{}` and not from the record, so rows move to other partitions",
                part.source,
                key.trim()
            ));
        }
        Self::Source(source.config.topic.clone())
    }
}

/// The plan's lines for a view.
fn why(
    choice: &Input,
    input: &config::Input,
    state: &str,
    indexes: &[config::Index],
) -> Vec<String> {
    let mut lines = vec![match choice {
        Input::Source(topic) => {
            format!("folded from {topic}: one source, and its records' key is the view's")
        }
        Input::Own(reason) => format!(
            "folded from {}, a topic of the view's own: {reason}",
            input.topic()
        ),
    }];
    lines.push(format!("the view's stage writes changed rows and marks to {state}, so that readers restore from there and not from the beginning"));
    for index in indexes {
        lines.push(match &index.key {
            config::IndexKey::One(key) => format!("index {}: a row is under `{key}`", index.name),
            config::IndexKey::Many(keys) => {
                format!("index {}: a row is under each of `{keys}`", index.name)
            }
        });
    }
    lines
}

fn indexes(findings: &mut Findings, spec: &headwater_crds::ContextViewSpec) -> Vec<config::Index> {
    if spec.history.is_some() && !spec.indexes.is_empty() {
        findings.problem(
            Reason::InvalidSpec,
            "spec.indexes",
            "a history has no indexes; take latest, or leave indexes out",
        );
    }
    let mut seen = BTreeSet::new();
    let mut indexes = Vec::new();
    for index in &spec.indexes {
        let path = format!("spec.indexes[name={}]", index.name);
        if !seen.insert(index.name.as_str()) {
            findings.problem(
                Reason::InvalidSpec,
                &path,
                format!("the name '{}' is given twice", index.name),
            );
        }
        let key = match (&index.key, &index.keys) {
            (Some(key), None) => config::IndexKey::One(key.clone()),
            (None, Some(keys)) => config::IndexKey::Many(keys.clone()),
            _ => {
                findings.problem(Reason::InvalidSpec, &path, "set exactly one of key (a row is under one key) and keys (a row is under each of a list)");
                continue;
            }
        };
        indexes.push(config::Index {
            name: index.name.clone(),
            key,
        });
    }
    indexes.sort_by(|a, b| a.name.cmp(&b.name));
    indexes
}

fn refuse_unsupported(findings: &mut Findings, spec: &headwater_crds::ContextViewSpec) {
    findings.not_supported(
        spec.aggregate.is_some(),
        "spec.aggregate",
        "an aggregate",
        "keep a history and compute over it in the agent's expressions or template",
    );
    findings.not_supported(
        spec.search.is_some(),
        "spec.search",
        "search",
        "find rows by key or by an index",
    );
    findings.not_supported(
        spec.serve.is_some(),
        "spec.serve",
        "serving rows over HTTP",
        "read the view in an agent's context",
    );
    findings.not_supported(
        spec.expire_after_seconds.is_some(),
        "spec.expireAfterSeconds",
        "expiry",
        "delete rows with from.delete, or take history with withinSeconds",
    );
    findings.not_supported(
        spec.rebuild != Rebuild::default(),
        "spec.rebuild",
        "a forced rebuild",
        "leave rebuild at IfComplete; a changed view is built anew from what its sources hold",
    );
}
