//! A producer that waits for acknowledgements without wasting time.
//!
//! rdkafka's `poll` and `flush` sleep out the time they are given, even when everything has arrived, which
//! would cost each transaction 100 ms. So acknowledgements are taken from librdkafka's queue here, one
//! by one. Sending and the calls of a transaction are rdkafka's.

use crate::context::log;
use crate::native::{Owned, text};
use rdkafka::bindings as sys;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner};
use rdkafka::producer::{Producer as _, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::Builder;
use std::time::Duration;

/// What became of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The record's opaque number, as given to [`Producer::send`].
    pub tag: usize,
    /// Partition and offset.
    pub outcome: Result<(i32, i64), RDKafkaErrorCode>,
}

/// The context that rdkafka needs; deliveries come to it only while a producer is dropped.
#[derive(Debug, Default)]
pub struct ProducerLog;

impl ClientContext for ProducerLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "headwater::kafka", %error, reason, "producer");
    }
}

impl ProducerContext<NoCustomPartitioner> for ProducerLog {
    type DeliveryOpaque = usize;

    fn delivery(&self, _: &DeliveryResult<'_>, _: usize) {}
}

pub struct Producer {
    // Before the client, which has to outlive it.
    queue: Owned<sys::rd_kafka_queue_t>,
    base: Arc<BaseProducer<ProducerLog>>,
}

/// So much longer than it was given a call of librdkafka may take.
const LATE: Duration = Duration::from_secs(1);

impl Producer {
    /// # Errors
    /// librdkafka's, for a configuration that it does not take.
    pub fn new(config: &ClientConfig) -> KafkaResult<Self> {
        let base: BaseProducer<ProducerLog> = config.create_with_context(ProducerLog)?;
        // SAFETY: the client lives; the handle returned is ours to destroy.
        let queue = unsafe {
            Owned::new(
                sys::rd_kafka_queue_get_main(base.client().native_ptr()),
                sys::rd_kafka_queue_destroy,
            )
        };
        let queue = queue
            .ok_or_else(|| KafkaError::ClientCreation("the client has no queue".to_owned()))?;
        Ok(Self {
            queue,
            base: Arc::new(base),
        })
    }

    /// Adds a group's offsets to the transaction. `None`: the call did not come back, and this producer is of no use any
    /// more. librdkafka (2.12) waits for good where a group's coordinator could not be found at once and no connection
    /// changes afterwards, as while a broker starts: it never looks at the time of such a request. The client goes with
    /// that call, should it ever come back.
    ///
    /// # Errors
    /// librdkafka's.
    pub fn send_offsets(
        &self,
        offsets: TopicPartitionList,
        group: Arc<ConsumerGroupMetadata>,
        timeout: Duration,
    ) -> Option<KafkaResult<()>> {
        let (back, come) = channel();
        let base = Arc::clone(&self.base);
        let call = move || {
            let sent = base.send_offsets_to_transaction(&offsets, &group, timeout);
            // Nobody may wait for it any more.
            let _ = back.send(sent);
        };
        let named = Builder::new().name("offsets".to_owned());
        if let Err(error) = named.spawn(call) {
            let reason = format!("no thread for a transaction's offsets: {error}");
            return Some(Err(KafkaError::ClientCreation(reason)));
        }
        come.recv_timeout(timeout + LATE).ok()
    }

    /// For the calls of a transaction. Never its `poll` or `flush`.
    pub fn base(&self) -> &BaseProducer<ProducerLog> {
        &self.base
    }

    /// Copies the record and returns at once; [`Producer::deliveries`] tells what became of it.
    ///
    /// # Errors
    /// librdkafka's: `QueueFull` to be tried again after taking deliveries, others for this record.
    pub fn send(&self, record: BaseRecord<'_, [u8], [u8], usize>) -> KafkaResult<()> {
        self.base.send(record).map_err(|(error, _)| error)
    }

    /// Records that are on their way.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.base.in_flight_count()).unwrap_or(0)
    }

    /// Hands over what became of records, waiting at most `wait` for the first.
    pub fn deliveries(&self, wait: Duration, on: &mut dyn FnMut(Delivery)) -> usize {
        let mut wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        let mut count = 0;
        loop {
            // SAFETY: the queue lives as long as `self`; the event returned is ours to destroy.
            let event = unsafe {
                Owned::new(
                    sys::rd_kafka_queue_poll(self.queue.pointer(), wait),
                    sys::rd_kafka_event_destroy,
                )
            };
            let Some(event) = event else { return count };
            // SAFETY: the event lives.
            match unsafe { sys::rd_kafka_event_type(event.pointer()) } {
                sys::RD_KAFKA_EVENT_DR => {
                    count += deliver(&event, on);
                    wait = 0;
                }
                sys::RD_KAFKA_EVENT_ERROR => {
                    // SAFETY: the event lives; its text is copied.
                    let reason = unsafe { text(sys::rd_kafka_event_error_string(event.pointer())) };
                    tracing::debug!(target: "headwater::kafka", reason, "producer");
                }
                sys::RD_KAFKA_EVENT_LOG => crate::consumer::forward_log(&event),
                _ => {}
            }
        }
    }
}

fn deliver(event: &Owned<sys::rd_kafka_event_t>, on: &mut dyn FnMut(Delivery)) -> usize {
    let mut count = 0;
    loop {
        // SAFETY: the event lives, and its messages as long as it; `_private` is the number that `send` was
        // given, as rdkafka stores one: as the pointer's value.
        let delivery = unsafe {
            let Some(message) = sys::rd_kafka_event_message_next(event.pointer()).as_ref() else {
                return count;
            };
            let failed = message.err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            Delivery {
                tag: message._private.addr(),
                outcome: if failed {
                    Err(message.err.into())
                } else {
                    Ok((message.partition, message.offset))
                },
            }
        };
        on(delivery);
        count += 1;
    }
}
