//! One replica of a stage, as its pod would run it: `headwater view` or `headwater agent`, started again whenever it ends by itself.

use serde_json::Value;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ASK: Duration = Duration::from_secs(5);
/// More than a stage takes to drain.
const END: Duration = Duration::from_secs(40);

pub struct Replica {
    /// Of its pod, which ends in its ordinal.
    pub name: String,
    /// `view` or `agent`.
    command: &'static str,
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    address: String,
    /// How often it ended although nobody asked it to.
    pub ended_by_itself: u32,
    /// Called before each start.
    pub on_start: Box<dyn Fn()>,
}

impl Replica {
    /// Writes its configuration and its log into `folder`.
    pub fn new(
        binary: &Path,
        folder: &Path,
        command: &'static str,
        name: String,
        config: &Value,
    ) -> Self {
        let path = folder.join(format!("{name}.json"));
        std::fs::write(&path, config.to_string()).unwrap();
        Self {
            command,
            binary: binary.to_owned(),
            config: path,
            log: folder.join(format!("{name}.log")),
            child: None,
            address: String::new(),
            ended_by_itself: 0,
            on_start: Box::new(|| {}),
            name,
        }
    }

    pub fn start(&mut self) {
        if self.child.is_some() {
            return;
        }
        (self.on_start)();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        self.address = free.local_addr().unwrap().to_string();
        drop(free);
        let open = || {
            let mut options = File::options();
            options.create(true).append(true).open(&self.log).unwrap()
        };
        let child = Command::new(&self.binary)
            .args([self.command, "--listen", &self.address, "--config"])
            .arg(&self.config)
            .env("POD_NAME", &self.name)
            .env("HEADWATER_LOG", "info")
            .stdout(open())
            .stderr(open())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it again where it ended by itself.
    pub fn supervise(&mut self) {
        if let Some(child) = &mut self.child
            && child.try_wait().unwrap().is_some()
        {
            self.ended_by_itself += 1;
            self.child = None;
            self.start();
        }
    }

    pub fn signal(&self, signal: &str) {
        if let Some(id) = self.process() {
            send(signal, id);
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends it in order, as Kubernetes does.
    pub fn terminate(&mut self) {
        self.signal("-TERM");
        let Some(mut child) = self.child.take() else {
            return;
        };
        let deadline = Instant::now() + END;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() >= deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{} did not end within {END:?} of SIGTERM", self.name);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `None` where it does not answer.
    pub fn status(&self) -> Option<Value> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(ASK)).ok()?;
        let host = &self.address;
        let request = format!("GET /status HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Not started on purpose, or ready, with nothing wrong.
    pub fn is_well(&self) -> bool {
        self.child.is_none()
            || self.status().is_some_and(|status| {
                status["ready"] == true && status["problems"].as_array().is_some_and(Vec::is_empty)
            })
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.signal("-CONT");
        self.kill();
    }
}

/// Sends a process a signal, such as `-KILL`.
pub fn send(signal: &str, process: u32) {
    // It may have ended a moment ago: then there is nobody to tell.
    let _ = Command::new("kill")
        .args([signal, &process.to_string()])
        .stderr(Stdio::null())
        .status();
}
