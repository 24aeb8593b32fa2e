//! What a client does with librdkafka's own messages: log them, and remember what went wrong last.

use rdkafka::bindings as sys;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Context of every client.
#[derive(Debug, Default)]
pub struct Context {
    last: Mutex<Option<(RDKafkaErrorCode, String)>>,
    /// Partitions of the group that are in librdkafka's assignment: those that were started.
    fetched: Mutex<BTreeSet<(String, i32)>>,
}

impl Context {
    /// The last failure of a connection, so that a timeout can say why.
    pub fn last_failure(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn fetched(&self) -> MutexGuard<'_, BTreeSet<(String, i32)>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failed(&self, code: RDKafkaErrorCode, reason: &str) {
        tracing::debug!(target: "headwater::kafka", %reason, "connection failed");
        // That all are down says less than why the last one was.
        if code != RDKafkaErrorCode::AllBrokersDown {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((code, reason.to_owned()));
        }
    }
}

pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => {
            tracing::warn!(target: "headwater::kafka", facility, "{message}");
        }
        RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => {
            tracing::info!(target: "headwater::kafka", facility, "{message}");
        }
        RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
            tracing::debug!(target: "headwater::kafka", facility, "{message}");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        self.failed(code.unwrap_or(RDKafkaErrorCode::Fail), reason);
    }
}

impl ConsumerContext for Context {
    /// Called only while a consumer closes: [`crate::consumer::Consumer`] handles rebalances itself. librdkafka
    /// waits for an answer; asked anything once the group is closed, it would never reply.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        _: &mut TopicPartitionList,
    ) {
        if consumer.closed() {
            return;
        }
        let mut list = TopicPartitionList::new();
        let outcome = if event == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            consumer.incremental_assign(&list)
        } else {
            for (topic, partition) in std::mem::take(&mut *self.fetched()) {
                list.add_partition(&topic, partition);
            }
            consumer.incremental_unassign(&list)
        };
        if let Err(error) = outcome {
            tracing::debug!(target: "headwater::kafka", %error, "rebalance while closing");
        }
    }
}
