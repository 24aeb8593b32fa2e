//! Which views join which: in what order they can be checked, and where they join in a circle.

use headwater_crds::ContextView;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Views = BTreeMap<String, Arc<ContextView>>;

/// Every view, each after those that it joins, as far as they do not join in a circle.
pub(super) fn order(views: &Views) -> Vec<&str> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in views.keys() {
        visit(views, name, &mut seen, &mut order);
    }
    order
}

fn visit<'a>(views: &'a Views, name: &str, seen: &mut BTreeSet<&'a str>, order: &mut Vec<&'a str>) {
    // An explicit stack: how far views join each other is the users' to choose.
    let mut stack = vec![(name, false)];
    while let Some((name, left)) = stack.pop() {
        let Some((name, view)) = views.get_key_value(name) else {
            continue;
        };
        if left {
            order.push(name);
        } else if seen.insert(name) {
            stack.push((name, true));
            stack.extend(joined(view).map(|joined| (joined, false)));
        }
    }
}

/// The shortest way from a view by its joins back to itself, both ends named; `None` where there is none.
pub(super) fn circle(views: &Views, name: &str) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut next = vec![name];
    while !next.is_empty() {
        let mut after = Vec::new();
        for view in next {
            for joined in views.get(view).into_iter().flat_map(|view| joined(view)) {
                if joined == name {
                    let mut way = vec![name.to_owned(), view.to_owned()];
                    let mut at = view;
                    while let Some(before) = came_from.get(at) {
                        way.push((*before).to_owned());
                        at = before;
                    }
                    if view == name {
                        way.pop();
                        way.push(name.to_owned());
                    }
                    way.reverse();
                    return Some(way);
                }
                if !came_from.contains_key(joined) {
                    came_from.insert(joined, view);
                    after.push(joined);
                }
            }
        }
        next = after;
    }
    None
}

fn joined(view: &ContextView) -> impl Iterator<Item = &str> {
    let joins = view.spec.from.iter().flat_map(|part| &part.joins);
    joins.map(|join| join.view_ref.name.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    /// Views that join others, as `a: b c`.
    fn views(of: &[(&str, &str)]) -> Views {
        let view = |joined: &str| {
            let joins: Vec<_> = joined
                .split_whitespace()
                .map(|view| serde_json::json!({"name": view, "viewRef": {"name": view}, "key": "key"}))
                .collect();
            let spec = serde_json::json!({"from": [{"name": "s", "sourceRef": {"name": "s"}, "joins": joins}]});
            Arc::new(ContextView::new("v", serde_json::from_value(spec).unwrap()))
        };
        of.iter()
            .map(|(name, joined)| ((*name).to_owned(), view(joined)))
            .collect()
    }

    #[test]
    fn a_view_comes_after_those_it_joins() {
        let views = views(&[("a", "c b"), ("b", "d"), ("c", ""), ("d", "missing")]);
        let order = order(&views);
        assert_eq!(order.len(), 4);
        let place = |name: &str| order.iter().position(|other| *other == name);
        assert!(place("d") < place("b"));
        assert!(place("b") < place("a"));
        assert!(place("c") < place("a"));
    }

    #[test]
    fn a_circle_is_named_from_each_of_its_views() {
        let views = views(&[
            ("a", "b"),
            ("b", "x c"),
            ("c", "a"),
            ("self", "self"),
            ("x", ""),
            ("to", "a"),
        ]);
        let way = |name: &str| circle(&views, name).map(|way| way.join(" "));
        assert_eq!(way("a").as_deref(), Some("a b c a"));
        assert_eq!(way("b").as_deref(), Some("b c a b"));
        assert_eq!(way("self").as_deref(), Some("self self"));
        assert_eq!(way("x"), None);
        assert_eq!(way("to"), None);
        assert_eq!(order(&views).len(), 6);
    }
}
