//! Runs of several steps: answers that have to fit a schema, their repair, and going on from the journal.

use super::*;
use crate::agent::Heard;
use crate::agent::{Next, Offer};
use crate::audit::{Call, Outcome, Values};
use crate::journal::{self, Change, Did};
use crate::model::{Request, Said, Usage};
use crate::problem::reason;

const OFFERS: &str = "
conversation: {turns: 2, expireAfterMs: 60000, userText: event.text}
slots: [{name: booked, lookup: {view: bookings, by: {key: key}, index: byCustomer}}]
prompt: {user: '{{ event.text }} {{ context.booked }}'}
resultSchema: {type: object, required: [offers], properties: {offers: {type: array, items: {type: object, required: [price], properties: {price: {type: number}}}}}}
outputs:
- {name: all, source: answers}
- {name: each, source: seats, items: result.json.offers, value: item.price * 2.0}
- {name: sorry, source: answers, outcome: Failed, value: failure.reason}";

const GOOD: &str = r#"{"offers": [{"price": 3}]}"#;
const BAD: &str = r#"{"offers": [{"price": "3"}]}"#;

fn said(text: &str, tokens: u64) -> Reply {
    Reply {
        usage: Usage {
            input_tokens: Some(tokens),
            output_tokens: None,
        },
        milliseconds: tokens * 10,
        ..reply(text)
    }
}

fn asked(bed: &Bed, trigger: &Trigger, ready: &Ready) -> Request {
    match bed.agent.next(trigger, ready, &Offer::default()) {
        Ok(Next::Ask(request)) => *request,
        other => panic!("{other:?}"),
    }
}

fn bed() -> Bed {
    let mut bed = Bed::new(&with_model(OFFERS));
    let booking = json!({"customer": "c1", "seat": 12.7});
    bed.feed("bookings", "b1", &booking, T - 500);
    bed
}

pub(super) fn values(completion: &Completion, topic: &str) -> Vec<Value> {
    let of = completion
        .records
        .iter()
        .filter(|record| record.topic == topic);
    of.map(|record| serde_json::from_slice(record.value.as_deref().unwrap()).unwrap())
        .collect()
}

/// The step that a reply is, as it stands in the journal afterwards.
fn journaled(heard: Heard) -> Vec<Arc<journal::Step>> {
    let Heard::Step(change) = heard else {
        panic!("it ends the run: {heard:?}")
    };
    read_back(&change)
}

pub(super) fn read_back(change: &Change) -> Vec<Arc<journal::Step>> {
    let record = change.record("j", 3).unwrap();
    let mut store = journal::Store::default();
    record.lend(0, |record| store.restore(record)).unwrap();
    let key = String::from_utf8(record.key.unwrap()).unwrap();
    store.steps(key.rsplit_once('/').unwrap().0)
}

#[test]
fn an_answer_that_fits_ends_the_run_and_is_json_to_outputs() {
    let bed = bed();
    let trigger = bed.trigger(&json!({"text": "what is there?"}));
    let mut ready = bed.ready(&trigger);
    let request = asked(&bed, &trigger, &ready);
    assert_eq!(request.idempotency_key, format!("{}-1", trigger.run));
    assert_eq!(request.schema.unwrap()["required"], json!(["offers"]));
    assert_eq!(request.messages, ready.prompt.clone().unwrap().messages);
    let heard = bed.agent.hear(&trigger, &mut ready, said(GOOD, 5), 41);
    assert_eq!(heard, Ok(Heard::Answer(said(GOOD, 5))));
    let done = bed
        .agent
        .complete(&trigger, &ready, Some(&said(GOOD, 5)), T);
    let done = done.unwrap();
    assert_eq!(
        values(&done, "shop.answers"),
        [json!({"offers": [{"price": 3.0}]})]
    );
    assert_eq!(values(&done, "shop.seats"), [json!(6.0)]);
    let model = done.summary.model.clone().unwrap();
    assert_eq!(model.calls.len(), 1);
    assert_eq!(model.calls[0].milliseconds, 50);
    assert_eq!(model.calls[0].rejected, None);
}

#[test]
fn an_answer_that_does_not_fit_is_a_step_and_its_repair_ends_the_run() {
    let bed = bed();
    let trigger = bed.trigger(&json!({"text": "what is there?"}));
    let mut ready = bed.ready(&trigger);
    let told = ready.prompt.clone().unwrap().messages;
    let heard = bed
        .agent
        .hear(&trigger, &mut ready, said(BAD, 5), 41)
        .unwrap();
    let steps = journaled(heard);
    assert_eq!((steps.len(), steps[0].offset), (1, 41));

    let request = asked(&bed, &trigger, &ready);
    assert_eq!(request.idempotency_key, format!("{}-2", trigger.run));
    assert_eq!(request.messages, told);
    let [Said::Reply { text, calls }, Said::Again(again)] = &request.said[..] else {
        panic!("{:?}", request.said)
    };
    assert_eq!((text.as_str(), calls.len()), (BAD, 0));
    assert!(again.contains("`/offers/0/price`"), "{again}");
    assert!(again.contains("\"required\":[\"offers\"]"), "{again}");
    assert_eq!(request.prompt(), again);

    // The same, from the journal alone, in another process and another attempt.
    let mut resumed = bed.agent.resume(&steps, 2).unwrap();
    assert_eq!(resumed.attempt, 2);
    assert_eq!(
        Ready {
            attempt: 1,
            ..resumed.clone()
        },
        ready
    );
    assert_eq!(asked(&bed, &trigger, &resumed), request);

    let heard = bed.agent.hear(&trigger, &mut resumed, said(GOOD, 7), 41);
    assert_eq!(heard, Ok(Heard::Answer(said(GOOD, 7))));
    let done = |ready: &Ready| {
        let done = bed.agent.complete(&trigger, ready, Some(&said(GOOD, 7)), T);
        done.unwrap()
    };
    let completion = done(&resumed);
    ready.attempt = 2;
    assert_eq!(completion, done(&ready));
    let model = completion.summary.model.clone().unwrap();
    assert_eq!(model.answer.as_deref(), Some(GOOD));
    assert_eq!(model.usage.input_tokens, Some(12));
    let rejected = model.calls[0].rejected.clone().unwrap();
    assert!(rejected.contains("`/offers/0/price`"), "{rejected}");
    assert!(!rejected.contains("\"3\""), "{rejected}");
    assert_eq!(
        model.calls,
        [
            Call {
                milliseconds: 50,
                usage: said(BAD, 5).usage,
                finish_reason: "stop".into(),
                answered_by: None,
                rejected: Some(rejected),
                answer: Some(BAD.into()),
            },
            Call {
                milliseconds: 70,
                usage: said(GOOD, 7).usage,
                finish_reason: "stop".into(),
                answered_by: None,
                rejected: None,
                answer: None,
            },
        ]
    );
    let turn = completion.turn.unwrap().turn;
    assert_eq!(
        (turn.user.as_str(), turn.assistant.as_str()),
        ("what is there?", GOOD)
    );
}

#[test]
fn a_repair_that_does_not_fit_fails_the_run_and_the_audit_has_both_answers() {
    let bed = bed();
    let trigger = bed.trigger(&json!({"text": "hi"}));
    let mut ready = bed.ready(&trigger);
    bed.agent
        .hear(&trigger, &mut ready, said(BAD, 5), 41)
        .unwrap();
    let fault = bed
        .agent
        .hear(&trigger, &mut ready, said("secret", 7), 41)
        .unwrap_err();
    assert_eq!(fault.reason, Reason::InvalidResult);
    assert!(!fault.message.contains("secret"), "{fault}");
    let failed = bed
        .agent
        .fail(&trigger, Some(&ready), &fault, 1, T)
        .unwrap();
    assert_eq!(failed.summary.outcome, Outcome::Failed);
    assert_eq!(values(&failed, "shop.answers"), [json!("InvalidResult")]);
    let model = failed.summary.model.clone().unwrap();
    let answers: Vec<_> = model
        .calls
        .iter()
        .map(|call| call.answer.as_deref())
        .collect();
    assert_eq!(answers, [Some(BAD), Some("secret")]);
    assert_eq!((model.answer, model.usage.input_tokens), (None, Some(12)));
    let hashed = failed
        .summary
        .write(config::Audit::Hashes, "r", 0)
        .unwrap()
        .value
        .unwrap();
    let hashed: audit::Record = serde_json::from_slice(&hashed).unwrap();
    assert_eq!(hashed.values, Values::Hashes);
    let calls = hashed.model.unwrap().calls;
    assert!(
        calls
            .iter()
            .all(|call| call.answer.is_none() && call.rejected.is_some())
    );
}

#[test]
fn a_run_that_goes_on_says_by_what_it_was_made() {
    let before = bed();
    let trigger = before.trigger(&json!({"text": "hi"}));
    let mut ready = before.ready(&trigger);
    let heard = before
        .agent
        .hear(&trigger, &mut ready, said(BAD, 5), 41)
        .unwrap();
    let steps = journaled(heard);
    let changed = OFFERS.replace("{{ event.text }} ", "Well, {{ event.text }} ");
    let after = Bed::new(&with_model(&changed));
    let resumed = after.agent.resume(&steps, 1).unwrap();
    let done = |bed: &Bed, ready: &Ready| {
        let done = bed.agent.complete(&trigger, ready, Some(&said(GOOD, 1)), T);
        done.unwrap().summary
    };
    let (was, is) = (done(&before, &ready), done(&after, &resumed));
    assert_eq!(
        (&was.spec_hash, &was.template_hash),
        (&is.spec_hash, &is.template_hash)
    );
    let anew = done(&after, &after.ready(&trigger));
    assert_ne!(anew.template_hash, is.template_hash);
    assert_ne!(anew.spec_hash, is.spec_hash);
}

#[test]
fn nothing_journaled_is_nothing_to_go_on_from() {
    let bed = bed();
    assert_eq!(bed.agent.resume(&[], 1), None);
    let without = journal::Step {
        offset: 1,
        begun: None,
        did: Did::Reply(reply(BAD)),
    };
    assert_eq!(bed.agent.resume(&[Arc::new(without)], 1), None);
}

#[test]
fn without_a_schema_any_reply_is_the_answer() {
    let bed = Bed::new(&with_model("outputs: [{name: all, source: answers}]"));
    let trigger = bed.trigger(&json!({"text": "hi"}));
    let mut ready = bed.ready(&trigger);
    assert_eq!(asked(&bed, &trigger, &ready).schema, None);
    let heard = bed.agent.hear(&trigger, &mut ready, said("{", 1), 41);
    assert_eq!(heard, Ok(Heard::Answer(said("{", 1))));
}

#[test]
fn what_cannot_be_a_result_is_said_at_its_place() {
    let problems = |agent: &str| {
        let error = Agent::compile(&stage(agent)).unwrap_err();
        let problem = |p: crate::problem::Problem| (p.path, p.reason, p.message);
        error.problems.into_iter().map(problem).collect::<Vec<_>>()
    };
    let schema = "resultSchema: {type: objekt}";
    let [(path, why, _)] = &problems(&with_model(schema))[..] else {
        panic!("one problem expected")
    };
    assert_eq!(
        (path.as_str(), *why),
        ("spec.result.schema", reason::INVALID_SCHEMA)
    );
    let without_model = "resultSchema: {type: object}\nprompt: {user: hi}\noutputs: []";
    let [(path, why, message)] = &problems(without_model)[..] else {
        panic!("one problem expected")
    };
    assert_eq!((path.as_str(), *why), ("spec.result", reason::INVALID_SPEC));
    assert!(message.contains("modelRef"), "{message}");
    let mut without_journal = serde_json::to_value(stage(without_model)).unwrap();
    let topics = &mut without_journal["role"]["agent"]["topics"];
    topics.as_object_mut().unwrap().remove("journal");
    let error = serde_json::from_value::<config::Stage>(without_journal).unwrap_err();
    assert!(error.to_string().contains("journal"), "{error}");
    let misspelt = OFFERS.replace("result.json.offers", "result.json.ofers");
    let closed = misspelt.replace(
        "{type: object, required: [offers]",
        "{type: object, additionalProperties: false, required: [offers]",
    );
    let [(path, _, message)] = &problems(&with_model(&closed))[..] else {
        panic!("one problem expected")
    };
    assert_eq!(path, "spec.outputs[name=each].items");
    assert!(message.contains("offers"), "{message}");
}
