//! What a client does with librdkafka's own messages: log them, and remember what went wrong last.

use rdkafka::bindings as sys;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use std::sync::{Mutex, PoisonError};

/// Context of every client.
#[derive(Debug, Default)]
pub struct Context {
    last: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl Context {
    /// The last failure of a connection, so that a timeout can say why.
    pub fn last_failure(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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
    /// Called only while a consumer closes: [`crate::consumer::Consumer`] handles rebalances itself. A
    /// partition that was never started is in no assignment, and librdkafka waits for what it asked.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let mut known = TopicPartitionList::new();
        let outcome = if event == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            consumer.incremental_assign(&known)
        } else {
            consumer.assignment().and_then(|assigned| {
                for it in partitions.elements() {
                    if assigned
                        .find_partition(it.topic(), it.partition())
                        .is_some()
                    {
                        known.add_partition(it.topic(), it.partition());
                    }
                }
                consumer.incremental_unassign(&known)
            })
        };
        if let Err(error) = outcome {
            tracing::warn!(target: "headwater::kafka", %error, "rebalance while closing");
        }
    }
}
