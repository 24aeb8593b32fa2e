//! Stages: the loops of the data plane, on threads that drive the log.
//!
//! [`start`] takes a stage's configuration and gives a [`Handle`]; a pod runs one stage, `headwater up`
//! runs many on one log. What cannot work is refused before any thread starts. What fails later and
//! mends itself is waited for, and told in the status; what does not ends the stage.

mod agent;
mod committer;
mod context;
mod ends;
mod first;
mod handle;
mod held;
mod intake;
mod lag;
mod life;
pub mod look;
mod positions;
mod rate;
mod reading;
mod rebalance;
pub mod resume;
pub mod serve;
mod status;
mod view;

pub use handle::{Handle, idle};
pub use status::{Part, Phase, Problem, Processed, Status, ViewFigures};

use crate::clock::{Clock, System};
use crate::log::{self, Log, Watermarks};
use crate::metrics::Metrics;
use crate::model::{self, Limiters, Model};
use crate::observe::Observer;
use crate::tools::{self, Server};
use context::Context;
use headwater_engine::config::{Role, Stage};
use headwater_engine::fault::Fault;
use headwater_engine::problem::CompileError;
use headwater_engine::record::TopicPartition;
use life::Life;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a stage takes at most to finish what is in flight when it is shut down. A pod has 30 s.
pub const DRAIN: Duration = Duration::from_secs(20);

/// How much has to be folded again after a crash, against how often a hot key is written.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);

/// What a stage needs from the process that it runs in.
#[derive(Clone)]
pub struct Services {
    pub log: Arc<dyn Log>,
    pub clock: Arc<dyn Clock>,
    pub observer: Observer,
    pub metrics: Arc<Metrics>,
    /// Ends the stage in order.
    pub shutdown: CancellationToken,
    /// By resource name: takes the place of the model that the configuration describes.
    pub models: BTreeMap<String, Arc<dyn Model>>,
    /// Of the models that are asked.
    pub limiters: Arc<Limiters>,
    /// Likewise of servers of tools.
    pub tool_servers: BTreeMap<String, Arc<dyn Server>>,
    /// The longest that a view stage keeps a change to itself before it is in a checkpoint.
    pub checkpoint_every: Duration,
}

impl Services {
    /// The machine's clock, and nobody watching.
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self {
            log,
            clock: Arc::new(System),
            observer: Observer::new(),
            metrics: Arc::new(Metrics::new()),
            shutdown: CancellationToken::new(),
            models: BTreeMap::new(),
            limiters: Arc::default(),
            tool_servers: BTreeMap::new(),
            checkpoint_every: CHECKPOINT_EVERY,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Model(#[from] model::SetupError),
    #[error(transparent)]
    Tools(#[from] tools::SetupError),
    #[error("there is no view '{view}' in the stage's configuration")]
    UnknownView { view: String },
    #[error("a stage has to be started from within the executor: {0}")]
    NoExecutor(#[from] tokio::runtime::TryCurrentError),
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
    #[error("{resource}: what was taken in was refused: {reason}")]
    IntakeRefused { resource: String, reason: String },
    #[error("view '{view}': a checkpoint was refused: {reason}")]
    CheckpointRefused { view: String, reason: String },
    #[error("agent '{agent}': not even a failure could be written: {reason}")]
    FailureRefused { agent: String, reason: String },
    /// Not a failure of the process: one partition cannot begin.
    #[error("{}", .0.message)]
    Stalled(Stall),
    /// The stage ends while something waited.
    #[error("the stage ends")]
    Ended,
}

impl Error {
    /// Reason of the problem in the status.
    fn reason(&self) -> &'static str {
        match self {
            Self::Log(log::Error::Fenced { .. }) => "Fenced",
            Self::Log(_)
            | Self::IntakeRefused { .. }
            | Self::CheckpointRefused { .. }
            | Self::FailureRefused { .. } => "KafkaRefused",
            Self::Stalled(stall) => stall.reason,
            Self::Compile(_) | Self::Model(_) | Self::Tools(_) | Self::UnknownView { .. } => {
                "InvalidConfiguration"
            }
            Self::NoExecutor(_) | Self::Thread(_) | Self::Ended => "Internal",
        }
    }
}

/// Why a partition cannot begin until somebody decides.
#[derive(Debug)]
pub struct Stall {
    reason: &'static str,
    at: String,
    message: String,
}

impl Stall {
    /// Where a reader of `input` goes on whose state says `next`; 0 is no state. `resource` is the view, as
    /// `headwater resume` takes it.
    fn check(
        resource: &str,
        input: &TopicPartition,
        next: i64,
        bounds: Watermarks,
    ) -> Result<log::Start, Self> {
        if next == 0 {
            return Ok(log::Start::Earliest);
        }
        if next > bounds.high {
            return Err(Self {
                reason: "InputReset",
                at: input.to_string(),
                message: format!(
                    "the state was folded up to offset {next} of '{input}', which ends at {}: the topic was made anew. Rebuild the view, or keep what it holds and go on: headwater resume {resource} --from Earliest",
                    bounds.high
                ),
            });
        }
        if next < bounds.low {
            return Err(Self {
                reason: "InputLost",
                at: input.to_string(),
                message: format!(
                    "the state was folded up to offset {next} of '{input}', which now begins at {}: records in between are gone. Rebuild the view, or go on without them: headwater resume {resource} --from Earliest. Raise the topic's retention",
                    bounds.low
                ),
            });
        }
        Ok(log::Start::Offset(next))
    }

    /// Where a group goes on whose committed offset is `next`; `resource` as `headwater resume` takes it.
    fn position(
        resource: &str,
        input: &TopicPartition,
        next: i64,
        bounds: Watermarks,
    ) -> Result<i64, Self> {
        let (reason, what) = if next > bounds.high {
            (
                "InputReset",
                format!("ends at {}: the topic was made anew", bounds.high),
            )
        } else if next < bounds.low {
            let what = format!(
                "now begins at {}: records in between are gone, never processed. Raise the topic's retention",
                bounds.low
            );
            ("InputLost", what)
        } else {
            return Ok(next);
        };
        Err(Self {
            reason,
            at: input.to_string(),
            message: format!(
                "'{input}' was processed up to offset {next}, but {what}. Say where to go on: headwater resume {resource} --from Earliest|Latest|POSITION"
            ),
        })
    }

    fn state(partition: &TopicPartition, fault: &Fault) -> Self {
        Self {
            reason: "InvalidState",
            at: partition.to_string(),
            message: format!("the state cannot be restored: {fault}"),
        }
    }

    fn tell(&self, life: &Life) {
        tracing::error!(reason = self.reason, at = self.at, "{}", self.message);
        life.board
            .problem(self.reason, &self.at, self.message.clone());
    }
}

/// The loops of a stage, each to be run on a thread of its own.
type Parts = Vec<(
    &'static str,
    Box<dyn FnOnce(Arc<Life>) -> Result<(), Error> + Send>,
)>;

/// Starts a stage; `ordinal` tells its replicas apart. To be called within the executor that its runs
/// are to be tasks of.
///
/// # Errors
/// When the configuration cannot work. Kafka is not asked yet: what is wrong there is in the status.
pub fn start(config: Stage, ordinal: u32, services: Services) -> Result<Handle, Error> {
    let runtime = tokio::runtime::Handle::try_current()?;
    let context = Arc::new(Context::new(config, ordinal, services));
    let (parts, desk) = match &context.config.role {
        Role::View { name } => match context.config.views.get(name) {
            Some(view) => view::parts(&context, view)?,
            None => return Err(Error::UnknownView { view: name.clone() }),
        },
        Role::Agent(agent) => (agent::parts(&context, agent)?, None),
    };
    Handle::start(&context, parts, desk, runtime)
}
