//! The freshness barrier: whoever reads waits until the views hold what was in the log when it asked.
//!
//! What is missing after [`UNDECIDED`] is asked for its last stable offset: records beyond it are of transactions
//! that nobody decided yet. Nobody can say how long that lasts, so it is not waited for. Everything else is, until
//! the deadline. Invariant: where a view lacks a record below the ends, what is found names its partition.

use super::super::ends::{Ends, Service};
use super::{Found, Held};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a transaction may take from its first acknowledged record to its markers without being noted.
const UNDECIDED: Duration = Duration::from_millis(50);

impl Held {
    /// Waits until every view holds all below `ends` that readers of committed records can read, at most until
    /// `deadline`.
    pub(in crate::stage) async fn barrier(
        &self,
        ends: &Ends,
        asks: &Service,
        deadline: Instant,
        now_ms: impl Fn() -> i64,
    ) -> BTreeMap<String, Found> {
        let patience = (Instant::now() + UNDECIDED).min(deadline);
        let mut found = self.wait(ends, &Ends::default(), patience).await;
        let missing: BTreeSet<_> = found
            .values()
            .flat_map(|found| &found.behind)
            .map(|behind| behind.partition.clone())
            .collect();
        if !missing.is_empty() && patience < deadline {
            // Without an answer, the rest is waited for as what is merely late.
            let stable = timeout_at(deadline, asks.ask_stable(missing)).await;
            let stable = stable.ok().and_then(Result::ok).unwrap_or_default();
            found = self.wait(ends, &stable, deadline).await;
        }
        self.judge(found, now_ms())
    }

    /// Waits until every view holds all below `ends`, for as long as it takes.
    pub(in crate::stage) async fn reach(&self, ends: &Ends) {
        let mut progress = self.progress.subscribe();
        loop {
            // Marked as seen before the views are looked at: a turn in between wakes again.
            progress.mark_unchanged();
            let found = self.find(ends);
            // An error of the channel would be its end, which outlives everybody who waits.
            if found.values().all(|found| found.behind.is_empty())
                || progress.changed().await.is_err()
            {
                return;
            }
        }
    }

    async fn wait(&self, ends: &Ends, stable: &Ends, deadline: Instant) -> BTreeMap<String, Found> {
        let mut progress = self.progress.subscribe();
        loop {
            progress.mark_unchanged();
            let mut found = self.find(ends);
            let behind = found.values_mut().flat_map(|found| &mut found.behind);
            let mut waits = false;
            for behind in behind {
                let readable = stable.get(&behind.partition);
                behind.undecided = readable.is_some_and(|end| behind.covered >= *end);
                waits |= !behind.undecided;
            }
            let late = Instant::now() >= deadline;
            if !waits
                || late
                || !matches!(timeout_at(deadline, progress.changed()).await, Ok(Ok(())))
            {
                return found;
            }
        }
    }

    fn judge(&self, mut found: BTreeMap<String, Found>, now_ms: i64) -> BTreeMap<String, Found> {
        for (name, found) in &mut found {
            let Some(one) = self.views.get(name) else {
                continue;
            };
            if found.behind.is_empty() {
                one.met(now_ms);
            } else {
                found.stale_ms = now_ms.saturating_sub(one.met_at()).max(1);
            }
        }
        found
    }

    /// Takes note of the views that hold all below `ends`, the logs' as they are at `now_ms`.
    pub(in crate::stage) fn note(&self, ends: &Ends, now_ms: i64) {
        for one in self.views.values() {
            if one.find(ends).behind.is_empty() {
                one.met(now_ms);
            }
        }
    }
}
