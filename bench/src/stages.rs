//! Stages as pods run them, on the benchmark's broker: a view's own, and an agent that reads the view.

use crate::Result;
use crate::bed::Bed;
use crate::data;
use headwater_engine::config::{self, Stage};
use headwater_runtime::log::Log;
use headwater_runtime::stage::{self, Handle, Phase, Services};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_millis(1);

/// Topics of one view and of an agent that reads it.
pub struct Place {
    pub source: String,
    /// The view's own input log, if it has one.
    pub own: Option<String>,
    pub state: String,
    /// What the agent is triggered by: nothing comes.
    trigger: String,
    journal: String,
    runs: String,
    dead: String,
}

impl Place {
    /// `name` tells the places of one run apart.
    pub fn new(
        bed: &mut Bed,
        name: &str,
        source: &str,
        partitions: i32,
        own: bool,
    ) -> Result<Self> {
        let mut topic = |part: &str, partitions, config: &[(&str, &str)]| {
            bed.topic(&format!("{name}.{part}"), partitions, config)
        };
        let compacted = [("cleanup.policy", "compact")];
        Ok(Self {
            source: source.to_owned(),
            own: own.then(|| topic("in", partitions, &[])).transpose()?,
            state: topic("state", partitions, &compacted)?,
            trigger: topic("trigger", 1, &[])?,
            journal: topic("journal", 1, &compacted)?,
            runs: topic("runs", 1, &[])?,
            dead: topic("dead", 1, &[])?,
        })
    }

    fn stage(&self, bed: &Bed, role: Value) -> Result<Stage> {
        let mut view = data::view("flights", &self.source, &self.state, &data::latest())?;
        view.dead_topic.clone_from(&self.dead);
        if let Some(topic) = &self.own {
            view.input = config::Input::Own {
                topic: topic.clone(),
            };
        }
        let asked: config::Source = serde_json::from_value(json!({
            "name": "asked", "topic": self.trigger, "format": "Json", "keyFormat": "Text", "schema": null,
            "key": null, "eventTime": null, "invalidRecords": "DeadLetter",
        }))?;
        Ok(Stage {
            // Group and transactional ids are made from it: no run meets another's.
            namespace: self.state.clone(),
            kafka: config::Kafka {
                bootstrap_servers: vec![bed.bootstrap.clone()],
                ..config::Kafka::default()
            },
            sources: [
                ("flights".to_owned(), data::source(&self.source)?),
                ("asked".to_owned(), asked),
            ]
            .into(),
            views: [("flights".to_owned(), view)].into(),
            role: serde_json::from_value(role)?,
        })
    }

    /// The view's stage: writes the own input log, folds, checkpoints.
    pub fn start_view(&self, bed: &Bed, services: &Services) -> Result<Handle> {
        let stage = self.stage(bed, json!({"view": {"name": "flights"}}))?;
        Ok(stage::start(stage, 0, services.clone())?)
    }

    /// An agent's: holds the view, as every reader does.
    pub fn start_agent(&self, bed: &Bed, services: &Services) -> Result<Handle> {
        let stage = self.stage(
            bed,
            json!({"agent": {
                "name": "reader",
                "trigger": {"from": {"source": "asked"}, "startFrom": "Latest", "deletes": "Ignore", "filter": null, "key": null},
                "slots": [{
                    "name": "flight", "required": false, "budgetTokens": null, "priority": 0,
                    "maxStalenessMs": null, "onStale": "Mark",
                    "lookup": {
                        "view": "flights", "by": {"key": "event.flight_id"}, "index": null, "where": null,
                        "orderBy": null, "order": "Ascending", "limit": 20,
                    },
                }],
                "freshnessWaitMs": 250, "when": null, "conversation": null, "prompt": {}, "model": null,
                "outputs": [],
                "delivery": {"maxAttempts": 1, "attemptTimeoutMs": 1000, "maxHops": 16, "onFailure": "DeadLetter"},
                "audit": "Full", "concurrency": 1,
                "topics": {"conversation": null, "journal": self.journal, "runs": self.runs, "dead": self.dead},
            }}),
        )?;
        Ok(stage::start(stage, 0, services.clone())?)
    }
}

pub fn services(bed: &Bed) -> Services {
    Services::new(Arc::clone(&bed.kafka) as Arc<dyn Log>)
}

/// Waits until it is so.
pub fn until(handle: &Handle, what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        let status = handle.status();
        if matches!(status.phase, Phase::Failed | Phase::Stopped) || Instant::now() > deadline {
            return Err(format!("{what}: {status:?}").into());
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// Whether the agent's views hold all that was there when it began.
pub fn views_are_there(handle: &Handle) -> bool {
    handle
        .status()
        .parts
        .get("views")
        .is_some_and(|part| part.caught_up)
}
