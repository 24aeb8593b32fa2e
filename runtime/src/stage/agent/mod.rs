//! The agent stage: takes triggers from a group, holds the views that its slots read, runs, and commits.
//!
//! Two threads, and an intake where the agent has an input log of its own ([`intake`]): one folds the views ([`super::held`]), one owns the group, the window of unfinished
//! triggers and the transactions ([`driver`]). Runs are tasks ([`run`]). What a run is, from context to
//! output, is the engine's.

mod approvals;
mod batch;
mod driver;
mod intake;
mod interim;
mod outage;
mod progress;
mod run;
mod start;
mod suspect;
mod window;

use super::held::{Folder, Held};
use super::{Context, Error, Parts};
use crate::backoff::Random;
use crate::model::{self, Model};
use crate::tools::Tools;
use approvals::Approvals;
use driver::Driver;
use headwater_engine::agent::Agent;
use headwater_engine::config;
use headwater_engine::view::Definition;
use outage::Provider;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What every run of the agent needs.
struct Setup {
    context: Arc<Context>,
    config: config::Agent,
    agent: Arc<Agent>,
    model: Option<Arc<dyn Model>>,
    tools: Option<Arc<Tools>>,
    /// Absent where no rule asks a person.
    approvals: Option<Approvals>,
    /// Absent where rules of the configuration answer, which are never away.
    provider: Option<Provider>,
    held: Arc<Held>,
    freshness_wait: Duration,
    attempt_timeout: Duration,
}

impl Setup {
    /// As `headwater resume` takes it.
    fn resource(&self) -> String {
        format!("agent/{}", self.config.name)
    }

    /// Topics that the agent writes.
    fn own_topics(&self) -> Vec<String> {
        let topics = &self.config.topics;
        let written = self.config.written().map(str::to_owned);
        [&topics.runs, &topics.dead, &topics.journal]
            .into_iter()
            .chain(&topics.conversation)
            .chain(&topics.approvals)
            .cloned()
            .chain(written)
            .collect()
    }
}

/// Compiles the agent and says which loops its stage has.
pub(super) fn parts(context: &Arc<Context>, config: &config::Agent) -> Result<Parts, Error> {
    let agent = Arc::new(Agent::compile(&context.config)?);
    let definitions = definitions(context, agent.views())?;
    let services = &context.services;
    let model = match &config.model {
        None => None,
        Some(model) => Some(match services.models.get(&model.name) {
            Some(given) => Arc::clone(given),
            None => model::for_config(
                model,
                Arc::clone(&services.clock),
                Arc::clone(&services.metrics),
                &services.limiters,
            )?,
        }),
    };
    let tools = config.tools.as_ref().map(|tools| {
        Tools::new(
            Arc::clone(&agent),
            tools,
            &services.tool_servers,
            &services.clock,
            Arc::clone(&services.metrics),
        )
    });
    let tools = tools.transpose()?.map(Arc::new);
    let held = Arc::new(Held::new(definitions));
    let setup = Arc::new(Setup {
        context: Arc::clone(context),
        config: config.clone(),
        agent,
        model,
        tools,
        approvals: config
            .topics
            .approvals
            .as_ref()
            .map(|_| Approvals::default()),
        provider: is_remote(config).then(|| Provider::new(outage::BACKOFF, Random::unseeded())),
        held: Arc::clone(&held),
        freshness_wait: Duration::from_millis(config.freshness_wait_ms),
        attempt_timeout: Duration::from_millis(config.delivery.attempt_timeout_ms),
    });
    let folding = Arc::clone(context);
    let reading = held.reading();
    let mut parts = intake::parts(context, &setup)?;
    if let Some(topic) = config.topics.approvals.clone() {
        let setup = Arc::clone(&setup);
        parts.push((
            "approvals",
            Box::new(move |life| match &setup.approvals {
                Some(approvals) => approvals::follow(&setup, &life, &topic, approvals),
                None => Ok(()),
            }),
        ));
    }
    let own: Parts = vec![
        (
            "views",
            Box::new(move |life| {
                // Half a second that the first run would wait for otherwise.
                headwater_engine::tokens::prepare();
                Folder::new(folding, life, held).run()
            }),
        ),
        (
            "runs",
            Box::new(move |life| {
                // Until its last run has ended.
                let _reading = reading;
                Driver::start(setup, life)
            }),
        ),
    ];
    parts.extend(own);
    Ok(parts)
}

fn is_remote(config: &config::Agent) -> bool {
    let provider = config.model.as_ref().map(|model| &model.provider);
    provider.is_some_and(|provider| !matches!(provider, config::Provider::Scripted { .. }))
}

/// These views, to be held here.
fn definitions<'a>(
    context: &Context,
    views: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeMap<String, (config::View, Arc<Definition>)>, Error> {
    let mut definitions = BTreeMap::new();
    for name in views {
        let Some(view) = context.config.views.get(name) else {
            return Err(Error::UnknownView {
                view: name.to_owned(),
            });
        };
        let definition = Definition::compile(view, &context.config.sources)?;
        definitions.insert(name.to_owned(), (view.clone(), definition));
    }
    Ok(definitions)
}
