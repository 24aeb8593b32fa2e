//! Leadership: of several operators one works, the others wait for its lease.
//!
//! A process that lost the lease stops at its next look at it. For a moment two may work; all that
//! they do is the same and can be done twice.

use kube::Client;
use kube_lease_manager::{LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Seconds that a lease is valid without renewal, and how long before its end it is renewed.
const DURATION_SECONDS: u64 = 15;
const GRACE_SECONDS: u64 = 5;

/// Whether this process leads, from now on.
pub(crate) struct Leadership {
    leads: watch::Receiver<bool>,
    task: Option<JoinHandle<()>>,
}

impl Leadership {
    /// Leads always: for a single operator.
    pub(crate) fn alone() -> (Self, watch::Sender<bool>) {
        let (sender, leads) = watch::channel(true);
        (Self { leads, task: None }, sender)
    }

    /// # Errors
    /// The lease could not be read or created.
    pub(crate) async fn campaign(
        client: Client,
        namespace: &str,
        lease: &str,
        identity: &str,
    ) -> Result<Self, LeaseManagerError> {
        let manager = LeaseManagerBuilder::new(client, lease)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await?;
        let (leads, task) = manager.watch().await;
        let task = tokio::spawn(async move {
            match task.await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be kept"),
                Err(error) => tracing::warn!(%error, "looking after the lease failed"),
            }
        });
        Ok(Self {
            leads,
            task: Some(task),
        })
    }

    /// Waits until it is so; false if nobody will ever say.
    pub(crate) async fn until(&mut self, leads: bool) -> bool {
        self.leads.wait_for(|now| *now == leads).await.is_ok()
    }

    /// Gives the lease back, so that the next one need not wait for its end.
    pub(crate) async fn resign(self) {
        drop(self.leads);
        if let Some(task) = self.task {
            // It logs its own failures.
            let _finished = task.await;
        }
    }
}
