//! The pods' network: an address and a link for each pod (CNI), Services (kube-proxy), and the way out.
//!
//! Each pod has a link of its own to the machine, which routes between them. A bridge would need the kernel to hand bridged packets to
//! nftables, or answers of Services would not find their way back.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    cluster::{
        kubeconfig,
        pki::{self, Pki},
    },
    error::{Error, FileContext, Result},
    layout, run,
};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const TABLE: &str = "headwater-testbed";
/// Where CNI keeps what each plugin answered, for all runtimes of a machine.
const RESULTS: &str = "/var/lib/cni/results";
/// Where Debian and where the plugins' authors put them.
const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];
const PLUGIN: &str = "ptp";

/// The folder with the CNI plugins.
pub(super) fn plugins() -> PathBuf {
    let folders = PLUGINS.map(PathBuf::from);
    let found = folders.iter().find(|folder| folder.join(PLUGIN).is_file());
    found.unwrap_or(&folders[0]).clone()
}

/// Makes the machine forward, and writes the CNI configuration to the folder that is returned.
pub(super) fn prepare(folder: &Path) -> Result<PathBuf> {
    let networks = folder.join("cni");
    layout::make_folder(&networks)?;
    let network = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": TABLE,
        "plugins": [{
            "type": PLUGIN,
            "ipam": {
                "type": "host-local",
                "dataDir": folder.join("addresses"),
                "ranges": [[{ "subnet": layout::POD_RANGE }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    layout::write(&networks.join("10-pods.conflist"), network.to_string())?;

    let before = fs::read_to_string(FORWARDING).at("read", FORWARDING)?;
    if before.trim() != "1" {
        layout::write(&folder.join("forwarding"), before)?;
        layout::write(Path::new(FORWARDING), "1")?;
    }
    let range = layout::POD_RANGE;
    nft(&format!(
        "table ip {TABLE} {{\n\
           chain postrouting {{\n\
             type nat hook postrouting priority srcnat;\n\
             ip saddr {range} ip daddr != {range} masquerade\n\
           }}\n\
         }}\n"
    ))?;
    Ok(networks)
}

/// kube-proxy's command, its files being written to `folder`.
pub(super) fn proxy_command(program: &Path, folder: &Path, pki: &Pki) -> Result<Command> {
    let kubeconfig = kubeconfig::write(folder, pki, pki::PROXY)?;
    let configuration = serde_json::json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": { "kubeconfig": kubeconfig },
        "clusterCIDR": layout::POD_RANGE,
        "hostnameOverride": layout::NODE_NAME,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "nftables": { "minSyncPeriod": "100ms" },
        // These are the machine's own settings, not for us to change.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    });
    let path = folder.join("kube-proxy.json");
    layout::write(&path, configuration.to_string())?;
    let mut command = Command::new(program);
    command.arg(format!("--config={}", path.display()));
    // kube-proxy calls nft, which Debian keeps where only root looks.
    let search_path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{search_path}:/usr/sbin:/sbin"));
    Ok(command)
}

/// Takes everything back that `prepare`, kube-proxy and the plugins did to the machine. Pods must have ended: their links go with them.
pub(super) fn remove(folder: &Path) -> Result<()> {
    for (family, table) in [("ip", TABLE), ("ip", "kube-proxy"), ("ip6", "kube-proxy")] {
        if run::on_path("nft").is_some() {
            // Only a table that is there can be deleted, and adding one that is there does no harm.
            nft(&format!(
                "add table {family} {table}\ndelete table {family} {table}\n"
            ))?;
        }
    }
    if let Ok(before) = fs::read_to_string(folder.join("forwarding")) {
        layout::write(Path::new(FORWARDING), before)?;
    }
    let ours = folder.to_string_lossy().into_owned();
    for entry in fs::read_dir(RESULTS).into_iter().flatten().flatten() {
        let path = entry.path();
        let text = fs::read(&path).unwrap_or_default();
        if String::from_utf8_lossy(&text).contains(&ours) {
            fs::remove_file(&path).at("remove", path)?;
        }
    }
    Ok(())
}

fn nft(rules: &str) -> Result<()> {
    let program = run::on_path("nft").unwrap_or_else(|| "nft".into());
    let spawned = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|source| Error::Spawn {
        program: "nft".to_owned(),
        source,
    })?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all(rules.as_bytes())
            .at("write to the input of", "nft")?;
    }
    let output = child.wait_with_output().at("read the output of", "nft")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("nft, with the rules: {rules}"),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
