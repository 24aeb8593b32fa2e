//! What a test leaves on a shared broker goes with the test: thousands of forgotten partitions exhaust its memory.

use std::io;

use super::{Kafka, wire};

/// The topics whose names begin with a prefix, whoever makes them: deleted when this is dropped.
///
/// Make it before what uses the topics, so that it is dropped after.
#[derive(Debug)]
#[must_use = "dropped at once, it deletes at once"]
pub struct Topics {
    bootstrap: String,
    prefix: String,
}

impl Kafka {
    /// Deletes, when the result is dropped, every topic whose name begins with `prefix`. A prefix that ends in a dot keeps `a.1.` from
    /// meaning `a.10.` too.
    pub fn topics(&self, prefix: impl Into<String>) -> Topics {
        Topics {
            bootstrap: self.bootstrap.clone(),
            prefix: prefix.into(),
        }
    }
}

impl Topics {
    fn delete(&self) -> io::Result<()> {
        let mut topics = wire::topics(&self.bootstrap)?;
        topics.retain(|topic| topic.starts_with(&self.prefix));
        if topics.is_empty() {
            return Ok(());
        }
        wire::delete(&self.bootstrap, &topics)
    }
}

impl Drop for Topics {
    #[allow(clippy::print_stderr, reason = "a drop has nobody to give an error to")]
    fn drop(&mut self) {
        if let Err(error) = self.delete() {
            eprintln!(
                "testbed: cannot delete the topics '{}*': {error}",
                self.prefix
            );
        }
    }
}
