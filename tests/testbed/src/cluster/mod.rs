//! The control plane that all tests share: etcd, kube-apiserver and kube-controller-manager.
//!
//! Enough for everything that happens in the API: resources, admission, garbage collection, service accounts. Pods stay pending; the
//! node is another module.

pub(crate) mod kubeconfig;
pub(crate) mod pki;
pub(crate) mod servers;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::Result,
    layout, node,
    tools::{self, Kubectl},
};

pub(crate) use servers::{Programs, Servers};

/// A cluster's API, and the tools to talk to it.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    kubectl: Kubectl,
}

impl ControlPlane {
    pub(crate) fn shared() -> Result<Self> {
        if let Some(given) = given_kubeconfig() {
            return Ok(Self {
                kubectl: Kubectl::fetch(given)?,
            });
        }
        let programs = Programs::fetch()?;
        let kubectl = Kubectl::fetch(Servers::new().kubeconfig())?;
        let _lock = layout::Lock::on(&layout::state())?;
        Self::start(&programs, kubectl)
    }

    /// The bed's own. The caller holds the lock.
    pub(crate) fn start(programs: &Programs, kubectl: Kubectl) -> Result<Self> {
        let servers = Servers::new();
        if !servers.has_data() {
            // A node of the former cluster knows pods that are no more, and would not register with the new one.
            node::remove()?;
            servers.remove()?;
        }
        servers.start(programs, &kubectl)?;
        Ok(Self { kubectl })
    }

    /// A kubeconfig with all rights, for any client.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        self.kubectl.kubeconfig()
    }

    pub(crate) fn kubectl_tool(&self) -> &Kubectl {
        &self.kubectl
    }

    /// kubectl, set to this cluster; arguments are the caller's to add.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        self.kubectl.command()
    }

    /// Helm, set to this cluster; arguments are the caller's to add. Built on first use.
    ///
    /// # Errors
    /// When it has to be built and cannot be.
    pub fn helm(&self) -> Result<Command> {
        tools::helm(self.kubeconfig())
    }
}

/// The cluster that the user wants to be used, unless it is the bed's own (`testbed env` sets the variable too).
pub(crate) fn given_kubeconfig() -> Option<PathBuf> {
    layout::given("KUBECONFIG")
        .map(PathBuf::from)
        .filter(|path| *path != Servers::new().kubeconfig())
}

/// Builds the programs.
pub(crate) fn prepare() -> Result<()> {
    Programs::fetch()?;
    Kubectl::fetch(Servers::new().kubeconfig())?;
    Ok(())
}

/// Ends the bed's cluster, its node included, and forgets it. The caller holds the lock.
pub(crate) fn remove() -> Result<()> {
    node::remove()?;
    Servers::new().remove()?;
    tools::remove_caches()
}
