//! Prompts of the flight assistant assembled per second, over the same templates rendered by Jinja2 in Python on the same context.
//!
//! Ours does the whole of it: seven slots looked up in views, both templates, tokens, hash. Python only renders, with the context at hand.

use crate::Result;
use crate::measure::median;
use headwater_engine::agent::{Agent, Assembly, Context, Freshness, Ready, Trigger};
use headwater_engine::config::{self, Input, Role};
use headwater_engine::conversation::Past;
use headwater_engine::lookup::Views;
use headwater_engine::record::NewRecord;
use headwater_engine::template::{Input as TemplateInput, Template};
use headwater_engine::view::{Definition, View, intake::Intake};
use headwater_operator::plan::{self, plan};
use headwater_operator::resources::{Object, Resources};
use headwater_operator::validate::{Settings, validate};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SECONDS: u64 = 5;
const BATCH: u32 = 50;

pub fn run() -> Result<()> {
    let example = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/flight-assistant");
    let stage = stage(&example)?;
    let Role::Agent(agent) = &stage.role else {
        return Err("the example's stage is no agent".into());
    };
    let views = fold_events(&example, &stage)?;
    let compiled = Agent::compile(&stage)?;
    let trigger = question(&example, &stage, &compiled)?;
    let ready = assemble(&compiled, &trigger, &views)?;
    let prompt = ready.prompt.as_ref().ok_or("the example has no prompt")?;

    let whole = micros(|| assemble(&compiled, &trigger, &views).map(drop))?;
    let texts: Vec<String> = agent
        .prompt
        .iter()
        .flat_map(|prompt| [prompt.system.clone(), prompt.user.clone()])
        .flatten()
        .collect();
    let names: Vec<&str> = ready
        .input
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    let templates = texts
        .iter()
        .map(|text| Template::compile("prompt", text, &headwater_engine::expr::Names::new(&names)))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    let rendering = micros(|| {
        let input = TemplateInput::from(&*ready.input);
        for template in &templates {
            template.render_input(&input)?;
        }
        Ok(())
    })?;
    let peer = python(&texts, &ready.input)?;
    let same = peer["texts"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(prompt.messages.iter());
    for (theirs, ours) in same {
        if theirs.as_str().map(str::trim_end) != Some(ours.content.trim_end()) {
            return Err("Jinja2 renders another text; the comparison would mean nothing".into());
        }
    }
    let theirs = peer["microseconds"]
        .as_f64()
        .ok_or("the peer printed no figure")?;
    println!(
        "the flight assistant's prompt: {} tokens, {} messages; medians",
        prompt.tokens,
        prompt.messages.len()
    );
    println!("Jinja2 in Python, rendering only:          {theirs:>8.1} us");
    println!(
        "headwater, rendering only:                 {rendering:>8.1} us   {:>5.1} x as fast",
        theirs / rendering
    );
    println!(
        "headwater, slots, rendering, tokens, hash: {whole:>8.1} us   {:>5.1} x as fast",
        theirs / whole
    );
    Ok(())
}

/// The agent's stage, as `headwater up` would run it.
fn stage(example: &Path) -> Result<config::Stage> {
    let mut resources = Resources::new("default");
    for entry in std::fs::read_dir(example)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for document in std::fs::read_to_string(&path)?.split("\n---\n") {
            let value: Value = serde_yaml::from_str(document)?;
            resources.add(object(value)?);
        }
    }
    let validation = validate(&resources, &Settings::default());
    plan(&validation, &plan::Options::default())
        .stages
        .into_iter()
        .map(|stage| stage.config)
        .find(|stage| matches!(stage.role, Role::Agent(_)))
        .ok_or_else(|| "the example has no agent that works".into())
}

fn object(value: Value) -> Result<Object> {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    Ok(match kind.as_str() {
        "KafkaCluster" => Object::KafkaCluster(Arc::new(serde_json::from_value(value)?)),
        "Model" => Object::Model(Arc::new(serde_json::from_value(value)?)),
        "EventSource" => Object::EventSource(Arc::new(serde_json::from_value(value)?)),
        "ContextView" => Object::ContextView(Arc::new(serde_json::from_value(value)?)),
        "ToolServer" => Object::ToolServer(Arc::new(serde_json::from_value(value)?)),
        "Agent" => Object::Agent(Arc::new(serde_json::from_value(value)?)),
        other => return Err(format!("kind '{other}'").into()),
    })
}

struct Folded(BTreeMap<String, View>);

impl Views for Folded {
    fn read(&self, name: &str, f: &mut dyn FnMut(&View)) {
        if let Some(view) = self.0.get(name) {
            f(view);
        }
    }
}

fn fold_events(example: &Path, stage: &config::Stage) -> Result<Folded> {
    let mut views = BTreeMap::new();
    for (name, config) in &stage.views {
        let definition = Definition::compile(config, &stage.sources)?;
        let mut records = Vec::new();
        for from in &config.from {
            let source = stage
                .sources
                .get(&from.source)
                .ok_or("a source is missing")?;
            records.extend(events(example, &from.source, &source.topic)?);
        }
        records.sort_by_key(|record| record.timestamp);
        if matches!(config.input, Input::Own { .. }) {
            let mut intake = Intake::new(Arc::clone(&definition), 1).ok_or("no intake")?;
            for (record, offset) in records.iter().zip(0..) {
                record.lend(offset, |record| intake.take(record));
            }
            records = intake.drain(&|_, _| false);
        }
        let mut view = View::new(definition);
        for (record, offset) in records.iter().zip(0..) {
            if let Some(fault) = record
                .lend(offset, |record| view.partition_mut(0).fold(record))
                .fault
            {
                return Err(fault.into());
            }
        }
        views.insert(name.clone(), view);
    }
    Ok(Folded(views))
}

fn events(example: &Path, source: &str, topic: &str) -> Result<Vec<NewRecord>> {
    let text = std::fs::read_to_string(example.join("events").join(format!("{source}.ndjson")))?;
    text.lines()
        .zip(0..)
        .map(|(line, place)| {
            let event: Value = serde_json::from_str(line)?;
            Ok(NewRecord {
                topic: topic.to_owned(),
                partition: Some(0),
                key: event["key"].as_str().map(|key| key.as_bytes().to_vec()),
                value: Some(event["value"].to_string().into_bytes()),
                headers: Vec::new(),
                timestamp: event["timestamp"]
                    .as_str()
                    .and_then(headwater_engine::time::parse_rfc3339)
                    .or(Some(place)),
            })
        })
        .collect()
}

/// The last question of the example: its prompt is the longest.
fn question(example: &Path, stage: &config::Stage, agent: &Agent) -> Result<Trigger> {
    let Role::Agent(config) = &stage.role else {
        return Err("the stage is no agent".into());
    };
    let source = config
        .trigger
        .from
        .source()
        .ok_or("the agent is not triggered by a source")?;
    let topic = &stage
        .sources
        .get(source)
        .ok_or("the trigger's source is missing")?
        .topic;
    let record = events(example, source, topic)?
        .pop()
        .ok_or("the example asks nothing")?;
    record
        .lend(0, |record| agent.trigger(record))?
        .ok_or_else(|| "the question is filtered out".into())
}

fn assemble(agent: &Agent, trigger: &Trigger, views: &Folded) -> Result<Ready> {
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

/// Median over batches, microseconds for one call.
fn micros(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut batches = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(SECONDS);
    while Instant::now() < deadline {
        let started = Instant::now();
        for _ in 0..BATCH {
            call()?;
        }
        batches.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(BATCH));
    }
    Ok(median(batches))
}

fn python(templates: &[String], input: &Value) -> Result<Value> {
    let interpreter = std::env::var("HEADWATER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut child = Command::new(&interpreter)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/assemble.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("'{interpreter}' does not start: {error}"))?;
    let job = json!({"templates": templates, "input": input, "seconds": SECONDS});
    child
        .stdin
        .take()
        .ok_or("no standard input")?
        .write_all(job.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err(
            "the Python peer failed; does it have jinja2? python3 -m pip install jinja2".into(),
        );
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
