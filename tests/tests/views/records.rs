//! Records of internal topics, read without the engine; and handed to it.

use crate::naive::{Change, Origin, Raw};
use headwater_engine::names::header;
use headwater_engine::record::Record;
use headwater_engine::view::Mark;
use serde_json::Value;

/// What a mark says.
pub fn mark(raw: &Raw) -> Mark {
    serde_json::from_slice(raw.value.as_deref().unwrap()).unwrap()
}

/// A value's record in an input log or a state topic.
pub fn change(raw: &Raw) -> Result<Change, String> {
    let bad = |what: &str| format!("{what} of {raw:?}");
    let source = raw.header(header::SOURCE).ok_or_else(|| bad("no origin"))?;
    let time = raw
        .header(header::TIME)
        .and_then(|bytes| std::str::from_utf8(bytes).ok()?.parse().ok())
        .ok_or_else(|| bad("no time"))?;
    let value: Option<Value> = raw
        .value
        .as_deref()
        .map(serde_json::from_slice)
        .transpose()
        .map_err(|_| bad("no JSON"))?;
    Ok(Change {
        key: raw.key_text().to_owned(),
        value,
        time,
        origin: decode(source).ok_or_else(|| bad("unreadable origin"))?,
    })
}

/// Three unsigned LEB128 varints.
pub fn decode(bytes: &[u8]) -> Option<Origin> {
    let mut numbers = vec![0u64];
    let mut shift = 0;
    for byte in bytes {
        *numbers.last_mut()? |= u64::from(byte & 127) << shift;
        shift += 7;
        if byte & 128 == 0 {
            numbers.push(0);
            shift = 0;
        }
    }
    match numbers.as_slice() {
        [from, partition, offset, 0] => Some(Origin {
            from: *from as u32,
            partition: *partition as i32,
            offset: *offset as i64,
        }),
        _ => None,
    }
}

pub fn with_record<T>(topic: &str, raw: &Raw, call: impl FnOnce(&Record<'_>) -> T) -> T {
    let headers: Vec<(&str, Option<&[u8]>)> = raw
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_deref()))
        .collect();
    call(&Record {
        topic,
        partition: raw.partition,
        offset: raw.offset,
        timestamp: raw.timestamp,
        key: raw.key.as_deref(),
        value: raw.value.as_deref(),
        headers: &headers,
    })
}
