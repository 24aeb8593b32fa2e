//! Runs the built binary as a user would: its own directories, its output, and a running `up` that is
//! waited for and ended.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "every test file uses its part of it, and a test fails by panicking"
)]

use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Longer than anything takes on a slow machine.
const DEADLINE: Duration = Duration::from_secs(60);

pub const MAYA: &str = r#"{"customer_id": "c-1042"}"#;
pub const IS_IT_ON_TIME: &str = "My flight to New York, is it on time?";
pub const ANOTHER_ONE: &str = "Can you get me on another one, with a window seat?";
pub const DELAYED: &str = "No: LK 103 from London (LHR) to New York (JFK) is 145 minutes late because of a technical check. It now leaves at 14:05 instead of 11:40, from gate C61, and lands at 17:10 instead of 14:45.";
pub const OFFER: &str = "Yes: LK 107 leaves London (LHR) at 13:25 and lands in New York (JFK) at 16:30, and window seat 34K is free. The change fee of your Standard fare is waived, as LK 103 is 145 minutes late; the fare difference is 38 USD, so you pay 38 USD. Please confirm in the app or at the desk.";
pub const ON_TIME: &str = "Yes: LK 103 from London (LHR) to New York (JFK) is on time. It leaves at 11:40 from gate C61 and lands at 14:45.";

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

pub fn example() -> PathBuf {
    root().join("examples/flight-assistant")
}

/// A user with nothing running.
pub struct User {
    home: tempfile::TempDir,
}

impl User {
    pub fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
        }
    }

    /// The binary, seeing no variable of this test's own environment.
    pub fn headwater(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("USER", "ana")
            .env("TMPDIR", std::env::temp_dir())
            .current_dir(root());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        Done::new(self.headwater().args(arguments).output().unwrap())
    }

    /// `up` with JSON on its output; ready once it waits.
    pub fn up(&self, folder: &Path, arguments: &[&str]) -> Up {
        let mut child = self
            .headwater()
            .arg("up")
            .arg(folder)
            .args(["--output", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut up = Up {
            child,
            lines,
            seen: Vec::new(),
            address: String::new(),
        };
        let waiting = up.wait_for("waiting");
        up.address = waiting["address"].as_str().unwrap().to_owned();
        up
    }

    /// Runs a folder to its end; gives where everything that it wrote is.
    pub fn run_folder(&self, folder: &Path, more: &[&str]) -> tempfile::TempDir {
        let out = tempfile::tempdir().unwrap();
        let mut arguments = vec![
            "up",
            folder.to_str().unwrap(),
            "--until-idle",
            "--out",
            out.path().to_str().unwrap(),
        ];
        arguments.extend(more);
        self.run(&arguments).ok();
        out
    }

    pub fn chat(&self, arguments: &[&str]) -> Done {
        let mut all = vec!["chat", "flight-assistant"];
        all.extend(arguments);
        self.run(&all)
    }
}

/// A command that ended.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn new(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What it printed, having ended well.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout.trim_end()
    }

    /// What it complained of, having ended with this code.
    #[track_caller]
    pub fn refused(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:?}");
        self.stderr.trim_end()
    }
}

/// A running `up`, killed if a test leaves it.
pub struct Up {
    child: Child,
    lines: Receiver<Value>,
    seen: Vec<Value>,
    pub address: String,
}

impl Up {
    /// The next thing of this type that it says.
    #[track_caller]
    pub fn wait_for(&mut self, kind: &str) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line["type"] == kind {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no '{kind}' in time; seen: {:?}", self.seen)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let mut stderr = String::new();
                    let pipe = self.child.stderr.as_mut().unwrap();
                    std::io::Read::read_to_string(pipe, &mut stderr).unwrap();
                    panic!("it ended before '{kind}': {stderr}; seen: {:?}", self.seen);
                }
            }
        }
    }

    /// The last thing of this type that it said already.
    #[track_caller]
    pub fn said(&mut self, kind: &str) -> Value {
        let said = self.seen.iter().rev().find(|line| line["type"] == kind);
        said.unwrap_or_else(|| panic!("no '{kind}' in {:?}", self.seen))
            .clone()
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends the signal that Ctrl-C does and waits for the end.
    #[track_caller]
    pub fn interrupt(mut self) -> i32 {
        let sent = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "it did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The values of a topic that `--out` wrote, by partition and offset.
pub fn topic(folder: &Path, topic: &str) -> Vec<Value> {
    let file = folder.join(format!("{topic}.ndjson"));
    let text =
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The topic that holds a view's rows, as the plan of its folder names it.
pub fn state_topic(user: &User, folder: &Path, namespace: &str, view: &str) -> String {
    let folder = folder.to_str().unwrap();
    let plan = user.run(&[
        "explain",
        folder,
        "--namespace",
        namespace,
        "--output",
        "json",
    ]);
    let plan: Value = serde_json::from_str(plan.ok()).unwrap();
    plan["namespaces"][0]["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| topic["name"].as_str().unwrap())
        .find(|name| {
            name.starts_with(&format!("{namespace}.view.{view}."))
                && !name.ends_with(".dead")
                && !name.ends_with(".changes")
                && !name.ends_with("-in")
        })
        .unwrap()
        .to_owned()
}

/// An example with some of it written otherwise: file, what stands there, and what is to stand there.
pub fn changed_copy(folder: &Path, changes: &[(&str, &str, &str)]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("events")).unwrap();
    for part in ["", "events"] {
        for entry in fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.file_name().unwrap();
                fs::copy(&path, copy.path().join(part).join(name)).unwrap();
            }
        }
    }
    for (file, from, to) in changes {
        let path = copy.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        fs::write(&path, text.replace(from, to)).unwrap();
    }
    copy
}
