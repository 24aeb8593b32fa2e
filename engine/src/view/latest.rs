//! The rows of a `latest` view: of each key the newest value, or the newest value of each top-level field.
//!
//! A row's value is what [`Document::kept`] gives. With `merge: Fields` it also keeps whose each field is, as in the header `hw-st`.

use super::arena::Address;
use super::definition::{Change, Definition, Projected};
use super::indexes::{Indexes, Places};
use super::origin;
use super::slots::{Content, Hash, Slots};
use crate::config::{Fold, Merge};
use crate::fault::{Fault, Reason};
use crate::json::{self, Document};
use crate::key::Key;
use crate::names::header;
use crate::record::Record;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A value that would not fit a record of the state topic with its headers.
pub(super) const VALUE_BYTES_MAX: usize = 900 * 1_024;
/// First byte of the header `hw-st`.
pub(super) const CODEC: u8 = 1;

/// Whose the fields of a merged row are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Merged {
    /// Bit n: the `from` entry n has something for this key.
    present: u64,
    /// Top-level field -> the `from` entry that wrote it last.
    owners: BTreeMap<String, u32>,
}

/// The rows of one partition while an event is folded.
pub(super) struct Rows<'a> {
    pub(super) definition: &'a Definition,
    pub(super) slots: &'a mut Slots,
    pub(super) indexes: &'a mut Indexes,
}

/// A key and where its row is.
struct Place<'a> {
    key: &'a str,
    hash: Hash,
    at: Option<Address>,
}

impl Rows<'_> {
    /// Folds an event; whether anything changed. `room` is used for bytes that have to be written anew.
    ///
    /// # Errors
    /// A value over 900 KiB, an index expression that fails; all is as before then.
    pub(super) fn apply(
        &mut self,
        event: &Projected<'_>,
        room: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        self.slots.prepare()?;
        let key = event.key.as_str();
        let hash = self.slots.hash(key);
        let at = self.slots.find(hash, key);
        let place = Place { key, hash, at };
        match self.definition.fold() {
            Fold::Latest {
                merge: Merge::Fields,
            } => self.merge(&place, event),
            _ => self.replace(&place, event, room),
        }
    }

    fn replace(
        &mut self,
        place: &Place<'_>,
        event: &Projected<'_>,
        room: &mut Vec<u8>,
    ) -> Result<bool, Fault> {
        let Change::Put(document) = event.change else {
            return Ok(self.delete(place));
        };
        let value = document.kept(room);
        check_size(value.len())?;
        if let Some(at) = place.at
            && document.equals_kept(value, self.slots.value(at))
        {
            return Ok(false);
        }
        let content = Content {
            value,
            time: event.time,
            origin: event.origin,
            hidden: false,
            more: &[],
        };
        let to = self.put(place, document, &content)?;
        self.slots.mark(place.hash, to);
        Ok(true)
    }

    fn merge(&mut self, place: &Place<'_>, event: &Projected<'_>) -> Result<bool, Fault> {
        let bit = 1u64 << event.origin.from;
        let former = place.at.map(|at| self.slots.content(at));
        let mut merged: Merged = match &former {
            Some(former) => state(Some(former.more))?,
            None => Merged::default(),
        };
        let mut fields = match &former {
            Some(former) => match json::parse(former.value) {
                Value::Object(fields) => fields,
                _ => Map::new(),
            },
            None => Map::new(),
        };
        let unchanged = match event.change {
            Change::Put(document) => match document.value() {
                Value::Object(put) => {
                    merged.present |= bit;
                    for (name, value) in put {
                        merged.owners.insert(name.clone(), event.origin.from);
                        fields.insert(name.clone(), value.clone());
                    }
                    false
                }
                // The projection lets nothing but objects through.
                _ => true,
            },
            Change::Drop => {
                let unknown = merged.present & bit == 0;
                merged.present &= !bit;
                fields.retain(|name, _| merged.owners.get(name) != Some(&event.origin.from));
                merged.owners.retain(|_, owner| *owner != event.origin.from);
                unknown
            }
        };
        if unchanged {
            return Ok(false);
        }
        if merged.present == 0 {
            return Ok(self.delete(place));
        }
        let document = Document::built(Value::Object(fields));
        let mut value = Vec::new();
        let value = document.kept(&mut value);
        check_size(value.len())?;
        let more = encode_state(&merged);
        check_size(more.len())?;
        if former.is_some_and(|former| former.value == value && former.more == more) {
            return Ok(false);
        }
        let content = Content {
            value,
            time: event.time,
            origin: event.origin,
            hidden: !is_visible(self.definition, &merged),
            more: &more,
        };
        let to = self.put(place, &document, &content)?;
        self.slots.mark(place.hash, to);
        Ok(true)
    }

    fn delete(&mut self, place: &Place<'_>) -> bool {
        let known = self.take(place);
        if known && let Ok(Some(key)) = Key::from_text(place.key) {
            self.slots.mark_gone(key);
        }
        known
    }

    /// Takes a key out, without a trace; whether it was there.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let hash = self.slots.hash(key);
        let at = self.slots.find(hash, key);
        self.take(&Place { key, hash, at })
    }

    fn take(&mut self, place: &Place<'_>) -> bool {
        let Some(at) = place.at else {
            return false;
        };
        if !self.indexes.is_empty() {
            let former = self.standing(place.key, at);
            if let Ok(Some(key)) = Key::from_text(place.key) {
                self.indexes.replace(&key, &former, Places::new());
            }
        }
        self.slots.bytes -= place.key.len() + self.slots.value(at).len();
        self.slots.remove(place.hash, at);
        true
    }

    fn put(
        &mut self,
        place: &Place<'_>,
        document: &Document<'_>,
        content: &Content<'_>,
    ) -> Result<Address, Fault> {
        if !self.indexes.is_empty() {
            let now = if content.hidden {
                Places::new()
            } else {
                self.definition.index_keys(place.key, document)?
            };
            let former = place
                .at
                .map(|at| self.standing(place.key, at))
                .unwrap_or_default();
            if let Ok(Some(key)) = Key::from_text(place.key) {
                self.indexes.replace(&key, &former, now);
            }
        }
        match place.at {
            Some(at) => self.slots.bytes -= self.slots.value(at).len(),
            None => self.slots.bytes += place.key.len(),
        }
        self.slots.bytes += content.value.len();
        Ok(self.slots.put(place.hash, place.at, place.key, content))
    }

    /// Where a row stands in the indexes: told anew from its value, which costs no memory.
    fn standing(&self, key: &str, at: Address) -> Places {
        let content = self.slots.content(at);
        if content.hidden {
            return Places::new();
        }
        let document = Document::built(json::parse(content.value));
        // It was asked before, and gave an answer.
        self.definition
            .index_keys(key, &document)
            .unwrap_or_default()
    }

    /// Reads a row back from its record in the state topic. Its value is taken as it is: a checkpoint wrote it.
    ///
    /// # Errors
    /// `InvalidInternalRecord`.
    pub(super) fn restore(
        &mut self,
        key: &str,
        record: &Record<'_>,
        value: &[u8],
    ) -> Result<(), Fault> {
        self.slots.prepare()?;
        let (origin, time) = origin::provenance(record)?;
        let mut content = Content {
            value,
            time,
            origin,
            hidden: false,
            more: &[],
        };
        if let Fold::Latest {
            merge: Merge::Fields,
        } = self.definition.fold()
        {
            let more = record.header(header::STATE);
            let merged: Merged = state(more)?;
            content.more = more.unwrap_or_default();
            content.hidden = !is_visible(self.definition, &merged);
        }
        let hash = self.slots.hash(key);
        let at = self.slots.find(hash, key);
        // Only indexes look at it.
        let document = if self.indexes.is_empty() {
            Document::built(Value::Null)
        } else {
            Document::built(serde_json::from_slice(value).map_err(|_| origin::invalid("value"))?)
        };
        self.put(&Place { key, hash, at }, &document, &content)?;
        Ok(())
    }
}

fn is_visible(definition: &Definition, merged: &Merged) -> bool {
    merged.present & definition.required() == definition.required()
}

fn encode_state(merged: &Merged) -> Vec<u8> {
    let mut bytes = vec![CODEC];
    // Writing into memory does not fail, and neither do these types.
    let _ = serde_json::to_writer(&mut bytes, merged);
    bytes
}

/// Decodes a header `hw-st`.
fn state<T: serde::de::DeserializeOwned>(header: Option<&[u8]>) -> Result<T, Fault> {
    match header {
        Some([CODEC, json @ ..]) => serde_json::from_slice(json).ok(),
        _ => None,
    }
    .ok_or_else(|| origin::invalid(header::STATE))
}

pub(super) fn check_size(bytes: usize) -> Result<(), Fault> {
    if bytes > VALUE_BYTES_MAX {
        return Err(Fault::new(
            Reason::TooLarge,
            format!(
                "the folded value has {bytes} bytes, the limit is {VALUE_BYTES_MAX}; the former value is kept"
            ),
        ));
    }
    Ok(())
}
