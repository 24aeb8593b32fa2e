//! ContextView: what it is folded from, how, and which log it folds.

use super::{
    Context,
    checked::{Source, View},
    compile,
    findings::{Findings, Outcome},
    names, pod,
};
use crate::plan::generation;
use crate::reason::Reason;
use crate::resources::{Kind, SecretKey};
use headwater_crds::{ContextView, context_view as crd};
use headwater_engine::{config, names as topics};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(
    context: &Context<'_>,
    name: &str,
    object: &ContextView,
    sources: &BTreeMap<String, Outcome<Source>>,
    views: &BTreeMap<String, Outcome<View>>,
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
        crd::Fold::Aggregate(aggregate) => aggregated(aggregate),
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
    let mut joined: BTreeMap<String, &View> = BTreeMap::new();
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
        let joins = joins(&mut findings, context, name, part, views, &mut joined);
        if part.required && !fields {
            findings.problem(Reason::InvalidSpec, format!("{path}.required"), "required is about rows put together from several sources; set latest.merge to Fields, or leave required out");
        }
        from.push(config::From {
            name: part.name.clone(),
            source: part.source_ref.name.clone(),
            joins,
            filter: part.filter.clone(),
            key: part.key.clone(),
            value: part.value.clone(),
            delete: part.delete.clone(),
            required: part.required,
        });
    }
    from.sort_by(|a, b| a.name.cmp(&b.name));
    for (name, view) in &joined {
        clusters.insert((format!("ContextView '{name}'"), view.cluster.clone()));
    }
    findings.one_cluster(
        "spec.from",
        "all sources and joined views of a view",
        &clusters,
    );
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
    let mut secrets = BTreeSet::new();
    let serve = serve(&mut findings, context, spec, &mut secrets);
    let mut config = config::View {
        name: name.to_owned(),
        generation: String::new(),
        from,
        fold,
        indexes,
        input: match &choice {
            Input::Source(topic) => config::Input::Source {
                topic: topic.clone(),
            },
            Input::Own(_) => config::Input::Own {
                topic: String::new(),
            },
        },
        state_topic: String::new(),
        dead_topic: topics::dead_topic(namespace, topics::Owner::View, name),
        changes_topic: None,
        expire_after_ms: spec
            .expire_after_seconds
            .map(|seconds| i64::from(seconds) * 1_000),
        serve,
        sources: BTreeMap::new(),
    };
    let generations = joined
        .iter()
        .map(|(name, view)| (name.clone(), view.config.generation.clone()))
        .collect();
    generation::name(namespace, &mut config, &configs, &generations);
    let mut why = why(&choice, &config);
    why.extend(why_joins(&config.from, &joined));
    if complete {
        findings.compiled(compile::view(&config, &configs));
    }
    let cluster = clusters.into_iter().next().map(|(_, cluster)| cluster);
    findings.finish(cluster.map(|cluster| View {
        config,
        cluster,
        secrets,
        replicas: spec.replicas(),
        rebuild: spec.rebuild,
        pod,
        deletion: spec.deletion_policy,
        why,
    }))
}

/// How rows are served; the token's file is added to `secrets`.
fn serve(
    findings: &mut Findings,
    context: &Context<'_>,
    spec: &headwater_crds::ContextViewSpec,
    secrets: &mut BTreeSet<SecretKey>,
) -> Option<config::Serve> {
    let http = &spec.serve.as_ref()?.http;
    let path = "spec.serve.http.tokenSecretKeyRef";
    let token = http
        .token_secret_key_ref
        .as_ref()
        .map(|key| SecretKey::new(&key.name, &key.key));
    if (http.auth == crd::ServeAuth::Token) != token.is_some() {
        findings.problem(
            Reason::InvalidSpec,
            path,
            "auth Token needs tokenSecretKeyRef; to let anybody read, write auth: None and leave it out",
        );
    }
    if let Some(token) = &token {
        findings.secret(path, token, &context.resources.secrets);
        secrets.insert(token.clone());
    }
    Some(config::Serve {
        path: http.path.clone(),
        token_file: token.map(|token| token.file()),
    })
}

/// The order of the fields means nothing, and changes nothing.
fn aggregated(aggregate: &crd::Aggregate) -> config::Fold {
    let compute = |compute| match compute {
        crd::Compute::Count => config::Compute::Count,
        crd::Compute::Sum => config::Compute::Sum,
        crd::Compute::Min => config::Compute::Min,
        crd::Compute::Max => config::Compute::Max,
        crd::Compute::Average => config::Compute::Average,
        crd::Compute::First => config::Compute::First,
        crd::Compute::Last => config::Compute::Last,
        crd::Compute::CountDistinct => config::Compute::CountDistinct,
        crd::Compute::TopK => config::Compute::TopK,
    };
    let mut fields: Vec<config::AggregateField> = aggregate
        .fields
        .iter()
        .map(|field| config::AggregateField {
            name: field.name.clone(),
            compute: compute(field.compute),
            of: field.of.clone(),
            filter: field.filter.clone(),
            within_ms: field
                .within_seconds
                .map(|seconds| i64::from(seconds) * 1_000),
            limit: field.limit(),
        })
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    config::Fold::Aggregate { fields }
}

/// The joins of one entry; `used` gets the views that they read.
fn joins<'v>(
    findings: &mut Findings,
    context: &Context<'_>,
    name: &str,
    part: &crd::From,
    views: &'v BTreeMap<String, Outcome<View>>,
    used: &mut BTreeMap<String, &'v View>,
) -> Vec<config::Join> {
    let mut names = BTreeSet::new();
    let mut joins = Vec::new();
    for join in &part.joins {
        let path = format!("spec.from[name={}].joins[name={}]", part.name, join.name);
        if !names.insert(join.name.as_str()) {
            findings.problem(
                Reason::InvalidSpec,
                &path,
                format!("the name '{}' is given twice", join.name),
            );
        }
        let view_name = &join.view_ref.name;
        let path = format!("{path}.viewRef.name");
        let circle = super::joins::circle(&context.resources.views, name)
            .filter(|way| way.get(1) == Some(view_name));
        if let Some(way) = circle {
            findings.problem(
                Reason::InvalidSpec,
                path,
                format!(
                    "views join in a circle: {}; each would wait for the next. Take one of these joins out, and read that view in the agent instead",
                    way.join(" -> ")
                ),
            );
        } else if let Some(view) = findings.refer(Kind::ContextView, path, view_name, views) {
            used.insert(view_name.clone(), view);
        }
        joins.push(config::Join {
            name: join.name.clone(),
            view: view_name.clone(),
            key: join.key.clone(),
        });
    }
    joins.sort_by(|a, b| a.name.cmp(&b.name));
    joins
}

/// How each join is read and why.
fn why_joins(from: &[config::From], joined: &BTreeMap<String, &View>) -> Vec<String> {
    let line = |part: &config::From, join: &config::Join| {
        let input = joined.get(&join.view)?.config.input.topic();
        Some(format!(
            "join {} of {}: what view {} holds under `{}`, read once as an event is taken in; the view's stage folds it from {input} too, and waits until it holds all that was in the log when the event came",
            join.name, part.name, join.view, join.key
        ))
    };
    from.iter()
        .flat_map(|part| part.joins.iter().filter_map(move |join| line(part, join)))
        .collect()
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
        if let Some(join) = part.joins.first() {
            return Self::Own(format!(
                "its events are joined with view {} once, and what came of it stands there for every reader",
                join.view
            ));
        }
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
        if source.grown {
            return Self::Own(format!(
                "{} has more partitions than it had, so keys are in other partitions than before",
                source.config.topic
            ));
        }
        Self::Source(source.config.topic.clone())
    }
}

/// The plan's lines for a view.
fn why(choice: &Input, view: &config::View) -> Vec<String> {
    let mut lines = vec![match choice {
        Input::Source(topic) => {
            format!("folded from {topic}: one source, and its records' key is the view's")
        }
        Input::Own(reason) => format!(
            "folded from {}, a topic of the view's own: {reason}",
            view.input.topic()
        ),
    }];
    lines.push(format!("the view's stage writes changed rows and marks to {}, so that readers restore from there and not from the beginning", view.state_topic));
    lines.push(format!("generation {}: a change of from, of the fold, of expireAfterSeconds or of how a source is read builds another beside this one, and readers move once it has caught up", view.generation));
    if let config::Fold::Aggregate { fields } = &view.fold
        && let Some(longest) = fields.iter().filter_map(|field| field.within_ms).max()
    {
        lines.push(format!(
            "windows end when they are read, at the reader's time; events are kept for twice the longest, {} s in all",
            longest / 500
        ));
    }
    if let Some(after) = view.expire_after_ms {
        lines.push(format!(
            "a row is gone {} s after its key's last event, for a reader at that time; the topic forgets it at twice that",
            after / 1_000
        ));
    }
    for index in &view.indexes {
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
        spec.search.is_some(),
        "spec.search",
        "search",
        "find rows by key or by an index",
    );
}
