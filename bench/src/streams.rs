//! Kafka Streams beside ours: the program of `peers/kafka-streams`, in a Java process of its own.
//!
//! It folds the first million events to warm up; what counts is the CPU time of the whole process, compiler
//! and garbage collector included, over the million after it.

use crate::Result;
use crate::bed::Bed;
use crate::fold::{EVENTS, KEYS};
use crate::measure::cpu_of_process;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// CPU time of [`EVENTS`] events under a load, `latest` or `three`; `None` where there is no Java or Maven.
pub fn run(bed: &mut Bed, load: &str) -> Result<Option<Duration>> {
    let Some(program) = build()? else {
        return Ok(None);
    };
    let topic = bed.topic(&format!("streams-{load}"), 1, &[])?;
    bed.fill(&topic, 0..2 * EVENTS, KEYS)?;
    let state = program.join(format!("state-{}-{load}", std::process::id()));
    let log = std::fs::File::create(program.join("log"))?;
    let mut child = Running(
        Command::new("java")
            .args(["-Xms2g", "-Xmx2g", "-XX:+UseParallelGC", "-cp"])
            .arg(format!(
                "{0}/kafka-streams-peer-1.jar:{0}/lib/*",
                program.display()
            ))
            .args(["dev.headwater.bench.Peer", &bed.bootstrap, &topic, &topic])
            .arg(&state)
            .args([load, &EVENTS.to_string(), &(2 * EVENTS).to_string()])
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?,
    );
    let process = child.0.id().to_string();
    let output = child.0.stdout.take().ok_or("no output")?;
    let mut passed = Vec::new();
    let mut keys = None;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if line.starts_with("processed ") {
            passed.push(cpu_of_process(&process)?);
        } else if let Some(count) = line.strip_prefix("keys ") {
            keys = Some(count.parse::<usize>()?);
        }
    }
    child.0.wait()?;
    let _ = std::fs::remove_dir_all(state);
    match (passed.as_slice(), keys) {
        ([warm, end], Some(keys)) if keys == crate::data::kept(KEYS) => Ok(Some(*end - *warm)),
        _ => Err(format!(
            "kafka streams did not fold everything; see {}",
            program.join("log").display()
        )
        .into()),
    }
}

/// Where the built program is: below cargo's target folder, built once.
fn build() -> Result<Option<PathBuf>> {
    let works = |program: &str| {
        Command::new(program)
            .arg("-version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !works("java") || !works("mvn") {
        return Ok(None);
    }
    let binary = std::env::current_exe()?;
    let target = binary
        .parent()
        .and_then(Path::parent)
        .ok_or("no target folder")?;
    let output = target.join("peers/kafka-streams");
    let jar = output.join("kafka-streams-peer-1.jar");
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/kafka-streams");
    let changed = |path: &Path| path.metadata().and_then(|it| it.modified()).ok();
    let source = project.join("src/main/java/dev/headwater/bench/Peer.java");
    if changed(&jar).is_none() || changed(&jar) < changed(&source) {
        let status = Command::new("mvn")
            .args(["-q", "-B", "package"])
            .arg(format!("-Doutput={}", output.display()))
            .current_dir(project)
            .status()?;
        if !status.success() {
            return Err("mvn package failed".into());
        }
    }
    Ok(Some(output))
}

/// Ends with the benchmark, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
