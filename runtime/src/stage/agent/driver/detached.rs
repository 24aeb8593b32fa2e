//! Runs whose trigger is finished and that are not: those that a person was asked about. Answered, or begun to go on by a
//! former owner of the partition, they are taken up like a new trigger of their key, before those that wait.

use super::{Active, Driver, Resumed, State, Taken};
use crate::stage::agent::batch::Finished;
use crate::stage::agent::interim;
use headwater_engine::agent::{Completion, Trigger};
use headwater_engine::approval::Answered;
use headwater_engine::fault::Fault;
use headwater_engine::journal::Did;
use std::sync::Arc;
use std::time::Instant;

impl Driver {
    /// Takes up what may go on.
    pub(super) fn take_up(&mut self) {
        let changed = self
            .setup
            .approvals
            .as_ref()
            .is_some_and(|approvals| approvals.take_changed());
        for (number, owned) in &mut self.owned {
            let State::Active(active) = &mut owned.state else {
                continue;
            };
            active.look |= changed;
            if std::mem::take(&mut active.look) {
                take_up(&self.setup, *number, active);
            }
        }
    }
}

fn take_up(setup: &super::Setup, number: i32, active: &mut Active) {
    let runs: Vec<String> = active
        .journal
        .detached()
        .filter(|run| !active.resumed.contains(*run))
        .map(str::to_owned)
        .collect();
    for run in runs {
        let steps = active.journal.steps(&run);
        let (Some(parked), Some(last)) = (active.journal.parked(&run), steps.last()) else {
            continue;
        };
        let asked = &parked.asked;
        let waits = matches!(last.did, Did::Asked(_));
        let answer = match &setup.approvals {
            _ if !waits => None,
            // The agent asks nobody any more, and nobody can answer.
            None => Some(Answered::Expired),
            Some(approvals) => match approvals.ask(&asked.approval, number, asked.expires_at) {
                None => continue,
                answer => answer,
            },
        };
        if let (false, Some(approvals)) = (waits, &setup.approvals) {
            approvals.forget(&asked.approval);
        }
        tracing::info!(agent = setup.config.name, run, approval = asked.approval, answer = ?answer, "run that waited goes on");
        match setup.agent.take_up(&parked.trigger) {
            Ok(trigger) => active.go_on(trigger, last.offset, waits, answer),
            Err(fault) => {
                let now_ms = setup.context.services.clock.now_ms();
                let ended = setup.agent.refuse_parked(parked, &fault, now_ms);
                active.end_parked(setup, number, &run, ended);
            }
        }
    }
}

impl Active {
    fn go_on(&mut self, trigger: Trigger, offset: i64, waits: bool, answer: Option<Answered>) {
        let now = Instant::now();
        let key = trigger.key.clone();
        self.resumed.insert(trigger.run.clone());
        let taken = Taken {
            trigger: Arc::new(trigger),
            arrived: now,
            due: now,
            begun: true,
            // What waited had ended; what had gone on may have ended its process.
            unsure: self.unclean && !waits,
            resumed: Some(Resumed { offset, answer }),
        };
        let place = self.place();
        self.window.wait(place, key, taken);
    }

    /// Ends a run whose trigger is none any more.
    fn end_parked(
        &mut self,
        setup: &super::Setup,
        number: i32,
        run: &str,
        ended: Result<Completion, Fault>,
    ) {
        let mut completion = match ended {
            Ok(completion) => completion,
            // No data can cause it.
            Err(fault) => {
                tracing::error!(run, %fault, "the end of a run that waited cannot be written");
                return;
            }
        };
        interim::add(setup, number, self.journal.ending(run), &mut completion);
        self.resumed.insert(run.to_owned());
        let place = self.place();
        let finished = Finished::new(completion, None, Instant::now());
        self.window.done(place, finished);
    }

    /// In the window before all triggers: these have no offset of their own any more.
    fn place(&mut self) -> i64 {
        self.places += 1;
        i64::MIN + self.places
    }
}
