//! A folder of resources as people write it: YAML or JSON files, one or more documents in each, and
//! events beside them.
//!
//! What is read here is what `kubectl apply -f FOLDER` would read: the files of the folder itself, not
//! of folders in it. Nothing outside of the paths given is opened.

pub(crate) mod events;
pub(crate) mod schema;
pub(crate) mod yaml;

use crate::error::Error;
use crate::finding::{Finding, Severity};
use schema::Schemas;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use yaml::{Node, Place};

/// The namespace of a resource that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// One resource of ours.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) file: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// As the API server would store it, with defaults.
    pub(crate) value: Value,
    node: Node,
}

/// Values of one Secret, by key.
pub(crate) type SecretData = BTreeMap<String, Vec<u8>>;

/// A Secret's manifest. No Debug: its values are never printed.
#[derive(Default)]
pub(crate) struct Secret {
    /// `type`, Opaque if it names none.
    pub(crate) kind: String,
    pub(crate) data: SecretData,
}

/// What a folder holds for one namespace.
#[derive(Default)]
pub(crate) struct Namespace {
    pub(crate) documents: Vec<Document>,
    pub(crate) secrets: BTreeMap<String, Secret>,
}

/// Everything read from the paths given.
#[derive(Default)]
pub(crate) struct Folder {
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// What is wrong with files, and with resources by themselves.
    pub(crate) findings: Vec<Finding>,
    /// `events` folders beside the resources.
    pub(crate) events: Vec<PathBuf>,
    /// How many files were read.
    pub(crate) files: usize,
    /// Of resources that name none.
    default_namespace: String,
}

impl Document {
    /// A finding about this resource at a field.
    pub(crate) fn finding(
        &self,
        severity: Severity,
        reason: &str,
        path: &str,
        message: &str,
    ) -> Finding {
        Finding {
            file: self.file.clone(),
            place: self.node.locate(path),
            severity,
            reason: reason.to_owned(),
            resource: Some(format!("{}/{}", self.kind, self.name)),
            path: Some(path.to_owned()),
            message: message.to_owned(),
        }
    }
}

impl Folder {
    /// Reads files, and the files of folders.
    ///
    /// # Errors
    /// Only where a path cannot be read at all; what is wrong inside of files is in `findings`.
    pub(crate) fn read(paths: &[PathBuf], default_namespace: &str) -> Result<Self, Error> {
        let schemas = Schemas::load().map_err(|error| Error::internal(error.to_string()))?;
        let mut folder = Self {
            default_namespace: default_namespace.to_owned(),
            ..Self::default()
        };
        for path in paths {
            if path.is_dir() {
                let events = path.join("events");
                if events.is_dir() {
                    folder.events.push(events);
                }
                for file in files_of(path)? {
                    folder.file(&file, &schemas)?;
                }
            } else {
                folder.file(path, &schemas)?;
            }
        }
        if folder.files == 0 {
            return Err(Error::usage(format!(
                "{} holds no .yaml, .yml or .json file; give the folder that your resources are in",
                paths
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            )));
        }
        Ok(folder)
    }

    fn file(&mut self, path: &Path, schemas: &Schemas) -> Result<(), Error> {
        let name = path.display().to_string();
        let cannot = |source| Error::file("read", path, source);
        let size = std::fs::metadata(path).map_err(cannot)?.len();
        if size > yaml::LARGEST_FILE {
            return Err(Error::usage(format!(
                "{name} has {size} bytes; a file of resources has at most {}",
                yaml::LARGEST_FILE
            )));
        }
        let bytes = std::fs::read(path).map_err(cannot)?;
        self.files += 1;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
                let place = Place { line, column: 1 };
                self.broken(
                    &name,
                    place,
                    "InvalidYaml",
                    "the file is not UTF-8 text".to_owned(),
                );
                return Ok(());
            }
        };
        match yaml::parse(&text) {
            Ok(documents) => {
                for node in documents {
                    self.document(&name, node, schemas);
                }
            }
            Err(error) => self.broken(&name, error.place, "InvalidYaml", error.message),
        }
        Ok(())
    }

    fn broken(&mut self, file: &str, place: Place, reason: &str, message: String) {
        self.findings.push(Finding {
            file: file.to_owned(),
            place,
            severity: Severity::Error,
            reason: reason.to_owned(),
            resource: None,
            path: None,
            message,
        });
    }

    fn document(&mut self, file: &str, node: Node, schemas: &Schemas) {
        let text = |key: &str| {
            node.get(key)
                .and_then(Node::text)
                .unwrap_or_default()
                .to_owned()
        };
        let (version, kind) = (text("apiVersion"), text("kind"));
        if version.is_empty() || kind.is_empty() {
            let message = "a resource needs apiVersion and kind, e.g. apiVersion: headwater.dev/v1alpha1, kind: Agent";
            self.broken(file, node.place, "InvalidSpec", message.to_owned());
            return;
        }
        if kind == "List" && version == "v1" {
            if let Some(Node {
                kind: yaml::Kind::List(items),
                ..
            }) = node.get("items")
            {
                for item in items.clone() {
                    self.document(file, item, schemas);
                }
            }
            return;
        }
        let metadata = |key: &str| {
            node.get("metadata")
                .and_then(|metadata| metadata.get(key))
                .and_then(Node::text)
        };
        let name = metadata("name").unwrap_or_default().to_owned();
        let namespace = metadata("namespace")
            .unwrap_or(&self.default_namespace)
            .to_owned();
        let (group, _) = version.split_once('/').unwrap_or(("", &version));
        if group != headwater_crds::GROUP {
            if kind == "Secret" && version == "v1" {
                let secret = Secret {
                    kind: node
                        .get("type")
                        .and_then(Node::text)
                        .unwrap_or("Opaque")
                        .to_owned(),
                    data: secret(&node),
                };
                self.namespaces
                    .entry(namespace)
                    .or_default()
                    .secrets
                    .insert(name, secret);
            }
            // Anything else in the folder is somebody else's.
            return;
        }
        let expected = format!("{}/{}", headwater_crds::GROUP, headwater_crds::VERSION);
        if version != expected {
            let place = node.locate("apiVersion");
            self.broken(
                file,
                place,
                "InvalidSpec",
                format!("there is no version '{version}'; write {expected}"),
            );
            return;
        }
        if name.is_empty() {
            let place = node.locate("metadata.name");
            self.broken(
                file,
                place,
                "InvalidSpec",
                format!("the {kind} has no metadata.name; give it one"),
            );
            return;
        }
        let Some((value, mismatches)) = schemas.check(&kind, &node) else {
            let kinds: Vec<&str> = schemas.kinds().collect();
            let hint = headwater_engine::problem::did_you_mean(&kind, kinds.iter().copied())
                .map_or_else(
                    || format!("there are {}", kinds.join(", ")),
                    |near| format!("did you mean {near}?"),
                );
            let place = node.locate("kind");
            self.broken(
                file,
                place,
                "InvalidSpec",
                format!("there is no kind '{kind}'; {hint}"),
            );
            return;
        };
        for mismatch in &mismatches {
            self.findings.push(Finding {
                file: file.to_owned(),
                place: mismatch.place,
                severity: Severity::Error,
                reason: "InvalidSpec".to_owned(),
                resource: Some(format!("{kind}/{name}")),
                path: Some(mismatch.path.clone()),
                message: mismatch.message.clone(),
            });
        }
        let documents = &mut self.namespaces.entry(namespace).or_default().documents;
        if let Some(first) = documents
            .iter()
            .find(|other| other.kind == kind && other.name == name)
        {
            let message = format!(
                "{kind}/{name} is given twice; it stands at {}:{} too",
                first.file, first.node.place.line
            );
            let place = node.locate("metadata.name");
            self.broken(file, place, "InvalidSpec", message);
            return;
        }
        documents.push(Document {
            file: file.to_owned(),
            kind,
            name,
            value,
            node,
        });
    }
}

/// YAML and JSON files right in a folder, by name.
fn files_of(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let cannot = |source| Error::file("read", folder, source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if path.is_file() && matches!(extension, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Base64 as YAML folds it, line breaks left out; empty if it is none, which the use of the value shows.
fn decode(text: &str) -> Vec<u8> {
    let text: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    data_encoding::BASE64.decode(&text).unwrap_or_default()
}

/// The values of a Secret's manifest: `data` in base64, `stringData` as it stands.
fn secret(node: &Node) -> SecretData {
    let mut data = SecretData::new();
    for (field, decoded) in [("data", true), ("stringData", false)] {
        if let Some(Node {
            kind: yaml::Kind::Map(entries),
            ..
        }) = node.get(field)
        {
            for entry in entries {
                let text = entry.value.text().unwrap_or_default();
                let value = if decoded {
                    decode(text)
                } else {
                    text.as_bytes().to_vec()
                };
                data.insert(entry.key.clone(), value);
            }
        }
    }
    data
}
