//! containerd, the node's container runtime, with root, state and socket of its own, beside any other on the machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    image, layout,
    node::images,
    process::{self, Process},
    run,
};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const NOTICE_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(crate) struct Containerd {
    folder: PathBuf,
    process: Process,
}

impl Containerd {
    pub(super) fn new(node: &Path) -> Self {
        let folder = node.join("containerd");
        Self {
            process: Process::new(&folder, "containerd"),
            folder,
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// The socket's URL, for the kubelet.
    pub(super) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    /// Starts the runtime, with the CNI configuration in `networks` and the plugins in `plugins`.
    pub(super) fn start(&self, networks: &Path, plugins: &Path) -> Result<()> {
        layout::make_folder(&self.folder)?;
        let path = self.folder.join("config.toml");
        layout::write(&path, self.configuration(networks, plugins))?;
        let mut command = Command::new(program("containerd"));
        command
            .arg("--config")
            .arg(&path)
            .env("PATH", search_path());
        self.process.start(&command)?;
        self.process
            .await_ready(START_LIMIT, || run::run(self.ctr().arg("version")).is_ok())
    }

    /// Imports a tar file of images, and waits until the kubelet's side of the runtime knows the image that it names.
    pub(super) fn import(&self, tar: &Path) -> Result<()> {
        let name = image::name_in(tar)?;
        run::run(self.ctr().args(["images", "import"]).arg(tar))?;
        // The runtime takes notice a moment later, and marks that with a label; a pod made before then would want to pull.
        let deadline = Instant::now() + NOTICE_LIMIT;
        let filter = format!("name=={name}");
        while !run::run(self.ctr().args(["images", "list", &filter]))?
            .contains("io.cri-containerd.image=managed")
        {
            if Instant::now() > deadline {
                return Err(Error::Unexpected {
                    what: format!("image '{name}'"),
                    detail: format!(
                        "imported, but not noticed by the runtime within {} s",
                        NOTICE_LIMIT.as_secs()
                    ),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends the runtime and what watches over its containers. The containers have been ended, through their control groups.
    pub(super) fn stop(&self) -> Result<()> {
        self.process.stop_within(STOP_LIMIT)?;
        for shim in self.shims() {
            process::stop(shim, Duration::ZERO)?;
        }
        Ok(())
    }

    /// One process per pod, which outlives the runtime; known by our socket among its arguments.
    fn shims(&self) -> Vec<u32> {
        let socket = self.socket();
        let socket = socket.to_string_lossy();
        let is_ours = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
                let line = String::from_utf8_lossy(&line).into_owned();
                let mut arguments = line.split('\0');
                arguments
                    .next()
                    .is_some_and(|program| program.contains("containerd-shim"))
                    && arguments.any(|argument| argument == socket)
            })
        };
        process::all().into_iter().filter(is_ours).collect()
    }

    /// The runtime's own client, in Kubernetes' namespace.
    fn ctr(&self) -> Command {
        let mut command = Command::new(program("ctr"));
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io"]);
        command
    }

    fn configuration(&self, networks: &Path, plugins: &Path) -> String {
        let folder = self.folder.display();
        let (networks, plugins) = (networks.display(), plugins.display());
        let socket = self.socket();
        let socket = socket.display();
        let pause = images::pause_name();
        format!(
            r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Where the machine lacks CAP_SYS_RESOURCE, no process may get a lower score than the runtime has.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{folder}/runc"
SystemdCgroup = false
"#
        )
    }
}

/// On a user's search path or where Debian keeps programs for root.
fn program(name: &str) -> PathBuf {
    run::on_path(name).unwrap_or_else(|| name.into())
}

/// The runtime and its plugins look for `runc`, `nft` and `iptables` themselves.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}
