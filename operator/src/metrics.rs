//! The operator's metrics, all declared here: `headwater_operator_<thing>_<unit>`.

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::{
    counter::Counter, family::Family, gauge::Gauge, histogram::Histogram,
};
use prometheus_client::registry::Registry;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Target {
    /// `object`, `status`, `finalizer` or `topic`.
    target: &'static str,
}

pub(crate) struct Metrics {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    duration: Histogram,
    writes: Family<Target, Counter>,
    namespaces: Gauge,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("headwater_operator");
        let reconciles = Family::<Outcome, Counter>::default();
        registry.register(
            "reconciles",
            "Rounds over a namespace, by how they ended",
            reconciles.clone(),
        );
        let duration = Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0]);
        registry.register(
            "reconcile_seconds",
            "How long a round over a namespace took",
            duration.clone(),
        );
        let writes = Family::<Target, Counter>::default();
        registry.register(
            "writes",
            "What was written to the API server or to Kafka",
            writes.clone(),
        );
        let namespaces = Gauge::default();
        registry.register(
            "namespaces",
            "Namespaces with resources",
            namespaces.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "1 while this process leads", leader.clone());
        Self {
            registry,
            reconciles,
            duration,
            writes,
            namespaces,
            leader,
        }
    }
}

impl Metrics {
    pub(crate) fn reconciled(&self, failed: bool, took: Duration) {
        let outcome = if failed { "failed" } else { "done" };
        self.reconciles.get_or_create(&Outcome { outcome }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    pub(crate) fn wrote(&self, target: &'static str) {
        self.writes.get_or_create(&Target { target }).inc();
    }

    pub(crate) fn topics(&self, changes: u32) {
        self.writes
            .get_or_create(&Target { target: "topic" })
            .inc_by(u64::from(changes));
    }

    pub(crate) fn namespaces(&self, count: usize) {
        self.namespaces
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// In the text format of OpenMetrics.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _infallible = encode(&mut text, &self.registry);
        text
    }
}
