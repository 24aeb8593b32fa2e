//! The engine's compilers, so that what the data plane could not run is refused here, at its exact place.

use headwater_engine::config;
use headwater_engine::problem::CompileError;
use std::collections::BTreeMap;

pub(super) fn source(source: &config::Source) -> Result<(), CompileError> {
    headwater_engine::source::Source::compile(source).map(drop)
}

pub(super) fn view(
    _view: &config::View,
    _sources: &BTreeMap<String, config::Source>,
) -> Result<(), CompileError> {
    Ok(())
}

pub(super) fn agent(_stage: &config::Stage) -> Result<(), CompileError> {
    Ok(())
}
