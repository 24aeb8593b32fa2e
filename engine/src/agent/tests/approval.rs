//! Approval: a run waits with all that it needs, goes on from the journal alone, and calls only what was approved.

use super::steps::values;
use super::tools::{Run, agent_with, asks, bed_with, call, question};
use super::*;
use crate::agent::{Asking, Completion, Prepared, Round};
use crate::approval::{Answer, Answered, Entry};
use crate::audit::Outcome;
use crate::journal::{self, Change};
use crate::model::{CallOutcome, Called, ToolCall};

const ASK: &str = "{name: dear, tools: [rebook], when: null, action: RequireApproval, message: \"Move {{ event.customer }} to {{ call.arguments.seat }}?\"}";
const TOPIC: &str = "topics: {approvals: shop.agent.helper.approvals}";

fn bed(policy: &str) -> Bed {
    bed_with(&agent_with(TOPIC, policy))
}

fn rebook() -> ToolCall {
    call("rebook", r#"{"seat": "34K"}"#)
}

fn by(approve: bool) -> Answered {
    Answered::By(Answer {
        approve,
        by: "ana".to_owned(),
        reason: (!approve).then(|| "too dear".to_owned()),
    })
}

impl Run<'_> {
    /// Makes the calls of the round as a stage does; every call of a server is answered with "ok".
    fn calls(&self, round: Round) -> (Vec<Called>, Option<Asking>) {
        let Round {
            calls,
            mut made,
            mut settled,
        } = round;
        for call in &calls[made.len()..] {
            let settled = settled.take();
            let prepared = self.bed.agent.prepare(
                &self.trigger,
                &self.ready,
                &self.offer,
                &made,
                settled.as_ref(),
                None,
                call,
            );
            made.push(match prepared {
                Prepared::Over(called) => called,
                Prepared::Send(invocation) => invocation.answered("ok".into(), false, 1),
                Prepared::Ask(asking) => return (made, Some(asking)),
                Prepared::Look(look) => panic!("{look:?}"),
            });
        }
        (made, None)
    }

    /// The run comes to a call that it has to ask about, and waits.
    fn waits(&mut self, reply: Reply) -> Completion {
        self.hears(reply);
        let (made, asking) = self.calls(self.round());
        let asking = asking.expect("nobody is asked");
        let (trigger, ready) = (&self.trigger, &mut self.ready);
        self.bed
            .agent
            .park(trigger, ready, asking, made, 41, T)
            .unwrap()
    }
}

/// What a new owner of the partition reads of the journal.
fn restored(changes: &[&Change]) -> journal::Store {
    let mut store = journal::Store::default();
    for change in changes {
        let record = change.record("j", 3).unwrap();
        record.lend(0, |record| store.restore(record)).unwrap();
    }
    store
}

#[test]
fn a_run_waits_and_goes_on_from_the_journal_alone() {
    let bed = bed(ASK);
    let mut run = Run::new(&bed, &question());
    let told = call("notify", r#"{"text": "wait"}"#);
    let first = run.hears(asks(vec![told, rebook()]));
    let (made, asking) = run.calls(run.round());
    assert_eq!(made.len(), 1);
    let parked = bed
        .agent
        .park(&run.trigger, &mut run.ready, asking.unwrap(), made, 41, T)
        .unwrap();
    assert_eq!(parked.summary.outcome, Outcome::Waiting);
    let id = format!("{}-1-2", run.trigger.run);
    let asked = parked
        .records
        .iter()
        .find(|record| record.topic == "shop.agent.helper.approvals")
        .unwrap();
    assert_eq!(asked.partition, Some(run.trigger.partition));
    asked.lend(0, |record| {
        let Some((approval, Entry::Asked(asked))) = Entry::read(record) else {
            panic!("no question")
        };
        assert_eq!(approval, id);
        assert_eq!(asked.message, "Move c1 to 34K?");
        assert_eq!(asked.arguments, json!({"seat": "34K", "customer": "c1"}));
        assert_eq!(asked.expires_at, T + 60_000);
    });
    let [copy] = &values(&parked, "shop.asks")[..] else {
        panic!("no copy")
    };
    assert_eq!(copy["approval"], json!(id));
    assert_eq!(copy["expires_at"], json!("2026-11-23T10:01:00Z"));
    // Neither outputs nor audit: it is not over.
    assert!(values(&parked, "shop.answers").is_empty());
    assert!(values(&parked, "shop.agent.helper.runs").is_empty());

    // Elsewhere, later, with nothing but the journal.
    let mut changes = vec![&first];
    changes.extend(&parked.journal);
    let mut store = restored(&changes);
    let name = run.trigger.run.clone();
    assert_eq!(store.detached().collect::<Vec<_>>(), [name.as_str()]);
    assert!(store.before(100).is_empty(), "what waits is not gone past");
    let kept = store.parked(&name).unwrap().clone();
    let trigger = bed.agent.take_up(&kept.trigger).unwrap();
    assert_eq!(trigger.run, run.trigger.run);
    assert_eq!(trigger.position, run.trigger.position);
    assert_eq!(trigger.key, run.trigger.key);
    assert_eq!(trigger.event.value, run.trigger.event.value);
    let ready = bed.agent.resume(&store.steps(&name), 1).unwrap();
    assert_eq!(ready, run.ready);
    let mut again = Run {
        trigger,
        ready,
        ..Run::new(&bed, &question())
    };
    assert!(!again.ready.asks_for_calls());
    assert!(
        bed.agent
            .next(&again.trigger, &again.ready, &again.offer)
            .is_err()
    );
    let answered = bed
        .agent
        .answered(&again.trigger, &mut again.ready, by(true), 41);
    store.apply(answered);
    assert!(again.ready.asks_for_calls());
    let round = again.round();
    let prepared = bed.agent.prepare(
        &again.trigger,
        &again.ready,
        &again.offer,
        &round.made,
        round.settled.as_ref(),
        None,
        &round.calls[1],
    );
    let Prepared::Send(invocation) = prepared else {
        panic!("{prepared:?}")
    };
    // As if it had never waited.
    assert_eq!(invocation.key, id);
    let (made, asking) = again.calls(again.round());
    assert_eq!((made.len(), asking), (2, None));
    assert_eq!(made[1].approved_by.as_deref(), Some("ana"));
    let results = bed
        .agent
        .results(&again.trigger, &mut again.ready, made, 41);
    store.apply(results);
    let request = again.request();
    assert_eq!(request.idempotency_key, format!("{name}-3"));
    assert_eq!(request.said.len(), 2);
    let done = bed
        .agent
        .complete(&again.trigger, &again.ready, Some(&reply("Done.")), T + 9)
        .unwrap();
    assert_eq!(
        values(&done, "shop.answers"),
        [json!({"text": "Done.", "calls": [["notify", "Done"], ["rebook", "Done"]]})]
    );
    assert_eq!(values(&done, "shop.notices").len(), 1);
    assert_eq!(done.summary.calls[1].approved_by.as_deref(), Some("ana"));
    for change in store.ending(&name) {
        store.apply(change);
    }
    assert_eq!((store.runs(), store.detached().count()), (0, 0));
}

#[test]
fn what_is_denied_or_late_is_told_and_not_called() {
    for (answered, expected) in [
        (by(false), "ana denied this call: too dear"),
        (Answered::Expired, "nobody approved this call in time"),
    ] {
        let bed = bed(ASK);
        let mut run = Run::new(&bed, &question());
        run.waits(asks(vec![rebook()]));
        bed.agent
            .answered(&run.trigger, &mut run.ready, answered, 41);
        let (made, asking) = run.calls(run.round());
        assert_eq!(asking, None);
        assert_eq!(made[0].outcome, CallOutcome::Denied);
        assert_eq!(made[0].rule.as_deref(), Some("dear"));
        assert_eq!(made[0].content(), expected);
        assert_eq!(made[0].approved_by, None);
    }
}

#[test]
fn every_call_is_asked_about_for_itself() {
    let bed = bed(ASK);
    let mut run = Run::new(&bed, &question());
    let other = ToolCall {
        id: "other".to_owned(),
        ..call("rebook", r#"{"seat": "35K"}"#)
    };
    run.waits(asks(vec![rebook(), other]));
    bed.agent
        .answered(&run.trigger, &mut run.ready, by(true), 41);
    // What was said of the first says nothing of the second.
    let (made, asking) = run.calls(run.round());
    assert_eq!(made.len(), 1);
    let parked = bed
        .agent
        .park(&run.trigger, &mut run.ready, asking.unwrap(), made, 41, T)
        .unwrap();
    let asked = restored(&parked.journal.iter().collect::<Vec<_>>());
    let asked = &asked.parked(&run.trigger.run).unwrap().asked;
    assert_eq!(asked.approval, format!("{}-1-2", run.trigger.run));
    bed.agent
        .answered(&run.trigger, &mut run.ready, by(false), 41);
    let (made, _) = run.calls(run.round());
    let outcomes: Vec<CallOutcome> = made.iter().map(|called| called.outcome).collect();
    assert_eq!(outcomes, [CallOutcome::Done, CallOutcome::Denied]);
    assert_eq!(made[0].approved_by.as_deref(), Some("ana"));
}

#[test]
fn an_approval_is_of_what_was_asked_about_and_rules_are_asked_again() {
    let first = bed(ASK);
    let mut run = Run::new(&first, &question());
    run.waits(asks(vec![rebook()]));
    first
        .agent
        .answered(&run.trigger, &mut run.ready, by(true), 41);
    let verdict = |bed: &Bed| {
        let again = Run {
            trigger: run.trigger.clone(),
            ready: run.ready.clone(),
            ..Run::new(bed, &question())
        };
        let (made, asking) = again.calls(again.round());
        assert_eq!(asking, None);
        (made[0].outcome, made[0].content())
    };
    assert_eq!(verdict(&first).0, CallOutcome::Done);
    // A rule that denies does so whoever approved.
    let deny = "{name: never, tools: [], when: null, action: Deny, message: Not any more.}";
    assert_eq!(
        verdict(&bed(&format!("{ASK}, {deny}"))),
        (CallOutcome::Denied, "Not any more.".to_owned())
    );
    // The agent was changed, and would send something else.
    let fixed = "fixed: {customer: event.customer}";
    let other = agent_with(TOPIC, ASK).replace(fixed, "fixed: {customer: event.city}");
    let (outcome, content) = verdict(&bed_with(&other));
    assert_eq!(outcome, CallOutcome::Denied);
    assert!(content.contains("with other arguments"), "{content}");
}

#[test]
fn a_turn_goes_behind_those_that_came_meanwhile() {
    let bed = bed(ASK);
    let mut run = Run::new(&bed, &question());
    run.waits(asks(vec![rebook()]));
    let meanwhile = Past {
        next: 7,
        ..Past::default()
    };
    let before = run.ready.clone();
    run.ready.goes_behind(&meanwhile);
    assert_ne!(run.ready, before);
}

#[test]
fn a_rule_that_asks_needs_a_way_to_ask() {
    let mut stage = stage(&agent_with(TOPIC, ASK));
    let config::Role::Agent(agent) = &mut stage.role else {
        panic!("no agent")
    };
    agent.tools.as_mut().unwrap().approval = None;
    let error = Agent::compile(&stage).unwrap_err();
    assert!(error.to_string().contains("spec.policy"), "{error}");
}
