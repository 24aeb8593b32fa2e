//! What starts an agent's runs, and whether they start from a log of the agent's own.

use super::{
    agent::Around,
    checked::View,
    findings::Findings,
    slot::{self, Asked},
};
use crate::reason::Reason;
use crate::resources::Kind;
use headwater_crds::agent as crd;
use headwater_engine::config;
use std::collections::{BTreeMap, BTreeSet};

const PATH: &str = "spec.trigger";

/// `input`: the topic of the agent's own, should it need one. `sources` and `views` get what the trigger reads.
pub(super) fn check<'v>(
    findings: &mut Findings,
    trigger: &crd::Trigger,
    input: &str,
    around: &Around<'v>,
    sources: &mut BTreeSet<String>,
    views: &mut BTreeMap<String, &'v View>,
) -> config::Trigger {
    if trigger.source_ref.is_some() == trigger.view_ref.is_some() {
        findings.problem(Reason::InvalidSpec, PATH, "set exactly one of sourceRef (a run for every event) and viewRef (a run for every change of a row)");
    }
    let name = trigger
        .source_ref
        .as_ref()
        .map(|source| source.name.clone())
        .unwrap_or_default();
    let source = trigger.source_ref.as_ref().and_then(|source| {
        findings.refer(
            Kind::EventSource,
            format!("{PATH}.sourceRef.name"),
            &source.name,
            around.sources,
        )
    });
    if source.is_some() {
        sources.insert(name.clone());
    }
    let from = match &trigger.view_ref {
        Some(view) => {
            let path = format!("{PATH}.viewRef.name");
            if let Some(found) = findings.refer(Kind::ContextView, path, &view.name, around.views) {
                views.insert(view.name.clone(), found);
            }
            config::TriggerFrom::View(view.name.clone())
        }
        None => config::TriggerFrom::Source(name),
    };
    let for_each = trigger
        .for_each
        .as_ref()
        .and_then(|lookup| for_each(findings, lookup, around, views));
    // The event's own key, in other words.
    let key = trigger
        .key
        .clone()
        .filter(|key| key.trim() != "key" || for_each.is_some());
    let moves = key.is_some()
        || trigger.for_each.is_some()
        || source.is_some_and(|source| source.config.key.is_some());
    config::Trigger {
        from,
        start_from: match trigger.start_from {
            crd::StartFrom::Latest => config::StartFrom::Latest,
            crd::StartFrom::Earliest => config::StartFrom::Earliest,
        },
        deletes: match trigger.deletes {
            crd::Deletes::Ignore => config::Deletes::Ignore,
            crd::Deletes::Run => config::Deletes::Run,
        },
        filter: trigger.filter.clone(),
        for_each,
        key,
        once: trigger.once.as_ref().map(|once| config::Once {
            key: once.key.clone(),
            within_ms: i64::from(once.within_seconds) * 1_000,
        }),
        coalesce_ms: u64::from(trigger.coalesce_milliseconds),
        input: moves.then(|| input.to_owned()),
    }
}

fn for_each<'v>(
    findings: &mut Findings,
    lookup: &crd::ForEach,
    around: &Around<'v>,
    views: &mut BTreeMap<String, &'v View>,
) -> Option<config::Lookup> {
    let asked = Asked {
        view: &lookup.view_ref.name,
        index: lookup.index.as_deref(),
        key: lookup.key.as_deref(),
        keys: lookup.keys.as_deref(),
        search: lookup.search.is_some(),
    };
    let path = format!("{PATH}.forEach");
    let by = slot::lookup(findings, &path, &asked, around.views, views)?;
    Some(config::Lookup {
        view: lookup.view_ref.name.clone(),
        by,
        index: lookup.index.clone(),
        filter: lookup.filter.clone(),
        order_by: None,
        order: config::Order::Ascending,
        limit: u32::MAX,
    })
}
