//! What is known of Kafka, cluster by cluster, for one namespace.
//!
//! Each cluster is asked on its own, in the background: one that does not answer delays no other. A
//! cluster is asked again when what is wanted of it changes, after a failure with growing pauses, and
//! every few minutes to see what others changed.

use crate::brokers::{Brokers, Key};
use crate::generations::{Look, Seen};
use crate::metrics::Metrics;
use crate::plan::{Topic, generation::hash};
use crate::resources::SecretKey;
use crate::secrets::Secrets;
use crate::topics::{self, Ensured};
use crate::validate::{Problem, checked::Cluster};
use headwater_engine::config;
use headwater_kafka::{Settings, settings};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often topics are looked at although nothing changed.
const AGAIN: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How to reach a cluster, and what identifies these settings. No `Debug`: it holds passwords.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) settings: Settings,
    pub(crate) version: String,
}

/// What was found, or what is wrong with the cluster as a whole.
type Found = Result<Ensured, Problem>;

/// An answer of a cluster, for [`Clusters::accept`].
pub(crate) struct Answer {
    cluster: String,
    version: String,
    found: Found,
}

#[derive(Default)]
struct Asked {
    connection: Option<Connection>,
    /// Version of what was last asked for, while the answer is awaited.
    asked: Option<String>,
    /// Version of what was last answered, with the answer.
    answered: Option<(String, Found)>,
    failures: u32,
    next: Option<Instant>,
}

/// The clusters of one namespace.
pub(crate) struct Clusters {
    namespace: String,
    brokers: Arc<Brokers>,
    metrics: Arc<Metrics>,
    answers: mpsc::Sender<Answer>,
    clusters: BTreeMap<String, Asked>,
}

impl Clusters {
    pub(crate) fn new(
        namespace: &str,
        brokers: Arc<Brokers>,
        metrics: Arc<Metrics>,
        answers: mpsc::Sender<Answer>,
    ) -> Self {
        Self {
            namespace: namespace.to_owned(),
            brokers,
            metrics,
            answers,
            clusters: BTreeMap::new(),
        }
    }

    /// The answer about exactly these topics, if there is one; asks for it if it is time to.
    pub(crate) fn ensure(
        &mut self,
        name: &str,
        cluster: &Cluster,
        secrets: &Secrets,
        topics: Vec<Topic>,
        looks: BTreeSet<Look>,
    ) -> Option<&Found> {
        let connection = connection(&self.namespace, cluster, secrets);
        let version = hash(&(&connection.version, &topics, &looks));
        let state = self.clusters.entry(name.to_owned()).or_default();
        state.connection = Some(connection.clone());
        let current = state
            .answered
            .as_ref()
            .is_some_and(|(answered, _)| *answered == version);
        let due = !current || state.next.is_none_or(|next| next <= Instant::now());
        if due && state.asked.is_none() {
            state.asked = Some(version.clone());
            let key = Key {
                namespace: self.namespace.clone(),
                cluster: name.to_owned(),
            };
            let (brokers, answers) = (Arc::clone(&self.brokers), self.answers.clone());
            let metrics = Arc::clone(&self.metrics);
            tokio::spawn(async move {
                let Connection {
                    settings,
                    version: of,
                } = connection;
                let found = brokers.with(&key, &of, &settings, move |admin| {
                    // With no topics to look at it still has to be seen whether Kafka answers.
                    admin.describe(&["headwater"])?;
                    topics::ensure(admin, &topics, &looks, Timestamp::now().as_millisecond())
                });
                let found = found.await.map_err(|error| {
                    tracing::warn!(namespace = key.namespace, cluster = key.cluster, %error, "kafka");
                    topics::problem("spec.bootstrapServers", &error)
                });
                if let Ok(ensured) = &found {
                    metrics.topics(ensured.changes);
                }
                // The receiver is gone when the namespace is no longer looked after.
                let _unheard = answers
                    .send(Answer {
                        cluster: key.cluster,
                        version,
                        found,
                    })
                    .await;
            });
        }
        self.clusters
            .get(name)?
            .answered
            .as_ref()
            .filter(|_| current)
            .map(|(_, found)| found)
    }

    /// What was last answered about sources' logs; it may be about other topics than are wanted by now.
    pub(crate) fn seen(&self, name: &str) -> Option<&BTreeMap<Look, Seen>> {
        let (_, found) = self.clusters.get(name)?.answered.as_ref()?;
        found.as_ref().ok().map(|ensured| &ensured.seen)
    }

    /// Takes an answer in.
    pub(crate) fn accept(&mut self, answer: Answer) {
        let Some(state) = self.clusters.get_mut(&answer.cluster) else {
            return;
        };
        state.asked = None;
        let bad = answer.found.as_ref().map_or(true, |ensured| {
            ensured.unsettled || !ensured.problems.is_empty()
        });
        state.failures = if bad { state.failures + 1 } else { 0 };
        let pause = if bad {
            FIRST_PAUSE
                .saturating_mul(1 << state.failures.min(5) >> 1)
                .min(LONGEST_PAUSE)
        } else {
            AGAIN
        };
        state.next = Some(Instant::now() + pause);
        state.answered = Some((answer.version, answer.found));
    }

    /// When one is to be asked again.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.clusters
            .values()
            .filter(|state| state.asked.is_none())
            .filter_map(|state| state.next)
            .min()
    }

    /// How the cluster was last reached; held so that topics can be deleted after Secret and KafkaCluster are gone.
    pub(crate) fn connection(&self, name: &str) -> Option<&Connection> {
        self.clusters.get(name)?.connection.as_ref()
    }
}

/// Settings of a client, with the values of Secrets in them.
fn connection(namespace: &str, cluster: &Cluster, secrets: &Secrets) -> Connection {
    let value = |file: &String| {
        let (secret, key) = file.split_once('/').unwrap_or_default();
        secrets
            .value(&SecretKey::new(secret, key))
            .map(str::to_owned)
    };
    let config = &cluster.config;
    let identities = secrets.identities();
    let used: BTreeMap<&String, Option<&String>> = cluster
        .secrets
        .iter()
        .map(|key| (&key.secret, identities.get(&key.secret)))
        .collect();
    Connection {
        version: hash(&(config, used)),
        settings: Settings {
            bootstrap_servers: config
                .bootstrap_servers
                .iter()
                .map(|server| seen_from(namespace, server))
                .collect(),
            client_id: "headwater-operator".to_owned(),
            tls: config.tls.as_ref().map(|tls| settings::Tls {
                ca: tls.ca_file.as_ref().and_then(value),
                certificate: tls
                    .certificate_file
                    .as_ref()
                    .and_then(value)
                    .zip(tls.key_file.as_ref().and_then(value)),
            }),
            sasl: config.sasl.as_ref().map(|sasl| settings::Sasl {
                mechanism: match sasl.mechanism {
                    config::SaslMechanism::ScramSha512 => settings::SaslMechanism::ScramSha512,
                    config::SaslMechanism::ScramSha256 => settings::SaslMechanism::ScramSha256,
                    config::SaslMechanism::Plain => settings::SaslMechanism::Plain,
                },
                username: sasl.username.clone(),
                password: value(&sasl.password_file).unwrap_or_default(),
            }),
            client_config: config.client_config.clone(),
        },
    }
}

/// A server's address as pods of `namespace` resolve it: a name without dots is a Service there, and the operator runs elsewhere.
fn seen_from(namespace: &str, server: &str) -> String {
    match server.rsplit_once(':') {
        Some((host, port)) if !host.contains(['.', ':']) && host != "localhost" => {
            format!("{host}.{namespace}.svc:{port}")
        }
        _ => server.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_found_from_another_namespace() {
        assert_eq!(seen_from("shop", "kafka:9092"), "kafka.shop.svc:9092");
        for server in [
            "kafka.streams.svc:9092",
            "10.0.0.1:9092",
            "[::1]:9092",
            "localhost:9092",
        ] {
            assert_eq!(seen_from("shop", server), server);
        }
    }
}
