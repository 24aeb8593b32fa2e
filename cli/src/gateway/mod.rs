//! Events and questions from outside, put on the log as their sources want them, and the answers.
//!
//! The same for a running `up`, where it stands behind the control endpoint, and for a Kafka that is
//! talked to directly: it needs the log and the resources, never a stage in this process.

mod approvals;
mod encode;
mod letters;
mod resume;
mod runs;
mod snapshot;
mod views;
mod waiting;

use crate::control::{Answer, Ask, Send, Sent};
use crate::error::Error;
use crate::pipeline::Pipeline;
use encode::{borrowed, compose, key_bytes, parse, record};
use headwater_engine::agent::Agent;
use headwater_engine::config::{self, Stage};
use headwater_engine::problem::did_you_mean;
use headwater_engine::record::{NewRecord, Position};
use headwater_runtime::log::{Log, Offsets, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use waiting::Waiting;

/// The shortest beginning of an id that is looked for.
const PREFIX_MIN: usize = 6;

/// What there is to talk to.
#[derive(Default)]
pub(crate) struct Directory {
    /// By namespace and name.
    pub(crate) sources: BTreeMap<(String, String), config::Source>,
    pub(crate) agents: BTreeMap<(String, String), Stage>,
    pub(crate) views: BTreeMap<(String, String), Stage>,
    /// Sources whose events have to have a key: views fold them by it.
    pub(crate) keyed: BTreeSet<(String, String)>,
    /// Of a source, the others that some view is folded from together with it.
    pub(crate) siblings: BTreeMap<(String, String), BTreeSet<String>>,
}

pub(crate) struct Gateway {
    log: Arc<dyn Log>,
    writer: Mutex<Box<dyn Writer>>,
    offsets: Arc<dyn Offsets>,
    directory: Directory,
    /// Stages in this process.
    stages: Option<Arc<Pipeline>>,
}

impl Gateway {
    pub(crate) fn new(
        log: Arc<dyn Log>,
        offsets: Arc<dyn Offsets>,
        directory: Directory,
    ) -> Result<Self, Error> {
        let writer = Mutex::new(log.writer()?);
        Ok(Self {
            log,
            writer,
            offsets,
            directory,
            stages: None,
        })
    }

    /// Stages that run in this process are asked for what only they know.
    pub(crate) fn with_stages(mut self, stages: Arc<Pipeline>) -> Self {
        self.stages = Some(stages);
        self
    }

    /// Puts an event on the log, if its source's schema and formats take it.
    ///
    /// # Errors
    /// [`Error::Refused`] for what the source does not take; the log's errors.
    pub(crate) fn send(&self, event: &Send) -> Result<Sent, Error> {
        let (id, source) = find(
            "source",
            &self.directory.sources,
            event.namespace.as_deref(),
            &event.source,
        )?;
        let value = event
            .body
            .as_ref()
            .map(|body| parse(source, body))
            .transpose()?;
        let mut record = record(source, value.as_ref(), event.key.as_deref())?;
        record.headers = event
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), Some(value.clone().into_bytes())))
            .collect();
        record.timestamp = event.timestamp;
        if record.key.is_none() && (value.is_none() || self.directory.keyed.contains(id)) {
            return Err(Error::refused(format!(
                "an event of source '{}' needs a key, as views keep it by key; give one with --key",
                source.name
            )));
        }
        let position = self.write(&record)?;
        Ok(Sent {
            position: position.to_string(),
            key: record
                .key
                .map(|key| String::from_utf8_lossy(&key).into_owned()),
        })
    }

    /// Puts an event on the log that starts a run of the agent, and waits for the run to end.
    ///
    /// # Errors
    /// As [`Gateway::send`]; [`Error::Failed`] if the run did not end in time.
    pub(crate) fn ask(&self, ask: &Ask) -> Result<Answer, Error> {
        let (stage, agent) = self.agent(ask.namespace.as_deref(), &ask.agent)?;
        let source = stage
            .sources
            .get(agent.trigger.from.source().unwrap_or_default())
            .ok_or_else(|| {
                let view = agent.trigger.from.view().unwrap_or_default();
                Error::refused(format!(
                    "agent '{}' is triggered by changes of view '{view}': send an event to a source of that view with `send`, and see the run with `prompts {}`",
                    agent.name, agent.name
                ))
            })?;
        let value = compose(source, ask)?;
        let mut record = record(source, Some(&value), ask.key.as_deref())?;
        if record.key.is_none() {
            record.key = Some(key_bytes(source, &ask.fallback_key));
        }
        let runs_it = starts_run(stage, &record)?;
        let deadline = Instant::now() + Duration::from_secs(ask.timeout_seconds);
        let mut waiting = Waiting::begin(&*self.log, agent)?;
        let position = self.write(&record)?;
        if !runs_it {
            return Ok(Answer {
                position: position.to_string(),
                run: None,
                outcome: "Filtered".to_owned(),
                message: Some(format!(
                    "the trigger's filter of agent '{}' leaves this event out",
                    agent.name
                )),
                outputs: Vec::new(),
            });
        }
        let run = waiting.run(&position, deadline)?.ok_or_else(|| {
            Error::failed(format!(
                "agent '{}' did not end its run for {position} in {} s; is it running, and is its model?",
                agent.name, ask.timeout_seconds
            ))
        })?;
        let outputs = waiting.outputs(&*self.log, agent, &position, deadline)?;
        Ok(Answer {
            position: position.to_string(),
            outcome: format!("{:?}", run.outcome),
            message: run
                .failure
                .map(|failure| format!("{}: {}", failure.reason, failure.message)),
            run: Some(run.run),
            outputs,
        })
    }

    fn write(&self, record: &NewRecord) -> Result<Position, Error> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = writer.write(std::slice::from_ref(record))?;
        let (partition, offset) = written
            .into_iter()
            .next()
            .ok_or_else(|| Error::internal("the log gave no position"))?;
        Ok(Position {
            topic: partition.topic,
            partition: partition.partition,
            offset,
        })
    }
}

/// The one of this name, in the namespace if one is given.
fn find<'a, T>(
    what: &str,
    all: &'a BTreeMap<(String, String), T>,
    namespace: Option<&str>,
    name: &str,
) -> Result<(&'a (String, String), &'a T), Error> {
    let mut found = all.iter().filter(|((other, own), _)| {
        own == name && namespace.is_none_or(|namespace| namespace == other)
    });
    let first = found.next();
    match (first, found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Error::refused(format!(
            "there is a {what} '{name}' in several namespaces; say which with --namespace"
        ))),
        _ => {
            let names: BTreeSet<&str> = all.keys().map(|(_, name)| name.as_str()).collect();
            let hint = match did_you_mean(name, names.iter().copied()) {
                Some(near) => format!("did you mean '{near}'?"),
                None if names.is_empty() => "there is none".to_owned(),
                None => format!(
                    "there are: {}",
                    names.into_iter().collect::<Vec<_>>().join(", ")
                ),
            };
            Err(Error::refused(format!(
                "there is no {what} '{name}'; {hint}"
            )))
        }
    }
}

fn missing(topic: &str) -> Error {
    Error::failed(format!(
        "topic '{topic}' does not exist; is the pipeline applied to this Kafka?"
    ))
}

pub(crate) fn now_ms() -> i64 {
    use headwater_runtime::clock::{Clock, System};
    System.now_ms()
}

fn starts_run(stage: &Stage, record: &NewRecord) -> Result<bool, Error> {
    let agent = Agent::compile(stage).map_err(|error| Error::refused(error.to_string()))?;
    agent.triggers(&borrowed(record)).map_err(|fault| {
        Error::refused(format!(
            "the event cannot start a run: {}: {}",
            fault.reason, fault.message
        ))
    })
}
