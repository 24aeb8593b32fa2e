//! Where commands that talk to a pipeline go: a running `up`, or a Kafka directly.

use crate::control::client::Client;
use crate::control::registry;
use crate::control::{
    Answer, Ask, Decide, Decided, Letter, Letters, Look, Open, Past, Question, Replay, Replayed,
    Resume, Resumed, Retried, Retry, Seen, Send, Sent, ViewFigures, Views,
};
use crate::error::Error;
use crate::folder::DEFAULT_NAMESPACE;
use crate::gateway::Gateway;
use crate::pipeline::{self, Place};
use crate::project::{Project, Secrets};
use crate::secrets::Mounted;
use headwater_engine::audit;
use headwater_runtime::log::Offsets;
use headwater_runtime::log::kafka::Kafka;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Where to")]
pub(crate) struct Where {
    /// The running `headwater up`: name of its folder, or its port. Without it: the one started last.
    #[arg(long, value_name = "NAME|PORT", conflicts_with = "kafka")]
    to: Option<String>,
    /// Talk to this Kafka, not to an `up`; the resources say which topics. TLS and SASL as their
    /// KafkaCluster says.
    #[arg(long, value_name = "HOST:PORT", requires = "resources")]
    kafka: Option<String>,
    /// With --kafka: folder or file of the resources.
    #[arg(long, short, value_name = "PATH", requires = "kafka")]
    resources: Vec<PathBuf>,
    /// Namespace of the resources; needed where several have the name.
    #[arg(long, short)]
    namespace: Option<String>,
}

pub(crate) enum Target {
    Up(Client),
    Kafka {
        gateway: Arc<Gateway>,
        /// Certificates and passwords, for as long as they are used.
        _mounted: Mounted,
    },
}

impl Where {
    pub(crate) fn namespace(&self) -> Option<String> {
        self.namespace.clone()
    }

    pub(crate) fn open(&self) -> Result<Target, Error> {
        let Some(servers) = &self.kafka else {
            let running = registry::find(&registry::folder()?, self.to.as_deref())?;
            return Ok(Target::Up(Client::new(running)?));
        };
        let namespace = self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        let project = Project::read(&self.resources, namespace, Secrets::Manifests)?;
        project.require_valid()?;
        let mounted = Mounted::new()?;
        let mut plans = project.plans(Some(&mounted.root().display().to_string()));
        project.mount(&plans, &mounted)?;
        pipeline::relocate(&mut plans, &Place::Kafka(servers.clone()));
        let config = plans
            .iter()
            .flat_map(|plan| &plan.stages)
            .next()
            .map(|stage| stage.config.kafka.clone());
        let config = config.unwrap_or_else(|| headwater_engine::config::Kafka {
            bootstrap_servers: vec![servers.clone()],
            ..Default::default()
        });
        let log = Arc::new(Kafka::open(&config, "headwater.cli")?);
        let offsets = Arc::clone(&log) as Arc<dyn Offsets>;
        let gateway = Arc::new(Gateway::new(log, offsets, project.directory(&plans))?);
        Ok(Target::Kafka {
            gateway,
            _mounted: mounted,
        })
    }
}

impl Target {
    pub(crate) async fn send(&self, event: Send) -> Result<Sent, Error> {
        match self {
            Self::Up(client) => client.send(&event).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.send(&event)).await
            }
        }
    }

    pub(crate) async fn past(&self, past: Past) -> Result<Vec<audit::Record>, Error> {
        match self {
            Self::Up(client) => client.past(&past).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.past(&past)).await
            }
        }
    }

    pub(crate) async fn replay(&self, replay: Replay) -> Result<Replayed, Error> {
        match self {
            Self::Up(client) => client.replay(&replay).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.replay(&replay)).await
            }
        }
    }

    pub(crate) async fn views(&self, views: Views) -> Result<Vec<ViewFigures>, Error> {
        match self {
            Self::Up(client) => client.views(&views).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.views(&views)).await
            }
        }
    }

    pub(crate) async fn look(&self, look: Look) -> Result<Seen, Error> {
        match self {
            Self::Up(client) => client.look(&look).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.look(&look)).await
            }
        }
    }

    pub(crate) async fn letters(&self, letters: Letters) -> Result<Vec<Letter>, Error> {
        match self {
            Self::Up(client) => client.letters(&letters).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.letters(&letters)).await
            }
        }
    }

    pub(crate) async fn questions(&self, open: Open) -> Result<Vec<Question>, Error> {
        match self {
            Self::Up(client) => client.questions(&open).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.questions(&open)).await
            }
        }
    }

    pub(crate) async fn decide(&self, decide: Decide) -> Result<Decided, Error> {
        match self {
            Self::Up(client) => client.decide(&decide).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.answer_question(&decide)).await
            }
        }
    }

    pub(crate) async fn resume(&self, resume: Resume) -> Result<Vec<Resumed>, Error> {
        match self {
            Self::Up(client) => client.resume(&resume).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.resume(&resume)).await
            }
        }
    }

    pub(crate) async fn retry(&self, retry: Retry) -> Result<Vec<Retried>, Error> {
        match self {
            Self::Up(client) => client.retry(&retry).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.retry(&retry)).await
            }
        }
    }

    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, Error> {
        match self {
            Self::Up(client) => client.ask(&ask).await,
            Self::Kafka { gateway, .. } => {
                blocking(gateway, move |gateway| gateway.ask(&ask)).await
            }
        }
    }
}

async fn blocking<Done: std::marker::Send + 'static>(
    gateway: &Arc<Gateway>,
    work: impl FnOnce(&Gateway) -> Result<Done, Error> + std::marker::Send + 'static,
) -> Result<Done, Error> {
    let gateway = Arc::clone(gateway);
    tokio::task::spawn_blocking(move || work(&gateway))
        .await
        .unwrap_or_else(|_| Err(Error::internal("the request broke off")))
}

/// An executor for a command that waits for one thing at a time.
pub(crate) fn block_on<Done>(
    work: impl Future<Output = Result<Done, Error>>,
) -> Result<Done, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed(format!("cannot start the executor: {error}")))?
        .block_on(work)
}
