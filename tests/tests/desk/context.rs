//! What the views should hold, from their sources; and whether a slot shows that.

use crate::naive::Raw;
use serde_json::Value;
use std::collections::HashMap;

/// A record of a context source.
struct Entry {
    partition: i32,
    offset: i64,
    /// The application's number; a delete has none.
    n: Option<u64>,
}

/// By source, then key of the view, in the log's order.
#[derive(Default)]
pub struct Context(HashMap<&'static str, HashMap<String, Vec<Entry>>>);

impl Context {
    pub fn fact(&mut self, raw: &Raw) {
        let n = event(raw).map(|event| event["v"].as_u64().unwrap());
        self.add("facts", raw.key_text().to_owned(), raw, n);
    }

    pub fn note(&mut self, raw: &Raw) {
        let event = event(raw).unwrap();
        let customer = event["customer"].as_str().unwrap().to_owned();
        self.add("notes", customer, raw, event["n"].as_u64());
    }

    fn add(&mut self, source: &'static str, key: String, raw: &Raw, n: Option<u64>) {
        let keys = self.0.entry(source).or_default();
        keys.entry(key).or_default().push(Entry {
            partition: raw.partition,
            offset: raw.offset,
            n,
        });
    }

    /// Whether a slot, as the audit has it, shows what `source` had for `key`: the row is the key's last one, as far as the slot says
    /// that it covers the log, or one that came later; and one at least as new as record `seen`, unless the slot is named as stale.
    /// `shown` is what the prompt says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(
        &self,
        slot: &Value,
        source: &str,
        key: &str,
        seen: u64,
        shown: &str,
    ) -> Result<(), String> {
        let none = Vec::new();
        let keys = self.0.get(source);
        let entries = keys.and_then(|keys| keys.get(key)).unwrap_or(&none);
        let partition = entries.first().map_or(0, |entry| entry.partition);
        let topic = |it: &Value| {
            let text = it["partition"].as_str().unwrap();
            text.ends_with(&format!(".{source}-{partition}"))
        };
        let of = |list: &str| slot[list].as_array().unwrap().iter().find(|it| topic(it));
        let covered = of("covered").map_or(0, |it| it["next"].as_i64().unwrap());
        let is_stale = of("behind").is_some();
        // What has to be in: below what is covered; and what was acknowledged before the trigger was sent.
        let promised = |entry: &Entry| {
            entry.offset < covered || (!is_stale && entry.n.is_some_and(|n| n <= seen))
        };
        let least = entries.iter().rposition(promised);
        let row = slot["rows"].as_array().unwrap().first();
        let wrong = |what: &str| {
            let least = least.map(|it| entries[it].offset);
            Err(format!(
                "{source}: {what}; key '{key}', at least offset {least:?}, seen {seen}, slot {slot}, shown '{shown}'"
            ))
        };
        let later = &entries[least.unwrap_or(0)..];
        match row {
            None if shown != "none" => wrong("a row is shown that the audit does not have"),
            None if least.is_none() || later.iter().any(|entry| entry.n.is_none()) => Ok(()),
            None => wrong("nothing is shown"),
            Some(row) => {
                let position = row["position"].as_str().unwrap();
                let found = later.iter().find(|entry| {
                    position.ends_with(&format!(".{source}-{}-{}", entry.partition, entry.offset))
                });
                match found.and_then(|entry| entry.n) {
                    Some(n) if n.to_string() == shown => Ok(()),
                    Some(_) => wrong("the row's value is another"),
                    None => wrong("the row is older, or none that there is"),
                }
            }
        }
    }
}

fn event(raw: &Raw) -> Option<Value> {
    let bytes = raw.value.as_deref()?;
    serde_json::from_slice(bytes).ok()
}
