//! Slots as runs read them: rows, order, required, staleness, `meta`.

use super::*;
use crate::agent::ViewFreshness;
use crate::audit::Behind;
use crate::record::TopicPartition;

fn flights(bed: &mut Bed) {
    bed.feed(
        "bookings",
        "b1",
        &json!({"customer": "c1", "flight": "HW2"}),
        T - 9_000,
    );
    bed.feed(
        "bookings",
        "b2",
        &json!({"customer": "c1", "flight": "HW1"}),
        T - 8_000,
    );
    bed.feed(
        "bookings",
        "b3",
        &json!({"customer": "c2", "flight": "HW3"}),
        T - 7_000,
    );
    bed.feed("flights", "HW1", &json!({"gate": "A1"}), T - 6_000);
    bed.feed("flights", "HW2", &json!({"gate": "B2"}), T - 5_500);
    bed.feed("flights", "HW3", &json!("no object"), T - 5_000);
}

const BOTH: &str = "slots:
- {name: booked, lookup: {view: bookings, by: {key: key}, index: byCustomer}}
- {name: aflights, lookup: {view: flights, by: {keys: 'context.booked.map(b, b.flight) + [event.also]'}}}
prompt: {user: '{{ context.aflights }} {{ meta.aflights }}'}";

#[test]
fn semantics_9_and_11_rows_carry_their_key_in_the_order_asked_and_slots_build_on_slots() {
    let mut bed = Bed::new(BOTH);
    flights(&mut bed);
    insta::assert_snapshot!(bed.user(&json!({"also": "HW3"})), @r#"[{"_key":"HW2","gate":"B2"},{"_key":"HW1","gate":"A1"},{"_key":"HW3","_value":"no object"}] {"age_seconds":7,"as_of":"2026-11-23T09:59:55Z","count":3,"missing":[],"omitted":0,"stale_seconds":0}"#);
    // Asked for twice, shown once; what is not there is missing.
    insta::assert_snapshot!(bed.user(&json!({"also": "HW9"})), @r#"[{"_key":"HW2","gate":"B2"},{"_key":"HW1","gate":"A1"}] {"age_seconds":7,"as_of":"2026-11-23T09:59:54.5Z","count":2,"missing":["HW9"],"omitted":0,"stale_seconds":0}"#);
}

#[test]
fn a_key_gives_the_value_or_null_and_on_a_history_its_events() {
    let mut bed = Bed::new(
        "slots:
- {name: one, lookup: {view: flights, by: {key: event.id}}}
- {name: past, lookup: {view: updates, by: {key: event.id}}}
prompt: {user: '{{ context.one }} {{ context.past }} {{ meta.one.as_of }} {{ meta.one.count }}'}",
    );
    bed.feed("flights", "HW1", &json!({"gate": "A1"}), T - 3_700_000);
    bed.feed("flights", "HW1", &json!({"gate": "A2"}), T - 2_000);
    bed.feed("flights", "HW1", &json!({"gate": "A3"}), T - 1_000);
    insta::assert_snapshot!(bed.user(&json!({"id": "HW1"})), @r#"{"gate":"A3"} [{"_key":"HW1","gate":"A3"},{"_key":"HW1","gate":"A2"}] 2026-11-23T09:59:59Z 1"#);
    insta::assert_snapshot!(bed.user(&json!({"id": ""})), @"null [] null 0");
}

#[test]
fn semantics_11_a_required_slot_with_nothing_fails_the_run() {
    let bed = Bed::new(
        "slots: [{name: one, required: true, lookup: {view: flights, by: {key: event.id}}}]
prompt: {}",
    );
    let fault = bed
        .assemble(&bed.trigger(&json!({"id": "HW1"})))
        .unwrap_err();
    assert_eq!(fault.reason, Reason::RequiredSlotEmpty);
    assert!(fault.message.contains("slot 'one' is required"), "{fault}");
    assert!(!fault.message.contains("HW1"), "{fault}");
}

fn stale(on_stale: &str, required: bool) -> (Bed, Trigger) {
    let mut bed = Bed::new(&format!(
        "slots:
- {{name: one, required: {required}, maxStalenessMs: 1000, onStale: {on_stale}, lookup: {{view: flights, by: all}}}}
prompt: {{user: '{{{{ context.one }}}} {{{{ meta.one }}}}'}}"
    ));
    flights(&mut bed);
    let behind = Behind {
        partition: TopicPartition::new("shop.flights", 2),
        position: 7,
        end: 9,
        undecided: false,
    };
    bed.freshness.views.insert(
        "flights".to_owned(),
        ViewFreshness {
            stale_ms: 1_001,
            behind: vec![behind],
            ..ViewFreshness::default()
        },
    );
    let trigger = bed.trigger(&json!({}));
    (bed, trigger)
}

#[test]
fn a_stale_slot_is_marked_omitted_or_fails_the_run() {
    let (mut bed, trigger) = stale("Mark", false);
    let slot = bed.ready(&trigger).slots.remove(0);
    assert!(slot.stale && slot.count == 3 && slot.stale_seconds == 2 && slot.behind.len() == 1);
    bed.freshness.views.get_mut("flights").unwrap().stale_ms = 1_000;
    let slot = bed.ready(&trigger).slots.remove(0);
    assert!(!slot.stale && slot.stale_seconds == 1);

    let (bed, _) = stale("Omit", false);
    insta::assert_snapshot!(bed.user(&json!({})), @r#"[] {"age_seconds":null,"as_of":null,"count":0,"missing":[],"omitted":3,"stale_seconds":2}"#);

    let (bed, trigger) = stale("Omit", true);
    assert_eq!(
        bed.assemble(&trigger).unwrap_err().reason,
        Reason::RequiredSlotEmpty
    );

    let (bed, trigger) = stale("Fail", false);
    let fault = bed.assemble(&trigger).unwrap_err();
    assert_eq!(fault.reason, Reason::StaleSlot);
    assert!(fault.message.contains("1001 ms ago"), "{fault}");
}

#[test]
fn semantics_13_when_is_asked_after_the_slots_and_before_the_prompt() {
    let bed = Bed::new(
        "slots: [{name: booked, lookup: {view: bookings, by: {key: key}, index: byCustomer}}]
when: size(context.booked) > 0
prompt: {user: '{{ context.booked[0].flight }}'}",
    );
    // The prompt alone would fail on what is not there.
    let trigger = bed.trigger(&json!({}));
    let Assembly::Skipped(skipped) = bed.assemble(&trigger).unwrap() else {
        panic!("not skipped")
    };
    let completion = bed.agent.skip(&trigger, &skipped, T + 2_100).unwrap();
    assert_eq!(completion.records.len(), 1);
    assert_eq!(completion.records[0].topic, "shop.agent.helper.runs");
    assert_eq!(completion.records[0].partition, Some(3));
    assert_eq!(completion.summary.outcome, audit::Outcome::Skipped);
    assert_eq!(completion.summary.slots[0].count, 0);

    let mut bed = bed;
    flights(&mut bed);
    assert_eq!(bed.user(&json!({})), "HW2");
}

#[test]
fn semantics_13_a_slot_that_fails_is_said_with_its_name() {
    let bed = Bed::new("slots: [{name: one, lookup: {view: flights, by: {key: event.id.deep}}}]");
    let fault = bed
        .assemble(&bed.trigger(&json!({"id": "secret"})))
        .unwrap_err();
    assert!(fault.message.starts_with("slot 'one': "), "{fault}");
    assert!(!fault.message.contains("secret"), "{fault}");
}
