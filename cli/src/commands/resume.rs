//! `headwater resume`: the way on for what stands still.

use super::target::{Where, block_on};
use super::{OutputFormat, print_json};
use crate::control::Resume;
use crate::error::Error;
use crate::terminal::{clean, say};

/// Lead a view or an agent on that is Stalled, or that stands still at an invalid record.
///
/// --skip goes past a record at which `invalidRecords: Stop` (or an agent's `onFailure: Stop`) stands still; it goes to the dead
/// letters. --from says where to go on after InputLost, InputReset or PositionsLost: Earliest and Latest concern the partitions that
/// are stalled, a position its own partition. An `up` stops and starts its stage for it; in a cluster stop it first, and talk to
/// Kafka with --kafka.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// view/NAME or agent/NAME.
    resource: String,
    /// Earliest, Latest, or <topic>-<partition>-<offset>.
    #[arg(
        long,
        value_name = "WHERE",
        required_unless_present = "skip",
        conflicts_with = "skip"
    )]
    from: Option<String>,
    /// Go past the record at this position; with an `up` without one: past those at which it stands still.
    #[arg(long, value_name = "POSITION", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "absent, given, given with a position")]
    skip: Option<Option<String>>,
    #[command(flatten)]
    to: Where,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let target = arguments.to.open()?;
    let resume = Resume {
        namespace: arguments.to.namespace(),
        resource: arguments.resource.clone(),
        from: arguments.from.clone(),
        skip: arguments.skip.clone().flatten(),
    };
    let resumed = block_on(target.resume(resume))?;
    if arguments.output == OutputFormat::Json {
        return print_json(&resumed);
    }
    for one in &resumed {
        say(&format!("{} {}\n", clean(&one.partition, false), one.what));
    }
    Ok(())
}
