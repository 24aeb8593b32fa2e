//! One real node on this machine: containerd, kubelet, kube-scheduler, kube-proxy, CoreDNS, and so real pods.
//!
//! It runs whole or not at all: where one of its programs has ended, everything that an earlier run left is removed (processes, mounts,
//! links, rules, control groups) and the node starts anew. What a crash left therefore never stands in the way.

mod cgroups;
mod containerd;
mod images;
mod kubelet;
mod network;

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    cluster::{self, ControlPlane, Servers, given_kubeconfig},
    error::{Error, FileContext, Result},
    fetch::{apt, go},
    layout, machine,
    process::Process,
    run,
    tools::Kubectl,
};

use containerd::Containerd;
use images::Images;

/// Generous, for a busy machine; a start takes 10 s.
const START_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Where the kubelet links each container's log, for programs that collect them.
const LOG_LINKS: &str = "/var/log/containers";
const COREDNS: &str = include_str!("coredns.yaml");

/// A cluster with a node that runs pods.
#[derive(Clone, Debug)]
pub struct Node {
    control_plane: ControlPlane,
    /// None where the cluster is the user's.
    parts: Option<Parts>,
}

impl Node {
    pub(crate) fn shared() -> Result<Self> {
        if given_kubeconfig().is_some() {
            return Ok(Self {
                control_plane: ControlPlane::shared()?,
                parts: None,
            });
        }
        let servers = cluster::Programs::fetch()?;
        let programs = Programs::fetch()?;
        let kubectl = Kubectl::fetch(Servers::new().kubeconfig())?;
        let _lock = layout::Lock::on(&layout::state())?;
        let control_plane = ControlPlane::start(&servers, kubectl.clone())?;
        let parts = Parts::new();
        if !parts.all_run() {
            remove()?;
            parts.start(&programs, &kubectl)?;
        }
        parts.await_ready(&kubectl)?;
        Ok(Self {
            control_plane,
            parts: Some(parts),
        })
    }

    /// A kubeconfig with all rights, for any client.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        self.control_plane.kubeconfig()
    }

    /// kubectl, set to this cluster; arguments are the caller's to add.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        self.control_plane.kubectl()
    }

    /// Helm, set to this cluster; arguments are the caller's to add. Built on first use.
    ///
    /// # Errors
    /// When it has to be built and cannot be.
    pub fn helm(&self) -> Result<Command> {
        self.control_plane.helm()
    }

    /// Waits until the node takes pods and answers names; at most three minutes. It was so when this handle was made.
    ///
    /// # Errors
    /// When one of the node's programs has ended, or the time is over.
    pub fn ready(&self) -> Result<()> {
        match &self.parts {
            Some(parts) => parts.await_ready(self.control_plane.kubectl_tool()),
            None => run::run(self.kubectl().args([
                "wait",
                "--for=condition=Ready",
                "node",
                "--all",
                "--timeout=180s",
            ]))
            .map(drop),
        }
    }

    /// Brings the images of a tar file onto the node: an OCI layout, as [`crate::image::write`] makes it. Pods can use them when this
    /// returns; an image of the same name is replaced, for pods started from then on.
    ///
    /// # Errors
    /// On a cluster that the bed did not start; when the file is no such layout.
    pub fn import_image(&self, tar: &Path) -> Result<()> {
        match &self.parts {
            Some(parts) => parts.containerd.import(tar),
            None => Err(Error::NotOurs {
                what: "Kubernetes",
                variable: "KUBECONFIG",
            }),
        }
    }
}

/// What has to be on the machine.
#[derive(Debug)]
pub(crate) struct Programs {
    kubelet: PathBuf,
    proxy: PathBuf,
    scheduler: PathBuf,
    images: Images,
}

impl Programs {
    pub(crate) fn fetch() -> Result<Self> {
        if !machine::is_root() {
            return Err(Error::NeedsRoot {
                what: "a node",
                variable: "KUBECONFIG",
            });
        }
        let plugin = network::plugins().join("ptp");
        apt::install(&[
            ("containerd", "containerd"),
            ("runc", "runc"),
            (&plugin.to_string_lossy(), "containernetworking-plugins"),
            ("nft", "nftables"),
            ("ip", "iproute2"),
        ])?;
        Ok(Self {
            kubelet: go::KUBELET.built()?,
            proxy: go::KUBE_PROXY.built()?,
            scheduler: go::KUBE_SCHEDULER.built()?,
            images: Images::fetch()?,
        })
    }
}

/// The node's processes.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    folder: PathBuf,
    containerd: Containerd,
    kubelet: Process,
    proxy: Process,
    scheduler: Process,
}

impl Parts {
    pub(crate) fn new() -> Self {
        let folder = layout::state().join("node");
        Self {
            containerd: Containerd::new(&folder),
            kubelet: Process::new(&folder, "kubelet"),
            proxy: Process::new(&folder, "kube-proxy"),
            scheduler: Process::new(&folder, "kube-scheduler"),
            folder,
        }
    }

    /// The process id of the kubelet, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.kubelet.pid()
    }

    fn all_run(&self) -> bool {
        self.containerd.pid().is_some()
            && [&self.kubelet, &self.proxy, &self.scheduler]
                .iter()
                .all(|process| process.pid().is_some())
    }

    fn start(&self, programs: &Programs, kubectl: &Kubectl) -> Result<()> {
        let pki = Servers::new().pki();
        let networks = network::prepare(&self.folder)?;
        cgroups::make()?;
        self.containerd.start(&networks, &network::plugins())?;
        // Pods of an earlier node may be waiting, and each needs it.
        self.containerd.import(&programs.images.pause)?;

        let endpoint = self.containerd.endpoint();
        let folder = self.kubelet_folder();
        let kubelet = kubelet::command(&programs.kubelet, &folder, &pki, &endpoint)?;
        self.kubelet.start(&kubelet)?;
        let folder = self.folder.join("kube-scheduler");
        let scheduler = kubelet::scheduler_command(&programs.scheduler, &folder, &pki)?;
        self.scheduler.start(&scheduler)?;

        self.containerd.import(&programs.images.coredns)?;
        self.install_dns(kubectl)?;
        // kube-proxy takes its own address from the Node, and waits long for one that is not there yet.
        self.kubelet.await_ready(START_LIMIT, || {
            run::run(kubectl.command().args(["get", "node", layout::NODE_NAME])).is_ok()
        })?;
        let proxy = network::proxy_command(&programs.proxy, &self.folder, &pki)?;
        self.proxy.start(&proxy)
    }

    fn install_dns(&self, kubectl: &Kubectl) -> Result<()> {
        let servers = machine::name_servers();
        let forward = match servers.is_empty() {
            true => String::new(),
            false => format!("forward . {}", servers.join(" ")),
        };
        let manifest = COREDNS
            .replace("$IMAGE", &images::coredns_name())
            .replace("$ADDRESS", layout::DNS_ADDRESS)
            .replace("$FORWARD", &forward);
        let path = self.folder.join("coredns.yaml");
        layout::write(&path, manifest)?;
        run::run(kubectl.command().args(["apply", "-f"]).arg(path)).map(drop)
    }

    /// Ready is: the kubelet says so, and a connection to the DNS Service, which takes a pod, its network and kube-proxy, works.
    fn await_ready(&self, kubectl: &Kubectl) -> Result<()> {
        let condition = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        self.kubelet.await_ready(START_LIMIT, || {
            run::run(
                kubectl
                    .command()
                    .args(["get", "node", layout::NODE_NAME, "-o", condition]),
            )
            .is_ok_and(|status| status == "True")
        })?;
        self.proxy.await_ready(START_LIMIT, || {
            format!("{}:53", layout::DNS_ADDRESS)
                .parse()
                .is_ok_and(|dns: SocketAddr| {
                    TcpStream::connect_timeout(&dns, Duration::from_secs(1)).is_ok()
                })
        })
    }

    fn kubelet_folder(&self) -> PathBuf {
        self.folder.join("kubelet")
    }
}

/// Fetches and builds what the node needs.
pub(crate) fn prepare() -> Result<()> {
    cluster::prepare()?;
    Programs::fetch().map(drop)
}

/// Ends the node with all its pods and takes back what it did to the machine, whatever state it is in. The caller holds the lock.
pub(crate) fn remove() -> Result<()> {
    let parts = Parts::new();
    if !parts.folder.exists() {
        return Ok(());
    }
    for process in [&parts.kubelet, &parts.scheduler, &parts.proxy] {
        process.stop_within(STOP_LIMIT)?;
    }
    // Before what watches over them goes, which would leave their remains to nobody.
    cgroups::remove()?;
    parts.containerd.stop()?;
    unmount(&parts.folder)?;
    network::remove(&parts.folder)?;
    remove_log_links(&parts.kubelet_folder())?;
    layout::remove_folder(&parts.folder)
}

/// Ends the node, and makes a control plane that goes on forget it and its pods.
pub(crate) fn remove_from(kubectl: &Kubectl) -> Result<()> {
    remove()?;
    let name = layout::NODE_NAME;
    let gone: [&[&str]; 2] = [
        &["delete", "node", name, "--ignore-not-found"],
        &["delete", "pods", "--all", "--all-namespaces", "--force"],
    ];
    for arguments in gone {
        run::run(kubectl.command().args(arguments))?;
    }
    Ok(())
}

/// Unmounts all that is mounted below `folder`, the last first.
fn unmount(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts").at("read", "/proc/mounts")?;
    let places: Vec<&Path> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(Path::new)
        .filter(|place| place.starts_with(folder))
        .collect();
    for place in places.into_iter().rev() {
        // Lazily: a process that is still ending must not keep it.
        run::run(Command::new("umount").arg("--lazy").arg(place))?;
    }
    Ok(())
}

fn remove_log_links(kubelet: &Path) -> Result<()> {
    let logs = kubelet::logs(kubelet);
    for entry in fs::read_dir(LOG_LINKS).into_iter().flatten().flatten() {
        let link = entry.path();
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(&logs)) {
            fs::remove_file(&link).at("remove", link)?;
        }
    }
    Ok(())
}
