//! The bed as a whole: fetch a part, stop a part, say what runs.

use std::path::Path;

use crate::{
    cluster,
    error::{Error, Result},
    fetch, kafka, layout, machine, node, run, tools,
};

/// What can be prepared, started and stopped by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Kafka,
    ControlPlane,
    Node,
    /// A tool, with nothing to start or stop.
    Helm,
}

impl Part {
    pub const ALL: [Self; 4] = [Self::Kafka, Self::ControlPlane, Self::Node, Self::Helm];

    const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ControlPlane => "control-plane",
            Self::Node => "node",
            Self::Helm => "helm",
        }
    }
}

impl std::str::FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|part| part.name() == text)
            .ok_or_else(|| Error::Unexpected {
                what: text.to_owned(),
                detail: format!(
                    "the parts are '{}' and 'all'",
                    Self::ALL.map(Self::name).join("', '")
                ),
            })
    }
}

/// Fetches or builds what a part needs into the cache, so that a later start is quick.
///
/// # Errors
/// When something cannot be fetched or built.
pub fn prepare(part: Part) -> Result<()> {
    match part {
        Part::Kafka => fetch::maven::kafka_jars().map(drop),
        Part::ControlPlane => cluster::prepare(),
        Part::Node => node::prepare(),
        Part::Helm => tools::helm_program().map(drop),
    }
}

/// Stops a part and removes what it made outside the cache.
///
/// # Errors
/// When a process cannot be ended or a folder not removed.
pub fn down(part: Part) -> Result<()> {
    let _lock = layout::Lock::on(&layout::state())?;
    match part {
        Part::Kafka => kafka::remove_all()?,
        Part::ControlPlane => cluster::remove()?,
        Part::Node => remove_node()?,
        Part::Helm => {}
    }
    if kafka::any_runs()? || cluster::Servers::new().has_data() {
        return Ok(());
    }
    machine::remove_server_address()
}

/// A line for each part: whether it runs, and where.
#[must_use]
pub fn status() -> Vec<String> {
    let line = |name: &str, place: String, pid: Option<u32>| match pid {
        Some(pid) => format!("{name}: runs at {place}, process {pid}"),
        None => format!("{name}: not running"),
    };
    let broker = kafka::shared_broker();
    let servers = cluster::Servers::new();
    let node = node::Parts::new();
    vec![
        line("kafka", broker.bootstrap(), broker.pid()),
        line("control-plane", servers.address(), servers.pid()),
        line("node", layout::NODE_ADDRESS.to_owned(), node.pid()),
    ]
}

fn remove_node() -> Result<()> {
    let servers = cluster::Servers::new();
    if servers.pid().is_none() {
        return node::remove();
    }
    node::remove_from(&tools::Kubectl::fetch(servers.kubeconfig())?)
}

/// Lines for a shell, to reach what runs.
#[must_use]
pub fn environment() -> Vec<String> {
    let mut lines = Vec::new();
    let broker = kafka::shared_broker();
    if broker.pid().is_some() {
        lines.push(format!("export KAFKA_BOOTSTRAP={}", broker.bootstrap()));
    }
    let servers = cluster::Servers::new();
    if servers.pid().is_some() {
        let kubeconfig = servers.kubeconfig();
        lines.push(format!("export KUBECONFIG={}", kubeconfig.display()));
    }
    let built = [("kubectl", fetch::go::KUBECTL), ("helm", fetch::go::HELM)];
    for (name, program) in built {
        let path = program.path();
        if run::on_path(name).is_none()
            && path.is_file()
            && let Some(folder) = path.parent().map(Path::display)
        {
            lines.push(format!("export PATH=\"{folder}:$PATH\""));
        }
    }
    lines
}
