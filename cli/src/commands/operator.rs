//! `headwater operator`: keeps a cluster as its resources say.

use crate::error::Error;
use crate::logging;
use headwater_operator::{Election, Options};
use std::net::SocketAddr;
use tokio_util::sync::CancellationToken;

/// Run the operator; what the chart's pod runs.
///
/// It uses the kubeconfig of the environment, or the service account of its pod.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Image of the pods that it creates: its own.
    #[arg(long, env = "HEADWATER_IMAGE", value_name = "IMAGE")]
    image: String,
    /// Always, IfNotPresent or Never.
    #[arg(long, env = "HEADWATER_IMAGE_PULL_POLICY", value_name = "POLICY", default_value = "IfNotPresent",
        value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// Namespaces whose resources are acted on, separated by commas. Empty: all.
    #[arg(
        long,
        env = "HEADWATER_WATCH_NAMESPACES",
        value_name = "NAMES",
        default_value = ""
    )]
    watch_namespaces: String,
    /// Whether pods get a NetworkPolicy that lets nothing but their port in.
    #[arg(long, env = "HEADWATER_NETWORK_POLICIES", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    network_policies: bool,
    /// Annotation keys that resources may give their pods, separated by commas. Without it: any.
    #[arg(long, env = "HEADWATER_POD_ANNOTATIONS", value_name = "KEYS")]
    pod_annotations: Option<String>,
    /// Label keys that resources may give their pods, separated by commas. Without it: any.
    #[arg(long, env = "HEADWATER_POD_LABELS", value_name = "KEYS")]
    pod_labels: Option<String>,
    /// Namespace of the lease by which one of several operators leads. Without it there is no election.
    #[arg(long, env = "HEADWATER_NAMESPACE", value_name = "NAME")]
    lease_namespace: Option<String>,
    #[arg(
        long,
        env = "HEADWATER_LEASE",
        value_name = "NAME",
        default_value = "headwater-operator"
    )]
    lease: String,
    /// Who says so in Events: the pod's name.
    #[arg(
        long,
        env = "HEADWATER_IDENTITY",
        value_name = "NAME",
        default_value = "headwater-operator"
    )]
    identity: String,
    /// Health and metrics.
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// error, warn, info, debug or trace, or directives; of the operator and of the pods that it creates.
    #[arg(long, env = logging::VARIABLE, default_value = "info")]
    log: String,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Error> {
    logging::for_pods(&arguments.log)?;
    let options = Options {
        watch_namespaces: list(&arguments.watch_namespaces),
        image: arguments.image,
        image_pull_policy: arguments.image_pull_policy,
        log: arguments.log,
        network_policies: arguments.network_policies,
        pod_annotations: arguments.pod_annotations.as_deref().map(list),
        pod_labels: arguments.pod_labels.as_deref().map(list),
        election: arguments.lease_namespace.map(|namespace| Election {
            namespace,
            lease: arguments.lease,
        }),
        listen: Some(arguments.listen),
        identity: arguments.identity,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // It waits for others nearly all of the time, and each thread costs memory.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::failed(format!("cannot start the executor: {error}")))?;
    runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let ending = shutdown.clone();
        tokio::spawn(async move {
            super::up::interrupted().await;
            tracing::info!("asked to end");
            ending.cancel();
        });
        headwater_operator::run(options, shutdown)
            .await
            .map_err(|error| Error::failed(chain(&error)))
    })
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
