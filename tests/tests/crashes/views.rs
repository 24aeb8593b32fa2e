//! What is run: sources, and views of each kind over them, as configuration and as the naive model.

use crate::naive::aggregate::{Compute, Field, Over};
use crate::naive::event::{Entry, Event, Expression, Taste, field};
use crate::naive::rows::Fold;
use crate::naive::{Fault, Maybe};
use serde_json::{Value, json};

/// Name and partitions.
pub const SOURCES: [(&str, i32); 3] = [("accounts", 4), ("orders", 3), ("shipments", 5)];
pub const GENERATION: &str = "000001";

pub struct View {
    pub name: &'static str,
    /// Source and entry, by the source's name.
    pub from: Vec<(&'static str, Entry)>,
    pub fold: Fold,
    /// Partitions of its own input log; `None`: the source is the input.
    pub own: Option<i32>,
}

const fn expression<T>(text: &'static str, call: fn(&Event) -> Maybe<T>) -> Expression<T> {
    Expression {
        text,
        reads_event: true,
        call,
    }
}

fn of(event: &Event, name: &str) -> Maybe<Value> {
    field(&event.value, name).cloned()
}

const ORDER: Expression<Value> = expression("event.order", |event| of(event, "order"));
const CUSTOMER: Expression<Value> = expression("event.customer", |event| of(event, "customer"));
const GONE: Expression<bool> = expression("event.gone", |event| {
    of(event, "gone")?.as_bool().ok_or(Fault)
});
const AMOUNT: Over<Option<Value>> = Over {
    text: "value.amount",
    call: |value| Ok(value.get("amount").cloned()),
};

/// The source is the input: latest and a history. Own input logs: two sources merged under another key than theirs, and an aggregate under
/// a key that changes from event to event.
pub fn views() -> Vec<View> {
    let entry = Entry::default();
    let count = |name, compute, of| Field {
        name,
        compute,
        of,
        filter: None,
        within_ms: None,
        limit: 10,
    };
    vec![
        View {
            name: "accounts",
            from: vec![(
                "accounts",
                Entry {
                    filter: Some(expression("event.kind != 'noise'", |event| {
                        Ok(of(event, "kind")? != "noise")
                    })),
                    value: Some(expression("{'n': event.n, 'kind': event.kind}", |event| {
                        Ok(json!({"n": of(event, "n")?, "kind": of(event, "kind")?}))
                    })),
                    ..entry
                },
            )],
            fold: Fold::Replace,
            own: None,
        },
        View {
            name: "recent",
            from: vec![(
                "accounts",
                Entry {
                    value: Some(expression("{'n': event.n}", |event| {
                        Ok(json!({"n": of(event, "n")?}))
                    })),
                    ..entry
                },
            )],
            fold: Fold::History {
                limit: 5,
                within_ms: None,
            },
            own: None,
        },
        View {
            name: "board",
            from: vec![
                (
                    "orders",
                    Entry {
                        key: Some(ORDER),
                        delete: Some(GONE),
                        value: Some(expression(
                            "{'amount': event.amount, 'customer': event.customer}",
                            |event| {
                                Ok(json!({
                                    "amount": of(event, "amount")?,
                                    "customer": of(event, "customer")?,
                                }))
                            },
                        )),
                        ..entry
                    },
                ),
                (
                    "shipments",
                    Entry {
                        key: Some(ORDER),
                        delete: Some(GONE),
                        value: Some(expression("{'stage': event.stage}", |event| {
                            Ok(json!({"stage": of(event, "stage")?}))
                        })),
                        ..entry
                    },
                ),
            ],
            fold: Fold::Fields { required: 0 },
            own: Some(5),
        },
        View {
            name: "totals",
            from: vec![(
                "orders",
                Entry {
                    key: Some(CUSTOMER),
                    ..entry
                },
            )],
            fold: Fold::Aggregate(vec![
                count("events", Compute::Count, None),
                count("sum", Compute::Sum, Some(AMOUNT)),
                count("last", Compute::Last, Some(AMOUNT)),
            ]),
            own: Some(3),
        },
    ]
}

impl View {
    pub fn taste(&self) -> Taste {
        match self.fold {
            Fold::Replace => Taste::Latest,
            Fold::Fields { .. } => Taste::Fields,
            Fold::History { .. } | Fold::Aggregate(_) => Taste::Events,
        }
    }

    /// With the namespace before it.
    pub fn input(&self, namespace: &str) -> String {
        match self.own {
            Some(_) => format!("{}-in", self.state(namespace)),
            None => format!("{namespace}.{}", self.from[0].0),
        }
    }

    pub fn state(&self, namespace: &str) -> String {
        format!("{namespace}.view.{}.{GENERATION}", self.name)
    }

    pub fn dead(&self, namespace: &str) -> String {
        format!("{namespace}.view.{}.dead", self.name)
    }

    /// Of its input log, and so of its state topic.
    pub fn partitions(&self) -> i32 {
        let source = SOURCES.iter().find(|(name, _)| *name == self.from[0].0);
        self.own
            .or(source.map(|(_, partitions)| *partitions))
            .unwrap()
    }

    fn config(&self, namespace: &str) -> Value {
        let from = self.from.iter().map(|(source, entry)| {
            json!({
                "name": source, "source": source, "required": false,
                "filter": entry.filter.map(|it| it.text), "key": entry.key.map(|it| it.text),
                "value": entry.value.map(|it| it.text), "delete": entry.delete.map(|it| it.text),
            })
        });
        let fold = match &self.fold {
            Fold::Replace => json!({"latest": {"merge": "Replace"}}),
            Fold::Fields { .. } => json!({"latest": {"merge": "Fields"}}),
            Fold::History { limit, .. } => json!({"history": {"limit": limit, "withinMs": null}}),
            Fold::Aggregate(fields) => {
                let fields = fields.iter().map(|field| {
                    json!({
                        "name": field.name, "compute": format!("{:?}", field.compute),
                        "of": field.of.map(|it| it.text), "where": null, "withinMs": null,
                        "limit": field.limit,
                    })
                });
                json!({"aggregate": {"fields": fields.collect::<Vec<_>>()}})
            }
        };
        let input = if self.own.is_some() { "own" } else { "source" };
        json!({
            "name": self.name, "generation": GENERATION, "from": from.collect::<Vec<_>>(),
            "fold": fold, "indexes": [], "input": {input: {"topic": self.input(namespace)}},
            "stateTopic": self.state(namespace), "deadTopic": self.dead(namespace),
        })
    }

    /// The configuration of its stage, as the operator writes it.
    pub fn stage(&self, namespace: &str, bootstrap: &str) -> Value {
        let sources = SOURCES.iter().map(|(name, _)| {
            let source = json!({
                "name": name, "topic": format!("{namespace}.{name}"), "format": "Json",
                "keyFormat": "Text", "schema": null, "key": null, "eventTime": null,
                "invalidRecords": "DeadLetter",
            });
            ((*name).to_owned(), source)
        });
        json!({
            "namespace": namespace,
            "kafka": {"bootstrapServers": [bootstrap]},
            "sources": sources.collect::<serde_json::Map<_, _>>(),
            "views": {self.name: self.config(namespace)},
            "role": {"view": {"name": self.name}},
        })
    }
}
