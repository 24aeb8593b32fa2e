//! The generation of a view: six hexadecimal characters over all that decides what its fold gives.
//!
//! Another generation is another state topic, built beside the old one. What only changes how rows
//! are found (indexes) or how pods run is no part of it.

use headwater_engine::config::{Fold, From, Source};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Goes up when the engine folds the same records into other bytes, or reads state topics otherwise.
const FOLD_VERSION: u32 = 1;

#[derive(Serialize)]
struct Spec<'a> {
    version: u32,
    from: Vec<&'a From>,
    fold: &'a Fold,
    sources: Vec<&'a Source>,
    own_input: bool,
}

/// The order of `from` means nothing and changes nothing.
pub(crate) fn generation(
    from: &[From],
    fold: &Fold,
    sources: &BTreeMap<String, Source>,
    own_input: bool,
) -> String {
    let mut sorted: Vec<&From> = from.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let spec = Spec {
        version: FOLD_VERSION,
        from: sorted,
        fold,
        sources: sources
            .values()
            .filter(|source| from.iter().any(|from| from.source == source.name))
            .collect(),
        own_input,
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
