//! Records in librdkafka's memory: shown borrowed, one by one or a batch at a time.
//!
//! Nothing is copied, and no record costs an allocation: headers only where a record has some. Whoever
//! takes a batch has to show it; what is left of it when the showing ends is destroyed.

use crate::native::text;
use rdkafka::bindings as sys;
use rdkafka::error::RDKafkaErrorCode;
use std::borrow::Cow;
use std::ffi::{CStr, c_char};

/// A record in librdkafka's memory.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch; -1 if absent.
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// Bytes of a name that are no UTF-8 are replaced (U+FFFD).
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// An error that stands in a record's place: of one partition.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) reason: String,
    pub(crate) partition: (String, i32),
}

/// Records taken from a queue, in the order of each partition.
pub(crate) struct Batch {
    messages: Vec<*mut sys::rd_kafka_message_t>,
    /// Those before it were shown and destroyed.
    shown: usize,
}

impl Batch {
    /// What is in the queue, at most `limit`; waits for nothing.
    ///
    /// # Safety
    /// `queue` is a consumer's queue that lives during the call.
    pub(crate) unsafe fn take(queue: *mut sys::rd_kafka_queue_t, limit: usize) -> Self {
        let mut messages = Vec::with_capacity(limit);
        // SAFETY: by this function's contract; there is room for `limit` pointers, of which as many are
        // written as the call returns.
        unsafe {
            let count = sys::rd_kafka_consume_batch_queue(queue, 0, messages.as_mut_ptr(), limit);
            messages.set_len(usize::try_from(count).unwrap_or(0).min(limit));
        }
        Self { messages, shown: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Shows every record, and gives the errors that stood among them.
    pub(crate) fn show(mut self, on: &mut dyn FnMut(Message<'_>)) -> Vec<Failed> {
        let mut failed = Vec::new();
        let mut shower = Shower::default();
        while let Some(message) = self.messages.get(self.shown).copied() {
            // SAFETY: the message is not destroyed before the next line but one.
            unsafe {
                if (*message).err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    shower.show(message, on);
                } else {
                    failed.push(failure(&*message));
                }
            }
            self.shown += 1;
            // SAFETY: it is ours, counted as shown, and destroyed once.
            unsafe { sys::rd_kafka_message_destroy(message) };
        }
        failed
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        for message in self.messages.drain(..).skip(self.shown) {
            // SAFETY: it is ours, and was not destroyed yet.
            unsafe { sys::rd_kafka_message_destroy(message) };
        }
    }
}

/// # Safety
/// The message lives, and its topic with it.
unsafe fn failure(message: &sys::rd_kafka_message_t) -> Failed {
    // SAFETY: by this function's contract.
    unsafe {
        let topic = if message.rkt.is_null() {
            String::new()
        } else {
            text(sys::rd_kafka_topic_name(message.rkt))
        };
        Failed {
            code: RDKafkaErrorCode::from(message.err),
            reason: text(sys::rd_kafka_message_errstr(message)),
            partition: (topic, message.partition),
        }
    }
}

/// Shows records, and keeps from one to the next what is the same.
#[derive(Default)]
pub(crate) struct Shower {
    /// The last record's topic, and its name.
    topic: Option<(*mut sys::rd_kafka_topic_t, String)>,
    names: Vec<Cow<'static, str>>,
    values: Vec<Option<&'static [u8]>>,
}

impl Shower {
    /// Whether there was a record.
    ///
    /// # Safety
    /// `message` is null, or a consumer's record that lives during the call.
    pub(crate) unsafe fn show(
        &mut self,
        message: *const sys::rd_kafka_message_t,
        on: &mut dyn FnMut(Message<'_>),
    ) -> bool {
        // SAFETY: by this function's contract; topic, key, value and headers live as long as the message.
        // Nothing of it stays: names and values are emptied at the end, and the topic's name is a copy.
        unsafe {
            let Some(it) = message.as_ref() else {
                return false;
            };
            if self.topic.as_ref().is_none_or(|(rkt, _)| *rkt != it.rkt) {
                self.topic = Some((it.rkt, text(sys::rd_kafka_topic_name(it.rkt))));
            }
            let topic = self.topic.as_ref().map_or("", |(_, name)| name);
            let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            let mut list = std::ptr::null_mut();
            let found = sys::rd_kafka_message_headers(message, &raw mut list);
            let mut message = Message {
                topic,
                partition: it.partition,
                offset: it.offset,
                timestamp: sys::rd_kafka_message_timestamp(message, &raw mut kind),
                key: bytes(it.key, it.key_len),
                value: bytes(it.payload, it.len),
                headers: &[],
            };
            if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                on(message);
                return true;
            }
            read_headers(list, &mut self.names, &mut self.values);
            let headers: Vec<(&str, Option<&[u8]>)> = self
                .names
                .iter()
                .zip(&self.values)
                .map(|(name, value)| (&**name, *value))
                .collect();
            message.headers = &headers;
            on(message);
            drop(headers);
            self.names.clear();
            self.values.clear();
        }
        true
    }
}

/// # Safety
/// The list lives longer than what is put into `names` and `values`.
unsafe fn read_headers(
    list: *const sys::rd_kafka_headers_t,
    names: &mut Vec<Cow<'static, str>>,
    values: &mut Vec<Option<&'static [u8]>>,
) {
    for index in 0.. {
        let mut name: *const c_char = std::ptr::null();
        let mut value = std::ptr::null();
        let mut length = 0;
        // SAFETY: the list lives; the places for the answers are ours.
        let found = unsafe {
            sys::rd_kafka_header_get_all(
                list,
                index,
                &raw mut name,
                &raw mut value,
                &raw mut length,
            )
        };
        if found != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        // SAFETY: name and value live as long as the list.
        unsafe {
            names.push(CStr::from_ptr(name).to_string_lossy());
            values.push(bytes(value, length));
        }
    }
}

/// `None` for null.
///
/// # Safety
/// `start` is null or the first of `length` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const std::ffi::c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: by this function's contract.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), length) })
}
