//! `headwater crds`: the CustomResourceDefinitions that this version brings.

use crate::error::Error;
use crate::terminal::say;
use std::path::PathBuf;

/// Print the CustomResourceDefinitions, e.g. headwater crds | kubectl apply --server-side -f -
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Write them into this folder instead, one file each.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let definitions = headwater_crds::all().map_err(|error| Error::internal(error.to_string()))?;
    if let Some(folder) = &arguments.out {
        std::fs::create_dir_all(folder).map_err(|source| Error::file("create", folder, source))?;
    }
    for definition in &definitions {
        let yaml = serde_yaml::to_string(definition)
            .map_err(|error| Error::internal(error.to_string()))?;
        match &arguments.out {
            None => say(&format!("---\n{yaml}")),
            Some(folder) => {
                let file = folder.join(format!("{}.yaml", definition.spec.names.plural));
                std::fs::write(&file, yaml)
                    .map_err(|source| Error::file("write", &file, source))?;
            }
        }
    }
    Ok(())
}
