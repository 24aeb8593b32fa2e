//! Stages in this process, on one log: their topics, their start, whether they are ready or idle, and
//! their end.

use crate::error::Error;
use headwater_crds::event_source::Management;
use headwater_engine::config::{Kafka, Model, Provider, Role};
use headwater_operator::plan::{Plan, Topic};
use headwater_runtime::log::{Log, TopicSpec};
use headwater_runtime::stage::{self, Handle, Phase, Services};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Between two questions whether something is so.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const LOOK_AGAIN_ON_KAFKA: Duration = Duration::from_millis(20);

/// Where the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    /// `host:port`, several separated by commas.
    Kafka(String),
}

/// Points every stage at the log that it runs on here.
pub(crate) fn relocate(plans: &mut [Plan], place: &Place) {
    for stage in plans.iter_mut().flat_map(|plan| &mut plan.stages) {
        stage.config.kafka = match place {
            Place::Memory => Kafka::default(),
            Place::Kafka(servers) => Kafka {
                bootstrap_servers: servers
                    .split(',')
                    .map(|server| server.trim().to_owned())
                    .collect(),
                ..stage.config.kafka.clone()
            },
        };
    }
}

/// Has a model answered by an OpenAI-compatible server instead. A `#name` at the end of the URL is
/// what the server calls the model.
///
/// # Errors
/// If no agent uses a model of this name.
pub(crate) fn replace_model(
    plans: &mut [Plan],
    name: &str,
    url: &str,
    key_file: Option<&str>,
) -> Result<(), Error> {
    let (url, model_name) = url.split_once('#').unwrap_or((url, ""));
    let mut known = BTreeSet::new();
    let mut replaced = false;
    for stage in plans.iter_mut().flat_map(|plan| &mut plan.stages) {
        let Role::Agent(agent) = &mut stage.config.role else {
            continue;
        };
        let Some(model) = &mut agent.model else {
            continue;
        };
        known.insert(model.name.clone());
        if model.name == name {
            point(model, url, model_name, key_file);
            replaced = true;
        }
    }
    if replaced {
        return Ok(());
    }
    let known: Vec<String> = known.into_iter().collect();
    Err(Error::usage(format!(
        "--model: no agent uses a model '{name}'; used: {}",
        known.join(", ")
    )))
}

fn point(model: &mut Model, url: &str, name: &str, key_file: Option<&str>) {
    if !name.is_empty() {
        model.model = name.to_owned();
    }
    let (own_key, headers, query) = match std::mem::replace(
        &mut model.provider,
        Provider::Scripted { rules: Vec::new() },
    ) {
        Provider::OpenAi {
            api_key_file,
            headers,
            query,
            ..
        } => (api_key_file, headers, query),
        Provider::Scripted { .. } => (None, Vec::new(), BTreeMap::new()),
    };
    model.provider = Provider::OpenAi {
        base_url: url.to_owned(),
        api_key_file: key_file.map(str::to_owned).or(own_key),
        headers,
        query,
    };
}

/// Makes the topics of the plans that are not there.
///
/// On Kafka, sources' topics that are made here keep everything and take any timestamp: what is fed may
/// be a recording of long ago.
pub(crate) fn create_topics(
    log: &dyn Log,
    plans: &[Plan],
    place: &Place,
) -> Result<Vec<String>, Error> {
    let topics: Vec<&Topic> = plans.iter().flat_map(|plan| &plan.topics).collect();
    let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
    let mut partitions: BTreeMap<String, u32> = BTreeMap::new();
    for (name, info) in names.iter().zip(log.topics(&names)?) {
        if let Some(count) = info.and_then(|info| u32::try_from(info.partitions).ok()) {
            partitions.insert(name.clone(), count);
        }
    }
    let mut missing = Vec::new();
    for topic in &topics {
        if partitions.contains_key(&topic.name) {
            continue;
        }
        if topic.management == Management::Observe && *place != Place::Memory {
            return Err(Error::refused(format!(
                "topic '{}' of {} is observed, so it is not made here, and this Kafka does not have it",
                topic.name, topic.owner
            )));
        }
        let count = topic
            .partitions
            .resolve(|other| partitions.get(other).copied())
            .ok_or_else(|| {
                Error::internal(format!(
                    "topic '{}' follows one that is not planned",
                    topic.name
                ))
            })?;
        partitions.insert(topic.name.clone(), count);
        missing.push(TopicSpec {
            name: topic.name.clone(),
            partitions: i32::try_from(count).map_err(|_| {
                Error::usage(format!(
                    "topic '{}' cannot have {count} partitions",
                    topic.name
                ))
            })?,
            replication_factor: None,
            config: config(topic),
        });
    }
    log.create(&missing)?;
    Ok(names)
}

fn config(topic: &Topic) -> BTreeMap<String, String> {
    let mut config = topic.config.clone();
    config.remove("min.insync.replicas");
    if config
        .get("message.timestamp.type")
        .is_none_or(|kind| kind != "LogAppendTime")
    {
        let for_ever = i64::MAX.to_string();
        config.insert(
            "message.timestamp.before.max.ms".to_owned(),
            for_ever.clone(),
        );
        config.insert("message.timestamp.after.max.ms".to_owned(), for_ever);
        config.insert("retention.ms".to_owned(), "-1".to_owned());
    }
    config
}

/// Running stages.
pub(crate) struct Pipeline {
    handles: Vec<Handle>,
    log: Arc<dyn Log>,
    look_again: Duration,
}

impl Pipeline {
    /// Starts every stage of the plans, each once: partitions are few here. To be called within the
    /// executor.
    pub(crate) fn start(plans: &[Plan], services: &Services, place: &Place) -> Result<Self, Error> {
        let mut handles = Vec::new();
        for stage in plans
            .iter()
            .flat_map(|plan| &plan.stages)
            .filter(|stage| stage.replicas > 0)
        {
            let handle = stage::start(stage.config.clone(), 0, services.clone())
                .map_err(|error| Error::refused(format!("{} cannot start: {error}", stage.id())))?;
            handles.push(handle);
        }
        Ok(Self {
            handles,
            log: Arc::clone(&services.log),
            look_again: if *place == Place::Memory {
                LOOK_AGAIN
            } else {
                LOOK_AGAIN_ON_KAFKA
            },
        })
    }

    /// Waits until all stages have caught up once. `tell` hears of what keeps one from it.
    ///
    /// # Errors
    /// [`Error::Failed`] when a stage ended.
    pub(crate) async fn ready(&self, mut tell: impl FnMut(&str, &str)) -> Result<(), Error> {
        let mut told = BTreeSet::new();
        loop {
            self.check()?;
            if self.handles.iter().all(Handle::is_ready) {
                return Ok(());
            }
            for status in self.handles.iter().map(Handle::status) {
                for problem in status.problems {
                    if told.insert((
                        status.name.clone(),
                        problem.reason.clone(),
                        problem.at.clone(),
                    )) {
                        tell(
                            &format!("{} {}", status.kind, status.name),
                            &problem.message,
                        );
                    }
                }
            }
            tokio::time::sleep(self.look_again).await;
        }
    }

    /// Waits until nothing that is in the log is left to do.
    ///
    /// # Errors
    /// [`Error::Failed`] when a stage ended, or the log does not answer.
    pub(crate) async fn idle(&self) -> Result<(), Error> {
        loop {
            self.check()?;
            let log = Arc::clone(&self.log);
            // Asks the brokers; the executor's threads are few, and this is the only thing going on.
            if tokio::task::block_in_place(|| stage::idle(&self.handles, &*log))? {
                return Ok(());
            }
            tokio::time::sleep(self.look_again).await;
        }
    }

    /// Waits until a stage ends by itself.
    pub(crate) async fn failure(&self) -> Error {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn check(&self) -> Result<(), Error> {
        for status in self.handles.iter().map(Handle::status) {
            if matches!(status.phase, Phase::Failed | Phase::Stopped) {
                let why: Vec<String> = status
                    .problems
                    .into_iter()
                    .map(|problem| problem.message)
                    .collect();
                return Err(Error::failed(format!(
                    "{} {} stopped: {}",
                    status.kind,
                    status.name,
                    why.join("; ")
                )));
            }
        }
        Ok(())
    }

    /// Waits until all stages have ended, after their shutdown token was cancelled.
    pub(crate) async fn join(self) {
        for handle in self.handles {
            handle.join().await;
        }
    }
}
