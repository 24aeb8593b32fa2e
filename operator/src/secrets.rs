//! Secrets by the names that resources give: read one at a time, again each minute, never listed or watched.
//!
//! Only what is needed stays: type, keys and identity; values only of what clients of Kafka need, and
//! without `Debug`.

use crate::resources::{Secret, SecretKey};
use k8s_openapi::api::core::v1::Secret as Object;
use kube::{Api, Client};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How often a Secret is read again.
const AGAIN: Duration = Duration::from_secs(60);
/// How soon after it could not be read, or was missing.
const SOON: Duration = Duration::from_secs(5);

struct Entry {
    known: Secret,
    /// uid and version.
    identity: String,
    /// What clients of Kafka need.
    values: BTreeMap<String, String>,
    read: Instant,
}

impl Entry {
    fn due(&self) -> Instant {
        self.read
            + if self.known == Secret::Missing {
                SOON
            } else {
                AGAIN
            }
    }
}

/// The Secrets of one namespace.
#[derive(Default)]
pub(crate) struct Secrets {
    entries: BTreeMap<String, Entry>,
}

impl Secrets {
    /// Reads those named that are due, and forgets those that are not named. `valued` are the names whose values are needed.
    ///
    /// # Errors
    /// The API server's; what was known before stays known.
    pub(crate) async fn refresh(
        &mut self,
        client: &Client,
        namespace: &str,
        names: &BTreeSet<String>,
        valued: &BTreeSet<String>,
    ) -> kube::Result<()> {
        self.entries.retain(|name, _| names.contains(name));
        let api: Api<Object> = Api::namespaced(client.clone(), namespace);
        let mut failed = None;
        for name in names {
            let now = Instant::now();
            let fresh = self.entries.get(name).is_some_and(|entry| {
                entry.due() > now
                    && (!valued.contains(name)
                        || !entry.values.is_empty()
                        || entry.known == Secret::Missing)
            });
            if fresh {
                continue;
            }
            match api.get_opt(name).await {
                Ok(found) => {
                    self.entries
                        .insert(name.clone(), entry(found, valued.contains(name)));
                }
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.values().map(Entry::due).min()
    }

    pub(crate) fn known(&self) -> BTreeMap<String, Secret> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.known.clone()))
            .collect()
    }

    /// Identities by name, for pods that have to be rolled when a Secret changes.
    pub(crate) fn identities(&self) -> BTreeMap<String, String> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.clone(), entry.identity.clone()))
            .collect()
    }

    /// Whether all of these were read and are there.
    pub(crate) fn knows(&self, keys: &BTreeSet<SecretKey>) -> bool {
        keys.iter().all(|key| {
            self.entries
                .get(&key.secret)
                .is_some_and(|entry| entry.known != Secret::Missing)
        })
    }

    pub(crate) fn value(&self, key: &SecretKey) -> Option<&str> {
        self.entries
            .get(&key.secret)?
            .values
            .get(&key.key)
            .map(String::as_str)
    }
}

fn entry(found: Option<Object>, valued: bool) -> Entry {
    let read = Instant::now();
    let Some(secret) = found else {
        return Entry {
            known: Secret::Missing,
            identity: String::new(),
            values: BTreeMap::new(),
            read,
        };
    };
    let data = secret.data.unwrap_or_default();
    let metadata = secret.metadata;
    Entry {
        known: Secret::Found {
            kind: secret.type_.unwrap_or_else(|| "Opaque".to_owned()),
            keys: data.keys().cloned().collect(),
        },
        identity: format!(
            "{}/{}",
            metadata.uid.unwrap_or_default(),
            metadata.resource_version.unwrap_or_default()
        ),
        values: if valued {
            data.into_iter()
                .filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)))
                .collect()
        } else {
            BTreeMap::new()
        },
        read,
    }
}
