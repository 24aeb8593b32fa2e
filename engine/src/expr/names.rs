//! Which variables an expression or a template may name, and what is known of their shapes.
//!
//! A shape says what the checker may refuse, so it is only as narrow as the configuration proves:
//! where a JSON Schema leaves a door open (`anyOf`, `$ref`, `additionalProperties`), so does the shape.

use serde_json::Value;
use std::collections::BTreeMap;

/// How deep a schema is followed; below, anything goes.
const DEPTH_MAX: usize = 16;

/// What is known of a value before it is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Shape {
    /// Anything.
    #[default]
    Any,
    Null,
    Bool,
    Int,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    List(Box<Shape>),
    Object(Fields),
}

/// The fields of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    pub known: BTreeMap<String, Shape>,
    /// Whether a field that is not known is refused.
    pub closed: bool,
    /// Whether the configuration says that there are no others: then asking whether one is there
    /// (`has`, `.?`) is refused too.
    pub strict: bool,
}

impl Shape {
    /// An object of which nothing is known.
    pub fn object() -> Self {
        Self::Object(Fields::default())
    }

    /// What a JSON Schema proves.
    pub fn of_schema(schema: &Value) -> Self {
        Self::at_depth(schema, 0)
    }

    fn at_depth(schema: &Value, depth: usize) -> Self {
        const DOORS: [&str; 8] = [
            "$ref",
            "$dynamicRef",
            "allOf",
            "anyOf",
            "oneOf",
            "if",
            "not",
            "dependentSchemas",
        ];
        let Some(object) = schema.as_object() else {
            return Self::Any;
        };
        if depth > DEPTH_MAX || DOORS.iter().any(|door| object.contains_key(*door)) {
            return Self::Any;
        }
        match object.get("type").and_then(Value::as_str) {
            Some("string") => Self::Text,
            Some("integer") => Self::Int,
            Some("number") => Self::Double,
            Some("boolean") => Self::Bool,
            Some("null") => Self::Null,
            Some("array") => Self::List(Box::new(
                object
                    .get("items")
                    .map_or(Self::Any, |items| Self::at_depth(items, depth + 1)),
            )),
            Some("object") => Self::Object(Self::fields_of(object, depth)),
            _ => Self::Any,
        }
    }

    fn fields_of(object: &serde_json::Map<String, Value>, depth: usize) -> Fields {
        let known: BTreeMap<String, Self> = object
            .get("properties")
            .and_then(Value::as_object)
            .map(|properties| {
                properties
                    .iter()
                    .map(|(name, schema)| (name.clone(), Self::at_depth(schema, depth + 1)))
                    .collect()
            })
            .unwrap_or_default();
        let additional = object.get("additionalProperties");
        let open = object.contains_key("patternProperties")
            || additional.is_some_and(|additional| *additional != Value::Bool(false));
        Fields {
            closed: !open && (!known.is_empty() || additional.is_some()),
            strict: !open && additional.is_some(),
            known,
        }
    }

    /// With its article, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Null => "null",
            Self::Bool => "a bool",
            Self::Int => "an int",
            Self::Double => "a double",
            Self::Text => "a string",
            Self::Bytes => "bytes",
            Self::Timestamp => "a timestamp",
            Self::Duration => "a duration",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }

    /// Whether values of both shapes can be equal.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        use Shape::{Any, Double, Int, List, Null, Object};
        matches!(
            (self, other),
            (Any | Null, _)
                | (_, Any | Null)
                | (Int | Double, Int | Double)
                | (List(_), List(_))
                | (Object(_), Object(_))
        ) || self == other
    }
}

/// The variables that an expression or a template sees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Names {
    roots: BTreeMap<String, Shape>,
}

impl Names {
    /// These variables, of any shape.
    pub fn new(roots: &[&str]) -> Self {
        Self {
            roots: roots
                .iter()
                .map(|root| ((*root).to_owned(), Shape::Any))
                .collect(),
        }
    }

    /// The same with `root` being of a shape.
    #[must_use]
    pub fn shape(mut self, root: &str, shape: Shape) -> Self {
        self.roots.insert(root.to_owned(), shape);
        self
    }

    /// The same with `root` being an object that has these fields and no others.
    #[must_use]
    pub fn fields<I>(self, root: &str, fields: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let known = fields
            .into_iter()
            .map(|field| (field.as_ref().to_owned(), Shape::Any))
            .collect();
        self.shape(
            root,
            Shape::Object(Fields {
                known,
                closed: true,
                strict: true,
            }),
        )
    }

    /// The same with `root` being what a JSON Schema says.
    #[must_use]
    pub fn schema(self, root: &str, schema: &Value) -> Self {
        self.shape(root, Shape::of_schema(schema))
    }

    pub fn get(&self, root: &str) -> Option<&Shape> {
        self.roots.get(root)
    }

    pub fn roots(&self) -> impl Iterator<Item = &str> {
        self.roots.keys().map(String::as_str)
    }
}
