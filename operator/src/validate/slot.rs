//! Lookups in views, by key, keys or index, and the slots that are named ones.

use super::{
    checked::View,
    findings::{Findings, Outcome},
};
use crate::hint;
use crate::reason::Reason;
use crate::resources::Kind;
use headwater_crds::{agent as crd, common::Order};
use headwater_engine::config;
use std::collections::{BTreeMap, BTreeSet};

/// `used` gets the views that the slots read.
pub(super) fn check<'v>(
    findings: &mut Findings,
    slots: &[crd::Slot],
    views: &'v BTreeMap<String, Outcome<View>>,
    used: &mut BTreeMap<String, &'v View>,
) -> Vec<config::Slot> {
    let mut seen = BTreeSet::new();
    let mut checked = Vec::new();
    for slot in slots {
        let path = format!("spec.context[name={}]", slot.name);
        if !seen.insert(slot.name.as_str()) {
            findings.problem(
                Reason::InvalidSpec,
                &path,
                format!("the name '{}' is given twice", slot.name),
            );
        }
        let asked = Asked {
            view: &slot.view_ref.name,
            index: slot.index.as_deref(),
            key: slot.key.as_deref(),
            keys: slot.keys.as_deref(),
            search: slot.search.is_some(),
        };
        let Some(by) = lookup(findings, &path, &asked, views, used) else {
            continue;
        };
        checked.push(config::Slot {
            name: slot.name.clone(),
            lookup: config::Lookup {
                view: slot.view_ref.name.clone(),
                by,
                index: slot.index.clone(),
                filter: slot.filter.clone(),
                order_by: slot.order_by.clone(),
                order: match slot.order {
                    Order::Ascending => config::Order::Ascending,
                    Order::Descending => config::Order::Descending,
                },
                limit: slot.limit,
            },
            required: slot.required,
            budget_tokens: slot.budget_tokens,
            priority: slot.priority,
            max_staleness_ms: Some(i64::from(slot.max_staleness_seconds) * 1_000),
            on_stale: match slot.on_stale {
                crd::OnStale::Mark => config::OnStale::Mark,
                crd::OnStale::Fail => config::OnStale::Fail,
                crd::OnStale::Omit => config::OnStale::Omit,
            },
        });
    }
    checked.sort_by(|a, b| a.name.cmp(&b.name));
    checked
}

/// What a lookup asks of a view.
pub(super) struct Asked<'a> {
    pub(super) view: &'a str,
    pub(super) index: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    pub(super) keys: Option<&'a str>,
    pub(super) search: bool,
}

/// By what rows are found; `None` where that is ambiguous. `used` gets the view.
pub(super) fn lookup<'v>(
    findings: &mut Findings,
    path: &str,
    asked: &Asked<'_>,
    views: &'v BTreeMap<String, Outcome<View>>,
    used: &mut BTreeMap<String, &'v View>,
) -> Option<config::By> {
    findings.not_supported(
        asked.search,
        format!("{path}.search"),
        "search",
        "find rows with key, keys or an index",
    );
    if let Some(view) = findings.refer(
        Kind::ContextView,
        format!("{path}.viewRef.name"),
        asked.view,
        views,
    ) {
        used.insert(asked.view.to_owned(), view);
        index(findings, path, asked, view);
    }
    match (asked.key, asked.keys) {
        (Some(_), Some(_)) => {
            findings.problem(
                Reason::InvalidSpec,
                path,
                "set at most one of key, keys and search; none means every row of the view",
            );
            None
        }
        (Some(key), None) => Some(config::By::Key(key.to_owned())),
        (None, Some(keys)) => Some(config::By::Keys(keys.to_owned())),
        (None, None) => Some(config::By::All),
    }
}

fn index(findings: &mut Findings, path: &str, asked: &Asked<'_>, view: &View) {
    let Some(index) = asked.index else { return };
    let path = format!("{path}.index");
    if asked.key.is_none() && asked.keys.is_none() {
        findings.problem(
            Reason::InvalidSpec,
            &path,
            "index says which keys are looked up; give key or keys with it",
        );
    }
    if !view.config.indexes.iter().any(|known| known.name == index) {
        let hint = hint::instead(
            index,
            view.config.indexes.iter().map(|index| index.name.as_str()),
        );
        findings.problem(
            Reason::NotFound,
            path,
            format!("ContextView '{}' has no index '{index}'{hint}", asked.view),
        );
    }
}
