//! What happens in the stages of this process, for whoever watches: `headwater up` draws it.
//!
//! Telling costs next to nothing where nobody watches: the value is not even made. A watcher that is
//! too slow misses some, and is told how many; no stage ever waits for it. Unlike logs and metrics it
//! carries event values, so it never leaves the process by itself.

use headwater_engine::approval::Asked;
use headwater_engine::audit;
use headwater_engine::names::Owner;
use headwater_engine::record::Position;
use std::sync::Arc;
use tokio::sync::broadcast;

/// How many a watcher may lag behind before it misses some.
const CAPACITY: usize = 4_096;

#[derive(Clone, Debug)]
pub enum Happening {
    /// A stage folded records; an agent's stage folds the views that it reads.
    Folded {
        stage: String,
        view: String,
        records: usize,
        /// Records that made a value another one.
        changes: usize,
    },
    /// Records, marks included, were written to the own input log of a view or an agent.
    TakenIn { stage: String, records: usize },
    Checkpoint {
        view: String,
        keys: usize,
        records: usize,
    },
    RunStarted {
        agent: String,
        run: String,
        key: Option<String>,
        trigger: Position,
    },
    /// An attempt failed and is made again.
    RunRetried {
        agent: String,
        run: String,
        attempt: u32,
        reason: String,
        message: String,
    },
    /// A run waits for a person, and its question is committed.
    RunWaits { agent: String, asked: Asked },
    /// A run ended and its transaction is committed.
    RunFinished {
        agent: String,
        record: Arc<audit::Record>,
        /// From the trigger's arrival to the commit.
        milliseconds: u64,
    },
    DeadLetter {
        kind: Owner,
        name: String,
        position: Position,
        reason: String,
        message: String,
    },
    /// A stage has caught up once and works.
    Ready { kind: Owner, name: String },
    Failed {
        kind: Owner,
        name: String,
        message: String,
    },
}

#[derive(Clone, Debug)]
pub struct Observer(broadcast::Sender<Arc<Happening>>);

impl Observer {
    pub fn new() -> Self {
        Self(broadcast::channel(CAPACITY).0)
    }

    pub fn watch(&self) -> broadcast::Receiver<Arc<Happening>> {
        self.0.subscribe()
    }

    pub(crate) fn tell(&self, happening: impl FnOnce() -> Happening) {
        if self.0.receiver_count() > 0 {
            // The last watcher may go at this moment.
            let _ = self.0.send(Arc::new(happening()));
        }
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self::new()
    }
}
