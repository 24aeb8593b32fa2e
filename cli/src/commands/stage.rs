//! `headwater view` and `headwater agent`: one stage, as the operator runs it in a pod.

use crate::error::Error;
use crate::logging;
use headwater_engine::config::{Model, Role, Stage};
use headwater_engine::names::{Owner, group};
use headwater_runtime::http;
use headwater_runtime::log::kafka::Kafka;
use headwater_runtime::model::Limiters;
use headwater_runtime::stage::{self, Phase, Services};
use headwater_runtime::stage_file;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Serves /healthz, /readyz, /metrics and /status, a view's rows on a port of their own, logs JSON, and ends in order on
/// SIGTERM.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The stage's configuration, as the operator writes it.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of the pod; it ends in the replica's ordinal.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: String,
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Where a view with `serve` serves its rows.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8081")]
    listen_rows: SocketAddr,
    /// error, warn, info, debug or trace, or directives such as info,headwater_runtime=debug.
    #[arg(long, env = logging::VARIABLE, default_value = "info")]
    log: String,
}

pub(crate) fn run(arguments: &Arguments, kind: Owner) -> Result<(), Error> {
    logging::for_pods(&arguments.log)?;
    let config =
        stage_file::read(&arguments.config).map_err(|error| Error::usage(error.to_string()))?;
    let ordinal = stage_file::ordinal(&arguments.pod_name)
        .map_err(|error| Error::usage(error.to_string()))?;
    if config.owner().0 != kind {
        return Err(Error::usage(format!(
            "{} configures {} stage, and the command is {kind}",
            arguments.config.display(),
            match config.role {
                Role::View { .. } => "a view",
                Role::Agent(_) => "an agent",
            }
        )));
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed(format!("cannot start the executor: {error}")))?
        .block_on(serve(config, ordinal, arguments))
}

/// How often the file is looked at; a node takes a minute or so to bring a changed one.
const LIMITS_EVERY: Duration = Duration::from_secs(20);

/// Takes over what models may be asked, as the operator writes it: a share goes by how many replicas there are, and no pod is made
/// anew for it.
async fn follow_limits(path: PathBuf, limiters: Arc<Limiters>) {
    loop {
        tokio::time::sleep(LIMITS_EVERY).await;
        // One that is being replaced is there the next time.
        let Ok(Role::Agent(agent)) = stage_file::read(&path).map(|stage| stage.role) else {
            continue;
        };
        for model in agent.model.iter().flat_map(Model::chain) {
            limiters.set(&model.name, model.limits);
        }
    }
}

async fn serve(config: Stage, ordinal: u32, arguments: &Arguments) -> Result<(), Error> {
    let (kind, name) = config.owner();
    let client = group(&config.namespace, kind, name, None, &ordinal.to_string());
    let services = Services::new(Arc::new(Kafka::open(&config.kafka, &client)?));
    let shutdown = services.shutdown.clone();
    let metrics = Arc::clone(&services.metrics);
    if let Role::Agent(_) = config.role {
        let limiters = Arc::clone(&services.limiters);
        tokio::spawn(follow_limits(arguments.config.clone(), limiters));
    }
    tracing::info!(%kind, name, ordinal, version = env!("CARGO_PKG_VERSION"), "starting");
    let handle = stage::start(config.clone(), ordinal, services)
        .map_err(|error| Error::refused(error.to_string()))?;
    let router = http::router(vec![handle.probe()], metrics);
    // Health is answered until the stage has ended, so it does not end with the stage's own token.
    let serving = tokio_util::sync::CancellationToken::new();
    let listen = async |address, router| {
        http::serve(address, router, serving.clone())
            .await
            .map_err(|error| Error::failed(format!("cannot listen on {address}: {error}")))
    };
    let (address, server) = listen(arguments.listen, router).await?;
    tracing::info!(%address, "serving health, metrics and status");
    let mut servers = vec![server];
    if let Some(rows) = handle.rows() {
        let path = rows.path().to_owned();
        let (address, server) = listen(arguments.listen_rows, rows.router()).await?;
        tracing::info!(%address, path, "serving rows");
        servers.push(server);
    }
    tokio::spawn(async move {
        super::up::interrupted().await;
        tracing::info!("asked to end; finishing what is in flight");
        shutdown.cancel();
    });
    let status = handle.join().await;
    serving.cancel();
    for server in servers {
        let _ = server.await;
    }
    if status.phase == Phase::Failed {
        let why: Vec<String> = status
            .problems
            .into_iter()
            .map(|problem| problem.message)
            .collect();
        return Err(Error::failed(format!(
            "the stage stopped: {}",
            why.join("; ")
        )));
    }
    tracing::info!("ended in order");
    Ok(())
}
