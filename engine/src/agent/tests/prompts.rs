//! Messages, conversation, replay.

use super::*;
use crate::agent::{Next, Offer};
use crate::prompt::{hash, message_tokens};
use crate::tokens::REPLY_OVERHEAD;

const CHAT: &str = "
conversation: {turns: 2, expireAfterMs: 60000, userText: event.text}
slots: [{name: booked, lookup: {view: bookings, by: {key: key}, index: byCustomer}}]
prompt: {system: 'You help {{ key }}.', user: '{{ event.text }} Booked: {{ context.booked }}'}
outputs: [{name: answer, source: answers}]";

#[test]
fn semantics_18_turns_stand_between_system_and_user() {
    let mut bed = Bed::new(&with_model(CHAT));
    bed.feed("bookings", "b1", &json!({"customer": "c1"}), T);
    for (index, text) in (0..).zip(["one?", "two?", "three?"]) {
        bed.run(&json!({"text": text}), T + index, &format!("re {text}"));
    }
    let ready = bed.ready(&bed.trigger_at(&json!({"text": "four?"}), T + 10));
    assert_eq!(ready.user_text, "four?");
    assert_eq!((ready.turns.shown, ready.turns.omitted), (2, 0));
    let prompt = ready.prompt.unwrap();
    insta::assert_json_snapshot!(prompt.messages, @r#"
    [
      {
        "content": "You help c1.",
        "role": "system"
      },
      {
        "content": "two?",
        "role": "user"
      },
      {
        "content": "re two?",
        "role": "assistant"
      },
      {
        "content": "three?",
        "role": "user"
      },
      {
        "content": "re three?",
        "role": "assistant"
      },
      {
        "content": "four? Booked: [{\"_key\":\"b1\",\"customer\":\"c1\"}]",
        "role": "user"
      }
    ]
    "#);
    let tokens: usize = prompt
        .messages
        .iter()
        .map(|m| message_tokens(&m.content))
        .sum();
    assert_eq!(prompt.tokens, tokens + REPLY_OVERHEAD);
    assert_eq!(prompt.hash, hash(&prompt.messages));
    let written = serde_json::to_value(&*prompt.messages).unwrap().to_string();
    assert_eq!(
        prompt.hash,
        sha256(written.as_bytes()),
        "the hash is that of canonical JSON"
    );

    // Expired turns are gone for a run of a later time.
    let later = bed.ready(&bed.trigger_at(&json!({"text": "five?"}), T + 60_002));
    assert_eq!(later.turns.shown, 1);
}

#[test]
fn semantics_18_a_trigger_without_a_key_has_no_conversation() {
    let bed = Bed::new(&with_model(
        "
conversation: {turns: 2, expireAfterMs: 60000, userText: null}",
    ));
    let feed = Feed {
        value: Some(b"{}"),
        time: T,
        ..Feed::default()
    };
    let trigger = bed
        .ask(&feed, |record| bed.agent.trigger(record))
        .unwrap()
        .unwrap();
    let completion = bed
        .agent
        .complete(&trigger, &bed.ready(&trigger), Some(&reply("hello")), T)
        .unwrap();
    assert_eq!(completion.turn, None);
    assert_eq!(completion.records.len(), 1, "the audit alone");
}

#[test]
fn without_a_prompt_the_event_is_what_the_user_says() {
    let bed = Bed::new(&with_model(""));
    assert_eq!(
        bed.user(&json!({"b": 1, "a": [true, null]})),
        r#"{"a":[true,null],"b":1}"#
    );
    let ready = bed.ready(&bed.trigger(&json!({})));
    assert_eq!(ready.prompt.unwrap().messages.len(), 1);
}

#[test]
fn templates_see_the_run_and_the_time() {
    let bed = Bed::new(
        "prompt: {user: '{{ run.agent }} {{ run.attempt }} {{ run.hops }} {{ run.root }} {{ time }} {{ key }}'}",
    );
    insta::assert_snapshot!(bed.user(&json!({})), @"shop/helper 1 1 shop.questions-3-41 2026-11-23T10:00:00Z c1");
}

#[test]
fn the_request_is_what_the_model_resource_says() {
    let mut bed = Bed::new(&with_model(CHAT));
    bed.feed("bookings", "b1", &json!({"customer": "c1"}), T);
    let trigger = bed.trigger(&json!({"text": "q"}));
    let ready = bed.ready(&trigger);
    let Ok(Next::Ask(request)) = bed.agent.next(&trigger, &ready, &Offer::default()) else {
        panic!("no request")
    };
    assert_eq!(request.model, "gpt");
    assert_eq!(request.max_output_tokens, 4_096);
    assert_eq!(request.parameters["temperature"], json!(0.2));
    assert_eq!(request.idempotency_key, format!("{}-1", trigger.run));
    assert_eq!(request.context()["booked"][0]["customer"], json!("c1"));
    assert!(request.prompt().starts_with("q Booked"));
}
