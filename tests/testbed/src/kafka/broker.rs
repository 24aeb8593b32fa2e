//! One broker of the bed: its configuration, its start, its end. Who may touch it is the business of the parent module.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    error::Result,
    fetch, layout, machine,
    process::{Process, Signal},
    run,
};

use super::wire;

/// Generous, for a busy machine; a start takes 5 s.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A broker that is its own controller, with data, log and configuration in `folder`. Its controller listens one port above its own.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    folder: PathBuf,
    port: u16,
    /// What clients, and the broker itself, are told to connect to; `None`: where it listens.
    advertised: Option<String>,
    process: Process,
}

impl Broker {
    pub(crate) fn new(folder: &Path, port: u16) -> Self {
        Self {
            folder: folder.to_owned(),
            port,
            advertised: None,
            process: Process::new(folder, "kafka"),
        }
    }

    pub(crate) fn bootstrap(&self) -> String {
        format!("{}:{}", machine::server_address(), self.port)
    }

    /// As from its next start.
    pub(crate) fn advertise(&mut self, address: &str) {
        self.advertised = Some(address.to_owned());
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Starts the broker on what data it has, if it does not run, and waits until it serves.
    pub(crate) fn start(&self) -> Result<()> {
        if self.process.pid().is_none() {
            let jars = fetch::maven::kafka_jars()?;
            machine::make_server_address()?;
            let configuration = self.prepare(&jars)?;
            let mut java = java(&jars);
            java.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
                .args(["-XX:+ExitOnOutOfMemoryError", "kafka.Kafka"])
                .arg(&configuration);
            self.process.start(&java)?;
        }
        let bootstrap = self.bootstrap();
        self.process
            .await_ready(START_LIMIT, || wire::serves(&bootstrap))
    }

    /// Lets the broker shut down in order.
    pub(crate) fn stop(&self) -> Result<()> {
        self.process.stop_within(STOP_LIMIT)
    }

    /// Ends the broker as a crash would.
    pub(crate) fn kill(&self) -> Result<()> {
        self.process.kill()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ends the broker and forgets its data.
    pub(crate) fn remove(&self) -> Result<()> {
        self.kill()?;
        layout::remove_folder(&self.folder)
    }

    /// Writes the configuration and formats the data folder unless that is done.
    fn prepare(&self, jars: &Path) -> Result<PathBuf> {
        layout::make_folder(&self.folder)?;
        let configuration = self.folder.join("server.properties");
        layout::write(&configuration, self.properties())?;
        if !self.data().join("meta.properties").is_file() {
            let id = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
            run::run(
                java(jars)
                    .args(["-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool"])
                    .args(["format", "-t", &cluster_id(&id), "-c"])
                    .arg(&configuration),
            )?;
        }
        Ok(configuration)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn properties(&self) -> String {
        let address = machine::server_address();
        let (port, controller) = (self.port, self.port + 1);
        let data = self.data();
        let data = data.display();
        let advertised = self.advertised.clone().unwrap_or_else(|| self.bootstrap());
        format!(
            "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{address}:{controller}
listeners=PLAINTEXT://{address}:{port},CONTROLLER://{address}:{controller}
advertised.listeners=PLAINTEXT://{advertised}
controller.listener.names=CONTROLLER
log.dirs={data}

# A topic that a test forgot to make is a fault of the test.
auto.create.topics.enable=false

# One broker; few partitions, so that coordinators load at once.
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4

# A killed broker is only taken back once its former session is over.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500

# Tests wait for these; the lower bounds let a test choose to wait less still.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=200
group.consumer.heartbeat.interval.ms=500
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=10000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.backoff.ms=1000
log.retention.check.interval.ms=5000
"
        )
    }
}

fn java(jars: &Path) -> Command {
    let mut command = Command::new("java");
    command.arg("-cp").arg(jars.join("*"));
    command
}

/// Kafka's form of a UUID: its 16 bytes in URL-safe Base64. Any 22 characters of that alphabet whose last one carries no spare bits do.
fn cluster_id(uuid: &str) -> String {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    format!("{:A<22}", digits.get(..21).unwrap_or_default())
}
