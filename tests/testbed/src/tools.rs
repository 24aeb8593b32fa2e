//! The command line tools of Kubernetes, ready to use with a given cluster: kubectl and Helm.
//!
//! Their caches are kept in the bed's state: discovery of an earlier cluster at the same address would mislead kubectl.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{error::Result, fetch::go, layout, run};

/// kubectl for one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// The one on the search path, else the bed's own, built on first use.
    pub(crate) fn fetch(kubeconfig: PathBuf) -> Result<Self> {
        let program = run::on_path("kubectl").map_or_else(|| go::KUBECTL.built(), Ok)?;
        Ok(Self {
            program,
            kubeconfig,
        })
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", layout::state().join("kubectl"));
        command
    }
}

/// Helm: the one on the search path if it is of the same major version, else the bed's own, built on first use.
pub(crate) fn helm_program() -> Result<PathBuf> {
    match run::on_path("helm") {
        Some(helm) if is_same_major(&helm) => Ok(helm),
        _ => go::HELM.built(),
    }
}

pub(crate) fn helm(kubeconfig: &Path) -> Result<Command> {
    let folder = layout::state().join("helm");
    let mut command = Command::new(helm_program()?);
    command
        .env("KUBECONFIG", kubeconfig)
        .env("HELM_CACHE_HOME", folder.join("cache"))
        .env("HELM_CONFIG_HOME", folder.join("config"))
        .env("HELM_DATA_HOME", folder.join("data"));
    Ok(command)
}

fn is_same_major(helm: &Path) -> bool {
    let major = layout::HELM.split('.').next().unwrap_or_default();
    run::call(helm, &["version", "--short"])
        .is_ok_and(|version| version.starts_with(&format!("v{major}.")))
}

pub(crate) fn remove_caches() -> Result<()> {
    layout::remove_folder(&layout::state().join("kubectl"))?;
    layout::remove_folder(&layout::state().join("helm"))
}
