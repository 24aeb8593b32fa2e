//! Long-running programs, known by a file with their process id and start time, so that an id that the kernel gave to another program is
//! never taken for ours.
//!
//! A program outlives the process that started it, in a session of its own, and writes to one log file.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, FileContext, Result},
    layout, run,
};

const POLL: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Terminate,
    Kill,
    Pause,
    Resume,
}

/// A program with its files in `folder`: `<name>.pid` and `<name>.log`.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    folder: PathBuf,
}

impl Process {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
        }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join(format!("{}.pid", self.name))
    }

    /// The process id, if the program runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        alive(&text)
    }

    /// Starts the program unless it runs already.
    pub(crate) fn start(&self, command: &Command) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        layout::make_folder(&self.folder)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .at("open the log", self.log())?;
        let error_log = log.try_clone().at("open the log", self.log())?;
        // A session of its own: a signal meant for the test run does not reach it. `setsid` becomes the program, the id stays.
        let mut detached = Command::new("setsid");
        detached
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log);
        // The user's own cluster settings are not for the bed's programs.
        detached.env_remove("KUBECONFIG");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => detached.env(name, value),
                None => detached.env_remove(name),
            };
        }
        let child = detached.spawn().map_err(|source| Error::Spawn {
            program: self.name.clone(),
            source,
        })?;
        let identity = identity(child.id()).unwrap_or_else(|| child.id().to_string());
        layout::write(&self.pid_file(), identity)
    }

    /// Waits until `ready` says so.
    pub(crate) fn await_ready(&self, limit: Duration, ready: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if ready() {
                return Ok(());
            }
            if self.pid().is_none() {
                return Err(Error::Died {
                    name: self.name.clone(),
                    log: self.log(),
                    tail: self.log_tail(),
                });
            }
            if Instant::now() > deadline {
                return Err(Error::NotReady {
                    name: self.name.clone(),
                    seconds: limit.as_secs(),
                    log: self.log(),
                    tail: self.log_tail(),
                });
            }
            thread::sleep(POLL);
        }
    }

    /// Sends a signal; no effect where the program does not run.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        match self.pid() {
            Some(pid) => send(pid, signal),
            None => Ok(()),
        }
    }

    /// Kills at once, as a crash would, and returns when the program is gone.
    pub(crate) fn kill(&self) -> Result<()> {
        self.stop_within(Duration::ZERO)
    }

    /// Asks the program to end; kills it after `limit`. Returns when it is gone.
    pub(crate) fn stop_within(&self, limit: Duration) -> Result<()> {
        if let Some(pid) = self.pid() {
            stop(pid, limit)?;
        }
        match fs::remove_file(self.pid_file()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).at("remove", self.pid_file())
            }
            _ => Ok(()),
        }
    }

    fn log_tail(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        run::tail(&String::from_utf8_lossy(&text), 20)
    }
}

/// Ends the process `pid`, by force after `limit`, and waits until it is gone.
pub(crate) fn stop(pid: u32, limit: Duration) -> Result<()> {
    let Some(identity) = identity(pid) else {
        return Ok(());
    };
    if limit > Duration::ZERO {
        send(pid, Signal::Terminate)?;
        let deadline = Instant::now() + limit;
        while alive(&identity).is_some() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
    if alive(&identity).is_some() {
        send(pid, Signal::Kill)?;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive(&identity).is_some() {
        if Instant::now() > deadline {
            return Err(Error::Unexpected {
                what: format!("process {pid}"),
                detail: "it is still there 10 s after being killed".to_owned(),
            });
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// `<pid> <start time in ticks since boot>` of a living process.
pub(crate) fn identity(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets, and may hold blanks: count from its end.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?;
    (!matches!(state, "Z" | "X") || has_threads(pid)).then(|| format!("{pid} {started}"))
}

/// A zombie has ended, and its parent merely has not asked yet; but the first thread of a program is one already while the others, and
/// with them its open ports, are still there.
fn has_threads(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

/// The process id in what `identity` once gave, if that very process still lives.
pub(crate) fn alive(known: &str) -> Option<u32> {
    let pid = known.split_ascii_whitespace().next()?.parse().ok()?;
    (identity(pid)? == known).then_some(pid)
}

/// The ids of all processes of this machine that we can see.
pub(crate) fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let name = match signal {
        Signal::Terminate => "TERM",
        Signal::Kill => "KILL",
        Signal::Pause => "STOP",
        Signal::Resume => "CONT",
    };
    let sent = run::call("sh", &["-c", &format!("kill -{name} {pid}")]);
    // It may have ended in between, which is what was wanted.
    if identity(pid).is_some() {
        sent?;
    }
    Ok(())
}
