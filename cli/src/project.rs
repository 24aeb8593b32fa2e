//! From a folder to what runs: resources, what validation says of them, and the plan.
//!
//! The same validation and the same plan as the operator's; this module only brings the resources in
//! and puts file, line and column to what is found.

use crate::error::Error;
use crate::finding::{Finding, Severity};
use crate::folder::{Document, Folder, Namespace};
use crate::gateway::Directory;
use crate::secrets::{Mounted, from_environment, variable};
use headwater_engine::names::Owner;
use headwater_operator::Reason;
use headwater_operator::plan::{self, Plan};
use headwater_operator::resources::{Object, Resources, Secret};
use headwater_operator::validate::{Problem, Settings, Validation, validate};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// The resources of one namespace, checked.
pub(crate) struct Scope {
    pub(crate) namespace: String,
    pub(crate) validation: Validation,
}

/// A folder, read and checked.
pub(crate) struct Project {
    pub(crate) folder: Folder,
    pub(crate) scopes: Vec<Scope>,
    /// Everything to be said, by file and place.
    pub(crate) findings: Vec<Finding>,
}

/// What is known of Secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// Only what the folder's manifests say; of others nothing is said, they may be in the cluster.
    Manifests,
    /// Pipelines run here: manifests and the environment are all that there is. Those of KafkaClusters
    /// are not asked for: another Kafka takes their place, or none.
    Here,
}

impl Project {
    /// `namespace` is that of resources that name none.
    pub(crate) fn read(
        paths: &[PathBuf],
        namespace: &str,
        secrets: Secrets,
    ) -> Result<Self, Error> {
        let folder = Folder::read(paths, namespace)?;
        let mut findings = folder.findings.clone();
        let mut scopes = Vec::new();
        for (name, namespace) in &folder.namespaces {
            let resources = resources(name, namespace, secrets, &mut findings);
            let validation = validate(&resources, &Settings::default());
            report(namespace, &validation, secrets, &mut findings);
            scopes.push(Scope {
                namespace: name.clone(),
                validation,
            });
        }
        findings.sort();
        findings.dedup();
        Ok(Self {
            folder,
            scopes,
            findings,
        })
    }

    pub(crate) fn error_count(&self) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.is_error())
            .count()
    }

    /// The plan of each namespace; Secrets are files below `secrets_root`.
    pub(crate) fn plans(&self, secrets_root: Option<&str>) -> Vec<Plan> {
        let options = secrets_root.map_or_else(plan::Options::default, |root| plan::Options {
            secrets_root: root.to_owned(),
        });
        self.scopes
            .iter()
            .map(|scope| plan::plan(&scope.validation, &options))
            .collect()
    }

    /// What can be talked to: sources that work, and views and agents that the plans have.
    pub(crate) fn directory(&self, plans: &[Plan]) -> Directory {
        let mut directory = Directory::default();
        for scope in &self.scopes {
            let id = |name: &str| (scope.namespace.clone(), name.to_owned());
            for (name, source) in &scope.validation.sources {
                if let Some(source) = source.ok() {
                    directory.sources.insert(id(name), source.config.clone());
                }
            }
            for view in scope.validation.views.values().filter_map(|view| view.ok()) {
                // What a view joins has to be there in the order of its times too.
                let joined = view.joined().filter_map(|joined| {
                    let outcome = scope.validation.views.get(joined)?;
                    Some(outcome.ok()?.sources())
                });
                let all: BTreeSet<&str> = view.sources().chain(joined.flatten()).collect();
                for source in &all {
                    let others = all
                        .iter()
                        .filter(|other| *other != source)
                        .map(|other| (*other).to_owned());
                    directory
                        .siblings
                        .entry(id(source))
                        .or_default()
                        .extend(others);
                }
                for from in view.config.from.iter().filter(|from| from.key.is_none()) {
                    directory.keyed.insert(id(&from.source));
                }
            }
        }
        for plan in plans {
            for stage in &plan.stages {
                let stages = match stage.kind {
                    Owner::Agent => &mut directory.agents,
                    Owner::View => &mut directory.views,
                    Owner::Source => continue,
                };
                let id = (plan.namespace.clone(), stage.name.clone());
                stages.insert(id, stage.config.clone());
            }
        }
        directory
    }

    /// Prints what is wrong and fails, or goes on with what is not.
    pub(crate) fn require_valid(&self) -> Result<(), Error> {
        for finding in &self.findings {
            eprintln!("{finding}");
        }
        match self.error_count() {
            0 => Ok(()),
            1 => Err(Error::Findings("1 error; nothing was started".to_owned())),
            errors => Err(Error::Findings(format!(
                "{errors} errors; nothing was started"
            ))),
        }
    }

    /// Writes the values of all Secrets that stages need as files.
    pub(crate) fn mount(&self, plans: &[Plan], mounted: &Mounted) -> Result<(), Error> {
        for plan in plans {
            let manifests = self.folder.namespaces.get(&plan.namespace);
            let mut files: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
            for (secret, keys) in plan.stages.iter().flat_map(|stage| &stage.secrets) {
                for key in keys {
                    let value = manifests
                        .and_then(|namespace| namespace.secrets.get(secret)?.data.get(key).cloned())
                        .or_else(|| from_environment(secret, key));
                    if let Some(value) = value {
                        files
                            .entry(secret.clone())
                            .or_default()
                            .insert(key.clone(), value);
                    }
                }
            }
            mounted.write(&files)?;
        }
        Ok(())
    }
}

/// The documents of a namespace as the operator's resources.
fn resources(
    name: &str,
    namespace: &Namespace,
    known: Secrets,
    findings: &mut Vec<Finding>,
) -> Resources {
    let mut resources = Resources::new(name);
    for document in &namespace.documents {
        match object(document) {
            Ok(object) => {
                resources.add(object);
            }
            // The schema's finding says the same, and where.
            Err(_)
                if findings
                    .iter()
                    .any(|finding| finding.is_error() && finding.file == document.file) => {}
            Err(error) => findings.push(document.finding(
                Severity::Error,
                "InvalidSpec",
                "spec",
                &error.to_string(),
            )),
        }
    }
    for (name, secret) in &namespace.secrets {
        let found = Secret::Found {
            kind: secret.kind.clone(),
            keys: secret.data.keys().cloned().collect(),
        };
        resources.secrets.insert(name.clone(), found);
    }
    if known == Secrets::Here {
        add_environment(&mut resources, namespace);
    }
    resources
}

/// Keys that only the environment holds, and Secrets that nothing holds.
fn add_environment(resources: &mut Resources, namespace: &Namespace) {
    for document in namespace
        .documents
        .iter()
        .filter(|document| document.kind != "KafkaCluster")
    {
        let mut used = Vec::new();
        secret_keys(&document.value, &mut used);
        for (secret, key) in used {
            if from_environment(&secret, &key).is_none() {
                resources.secrets.entry(secret).or_insert(Secret::Missing);
                continue;
            }
            let entry = resources.secrets.entry(secret).or_insert(Secret::Missing);
            if *entry == Secret::Missing {
                *entry = Secret::Found {
                    kind: "Opaque".to_owned(),
                    keys: Default::default(),
                };
            }
            if let Secret::Found { keys, .. } = entry {
                keys.insert(key);
            }
        }
    }
}

/// Every `fooSecretKeyRef: {name, key}` below a value.
fn secret_keys(value: &Value, used: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                if field.to_ascii_lowercase().ends_with("secretkeyref")
                    && let (Some(name), Some(key)) = (value["name"].as_str(), value["key"].as_str())
                {
                    used.push((name.to_owned(), key.to_owned()));
                } else {
                    secret_keys(value, used);
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| secret_keys(item, used)),
        _ => {}
    }
}

fn object(document: &Document) -> Result<Object, serde_json::Error> {
    fn parse<T: DeserializeOwned>(value: &Value) -> Result<Arc<T>, serde_json::Error> {
        serde_json::from_value(value.clone()).map(Arc::new)
    }
    let value = &document.value;
    Ok(match document.kind.as_str() {
        "KafkaCluster" => Object::KafkaCluster(parse(value)?),
        "Model" => Object::Model(parse(value)?),
        "EventSource" => Object::EventSource(parse(value)?),
        "ContextView" => Object::ContextView(parse(value)?),
        "ToolServer" => Object::ToolServer(parse(value)?),
        _ => Object::Agent(parse(value)?),
    })
}

/// Puts a place to each problem and warning.
fn report(
    namespace: &Namespace,
    validation: &Validation,
    secrets: Secrets,
    findings: &mut Vec<Finding>,
) {
    for (id, found) in validation.findings() {
        let Some(document) = namespace
            .documents
            .iter()
            .find(|document| document.kind == id.kind.as_str() && document.name == id.name)
        else {
            continue;
        };
        let finding = |severity, problem: &Problem| {
            let mut message = problem.message.clone();
            if secrets == Secrets::Here && problem.reason == Reason::MissingSecret {
                message.push_str(&elsewhere(document));
            }
            document.finding(severity, problem.reason.as_str(), &problem.path, &message)
        };
        let has_place = |problem: &Problem| {
            findings.iter().any(|finding| {
                finding.resource.as_deref() == Some(&format!("{}/{}", document.kind, document.name))
                    && finding.path.as_deref() == Some(&problem.path)
            })
        };
        let new: Vec<Finding> = found
            .problems
            .iter()
            .filter(|problem| !has_place(problem))
            .map(|problem| finding(Severity::Error, problem))
            .chain(
                found
                    .warnings
                    .iter()
                    .map(|warning| finding(Severity::Warning, warning)),
            )
            .collect();
        findings.extend(new);
    }
}

/// Where else the values of the Secrets of a resource may come from.
fn elsewhere(document: &Document) -> String {
    let mut used = Vec::new();
    secret_keys(&document.value, &mut used);
    let variables: Vec<String> = used
        .iter()
        .filter(|(secret, key)| from_environment(secret, key).is_none())
        .map(|(secret, key)| variable(secret, key))
        .collect();
    format!(
        "; here: in a Secret manifest in the folder, or in the environment as {}",
        variables.join(", ")
    )
}
