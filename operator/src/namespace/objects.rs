//! Objects of stages: applied where they differ, removed where they are not wanted any more.

use super::{BELIEVED, Chain, Namespace, Verified, problem_of};
use crate::apply::{self, Applied, Removal};
use crate::brokers::Key;
use crate::build::{self, Desired};
use crate::generations::Progress;
use crate::plan::{Stage, view_workload};
use crate::reason::Reason;
use crate::resources::Kind;
use crate::snapshot::Snapshot;
use crate::validate::Problem;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::core::ApiResource;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

impl Namespace {
    /// Applies the objects of a resource's stages, and takes away those of generations that nobody needs.
    /// Gives back what went wrong.
    pub(super) async fn bring_about(
        &mut self,
        snapshot: &Snapshot,
        stages: &[&Stage],
        progress: Option<&Progress>,
        sets: &BTreeMap<String, Arc<StatefulSet>>,
    ) -> Vec<Problem> {
        for stage in stages {
            if let Err(problem) = self.stage(snapshot, stage, sets).await {
                return vec![problem];
            }
        }
        let Some(progress) = progress.filter(|_| snapshot.id.kind == Kind::ContextView) else {
            return Vec::new();
        };
        let read = stages
            .iter()
            .find(|stage| stage.generation.is_some() && stage.generation == progress.step.read);
        if let Some(read) = read {
            let serving = build::serving(read, &snapshot.owner());
            let name = build::serving_name(&snapshot.id.name);
            let kind = build::serving_kind();
            if let Err(problem) = self
                .object(snapshot, &kind, &name, serving.as_ref(), None)
                .await
            {
                return vec![problem];
            }
        }
        for generation in &progress.step.remove {
            let workload = view_workload(&snapshot.id.name, generation);
            if sets.contains_key(&workload)
                && let Err(problem) = self.take_away(snapshot, &workload).await
            {
                return vec![problem];
            }
        }
        Vec::new()
    }

    /// Deletes topics of generations that have no stage any more.
    pub(super) fn remove_topics(&mut self, snapshot: &Snapshot, progress: &Progress) {
        let Some(home) = self.homes.get(&snapshot.uid) else {
            return;
        };
        let Some(connection) = self.clusters.connection(home).cloned() else {
            return;
        };
        let key = Key {
            namespace: self.name.clone(),
            cluster: home.clone(),
        };
        self.removals.begin(
            &snapshot.uid,
            progress.leftover.clone(),
            key,
            connection,
            Arc::clone(&self.shared.brokers),
        );
    }

    async fn stage(
        &mut self,
        snapshot: &Snapshot,
        stage: &Stage,
        sets: &BTreeMap<String, Arc<StatefulSet>>,
    ) -> Result<(), Problem> {
        let workload = stage.workload();
        let identities = self.secrets.identities();
        // Without knowing its version, pods would be rolled as if the Secret had changed.
        if let Some(unread) = stage
            .secrets
            .keys()
            .find(|name| !identities.contains_key(*name))
        {
            return Err(Problem {
                reason: Reason::ApiServerFailed,
                path: "spec".to_owned(),
                message: format!("Secret '{unread}' could not be read; it is tried again"),
            });
        }
        let wanted = build::objects(stage, &snapshot.owner(), &self.shared.build, &identities);
        let generation = sets.get(&workload).and_then(|set| set.metadata.generation);
        for resource in build::kinds() {
            let desired = wanted
                .iter()
                .find(|desired| desired.resource.kind == resource.kind);
            let of_set = (resource.kind == "StatefulSet")
                .then_some(generation)
                .flatten();
            // What comes after needs what comes before.
            self.object(snapshot, &resource, &workload, desired, of_set)
                .await?;
        }
        Ok(())
    }

    /// Applies one object, or removes it where none is wanted, unless it was just found right.
    async fn object(
        &mut self,
        snapshot: &Snapshot,
        resource: &ApiResource,
        name: &str,
        desired: Option<&Desired>,
        generation: Option<i64>,
    ) -> Result<(), Problem> {
        let hash = desired.map_or("", |desired| &desired.hash);
        let key = (resource.kind.clone(), name.to_owned());
        let believed = self.verified.get(&key).is_some_and(|verified| {
            verified.hash == hash
                && verified.generation == generation
                && verified.at.elapsed() < BELIEVED
        });
        if believed {
            return Ok(());
        }
        let (client, namespace) = (&self.shared.client, &self.name);
        let result = match desired {
            Some(desired) => apply::apply(client, namespace, desired, &snapshot.uid)
                .await
                .map(|applied| applied == Applied::Written),
            None => apply::remove(client, namespace, resource, name, &snapshot.uid)
                .await
                .map(|removal| removal == Removal::UnderWay),
        };
        match result {
            Ok(true) => {
                self.verified.remove(&key);
                self.shared.metrics.wrote("object");
                tracing::info!(namespace, resource = %snapshot.id, kind = resource.kind, name, "applied");
                Ok(())
            }
            Ok(false) => {
                let verified = Verified {
                    hash: hash.to_owned(),
                    generation,
                    at: Instant::now(),
                };
                self.verified.insert(key, verified);
                Ok(())
            }
            Err(error) => {
                self.verified.remove(&key);
                tracing::warn!(namespace, resource = %snapshot.id, error = %Chain(&error), "an object could not be applied");
                Err(problem_of(&error))
            }
        }
    }

    /// Removes all objects of a workload, the StatefulSet last: while it is there, the rest is not forgotten.
    async fn take_away(&mut self, snapshot: &Snapshot, workload: &str) -> Result<(), Problem> {
        for resource in build::kinds() {
            self.verified
                .remove(&(resource.kind.clone(), workload.to_owned()));
            let removed = apply::remove(
                &self.shared.client,
                &self.name,
                &resource,
                workload,
                &snapshot.uid,
            )
            .await;
            match removed {
                Ok(Removal::Gone) => {}
                Ok(Removal::UnderWay) => {
                    self.shared.metrics.wrote("object");
                    tracing::info!(namespace = self.name, resource = %snapshot.id, kind = resource.kind, name = workload, "removed");
                }
                Err(error) => {
                    tracing::warn!(namespace = self.name, resource = %snapshot.id, error = %Chain(&error), "an object could not be removed");
                    return Err(problem_of(&error));
                }
            }
        }
        Ok(())
    }
}
