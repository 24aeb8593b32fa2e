//! Random records: late, deleted, repeated, re-keyed, broken.

use headwater_engine::record::NewRecord;
use headwater_runtime::backoff::Random;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Where event times begin: long ago, so that no broker's clock matters.
pub const BEGIN_MS: i64 = 1_750_000_000_000;
/// Event times are multiples of it, so that they often meet.
const STEP_MS: i64 = 1_000;
const HOUR_MS: i64 = 3_600_000;

/// Draws from a seed.
pub struct Draw(Random);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(Random::seeded(seed))
    }

    pub fn below(&self, end: usize) -> usize {
        (self.0.next() % end as u64) as usize
    }

    pub fn percent(&self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub fn one_of<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub fn maybe<T: Copy>(&self, chance: usize, all: &[T]) -> Option<T> {
        self.percent(chance).then(|| *self.one_of(all))
    }

    pub fn between(&self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as usize) as i64
    }
}

/// Records of one topic, in the order in which they are written.
pub fn records(draw: &Draw, topic: &str, count: usize, keys: usize) -> Vec<NewRecord> {
    let mut last: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    (0..count)
        .map(|place| {
            let now = BEGIN_MS + place as i64 / 3 * STEP_MS;
            let late = if draw.percent(20) {
                draw.between(0, 7_200)
            } else {
                0
            };
            let timestamp = now - late * STEP_MS;
            let key = key(draw, keys);
            let value = value(
                draw,
                keys,
                timestamp,
                key.as_ref().and_then(|it| last.get(it)),
            );
            if let (Some(key), Some(value)) = (&key, &value) {
                last.insert(key.clone(), value.clone());
            }
            NewRecord {
                topic: topic.to_owned(),
                key,
                value,
                timestamp: Some(timestamp),
                ..NewRecord::default()
            }
        })
        .collect()
}

fn key(draw: &Draw, keys: usize) -> Option<Vec<u8>> {
    match draw.below(200) {
        0 => None,
        1 => Some(Vec::new()),
        2 => Some(vec![0xff, 0xfe]),
        3 => Some(b"\0reserved".to_vec()),
        _ => Some(format!("k{}", draw.below(keys)).into_bytes()),
    }
}

fn value(draw: &Draw, keys: usize, timestamp: i64, last: Option<&Vec<u8>>) -> Option<Vec<u8>> {
    match draw.below(100) {
        0..7 => None,
        7..10 => Some(
            draw.one_of(&[
                b"{".as_slice(),
                b"",
                b"NaN",
                b"\xff",
                b"{\"n\":1}}",
                b"[1,]",
            ])
            .to_vec(),
        ),
        10..12 => Some(
            draw.one_of(&["5", "\"text\"", "null", "[1,2]", "true"])
                .as_bytes()
                .to_vec(),
        ),
        12..25 if last.is_some() => last.cloned(),
        _ => Some(serde_json::to_vec(&object(draw, keys, timestamp)).unwrap()),
    }
}

fn object(draw: &Draw, keys: usize, timestamp: i64) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        if !draw.percent(4) {
            fields.insert(name.to_owned(), value);
        }
    };
    put(
        "id",
        match draw.below(40) {
            0 => Value::Null,
            1 => json!(""),
            2 => json!({"no": "key"}),
            3 => json!(1.5),
            4..10 => json!(draw.below(9)),
            10..14 => json!(draw.below(9).to_string()),
            14 => json!(true),
            _ => json!(format!("k{}", draw.below(keys))),
        },
    );
    put(
        "n",
        match draw.below(30) {
            0 => json!(2.5),
            1 => json!("7"),
            2 => Value::Null,
            3 => json!(i64::MIN),
            _ => json!(draw.between(-5, 12)),
        },
    );
    put(
        "x",
        match draw.below(20) {
            0 => json!("much"),
            1..5 => json!(draw.between(0, 3)),
            _ => json!(draw.below(40) as f64 / 8.0),
        },
    );
    put("s", json!(*draw.one_of(&["a", "b", "c", "ü\n\"\\", ""])));
    put("op", json!(*draw.one_of(&["u", "u", "u", "d"])));
    put(
        "tag",
        match draw.below(30) {
            0 => Value::Null,
            1 => json!({"no": "key"}),
            2..8 => json!(draw.below(5)),
            _ => json!(format!("t{}", draw.below(5))),
        },
    );
    put(
        "tags",
        match draw.below(30) {
            0 => json!("no list"),
            1 => json!([]),
            2 => json!([["no key"], "a"]),
            3 => json!([null, "", "t1"]),
            _ => json!(
                (0..draw.below(4))
                    .map(|_| format!("t{}", draw.below(6)))
                    .collect::<Vec<_>>()
            ),
        },
    );
    put(
        "t",
        match draw.below(50) {
            0 => json!("soon"),
            1 => json!(timestamp + 2 * HOUR_MS),
            2..10 => json!(timestamp - draw.between(0, 3_600) * STEP_MS),
            _ => json!(timestamp + draw.between(-5, 5) * STEP_MS),
        },
    );
    Value::Object(fields)
}
