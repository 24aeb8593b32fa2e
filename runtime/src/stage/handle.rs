//! The threads of a stage, from outside: status, the end, and whether there is nothing left to do.

use super::context::Context;
use super::life::Life;
use super::look::{Desk, Look};
use super::serve::Rows;
use super::status::{Board, Phase, Status};
use super::{Error, Parts};
use crate::http::Probe;
use crate::log::{self, Log};
use crate::observe::Happening;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tokio::runtime;
use tokio_util::sync::CancellationToken;

/// A running stage. Dropping it without [`Handle::join`] ends it as a crash would: what is not
/// committed stays uncommitted, and its group waits for its session to end.
pub struct Handle {
    life: Arc<Life>,
    board: Arc<Board>,
    look: Option<Look>,
    rows: Option<Rows>,
    /// Cancelled when the last thread ended.
    ended: CancellationToken,
}

impl Handle {
    pub(super) fn start(
        context: &Arc<Context>,
        parts: Parts,
        desk: Option<Desk>,
        runtime: runtime::Handle,
    ) -> Result<Self, Error> {
        let names: Vec<_> = parts.iter().map(|(name, _)| *name).collect();
        let told = Arc::clone(context);
        let announce = move || {
            tracing::info!(kind = %told.kind, name = told.name, "stage is ready");
            told.services.observer.tell(|| Happening::Ready {
                kind: told.kind,
                name: told.name.clone(),
            });
        };
        let board = Arc::new(Board::new(
            context.kind,
            &context.name,
            &names,
            Box::new(announce),
        ));
        let life = Life::new(&context.services.shutdown, runtime, Arc::clone(&board));
        let handle = Self {
            life: Arc::clone(&life),
            board: Arc::clone(&board),
            rows: desk.as_ref().and_then(|desk| desk.rows.clone()),
            look: desk.map(|desk| Look::new(context, &life, desk)),
            ended: CancellationToken::new(),
        };
        life.runtime
            .spawn(super::lag::measure(Arc::clone(context), Arc::clone(&life)));
        let left = Arc::new(AtomicUsize::new(parts.len()));
        board.phase(Phase::Running);
        for (name, part) in parts {
            let exit = Exit {
                context: Arc::clone(context),
                life: Arc::clone(&life),
                left: Arc::clone(&left),
                ended: handle.ended.clone(),
                result: None,
            };
            let thread_name = format!("{} {name}", context.name);
            thread::Builder::new()
                .name(thread_name)
                .spawn(move || {
                    let span = tracing::info_span!(
                        "stage",
                        kind = %exit.context.kind,
                        name = exit.context.name,
                        part = name
                    );
                    let _entered = span.enter();
                    let result = part(Arc::clone(&exit.life));
                    exit.end(result);
                })
                .map_err(Error::Thread)?;
        }
        Ok(handle)
    }

    pub fn status(&self) -> Status {
        self.board.status()
    }

    /// Restored, a member of its groups, and caught up once.
    pub fn is_ready(&self) -> bool {
        self.board.status().ready
    }

    /// Whether every record that is in the stage's input logs now is processed and committed. Of
    /// several stages that feed one another, see [`idle`].
    ///
    /// # Errors
    /// When the log does not say where it ends.
    pub fn caught_up(&self, log: &dyn Log) -> log::Result<bool> {
        self.board.caught_up(log)
    }

    /// What `/healthz`, `/readyz` and `/status` show.
    pub fn probe(&self) -> Arc<dyn Probe> {
        Arc::new(Shown {
            board: Arc::clone(&self.board),
        })
    }

    /// To look into the view that the stage folds; `None` of an agent's stage.
    pub fn look(&self) -> Option<Look> {
        self.look.clone()
    }

    /// Answers for the rows of the view that the stage folds, where it is served.
    pub fn rows(&self) -> Option<Rows> {
        self.rows.clone()
    }

    /// Ends the stage as a crash would, and waits until its threads are gone.
    pub async fn crash(self) {
        self.life.abandon();
        self.ended.cancelled().await;
    }

    /// Waits until the stage ended: after its shutdown token was cancelled, or by itself.
    pub async fn join(self) -> Status {
        self.ended.cancelled().await;
        self.board.status()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.life.abandon();
    }
}

/// Whether stages that feed one another have nothing left to do: all have caught up, and nothing moved
/// while they were asked. Who feeds them from outside has to have stopped.
///
/// # Errors
/// When the log does not say where it ends.
pub fn idle<'a>(stages: impl IntoIterator<Item = &'a Handle>, log: &dyn Log) -> log::Result<bool> {
    let stages: Vec<&Handle> = stages.into_iter().collect();
    let moves = || stages.iter().map(|stage| stage.board.moves()).sum::<u64>();
    let before = moves();
    for stage in &stages {
        if !stage.caught_up(log)? {
            return Ok(false);
        }
    }
    Ok(moves() == before)
}

struct Shown {
    board: Arc<Board>,
}

impl Probe for Shown {
    fn alive(&self) -> bool {
        !matches!(self.board.status().phase, Phase::Failed | Phase::Stopped)
    }

    fn ready(&self) -> bool {
        self.board.status().ready
    }

    fn status(&self) -> serde_json::Value {
        serde_json::to_value(self.board.status()).unwrap_or_default()
    }
}

/// What a thread leaves behind, by whatever way it ends.
struct Exit {
    context: Arc<Context>,
    life: Arc<Life>,
    left: Arc<AtomicUsize>,
    ended: CancellationToken,
    /// `None`: it panicked.
    result: Option<Result<(), Error>>,
}

impl Exit {
    /// The thread ended without a panic.
    fn end(mut self, result: Result<(), Error>) {
        self.result = Some(result);
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        let (reason, message) = match self.result.take() {
            Some(Ok(()) | Err(Error::Ended)) => ("", String::new()),
            Some(Err(error)) => (error.reason(), error.to_string()),
            None => (
                "Internal",
                "a thread of the stage panicked; its message is in the log".to_owned(),
            ),
        };
        let board = &self.life.board;
        if reason.is_empty() {
            board.phase(Phase::Stopping);
        } else {
            tracing::error!(reason, "{message}");
            board.problem(reason, "", message.clone());
            board.phase(Phase::Failed);
            self.context.services.observer.tell(|| Happening::Failed {
                kind: self.context.kind,
                name: self.context.name.clone(),
                message,
            });
        }
        // One part without the others is of no use.
        self.life.end();
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            board.phase(Phase::Stopped);
            self.ended.cancel();
        }
    }
}
