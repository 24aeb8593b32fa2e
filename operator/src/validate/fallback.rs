//! Which models fall back to which: in what order they can be checked, and where they do so in a circle.

use headwater_crds::Model;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Models = BTreeMap<String, Arc<Model>>;

/// Every model, each after the one that it falls back to, as far as they do not do so in a circle.
pub(super) fn order(models: &Models) -> Vec<&str> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in models.keys() {
        let mut way: Vec<&str> = chain(models, name)
            .take_while(|name| seen.insert(*name))
            .collect();
        way.reverse();
        order.extend(way);
    }
    order
}

/// The way from a model by its fallbacks back to itself, both ends named; `None` where there is none.
pub(super) fn circle(models: &Models, name: &str) -> Option<Vec<String>> {
    let mut way: Vec<String> = Vec::new();
    for next in chain(models, name) {
        let is_back = !way.is_empty() && next == name;
        if !is_back && way.iter().any(|before| before == next) {
            // Another circle, which it only leads to.
            return None;
        }
        way.push(next.to_owned());
        if is_back {
            return Some(way);
        }
    }
    None
}

/// The model, what it falls back to, and so on: without an end where that is a circle.
fn chain<'a>(models: &'a Models, name: &str) -> impl Iterator<Item = &'a str> {
    std::iter::successors(models.get_key_value(name), |(_, model)| {
        let next = model.spec.fallback_model_ref.as_ref()?;
        models.get_key_value(&next.name)
    })
    .map(|(name, _)| name.as_str())
}
