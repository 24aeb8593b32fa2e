//! An event as its record holds it: nothing is copied, and nothing parsed that no expression reads.
//!
//! For sources of plain JSON without a schema; those of others are decoded as a whole and lent all the same.

use super::{Source, headers_of};
use crate::config;
use crate::expr::{Expression, Variable, Variables};
use crate::fault::Fault;
use crate::json::Document;
use crate::json::scan::Scanner;
use crate::key::Text;
use crate::record::Record;
use serde_json::Value;
use std::sync::OnceLock;

/// One event, borrowed. The variables `event`, `key`, `headers` and `time` of expressions.
#[derive(Debug)]
pub struct Lent<'a> {
    pub document: Document<'a>,
    /// Whether the record is a delete: a value that is JSON's null is none.
    pub null: bool,
    /// The row that a delete took away, where its envelope says it; else null.
    pub before: Value,
    pub key: Option<Text<'a>>,
    /// Milliseconds since the epoch.
    pub time: i64,
    record: Record<'a>,
    headers: OnceLock<Value>,
    /// Whether `event` is handed over parsed, as an expression uses it other than by its fields.
    whole: bool,
}

impl Variables for Lent<'_> {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        Some(match name {
            "event" if self.whole => Variable::Json(self.document.value()),
            "event" => self.document.variable(),
            "key" => match &self.key {
                Some(key) => Variable::Text(key.as_str()),
                None => Variable::Null,
            },
            "headers" => Variable::Json(self.headers.get_or_init(|| headers_of(&self.record))),
            "time" => Variable::Timestamp(self.time),
            _ => return None,
        })
    }
}

impl Source {
    /// Whether an event can be read where it stands.
    fn is_plain(&self) -> bool {
        self.format == config::Format::Json
            && self.key_format == config::Format::Text
            && self.envelope == config::Envelope::None
            && self.validator.is_none()
            && !self.has_doubles
    }

    /// As [`Source::decode`], borrowing from the record and from the scanner. `whole` says whether an expression of the reader uses
    /// `event` other than by its fields.
    ///
    /// # Errors
    /// A fault for a record that is not valid: see [`crate::fault::Reason`].
    pub(crate) fn lend<'a>(
        &self,
        record: &Record<'a>,
        scanner: &'a mut Scanner,
        whole: bool,
    ) -> Result<Lent<'a>, Fault> {
        let Some(bytes) = record.value.filter(|_| self.is_plain()) else {
            let event = self.decode(record)?;
            return Ok(Lent {
                document: Document::built(event.value),
                null: event.null,
                before: event.before,
                key: event.key.map(Text::from),
                time: event.time,
                record: *record,
                headers: OnceLock::from(event.headers),
                whole,
            });
        };
        let own = |expression: &Option<Expression>| {
            expression
                .as_ref()
                .is_some_and(|expression| expression.reads_whole("event"))
        };
        let mut lent = Lent {
            document: Document::read(bytes, scanner)?,
            null: false,
            before: Value::Null,
            key: None,
            time: record.timestamp,
            record: *record,
            headers: OnceLock::new(),
            whole: whole || own(&self.key) || own(&self.event_time),
        };
        let reads_key = |expression: &Option<Expression>| {
            expression
                .as_ref()
                .is_some_and(|expression| expression.reads("key"))
        };
        if self.key.is_none() || reads_key(&self.key) || reads_key(&self.event_time) {
            lent.key = record.key.map(Text::from_bytes).transpose()?.flatten();
        }
        // The expressions of the source see the record's time and key.
        let mut time = None;
        if let Some(expression) = &self.event_time {
            let found = expression.timestamp_ms(&lent)?;
            super::check_time(found, record.timestamp)?;
            time = Some(found);
        }
        if let Some(expression) = &self.key {
            let key = expression.key_text(&lent)?;
            // Most topics are keyed by what their events say too.
            let of_record = key.as_ref().and_then(|key| {
                let bytes = record
                    .key
                    .filter(|bytes| *bytes == key.as_str().as_bytes())?;
                std::str::from_utf8(bytes).ok()
            });
            lent.key = match of_record {
                Some(text) => Some(Text::Lent(text)),
                None => key.map(|key| Text::Own(key.to_key())),
            };
        }
        lent.time = time.unwrap_or(record.timestamp);
        Ok(lent)
    }
}
