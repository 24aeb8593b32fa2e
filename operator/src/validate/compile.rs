//! The engine's compilers, so that what the data plane could not run is refused here, at its exact place.

use headwater_engine::problem::CompileError;
use headwater_engine::{agent, config, model::scripted, source, tool, view};
use std::collections::BTreeMap;

pub(super) fn source(config: &config::Source) -> Result<(), CompileError> {
    source::Source::compile(config).map(drop)
}

pub(super) fn view(
    config: &config::View,
    sources: &BTreeMap<String, config::Source>,
) -> Result<(), CompileError> {
    view::Definition::compile(config, sources).map(drop)
}

pub(super) fn scripted(model: &str, rules: &[config::Rule]) -> Result<(), CompileError> {
    scripted::Scripted::compile(model, rules).map(drop)
}

pub(super) fn tools(server: &str, tools: &[config::ScriptedTool]) -> Result<(), CompileError> {
    tool::Scripted::compile(server, tools).map(drop)
}

pub(super) fn agent(stage: &config::Stage) -> Result<(), CompileError> {
    agent::Agent::compile(stage).map(drop)
}
