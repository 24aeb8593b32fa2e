//! YAML with places: every value knows the line and column where it stands.
//!
//! Reading is bounded (size, depth, aliases), so that a hostile file costs an error and not the
//! memory. What the values mean is not decided here.

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use std::fmt;

/// Largest file that is read, in bytes.
pub(crate) const LARGEST_FILE: u64 = 8 * 1024 * 1024;

/// A place in a file; lines and columns count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

/// One value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Null, bool, number or string.
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One entry of a map; `place` is that of the key.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

/// Why a text is not YAML.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Error {
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// Every document of a text, empty ones left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 64,
            max_nodes: 500_000,
            max_documents: 4_096,
            max_aliases: 1_000,
        },
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options::<Node>(text, options).map_err(|error| Error {
        place: error.location().map_or(Place { line: 1, column: 1 }, place),
        message: message(&error),
    })
}

/// The library's message without the place that it appends: ours stands in front.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error
        .without_snippet()
        .render_with_formatter(&serde_saphyr::UserMessageFormatter);
    let text = text.split(" at line ").next().unwrap_or(&text);
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn place(location: serde_saphyr::Location) -> Place {
    Place {
        line: location.line(),
        column: location.column(),
    }
}

impl Node {
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.kind {
            Kind::Map(entries) => entries
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| &entry.value),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Kind::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The place of a field path (`spec.from[name=schedule].filter`, `spec.prompt`,
    /// `spec.outputs[0].key`), or of the nearest thing above it that stands in the file: a field
    /// that is missing has no place of its own.
    pub(crate) fn locate(&self, path: &str) -> Place {
        let mut node = self;
        let mut at = self.place;
        let mut rest = path;
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let Some((selector, after)) = inside.split_once(']') else {
                    break;
                };
                rest = after;
                if let Some(child) = node.item(selector.trim_matches(['\'', '"'])) {
                    (node, at) = child;
                    continue;
                }
                break;
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let Some((entry, after)) = node.field(rest) else {
                break;
            };
            at = entry.place;
            node = &entry.value;
            rest = after;
        }
        at
    }

    /// The entry whose key begins the path; the longest wins, as keys may hold dots.
    fn field<'a, 'p>(&'a self, path: &'p str) -> Option<(&'a Entry, &'p str)> {
        let Kind::Map(entries) = &self.kind else {
            return None;
        };
        entries
            .iter()
            .filter_map(|entry| {
                let after = path.strip_prefix(entry.key.as_str())?;
                (after.is_empty() || after.starts_with(['.', '['])).then_some((entry, after))
            })
            .max_by_key(|(entry, _)| entry.key.len())
    }

    /// `3`, `name=schedule`, `schedule`, or a key of a map.
    fn item(&self, selector: &str) -> Option<(&Self, Place)> {
        match &self.kind {
            Kind::List(items) => {
                if let Ok(index) = selector.parse::<usize>() {
                    return items.get(index).map(|item| (item, item.place));
                }
                let (key, value) = selector.split_once('=').unwrap_or(("name", selector));
                let value = value.trim_matches(['\'', '"']);
                items
                    .iter()
                    .find(|item| item.get(key).and_then(Self::text) == Some(value))
                    .map(|item| (item, item.place))
            }
            Kind::Map(entries) => entries
                .iter()
                .find(|entry| entry.key == selector)
                .map(|entry| (&entry.value, entry.place)),
            Kind::Scalar(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Kind>::deserialize(deserializer)?;
        Ok(Self {
            place: place(spanned.referenced),
            kind: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KindVisitor)
    }
}

struct KindVisitor;

impl<'de> Visitor<'de> for KindVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::from(value)))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Kind, E> {
        Number::from_f64(value)
            .map(|number| Kind::Scalar(Value::Number(number)))
            .ok_or_else(|| E::custom("infinite and undefined numbers cannot be used here"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::String(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Scalar(Value::String(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Kind, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            entries.push(Entry {
                place: place(key.referenced),
                key: key.value,
                value: access.next_value()?,
            });
        }
        Ok(Kind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: &str = "\
kind: Agent
metadata: {name: helper}
spec:
  trigger:
    filter: event.text != ''
  context:
    - name: first
      key: event.a
    - {name: second, key: event.b}
  topic:
    config:
      cleanup.policy: compact
---
kind: Model
";

    fn at(path: &str) -> (u64, u64) {
        let documents = parse(AGENT).expect("valid YAML");
        let place = documents[0].locate(path);
        (place.line, place.column)
    }

    #[test]
    fn a_field_is_found_where_its_name_stands() {
        assert_eq!(at("spec.trigger.filter"), (5, 5));
        assert_eq!(at("spec.context[name=first].key"), (8, 7));
        assert_eq!(at("spec.context[name=second].key"), (9, 22));
        assert_eq!(at("spec.context[1].key"), (9, 22));
        assert_eq!(at("spec.context[second]"), (9, 7));
        assert_eq!(at("metadata.name"), (2, 12));
    }

    #[test]
    fn keys_with_dots_are_one_key() {
        assert_eq!(at("spec.topic.config.cleanup.policy"), (12, 7));
        assert_eq!(at("spec.topic.config['cleanup.policy']"), (12, 7));
    }

    #[test]
    fn what_is_missing_stands_at_the_nearest_thing_above() {
        assert_eq!(at("spec.trigger.sourceRef.name"), (4, 3));
        assert_eq!(at("spec.context[name=third]"), (6, 3));
        assert_eq!(at("nothing"), (1, 1));
    }

    #[test]
    fn values_are_those_of_json() {
        let node = &parse("a: 1\nb: [true, null, 1.5, 'x']\nc: {d: -2}\n").expect("valid YAML")[0];
        assert_eq!(
            node.to_json(),
            serde_json::json!({"a": 1, "b": [true, null, 1.5, "x"], "c": {"d": -2}})
        );
    }

    #[test]
    fn errors_have_a_place() {
        let error = parse("a: 1\nb: [1, 2\nc: 3\n").expect_err("an open list");
        assert_eq!(error.place.line, 3, "{error:?}");
        let twice = parse("a: 1\na: 2\n").expect_err("a key given twice");
        assert_eq!(twice.place, Place { line: 2, column: 1 }, "{twice:?}");
        assert!(!twice.message.contains("line"), "{twice:?}");
    }

    #[test]
    fn aliases_cannot_blow_up_the_memory() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = level - 1;
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                vec![format!("*a{below}"); 10].join(", ")
            ));
        }
        parse(&bomb).expect_err("more than the budget");
    }
}
