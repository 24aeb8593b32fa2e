//! The rows of an `aggregate` view in their table, and in the indexes over their fields.

use super::fields::Taken;
use super::{Aggregate, Entry};
use crate::fault::Fault;
use crate::json::Document;
use crate::key::Key;
use crate::record::Record;
use crate::view::definition::{Change, Definition, Projected};
use crate::view::indexes::{Indexes, Places};
use crate::view::table::Table;

/// The rows of one partition while an event is folded.
pub(in crate::view) struct Rows<'a> {
    pub(in crate::view) definition: &'a Definition,
    pub(in crate::view) aggregate: &'a Aggregate,
    pub(in crate::view) table: &'a mut Table<Entry>,
    pub(in crate::view) indexes: &'a mut Indexes,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::view) struct Applied {
    pub(in crate::view) changed: bool,
    /// It came too late to be kept, for a window or for the key.
    pub(in crate::view) late: bool,
}

impl Rows<'_> {
    /// Folds an event; `clock` is the fold's, this event included. `room` is memory that is used again and again.
    ///
    /// # Errors
    /// As [`Entry::prepare`], or an index expression that fails; all is as before then.
    pub(in crate::view) fn apply(
        &mut self,
        event: &Projected<'_>,
        clock: i64,
        room: &mut Vec<Taken>,
    ) -> Result<Applied, Fault> {
        let key = event.key.as_str();
        let Change::Put(value) = event.change else {
            let changed = self.remove(key);
            if changed {
                self.table.mark_gone(event.key.to_key());
            }
            return Ok(Applied {
                changed,
                late: false,
            });
        };
        let (time, origin) = (event.time, event.origin);
        let takes = std::mem::take(room);
        if let Some(found) = self.table.find_mut(key) {
            let entry = &mut *found.entry;
            let prepared = entry.prepare(self.aggregate, value, (time, origin), clock, takes)?;
            let applied = Applied {
                changed: prepared.changed,
                late: prepared.late,
            };
            if !self.indexes.is_empty() && prepared.changed {
                let now = entry.index_row_with(self.aggregate, &prepared);
                let now = self.definition.index_keys(key, &Document::built(now))?;
                let former = standing(self.definition, self.aggregate, key, entry);
                self.indexes.replace(&event.key.to_key(), &former, now);
            }
            let before = entry.bytes();
            *room = entry.commit(self.aggregate, prepared);
            let after = entry.bytes();
            if applied.changed {
                found.mark();
            }
            self.table.bytes = self.table.bytes - before + after;
            return Ok(applied);
        }
        let mut entry = Entry::new(self.aggregate);
        let prepared = entry.prepare(self.aggregate, value, (time, origin), clock, takes)?;
        let applied = Applied {
            changed: true,
            late: prepared.late,
        };
        *room = entry.commit(self.aggregate, prepared);
        let places = self.places(key, &entry)?;
        let name = event.key.to_key();
        self.indexes.replace(&name, &Places::new(), places);
        self.table.bytes += key.len() + entry.bytes();
        self.table.insert(name, entry);
        self.table.mark(key);
        Ok(applied)
    }

    /// Takes a key out, without a trace; whether it was there.
    pub(in crate::view) fn remove(&mut self, key: &str) -> bool {
        let Some(entry) = self.table.remove(key) else {
            return false;
        };
        self.table.bytes -= key.len() + entry.bytes();
        if !self.indexes.is_empty()
            && let Ok(Some(name)) = Key::from_text(key)
        {
            let former = standing(self.definition, self.aggregate, key, &entry);
            self.indexes.replace(&name, &former, Places::new());
        }
        true
    }

    /// Reads a row back from its record in the state topic.
    ///
    /// # Errors
    /// `InvalidInternalRecord`.
    pub(in crate::view) fn restore(&mut self, key: &str, record: &Record<'_>) -> Result<(), Fault> {
        let entry = Entry::restore(self.aggregate, record)?;
        let places = self.places(key, &entry)?;
        self.remove(key);
        if let Some(name) = Key::from_text(key)? {
            self.indexes.replace(&name, &Places::new(), places);
            self.table.bytes += key.len() + entry.bytes();
            self.table.insert(name, entry);
        }
        Ok(())
    }

    fn places(&self, key: &str, entry: &Entry) -> Result<Places, Fault> {
        if self.indexes.is_empty() {
            return Ok(Places::new());
        }
        let row = Document::built(entry.index_row(self.aggregate));
        self.definition.index_keys(key, &row)
    }
}

/// Where a row stands: told anew from its fields, which costs no memory.
fn standing(definition: &Definition, aggregate: &Aggregate, key: &str, entry: &Entry) -> Places {
    let row = Document::built(entry.index_row(aggregate));
    // It was asked before, and gave an answer.
    definition.index_keys(key, &row).unwrap_or_default()
}
