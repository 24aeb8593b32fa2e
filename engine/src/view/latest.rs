//! One key of a `latest` view: the newest value, or the newest value of each top-level field.

use super::definition::{Change, Definition, Projected};
use super::origin::{self, Origin};
use crate::config::{Fold, Merge};
use crate::fault::{Fault, Reason};
use crate::key::Key;
use crate::names::header;
use crate::record::Record;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A value that would not fit a record of the state topic with its headers.
pub(super) const VALUE_BYTES_MAX: usize = 900 * 1_024;
/// First byte of the header `hw-st`.
pub(super) const CODEC: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Compact JSON, keys of objects sorted.
    pub(super) value: Box<[u8]>,
    pub(super) time: i64,
    pub(super) origin: Origin,
    /// With `merge: Fields`: whose each field is.
    merged: Option<Box<Merged>>,
    /// Whether readers see it: with `merge: Fields`, once all required sources have something.
    pub(super) visible: bool,
    pub(super) index_keys: BTreeSet<(usize, Key)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Merged {
    /// Bit n: the `from` entry n has something for this key.
    present: u64,
    /// Top-level field -> the `from` entry that wrote it last.
    owners: BTreeMap<String, u32>,
}

/// What an event makes of a key; nothing has happened yet.
pub(super) enum Outcome {
    Unchanged,
    Put(Entry),
    Gone,
}

/// The next state of a key.
///
/// # Errors
/// A value over 900 KiB, an index expression that fails; the former state stays.
pub(super) fn next(
    definition: &Definition,
    former: Option<&Entry>,
    event: Projected,
) -> Result<Outcome, Fault> {
    match definition.fold() {
        Fold::Latest {
            merge: Merge::Fields,
        } => next_merged(definition, former, event),
        _ => next_replaced(definition, former, event),
    }
}

fn next_replaced(
    definition: &Definition,
    former: Option<&Entry>,
    event: Projected,
) -> Result<Outcome, Fault> {
    let Change::Put(value) = &event.change else {
        return Ok(if former.is_some() {
            Outcome::Gone
        } else {
            Outcome::Unchanged
        });
    };
    let bytes = encode(value)?;
    if former.is_some_and(|former| former.value == bytes) {
        return Ok(Outcome::Unchanged);
    }
    Ok(Outcome::Put(Entry {
        index_keys: definition.index_keys(&event.key, value)?,
        value: bytes,
        time: event.time,
        origin: event.origin,
        merged: None,
        visible: true,
    }))
}

fn next_merged(
    definition: &Definition,
    former: Option<&Entry>,
    event: Projected,
) -> Result<Outcome, Fault> {
    let bit = 1u64 << event.origin.from;
    let mut merged = former
        .and_then(|former| former.merged.as_deref().cloned())
        .unwrap_or_default();
    let mut fields = match former {
        Some(former) => decode_object(&former.value)?,
        None => Map::new(),
    };
    match event.change {
        Change::Put(Value::Object(put)) => {
            merged.present |= bit;
            for (name, value) in put {
                merged.owners.insert(name.clone(), event.origin.from);
                fields.insert(name, value);
            }
        }
        // The projection lets nothing but objects through.
        Change::Put(_) => return Ok(Outcome::Unchanged),
        Change::Drop => {
            if merged.present & bit == 0 {
                return Ok(Outcome::Unchanged);
            }
            merged.present &= !bit;
            fields.retain(|name, _| merged.owners.get(name) != Some(&event.origin.from));
            merged.owners.retain(|_, owner| *owner != event.origin.from);
        }
    }
    if merged.present == 0 {
        return Ok(if former.is_some() {
            Outcome::Gone
        } else {
            Outcome::Unchanged
        });
    }
    let visible = is_visible(definition, &merged);
    let value = Value::Object(fields);
    let bytes = encode(&value)?;
    if let Some(former) = former
        && former.value == bytes
        && former.merged.as_deref() == Some(&merged)
    {
        return Ok(Outcome::Unchanged);
    }
    let index_keys = if visible {
        definition.index_keys(&event.key, &value)?
    } else {
        BTreeSet::new()
    };
    Ok(Outcome::Put(Entry {
        value: bytes,
        time: event.time,
        origin: event.origin,
        merged: Some(Box::new(merged)),
        visible,
        index_keys,
    }))
}

fn is_visible(definition: &Definition, merged: &Merged) -> bool {
    merged.present & definition.required() == definition.required()
}

impl Entry {
    /// What the value does not say: the header `hw-st`.
    pub(super) fn state_header(&self) -> Option<Vec<u8>> {
        let merged = self.merged.as_deref()?;
        let mut bytes = vec![CODEC];
        // Writing into memory does not fail, and neither do these types.
        serde_json::to_writer(&mut bytes, merged).ok()?;
        Some(bytes)
    }

    /// Reads an entry back from its record in the state topic.
    pub(super) fn restore(
        definition: &Definition,
        key: &Key,
        record: &Record<'_>,
        bytes: &[u8],
    ) -> Result<Self, Fault> {
        let (origin, time) = origin::provenance(record)?;
        let value: Value = serde_json::from_slice(bytes).map_err(|_| origin::invalid("value"))?;
        let merged: Option<Box<Merged>> = match definition.fold() {
            Fold::Latest {
                merge: Merge::Fields,
            } => Some(Box::new(state(record.header(header::STATE))?)),
            _ => None,
        };
        let visible = merged
            .as_deref()
            .is_none_or(|merged| is_visible(definition, merged));
        let index_keys = if visible {
            definition.index_keys(key, &value)?
        } else {
            BTreeSet::new()
        };
        Ok(Self {
            value: bytes.into(),
            time,
            origin,
            merged,
            visible,
            index_keys,
        })
    }
}

/// Decodes a header `hw-st`.
pub(super) fn state<T: serde::de::DeserializeOwned>(header: Option<&[u8]>) -> Result<T, Fault> {
    match header {
        Some([CODEC, json @ ..]) => serde_json::from_slice(json).ok(),
        _ => None,
    }
    .ok_or_else(|| origin::invalid(header::STATE))
}

pub(super) fn encode(value: &Value) -> Result<Box<[u8]>, Fault> {
    let bytes = serde_json::to_vec(value).map_err(|_| origin::invalid("value"))?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(Fault::new(
            Reason::TooLarge,
            format!(
                "the folded value has {} bytes, the limit is {VALUE_BYTES_MAX}; the former value is kept",
                bytes.len()
            ),
        ));
    }
    Ok(bytes.into_boxed_slice())
}

pub(super) fn decode(bytes: &[u8]) -> Value {
    // Written by `encode`, or checked in `restore`.
    serde_json::from_slice(bytes).unwrap_or(Value::Null)
}

fn decode_object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    serde_json::from_slice(bytes).map_err(|_| origin::invalid("value"))
}
