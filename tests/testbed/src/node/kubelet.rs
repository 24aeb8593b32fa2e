//! The kubelet and the scheduler: what brings pods onto the node and keeps them there.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cluster::{
        kubeconfig,
        pki::{self, Pki},
    },
    error::Result,
    layout,
    node::cgroups,
};

/// The kubelet's command, its files being written to `folder`. `runtime` is containerd's endpoint.
pub(super) fn command(program: &Path, folder: &Path, pki: &Pki, runtime: &str) -> Result<Command> {
    layout::make_folder(folder)?;
    let kubeconfig = kubeconfig::write(folder, pki, pki::NODE)?;
    let resolver = folder.join("resolv.conf");
    let servers: String = crate::machine::name_servers()
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    layout::write(&resolver, servers)?;
    let configuration = folder.join("config.json");
    let text = configuration_text(folder, pki, runtime, &resolver);
    layout::write(&configuration, text)?;
    let mut command = Command::new(program);
    command
        .args([
            format!("--hostname-override={}", layout::NODE_NAME),
            format!("--node-ip={}", layout::NODE_ADDRESS),
        ])
        .arg(flag("--config", &configuration))
        .arg(flag("--kubeconfig", &kubeconfig))
        .arg(flag("--root-dir", &folder.join("root")))
        .arg(flag("--cert-dir", &folder.join("certificates")));
    Ok(command)
}

pub(super) fn scheduler_command(program: &Path, folder: &Path, pki: &Pki) -> Result<Command> {
    layout::make_folder(folder)?;
    let kubeconfig = kubeconfig::write(folder, pki, pki::SCHEDULER)?;
    let mut command = Command::new(program);
    command
        .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
        .arg(flag("--cert-dir", folder))
        .arg(flag("--kubeconfig", &kubeconfig));
    Ok(command)
}

/// Where the logs of pods are.
pub(super) fn logs(folder: &Path) -> PathBuf {
    folder.join("logs")
}

fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn configuration_text(folder: &Path, pki: &Pki, runtime: &str, resolver: &Path) -> String {
    let configuration = serde_json::json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout::NODE_ADDRESS,
        "authentication": {
            "anonymous": { "enabled": false },
            "x509": { "clientCAFile": pki.authority() },
        },
        "containerRuntimeEndpoint": runtime,
        "clusterDNS": [layout::DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": resolver,
        "podLogsDir": logs(folder),
        "volumePluginDir": folder.join("volume-plugins"),

        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups::ROOT,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        // Lowering it needs a right that a machine may lack.
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": false,

        // The disk is the machine's, and its fullness is no reason to end a test's pods or to drop an image that cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "serializeImagePulls": false,

        // A test that kills a container wants it back soon; by default it takes 10 s at first, and up to 5 minutes.
        "featureGates": { "KubeletCrashLoopBackOffMax": true },
        "crashLoopBackOff": { "maxContainerRestartPeriod": "1s" },
    });
    format!("{configuration:#}\n")
}
