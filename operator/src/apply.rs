//! Brings objects to what they should be: server-side apply on what is ours, and nothing else.
//!
//! An object that another owner controls, or nobody, is never written or deleted ([`Error::NameTaken`]).
//! Nothing is written where nothing differs: the live object is read and compared first.

use crate::build::{APPLIED, Desired};
use kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
    ValidationDirective,
};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::Value;

/// Field manager of everything that the operator writes.
pub(crate) const MANAGER: &str = "headwater";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "{kind} '{name}' exists and is not controlled by this resource; delete or rename it, or give this resource another name"
    )]
    NameTaken { kind: String, name: String },
    #[error("{kind} '{name}' is still being deleted")]
    StillDeleting { kind: String, name: String },
    #[error("the API server refused {kind} '{name}'")]
    Refused {
        kind: String,
        name: String,
        source: Box<kube::Error>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    Unchanged,
    Written,
}

/// Creates or changes one object that `owner` (a uid) controls.
pub(crate) async fn apply(
    client: &Client,
    namespace: &str,
    desired: &Desired,
    owner: &str,
) -> Result<Applied, Error> {
    let (kind, name) = (&desired.resource.kind, &desired.name);
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &desired.resource);
    let refused = |source| Error::Refused {
        kind: kind.clone(),
        name: name.clone(),
        source: Box::new(source),
    };
    let live = api.get_opt(name).await.map_err(refused)?;
    let mut object = desired.object.clone();
    if let Some(live) = &live {
        if !controlled_by(live, owner) {
            return Err(Error::NameTaken {
                kind: kind.clone(),
                name: name.clone(),
            });
        }
        if live.metadata.deletion_timestamp.is_some() {
            return Err(Error::StillDeleting {
                kind: kind.clone(),
                name: name.clone(),
            });
        }
        if is_as_desired(live, desired) {
            return Ok(Applied::Unchanged);
        }
        // The API server refuses if it is another object by now than the one that was looked at.
        object["metadata"]["uid"] = Value::from(live.uid());
    }
    let params = PatchParams {
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(MANAGER).force()
    };
    let after = api
        .patch(name, &params, &Patch::Apply(&object))
        .await
        .map_err(refused)?;
    // A quantity that is written another way (0.5 for 500m) looks different and is the same.
    let same = live.is_some_and(|live| live.resource_version() == after.resource_version());
    Ok(if same {
        Applied::Unchanged
    } else {
        Applied::Written
    })
}

/// What is left of an object that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// There is none that is ours.
    Gone,
    /// It is being deleted, and its dependents before it.
    UnderWay,
}

/// Deletes an object if `owner` controls it; one of somebody else's is as good as gone. It goes after
/// what depends on it, so that [`Removal::Gone`] of a StatefulSet means that no pod of it runs.
pub(crate) async fn remove(
    client: &Client,
    namespace: &str,
    resource: &ApiResource,
    name: &str,
    owner: &str,
) -> Result<Removal, Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    let refused = |source| Error::Refused {
        kind: resource.kind.clone(),
        name: name.to_owned(),
        source: Box::new(source),
    };
    let Some(live) = api.get_opt(name).await.map_err(refused)? else {
        return Ok(Removal::Gone);
    };
    if !controlled_by(&live, owner) {
        return Ok(Removal::Gone);
    }
    if live.metadata.deletion_timestamp.is_none() {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: live.uid(),
                resource_version: None,
            }),
            propagation_policy: Some(PropagationPolicy::Foreground),
            ..DeleteParams::default()
        };
        match api.delete(name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Removal::Gone),
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(Removal::UnderWay)
}

fn controlled_by(live: &DynamicObject, owner: &str) -> bool {
    live.owner_references()
        .iter()
        .any(|reference| reference.controller == Some(true) && reference.uid == owner)
}

/// Whether the last apply was of the same, and everything it said still stands.
fn is_as_desired(live: &DynamicObject, desired: &Desired) -> bool {
    let metadata = &desired.object["metadata"];
    let texts = |field: &str, live: &std::collections::BTreeMap<String, String>| {
        metadata[field].as_object().is_none_or(|wanted| {
            wanted
                .iter()
                .all(|(key, value)| live.get(key).map(String::as_str) == value.as_str())
        })
    };
    live.annotations().get(APPLIED) == Some(&desired.hash)
        && texts("labels", live.labels())
        && texts("annotations", live.annotations())
        && desired.object.as_object().is_none_or(|wanted| {
            wanted
                .iter()
                .filter(|(field, _)| !matches!(field.as_str(), "apiVersion" | "kind" | "metadata"))
                .all(|(field, wanted)| live.data.get(field).is_some_and(|live| holds(live, wanted)))
        })
}

/// Whether a live value says all that is wanted; the API server adds defaults to objects, never items to our lists.
fn holds(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| live.get(key).is_some_and(|live| holds(live, wanted))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| holds(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_of_the_api_server_do_not_differ() {
        let live = json!({"ports": [{"name": "http", "port": 8080, "protocol": "TCP", "targetPort": 8080}], "type": "ClusterIP"});
        assert!(holds(
            &live,
            &json!({"ports": [{"name": "http", "port": 8080}]})
        ));
    }

    #[test]
    fn changed_added_and_missing_values_differ() {
        let wanted = json!({"replicas": 2, "items": ["a"]});
        assert!(!holds(&json!({"replicas": 3, "items": ["a"]}), &wanted));
        assert!(!holds(
            &json!({"replicas": 2, "items": ["a", "b"]}),
            &wanted
        ));
        assert!(!holds(&json!({"replicas": 2}), &wanted));
        assert!(holds(
            &json!({"replicas": 2, "items": ["a"], "more": 1}),
            &wanted
        ));
    }
}
