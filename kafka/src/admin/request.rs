//! One request of the admin interface: its options, its queue, and the wait for its answer.

use super::Admin;
use crate::brokers;
use crate::error::{Error, Result, is_unreachable};
use crate::native::{Owned, text};
use rdkafka::bindings as sys;
use rdkafka::error::RDKafkaErrorCode as Code;
use std::time::{Duration, Instant};

/// How often connection failures are looked at while waiting.
const LOOK: Duration = Duration::from_millis(100);

/// Sends a request and waits for its answer, which the caller reads and which lives as it does.
///
/// # Safety
/// `send` calls the one function that `operation` stands for, with the client, options and queue given,
/// and keeps none of them.
///
/// # Errors
/// What failed for the request as a whole.
pub(super) unsafe fn run(
    admin: &Admin,
    operation: sys::rd_kafka_admin_op_t,
    what: &str,
    send: impl FnOnce(
        *mut sys::rd_kafka_t,
        *const sys::rd_kafka_AdminOptions_t,
        *mut sys::rd_kafka_queue_t,
    ),
) -> Result<Owned<sys::rd_kafka_event_t>> {
    let client = admin.client().native_ptr();
    // SAFETY: the client lives as long as `admin`; what is made here is owned here.
    let (options, queue) = unsafe {
        (
            Owned::new(
                sys::rd_kafka_AdminOptions_new(client, operation),
                sys::rd_kafka_AdminOptions_destroy,
            ),
            Owned::new(sys::rd_kafka_queue_new(client), sys::rd_kafka_queue_destroy),
        )
    };
    let (Some(options), Some(queue)) = (options, queue) else {
        return Err(other(what, "librdkafka gave no queue or no options"));
    };
    set_timeouts(&options, operation, admin.timeout);
    send(client, options.pointer(), queue.pointer());
    let event = wait(admin, &queue)?;
    // SAFETY: the event lives; its text is copied.
    let (code, reason) = unsafe {
        (
            Code::from(sys::rd_kafka_event_error(event.pointer())),
            text(sys::rd_kafka_event_error_string(event.pointer())),
        )
    };
    if code == Code::NoError {
        return Ok(event);
    }
    Err(explain(admin, what, code, reason))
}

fn set_timeouts(
    options: &Owned<sys::rd_kafka_AdminOptions_t>,
    operation: sys::rd_kafka_admin_op_t,
    timeout: Duration,
) {
    use sys::rd_kafka_admin_op_t as op;
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let mut reason = [0; 256];
    // SAFETY: the options live; `reason` takes at most its length. Both functions refuse only a value out of
    // range or an operation without that option, and then the default holds.
    unsafe {
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options.pointer(),
            milliseconds,
            reason.as_mut_ptr(),
            reason.len(),
        );
        // How long the controller waits until the change has reached the brokers.
        if matches!(
            operation,
            op::RD_KAFKA_ADMIN_OP_CREATETOPICS
                | op::RD_KAFKA_ADMIN_OP_DELETETOPICS
                | op::RD_KAFKA_ADMIN_OP_CREATEPARTITIONS
        ) {
            sys::rd_kafka_AdminOptions_set_operation_timeout(
                options.pointer(),
                milliseconds / 2,
                reason.as_mut_ptr(),
                reason.len(),
            );
        }
    }
}

/// librdkafka answers each request, at the latest with a timeout; the deadline here is a second net.
fn wait(
    admin: &Admin,
    queue: &Owned<sys::rd_kafka_queue_t>,
) -> Result<Owned<sys::rd_kafka_event_t>> {
    let deadline = Instant::now() + admin.timeout + Duration::from_secs(1);
    loop {
        // SAFETY: the queue lives; the event returned is ours to destroy.
        let event = unsafe {
            Owned::new(
                sys::rd_kafka_queue_poll(
                    queue.pointer(),
                    i32::try_from(LOOK.as_millis()).unwrap_or(i32::MAX),
                ),
                sys::rd_kafka_event_destroy,
            )
        };
        // Serves the client's own messages: logs, and why a connection failed.
        let _ = admin.client.poll(Duration::ZERO);
        if let Some(event) = event {
            return Ok(event);
        }
        if let Some((Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL, reason)) =
            admin.client().context().last_failure()
        {
            return Err(Error::Authentication {
                servers: admin.servers.clone(),
                reason,
            });
        }
        if Instant::now() >= deadline {
            return Err(explain(
                admin,
                "",
                Code::OperationTimedOut,
                "it timed out".to_owned(),
            ));
        }
    }
}

fn explain(admin: &Admin, what: &str, code: Code, reason: String) -> Error {
    if is_unreachable(code) {
        brokers::look(admin.client(), &admin.servers);
        // Why the connection failed says more than that nothing came.
        return match admin.client().context().last_failure() {
            Some((Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL, reason)) => {
                Error::Authentication {
                    servers: admin.servers.clone(),
                    reason,
                }
            }
            failure => Error::Unreachable {
                servers: admin.servers.clone(),
                reason: failure.map_or(reason, |(_, reason)| reason),
            },
        };
    }
    Error::from_code(&admin.servers, what, "", code, reason)
}

pub(super) fn other(what: &str, reason: &str) -> Error {
    Error::Other {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}

/// The outcome that librdkafka reports for one topic, by name.
pub(super) struct Outcome {
    pub(super) topic: String,
    pub(super) code: Code,
    pub(super) reason: String,
}

/// # Safety
/// `list` holds `count` results that live during the call.
pub(super) unsafe fn outcomes(
    list: *mut *const sys::rd_kafka_topic_result_t,
    count: usize,
) -> Vec<Outcome> {
    (0..count)
        .map(|index| {
            // SAFETY: by this function's contract; texts are copied.
            unsafe {
                let result = *list.add(index);
                Outcome {
                    topic: text(sys::rd_kafka_topic_result_name(result)),
                    code: sys::rd_kafka_topic_result_error(result).into(),
                    reason: text(sys::rd_kafka_topic_result_error_string(result)),
                }
            }
        })
        .collect()
}

impl Outcome {
    pub(super) fn check(self, admin: &Admin, what: &str) -> Result<()> {
        if self.code == Code::NoError {
            return Ok(());
        }
        let what = format!("{what} topic '{}'", self.topic);
        let reason = if self.reason.is_empty() {
            self.code.to_string()
        } else {
            self.reason
        };
        Err(Error::from_code(
            &admin.servers,
            &what,
            &self.topic,
            self.code,
            reason,
        ))
    }
}
