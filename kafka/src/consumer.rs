//! A consumer that hands over borrowed records, can be woken, and leaves rebalances to its caller.
//!
//! rdkafka's own `poll` gives one allocation a record, panics on a header name that is no UTF-8, cannot
//! be woken, and answers a rebalance before its caller can commit. So this one serves librdkafka's queue itself.
//!
//! It never blocks inside librdkafka: a callback says that something arrived, and `poll` waits for that or
//! for its waker. What arrived may be a commit marker only; then `poll` returns with nothing, since the
//! position moved.

pub use crate::message::Message;
use crate::message::{Batch, Shower};
use crate::native::{Owned, text};
use crate::{Context, brokers};

use rdkafka::bindings as sys;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::ffi::{c_char, c_int};
use std::mem::ManuallyDrop;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long fetching may take to stop.
const SETTLE: Duration = Duration::from_secs(5);

/// How long nothing may come before it is looked whether a broker is there.
const QUIET: Duration = Duration::from_secs(10);

/// How long closing may take.
const CLOSE: Duration = Duration::from_secs(10);

/// Records that wait and are dropped at once; more come while they are fetched.
const DROPPED: usize = 100_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebalance {
    Assign,
    Revoke,
    /// Revoked without a chance to commit.
    Lost,
}

/// What `poll` hands over.
#[derive(Debug)]
pub enum Event<'a> {
    Message(Message<'a>),
    /// To be answered with [`Consumer::assign_more`] or [`Consumer::unassign`]; the last event of its poll.
    Rebalance(Rebalance, Vec<(String, i32)>),
    /// `partition` where the error is of one.
    Error {
        code: RDKafkaErrorCode,
        fatal: bool,
        reason: String,
        partition: Option<(String, i32)>,
    },
}

/// Set by librdkafka's threads and by wakers.
#[derive(Debug, Default)]
struct Arrivals {
    flags: Mutex<Flags>,
    condition: Condvar,
}

#[derive(Debug, Default)]
struct Flags {
    arrived: bool,
    woken: bool,
}

impl Arrivals {
    fn set(&self, change: impl FnOnce(&mut Flags)) {
        change(&mut self.flags.lock().unwrap_or_else(PoisonError::into_inner));
        self.condition.notify_all();
    }

    fn take(&self) -> Flags {
        std::mem::take(&mut *self.flags.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wait(&self, most: Duration) {
        let flags = self.flags.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self
            .condition
            .wait_timeout_while(flags, most, |flags| !flags.arrived && !flags.woken);
    }
}

pub struct Consumer {
    // Both until the drop alone.
    queue: ManuallyDrop<Owned<sys::rd_kafka_queue_t>>,
    base: ManuallyDrop<BaseConsumer<Context>>,
    arrivals: Arc<Arrivals>,
    servers: String,
    /// Since something came, or was looked for last.
    quiet: Mutex<Instant>,
}

impl Consumer {
    /// The configuration has to name a group, even for a consumer that never joins it.
    ///
    /// # Errors
    /// librdkafka's, for a configuration that it does not take.
    pub fn new(config: &ClientConfig) -> KafkaResult<Self> {
        let mut base: BaseConsumer<Context> = config.create_with_context(Context::default())?;
        let arrivals = Arc::<Arrivals>::default();
        let told = Arc::clone(&arrivals);
        base.set_nonempty_callback(move || told.set(|flags| flags.arrived = true));
        // SAFETY: the client lives; the handle returned is ours to destroy.
        let queue = unsafe {
            Owned::new(
                sys::rd_kafka_queue_get_consumer(base.client().native_ptr()),
                sys::rd_kafka_queue_destroy,
            )
        };
        let queue = queue.ok_or_else(|| {
            rdkafka::error::KafkaError::ClientCreation("a consumer needs a group.id".to_owned())
        })?;
        Ok(Self {
            queue: ManuallyDrop::new(queue),
            base: ManuallyDrop::new(base),
            arrivals,
            servers: config
                .get("bootstrap.servers")
                .unwrap_or_default()
                .to_owned(),
            quiet: Mutex::new(Instant::now()),
        })
    }

    /// For what rdkafka offers safely: subscriptions, pauses, committed offsets. Never its `poll`.
    pub fn base(&self) -> &BaseConsumer<Context> {
        &self.base
    }

    /// Makes the poll under way return, or else the next one.
    pub fn waker(&self) -> Arc<dyn Fn() + Send + Sync> {
        let arrivals = Arc::clone(&self.arrivals);
        Arc::new(move || arrivals.set(|flags| flags.woken = true))
    }

    /// Hands over at most `limit` events, waiting at most `wait` for the first. Returns how many: 0 where
    /// woken, and where something arrived that is no event but may have moved a position.
    pub fn poll(&self, wait: Duration, limit: usize, on: &mut dyn FnMut(Event<'_>)) -> usize {
        self.poll_by(wait, || self.drain(limit, on))
    }

    /// As [`Consumer::poll`], for a consumer whose partitions are assigned by hand; half as dear for each record.
    /// An error that stands among records is logged, and handed over when it comes again.
    pub fn poll_by_hand(
        &self,
        wait: Duration,
        limit: usize,
        on: &mut dyn FnMut(Event<'_>),
    ) -> usize {
        self.poll_by(wait, || {
            let first = self.drain(1, on);
            if first == 0 || limit == 1 {
                return first;
            }
            first + self.drain_records(limit - first, on)
        })
    }

    fn poll_by(&self, wait: Duration, mut drain: impl FnMut() -> usize) -> usize {
        let deadline = Instant::now() + wait;
        loop {
            let before = self.arrivals.take();
            let count = drain();
            self.look(count > 0 || before.arrived);
            if count > 0 || before.arrived || before.woken {
                return count;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return 0;
            }
            self.arrivals.wait(left.min(QUIET));
        }
    }

    /// As [`brokers::look`], for who waits for an answer and polls nothing meanwhile.
    pub fn look_for_brokers(&self) {
        brokers::look(self.base.client(), &self.servers);
    }

    /// Where nothing came for a while, nobody may be there whom it comes from.
    fn look(&self, came: bool) {
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if came {
            *quiet = Instant::now();
        } else if quiet.elapsed() >= QUIET {
            brokers::look(self.base.client(), &self.servers);
            *quiet = Instant::now();
        }
    }

    fn drain(&self, limit: usize, on: &mut dyn FnMut(Event<'_>)) -> usize {
        let mut shower = Shower::default();
        let mut count = 0;
        while count < limit {
            // SAFETY: the queue lives as long as `self`; the event returned is ours to destroy.
            let event = unsafe {
                Owned::new(
                    sys::rd_kafka_queue_poll(self.queue.pointer(), 0),
                    sys::rd_kafka_event_destroy,
                )
            };
            let Some(event) = event else { break };
            // SAFETY: the event lives.
            match unsafe { sys::rd_kafka_event_type(event.pointer()) } {
                sys::RD_KAFKA_EVENT_FETCH => {
                    // SAFETY: the event lives until after the call, and its message as long as it.
                    count += usize::from(unsafe {
                        let message = sys::rd_kafka_event_message_next(event.pointer());
                        shower.show(message, &mut |message| on(Event::Message(message)))
                    });
                }
                sys::RD_KAFKA_EVENT_REBALANCE => {
                    let (kind, partitions) = self.rebalance(&event);
                    on(Event::Rebalance(kind, partitions));
                    count += 1;
                    self.arrivals.set(|flags| flags.arrived = true);
                    break;
                }
                sys::RD_KAFKA_EVENT_ERROR => count += usize::from(self.error(&event, on)),
                sys::RD_KAFKA_EVENT_LOG => forward_log(&event),
                // Statistics and acknowledgements of commits: neither is asked for.
                _ => {}
            }
        }
        if count == limit {
            // The callback tells of an empty queue that fills, and this one may not be empty.
            self.arrivals.set(|flags| flags.arrived = true);
        }
        count
    }

    /// Records at one go, without an event and a look at the clock for each.
    fn drain_records(&self, limit: usize, on: &mut dyn FnMut(Event<'_>)) -> usize {
        // SAFETY: the queue lives as long as `self`.
        let batch = unsafe { Batch::take(self.queue.pointer(), limit) };
        if batch.len() == limit {
            // The callback tells of an empty queue that fills, and this one may not be empty.
            self.arrivals.set(|flags| flags.arrived = true);
        }
        let count = batch.len();
        for failed in batch.show(&mut |message| on(Event::Message(message))) {
            let (code, reason) = (failed.code, failed.reason);
            if code == RDKafkaErrorCode::PartitionEOF {
                continue;
            }
            self.base.context().failed(code, &reason);
            on(Event::Error {
                code,
                fatal: false,
                reason,
                partition: Some(failed.partition),
            });
        }
        count
    }

    fn rebalance(&self, event: &Owned<sys::rd_kafka_event_t>) -> (Rebalance, Vec<(String, i32)>) {
        // SAFETY: the event lives; its list is read during this call and belongs to the event.
        let (assign, partitions) = unsafe {
            let error = sys::rd_kafka_event_error(event.pointer());
            let list = sys::rd_kafka_event_topic_partition_list(event.pointer());
            let assign = error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
            (assign, partitions(list))
        };
        let kind = if assign {
            Rebalance::Assign
        } else if self.base.assignment_lost() {
            Rebalance::Lost
        } else {
            Rebalance::Revoke
        };
        (kind, partitions)
    }

    /// Whether it was handed over.
    fn error(&self, event: &Owned<sys::rd_kafka_event_t>, on: &mut dyn FnMut(Event<'_>)) -> bool {
        // SAFETY: the event lives; the partition returned is ours to destroy, and read before.
        let (code, fatal, reason, partition) = unsafe {
            let code = RDKafkaErrorCode::from(sys::rd_kafka_event_error(event.pointer()));
            let fatal = sys::rd_kafka_event_error_is_fatal(event.pointer()) != 0;
            let reason = text(sys::rd_kafka_event_error_string(event.pointer()));
            let partition = Owned::new(
                sys::rd_kafka_event_topic_partition(event.pointer()),
                sys::rd_kafka_topic_partition_destroy,
            );
            let partition = partition.map(|it| {
                let it = &*it.pointer();
                (text(it.topic), it.partition)
            });
            (code, fatal, reason, partition)
        };
        if code == RDKafkaErrorCode::NoError || code == RDKafkaErrorCode::PartitionEOF {
            return false;
        }
        self.base.context().failed(code, &reason);
        on(Event::Error {
            code,
            fatal,
            reason,
            partition,
        });
        true
    }

    /// Answers an assignment. Partitions given here begin at their offset; those of the group that are not
    /// given stay unread until they are, with another call.
    ///
    /// # Errors
    /// librdkafka's.
    pub fn assign_more(&self, partitions: &[(&str, i32, i64)]) -> KafkaResult<()> {
        self.settle(partitions)?;
        self.base.incremental_assign(&positions(partitions)?)?;
        let started = partitions
            .iter()
            .map(|(topic, it, _)| ((*topic).to_owned(), *it));
        self.base.context().fetched().extend(started);
        Ok(())
    }

    /// Answers a revocation: of the partitions those that [`Consumer::assign_more`] was called for.
    ///
    /// # Errors
    /// librdkafka's.
    pub fn unassign(&self, partitions: &[(&str, i32)]) -> KafkaResult<()> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
            let at = ((*topic).to_owned(), *partition);
            self.base.context().fetched().remove(&at);
        }
        self.base.incremental_unassign(&list)
    }

    /// Answers whatever rebalance is due, giving up everything. Records that wait are dropped.
    fn answer_due(&self, wait: Duration) -> KafkaResult<()> {
        let mut answer = Ok(());
        self.poll(wait, DROPPED, &mut |event| {
            if let Event::Rebalance(kind, _) = event {
                answer = match kind {
                    Rebalance::Assign => self.assign_more(&[]),
                    Rebalance::Revoke | Rebalance::Lost => {
                        let all: Vec<_> = self.base.context().fetched().iter().cloned().collect();
                        let all: Vec<_> = all.iter().map(|(topic, it)| (&**topic, *it)).collect();
                        self.unassign(&all)
                    }
                };
            }
        });
        answer
    }

    /// Replaces an assignment by hand.
    ///
    /// # Errors
    /// librdkafka's.
    pub fn assign(&self, partitions: &[(&str, i32, i64)]) -> KafkaResult<()> {
        self.base.unassign()?;
        self.settle(partitions)?;
        self.base.assign(&positions(partitions)?)
    }

    /// librdkafka stops fetching in the background, and until then tells the position of before.
    fn settle(&self, partitions: &[(&str, i32, i64)]) -> KafkaResult<()> {
        let deadline = Instant::now() + SETTLE;
        for (topic, partition, _) in partitions {
            while self.position(topic, *partition).is_some() {
                if Instant::now() >= deadline {
                    return Err(rdkafka::error::KafkaError::SetPartitionOffset(
                        RDKafkaErrorCode::OperationTimedOut,
                    ));
                }
                std::thread::park_timeout(SETTLE / 20_000);
            }
        }
        Ok(())
    }

    /// Leaves the group, a static member too (librdkafka's own close keeps a static member until its session
    /// ends): partitions move at once. Records that arrive meanwhile are dropped.
    ///
    /// # Errors
    /// That it was not done in time; dropping the consumer then is as a crash.
    pub fn leave(&self, timeout: Duration) -> KafkaResult<()> {
        self.base.unsubscribe();
        let deadline = Instant::now() + timeout;
        while self.is_member() {
            if Instant::now() >= deadline {
                return Err(rdkafka::error::KafkaError::ConsumerCommit(
                    RDKafkaErrorCode::OperationTimedOut,
                ));
            }
            self.answer_due(Duration::from_millis(10))?;
        }
        Ok(())
    }

    /// A member that left has no member id any more.
    fn is_member(&self) -> bool {
        // SAFETY: the client lives; the text returned is ours to free, as librdkafka says.
        unsafe {
            let client = self.base.client().native_ptr();
            let id = sys::rd_kafka_memberid(client);
            let member = !text(id).is_empty();
            sys::rd_kafka_mem_free(client, id.cast());
            member
        }
    }

    /// The offset after the last record or marker that was handed over or passed; `None` before the first.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(topic, partition);
        // SAFETY: client and list live during the call.
        unsafe { sys::rd_kafka_position(self.base.client().native_ptr(), list.ptr()) };
        match list.elements().first()?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }
}

impl Drop for Consumer {
    /// Closes as a crash would, as far as the group can tell: a static member's partitions stay with it.
    fn drop(&mut self) {
        // An event that waits since before the close is answered while the group can still be asked.
        if let Err(error) = self.answer_due(Duration::ZERO) {
            tracing::debug!(target: "headwater::kafka", %error, "while closing");
        }
        // SAFETY: nobody uses them after the drop.
        let (queue, base) = unsafe {
            (
                ManuallyDrop::take(&mut self.queue),
                ManuallyDrop::take(&mut self.base),
            )
        };
        let (closed, waits) = channel::<()>();
        let close = move || {
            // Before the client, which has to outlive it.
            drop(queue);
            drop(base);
            drop(closed);
        };
        // Where no thread can be had, it closes here.
        let _ = std::thread::Builder::new()
            .name("close".to_owned())
            .spawn(close);
        // A group that ends while its last rebalance is answered lets librdkafka wait for itself, for good: a stage that has to
        // end does not wait with it.
        if waits.recv_timeout(CLOSE) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(target: "headwater::kafka", "a consumer does not close; it is left behind");
        }
    }
}

fn positions(partitions: &[(&str, i32, i64)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition, offset) in partitions {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    Ok(list)
}

/// # Safety
/// `list` is null or a list that lives during the call.
unsafe fn partitions(list: *const sys::rd_kafka_topic_partition_list_t) -> Vec<(String, i32)> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: not null, and alive by this function's contract; `elems` holds `cnt` elements.
    unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        (0..count)
            .map(|index| {
                let it = &*(*list).elems.add(index);
                (text(it.topic), it.partition)
            })
            .collect()
    }
}

pub(crate) fn forward_log(event: &Owned<sys::rd_kafka_event_t>) {
    let mut facility: *const c_char = std::ptr::null();
    let mut message: *const c_char = std::ptr::null();
    let mut level: c_int = 0;
    // SAFETY: the event lives, and so do the texts, which are copied here.
    unsafe {
        if sys::rd_kafka_event_log(
            event.pointer(),
            &raw mut facility,
            &raw mut message,
            &raw mut level,
        ) == 0
        {
            let level = match level {
                ..=3 => RDKafkaLogLevel::Error,
                4 => RDKafkaLogLevel::Warning,
                5 => RDKafkaLogLevel::Notice,
                _ => RDKafkaLogLevel::Debug,
            };
            crate::context::log(level, text(facility).trim(), text(message).trim());
        }
    }
}
