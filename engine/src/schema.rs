//! JSON Schemas that users give: bounded, compiled once, asked of values.
//!
//! A value that fits is widened: where the schema says `number`, a number without fraction is a double too,
//! so that expressions see one type whichever way a producer wrote it. Invariant: a fault says where and
//! how a value does not fit, never the value; only [`Schema::complaints`], for whoever gave the value, does.

use crate::expr::Shape;
use crate::fault::{Fault, Reason};
use crate::json;
use jsonschema::Validator;
use jsonschema::error::ValidationErrorKind;
use serde_json::{Number, Value};

/// The largest JSON Schema, in bytes.
pub(crate) const BYTES_MAX: usize = 16 * 1_024;
/// How deep a JSON Schema may be nested: twice the values that it describes, with `properties` between.
const DEPTH_MAX: usize = 32;

/// A compiled schema. Shared between threads.
#[derive(Debug)]
pub(crate) struct Schema {
    validator: Validator,
    shape: Shape,
    /// Whether it says `number` anywhere.
    has_doubles: bool,
}

impl Schema {
    /// # Errors
    /// Why it cannot be used, as what follows its name: too large, too deep, no JSON Schema.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        let bytes = schema.to_string().len();
        if bytes > BYTES_MAX {
            return Err(format!(
                "has {bytes} bytes as JSON, the limit is {BYTES_MAX}"
            ));
        }
        if json::deeper_than(schema, DEPTH_MAX) {
            return Err(format!("is nested deeper than {DEPTH_MAX}"));
        }
        let validator = jsonschema::options()
            // The default engine backtracks: a pattern could take for ever.
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .build(schema)
            .map_err(|error| format!("is no JSON Schema that can be used: {error}"))?;
        let shape = Shape::of_schema(schema);
        Ok(Self {
            validator,
            has_doubles: has_doubles(&shape),
            shape,
        })
    }

    /// The value as the schema has it.
    ///
    /// # Errors
    /// `SchemaMismatch` for one that does not fit.
    pub(crate) fn conform(&self, mut value: Value) -> Result<Value, Fault> {
        if let Err(error) = self.validator.validate(&value) {
            return Err(mismatch(&error));
        }
        self.widen(&mut value);
        Ok(value)
    }

    /// Makes doubles where the schema says `number`, whether the value fits or not.
    pub(crate) fn widen(&self, value: &mut Value) {
        if self.has_doubles {
            make_doubles(value, &self.shape);
        }
    }

    /// What does not fit, at most `limit` of it, with values: for whoever gave them.
    pub(crate) fn complaints(&self, value: &Value, limit: usize) -> Vec<String> {
        let errors = self.validator.iter_errors(value).take(limit);
        errors
            .map(|error| format!("{}: {error}", place(&error)))
            .collect()
    }
}

fn place(error: &jsonschema::ValidationError<'_>) -> String {
    match error.instance_path().to_string() {
        path if path.is_empty() => "the value".to_owned(),
        path => format!("`{path}`"),
    }
}

/// Where and how a value does not fit, without the value.
fn mismatch(error: &jsonschema::ValidationError<'_>) -> Fault {
    let what = match error.kind() {
        // Names of fields that no schema knows are the sender's data.
        ValidationErrorKind::AdditionalProperties { unexpected } => {
            format!(
                "has {} fields that the schema does not allow",
                unexpected.len()
            )
        }
        _ => error.masked().to_string(),
    };
    Fault::new(Reason::SchemaMismatch, format!("{}: {what}", place(error)))
}

fn has_doubles(shape: &Shape) -> bool {
    match shape {
        Shape::Double => true,
        Shape::List(item) => has_doubles(item),
        Shape::Object(fields) => fields.known.values().any(has_doubles),
        _ => false,
    }
}

fn make_doubles(value: &mut Value, shape: &Shape) {
    match (shape, value) {
        (Shape::Double, Value::Number(number)) if !number.is_f64() => {
            if let Some(double) = number.as_f64().and_then(Number::from_f64) {
                *number = double;
            }
        }
        (Shape::List(item), Value::Array(items)) => {
            for value in items {
                make_doubles(value, item);
            }
        }
        (Shape::Object(fields), Value::Object(object)) => {
            for (name, shape) in &fields.known {
                if let Some(value) = object.get_mut(name) {
                    make_doubles(value, shape);
                }
            }
        }
        _ => {}
    }
}
