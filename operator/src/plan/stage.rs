//! The configuration of stages, from checked resources and generations of views.

use super::generation::{Folded, Generation};
use super::working;
use crate::validate::{
    Outcome,
    checked::{Agent, Cluster, Source},
};
use headwater_engine::config;
use std::collections::BTreeMap;

/// Configuration of the stage of one generation of a view.
pub(crate) fn view(namespace: &str, generation: &Generation, cluster: &Cluster) -> config::Stage {
    let name = &generation.folded.config.name;
    let mut stage = config::Stage {
        namespace: namespace.to_owned(),
        kafka: cluster.config.clone(),
        sources: BTreeMap::new(),
        views: BTreeMap::new(),
        role: config::Role::View { name: name.clone() },
    };
    give(&mut stage, &generation.folded);
    if let Some(own) = stage.views.get_mut(name) {
        let config = &generation.folded.config;
        own.serve.clone_from(&config.serve);
        own.changes_topic.clone_from(&config.changes_topic);
    }
    for joined in generation.joined.values() {
        give(&mut stage, joined);
    }
    stage
}

/// Configuration of an agent's stage, which reads these generations; `None` if a source of it does not work, or a view has no generation yet.
pub(crate) fn agent(
    namespace: &str,
    agent: &Agent,
    cluster: &Cluster,
    sources: &BTreeMap<String, Outcome<Source>>,
    read: &BTreeMap<String, Folded>,
) -> Option<config::Stage> {
    let known: BTreeMap<&str, &Source> = working(sources).collect();
    let own =
        (agent.config.trigger.from.source().into_iter()).chain(agent.config.written_sources());
    let mut stage = config::Stage {
        namespace: namespace.to_owned(),
        kafka: cluster.config.clone(),
        sources: own
            .map(|name| Some((name.to_owned(), known.get(name)?.config.clone())))
            .collect::<Option<_>>()?,
        views: BTreeMap::new(),
        role: config::Role::Agent(Box::new(agent.config.clone())),
    };
    for view in &agent.views {
        give(&mut stage, read.get(view)?);
    }
    let trigger = agent.config.trigger.from.view();
    if let Some(own) = trigger.and_then(|view| stage.views.get_mut(view)) {
        own.changes_topic
            .clone_from(&read.get(&own.name)?.config.changes_topic);
    }
    Some(stage)
}

/// Adds a view to a stage, for reading. A source of which the stage has another version stays the view's own.
fn give(stage: &mut config::Stage, folded: &Folded) {
    let mut config = config::View {
        // Its own stage serves it, and writes its changes. Who only reads its rows does not start anew when they are asked for.
        serve: None,
        changes_topic: None,
        ..folded.config.clone()
    };
    for (name, source) in &folded.sources {
        let known = stage
            .sources
            .entry(name.clone())
            .or_insert_with(|| source.clone());
        if known != source {
            config.sources.insert(name.clone(), source.clone());
        }
    }
    stage.views.insert(config.name.clone(), config);
}

/// Puts the directory of Secrets before every file of a stage's configuration.
pub(crate) fn rebase(stage: &mut config::Stage, root: &str) {
    let at = |file: &mut String| *file = format!("{}/{file}", root.trim_end_matches('/'));
    if let Some(tls) = &mut stage.kafka.tls {
        for file in [
            &mut tls.ca_file,
            &mut tls.certificate_file,
            &mut tls.key_file,
        ]
        .into_iter()
        .flatten()
        {
            at(file);
        }
    }
    if let Some(sasl) = &mut stage.kafka.sasl {
        at(&mut sasl.password_file);
    }
    let own = match &stage.role {
        config::Role::View { name } => stage.views.get_mut(name),
        config::Role::Agent(_) => None,
    };
    if let Some(file) = own
        .and_then(|view| view.serve.as_mut())
        .and_then(|serve| serve.token_file.as_mut())
    {
        at(file);
    }
    let config::Role::Agent(agent) = &mut stage.role else {
        return;
    };
    if let Some(model) = &mut agent.model {
        model.each_of_chain(|model| {
            model.provider.secret_files().into_iter().for_each(at);
        });
    }
    if let Some(tools) = &mut agent.tools {
        for server in tools.servers.values_mut() {
            server.provider.secret_files().for_each(at);
        }
    }
}
