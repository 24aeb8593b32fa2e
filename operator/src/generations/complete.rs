//! Whether sources still hold all that a view is folded from, so that building it anew loses nothing. Pure.
//!
//! A log that begins with its first record holds everything. A view that only shows what is younger than
//! some time needs the log back to then. A compacted log holds the newest record of each key, which is
//! all that a plain `latest` view is made of; a filter or a computed key may want an older one.

use super::Complete;
use headwater_engine::config::{Fold, Merge, Source, View};
use std::collections::BTreeMap;

/// An event's time is at most so much later than its record's.
const AHEAD_MS: i64 = 3_600_000;

/// What a view needs of its sources' logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Need {
    /// The newest record of each key is enough.
    newest: bool,
    /// Records older than this do not count any more; `None`: all count.
    within_ms: Option<i64>,
}

/// A question to Kafka about a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct Look {
    pub(crate) topic: String,
    /// Whether there are records older than this many milliseconds; `None`: whether the log begins with its first record.
    pub(crate) within_ms: Option<i64>,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `cleanup.policy` has `compact`.
    pub(crate) compacted: bool,
    /// `cleanup.policy` has `delete`.
    pub(crate) deleted: bool,
    /// No record that was asked about is gone from the beginning.
    pub(crate) whole: bool,
}

fn need(view: &View, sources: &BTreeMap<String, Source>) -> Need {
    let expires = view.expire_after_ms;
    match &view.fold {
        Fold::Latest {
            merge: Merge::Replace,
        } => Need {
            newest: view.from.iter().all(|from| {
                let source = sources.get(&from.source);
                from.filter.is_none()
                    && from.key.as_deref().is_none_or(|key| key.trim() == "key")
                    && source.is_some_and(|source| source.key.is_none())
            }),
            within_ms: expires,
        },
        // A row may have fields of any age, as long as its key gets events.
        Fold::Latest {
            merge: Merge::Fields,
        } => Need {
            newest: false,
            within_ms: None,
        },
        Fold::History { within_ms, .. } => Need {
            newest: false,
            within_ms: within_ms.map(|within| within.max(expires.unwrap_or(0))),
        },
        Fold::Aggregate { fields } => {
            let windows: Option<Vec<i64>> = fields.iter().map(|field| field.within_ms).collect();
            let longest = windows.and_then(|windows| windows.into_iter().max());
            Need {
                newest: false,
                within_ms: longest.map(|within| within.max(expires.unwrap_or(0))),
            }
        }
    }
}

/// What has to be known before the view is built from its sources.
pub(crate) fn looks(view: &View, sources: &BTreeMap<String, Source>) -> Vec<Look> {
    let need = need(view, sources);
    sources
        .values()
        .map(|source| Look {
            topic: source.topic.clone(),
            within_ms: need.within_ms.map(|within| within.saturating_add(AHEAD_MS)),
        })
        .collect()
}

/// Whether the sources hold everything, and what they lack.
pub(crate) fn judge(
    view: &View,
    sources: &BTreeMap<String, Source>,
    seen: &BTreeMap<Look, Seen>,
) -> (Complete, Vec<String>) {
    let need = need(view, sources);
    let mut lacks = Vec::new();
    for look in looks(view, sources) {
        let Some(found) = seen.get(&look) else {
            return (Complete::Unknown, Vec::new());
        };
        let topic = &look.topic;
        if found.compacted && !need.newest {
            lacks.push(format!(
                "{topic} is compacted, so older records of a key are gone, and {}",
                why(view)
            ));
        } else if (found.deleted || !found.compacted) && !found.whole {
            lacks.push(match need.within_ms {
                None => format!("{topic} no longer holds its first records"),
                Some(within) => format!(
                    "{topic} no longer holds all records of the last {} seconds, which the view shows",
                    within / 1_000
                ),
            });
        }
    }
    let complete = if lacks.is_empty() {
        Complete::Yes
    } else {
        Complete::No
    };
    (complete, lacks)
}

/// Why the newest record of each key is not enough.
fn why(view: &View) -> &'static str {
    match &view.fold {
        Fold::Latest {
            merge: Merge::Replace,
        } => "with a filter or a computed key one of these may be what a row is made of",
        Fold::Latest {
            merge: Merge::Fields,
        } => "a row may have fields from several of them",
        Fold::History { .. } => "a history lists them",
        Fold::Aggregate { .. } => "an aggregate counts them",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn view(fold: Value, from: Value, expires: Option<i64>) -> (View, BTreeMap<String, Source>) {
        let mut part = json!({"name": "a", "source": "s", "filter": null, "key": null, "value": null, "delete": null, "required": false});
        part.as_object_mut()
            .unwrap()
            .extend(from.as_object().unwrap().clone());
        let view = json!({
            "name": "v", "generation": "000000", "from": [part], "fold": fold, "indexes": [],
            "input": {"source": {"topic": "t"}}, "stateTopic": "v", "deadTopic": "d", "expireAfterMs": expires,
        });
        let source = json!({
            "name": "s", "topic": "t", "format": "Json", "keyFormat": "Text", "schema": null, "key": null,
            "eventTime": null, "invalidRecords": "DeadLetter",
        });
        (
            serde_json::from_value(view).unwrap(),
            BTreeMap::from([("s".to_owned(), serde_json::from_value(source).unwrap())]),
        )
    }

    fn latest() -> Value {
        json!({"latest": {"merge": "Replace"}})
    }

    /// Judges with the same answer to every question.
    fn check(fold: Value, from: Value, expires: Option<i64>, seen: Seen) -> (Complete, String) {
        let (view, sources) = view(fold, from, expires);
        let seen = looks(&view, &sources)
            .into_iter()
            .map(|look| (look, seen))
            .collect();
        let (complete, lacks) = judge(&view, &sources, &seen);
        (complete, lacks.join("; "))
    }

    const DELETED: Seen = Seen {
        compacted: false,
        deleted: true,
        whole: false,
    };
    const WHOLE: Seen = Seen {
        whole: true,
        ..DELETED
    };
    const COMPACTED: Seen = Seen {
        compacted: true,
        deleted: false,
        whole: false,
    };

    #[test]
    fn a_log_from_its_beginning_is_enough_for_every_fold() {
        for fold in [
            latest(),
            json!({"latest": {"merge": "Fields"}}),
            json!({"history": {"limit": 3, "withinMs": null}}),
            json!({"aggregate": {"fields": [{"name": "n", "compute": "Count", "of": null, "where": null, "withinMs": null, "limit": 5}]}}),
        ] {
            let (complete, lacks) = check(fold.clone(), json!({"filter": "true"}), None, WHOLE);
            assert_eq!(complete, Complete::Yes, "{fold}: {lacks}");
            let (complete, lacks) = check(fold, json!({}), None, DELETED);
            assert_eq!(complete, Complete::No);
            assert!(lacks.contains("t no longer holds"), "{lacks}");
        }
    }

    #[test]
    fn a_compacted_log_is_enough_for_the_plain_newest_value_and_nothing_else() {
        assert_eq!(
            check(latest(), json!({"key": " key "}), None, COMPACTED).0,
            Complete::Yes
        );
        for from in [json!({"filter": "event.ok"}), json!({"key": "event.id"})] {
            let (complete, lacks) = check(latest(), from, None, COMPACTED);
            assert_eq!(complete, Complete::No);
            assert!(lacks.contains("compacted"), "{lacks}");
        }
        for fold in [
            json!({"latest": {"merge": "Fields"}}),
            json!({"history": {"limit": 3, "withinMs": 1000}}),
        ] {
            assert_eq!(check(fold, json!({}), None, COMPACTED).0, Complete::No);
        }
        // Both policies: compaction alone would do no harm, but whole keys are gone.
        let both = Seen {
            deleted: true,
            ..COMPACTED
        };
        assert_eq!(check(latest(), json!({}), None, both).0, Complete::No);
    }

    #[test]
    fn windows_and_expiry_say_how_far_back_the_log_has_to_go() {
        let within = |fold: Value, expires: Option<i64>| {
            let (view, sources) = view(fold, json!({}), expires);
            looks(&view, &sources)[0].within_ms
        };
        let history = json!({"history": {"limit": 3, "withinMs": 60_000}});
        assert_eq!(within(history.clone(), None), Some(3_660_000));
        assert_eq!(within(history, Some(120_000)), Some(3_720_000));
        assert_eq!(within(latest(), Some(1_000)), Some(3_601_000));
        assert_eq!(within(latest(), None), None);
        assert_eq!(
            within(
                json!({"history": {"limit": 3, "withinMs": null}}),
                Some(1_000)
            ),
            None
        );
        let field = |within: Value| json!({"name": "n", "compute": "Count", "of": null, "where": null, "withinMs": within, "limit": 5});
        let aggregate = |fields: Vec<Value>| json!({"aggregate": {"fields": fields}});
        assert_eq!(
            within(
                aggregate(vec![field(json!(5_000)), field(json!(9_000))]),
                None
            ),
            Some(3_609_000)
        );
        assert_eq!(
            within(
                aggregate(vec![field(json!(5_000)), field(json!(null))]),
                None
            ),
            None
        );
    }

    #[test]
    fn nothing_is_said_before_kafka_has_answered() {
        let (view, sources) = view(latest(), json!({}), None);
        assert_eq!(
            judge(&view, &sources, &BTreeMap::new()).0,
            Complete::Unknown
        );
    }
}
