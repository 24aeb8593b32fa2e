//! A million events through `headwater up` on the memory log: from the start of the program to its end.
//!
//! They stand in `events/flights.ndjson`, without keys; a view with a filter and its stage fold them, and checkpoint.

use crate::Result;
use crate::data;
use crate::measure::load;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const EVENTS: usize = 1_000_000;
const KEYS: usize = 100_000;
const ROUNDS: usize = 3;

const RESOURCES: &str = "
apiVersion: headwater.dev/v1alpha1
kind: KafkaCluster
metadata: {name: default}
spec: {bootstrapServers: ['kafka:9092']}
---
apiVersion: headwater.dev/v1alpha1
kind: EventSource
metadata: {name: flights}
spec: {topic: {partitions: 3}, key: event.flight_id}
---
apiVersion: headwater.dev/v1alpha1
kind: ContextView
metadata: {name: board}
spec:
  from: [{name: flights, sourceRef: {name: flights}, filter: event.status != 'archived'}]
";

pub fn run() -> Result<()> {
    let program = build()?;
    let folder = Folder::new("up", EVENTS)?;
    let idle = Folder::new("up-idle", 1)?;
    let nothing = best(&program, &idle)?;
    let all = best(&program, &folder)?;
    println!(
        "{EVENTS} events of 220 B over {KEYS} keys in a file; the best of {ROUNDS} rounds; load {}",
        load()
    );
    let line = |what: &str, took: Duration| println!("{what:<34} {:>6.2} s", took.as_secs_f64());
    line("start and end, with one event", nothing.whole);
    line("until all were read and written", all.fed);
    line(
        "from then until all were folded",
        all.whole.saturating_sub(all.fed),
    );
    line("the whole", all.whole);
    Ok(())
}

#[derive(Clone, Copy)]
struct Took {
    /// Until the program says that the events are in.
    fed: Duration,
    whole: Duration,
}

fn best(program: &Path, folder: &Folder) -> Result<Took> {
    let mut all = Vec::new();
    for _ in 0..ROUNDS {
        all.push(time(program, folder)?);
    }
    all.into_iter()
        .min_by_key(|took| took.whole)
        .ok_or_else(|| "no round".into())
}

fn time(program: &Path, folder: &Folder) -> Result<Took> {
    let begun = Instant::now();
    let mut child = Command::new(program)
        .arg("up")
        .arg(&folder.path)
        .args(["--until-idle", "--output", "json"])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let mut fed = None;
    for line in BufReader::new(output).lines() {
        if line?.contains("\"fed\"") {
            fed = Some(begun.elapsed());
        }
    }
    if !child.wait()?.success() {
        return Err("headwater up failed".into());
    }
    Ok(Took {
        fed: fed.ok_or("headwater up did not say that it fed the events")?,
        whole: begun.elapsed(),
    })
}

/// The program beside this one, built if it is not up to date.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let built = Command::new(cargo)
        .args([
            "build",
            "--release",
            "-p",
            "headwater-cli",
            "--manifest-path",
        ])
        .arg(manifest)
        .status()?;
    if !built.success() {
        return Err("headwater could not be built".into());
    }
    Ok(std::env::current_exe()?.with_file_name("headwater"))
}

/// A project, gone with this value.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(name: &str, events: usize) -> Result<Self> {
        let path =
            std::env::temp_dir().join(format!("headwater-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("events"))?;
        let folder = Self { path };
        std::fs::write(folder.path.join("resources.yaml"), RESOURCES)?;
        let mut file = BufWriter::new(File::create(folder.path.join("events/flights.ndjson"))?);
        for number in 0..events {
            let (_, value) = data::event(number, KEYS);
            writeln!(file, "{{\"value\":{value}}}")?;
        }
        file.flush()?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
