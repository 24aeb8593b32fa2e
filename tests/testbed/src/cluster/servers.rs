//! The control plane's processes: etcd, kube-apiserver, kube-controller-manager.
//!
//! Its data lives as long as etcd does: where etcd has ended, what it left is dropped and a new, empty cluster begins.

use std::{net::TcpStream, path::PathBuf, process::Command, time::Duration};

use crate::{
    cluster::{
        kubeconfig,
        pki::{self, Pki},
    },
    error::Result,
    fetch::go,
    layout, machine,
    process::Process,
    run,
    tools::Kubectl,
};

/// Generous, for a busy machine; a start takes 5 s.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// The programs, wherever they come from.
#[derive(Debug)]
pub(crate) struct Programs {
    etcd: PathBuf,
    api_server: PathBuf,
    controller_manager: PathBuf,
}

impl Programs {
    /// Those in `$KUBEBUILDER_ASSETS`, else built.
    pub(crate) fn fetch() -> Result<Self> {
        let given = layout::given("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let find = |program: &go::Program| {
            given
                .as_ref()
                .map(|folder| folder.join(program.name))
                .filter(|path| path.is_file())
                .map_or_else(|| program.built(), Ok)
        };
        Ok(Self {
            etcd: find(&go::ETCD)?,
            api_server: find(&go::KUBE_APISERVER)?,
            controller_manager: find(&go::KUBE_CONTROLLER_MANAGER)?,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Servers {
    folder: PathBuf,
    etcd: Process,
    api_server: Process,
    controller_manager: Process,
}

impl Servers {
    pub(crate) fn new() -> Self {
        let folder = layout::state().join("control-plane");
        Self {
            etcd: Process::new(&folder, "etcd"),
            api_server: Process::new(&folder, "kube-apiserver"),
            controller_manager: Process::new(&folder, "kube-controller-manager"),
            folder,
        }
    }

    pub(crate) fn pki(&self) -> Pki {
        Pki::new(self.folder.join("pki"))
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        kubeconfig::path(&self.folder, pki::ADMIN)
    }

    /// The API server's URL.
    pub(crate) fn address(&self) -> String {
        format!("https://{}:{}", machine::server_address(), layout::API_PORT)
    }

    /// The process id of the API server, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.api_server.pid()
    }

    /// Whether there is a cluster to go on with.
    pub(crate) fn has_data(&self) -> bool {
        self.etcd.pid().is_some()
    }

    /// Starts what does not run, and waits until the API server is ready and the controllers work.
    pub(crate) fn start(&self, programs: &Programs, kubectl: &Kubectl) -> Result<()> {
        machine::make_server_address()?;
        layout::make_folder(&self.folder)?;
        let pki = self.pki();
        pki.ensure(&[
            machine::server_address(),
            "127.0.0.1",
            layout::API_SERVICE_ADDRESS,
        ])?;
        let configuration = kubeconfig::write(&self.folder, &pki, pki::CONTROLLER_MANAGER)?;
        kubeconfig::write(&self.folder, &pki, pki::ADMIN)?;

        self.etcd.start(&self.etcd_command(programs))?;
        self.api_server.start(&self.api_server_command(programs))?;
        self.api_server.await_ready(START_LIMIT, || {
            // Cheaper to ask in vain than kubectl is.
            TcpStream::connect((machine::server_address(), layout::API_PORT)).is_ok()
                && run::run(kubectl.command().args(["get", "--raw", "/readyz"])).is_ok()
        })?;
        self.controller_manager
            .start(&self.controller_manager_command(programs, &configuration))?;
        // Made by a controller; no pod can be created before it is there.
        self.controller_manager.await_ready(START_LIMIT, || {
            run::run(kubectl.command().args(["get", "serviceaccount", "default"])).is_ok()
        })
    }

    /// Ends everything and forgets the cluster.
    pub(crate) fn remove(&self) -> Result<()> {
        self.controller_manager.kill()?;
        self.api_server.stop_within(STOP_LIMIT)?;
        self.etcd.kill()?;
        layout::remove_folder(&self.folder)
    }

    fn etcd_command(&self, programs: &Programs) -> Command {
        let mut command = Command::new(&programs.etcd);
        command
            .arg("--data-dir")
            .arg(self.folder.join("etcd"))
            .args(["--listen-client-urls", &etcd_address()])
            .args(["--advertise-client-urls", &etcd_address()])
            // One member has no peers, but etcd insists on listening for them.
            .args(["--listen-peer-urls", "http://127.0.0.1:0"])
            .args(["--log-level", "warn"])
            .arg("--unsafe-no-fsync");
        command
    }

    fn api_server_command(&self, programs: &Programs) -> Command {
        let address = machine::server_address();
        let pki = self.pki();
        let mut flags = vec![
            format!("--etcd-servers={}", etcd_address()),
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            format!("--secure-port={}", layout::API_PORT),
            format!("--service-cluster-ip-range={}", layout::SERVICE_RANGE),
            format!("--service-account-issuer={SERVICE_ACCOUNT_ISSUER}"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--anonymous-auth=false".to_owned(),
            "--allow-privileged=true".to_owned(),
            // Without it `kubectl logs` asks a DNS server for the node's name.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ];
        if !machine::is_root() {
            // 127.0.0.1 cannot be an endpoint of the Service `kubernetes`, and there are no pods that would use it.
            flags.push("--endpoint-reconciler-type=none".to_owned());
        }
        let files = [
            ("--cert-dir", self.folder.clone()),
            ("--client-ca-file", pki.authority()),
            ("--tls-cert-file", pki.certificate("kube-apiserver")),
            ("--tls-private-key-file", pki.key("kube-apiserver")),
            (
                "--kubelet-client-certificate",
                pki.certificate(pki::KUBELET_CLIENT.name),
            ),
            ("--kubelet-client-key", pki.key(pki::KUBELET_CLIENT.name)),
            ("--service-account-key-file", pki.service_account_verifier()),
            (
                "--service-account-signing-key-file",
                pki.key("service-account"),
            ),
        ];
        command(&programs.api_server, flags, &files)
    }

    fn controller_manager_command(
        &self,
        programs: &Programs,
        kubeconfig: &std::path::Path,
    ) -> Command {
        let pki = self.pki();
        let flags = vec![
            format!("--bind-address={}", machine::server_address()),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
        ];
        let files = [
            ("--kubeconfig", kubeconfig.to_owned()),
            ("--cert-dir", self.folder.clone()),
            ("--root-ca-file", pki.authority()),
            ("--cluster-signing-cert-file", pki.authority()),
            ("--cluster-signing-key-file", pki.authority_key()),
            (
                "--service-account-private-key-file",
                pki.key("service-account"),
            ),
        ];
        command(&programs.controller_manager, flags, &files)
    }
}

const SERVICE_ACCOUNT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn etcd_address() -> String {
    format!("http://127.0.0.1:{}", layout::ETCD_PORT)
}

fn command(program: &std::path::Path, flags: Vec<String>, files: &[(&str, PathBuf)]) -> Command {
    let mut command = Command::new(program);
    command.args(flags);
    for (flag, path) in files {
        command.arg(format!("{flag}={}", path.display()));
    }
    command
}
