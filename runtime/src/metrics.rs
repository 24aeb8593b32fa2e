//! Every metric of the data plane, declared in this one file.
//!
//! Names are `headwater_<thing>_<base unit>`, counters end in `_total`. Labels are names of resources
//! and closed lists, never data. One registry serves all stages of a process.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::fmt;

/// A stage: `kind` is `view` or `agent`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Stage {
    pub kind: &'static str,
    pub name: String,
}

/// A view as one stage holds it; agents fold the views that they read.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Held {
    pub kind: &'static str,
    pub name: String,
    pub view: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Agent {
    pub agent: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Run {
    pub agent: String,
    /// `Done`, `Skipped`, `Failed`.
    pub outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Model {
    pub model: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Request {
    pub model: String,
    /// `ok`, or the kind of the error.
    pub outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Tokens {
    pub model: String,
    /// `input` or `output`.
    pub direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ToolCall {
    pub agent: String,
    pub tool: String,
    /// `Done`, `Denied`, `Failed`, `Unknown`.
    pub outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Refusal {
    pub kind: &'static str,
    pub name: String,
    /// A reason of the engine's closed list.
    pub reason: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn fast() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    ])
}

fn slow() -> Histogram {
    Histogram::new([
        0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0,
    ])
}

pub struct Metrics {
    registry: Registry,
    pub records_folded: Family<Held, Counter>,
    pub late_events: Family<Held, Counter>,
    pub view_keys: Family<Held, Gauge>,
    pub view_bytes: Family<Held, Gauge>,
    pub checkpoint_seconds: Histograms<Stage>,
    pub barrier_wait_seconds: Histograms<Agent>,
    pub stale_barriers: Family<Agent, Counter>,
    pub runs: Family<Run, Counter>,
    pub run_seconds: Histograms<Run>,
    pub run_retries: Family<Agent, Counter>,
    pub model_request_seconds: Histograms<Request>,
    pub model_retries: Family<Model, Counter>,
    pub model_limit_wait_seconds: Histograms<Model>,
    pub model_tokens: Family<Tokens, Counter>,
    pub tool_call_seconds: Histograms<ToolCall>,
    pub dead_letters: Family<Refusal, Counter>,
    pub skipped_records: Family<Refusal, Counter>,
    pub transaction_commit_seconds: Histograms<Stage>,
    pub transaction_aborts: Family<Stage, Counter>,
    pub lag_records: Family<Stage, Gauge>,
    pub unfinished_runs: Family<Agent, Gauge>,
}

impl Metrics {
    pub fn new() -> Self {
        let fast: fn() -> Histogram = fast;
        let slow: fn() -> Histogram = slow;
        let mut metrics = Self {
            registry: Registry::with_prefix("headwater"),
            records_folded: Family::default(),
            late_events: Family::default(),
            view_keys: Family::default(),
            view_bytes: Family::default(),
            checkpoint_seconds: Family::new_with_constructor(fast),
            barrier_wait_seconds: Family::new_with_constructor(fast),
            stale_barriers: Family::default(),
            runs: Family::default(),
            run_seconds: Family::new_with_constructor(slow),
            run_retries: Family::default(),
            model_request_seconds: Family::new_with_constructor(slow),
            model_retries: Family::default(),
            model_limit_wait_seconds: Family::new_with_constructor(slow),
            model_tokens: Family::default(),
            tool_call_seconds: Family::new_with_constructor(slow),
            dead_letters: Family::default(),
            skipped_records: Family::default(),
            transaction_commit_seconds: Family::new_with_constructor(fast),
            transaction_aborts: Family::default(),
            lag_records: Family::default(),
            unfinished_runs: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        // The text format adds `_total` to counters.
        r.register(
            "records_folded",
            "Records folded into a view",
            self.records_folded.clone(),
        );
        r.register(
            "late_events",
            "Events that came too late for a window or a key of a view, and were not kept for it",
            self.late_events.clone(),
        );
        r.register(
            "view_keys",
            "Keys that a view holds",
            self.view_keys.clone(),
        );
        r.register(
            "view_bytes",
            "Bytes of keys and values that a view holds",
            self.view_bytes.clone(),
        );
        r.register(
            "checkpoint_seconds",
            "Time to write a view's checkpoint",
            self.checkpoint_seconds.clone(),
        );
        r.register(
            "barrier_wait_seconds",
            "Time that runs waited for their views to hold what was in the log",
            self.barrier_wait_seconds.clone(),
        );
        r.register(
            "stale_barriers",
            "Batches of runs that went on before their views held what was in the log",
            self.stale_barriers.clone(),
        );
        r.register("runs", "Runs that ended, committed", self.runs.clone());
        r.register(
            "run_seconds",
            "Time from a trigger's arrival to its commit",
            self.run_seconds.clone(),
        );
        r.register(
            "run_retries",
            "Attempts after the first",
            self.run_retries.clone(),
        );
        r.register(
            "model_request_seconds",
            "Time of one request to a model",
            self.model_request_seconds.clone(),
        );
        r.register(
            "model_retries",
            "Requests to a model after the first of a call",
            self.model_retries.clone(),
        );
        r.register(
            "model_limit_wait_seconds",
            "How long requests to a model waited for its limits",
            self.model_limit_wait_seconds.clone(),
        );
        r.register(
            "model_tokens",
            "Tokens as the provider counted them",
            self.model_tokens.clone(),
        );
        r.register(
            "tool_call_seconds",
            "Time of a call of a tool, repeated requests included",
            self.tool_call_seconds.clone(),
        );
        r.register(
            "dead_letters",
            "Records written to a dead-letter topic",
            self.dead_letters.clone(),
        );
        r.register(
            "skipped_records",
            "Invalid records that were skipped as configured",
            self.skipped_records.clone(),
        );
        r.register(
            "transaction_commit_seconds",
            "Time of one transaction, from begin to committed",
            self.transaction_commit_seconds.clone(),
        );
        r.register(
            "transaction_aborts",
            "Transactions that were aborted and tried again",
            self.transaction_aborts.clone(),
        );
        r.register(
            "lag_records",
            "Offsets between what is processed and the end of the input log",
            self.lag_records.clone(),
        );
        r.register(
            "unfinished_runs",
            "Triggers taken in and not yet committed",
            self.unfinished_runs.clone(),
        );
    }

    /// The OpenMetrics text.
    ///
    /// # Errors
    /// Never, writing to a text; the format's signature has it.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        let metrics = Metrics::new();
        metrics
            .runs
            .get_or_create(&Run {
                agent: "a".into(),
                outcome: "Done".into(),
            })
            .inc();
        metrics
            .checkpoint_seconds
            .get_or_create(&Stage {
                kind: "view",
                name: "v".into(),
            })
            .observe(0.1);
        let text = metrics.text().unwrap();
        assert!(
            text.contains("headwater_runs_total{agent=\"a\",outcome=\"Done\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("headwater_checkpoint_seconds_count{kind=\"view\",name=\"v\"} 1"),
            "{text}"
        );
    }
}
