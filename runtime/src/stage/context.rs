//! What all loops of one stage share: configuration, services, and the telling of bad records.

use super::Services;
use super::life::Life;
use crate::metrics;
use crate::observe::Happening;
use headwater_engine::config::{Input, InvalidRecords, Stage, View};
use headwater_engine::fault::Fault;
use headwater_engine::names::Owner;
use headwater_engine::record::Record;

pub(super) struct Context {
    pub(super) config: Stage,
    pub(super) ordinal: u32,
    pub(super) services: Services,
    pub(super) kind: Owner,
    pub(super) name: String,
}

impl Context {
    pub(super) fn new(config: Stage, ordinal: u32, services: Services) -> Self {
        let (kind, name) = config.owner();
        Self {
            kind,
            name: name.to_owned(),
            config,
            ordinal,
            services,
        }
    }

    pub(super) fn kind_label(&self) -> &'static str {
        match self.kind {
            Owner::Source => "source",
            Owner::View => "view",
            Owner::Agent => "agent",
        }
    }

    /// Whose stage this is, as `headwater resume` takes it.
    pub(super) fn resource(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }

    /// What becomes of a record of the view's input log that cannot be folded. An input log of the view's
    /// own holds only what the intake let through.
    pub(super) fn invalid_records(&self, view: &View) -> InvalidRecords {
        match &view.input {
            Input::Source { topic } => self.invalid_of_topic(topic),
            Input::Own { .. } => InvalidRecords::DeadLetter,
        }
    }

    pub(super) fn invalid_of_topic(&self, topic: &str) -> InvalidRecords {
        let of_views = self
            .config
            .views
            .values()
            .flat_map(|view| view.sources.values());
        self.config
            .sources
            .values()
            .chain(of_views)
            .find(|source| source.topic == topic)
            .map(|source| source.invalid_records)
            .unwrap_or_default()
    }

    fn refusal(&self, fault: &Fault) -> metrics::Refusal {
        metrics::Refusal {
            kind: self.kind_label(),
            name: self.name.clone(),
            reason: fault.reason.to_string(),
        }
    }

    /// A dead letter is on its way.
    pub(super) fn dead_letter(&self, life: &Life, record: &Record<'_>, fault: &Fault) {
        tracing::warn!(position = %record.position(), reason = %fault.reason, message = fault.message, "dead letter");
        self.services
            .metrics
            .dead_letters
            .get_or_create(&self.refusal(fault))
            .inc();
        life.board.update(|status| status.dead_letters += 1);
        self.services.observer.tell(|| Happening::DeadLetter {
            kind: self.kind,
            name: self.name.clone(),
            position: record.position(),
            reason: fault.reason.to_string(),
            message: fault.message.clone(),
        });
    }

    pub(super) fn skipped(&self, life: &Life, record: &Record<'_>, fault: &Fault) {
        tracing::debug!(position = %record.position(), reason = %fault.reason, "invalid record skipped");
        self.services
            .metrics
            .skipped_records
            .get_or_create(&self.refusal(fault))
            .inc();
        life.board.update(|status| status.skipped_records += 1);
    }

    /// A partition stands still at this record; `resource` is whose, as `headwater resume` takes it.
    pub(super) fn stopped(&self, life: &Life, record: &Record<'_>, fault: &Fault, resource: &str) {
        let position = record.position().to_string();
        tracing::error!(position, reason = %fault.reason, message = fault.message, "partition stopped at an invalid record");
        life.board.problem(
            "Stopped",
            &position,
            format!(
                "the partition stands still at {position}: {fault}. Mend the source's definition, let invalid records go to the dead letters, or go past this one: headwater resume {resource} --skip"
            ),
        );
    }
}
