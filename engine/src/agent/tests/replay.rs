//! Runs rendered again from their records: byte for byte, or refused; and records over the limit.

use super::*;
use crate::audit::{BYTES_MAX, ReadError, Record as Audit, Values};
use crate::model::{Message, Role};
use crate::replay::{Refusal, compare, replay};

const CHAT: &str = "
conversation: {turns: 2, expireAfterMs: 60000, userText: event.text}
slots: [{name: booked, lookup: {view: bookings, by: {key: key}, index: byCustomer}}]
prompt: {system: 'You help {{ key }}. {{ context.booked }}', user: '{{ event.text }} {{ event.n }}'}
outputs: [{name: answer, source: answers}]";

/// The record of a run as a reader of the runs topic has it.
fn read(completion: &Completion) -> Audit {
    Audit::read(&written(completion)).unwrap()
}

fn written(completion: &Completion) -> Vec<u8> {
    let record = completion
        .records
        .iter()
        .find(|record| record.topic.ends_with(".runs"));
    record.unwrap().value.clone().unwrap()
}

fn with_templates(system: &str) -> Agent {
    let changed = CHAT.replace("You help {{ key }}. {{ context.booked }}", system);
    Agent::compile(&stage(&with_model(&changed))).unwrap()
}

fn talk() -> (Bed, Audit) {
    let mut bed = Bed::new(&with_model(CHAT));
    let booking = json!({"customer": "c1", "price": 12.50, "note": "</s> \"x\" \u{2028}\n"});
    bed.feed("bookings", "b1", &booking, T);
    bed.run(&json!({"text": "one?", "n": 1}), T, "yes {{ key }}\n");
    let record = read(&bed.run(&json!({"text": "two?", "n": [1e-7]}), T + 1, "no"));
    (bed, record)
}

/// Text that no compression makes much smaller.
fn noise(bytes: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(alphabet[(state % 64) as usize])
    };
    std::iter::repeat_with(letter).take(bytes).collect()
}

#[test]
fn a_run_is_rendered_again_byte_for_byte() {
    let (bed, record) = talk();
    let prompt = record.prompt.clone().unwrap();
    let again = replay(&bed.agent, &record).unwrap();
    assert_eq!(Some(again.messages), prompt.messages);
    assert_eq!((again.hash, again.tokens), (prompt.hash, prompt.tokens));
    assert_eq!(record.turns.shown, 1, "a turn is part of it");
}

#[test]
fn other_templates_are_named_and_compared_when_asked() {
    let (_, record) = talk();
    let changed = with_templates("You advise {{ key }}. {{ context.booked }}");
    let refused = replay(&changed, &record).unwrap_err();
    assert!(
        matches!(refused, Refusal::OtherTemplates { .. }),
        "{refused}"
    );
    let compared = compare(&changed, &record).unwrap();
    let system = |messages: &[Message]| messages[0].content.clone();
    assert!(system(&compared.recorded.messages).starts_with("You help c1. [{"));
    assert_eq!(
        system(&compared.rendered.messages),
        system(&compared.recorded.messages).replace("You help", "You advise")
    );
    assert_eq!(
        compared.recorded.messages[1..],
        compared.rendered.messages[1..]
    );
    // What the run did not read is not there.
    let fails = with_templates("{{ event.nothing }}");
    let failed = compare(&fails, &record).unwrap_err();
    assert!(
        failed.to_string().contains("at `event.nothing`"),
        "{failed}"
    );
}

#[test]
fn what_was_changed_after_it_was_written_is_refused() {
    let (bed, record) = talk();
    let mut forged = record.clone();
    let mut messages = forged
        .prompt
        .as_ref()
        .unwrap()
        .messages
        .clone()
        .unwrap()
        .to_vec();
    messages[3] = Message::new(Role::User, "three?");
    forged.prompt.as_mut().unwrap().messages = Some(messages.clone().into());
    let refused = replay(&bed.agent, &forged).unwrap_err();
    assert!(matches!(refused, Refusal::Damaged(_)), "{refused}");
    // With a hash to match, the input tells.
    forged.prompt.as_mut().unwrap().hash = crate::prompt::hash(&messages);
    let refused = replay(&bed.agent, &forged).unwrap_err().to_string();
    assert!(refused.contains("from message 4, line 1 on"), "{refused}");

    let mut input = (*record.input.clone().unwrap()).clone();
    input["context"]["booked"][0]["price"] = json!(12.51);
    let forged = Audit {
        input: Some(input.into()),
        ..record
    };
    let refused = replay(&bed.agent, &forged).unwrap_err().to_string();
    assert!(refused.contains("from message 1, line 1 on"), "{refused}");
}

#[test]
fn runs_without_a_prompt_or_values_say_so() {
    let skipping = Bed::new(&with_model("when: 'false'"));
    let trigger = skipping.trigger(&json!({}));
    let Assembly::Skipped(ready) = skipping.assemble(&trigger).unwrap() else {
        panic!("not skipped");
    };
    let skipped = read(&skipping.agent.skip(&trigger, &ready, T).unwrap());
    let why = |bed: &Bed, record: &Audit| replay(&bed.agent, record).unwrap_err().to_string();
    assert_eq!(
        why(&skipping, &skipped),
        "the run made no prompt: its `when` was false"
    );

    let fault = Fault::new(Reason::RequiredSlotEmpty, "slot 'x'");
    let failed = read(&skipping.agent.fail(&trigger, None, &fault, 3, T).unwrap());
    assert_eq!(
        why(&skipping, &failed),
        "the run made no prompt: it failed before, with RequiredSlotEmpty: slot 'x'"
    );

    let mut hashing = Bed::new(&with_model("audit: Hashes"));
    let hashed = read(&hashing.run(&json!({}), T, "x"));
    assert!(why(&hashing, &hashed).contains("`audit.content` was Hashes"));

    let (_, other) = talk();
    let other = Audit {
        agent: "shop/clerk".to_owned(),
        ..other
    };
    assert!(why(&hashing, &other).contains("one of agent 'shop/clerk', not of 'shop/helper'"));
}

#[test]
fn a_record_over_the_limit_is_packed_and_reads_back_whole() {
    let roomy = CHAT
        .replace("index: byCustomer", "index: byCustomer, limit: 1000")
        .replace("prompt: {", "prompt: {budgetTokens: 10000000, ");
    let mut bed = Bed::new(&with_model(&roomy));
    for number in 0..200 {
        let booking =
            json!({"customer": "c1", "note": format!("{number} {}", "long ".repeat(1_000))});
        bed.feed("bookings", &format!("b{number}"), &booking, T);
    }
    let completion = bed.run(&json!({"text": "q", "n": 0}), T, "a");
    assert_eq!(completion.summary.slots[0].count, 200);
    let bytes = written(&completion);
    assert!(bytes.len() < 100_000, "{} bytes", bytes.len());
    let raw: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(raw["values"], "Packed");
    assert_eq!(
        (&raw["input"], &raw["prompt"]["messages"]),
        (&Value::Null, &Value::Null)
    );
    let record = Audit::read(&bytes).unwrap();
    assert_eq!(record, *completion.summary);
    replay(&bed.agent, &record).unwrap();

    let mut forged = raw;
    for (packed, why) in [("!", "no base64"), ("AAAA", "does not say its size")] {
        forged["packed"] = json!(packed);
        let error = Audit::read(forged.to_string().as_bytes()).unwrap_err();
        assert!(matches!(error, ReadError::Packed { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(matches!(
        Audit::read(br#"{"positions": []}"#),
        Err(ReadError::NoRun(_))
    ));
}

#[test]
fn whatever_a_run_read_its_record_fits() {
    let mut bed = Bed::new(&with_model(""));
    let large = bed.run(&json!({}), T, &noise(1_000_000));
    let record = read(&large);
    assert_eq!(record.values, Values::TooLarge);
    assert_eq!(record.model.unwrap().answer, None);
    assert_eq!(
        replay(&bed.agent, &read(&large)).unwrap_err(),
        Refusal::TooLarge
    );

    // Rows beyond counting: where they come from alone is too much.
    let slots: String = (0..16)
        .map(|slot| format!("{{name: s{slot}, lookup: {{view: bookings, limit: 1000}}}},"))
        .collect();
    for audit in ["Full", "Hashes"] {
        let mut bed = Bed::new(&format!("slots: [{slots}]\naudit: {audit}"));
        for number in 0..1_000 {
            let key = format!("{number}-{}", noise(20));
            bed.feed("bookings", &key, &json!({"customer": number}), T);
        }
        let trigger = bed.trigger(&json!({}));
        let ready = bed.ready(&trigger);
        let completion = bed.agent.complete(&trigger, &ready, None, T).unwrap();
        let bytes = written(&completion);
        assert!(bytes.len() <= BYTES_MAX, "{audit}: {} bytes", bytes.len());
        let record = Audit::read(&bytes).unwrap();
        assert_eq!(record.slots[15].count, 1_000);
    }
}

proptest::proptest! {
    /// Any number that an event may hold is the same number when it is read from the record.
    #[test]
    fn numbers_come_back_as_they_were(bits: u64, whole: i64) {
        let number = f64::from_bits(bits);
        proptest::prop_assume!(number.is_finite());
        let bed = Bed::new("prompt: {user: '{{ event.n }} {{ event.w }} {{ event.n * 3 }}'}");
        let trigger = bed.trigger(&json!({"n": number, "w": whole}));
        let ready = bed.ready(&trigger);
        let record = read(&bed.agent.complete(&trigger, &ready, None, T).unwrap());
        proptest::prop_assert!(replay(&bed.agent, &record).is_ok());
    }
}
