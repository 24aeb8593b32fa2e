//! Whether a provider can be asked natively for an answer that fits a schema: it is, until it refuses that.

use super::Error;
use std::sync::atomic::{AtomicBool, Ordering};

/// Words by which refusals tell that they are about the format.
const WORDS: [&str; 5] = [
    "response_format",
    "json_schema",
    "structured output",
    "output_config",
    "output_format",
];

#[derive(Default)]
pub(super) struct Native {
    is_refused: AtomicBool,
}

impl Native {
    /// What to ask for.
    pub(super) fn wanted<T>(&self, format: Option<T>) -> Option<T> {
        format.filter(|_| !self.is_refused.load(Ordering::Relaxed))
    }

    /// Whether the error, of a request that asked for a format, is about that. It is not asked for again then.
    pub(super) fn is_refused(&self, error: &Error) -> bool {
        let Error::Status {
            model,
            // Some servers tell a request that they do not understand as an error of theirs.
            status: status @ (400 | 404 | 415 | 422 | 500 | 501),
            hint,
            ..
        } = error
        else {
            return false;
        };
        let told = hint.to_lowercase();
        let is_refused = WORDS.iter().any(|word| told.contains(word));
        if is_refused {
            tracing::info!(
                model,
                status,
                hint,
                "the provider takes no format for answers and is asked without"
            );
            self.is_refused.store(true, Ordering::Relaxed);
        }
        is_refused
    }
}
