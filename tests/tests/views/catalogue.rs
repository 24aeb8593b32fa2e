//! The views of one seed: every way to fold, over sources of unequal partition counts.

use crate::events::Draw;
use crate::expressions::{
    AGGREGATES, DELETES, FILTERS, INDEXES, KEYS, OBJECTS, SOURCE_KEY, SOURCE_TIME, VALUES, WHERES,
    WITH_ROW,
};
use crate::naive::aggregate::{Compute, Field};
use crate::naive::event::{Entry, Expression, Source, Taste};
use crate::naive::rows::{Fold, Index};
use serde_json::{Value, json};

pub struct SourceSpec {
    pub name: &'static str,
    pub partitions: i32,
    pub source: Source,
}

/// Sources by place.
pub const ORDERS: usize = 0;
pub const PEOPLE: usize = 1;
pub const PRICES: usize = 2;

pub fn sources() -> Vec<SourceSpec> {
    let plain = Source::default();
    let own = Source {
        key: Some(SOURCE_KEY),
        event_time: Some(SOURCE_TIME),
    };
    vec![
        SourceSpec {
            name: "orders",
            partitions: 3,
            source: plain,
        },
        SourceSpec {
            name: "people",
            partitions: 2,
            source: own,
        },
        SourceSpec {
            name: "prices",
            partitions: 1,
            source: plain,
        },
    ]
}

#[derive(Clone)]
pub struct FromSpec {
    pub name: &'static str,
    /// Place in [`sources`].
    pub source: usize,
    pub entry: Entry,
    /// Key of the row of [`JOINED`] that stands in the value as `row`; in what the entry gives by itself it is null.
    pub join: Option<Expression<Value>>,
}

/// The view that others join.
pub const JOINED: &str = "plain";

#[derive(Clone)]
pub struct ViewSpec {
    pub name: &'static str,
    /// By name, as origins count them.
    pub from: Vec<FromSpec>,
    pub fold: Fold,
    pub indexes: Vec<Index>,
    pub expire_ms: Option<i64>,
    /// Somebody asks for each change of a row.
    pub changes: bool,
    /// Whether the view has an input log of its own.
    pub own: bool,
    /// Of its input log.
    pub partitions: i32,
}

impl ViewSpec {
    pub fn taste(&self) -> Taste {
        match self.fold {
            Fold::Replace => Taste::Latest,
            Fold::Fields { .. } => Taste::Fields,
            Fold::History { .. } | Fold::Aggregate(_) => Taste::Events,
        }
    }

    pub fn input_topic(&self, prefix: &str) -> String {
        if self.own {
            format!("{}-in", self.state_topic(prefix))
        } else {
            format!("{prefix}.{}", sources()[self.from[0].source].name)
        }
    }

    /// All partitions that the view's stage reads.
    pub fn inputs(&self, prefix: &str) -> Vec<(String, i32)> {
        let all = sources();
        let mut topics = vec![(self.input_topic(prefix), self.partitions)];
        if self.own {
            topics.extend(self.from.iter().map(|from| {
                let source = &all[from.source];
                (format!("{prefix}.{}", source.name), source.partitions)
            }));
        }
        topics
            .into_iter()
            .flat_map(|(topic, count)| (0..count).map(move |it| (topic.clone(), it)))
            .collect()
    }

    pub fn state_topic(&self, prefix: &str) -> String {
        format!("{prefix}.view.{}.000001", self.name)
    }

    /// Where each change of a row is told; `None` where nobody asks for them.
    pub fn changes_topic(&self, prefix: &str) -> Option<String> {
        self.changes
            .then(|| format!("{}.changes", self.state_topic(prefix)))
    }

    pub fn dead_topic(&self, prefix: &str) -> String {
        format!("{prefix}.view.{}.dead", self.name)
    }

    /// As the operator writes it into a stage's configuration.
    pub fn config(&self, prefix: &str) -> Value {
        let from: Vec<Value> = self
            .from
            .iter()
            .map(|from| {
                let join = |key: Expression<Value>| json!([{"name": "row", "view": JOINED, "key": key.text}]);
                json!({
                    "name": from.name,
                    "joins": from.join.map_or(json!([]), join),
                    "source": sources()[from.source].name,
                    "filter": from.entry.filter.map(|it| it.text),
                    "key": from.entry.key.map(|it| it.text),
                    "value": from.entry.value.map(|it| it.text),
                    "delete": from.entry.delete.map(|it| it.text),
                    "required": from.entry.required,
                })
            })
            .collect();
        let indexes: Vec<Value> = self
            .indexes
            .iter()
            .map(|index| {
                let kind = if index.many { "many" } else { "one" };
                json!({"name": index.name, "key": {kind: index.text}})
            })
            .collect();
        let input = if self.own { "own" } else { "source" };
        json!({
            "name": self.name,
            "generation": "000001",
            "from": from,
            "fold": fold(&self.fold),
            "indexes": indexes,
            "input": {input: {"topic": self.input_topic(prefix)}},
            "stateTopic": self.state_topic(prefix),
            "deadTopic": self.dead_topic(prefix),
            "changesTopic": self.changes_topic(prefix),
            "expireAfterMs": self.expire_ms,
        })
    }
}

fn fold(fold: &Fold) -> Value {
    match fold {
        Fold::Replace => json!({"latest": {"merge": "Replace"}}),
        Fold::Fields { .. } => json!({"latest": {"merge": "Fields"}}),
        Fold::History { limit, within_ms } => {
            json!({"history": {"limit": limit, "withinMs": within_ms}})
        }
        Fold::Aggregate(fields) => {
            let fields: Vec<Value> = fields
                .iter()
                .map(|field| {
                    json!({
                        "name": field.name,
                        "compute": format!("{:?}", field.compute),
                        "of": field.of.map(|it| it.text),
                        "where": field.filter.map(|it| it.text),
                        "withinMs": field.within_ms,
                        "limit": field.limit,
                    })
                })
                .collect();
            json!({"aggregate": {"fields": fields}})
        }
    }
}

pub fn source_config(spec: &SourceSpec, prefix: &str) -> Value {
    json!({
        "name": spec.name,
        "topic": format!("{prefix}.{}", spec.name),
        "format": "Json",
        "keyFormat": "Text",
        "schema": null,
        "key": spec.source.key.map(|it| it.text),
        "eventTime": spec.source.event_time.map(|it| it.text),
        "invalidRecords": "DeadLetter",
    })
}

/// The views that a seed draws.
pub fn views(draw: &Draw) -> Vec<ViewSpec> {
    let filter = |chance| draw.maybe(chance, FILTERS);
    let delete = |chance| draw.maybe(chance, DELETES);
    let object = |chance| draw.maybe(chance, OBJECTS);
    let key = || Some(*draw.one_of(KEYS));
    let window = |chance| draw.maybe(chance, &[5_000, 60_000, 900_000]);
    let limit = || *draw.one_of(&[1, 2, 5, 20]);
    let entry = Entry::default();
    let filtered = Entry {
        filter: filter(70),
        value: draw.maybe(50, VALUES),
        delete: delete(60),
        ..entry
    };
    let rekeyed = Entry {
        key: key(),
        filter: filter(40),
        delete: delete(40),
        ..entry
    };
    let merged = |name: &'static str, sources: &[(&'static str, usize)]| {
        let from: Vec<_> = sources
            .iter()
            .map(|(name, source)| {
                let entry = Entry {
                    filter: filter(30),
                    key: draw.maybe(30, KEYS),
                    value: object(80),
                    delete: delete(40),
                    required: draw.percent(25),
                };
                (*name, *source, entry)
            })
            .collect();
        let required = from
            .iter()
            .enumerate()
            .filter(|(_, (_, _, entry))| entry.required)
            .fold(0, |bits, (place, _)| bits | 1 << place);
        view(name, from, Fold::Fields { required })
    };
    let history = |within_ms| Fold::History {
        limit: limit(),
        within_ms,
    };
    let aggregate = || {
        let mut fields: Vec<Field> = Vec::new();
        for (name, compute, over) in AGGREGATES {
            if draw.percent(60) {
                fields.push(Field {
                    name,
                    compute: *compute,
                    of: over.map(|over| *draw.one_of(over)),
                    filter: match compute {
                        // Ints that do not overflow.
                        Compute::Sum | Compute::Average => Some(WHERES[0]),
                        _ => draw.maybe(40, WHERES),
                    },
                    within_ms: window(50),
                    limit: 1 + draw.below(4),
                });
            }
        }
        if fields.is_empty() {
            fields.push(Field {
                name: "all",
                compute: Compute::Count,
                of: None,
                filter: None,
                within_ms: window(50),
                limit: 1,
            });
        }
        Fold::Aggregate(fields)
    };
    let several = |value| {
        vec![
            (
                "a",
                PRICES,
                Entry {
                    value,
                    filter: filter(30),
                    ..entry
                },
            ),
            (
                "b",
                ORDERS,
                Entry {
                    value,
                    key: draw.maybe(50, KEYS),
                    ..entry
                },
            ),
            (
                "c",
                PEOPLE,
                Entry {
                    delete: delete(50),
                    ..entry
                },
            ),
        ]
    };
    let all = vec![
        joined(),
        indexed(view("tagged", vec![("it", ORDERS, entry)], Fold::Replace)),
        view("filtered", vec![("it", ORDERS, filtered)], Fold::Replace),
        indexed(view(
            "rekeyed",
            vec![("it", ORDERS, rekeyed)],
            Fold::Replace,
        )),
        view("several", several(None), Fold::Replace),
        merged("pair", &[("a", ORDERS), ("b", PEOPLE)]),
        indexed(merged(
            "triple",
            &[("a", PEOPLE), ("b", PRICES), ("c", ORDERS)],
        )),
        merged("twice", &[("a", ORDERS), ("b", ORDERS)]),
        view("events", vec![("it", ORDERS, entry)], history(window(50))),
        view("late", vec![("it", ORDERS, filtered)], history(window(100))),
        view("stories", several(object(70)), history(window(60))),
        view("spent", vec![("it", ORDERS, entry)], aggregate()),
        view("sums", vec![("it", ORDERS, rekeyed)], aggregate()),
        view("totals", several(None), aggregate()),
        joining("joined", Fold::Replace),
        joining("journal", history(None)),
    ];
    let expiring = |mut view: ViewSpec| {
        if view.name != JOINED {
            view.expire_ms = draw.maybe(25, &[3_000, 30_000, 600_000]);
            view.changes = draw.percent(50);
        }
        view
    };
    all.into_iter().map(expiring).collect()
}

fn view(name: &'static str, from: Vec<(&'static str, usize, Entry)>, fold: Fold) -> ViewSpec {
    let all = sources();
    let from: Vec<FromSpec> = from
        .into_iter()
        .map(|(name, source, entry)| FromSpec {
            name,
            source,
            entry,
            join: None,
        })
        .collect();
    let own = match from.as_slice() {
        [only] => only.entry.key.is_some() || all[only.source].source.key.is_some(),
        _ => true,
    };
    let partitions = from
        .iter()
        .map(|from| all[from.source].partitions)
        .max()
        .unwrap();
    ViewSpec {
        name,
        from,
        fold,
        indexes: Vec::new(),
        expire_ms: None,
        changes: false,
        own,
        partitions,
    }
}

/// The view that others join.
pub fn joined() -> ViewSpec {
    view(
        JOINED,
        vec![("it", ORDERS, Entry::default())],
        Fold::Replace,
    )
}

/// Prices with the order that they are of.
fn joining(name: &'static str, fold: Fold) -> ViewSpec {
    let entry = Entry {
        value: Some(WITH_ROW),
        ..Entry::default()
    };
    let mut view = view(name, vec![("it", PRICES, entry)], fold);
    view.from[0].join = Some(KEYS[0]);
    view.own = true;
    view
}

fn indexed(mut view: ViewSpec) -> ViewSpec {
    view.indexes = INDEXES.to_vec();
    view
}
