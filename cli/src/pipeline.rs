//! Stages in this process, on one log: their topics, their start, whether they are ready or idle, and
//! their end.

use crate::error::Error;
use headwater_crds::event_source::Management;
use headwater_engine::config::{Kafka, Model, Provider, Role, Stage};
use headwater_engine::names::Owner;
use headwater_engine::record::Position;
use headwater_operator::plan::{Plan, Topic};
use headwater_runtime::log::{Log, TopicSpec};
use headwater_runtime::stage::look::Look;
use headwater_runtime::stage::serve::Rows;
use headwater_runtime::stage::{self, Handle, Phase, Services, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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
        model.each_of_chain(|model| {
            known.insert(model.name.clone());
            if model.name == name {
                point(model, url, model_name, key_file);
                replaced = true;
            }
        });
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
        // The key of another provider is none of this one's business.
        Provider::Anthropic { .. } | Provider::Scripted { .. } => {
            (None, Vec::new(), BTreeMap::new())
        }
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
    stages: Vec<Slot>,
    /// Taken when all are ended, so that whoever watches sees the end.
    services: Mutex<Option<Services>>,
    log: Arc<dyn Log>,
    look_again: Duration,
}

/// A stage, running or about to be started again.
struct Slot {
    config: Stage,
    running: Mutex<Option<Running>>,
}

struct Running {
    handle: Handle,
    /// Ends this stage alone.
    shutdown: CancellationToken,
}

impl Slot {
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        lock(&self.running)
    }

    fn status(&self) -> Option<Status> {
        self.running()
            .as_ref()
            .map(|running| running.handle.status())
    }

    fn start(&self, services: &Services) -> Result<(), Error> {
        let shutdown = services.shutdown.child_token();
        let services = Services {
            shutdown: shutdown.clone(),
            // Each stage has a share of its own.
            limiters: Arc::default(),
            ..services.clone()
        };
        let handle = stage::start(self.config.clone(), 0, services).map_err(|error| {
            let (kind, name) = self.config.owner();
            Error::refused(format!("{kind} {name} cannot start: {error}"))
        })?;
        *self.running() = Some(Running { handle, shutdown });
        Ok(())
    }

    async fn join(&self) {
        let running = self.running().take();
        if let Some(running) = running {
            running.handle.join().await;
        }
    }
}

impl Pipeline {
    /// Starts every stage of the plans, each once: partitions are few here. To be called within the
    /// executor.
    pub(crate) fn start(plans: &[Plan], services: Services, place: &Place) -> Result<Self, Error> {
        let planned = plans.iter().flat_map(|plan| &plan.stages);
        let stages: Vec<Slot> = planned
            .filter(|stage| stage.replicas > 0)
            .map(|stage| Slot {
                config: stage.config.clone(),
                running: Mutex::new(None),
            })
            .collect();
        for stage in &stages {
            stage.start(&services)?;
        }
        Ok(Self {
            stages,
            log: Arc::clone(&services.log),
            services: Mutex::new(Some(services)),
            look_again: if *place == Place::Memory {
                LOOK_AGAIN
            } else {
                LOOK_AGAIN_ON_KAFKA
            },
        })
    }

    fn slot(&self, namespace: &str, kind: Owner, name: &str) -> Option<&Slot> {
        self.stages
            .iter()
            .find(|slot| slot.config.namespace == namespace && slot.config.owner() == (kind, name))
    }

    /// To look into a view; `None` where its stage does not run.
    pub(crate) fn look(&self, namespace: &str, view: &str) -> Option<Look> {
        let slot = self.slot(namespace, Owner::View, view)?;
        slot.running()
            .as_ref()
            .and_then(|running| running.handle.look())
    }

    /// Views that are served, by namespace and name.
    pub(crate) fn served(&self) -> Vec<(String, String)> {
        let served = self.stages.iter().filter(|slot| {
            let running = slot.running();
            running
                .as_ref()
                .is_some_and(|running| running.handle.rows().is_some())
        });
        served
            .map(|slot| {
                (
                    slot.config.namespace.clone(),
                    slot.config.owner().1.to_owned(),
                )
            })
            .collect()
    }

    /// Answers for the rows of a view; `None` where its stage does not run, or does not serve them.
    pub(crate) fn rows(&self, namespace: &str, view: &str) -> Option<Rows> {
        let slot = self.slot(namespace, Owner::View, view)?;
        slot.running()
            .as_ref()
            .and_then(|running| running.handle.rows())
    }

    /// Records at which a stage stands still.
    pub(crate) fn stopped_at(
        &self,
        namespace: &str,
        kind: Owner,
        name: &str,
    ) -> BTreeSet<Position> {
        let status = self.slot(namespace, kind, name).and_then(Slot::status);
        let problems = status.into_iter().flat_map(|status| status.problems);
        problems
            .filter(|problem| problem.reason == "Stopped")
            .filter_map(|problem| problem.at.parse().ok())
            .collect()
    }

    /// Ends a stage in order, does `between`, and starts it again, whatever came of that.
    ///
    /// # Errors
    /// [`Error::Refused`] where it does not run; what `between` came to.
    pub(crate) async fn restart<T>(
        &self,
        namespace: &str,
        kind: Owner,
        name: &str,
        between: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let gone = || Error::refused(format!("{kind} {name} does not run now; try again"));
        let slot = self.slot(namespace, kind, name).ok_or_else(gone)?;
        let running = slot.running().take().ok_or_else(gone)?;
        running.shutdown.cancel();
        running.handle.join().await;
        let done = between();
        let services = lock(&self.services).clone();
        if let Some(services) = services {
            slot.start(&services)?;
        }
        done
    }

    /// Waits until all stages have caught up once, or stand still until somebody decides: then there is
    /// nothing to wait for, and who decides wants to look into the others. `tell` hears of what keeps one
    /// from it.
    ///
    /// # Errors
    /// [`Error::Failed`] when a stage ended.
    pub(crate) async fn ready(&self, mut tell: impl FnMut(&str, &str)) -> Result<(), Error> {
        let mut told = BTreeSet::new();
        loop {
            self.check()?;
            let statuses: Vec<Status> = self.stages.iter().filter_map(Slot::status).collect();
            let waits = |status: &Status| !status.ready && !stands_still(status);
            let over = !statuses.iter().any(waits);
            for status in statuses.iter().filter(|status| !status.ready) {
                for problem in &status.problems {
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
            if over {
                return Ok(());
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
            // Asks the brokers; the executor's threads are few, and this is the only thing going on.
            if tokio::task::block_in_place(|| self.is_idle())? {
                return Ok(());
            }
            tokio::time::sleep(self.look_again).await;
        }
    }

    fn is_idle(&self) -> Result<bool, Error> {
        let running: Vec<_> = self.stages.iter().map(Slot::running).collect();
        let handles: Option<Vec<&Handle>> = running
            .iter()
            .map(|running| running.as_ref().map(|running| &running.handle))
            .collect();
        match handles {
            Some(handles) => Ok(stage::idle(handles, &*self.log)?),
            // One is about to be started again.
            None => Ok(false),
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
        for status in self.stages.iter().filter_map(Slot::status) {
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
    pub(crate) async fn join(&self) {
        lock(&self.services).take();
        for stage in &self.stages {
            stage.join().await;
        }
    }
}

/// Whether it needs a decision (`headwater resume`) to go on.
fn stands_still(status: &Status) -> bool {
    let decided = ["Stopped", "InputLost", "InputReset", "PositionsLost"];
    let mut problems = status.problems.iter();
    problems.any(|problem| decided.contains(&problem.reason.as_str()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
