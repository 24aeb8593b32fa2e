//! Statuses: kstatus conditions and what else a kind shows. Pure but for [`write`].
//!
//! `Ready` is true where the resource does what it says, `Reconciling` where the operator is at work or
//! waits, `Stalled` where a person must change something; `Warning` is there only where there is one.
//! Times are kept where nothing changed, so a status that says the same is the same.

use crate::apply::MANAGER;
use crate::reason::{Class, Reason};
use crate::snapshot::{Snapshot, api_resource};
use crate::validate::Problem;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most characters of a condition's message.
const MESSAGE: usize = 4_096;
/// Most problems that one message tells.
const TOLD: usize = 8;

/// How a resource is, in one reason and sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl State {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// What problems come to: the reason is that of the first which a person must mend, else of the first.
    pub(crate) fn of_problems(problems: &[Problem], running: bool) -> Self {
        let worst = problems
            .iter()
            .find(|problem| problem.reason.class() == Class::Stalls)
            .or(problems.first());
        let mut message = problems
            .iter()
            .take(TOLD)
            .map(Problem::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        if problems.len() > TOLD {
            message.push_str(&format!("; and {} more", problems.len() - TOLD));
        }
        if running {
            message.push_str(". The last configuration that worked goes on running");
        }
        Self::new(
            worst.map_or(Reason::InvalidSpec, |problem| problem.reason),
            message,
        )
    }
}

/// What a status shows beyond its conditions; `None` and empty are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partitions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) initial_partitions: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) topics: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) building: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) plan: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replicas: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready_replicas: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) selector: Option<String>,
}

/// Topics as [`Shown::topics`] has them.
pub(crate) fn topics(created: &BTreeMap<String, String>) -> Vec<Value> {
    created
        .iter()
        .map(|(name, id)| json!({"name": name, "id": id}))
        .collect()
}

/// The whole status, with the times of conditions that did not change.
/// Without `shown`, what was shown before stays.
pub(crate) fn status(
    snapshot: &Snapshot,
    state: &State,
    warnings: &[Problem],
    shown: Option<&Shown>,
    now: Timestamp,
) -> Value {
    let class = state.reason.class();
    let ready = matches!(class, Class::Good | Class::Warns);
    let mut conditions = vec![
        condition("Ready", ready, state.reason.as_str(), &state.message),
        condition(
            "Reconciling",
            matches!(class, Class::Working | Class::Waits),
            state.reason.as_str(),
            &state.message,
        ),
        condition(
            "Stalled",
            class == Class::Stalls,
            state.reason.as_str(),
            &state.message,
        ),
    ];
    if let Some(first) = warnings.first() {
        let message = warnings
            .iter()
            .take(TOLD)
            .map(Problem::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        conditions.push(condition("Warning", true, first.reason.as_str(), &message));
    }
    let before = conditions_of(&snapshot.status);
    for condition in &mut conditions {
        condition.observed_generation = Some(snapshot.generation);
        let same = before
            .iter()
            .find(|old| old.type_ == condition.type_ && old.status == condition.status);
        condition.last_transition_time =
            same.map_or(Time(now), |old| old.last_transition_time.clone());
    }
    let mut status = match (shown, &snapshot.status) {
        (Some(shown), _) => serde_json::to_value(shown).unwrap_or_default(),
        (None, Value::Object(_)) => snapshot.status.clone(),
        (None, _) => json!({}),
    };
    if let Some(fields) = status.as_object_mut() {
        fields.insert("observedGeneration".into(), json!(snapshot.generation));
        fields.insert("conditions".into(), json!(conditions));
    }
    status
}

fn condition(type_: &str, holds: bool, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.chars().take(MESSAGE).collect(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    }
}

fn conditions_of(status: &Value) -> Vec<Condition> {
    status
        .get("conditions")
        .and_then(|conditions| serde_json::from_value(conditions.clone()).ok())
        .unwrap_or_default()
}

/// Reason of the condition `Ready` in a status.
pub(crate) fn ready_reason(status: &Value) -> Option<(bool, String)> {
    let ready = conditions_of(status)
        .into_iter()
        .find(|condition| condition.type_ == "Ready")?;
    Some((ready.status == "True", ready.reason))
}

/// Writes a status.
///
/// # Errors
/// The API server's refusal; a resource that is gone by now is none.
pub(crate) async fn write(
    client: &Client,
    namespace: &str,
    snapshot: &Snapshot,
    status: &Value,
) -> kube::Result<()> {
    let resource = api_resource(snapshot.id.kind);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let object = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        // With the uid, a resource of the same name that came after it is refused.
        "metadata": {"name": snapshot.id.name, "namespace": namespace, "uid": snapshot.uid},
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api
        .patch_status(&snapshot.id.name, &params, &Patch::Apply(&object))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}
