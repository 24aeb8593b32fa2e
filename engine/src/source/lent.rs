//! An event as its record holds it: nothing is copied, and nothing parsed that no expression reads.
//!
//! For sources of plain JSON without a schema; those of others are decoded as a whole and lent all the same.

use super::{Source, headers_of};
use crate::expr::{Expression, Variable, Variables};
use crate::fault::Fault;
use crate::json::Document;
use crate::json::scan::Scanner;
use crate::key::{Key, Text};
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

impl Lent<'_> {
    /// Partition and offset of the record.
    pub(crate) fn place(&self) -> (i32, i64) {
        (self.record.partition, self.record.offset)
    }

    /// Whether `event` is to be handed over parsed, for expressions that use it other than by its fields.
    pub(crate) fn set_whole(&mut self, whole: bool) {
        self.whole = whole;
    }
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

/// What can be told of a source before its records come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lending {
    /// Whether an event can be read where it stands.
    pub(super) plain: bool,
    /// Whether the source's own expressions use `event` other than by its fields.
    whole: bool,
    /// Whether the record's key is looked at.
    reads_key: bool,
}

impl Lending {
    pub(super) fn of(key: &Option<Expression>, event_time: &Option<Expression>) -> Self {
        let own = || key.iter().chain(event_time);
        Self {
            plain: false,
            whole: own().any(|expression| expression.reads_whole("event")),
            reads_key: key.is_none() || own().any(|expression| expression.reads("key")),
        }
    }
}

impl Source {
    /// Whether another source gives the same events for the same records.
    pub(crate) fn decodes_as(&self, other: &Self) -> bool {
        self.identity == other.identity
    }

    /// Gives the keys of events, one record after the other: for whoever writes records of the source. A fault where
    /// the record is none of the source's.
    pub fn keys(&self) -> impl FnMut(&Record<'_>) -> Result<Option<Key>, Fault> {
        let mut scanner = Scanner::default();
        move |record| {
            Ok(self
                .lend(record, &mut scanner, false)?
                .key
                .map(|key| key.to_key()))
        }
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
        let Some(bytes) = record.value.filter(|_| self.lending.plain) else {
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
        let mut lent = Lent {
            document: Document::read(bytes, scanner)?,
            null: false,
            before: Value::Null,
            key: None,
            time: record.timestamp,
            record: *record,
            headers: OnceLock::new(),
            whole: whole || self.lending.whole,
        };
        if self.lending.reads_key {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::{Names, Wanted};
    use crate::source::Event;
    use proptest::prelude::*;
    use serde_json::json;

    fn source(key: Option<&str>, event_time: Option<&str>, more: &Value) -> Option<Source> {
        let mut config = json!({
            "name": "s", "topic": "t", "format": "Json", "keyFormat": "Text", "schema": null, "key": key,
            "eventTime": event_time, "invalidRecords": "DeadLetter",
        });
        if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
            config.extend(more.clone());
        }
        Source::compile(&serde_json::from_value(config).unwrap()).ok()
    }

    /// Both ways give the same event or the same fault, and expressions see the same in it.
    fn check(source: &Source, record: &Record<'_>) {
        let mut scanner = Scanner::default();
        let lent = source.lend(record, &mut scanner, false);
        let decoded = source.decode(record);
        let (lent, event): (Lent<'_>, Event) = match (lent, decoded) {
            (Ok(lent), Ok(event)) => (lent, event),
            (lent, decoded) => {
                assert_eq!(lent.err(), decoded.err());
                return;
            }
        };
        assert_eq!(lent.key.as_ref().map(Text::to_key), event.key);
        assert_eq!((lent.time, lent.null), (event.time, event.null));
        assert_eq!(lent.before, event.before);
        assert_eq!(lent.document.value(), &event.value);
        let names = Names::new(&["event", "key", "headers", "time"]);
        for text in [
            "[key, headers, time]",
            "event.a",
            "event.?a",
            "has(event.a)",
            "event.a.b",
            "event.?a.b",
            "event.?a.?b.orValue(0)",
            "event.a == 1",
            "event.a != 'x'",
            "event.a + 1",
            "event.a + 'x'",
            "event.b > event.a",
            "event.a in [1, 'x', null, 2.5, [1]]",
            "size(event.a)",
            "event.a[0]",
            "event.a.map(x, x)",
            "{'a': event.a, 'b': event.?b.orValue(null)}",
            "string(event.a)",
            "type(event.a) == int",
        ] {
            let expression = Expression::compile_for(text, &names, Wanted::Anything).unwrap();
            assert!(!expression.reads_whole("event"), "{text}");
            assert_eq!(
                expression.evaluate(&lent),
                expression.evaluate(&event),
                "{text}"
            );
        }
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-c ]{0,3}".prop_map(|text| format!("{text:?}")),
            prop::sample::select(vec![
                "1",
                "-12",
                "0",
                "-0",
                "2.50",
                "1e3",
                "12345678901234567890",
                "true",
                "false",
                "null",
                "\"x\\n\"",
                "\"\\u0041\"",
                "\"é\"",
                "[1,\"x\"]",
                "[]",
                "{\"b\":2}",
                "{ \"b\": [1] }",
                "{}",
                "9000000",
                "1e999",
                "\"",
                "[",
                "tru",
                "\"\\ud800\"",
            ])
            .prop_map(str::to_owned),
        ]
    }

    fn bytes() -> impl Strategy<Value = Option<Vec<u8>>> {
        let fields = prop::collection::vec(("(a|b|c|at|\\\\u0061)", value()), 0..4);
        let object = (fields, any::<bool>()).prop_map(|(fields, timed)| {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("\"{name}\":{value}"))
                // A time that every source can take, another one than the record's.
                .chain(timed.then(|| "\"at\":9000000".to_owned()))
                .collect();
            format!("{{{}}}", fields.join(", ")).into_bytes()
        });
        prop::option::weighted(
            0.95,
            prop_oneof![8 => object, 1 => value().prop_map(String::into_bytes), 1 => Just(b"{\"a\":\"\xff\"}".to_vec())],
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn an_event_is_the_same_lent_and_decoded(
            value in bytes(),
            key in prop::option::of(prop::sample::select(vec![&b"x"[..], b"", b"1", b"\xff", b"\0m"])),
            of_key in prop::option::of(prop::sample::select(vec!["event.a", "key", "[key, event.b]", "event", "event.a + key", "headers.h"])),
            time in prop::option::of(prop::sample::select(vec!["timestampMillis(event.at)", "event.at", "time"])),
            more in prop_oneof![
                6 => Just(json!({})),
                1 => Just(json!({"schema": {"type": "object", "properties": {"a": {"type": "number"}, "b": {}, "at": {}}}})),
                1 => Just(json!({"keyFormat": "Json"})),
                1 => Just(json!({"envelope": "Debezium"})),
            ],
        ) {
            let headers = [("h", Some(b"x".as_slice())), ("none", None)];
            // Some expressions do not go with that schema.
            let source = source(of_key, time, &more);
            prop_assert!(source.is_some() || more.get("schema").is_some());
            if let Some(source) = source {
                check(&source, &Record {
                    topic: "t",
                    partition: 0,
                    offset: 5,
                    timestamp: 10_000_000,
                    key,
                    value: value.as_deref(),
                    headers: &headers,
                });
            }
        }
    }
}
