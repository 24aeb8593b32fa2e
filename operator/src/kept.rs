//! Generations of views that their resources do not ask for any more, read back from the ConfigMaps of their stages.
//!
//! A stage's ConfigMap is the one place where a former generation still stands. It is read once for each
//! generation that is still needed, and kept in memory.

use crate::build;
use crate::generations::{Kept, Remembered, owned};
use crate::plan::{Generation, view_workload};
use crate::resources::Kind;
use crate::snapshot::Snapshot;
use crate::validate::Validation;
use headwater_engine::config;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was read.
#[derive(Default)]
pub(crate) struct Archive {
    pub(crate) generations: Kept,
    /// Uids of views of which a generation could not be read: nothing is decided about them.
    pub(crate) unread: BTreeSet<String>,
}

impl Archive {
    /// Reads what is needed and not known yet, and forgets what is not needed any more.
    pub(crate) async fn refresh(
        &mut self,
        client: &Client,
        validation: &Validation,
        snapshots: &[Snapshot],
        sets: &BTreeMap<String, Arc<StatefulSet>>,
    ) {
        self.unread.clear();
        let mut needed = BTreeSet::new();
        for snapshot in snapshots {
            for generation in wanted(validation, snapshot, sets) {
                let key = (snapshot.uid.clone(), generation);
                if !self.generations.contains_key(&key) {
                    match read(client, &validation.namespace, snapshot, &key.1).await {
                        Ok(Some(found)) => {
                            self.generations.insert(key.clone(), found);
                        }
                        Ok(None) => {
                            tracing::warn!(namespace = validation.namespace, resource = %snapshot.id, generation = key.1, "the configuration of a generation is gone");
                        }
                        Err(error) => {
                            tracing::warn!(namespace = validation.namespace, resource = %snapshot.id, %error, "a generation's configuration could not be read");
                            self.unread.insert(snapshot.uid.clone());
                        }
                    }
                }
                needed.insert(key);
            }
        }
        self.generations.retain(|key, _| needed.contains(key));
    }
}

/// Generations that the view may be read by and does not ask for.
fn wanted(
    validation: &Validation,
    snapshot: &Snapshot,
    sets: &BTreeMap<String, Arc<StatefulSet>>,
) -> BTreeSet<String> {
    if snapshot.id.kind != Kind::ContextView || snapshot.deleting.is_some() {
        return BTreeSet::new();
    }
    let Some(view) = validation
        .views
        .get(&snapshot.id.name)
        .and_then(|outcome| outcome.ok())
    else {
        return BTreeSet::new();
    };
    let remembered = Remembered::of(snapshot);
    let mut generations: BTreeSet<String> = match &remembered {
        Remembered {
            served: None,
            building: None,
        } => owned(snapshot, sets)
            .filter_map(build::generation_of)
            .map(str::to_owned)
            .collect(),
        known => known
            .served
            .iter()
            .chain(&known.building)
            .cloned()
            .collect(),
    };
    // Of a view that joins others the generation is only known once these are decided.
    if view.joined().next().is_none() {
        generations.remove(&view.config.generation);
    }
    generations
}

/// `None` where there is none, or one that says nothing that can be used.
async fn read(
    client: &Client,
    namespace: &str,
    snapshot: &Snapshot,
    generation: &str,
) -> kube::Result<Option<Generation>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = view_workload(&snapshot.id.name, generation);
    let Some(found) = api.get_opt(&name).await? else {
        return Ok(None);
    };
    let owners = found.metadata.owner_references.unwrap_or_default();
    if !owners.iter().any(|owner| owner.uid == snapshot.uid) {
        return Ok(None);
    }
    let text = found.data.unwrap_or_default().remove(build::STAGE_FILE);
    let stage: Option<config::Stage> = text.and_then(|text| serde_json::from_str(&text).ok());
    Ok(stage
        .and_then(|stage| Generation::of_stage(&stage, &snapshot.id.name))
        .filter(|found| found.id() == generation))
}
