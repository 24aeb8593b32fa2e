//! What is said of a run once it is committed: metrics, the stage's status, the log of the process, and whoever watches.

use super::Batches;
use super::content::Finished;
use crate::metrics;
use crate::observe::Happening;
use headwater_engine::audit;
use headwater_engine::config::OnFailure;
use headwater_engine::journal::Store;
use std::sync::Arc;

impl Batches {
    pub(super) fn tell(&self, finished: &Finished) {
        let services = &self.setup.context.services;
        let record = &finished.completion.summary;
        let (agent, took) = (&self.setup.config.name, finished.arrived.elapsed());
        let label = metrics::Run {
            agent: agent.clone(),
            outcome: format!("{:?}", record.outcome),
        };
        services.metrics.runs.get_or_create(&label).inc();
        services
            .metrics
            .run_seconds
            .get_or_create(&label)
            .observe(took.as_secs_f64());
        let stale = record.slots.iter().any(|slot| !slot.behind.is_empty());
        if stale {
            let label = metrics::Agent {
                agent: agent.clone(),
            };
            services.metrics.stale_barriers.get_or_create(&label).inc();
            self.life.board.update(|status| status.stale_runs += 1);
        }
        tracing::info!(
            agent,
            run = %record.run,
            outcome = ?record.outcome,
            trigger = %record.trigger.position,
            milliseconds = took.as_millis(),
            stale,
            "run finished"
        );
        if record.outcome == audit::Outcome::Failed && finished.trigger.is_some() {
            self.tell_failure(record);
        }
        services.observer.tell(|| Happening::RunFinished {
            agent: agent.clone(),
            record: Arc::clone(record),
            milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
    }

    /// A run that is not over.
    pub(super) fn tell_waiting(&self, journal: &Store, run: &str) {
        let Some(parked) = journal.parked(run) else {
            return;
        };
        let (agent, asked) = (&self.setup.config.name, &parked.asked);
        tracing::info!(
            agent,
            run,
            approval = asked.approval,
            tool = asked.tool,
            rule = asked.rule,
            "run waits for a person"
        );
        let observer = &self.setup.context.services.observer;
        observer.tell(|| Happening::RunWaits {
            agent: agent.clone(),
            asked: asked.clone(),
        });
    }

    fn tell_failure(&self, record: &audit::Record) {
        let (reason, message) = match &record.failure {
            Some(failure) => (failure.reason.to_string(), failure.message.clone()),
            None => return,
        };
        let context = &self.setup.context;
        tracing::warn!(run = %record.run, reason, message, "run failed");
        if self.setup.config.delivery.on_failure == OnFailure::Skip {
            return;
        }
        context
            .services
            .metrics
            .dead_letters
            .get_or_create(&metrics::Refusal {
                kind: "agent",
                name: context.name.clone(),
                reason: reason.clone(),
            })
            .inc();
        self.life.board.update(|status| status.dead_letters += 1);
        context.services.observer.tell(|| Happening::DeadLetter {
            kind: context.kind,
            name: context.name.clone(),
            position: record.trigger.position.clone(),
            reason,
            message,
        });
    }
}
