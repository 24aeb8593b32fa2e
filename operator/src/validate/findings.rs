//! What validation finds in a resource: problems, with their exact place, and warnings.

use super::checked::Source;
use crate::hint;
use crate::reason::Reason;
use crate::resources::{Id, Kind, Secret, SecretKey};
use headwater_engine::config::Envelope;
use headwater_engine::problem::{CompileError, reason};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Types of Secrets whose values are never sent anywhere.
const FORBIDDEN_SECRETS: [&str; 3] = [
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release.v1",
];

/// One thing that is wrong, or that somebody should know. Displayed as `<path>: <message>`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub reason: Reason,
    /// The field, as users write it: `spec.from[name=schedule].filter`.
    pub path: String,
    /// What is wrong and what to do. Holds names and expressions of resources, never values of Secrets or events.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// What became of one resource: what it means, or why it cannot work.
#[derive(Clone, Debug)]
pub struct Outcome<T> {
    /// The problems are never empty.
    pub result: Result<T, Vec<Problem>>,
    pub warnings: Vec<Problem>,
}

impl<T> Outcome<T> {
    pub fn ok(&self) -> Option<&T> {
        self.result.as_ref().ok()
    }

    pub fn problems(&self) -> &[Problem] {
        self.result.as_ref().err().map_or(&[], Vec::as_slice)
    }
}

/// Collects what is found in one resource.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Findings {
    pub(crate) fn problem(
        &mut self,
        reason: Reason,
        path: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.problems.push(Problem {
            reason,
            path: path.into(),
            message: message.into(),
        });
    }

    pub(crate) fn warn(
        &mut self,
        reason: Reason,
        path: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.warnings.push(Problem {
            reason,
            path: path.into(),
            message: message.into(),
        });
    }

    /// A field that this version does not do, if it says more than its default.
    pub(crate) fn not_supported(
        &mut self,
        set: bool,
        path: impl Into<String>,
        what: &str,
        instead: &str,
    ) {
        if set {
            self.problem(
                Reason::NotSupported,
                path,
                format!("{what} is not supported by this version of Headwater: {instead}"),
            );
        }
    }

    /// What the engine's compiler says, without what was found at the same place already.
    pub(crate) fn compiled<T>(&mut self, result: Result<T, CompileError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                for problem in error.problems {
                    let reason = match problem.reason {
                        reason::INVALID_EXPRESSION => Reason::InvalidExpression,
                        reason::INVALID_TEMPLATE => Reason::InvalidTemplate,
                        reason::INVALID_SCHEMA => Reason::InvalidSchema,
                        reason::REFERENCE_NOT_FOUND => Reason::NotFound,
                        reason::NOT_SUPPORTED => Reason::NotSupported,
                        _ => Reason::InvalidSpec,
                    };
                    let known =
                        |found: &Problem| found.reason == reason && found.path == problem.path;
                    if !self.problems.iter().any(known) {
                        self.problem(reason, problem.path, problem.message);
                    }
                }
                None
            }
        }
    }

    /// The resource that a reference names, if it is there and works.
    pub(crate) fn refer<'v, T>(
        &mut self,
        kind: Kind,
        path: impl Into<String>,
        name: &str,
        all: &'v BTreeMap<String, Outcome<T>>,
    ) -> Option<&'v T> {
        let Some(outcome) = all.get(name) else {
            let hint = hint::instead(name, all.keys().map(String::as_str));
            self.problem(
                Reason::NotFound,
                path,
                format!("{kind} '{name}' not found{hint}"),
            );
            return None;
        };
        match &outcome.result {
            Ok(value) => Some(value),
            Err(problems) => {
                let why = problems
                    .first()
                    .map_or_else(String::new, |first| format!(": {first}"));
                let id = Id::new(kind, name);
                self.problem(
                    Reason::DependencyNotReady,
                    path,
                    format!("waits for {id}{why}"),
                );
                None
            }
        }
    }

    /// A source that the resource writes events to. `path`: the field that names it.
    pub(crate) fn writes(&mut self, path: &str, name: &str, source: &Source) {
        if source.config.envelope != Envelope::None {
            self.problem(
                Reason::InvalidSpec,
                path,
                format!("EventSource '{name}' is read out of an envelope, which only a database connector writes; write to a source without one"),
            );
        }
    }

    /// A key of a Secret that the resource uses.
    pub(crate) fn secret(
        &mut self,
        path: &str,
        used: &SecretKey,
        known: &BTreeMap<String, Secret>,
    ) {
        match known.get(&used.secret) {
            None => {}
            Some(Secret::Missing) => self.problem(
                Reason::MissingSecret,
                path,
                format!("Secret '{}' not found; create it with the key '{}'", used.secret, used.key),
            ),
            Some(Secret::Found { kind, .. }) if FORBIDDEN_SECRETS.contains(&kind.as_str()) => self.problem(
                Reason::ForbiddenSecret,
                path,
                format!(
                    "Secret '{}' is of type {kind}, which Headwater never sends anywhere; put the credential into a Secret of type Opaque",
                    used.secret
                ),
            ),
            Some(Secret::Found { keys, .. }) if !keys.contains(&used.key) => {
                let hint = hint::instead(&used.key, keys.iter().map(String::as_str));
                self.problem(
                    Reason::MissingSecret,
                    path,
                    format!("Secret '{}' has no key '{}'{hint}", used.secret, used.key),
                );
            }
            Some(Secret::Found { .. }) => {}
        }
    }

    /// Everything that a pipeline needs has to be on one cluster.
    pub(crate) fn one_cluster(
        &mut self,
        path: &str,
        what: &str,
        clusters: &BTreeSet<(String, String)>,
    ) {
        let names: BTreeSet<&str> = clusters
            .iter()
            .map(|(_, cluster)| cluster.as_str())
            .collect();
        if names.len() > 1 {
            let each: Vec<String> = clusters
                .iter()
                .map(|(who, cluster)| format!("{who} is on '{cluster}'"))
                .collect();
            self.problem(
                Reason::DifferentClusters,
                path,
                format!("{what} must be on one KafkaCluster: {}", each.join(", ")),
            );
        }
    }

    /// Whether every reference so far led to a resource that works.
    pub(crate) fn references_resolved(&self) -> bool {
        !self.problems.iter().any(|problem| {
            matches!(
                problem.reason,
                Reason::NotFound | Reason::DependencyNotReady
            )
        })
    }

    pub(crate) fn finish<T>(self, value: Option<T>) -> Outcome<T> {
        let Self {
            mut problems,
            warnings,
        } = self;
        let result = match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => {
                if problems.is_empty() {
                    problems.push(Problem {
                        reason: Reason::InvalidSpec,
                        path: "spec".into(),
                        message: "the resource is not complete".into(),
                    });
                }
                Err(problems)
            }
        };
        Outcome { result, warnings }
    }
}
