//! The rows of a `history` view: of each key its newest events, newest first by event time, then by log order.
//!
//! A row's value is the bytes of its events together and the addresses of their slots; each event is a slot of the row. The fold keeps
//! twice the window, by the clock of the log, so that a reader whose time lies a window behind still finds all it should.

use super::arena::Address;
use super::definition::{Change, Projected};
use super::latest::{VALUE_BYTES_MAX, check_size};
use super::origin::{self, Origin, put_provenance, take_provenance};
use super::slots::{Content, Hash, Slots, number, parts};
use crate::fault::{Fault, Reason};
use crate::json;
use crate::key::Key;
use crate::names::header;
use crate::record::Record;

/// First byte of the header `hw-st`.
const CODEC: u8 = 2;

/// What a history keeps of a key, and up to when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) limit: usize,
    /// Events older than this are not kept.
    pub(super) kept_from: Option<i64>,
}

impl Bounds {
    fn is_past(self, time: i64) -> bool {
        self.kept_from.is_some_and(|kept_from| time < kept_from)
    }
}

/// Memory that is used again from event to event.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) bytes: Vec<u8>,
    events: Vec<Address>,
    value: Vec<u8>,
}

/// Folds an event; whether anything changed: one older than all that are kept is late and dropped.
///
/// # Errors
/// Where the value, or the list of all, would be over 900 KiB; nothing has changed then.
pub(super) fn apply(
    slots: &mut Slots,
    event: &Projected<'_>,
    bounds: Bounds,
    room: &mut Room,
) -> Result<bool, Fault> {
    slots.prepare()?;
    let key = event.key.as_str();
    let hash = slots.hash(key);
    let at = slots.find(hash, key);
    let Change::Put(document) = event.change else {
        let known = take(slots, key, hash, at);
        if known && let Ok(Some(key)) = Key::from_text(key) {
            slots.mark_gone(key);
        }
        return Ok(known);
    };
    let value = document.kept(&mut room.bytes);
    check_size(value.len())?;
    let content = Content {
        value,
        time: event.time,
        origin: event.origin,
        hidden: false,
        more: &[],
    };
    if bounds.limit == 0 || bounds.is_past(event.time) {
        return Ok(false);
    }
    room.events.clear();
    let mut bytes = 0;
    let mut place = 0;
    if let Some(at) = at {
        let row = slots.content(at);
        bytes = sum_of(row.value);
        room.events.extend(parts(row.value));
        // Most events are the newest of their key.
        if event.time < row.time {
            place = room
                .events
                .partition_point(|at| slots.content(*at).time > event.time);
        }
    }
    if place >= bounds.limit {
        return Ok(false);
    }
    let weight = |at: &Address| slots.value(*at).len() + 1;
    let leaving: usize = room.events.iter().skip(bounds.limit - 1).map(weight).sum();
    let sum = bytes + value.len() + 1 - leaving;
    if sum > VALUE_BYTES_MAX {
        return Err(Fault::new(
            Reason::TooLarge,
            format!(
                "the history would have {sum} bytes, the limit is {VALUE_BYTES_MAX}. Keep fewer events (history.limit) or less of each (value)"
            ),
        ));
    }
    let mut free = None;
    for leaving in room
        .events
        .drain((bounds.limit - 1).min(room.events.len())..)
    {
        if let Some(other) = free.replace(leaving) {
            slots.release(other);
        }
    }
    let new = slots.put_part(hash, free, &content);
    room.events.insert(place, new);
    let mut sum = sum;
    while bounds.kept_from.is_some()
        && let Some(oldest) = room.events.last()
        && let Content { value, time, .. } = slots.content(*oldest)
        && bounds.is_past(time)
    {
        sum -= value.len() + 1;
        slots.release(*oldest);
        room.events.pop();
    }
    match at {
        Some(_) => slots.bytes -= bytes,
        None => slots.bytes += key.len(),
    }
    slots.bytes += sum;
    let to = put_row(slots, key, hash, at, sum, room);
    slots.mark(hash, to);
    Ok(true)
}

/// Writes the row of the events in `room`.
fn put_row(
    slots: &mut Slots,
    key: &str,
    hash: Hash,
    at: Option<Address>,
    sum: usize,
    room: &mut Room,
) -> Address {
    room.value.clear();
    // At most 900 KiB.
    room.value.extend_from_slice(&(sum as u32).to_le_bytes());
    for event in &room.events {
        room.value.extend_from_slice(&event.to_le_bytes());
    }
    let (time, origin) = match room.events.first() {
        Some(newest) => {
            let newest = slots.content(*newest);
            (newest.time, newest.origin)
        }
        None => (i64::MIN, Origin::default()),
    };
    let content = Content {
        value: &room.value,
        time,
        origin,
        hidden: false,
        more: &[],
    };
    slots.put(hash, at, key, &content)
}

fn sum_of(value: &[u8]) -> usize {
    number(value) as usize
}

/// Takes a key out, without a trace; whether it was there.
pub(super) fn remove(slots: &mut Slots, key: &str) -> bool {
    let hash = slots.hash(key);
    let at = slots.find(hash, key);
    take(slots, key, hash, at)
}

fn take(slots: &mut Slots, key: &str, hash: Hash, at: Option<Address>) -> bool {
    let Some(at) = at else {
        return false;
    };
    let value = slots.value(at).to_vec();
    for event in parts(&value) {
        slots.release(event);
    }
    slots.bytes -= key.len() + sum_of(&value);
    slots.remove(hash, at);
    true
}

/// The events of a row, newest first.
pub(super) fn events(slots: &Slots, at: Address) -> impl Iterator<Item = Content<'_>> {
    parts(slots.value(at)).map(|event| slots.content(event))
}

/// The value in the state topic, the JSON list of the events, and the header `hw-st`: origin and time of each.
pub(super) fn state(slots: &Slots, at: Address) -> (Vec<u8>, Vec<u8>) {
    let mut list = Vec::with_capacity(sum_of(slots.value(at)) + 2);
    let mut state = vec![CODEC];
    list.push(b'[');
    for event in events(slots, at) {
        if list.len() > 1 {
            list.push(b',');
        }
        list.extend_from_slice(event.value);
        let mut bytes = [0; origin::PROVENANCE_BYTES_MAX];
        let length = put_provenance(&mut bytes, event.origin, event.time);
        state.extend_from_slice(&bytes[..length]);
    }
    list.push(b']');
    (list, state)
}

/// Reads a row back from its record in the state topic.
///
/// # Errors
/// `InvalidInternalRecord`.
pub(super) fn restore(
    slots: &mut Slots,
    key: &str,
    record: &Record<'_>,
    value: &[u8],
    room: &mut Room,
) -> Result<(), Fault> {
    slots.prepare()?;
    let Some([CODEC, state @ ..]) = record.header(header::STATE) else {
        return Err(origin::invalid(header::STATE));
    };
    let items = json::scan::items(value).ok_or_else(|| origin::invalid("value"))?;
    let mut rest = state;
    let mut contents = Vec::with_capacity(items.len());
    for item in items {
        let (origin, time) =
            take_provenance(&mut rest).ok_or_else(|| origin::invalid(header::STATE))?;
        contents.push(Content {
            value: value.get(item).unwrap_or_default(),
            time,
            origin,
            hidden: false,
            more: &[],
        });
    }
    if !rest.is_empty() {
        return Err(origin::invalid(header::STATE));
    }
    remove(slots, key);
    let hash = slots.hash(key);
    room.events.clear();
    let mut sum = 0;
    for content in &contents {
        sum += content.value.len() + 1;
        room.events.push(slots.put_part(hash, None, content));
    }
    slots.bytes += key.len() + sum;
    put_row(slots, key, hash, None, sum, room);
    Ok(())
}

/// Whether two rows hold the same events.
pub(super) fn equal(left: (&Slots, Address), right: (&Slots, Address)) -> bool {
    events(left.0, left.1).eq(events(right.0, right.1))
}
