//! Conversations as the topic has them, against the turns that the runs should have left.

use super::TURNS;
use crate::naive::Raw;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

/// What a run that was done leaves of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    pub user: String,
    pub assistant: String,
    pub run: String,
}

/// One customer.
#[derive(Default)]
struct Customer {
    /// All turns that there should be, oldest first.
    said: Vec<Turn>,
    /// What the topic has, by number.
    stored: BTreeMap<u64, Turn>,
    /// Numbers that were given.
    numbers: u64,
}

#[derive(Default)]
pub struct Memory(HashMap<String, Customer>);

impl Memory {
    /// The turns that the next run of a customer has to see.
    pub fn past(&self, customer: &str) -> &[Turn] {
        let mut said = self.0.get(customer).map_or(&[][..], |it| &it.said);
        // The older half goes at once.
        while said.len() > TURNS {
            said = &said[TURNS / 2..];
        }
        said
    }

    pub fn say(&mut self, customer: &str, turn: Turn) {
        let customer = self.0.entry(customer.to_owned()).or_default();
        customer.said.push(turn);
    }

    /// Takes a record of the topic.
    ///
    /// # Errors
    /// A turn whose number was given before, or that leaves one out.
    pub fn record(&mut self, raw: &Raw) -> Result<(), String> {
        let key = raw.key.as_deref().unwrap();
        let (name, number) = key.split_at(key.len() - 9);
        let number = u64::from_be_bytes(number[1..].try_into().unwrap());
        let name = String::from_utf8(name.to_vec()).unwrap();
        let customer = self.0.entry(name.clone()).or_default();
        let Some(bytes) = &raw.value else {
            customer.stored.remove(&number);
            return Ok(());
        };
        if number != customer.numbers {
            let next = customer.numbers;
            return Err(format!(
                "turn {number} of {name} comes where turn {next} should"
            ));
        }
        customer.numbers += 1;
        let turn: Value = serde_json::from_slice(bytes).unwrap();
        let text = |field: &str| turn[field].as_str().unwrap().to_owned();
        let turn = Turn {
            user: text("user"),
            assistant: text("assistant"),
            run: text("run"),
        };
        customer.stored.insert(number, turn);
        Ok(())
    }

    /// What is not as it should be at rest.
    pub fn missing(&self) -> Option<String> {
        self.0.iter().find_map(|(name, customer)| {
            let stored: Vec<_> = customer.stored.values().cloned().collect();
            let expected = self.past(name);
            (stored != expected).then(|| format!("{name} has the turns {stored:?} of {expected:?}"))
        })
    }
}
