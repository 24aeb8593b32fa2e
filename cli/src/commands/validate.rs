//! `headwater validate`: what the operator would say, before anything is applied.

use super::{OutputFormat, print_json};
use crate::error::Error;
use crate::folder::DEFAULT_NAMESPACE;
use crate::project::{Project, Secrets};
use crate::screen::counted;
use crate::terminal::say;
use serde_json::json;
use std::path::PathBuf;

/// Check resources as the API server and the operator would, without either.
///
/// Prints one finding a line, as FILE:LINE:COLUMN: error: RESOURCE: FIELD: what is wrong and what to do
/// [REASON], and exits with 1 if there is an error. It opens no connection and no file outside of PATH.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folders (their .yaml, .yml and .json files) or files.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Namespace of resources that name none.
    #[arg(long, short, default_value = DEFAULT_NAMESPACE)]
    namespace: String,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let project = Project::read(&arguments.paths, &arguments.namespace, Secrets::Manifests)?;
    let errors = project.error_count();
    let resources: usize = project
        .folder
        .namespaces
        .values()
        .map(|namespace| namespace.documents.len())
        .sum();
    match arguments.output {
        OutputFormat::Json => print_json(&json!({
            "valid": errors == 0,
            "files": project.folder.files,
            "resources": resources,
            "findings": project.findings,
        }))?,
        OutputFormat::Text => {
            for finding in &project.findings {
                say(&format!("{finding}\n"));
            }
        }
    }
    if errors > 0 {
        return Err(Error::Findings(format!(
            "{} in {}",
            counted(errors, "error"),
            counted(resources, "resource")
        )));
    }
    if arguments.output == OutputFormat::Text {
        say(&format!(
            "{} in {}: all can work\n",
            counted(resources, "resource"),
            counted(project.folder.files, "file")
        ));
    }
    Ok(())
}
