//! `headwater approvals`: what waits for a person, and the person's answer.

use super::target::{Where, block_on};
use super::{OutputFormat, print_json};
use crate::control::{Decide, Open};
use crate::error::Error;
use crate::screen::approvals::{decided, question};
use crate::terminal::{Terminal, say};

/// List the calls that agents may make only if a person says so, and answer.
///
/// A call waits where a rule of the agent's policy has the action RequireApproval. Each is shown with its id, the agent that
/// wants to make it, the rule and its message, the tool and the arguments exactly as they would be sent, and until when it can
/// be answered. The first answer counts; silence denies. The rules are asked once more before an approved call is made.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only what this agent asks.
    agent: Option<String>,
    /// Let the call of this approval be made: its id, or the beginning of it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["deny", "agent"])]
    approve: Option<String>,
    /// Do not let it be made.
    #[arg(long, value_name = "ID", conflicts_with = "agent")]
    deny: Option<String>,
    /// Why, for the model and the audit.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    to: Where,
    #[arg(long, value_enum, default_value_t)]
    output: OutputFormat,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Error> {
    let json = arguments.output == OutputFormat::Json;
    let answer = match (&arguments.approve, &arguments.deny) {
        (Some(id), _) => Some((id, true)),
        (None, Some(id)) => Some((id, false)),
        (None, None) if arguments.reason.is_some() => {
            return Err(Error::usage(
                "--reason: say of what, with --approve or --deny",
            ));
        }
        (None, None) => None,
    };
    let target = arguments.to.open()?;
    let namespace = arguments.to.namespace();
    if let Some((approval, approve)) = answer {
        let decide = Decide {
            namespace,
            approval: approval.clone(),
            approve,
            reason: arguments.reason.clone(),
        };
        let done = block_on(target.decide(decide))?;
        if json {
            return print_json(&done);
        }
        say(&decided(&done));
        return Ok(());
    }
    let open = Open {
        namespace,
        agent: arguments.agent.clone(),
    };
    let questions = block_on(target.questions(open))?;
    if json {
        return print_json(&questions);
    }
    let terminal = Terminal::stdout();
    if questions.is_empty() {
        say("nothing waits for a person\n");
    }
    for one in &questions {
        say(&question(one, &terminal));
    }
    Ok(())
}
