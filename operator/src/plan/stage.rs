//! The configuration of stages, from checked resources.

use super::working;
use crate::validate::{
    Outcome,
    checked::{Agent, Cluster, Source, View},
};
use headwater_engine::config;
use std::collections::BTreeMap;

type All<T> = BTreeMap<String, Outcome<T>>;

/// Configuration of a view's stage; `None` if a source of it does not work.
pub(crate) fn view(
    namespace: &str,
    name: &str,
    view: &View,
    cluster: &Cluster,
    sources: &All<Source>,
) -> Option<config::Stage> {
    Some(config::Stage {
        namespace: namespace.to_owned(),
        kafka: cluster.config.clone(),
        sources: pick(sources, view.sources(), |source| &source.config)?,
        views: BTreeMap::from([(name.to_owned(), view.config.clone())]),
        role: config::Role::View {
            name: name.to_owned(),
        },
    })
}

/// Configuration of an agent's stage; `None` if a source or view of it does not work.
pub(crate) fn agent(
    namespace: &str,
    agent: &Agent,
    cluster: &Cluster,
    sources: &All<Source>,
    views: &All<View>,
) -> Option<config::Stage> {
    Some(config::Stage {
        namespace: namespace.to_owned(),
        kafka: cluster.config.clone(),
        sources: pick(
            sources,
            agent.sources.iter().map(String::as_str),
            |source| &source.config,
        )?,
        views: pick(views, agent.views.iter().map(String::as_str), |view| {
            &view.config
        })?,
        role: config::Role::Agent(Box::new(agent.config.clone())),
    })
}

fn pick<'a, T, C: Clone + 'a>(
    all: &'a All<T>,
    names: impl Iterator<Item = &'a str>,
    config: impl Fn(&'a T) -> &'a C,
) -> Option<BTreeMap<String, C>> {
    let known: BTreeMap<&str, &T> = working(all).collect();
    names
        .map(|name| Some((name.to_owned(), config(known.get(name)?).clone())))
        .collect()
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
    let config::Role::Agent(agent) = &mut stage.role else {
        return;
    };
    if let Some(config::Provider::OpenAi {
        api_key_file,
        headers,
        ..
    }) = agent.model.as_mut().map(|model| &mut model.provider)
    {
        if let Some(file) = api_key_file {
            at(file);
        }
        for header in headers {
            if let config::HttpHeaderValue::File(file) = &mut header.value {
                at(file);
            }
        }
    }
}
