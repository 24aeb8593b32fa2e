//! Prompts of the travel desk, each for another customer: slots looked up in three views, templates rendered, tokens counted, hash taken.
//!
//! Beside it, in the same run: the same templates on the same context rendered by Jinja2 and by LangChain in Python, and one fetch
//! of the same rows from Redis. Flights go on changing meanwhile, as they do.

mod redis;

use crate::Result;
use crate::measure::{self, Spread, spread};
use crate::travel::{self, ALTERNATIVES, FLIGHTS, Topics, data};
use headwater_engine::agent::{Agent, Assembly, Context, Freshness, Ready, Trigger};
use headwater_engine::conversation::Past;
use headwater_engine::lookup::Views;
use headwater_engine::record::NewRecord;
use headwater_engine::tokens;
use headwater_engine::view::{Definition, View};
use redis::Redis;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SECONDS: u64 = 5;
/// Questions that are asked in turn.
const QUESTIONS: usize = 2_000;
/// Assemblies between two changes of a flight: 5,000 a second and 100 changes a second would be 50.
const BETWEEN_CHANGES: usize = 50;
const WARM: usize = 2 * QUESTIONS;

pub fn run() -> Result<()> {
    let topics = Topics::in_memory();
    let stage = travel::stage("bench", "", &topics, false, ALTERNATIVES)?;
    let agent = Agent::compile(&stage)?;
    let mut views = Desk::fold(&stage, &topics)?;
    let triggers: Vec<Trigger> = (0..QUESTIONS)
        .map(|number| trigger(&agent, &topics, number))
        .collect::<Result<_>>()?;
    tokens::prepare();
    let ready = assemble(&agent, &triggers[0], &views)?;
    let prompt = ready.prompt.as_ref().ok_or("the agent makes no prompt")?;
    let bytes: usize = prompt
        .messages
        .iter()
        .map(|message| message.content.len())
        .sum();
    let rows: usize = ready.slots.iter().map(|slot| slot.rows.len()).sum();
    println!(
        "a prompt of {bytes} bytes, {} tokens, {rows} rows from 3 views; each for another customer, while flights change; load {}",
        prompt.tokens,
        measure::load()
    );
    let ours = ours(&agent, &triggers, &mut views)?;
    line("headwater: slots, rendering, tokens, hash", &ours, None);
    let parts = parts(&agent, &triggers, &views)?;
    line("  of it: counting the tokens again", &parts, None);
    match fetches(&ready, &views) {
        Ok(fetch) => line("one fetch of the same rows from Redis", &fetch, Some(&ours)),
        Err(error) => println!("left out: Redis ({error})"),
    }
    let peer = python(&ready.input)?;
    for (name, label) in [
        ("jinja2", "Jinja2, rendering only, context at hand"),
        ("langchain", "LangChain, rendering only, context at hand"),
    ] {
        let peer = &peer[name];
        if let Some(why) = peer["left_out"].as_str() {
            println!("left out: {name} ({why})");
            continue;
        }
        same(
            peer,
            prompt
                .messages
                .iter()
                .map(|message| message.content.as_str()),
            name,
        )?;
        let figure = |field: &str| {
            peer[field]
                .as_f64()
                .ok_or_else(|| format!("{name} printed no {field}"))
        };
        let theirs = Spread {
            p50: figure("p50")?,
            p99: figure("p99")?,
        };
        line(label, &theirs, Some(&ours));
    }
    Ok(())
}

fn line(label: &str, figures: &Spread, ours: Option<&Spread>) {
    let ratio = ours.map_or_else(String::new, |ours| {
        format!("   ours is {:.3} of it", ours.p50 / figures.p50)
    });
    println!(
        "{label:<46} p50 {:>8.1} us   p99 {:>8.1} us{ratio}",
        figures.p50, figures.p99
    );
}

fn ours(agent: &Agent, triggers: &[Trigger], views: &mut Desk) -> Result<Spread> {
    let mut micros = Vec::new();
    let mut number = 0;
    let mut assembled = |views: &mut Desk| -> Result<f64> {
        let started = Instant::now();
        let ready = assemble(agent, &triggers[number % triggers.len()], views)?;
        let took = started.elapsed();
        drop(ready);
        number += 1;
        if number % BETWEEN_CHANGES == 0 {
            let change = number / BETWEEN_CHANGES;
            views.change(data::flight(change * 17 % FLIGHTS, change))?;
        }
        Ok(took.as_secs_f64() * 1e6)
    };
    for _ in 0..WARM {
        assembled(views)?;
    }
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    while Instant::now() < deadline {
        micros.push(assembled(views)?);
    }
    Ok(spread(micros))
}

/// What counting takes when a prompt is counted as a whole.
fn parts(agent: &Agent, triggers: &[Trigger], views: &Desk) -> Result<Spread> {
    let mut micros = Vec::new();
    for trigger in triggers {
        let ready = assemble(agent, trigger, views)?;
        let Some(prompt) = ready.prompt else { continue };
        let started = Instant::now();
        let counted: usize = prompt
            .messages
            .iter()
            .map(|message| tokens::count(&message.content))
            .sum();
        micros.push(started.elapsed().as_secs_f64() * 1e6);
        std::hint::black_box(counted);
    }
    Ok(spread(micros))
}

/// One request for the rows of a prompt, their values as they are kept.
fn fetches(ready: &Ready, views: &Desk) -> Result<Spread> {
    let mut redis = Redis::start()?;
    let mut keys = Vec::new();
    for slot in &ready.slots {
        for row in &slot.rows {
            let view = views.views.get(&slot.view).ok_or("a slot of no view")?;
            let key = format!("{}:{}", slot.view, row.key);
            let found = headwater_engine::key::Key::from_text(&row.key)?
                .and_then(|key| view.get(&key, i64::MAX));
            redis.set(&key, &found.ok_or("a row is not there")?.value.to_string())?;
            keys.push(key);
        }
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut micros = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    while Instant::now() < deadline {
        let started = Instant::now();
        std::hint::black_box(redis.fetch(&keys)?);
        micros.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(spread(micros))
}

/// The desk's views, folded in memory.
struct Desk {
    views: BTreeMap<String, View>,
    flights: String,
    next: i64,
}

impl Views for Desk {
    fn read(&self, name: &str, f: &mut dyn FnMut(&View)) {
        if let Some(view) = self.views.get(name) {
            f(view);
        }
    }
}

impl Desk {
    fn fold(stage: &headwater_engine::config::Stage, topics: &Topics) -> Result<Self> {
        let mut desk = Self {
            views: BTreeMap::new(),
            flights: topics.flights.clone(),
            next: 0,
        };
        for (name, view) in &stage.views {
            let definition = Definition::compile(view, &stage.sources)?;
            desk.views.insert(name.clone(), View::new(definition));
        }
        for (event, offset) in data::customers().zip(0..) {
            desk.take("customers", &topics.customers, event, offset)?;
        }
        for (event, offset) in data::bookings().zip(0..) {
            desk.take("bookings", &topics.bookings, event, offset)?;
        }
        for event in data::flights() {
            desk.change(event)?;
        }
        Ok(desk)
    }

    fn change(&mut self, flight: (String, String)) -> Result<()> {
        self.next += 1;
        let topic = self.flights.clone();
        self.take("flights", &topic, flight, self.next)
    }

    fn take(
        &mut self,
        view: &str,
        topic: &str,
        event: (String, String),
        offset: i64,
    ) -> Result<()> {
        let view = self.views.get_mut(view).ok_or("no such view")?;
        let folded = record(topic, event).lend(offset, |record| view.partition_mut(0).fold(record));
        folded.fault.map_or(Ok(()), |fault| Err(fault.into()))
    }
}

fn record(topic: &str, (key, value): (String, String)) -> NewRecord {
    NewRecord {
        topic: topic.to_owned(),
        partition: Some(0),
        key: Some(key.into_bytes()),
        value: Some(value.into_bytes()),
        headers: Vec::new(),
        timestamp: Some(1_764_000_000_000),
    }
}

fn trigger(agent: &Agent, topics: &Topics, number: usize) -> Result<Trigger> {
    let offset = i64::try_from(number)?;
    record(&topics.questions, data::question(number))
        .lend(offset, |record| agent.trigger(record))?
        .ok_or_else(|| "the question is filtered out".into())
}

fn assemble(agent: &Agent, trigger: &Trigger, views: &Desk) -> Result<Ready> {
    let context = Context {
        views,
        conversation: &Past::default(),
        freshness: &Freshness::default(),
        assembled_at: trigger.time,
        attempt: 1,
    };
    match agent.assemble(trigger, &context)? {
        Assembly::Ready(ready) => Ok(ready),
        Assembly::Skipped(_) => Err("the run is skipped".into()),
    }
}

fn python(input: &Value) -> Result<Value> {
    let interpreter = std::env::var("HEADWATER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut child = Command::new(&interpreter)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/assemble.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("'{interpreter}' does not start: {error}"))?;
    let job =
        json!({"templates": [travel::SYSTEM, travel::USER], "input": input, "seconds": SECONDS});
    child
        .stdin
        .take()
        .ok_or("no standard input")?
        .write_all(job.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err("the Python peer failed".into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Whether a peer rendered the same: else the comparison would mean nothing.
fn same<'a>(peer: &Value, ours: impl Iterator<Item = &'a str>, name: &str) -> Result<()> {
    let theirs = peer["texts"].as_array().into_iter().flatten();
    for (theirs, ours) in theirs.zip(ours) {
        if theirs.as_str().map(str::trim_end) != Some(ours.trim_end()) {
            return Err(
                format!("{name} renders another text; the comparison would mean nothing").into(),
            );
        }
    }
    Ok(())
}
