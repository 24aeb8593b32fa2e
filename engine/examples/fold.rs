//! What folding costs: one thread, a view `latest` with a filter and a key, events of about 220 bytes.
//!
//! Run: `cargo run --release -p headwater-engine --example fold`. It prints nanoseconds for each event of
//! decoding, of filter and key alone, and of the whole fold, and what the fold comes to in events a second.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement prints, reads a clock and may fail by panicking"
)]

use headwater_engine::config;
use headwater_engine::expr::{Expression, Names};
use headwater_engine::json;
use headwater_engine::record::Record;
use headwater_engine::source::Source;
use headwater_engine::view::{Definition, View};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

const EVENTS: u32 = 1_000_000;
const KEYS: u32 = 50_000;

fn main() {
    let events: Vec<Vec<u8>> = (0..EVENTS).map(event).collect();
    let bytes: usize = events.iter().map(Vec::len).sum();
    println!(
        "{EVENTS} events, {} bytes each, {KEYS} keys",
        bytes / EVENTS as usize
    );

    measure("JSON alone", || {
        for event in &events {
            black_box(json::decode(event).unwrap());
        }
    });
    let source_config = source();
    let source = Source::compile(&source_config).unwrap();
    measure("JSON to event (key, headers, time, position)", || {
        for (offset, event) in (0..).zip(&events) {
            black_box(source.decode(&record(offset, event)).unwrap());
        }
    });
    let names = Names::new(&["event", "key", "headers", "time"]);
    let filter = Expression::compile("event.status != 'archived'", &names).unwrap();
    let key = Expression::compile("event.flight_id", &names).unwrap();
    let one = source.decode(&record(0, &events[0])).unwrap();
    measure("filter and key alone", || {
        for _ in 0..EVENTS {
            black_box(filter.truth(black_box(&one)).unwrap());
            black_box(key.key(black_box(&one)).unwrap());
        }
    });
    let view = config::View {
        name: "flights".into(),
        generation: "000000".into(),
        from: vec![config::From {
            name: "s".into(),
            source: "s".into(),
            filter: Some("event.status != 'archived'".into()),
            key: Some("event.flight_id".into()),
            value: None,
            delete: None,
            required: false,
        }],
        fold: config::Fold::Latest {
            merge: config::Merge::Replace,
        },
        indexes: Vec::new(),
        input: config::Input::Source {
            topic: source_config.topic.clone(),
        },
        state_topic: Some("state".into()),
        dead_topic: "dead".into(),
    };
    let sources = BTreeMap::from([("s".to_owned(), source_config)]);
    let definition = Definition::compile(&view, &sources).unwrap();
    let mut view = View::new(definition);
    let nanoseconds = measure("fold: latest, filter, key", || {
        let partition = view.partition_mut(0);
        for (offset, event) in (0..).zip(&events) {
            let folded = partition.fold(&record(offset, event));
            assert_eq!(folded.fault, None);
        }
    });
    println!(
        "{:.0} events folded per CPU-second, {} keys, {} MiB held",
        1e9 / nanoseconds,
        view.keys(),
        view.bytes() >> 20
    );
}

fn measure(what: &str, run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    let nanoseconds = start.elapsed().as_secs_f64() * 1e9 / f64::from(EVENTS);
    println!("{nanoseconds:>8.0} ns an event: {what}");
    nanoseconds
}

fn event(number: u32) -> Vec<u8> {
    // Multiplied by a prime, so that neighbours in the log are not neighbours in the view.
    let flight = number.wrapping_mul(2_654_435_761) % KEYS;
    let status = ["scheduled", "delayed", "boarding", "departed"][number as usize % 4];
    format!(
        r#"{{"flight_id":"HW{flight:06}","status":"{status}","gate":"B{}","from":"SFO","to":"JFK","departs_at":"2026-11-24T10:{:02}:00Z","delay_minutes":{},"aircraft":{{"type":"A321","tail":"N{flight}HW"}},"seats_left":{}}}"#,
        number % 40,
        number % 60,
        number % 90,
        number % 180
    )
    .into_bytes()
}

fn record(offset: i64, value: &[u8]) -> Record<'_> {
    Record {
        topic: "shop.flights",
        partition: 0,
        offset,
        timestamp: 1_795_428_000_000 + offset,
        key: Some(b"k"),
        value: Some(value),
        headers: &[],
    }
}

fn source() -> config::Source {
    config::Source {
        name: "s".into(),
        topic: "shop.flights".into(),
        format: config::Format::Json,
        key_format: config::Format::Text,
        schema: None,
        key: None,
        event_time: None,
        invalid_records: config::InvalidRecords::DeadLetter,
    }
}
