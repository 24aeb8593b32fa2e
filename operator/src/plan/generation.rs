//! The generation of a view: six hexadecimal characters over all that decides what its fold gives.
//!
//! Another generation is another state topic, built beside the old one. What only changes how rows
//! are found (indexes), what becomes of bad records, or how pods run is no part of it.

use crate::validate::{Outcome, checked};
use headwater_engine::config::{self, Fold, From, Input, InvalidRecords, Source, View};
use headwater_engine::names;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Goes up when the engine folds the same records into other bytes, or reads state topics otherwise.
const FOLD_VERSION: u32 = 2;

/// A generation of a view as its readers need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    pub config: View,
    /// What it is folded from, by name.
    pub sources: BTreeMap<String, Source>,
}

impl Folded {
    /// Whether its stage writes each change of a row to a topic. Which rows there are does not depend on it.
    pub(crate) fn write_changes(&mut self, namespace: &str, wanted: bool) {
        let config = &mut self.config;
        config.changes_topic =
            wanted.then(|| names::changes_topic(namespace, &config.name, &config.generation));
    }
}

/// A generation of a view as its stage needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    pub folded: Folded,
    /// The views that it joins, by name.
    pub joined: BTreeMap<String, Folded>,
}

impl Generation {
    /// Its six characters.
    pub fn id(&self) -> &str {
        &self.folded.config.generation
    }

    /// What a stage's configuration says of a view's generation: what was written there is read back.
    pub(crate) fn of_stage(stage: &config::Stage, view: &str) -> Option<Self> {
        let folded = |config: &View| -> Option<Folded> {
            let all = config.sources_in(&stage.sources);
            let names = config.from.iter().map(|from| &from.source);
            Some(Folded {
                sources: names
                    .map(|name| Some((name.clone(), all.get(name)?.clone())))
                    .collect::<Option<_>>()?,
                config: View {
                    sources: BTreeMap::new(),
                    ..config.clone()
                },
            })
        };
        let (own, joined) = stage
            .views
            .iter()
            .partition::<Vec<_>, _>(|(name, _)| *name == view);
        Some(Self {
            folded: folded(own.first()?.1)?,
            joined: joined
                .into_iter()
                .map(|(name, config)| Some((name.clone(), folded(config)?)))
                .collect::<Option<_>>()?,
        })
    }
}

/// Gives a view its generation, and the names of topics that follow from it. `joined` has the generations of the views that it joins.
pub(crate) fn name(
    namespace: &str,
    config: &mut View,
    sources: &BTreeMap<String, Source>,
    joined: &BTreeMap<String, String>,
) {
    config.generation = id(config, sources, joined);
    config.state_topic = names::state_topic(namespace, &config.name, &config.generation);
    if let Input::Own { topic } = &mut config.input {
        *topic = names::input_topic(namespace, &config.name, &config.generation);
    }
}

/// The generation that a view's resource asks for, over the generations of the views it joins that are read now. `None` if a source or
/// view of it does not work, or a view that it joins has no generation yet.
pub(crate) fn wanted(
    namespace: &str,
    view: &checked::View,
    sources: &BTreeMap<String, Outcome<checked::Source>>,
    read: &BTreeMap<String, Folded>,
) -> Option<Generation> {
    let mut config = view.config.clone();
    let sources: BTreeMap<String, Source> = view
        .sources()
        .map(|name| Some((name.to_owned(), sources.get(name)?.ok()?.config.clone())))
        .collect::<Option<_>>()?;
    let joined: BTreeMap<String, Folded> = view
        .joined()
        .map(|name| Some((name.to_owned(), read.get(name)?.clone())))
        .collect::<Option<_>>()?;
    name(namespace, &mut config, &sources, &ids(&joined));
    Some(Generation {
        folded: Folded { config, sources },
        joined,
    })
}

pub(crate) fn ids(views: &BTreeMap<String, Folded>) -> BTreeMap<String, String> {
    views
        .iter()
        .map(|(name, folded)| (name.clone(), folded.config.generation.clone()))
        .collect()
}

#[derive(Serialize)]
struct Spec<'a> {
    version: u32,
    from: Vec<&'a From>,
    fold: &'a Fold,
    sources: Vec<Source>,
    own_input: bool,
    expire_after_ms: Option<i64>,
    joined: BTreeMap<&'a String, &'a String>,
}

/// The order of `from` means nothing and changes nothing.
fn id(
    view: &View,
    sources: &BTreeMap<String, Source>,
    joined: &BTreeMap<String, String>,
) -> String {
    let mut from: Vec<&From> = view.from.iter().collect();
    from.sort_by(|a, b| a.name.cmp(&b.name));
    let spec = Spec {
        version: FOLD_VERSION,
        fold: &view.fold,
        sources: sources
            .values()
            .filter(|source| from.iter().any(|from| from.source == source.name))
            .map(|source| Source {
                // What becomes of a record that is not folded does not change what is.
                invalid_records: InvalidRecords::default(),
                ..source.clone()
            })
            .collect(),
        own_input: matches!(view.input, Input::Own { .. }),
        expire_after_ms: view.expire_after_ms,
        joined: joined
            .iter()
            .filter(|(name, _)| {
                let mut joins = from.iter().flat_map(|from| &from.joins);
                joins.any(|join| join.view == **name)
            })
            .collect(),
        from,
    };
    hash(&spec).chars().take(6).collect()
}

/// SHA-256 of a value's JSON, hexadecimal. Maps in configurations are sorted, so equal values give equal bytes.
pub(crate) fn hash(value: &impl Serialize) -> String {
    let mut digest = Sha256::new();
    // Writing to a digest cannot fail, and configurations are plain data: no error is possible here.
    let _infallible = serde_json::to_writer(Writer(&mut digest), value);
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Writer<'a>(&'a mut Sha256);

impl std::io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
