//! Brokers: the one that all tests share, and private ones for tests that kill them.

mod broker;
mod topics;
mod wire;

use std::{fs, io, path::PathBuf, process};

use crate::{
    error::{Error, FileContext, Result},
    layout,
    process::{Signal, alive, identity},
};

pub(crate) use broker::Broker;
pub use topics::Topics;

/// A broker, and the levers to disturb it.
///
/// A private one ends, and its data goes, on drop.
#[derive(Debug)]
pub struct Kafka {
    bootstrap: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Of `KAFKA_BOOTSTRAP`.
    Given,
    Shared(Broker),
    Private(Broker),
}

impl Kafka {
    pub(crate) fn shared() -> Result<Self> {
        let broker = shared_broker();
        if let Some(bootstrap) = layout::given("KAFKA_BOOTSTRAP")
            && bootstrap != broker.bootstrap()
        {
            return Ok(Self {
                bootstrap,
                kind: Kind::Given,
            });
        }
        let _lock = layout::Lock::on(&layout::state())?;
        broker.start()?;
        Ok(Self {
            bootstrap: broker.bootstrap(),
            kind: Kind::Shared(broker),
        })
    }

    /// A broker of the caller's own, always started by the bed, with empty data. About 5 s.
    ///
    /// # Errors
    /// When Kafka cannot be fetched, or does not answer in time.
    pub fn private() -> Result<Self> {
        Self::start_private(None)
    }

    /// As [`private`](Self::private), and whoever asks the broker where to connect to, the broker itself included, is told
    /// `advertised` (`host:port`): a proxy of the caller's, in front of [`bootstrap`](Self::bootstrap), which it may learn of
    /// later. The broker serves clients of that address only once the proxy forwards.
    ///
    /// # Errors
    /// As [`private`](Self::private).
    pub fn private_behind(advertised: &str) -> Result<Self> {
        Self::start_private(Some(advertised))
    }

    fn start_private(advertised: Option<&str>) -> Result<Self> {
        let mut broker = {
            let _lock = layout::Lock::on(&layout::state())?;
            remove_orphans()?;
            claim()?
        };
        if let Some(address) = advertised {
            broker.advertise(address);
        }
        let bootstrap = broker.bootstrap();
        // From here on a failure drops, and so removes, the broker.
        let kafka = Self {
            bootstrap,
            kind: Kind::Private(broker),
        };
        kafka.start()?;
        Ok(kafka)
    }

    /// `host:port`, reachable from pods of the bed's node too where this process is root.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Ends the broker as a crash would (`kill -9`). Its data stays.
    ///
    /// # Errors
    /// For a broker that the bed did not start; when the signal cannot be sent.
    pub fn kill(&self) -> Result<()> {
        self.ours()?.kill()
    }

    /// Shuts the broker down in order and waits for its end. Its data stays.
    ///
    /// # Errors
    /// As [`kill`](Self::kill).
    pub fn stop(&self) -> Result<()> {
        self.ours()?.stop()
    }

    /// Starts the broker again on its data, on the same port, and waits until it serves.
    ///
    /// # Errors
    /// For a broker that the bed did not start; when it does not answer in time.
    pub fn start(&self) -> Result<()> {
        self.ours()?.start()
    }

    /// [`stop`](Self::stop), then [`start`](Self::start).
    ///
    /// # Errors
    /// As these.
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Holds the broker still: connections stay open, nothing is answered, until [`resume`](Self::resume).
    ///
    /// # Errors
    /// As [`kill`](Self::kill).
    pub fn pause(&self) -> Result<()> {
        self.ours()?.signal(Signal::Pause)
    }

    /// Lets a paused broker go on.
    ///
    /// # Errors
    /// As [`kill`](Self::kill).
    pub fn resume(&self) -> Result<()> {
        self.ours()?.signal(Signal::Resume)
    }

    fn ours(&self) -> Result<&Broker> {
        match &self.kind {
            Kind::Given => Err(Error::NotOurs {
                what: "Kafka",
                variable: "KAFKA_BOOTSTRAP",
            }),
            Kind::Shared(broker) | Kind::Private(broker) => Ok(broker),
        }
    }
}

impl Drop for Kafka {
    #[allow(clippy::print_stderr, reason = "a drop has nobody to give an error to")]
    fn drop(&mut self) {
        if let Kind::Private(broker) = &self.kind
            && let Err(error) = broker.remove()
        {
            eprintln!("testbed: cannot remove a private broker: {error}");
        }
    }
}

pub(crate) fn shared_broker() -> Broker {
    Broker::new(&layout::state().join("kafka"), layout::KAFKA_PORT)
}

/// Whether any broker of the bed runs.
pub(crate) fn any_runs() -> Result<bool> {
    let private = private_brokers()?;
    let mut brokers = private.iter().map(|private| &private.broker);
    Ok(shared_broker().pid().is_some() || brokers.any(|broker| broker.pid().is_some()))
}

/// Ends every broker of the bed, private ones of running tests included.
pub(crate) fn remove_all() -> Result<()> {
    for private in private_brokers()? {
        private.broker.remove()?;
    }
    let shared = shared_broker();
    shared.stop()?;
    shared.remove()
}

struct Private {
    broker: Broker,
    folder: PathBuf,
}

fn private_folder() -> PathBuf {
    layout::state().join("kafka-private")
}

/// A folder named after the port is the claim on it. The caller holds the lock.
fn claim() -> Result<Broker> {
    crate::machine::make_server_address()?;
    let ports = layout::PRIVATE_PORTS;
    layout::make_folder(&private_folder())?;
    for port in ports.clone().step_by(2) {
        let free = [port, port + 1].iter().all(|port| {
            std::net::TcpListener::bind((crate::machine::server_address(), *port)).is_ok()
        });
        let folder = private_folder().join(port.to_string());
        match fs::create_dir(&folder) {
            Ok(()) if free => {
                let owner = identity(process::id()).unwrap_or_default();
                layout::write(&folder.join("owner"), owner)?;
                return Ok(Broker::new(&folder, port));
            }
            Ok(()) => layout::remove_folder(&folder)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).at("make the folder", folder),
        }
    }
    Err(Error::NoPorts {
        first: ports.start,
        last: ports.end - 1,
    })
}

/// Removes private brokers whose test was killed before it could drop them.
fn remove_orphans() -> Result<()> {
    for private in private_brokers()? {
        let owner = fs::read_to_string(private.folder.join("owner")).unwrap_or_default();
        if alive(&owner).is_none() {
            private.broker.remove()?;
        }
    }
    Ok(())
}

fn private_brokers() -> Result<Vec<Private>> {
    let entries = match fs::read_dir(private_folder()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", private_folder())?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let folder = entry.at("list", private_folder())?.path();
        let port = folder
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        if let Some(port) = port {
            found.push(Private {
                broker: Broker::new(&folder, port),
                folder,
            });
        }
    }
    Ok(found)
}
