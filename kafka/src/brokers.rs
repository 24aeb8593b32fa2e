//! A client that has lost sight of all brokers is told again where to begin.
//!
//! librdkafka drops the brokers that a metadata answer does not name. One that is starting, or stood still and
//! is let in again, names none for a moment; who asks then may be left without any, and asks nobody any more
//! (seen with librdkafka 2.12.1: its own new beginning waits for a broker to go away). Being given the
//! bootstrap servers once more, it goes on.

use rdkafka::bindings as sys;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use std::ffi::CString;
use std::time::Duration;

/// Long enough to see that a broker is there; what it answers does not matter.
const GLANCE: Duration = Duration::from_millis(1);

/// Gives a client without a usable broker the bootstrap servers again, `servers` as they are configured. One that has
/// some asks them for metadata.
pub fn look(client: &Client<impl ClientContext>, servers: &str) {
    // SAFETY: the client lives during the call; the answer is destroyed where there is one.
    let lost = unsafe {
        let mut metadata = std::ptr::null();
        let code = sys::rd_kafka_metadata(
            client.native_ptr(),
            0,
            std::ptr::null_mut(),
            &raw mut metadata,
            i32::try_from(GLANCE.as_millis()).unwrap_or(1),
        );
        if !metadata.is_null() {
            sys::rd_kafka_metadata_destroy(metadata);
        }
        RDKafkaErrorCode::from(code) == RDKafkaErrorCode::BrokerTransportFailure
    };
    let Ok(servers) = CString::new(servers) else {
        return;
    };
    if lost {
        // SAFETY: the client lives during the call, which copies the text.
        unsafe { sys::rd_kafka_brokers_add(client.native_ptr(), servers.as_ptr()) };
        tracing::debug!(target: "headwater::kafka", "no broker is in sight; told where to begin");
    }
}
