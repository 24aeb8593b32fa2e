//! What outputs see as `now`: slots read once more when the model has answered.

use super::*;
use crate::audit::Record as Audit;

const OFFER: &str = "
slots:
- {name: flights, required: true, budgetTokens: 1, lookup: {view: flights, by: {keys: event.flights}}}
- {name: booked, lookup: {view: bookings, by: {key: key}, index: byCustomer}}
prompt: {user: '{{ context.flights }}'}
outputs:
- {name: offer, source: answers, items: 'now.flights.filter(f, f.seats > 0)', key: item._key, value: '{\"seats\": item.seats}'}
- {name: none, source: answers, when: size(now.flights) == 0, value: event}
- {name: failed, source: answers, outcome: Failed, value: '{\"reason\": failure.reason}'}";

fn question() -> Value {
    json!({"flights": ["f1", "f2"]})
}

fn bed() -> Bed {
    let mut bed = Bed::new(&with_model(OFFER));
    bed.feed("flights", "f1", &json!({"seats": 2}), T - 1_000);
    bed.feed("flights", "f2", &json!({"seats": 1}), T - 1_000);
    bed
}

/// Answers a run whose slots are read once more 5 s after its trigger.
fn answered(bed: &Bed, trigger: &Trigger, mut ready: Ready) -> Completion {
    bed.agent
        .look_again(trigger, &mut ready, bed, &bed.freshness, T + 5_000)
        .unwrap();
    let completion = bed
        .agent
        .complete(trigger, &ready, Some(&reply("x")), T + 6_000);
    completion.unwrap()
}

fn outputs(completion: &Completion) -> Vec<(String, Value)> {
    let text = |bytes: &Option<Vec<u8>>| String::from_utf8(bytes.clone().unwrap()).unwrap();
    completion
        .records
        .iter()
        .filter(|record| record.topic == "shop.answers")
        .map(|record| {
            let value = serde_json::from_str(&text(&record.value)).unwrap();
            (text(&record.key), value)
        })
        .collect()
}

#[test]
fn an_output_sees_what_is_there_when_the_model_has_answered() {
    let mut bed = bed();
    let trigger = bed.trigger(&question());
    let ready = bed.ready(&trigger);
    // The prompt showed one row, for its budget; what is there now is not cut.
    assert_eq!(ready.slots[1].count, 1);
    bed.feed("flights", "f2", &json!({"seats": 0}), T + 1_000);
    let completion = answered(&bed, &trigger, ready);
    assert_eq!(
        outputs(&completion),
        [("f1".to_owned(), json!({"seats": 2}))]
    );

    // The audit has both: what was told, and what there was then; only of slots that are named.
    let written = completion.records.last().unwrap();
    let record = Audit::read(written.value.as_deref().unwrap()).unwrap();
    assert_eq!(record.slots.len(), 2);
    let [now] = record.now.as_slice() else {
        panic!("{:?}", record.now);
    };
    assert_eq!((now.slot.as_str(), now.count), ("flights", 2));
    assert_eq!(now.rows[1].position.offset, 2);
    assert_eq!(now.as_of, Some(T + 1_000));
    assert_eq!(now.age_seconds, Some(4));
}

#[test]
fn a_required_slot_may_be_empty_by_now() {
    let mut bed = bed();
    let trigger = bed.trigger(&question());
    let ready = bed.ready(&trigger);
    for flight in ["f1", "f2"] {
        bed.feed("flights", flight, &Value::Null, T + 1_000);
    }
    let completion = answered(&bed, &trigger, ready);
    assert_eq!(outputs(&completion), [("c1".to_owned(), question())]);
}

#[test]
fn a_view_that_is_too_far_behind_by_now_fails_the_attempt() {
    let with = OFFER.replace("required: true", "maxStalenessMs: 1000, onStale: Fail");
    let mut bed = Bed::new(&with_model(&with));
    let trigger = bed.trigger(&question());
    let mut ready = bed.ready(&trigger);
    let stale = ViewFreshness {
        stale_ms: 3_000,
        ..Default::default()
    };
    bed.freshness.views.insert("flights".to_owned(), stale);
    let fault = bed
        .agent
        .look_again(&trigger, &mut ready, &bed, &bed.freshness, T)
        .unwrap_err();
    assert_eq!(fault.reason, Reason::StaleSlot);
    assert!(
        fault.message.starts_with("now.flights: the view 'flights'"),
        "{fault}"
    );
}

#[test]
fn who_does_not_name_it_does_not_read_it() {
    assert!(bed().agent.looks_again());
    let without = with_model("outputs: [{name: a, source: answers}]");
    assert!(!Bed::new(&without).agent.looks_again());
    let unknown = OFFER.replace("size(now.flights)", "size(now.flight)");
    let error = Agent::compile(&stage(&with_model(&unknown)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("Did you mean `flights`?"), "{error}");
    let failed = OFFER.replace("failure.reason", "now.flights");
    let error = Agent::compile(&stage(&with_model(&failed)))
        .unwrap_err()
        .to_string();
    assert!(error.contains("spec.outputs[name=failed].value"), "{error}");
}
