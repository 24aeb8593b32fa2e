//! The fold alone, without a log: nanoseconds an event, memory, and the way back from a state topic.

use crate::Result;
use crate::data;
use crate::measure::{cpu_of, resident};
use headwater_engine::record::{NewRecord, Record};
use headwater_engine::view::{Definition, Partition};
use std::sync::Arc;
use std::time::Duration;

const TOPIC: &str = "bench.engine";
/// Of every measurement, so that the kernel's clock of 10 ms does for it.
const EVENTS: usize = 2_000_000;

pub fn run() -> Result<()> {
    let latest = data::definition(TOPIC, &data::latest())?;
    println!("latest: nanoseconds of CPU time an event, by number of keys");
    for keys in [1_000, 10_000, 100_000, 1_000_000] {
        let events = Events::new(keys);
        let mut state = Partition::new(Arc::clone(&latest), 0);
        let first = events.fold(&mut state, 0, keys)?;
        let (unchanged, changed) = (
            events.fold(&mut state, 0, keys)?,
            events.fold(&mut state, 1, keys)?,
        );
        println!(
            "{keys:>9} keys: {:>5.0} new, {:>5.0} the same again, {:>5.0} changed",
            nanoseconds(first, keys),
            nanoseconds(unchanged, EVENTS.max(keys)),
            nanoseconds(changed, EVENTS.max(keys)),
        );
    }
    for (name, fold) in [
        ("last 20", data::history()),
        ("aggregate", data::aggregate()),
    ] {
        let definition = data::definition(TOPIC, &fold)?;
        let events = Events::new(100_000);
        let mut state = Partition::new(definition, 0);
        events.fold(&mut state, 0, EVENTS)?;
        let cpu = events.fold(&mut state, 1, EVENTS)?;
        println!("{name}, 100000 keys: {:.0} ns", nanoseconds(cpu, EVENTS));
    }
    memory(&latest)
}

/// Resident memory of a million values, and how fast they come back.
fn memory(definition: &Arc<Definition>) -> Result<()> {
    const KEYS: usize = 1_000_000;
    let events = Events::new(KEYS);
    let before = resident()?;
    let mut state = Partition::new(Arc::clone(definition), 0);
    events.fold(&mut state, 0, KEYS)?;
    let held = resident()?.saturating_sub(before);
    println!(
        "memory of {} keys: {held} B resident, {:.2} of the {} B of keys and values",
        state.keys(),
        held as f64 / state.bytes() as f64,
        state.bytes()
    );
    let records = state.checkpoint();
    drop(state);
    let (restored, cpu) = cpu_of(|| restore(definition, &records))?;
    println!("restore: {:.0} ns a key", nanoseconds(cpu, restored.keys()));
    Ok(())
}

fn restore(definition: &Arc<Definition>, records: &[NewRecord]) -> Result<Partition> {
    let mut state = Partition::new(Arc::clone(definition), 0);
    for (record, offset) in records.iter().zip(0..) {
        record.lend(offset, |record| state.restore(record))?;
    }
    Ok(state)
}

fn nanoseconds(cpu: Duration, events: usize) -> f64 {
    cpu.as_secs_f64() * 1e9 / events as f64
}

/// Events in memory, two of each key, one after the other as the keys come.
struct Events {
    text: Vec<u8>,
    /// Where key and value of each end.
    ends: Vec<(usize, usize)>,
    keys: usize,
}

impl Events {
    fn new(keys: usize) -> Self {
        let mut events = Self {
            text: Vec::new(),
            ends: Vec::new(),
            keys,
        };
        for number in 0..2 * keys {
            // Another step for the second of a key, so that its value is another one.
            let shift = if number < keys { 0 } else { keys * 7 };
            let (key, value) = data::event(number + shift, keys);
            events.text.extend_from_slice(key.as_bytes());
            let end = events.text.len();
            events.text.extend_from_slice(value.as_bytes());
            events.ends.push((end, events.text.len()));
        }
        events
    }

    /// Folds so many events at least, from round `round` on; gives the CPU time.
    fn fold(&self, state: &mut Partition, round: usize, least: usize) -> Result<Duration> {
        let ((), cpu) = cpu_of(|| {
            let mut offset = state.next();
            let rounds = least
                .max(if state.keys() == 0 { 0 } else { EVENTS })
                .div_ceil(self.keys);
            for turn in 0..rounds {
                // Round 0 is the same events again and again; round 1 goes to and fro.
                let first = (turn + round) * round % 2 * self.keys;
                for place in first..first + self.keys {
                    let start = place.checked_sub(1).map_or(0, |before| self.ends[before].1);
                    let (middle, end) = self.ends[place];
                    let folded = state.fold(&Record {
                        topic: TOPIC,
                        partition: 0,
                        offset,
                        timestamp: 1_795_000_000_000 + offset,
                        key: Some(&self.text[start..middle]),
                        value: Some(&self.text[middle..end]),
                        headers: &[],
                    });
                    offset += 1;
                    if let Some(fault) = folded.fault {
                        return Err(fault.into());
                    }
                }
            }
            Ok(())
        })?;
        Ok(cpu)
    }
}
