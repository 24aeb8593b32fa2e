//! `headwater up`: pipelines on this machine, in one process.

use super::OutputFormat;
use crate::control::registry::{self, Running};
use crate::control::server;
use crate::error::Error;
use crate::folder::{DEFAULT_NAMESPACE, events};
use crate::gateway::{Gateway, now_ms};
use crate::pipeline::{self, Pipeline, Place};
use crate::project::{Project, Secrets};
use crate::screen::{Fed, Screen, Show, counted};
use crate::secrets::{Mounted, random_text};
use crate::{dump, feed, hints, logging};
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use headwater_engine::config::{Role, Stage, TriggerFrom};
use headwater_operator::plan::Plan;
use headwater_runtime::log::kafka::Kafka;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::log::{Log, Offsets};
use headwater_runtime::observe::Happening;
use headwater_runtime::stage::Services;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// Run a folder of resources here: no cluster, and no Kafka unless you name one.
///
/// Starts every view and agent in this process, feeds events/<source>.ndjson, shows each run (what
/// triggered it, what its prompt was assembled from, the answer) and then waits for `headwater send`
/// and `headwater chat`. Ctrl-C ends it in order.
///
/// Secrets: the value of key api-key of Secret openai is taken from a Secret manifest in the folder, else
/// from the variable HEADWATER_SECRET_OPENAI_API_KEY.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folders (their .yaml, .yml and .json files, and events/) or files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Namespace of resources that name none.
    #[arg(long, short, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    /// Run on this Kafka, e.g. localhost:9092; TLS and SASL as the KafkaCluster says. Topics that are
    /// missing are made, keep everything and take any timestamp. Without it the log is in memory.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Where `headwater send` and `chat` reach it; on this machine only. Port 0: any that is free.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// End with exit code 0 once every event is processed.
    #[arg(long)]
    until_idle: bool,
    /// At the end, write each topic to DIR/<topic>.ndjson: partition, offset, timestamp, key, value, headers.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Have model NAME answered by an OpenAI-compatible server, e.g. chat=http://localhost:11434/v1#llama3.2,
    /// the part after # being the server's name for the model. A key is taken from the variable
    /// HEADWATER_SECRET_<NAME>_API_KEY.
    #[arg(long, value_name = "NAME=URL")]
    model: Vec<String>,
    /// How much of each run is shown.
    #[arg(long, value_enum, default_value_t)]
    show: Show,
    /// Text, or JSON: one object a line for events fed, runs, dead letters and failures.
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    if !arguments.listen.ip().is_loopback() {
        return Err(Error::usage(format!(
            "--listen: {} is not an address of this machine alone; use 127.0.0.1:PORT",
            arguments.listen
        )));
    }
    logging::for_terminal()?;
    let project = Project::read(&arguments.paths, &arguments.namespace, Secrets::Here)?;
    project.require_valid()?;
    let place = arguments.kafka.clone().map_or(Place::Memory, Place::Kafka);
    let mounted = Mounted::new()?;
    let mut plans = project.plans(Some(&mounted.root().display().to_string()));
    project.mount(&plans, &mounted)?;
    pipeline::relocate(&mut plans, &place);
    for model in &arguments.model {
        point_model(&mut plans, model, &mounted)?;
    }
    let listener = TcpListener::bind(arguments.listen).map_err(|error| {
        Error::failed(format!("cannot listen on {}: {error}; is another 'headwater up' running? Without --listen any free port is taken", arguments.listen))
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed(format!("cannot start the executor: {error}")))?;
    let up = Up {
        arguments,
        project: &project,
        plans: &plans,
        place: &place,
        screen: Arc::new(Screen::new(
            arguments.show,
            arguments.output == OutputFormat::Json,
        )),
    };
    runtime.block_on(up.run(listener))
}

fn point_model(plans: &mut [Plan], argument: &str, mounted: &Mounted) -> Result<(), Error> {
    let (name, url) = argument
        .split_once('=')
        .filter(|(_, url)| url.starts_with("http://") || url.starts_with("https://"))
        .ok_or_else(|| {
            Error::usage(format!(
                "--model {argument}: write NAME=URL, e.g. chat=http://localhost:11434/v1"
            ))
        })?;
    let key_file = crate::secrets::from_environment(name, "api-key").map(|key| {
        let file = mounted.root().join(format!("model-{}", plans.len()));
        let file = file.with_extension(data_encoding::HEXLOWER.encode(name.as_bytes()));
        crate::secrets::private_file(&file, &key).map(|()| file.display().to_string())
    });
    let key_file = key_file.transpose()?;
    pipeline::replace_model(plans, name, url, key_file.as_deref())
}

/// The log that everything here runs on.
struct Opened {
    log: Arc<dyn Log>,
    offsets: Arc<dyn Offsets>,
}

struct Up<'a> {
    arguments: &'a Arguments,
    project: &'a Project,
    plans: &'a [Plan],
    place: &'a Place,
    screen: Arc<Screen>,
}

impl Up<'_> {
    async fn run(&self, listener: TcpListener) -> Result<(), Error> {
        let targets = self.targets()?;
        let starts_runs = targets
            .iter()
            .map(|(name, target)| (name.clone(), target.starts_runs))
            .collect();
        let events = events::read(&self.project.folder.events, &starts_runs)?;
        let batches = feed::batches(&events, &targets)?;
        self.screen.start(&self.facts());

        let opened = self.open()?;
        let log = Arc::clone(&opened.log);
        let topics =
            tokio::task::block_in_place(|| pipeline::create_topics(&*log, self.plans, self.place))?;
        let services = Services::new(Arc::clone(&log));
        let shutdown = services.shutdown.clone();
        let watcher = watch(services.observer.watch(), Arc::clone(&self.screen));
        let pipeline = Arc::new(Pipeline::start(self.plans, services, self.place)?);

        let worked = tokio::select! {
            worked = self.work(&pipeline, &opened, &batches, &targets, listener, &events) => worked,
            () = interrupted() => Ok(()),
        };
        shutdown.cancel();
        pipeline.join().await;
        // Ends with the last stage, after everything that stages told.
        let _ = watcher.await;
        worked?;
        if let Some(folder) = &self.arguments.out {
            let records = tokio::task::block_in_place(|| dump::write(&*log, &topics, folder))?;
            self.screen.note(&format!(
                "{} of {} written to {}",
                counted(records, "record"),
                counted(topics.len(), "topic"),
                folder.display()
            ));
        }
        Ok(())
    }

    /// Ready, feed, and then wait for others' events, unless told to end.
    async fn work(
        &self,
        pipeline: &Arc<Pipeline>,
        opened: &Opened,
        batches: &[feed::Batch],
        targets: &BTreeMap<String, feed::Target>,
        listener: TcpListener,
        events: &[events::Event],
    ) -> Result<(), Error> {
        pipeline
            .ready(|stage, problem| self.screen.problem(stage, problem))
            .await?;
        let directory = self.project.directory(self.plans);
        let gateway = Gateway::new(
            Arc::clone(&opened.log),
            Arc::clone(&opened.offsets),
            directory,
        )?;
        let gateway = Arc::new(gateway.with_stages(Arc::clone(pipeline)));
        let mut writer = opened.log.writer()?;
        let mut shown: Vec<Fed> = Vec::new();
        for (index, batch) in batches.iter().enumerate() {
            tokio::task::block_in_place(|| batch.write(events, targets, &mut *writer))?;
            merge(&mut shown, &batch.fed);
            let next = batches.get(index + 1);
            if next.is_none_or(|next| next.starts_runs != batch.starts_runs) {
                self.screen.fed(&std::mem::take(&mut shown));
            }
            pipeline.idle().await?;
        }
        drop(writer);
        if self.arguments.until_idle {
            return pipeline.idle().await;
        }
        let served = serve_rows(pipeline).await?;
        let (running, _registration) = self.serve(listener, gateway)?;
        self.screen
            .waiting(&running.address, &served, &hints::of(self.plans, events));
        Err(pipeline.failure().await)
    }

    /// Opens the door and says where it is.
    fn serve(
        &self,
        listener: TcpListener,
        gateway: Arc<Gateway>,
    ) -> Result<(Running, registry::Registration), Error> {
        let cannot = |error: std::io::Error| {
            Error::failed(format!(
                "cannot listen on {}: {error}",
                self.arguments.listen
            ))
        };
        let address = listener.local_addr().map_err(cannot)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(cannot)?;
        let running = Running {
            address: address.to_string(),
            token: random_text(32)?,
            process: std::process::id(),
            name: name_of(&self.arguments.paths),
            started: now_ms(),
        };
        let router = server::router(gateway, &running.token, address.port());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let registration = registry::register(&registry::folder()?, &running)?;
        Ok((running, registration))
    }

    fn open(&self) -> Result<Opened, Error> {
        let Place::Kafka(servers) = self.place else {
            let log = Memory::new();
            return Ok(Opened {
                log: Arc::new(log.clone()),
                offsets: Arc::new(log),
            });
        };
        let stages = || self.plans.iter().flat_map(|plan| &plan.stages);
        let config = stages()
            .next()
            .map(|stage| stage.config.kafka.clone())
            .unwrap_or_default();
        if stages().any(|stage| stage.config.kafka != config) {
            return Err(Error::refused(
                "the resources name several KafkaClusters with different TLS or SASL; --kafka can take the place of one only",
            ));
        }
        let config = headwater_engine::config::Kafka {
            bootstrap_servers: vec![servers.clone()],
            ..config
        };
        let log = Arc::new(Kafka::open(&config, "headwater.up")?);
        Ok(Opened {
            log: Arc::clone(&log) as Arc<dyn Log>,
            offsets: log,
        })
    }

    /// Sources by name, over all namespaces.
    fn targets(&self) -> Result<BTreeMap<String, feed::Target>, Error> {
        let mut targets = BTreeMap::new();
        let directory = self.project.directory(self.plans);
        for ((namespace, name), source) in &directory.sources {
            let starts_runs = directory
                .agents
                .iter()
                .any(|((other, _), stage)| other == namespace && starts_runs(stage, name));
            let id = (namespace.clone(), name.clone());
            let siblings = directory.siblings.get(&id).cloned();
            targets.entry(name.clone()).or_insert(feed::Target::new(
                source,
                starts_runs,
                siblings,
            )?);
        }
        Ok(targets)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let log = match self.place {
            Place::Memory => "in memory, gone when this ends".to_owned(),
            Place::Kafka(servers) => format!("Kafka at {servers}"),
        };
        let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for document in self
            .project
            .folder
            .namespaces
            .values()
            .flat_map(|namespace| &namespace.documents)
        {
            kinds
                .entry(&document.kind)
                .or_default()
                .push(&document.name);
        }
        let mut facts = vec![
            ("headwater", format!("up {}", paths(&self.arguments.paths))),
            ("log", log),
        ];
        for (kind, label) in [
            ("EventSource", "sources"),
            ("ContextView", "views"),
            ("Agent", "agents"),
            ("Model", "models"),
        ] {
            if let Some(names) = kinds.get(kind) {
                facts.push((label, names.join(", ")));
            }
        }
        facts
    }
}

/// Serves the rows of each view that asks for it on a port of this machine, of its own. Gives the views' names and where
/// their rows are.
async fn serve_rows(pipeline: &Arc<Pipeline>) -> Result<Vec<(String, String)>, Error> {
    let mut served = Vec::new();
    for (namespace, view) in pipeline.served() {
        let Some(path) = pipeline
            .rows(&namespace, &view)
            .map(|rows| rows.path().to_owned())
        else {
            continue;
        };
        let cannot = |error| {
            Error::failed(format!(
                "cannot listen for the rows of view '{view}': {error}"
            ))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let (stages, name) = (Arc::clone(pipeline), view.clone());
        // Asked of the stage that runs now: it may have been started again.
        let router = Router::new().fallback(move |request: Request| {
            let rows = stages.rows(&namespace, &name);
            async move {
                match rows {
                    Some(rows) => rows.answer(request).await,
                    None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                }
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        served.push((view, format!("http://{address}{path}")));
    }
    Ok(served)
}

/// Adds up events by source, by name.
fn merge(all: &mut Vec<Fed>, more: &[Fed]) {
    for fed in more {
        match all.iter_mut().find(|other| other.source == fed.source) {
            Some(other) => other.events += fed.events,
            None => all.push(fed.clone()),
        }
    }
    all.sort_by(|one, other| one.source.cmp(&other.source));
}

/// Whether runs of an agent come of a source's events: as they are, or as changes of a view that is folded from them.
fn starts_runs(stage: &Stage, source: &str) -> bool {
    let Role::Agent(agent) = &stage.role else {
        return false;
    };
    match &agent.trigger.from {
        TriggerFrom::Source(name) => name == source,
        TriggerFrom::View(view) => {
            let parts = stage.views.get(view).map(|view| &view.from);
            parts
                .into_iter()
                .flatten()
                .any(|from| from.source == source)
        }
    }
}

fn paths(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The last part of the first path.
fn name_of(paths: &[PathBuf]) -> String {
    let path = paths.first().map_or(Path::new("."), PathBuf::as_path);
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole.file_name().map_or_else(
        || "up".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// Draws what stages tell, until the last of them ended.
fn watch(
    mut happenings: broadcast::Receiver<Arc<Happening>>,
    screen: Arc<Screen>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            match happenings.recv().await {
                Ok(happening) => screen.happened(&happening),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    screen.note(&format!("… {missed} happenings were too fast to show"));
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    })
}

/// Ctrl-C, or the signal that service managers and Kubernetes send.
pub(super) async fn interrupted() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}
