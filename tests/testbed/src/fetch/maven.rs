//! Kafka's jars, from Maven Central.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    error::{FileContext, Result},
    fetch::step,
    layout, run,
};

/// The folder with the jars of the broker and its tools; fetched on first use.
pub(crate) fn kafka_jars() -> Result<PathBuf> {
    let folder = layout::cache().join(format!("kafka-{}", layout::KAFKA));
    let jars = folder.join("libs");
    if jars.is_dir() {
        return Ok(jars);
    }
    let _lock = layout::Lock::on(&folder)?;
    if jars.is_dir() {
        return Ok(jars);
    }
    step(&format!("fetching Kafka {} (54 MB)", layout::KAFKA), || {
        let project = folder.join("pom.xml");
        layout::write(&project, pom())?;
        let partial = folder.join("libs.partial");
        layout::remove_folder(&partial)?;
        run::run(
            Command::new("mvn")
                .args(["-q", "-B", "dependency:copy-dependencies"])
                .arg("-f")
                .arg(&project)
                .arg(format!("-DoutputDirectory={}", partial.display())),
        )?;
        fs::rename(&partial, &jars).at("rename to", &jars)
    })?;
    Ok(jars)
}

fn pom() -> String {
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>\n"
        )
    };
    [
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\n\
         <groupId>dev.headwater</groupId><artifactId>testbed-kafka</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies>\n"
            .to_owned(),
        dependency("org.apache.kafka", "kafka_2.13", layout::KAFKA),
        dependency("org.apache.kafka", "kafka-tools", layout::KAFKA),
        // The broker logs through slf4j 1; this one prints to standard error.
        dependency("org.slf4j", "slf4j-simple", "1.7.36"),
        "</dependencies></project>\n".to_owned(),
    ]
    .concat()
}
