//! Logs of processes that run for long: one JSON object a line in pods, plain lines on a terminal.
//!
//! Pipelines on a laptop log to standard error, warnings only unless `HEADWATER_LOG` says more: their
//! screen is standard output.

use crate::error::Error;
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// Where the filter comes from, in each process alike.
pub(crate) const VARIABLE: &str = "HEADWATER_LOG";

/// For pods: to standard output.
///
/// # Errors
/// [`Error::Usage`] for a filter that is none.
pub(crate) fn for_pods(filter: &str) -> Result<(), Error> {
    let builder = tracing_subscriber::fmt().with_env_filter(parse(filter)?);
    if std::io::stdout().is_terminal() {
        builder.init();
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .init();
    }
    Ok(())
}

/// For `up`: to standard error.
///
/// # Errors
/// As [`for_pods`].
pub(crate) fn for_terminal() -> Result<(), Error> {
    // What stages report is on the screen already, in better words.
    let filter = std::env::var(VARIABLE).unwrap_or_else(|_| "off".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(parse(&filter)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(filter).map_err(|error| {
        Error::usage(format!("{VARIABLE}={filter}: {error}; write error, warn, info, debug or trace, or directives such as info,headwater_runtime=debug"))
    })
}
