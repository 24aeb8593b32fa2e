//! The expressions that views are made of here, each with the closure that says the same.

use crate::naive::aggregate::{Compute, Over};
use crate::naive::event::{Event, Expression, field};
use crate::naive::rows::Index;
use crate::naive::{Fault, Maybe};
use serde_json::{Value, json};

const fn expression<T>(text: &'static str, call: fn(&Event) -> Maybe<T>) -> Expression<T> {
    Expression {
        text,
        reads_event: true,
        call,
    }
}

fn of<'a>(event: &'a Event, name: &str) -> Maybe<&'a Value> {
    field(&event.value, name)
}

/// An int for arithmetic: nothing else is one.
fn int(value: &Value) -> Maybe<i64> {
    value.as_i64().ok_or(Fault)
}

pub const FILTERS: &[Expression<bool>] = &[
    expression("event.n % 3 != 0", |event| {
        Ok(int(of(event, "n")?)? % 3 != 0)
    }),
    expression("event.s != 'c'", |event| Ok(of(event, "s")? != "c")),
    expression("has(event.tag) || has(event.tags)", |event| {
        let object = event.value.as_object().ok_or(Fault)?;
        Ok(object.contains_key("tag") || object.contains_key("tags"))
    }),
    expression("event.x > 1.5", |event| {
        Ok(of(event, "x")?.as_f64().ok_or(Fault)? > 1.5)
    }),
];

pub const KEYS: &[Expression<Value>] = &[
    expression("event.id", |event| Ok(of(event, "id")?.clone())),
    expression("[event.s, event.id]", |event| {
        Ok(json!([of(event, "s")?, of(event, "id")?]))
    }),
    Expression {
        text: "key",
        reads_event: false,
        call: |event| Ok(json!(event.key)),
    },
];

/// Values that are objects.
pub const OBJECTS: &[Expression<Value>] = &[
    expression("{'s': event.s, 'n': event.n}", |event| {
        Ok(json!({"s": of(event, "s")?, "n": of(event, "n")?}))
    }),
    expression("{'x': event.x, 'tag': event.id}", |event| {
        Ok(json!({"x": of(event, "x")?, "tag": of(event, "id")?}))
    }),
    expression("{'tags': event.tags}", |event| {
        Ok(json!({"tags": of(event, "tags")?}))
    }),
];

/// With a joined row, which is not the entry's own.
pub const WITH_ROW: Expression<Value> = expression("{'n': event.n, 'row': joined.row}", |event| {
    Ok(json!({"n": of(event, "n")?, "row": null}))
});

/// Any values.
pub const VALUES: &[Expression<Value>] = &[
    OBJECTS[0],
    expression("event.x", |event| Ok(of(event, "x")?.clone())),
    expression("[event.s, event.n]", |event| {
        Ok(json!([of(event, "s")?, of(event, "n")?]))
    }),
];

pub const DELETES: &[Expression<bool>] = &[
    expression("event.op == 'd'", |event| Ok(of(event, "op")? == "d")),
    expression("event.n == 7", |event| {
        Ok(of(event, "n")?.as_f64() == Some(7.0))
    }),
];

/// Of the source whose keys and times are in its events.
pub const SOURCE_KEY: Expression<Value> =
    expression("event.id", |event| Ok(of(event, "id")?.clone()));
pub const SOURCE_TIME: Expression<i64> = expression("event.t", |event| int(of(event, "t")?));

const NUMBERS: &[Over<Option<Value>>] = &[
    Over {
        text: "value.n",
        call: |value| optional(value, "n"),
    },
    Over {
        text: "value.x",
        call: |value| optional(value, "x"),
    },
];

const ANYTHING: &[Over<Option<Value>>] = &[
    NUMBERS[0],
    NUMBERS[1],
    Over {
        text: "value.s",
        call: |value| optional(value, "s"),
    },
    Over {
        text: "value.tag",
        call: |value| optional(value, "tag"),
    },
];

type Named = (
    &'static str,
    Compute,
    Option<&'static [Over<Option<Value>>]>,
);

pub const AGGREGATES: &[Named] = &[
    ("events", Compute::Count, None),
    ("tagged", Compute::Count, Some(ANYTHING)),
    ("sum", Compute::Sum, Some(NUMBERS)),
    ("mean", Compute::Average, Some(NUMBERS)),
    ("least", Compute::Min, Some(ANYTHING)),
    ("most", Compute::Max, Some(ANYTHING)),
    ("first", Compute::First, Some(ANYTHING)),
    ("last", Compute::Last, Some(ANYTHING)),
    ("kinds", Compute::CountDistinct, Some(ANYTHING)),
    ("top", Compute::TopK, Some(ANYTHING)),
];

/// The first bounds `n` for sums.
pub const WHERES: &[Over<bool>] = &[
    Over {
        text: "value.n > -1000",
        call: |value| {
            let n = field(value, "n")?;
            Ok(n.as_f64().ok_or(Fault)? > -1000.0)
        },
    },
    Over {
        text: "value.op != 'd'",
        call: |value| Ok(field(value, "op")? != "d"),
    },
    Over {
        text: "has(value.tags)",
        call: |value| Ok(value.as_object().ok_or(Fault)?.contains_key("tags")),
    },
];

pub const INDEXES: &[Index] = &[
    Index {
        name: "byTag",
        text: "value.tag",
        many: false,
        call: |value| optional(value, "tag"),
    },
    Index {
        name: "byTags",
        text: "value.tags",
        many: true,
        call: |value| optional(value, "tags"),
    },
];

/// A field that leaves the row out of the index where it is absent, as every field of null is; other values have no fields.
fn optional(value: &Value, name: &str) -> Maybe<Option<Value>> {
    match value {
        Value::Null => Ok(None),
        Value::Object(fields) => Ok(fields.get(name).cloned()),
        _ => Err(Fault),
    }
}
