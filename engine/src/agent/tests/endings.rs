//! How runs end: outputs, dead letters, audit.

use super::*;
use crate::agent::{Next, Offer};
use crate::audit::{Outcome, Values};

const OUTPUTS: &str = "
conversation: {turns: 1, expireAfterMs: 60000, userText: event.text}
slots: [{name: booked, lookup: {view: bookings, by: {key: key}, index: byCustomer}}]
prompt: {user: '{{ event.text }}'}
outputs:
- {name: answer, source: answers}
- {name: plain, source: plain, format: Text, key: \"'k-' + key\", value: result.text}
- {name: never, source: answers, when: result.text == 'NOTHING'}
- {name: each, source: seats, items: context.booked, key: item._key, value: \"{'seat': item.seat, 'of': run.id, 'tokens': prompt.tokens > 0}\"}
- {name: sorry, source: answers, outcome: Failed, value: \"{'sorry': failure.reason, 'booked': context.booked, 'prompt': prompt}\"}
- {name: broken, source: answers, outcome: Failed, key: event.nothing, value: failure.message}";

fn booked() -> Bed {
    let mut bed = Bed::new(&with_model(OUTPUTS));
    bed.feed(
        "bookings",
        "b1",
        &json!({"customer": "c1", "seat": "12A"}),
        T - 500,
    );
    bed.feed(
        "bookings",
        "b2",
        &json!({"customer": "c1", "seat": "12B"}),
        T - 400,
    );
    bed
}

fn question<'a>(headers: Vec<Header<'a>>) -> Feed<'a> {
    Feed {
        key: Some("c1"),
        value: Some(br#"{"text":"hi"}"#),
        headers,
        time: T,
    }
}

#[test]
fn a_done_run_writes_outputs_turn_and_audit() {
    let mut bed = booked();
    bed.run(&json!({"text": "before"}), T - 10, "ok");
    let headers = vec![
        (
            crate::names::header::ROOT,
            Some(b"shop.first-1-2".as_slice()),
        ),
        (crate::names::header::HOPS, Some(b"2".as_slice())),
        ("traceparent", Some(b"00-ab-cd-01".as_slice())),
    ];
    let trigger = bed
        .ask(&question(headers), |record| bed.agent.trigger(record))
        .unwrap()
        .unwrap();
    let completion = bed
        .agent
        .complete(
            &trigger,
            &bed.ready(&trigger),
            Some(&reply("Hello.")),
            T + 3_000,
        )
        .unwrap();
    insta::assert_json_snapshot!("done", shown(&completion.records));
    assert_eq!(completion.turn.as_ref().unwrap().ends, [0]);
    assert_eq!(completion.summary.duration_ms(), Some(1_000));
    insta::assert_snapshot!(completion.summary.slots[0].provenance(), @"booked <- view bookings: 2 rows, newest b2 at shop.bookings-0-1, 2 s old");
}

#[test]
fn without_a_model_the_prompt_is_the_result() {
    let bed =
        Bed::new("{prompt: {user: 'Say {{ event.text }}'}, outputs: [{name: ask, source: asks}]}");
    let trigger = bed.trigger(&json!({"text": "hi"}));
    let ready = bed.ready(&trigger);
    assert_eq!(
        bed.agent.next(&trigger, &ready, &Offer::default()),
        Ok(Next::Complete)
    );
    let completion = bed.agent.complete(&trigger, &ready, None, T + 1).unwrap();
    let value: Value =
        serde_json::from_slice(completion.records[0].value.as_ref().unwrap()).unwrap();
    assert_eq!(
        value,
        json!({"messages": [{"role": "user", "content": "Say hi"}]})
    );
    assert_eq!(completion.summary.model, None);
}

#[test]
fn semantics_2_an_output_without_a_key_is_a_fault() {
    for (output, message) in [
        ("key: event.missing", "output 'o': `event.missing`"),
        ("key: event.empty", "output 'o': `event.empty` gives no key"),
        ("key: event.price", "a key is a double"),
        (
            "items: event.price",
            "output 'o': `items` gives a double, a list is needed",
        ),
    ] {
        let bed = Bed::new(&with_model(&format!(
            "outputs: [{{name: o, source: answers, {output}}}]"
        )));
        let trigger = bed.trigger(&json!({"empty": "", "price": 1.5}));
        let fault = bed
            .agent
            .complete(&trigger, &bed.ready(&trigger), Some(&reply("a")), T)
            .unwrap_err();
        assert!(fault.message.contains(message), "{fault}");
    }
}

#[test]
fn semantics_20_a_failed_run_writes_failed_outputs_a_dead_letter_and_the_audit() {
    let bed = booked();
    let trigger = bed
        .ask(&question(Vec::new()), |record| bed.agent.trigger(record))
        .unwrap()
        .unwrap();
    let fault = Fault::new(Reason::ModelFailed, "the model answered 500 four times");
    // Before anything was read, and after the prompt had been made.
    let completion = bed
        .agent
        .fail(&trigger, None, &fault, 5, T + 9_000)
        .unwrap();
    insta::assert_json_snapshot!("failed", shown(&completion.records));
    assert_eq!(completion.turn, None);
    let ready = bed.ready(&trigger);
    let completion = bed
        .agent
        .fail(&trigger, Some(&ready), &fault, 5, T + 9_000)
        .unwrap();
    let sorry: Value =
        serde_json::from_slice(completion.records[0].value.as_ref().unwrap()).unwrap();
    assert_eq!(sorry["booked"][1]["seat"], json!("12B"));
    assert_eq!(sorry["prompt"]["hash"], json!(ready.prompt.unwrap().hash));
    assert_eq!(completion.summary.attempt, 5);
}

#[test]
fn semantics_20_on_failure_skip_leaves_no_dead_letter() {
    let bed = Bed::new("delivery: {onFailure: Skip}");
    let trigger = bed.trigger(&json!({}));
    let fault = Fault::new(Reason::TimedOut, "late");
    let completion = bed.agent.fail(&trigger, None, &fault, 5, T).unwrap();
    let topics: Vec<_> = completion
        .records
        .iter()
        .map(|r| r.topic.as_str())
        .collect();
    assert_eq!(topics, ["shop.agent.helper.runs"]);
}

#[test]
fn a_record_that_is_no_trigger_is_refused_once_or_left_out() {
    let bed = Bed::new("trigger: {filter: event.text != ''}");
    let ask = |value: Option<&[u8]>| {
        let feed = Feed {
            key: Some("c1"),
            value,
            time: T,
            ..Feed::default()
        };
        bed.ask(&feed, |record| {
            bed.agent.trigger(record).map(|trigger| trigger.is_some())
        })
    };
    assert_eq!(ask(Some(br#"{"text": "hi"}"#)), Ok(true));
    assert_eq!(ask(Some(br#"{"text": ""}"#)), Ok(false));
    assert_eq!(ask(None), Ok(false), "deletes are ignored");
    assert_eq!(ask(Some(b"{")).unwrap_err().reason, Reason::NotJson);
    let fault = ask(Some(br#"{"txt": "secret"}"#)).unwrap_err();
    assert!(
        fault
            .message
            .starts_with("trigger.filter: `event.text != ''`"),
        "{fault}"
    );
    assert!(!fault.message.contains("secret"), "{fault}");

    let feed = Feed {
        key: Some("c1"),
        value: Some(b"{"),
        time: T,
        ..Feed::default()
    };
    let completion = bed
        .ask(&feed, |record| {
            let fault = bed.agent.trigger(record).unwrap_err();
            bed.agent.refuse(record, &fault, T + 1)
        })
        .unwrap();
    assert_eq!(completion.records.len(), 2);
    assert_eq!(
        completion.records[0].value.as_deref(),
        Some(b"{".as_slice()),
        "the bytes as they came"
    );
    assert_eq!(
        completion.summary.failure.as_ref().unwrap().reason,
        Reason::NotJson
    );
    assert_eq!(completion.summary.attempt, 0);
    assert_eq!(completion.summary.outcome, Outcome::Failed);
}

#[test]
fn invalid_records_skip_leaves_no_letter_but_an_expression_that_fails_does() {
    let mut stage = stage("trigger: {filter: event.text != ''}");
    stage.sources.get_mut("questions").unwrap().invalid_records = config::InvalidRecords::Skip;
    let bed = Bed::of(&stage);
    for (value, letters) in [(b"{".as_slice(), 0), (b"{}", 1)] {
        let feed = Feed {
            value: Some(value),
            time: T,
            ..Feed::default()
        };
        let completion = bed
            .ask(&feed, |record| {
                let fault = bed.agent.trigger(record).unwrap_err();
                bed.agent.refuse(record, &fault, T)
            })
            .unwrap();
        assert_eq!(completion.records.len(), 1 + letters);
    }
}

#[test]
fn semantics_19_a_chain_of_too_many_hops_ends() {
    let bed = Bed::new("delivery: {maxHops: 3}");
    let hops = |hops: &'static [u8]| {
        let feed = question(vec![(crate::names::header::HOPS, Some(hops))]);
        bed.ask(&feed, |record| bed.agent.trigger(record))
    };
    assert_eq!(hops(b"2").unwrap().unwrap().hops, 3);
    let fault = hops(b"3").unwrap_err();
    assert_eq!(fault.reason, Reason::TooManyHops);
    assert!(
        fault.message.contains("delivery.maxHops allows 3"),
        "{fault}"
    );
}

#[test]
fn deletes_may_start_runs() {
    let bed =
        Bed::new("{trigger: {deletes: Run}, prompt: {user: '{{ key }} is gone: {{ event }}'}}");
    let feed = Feed {
        key: Some("c1"),
        time: T,
        ..Feed::default()
    };
    let trigger = bed
        .ask(&feed, |record| bed.agent.trigger(record))
        .unwrap()
        .unwrap();
    let prompt = bed.ready(&trigger).prompt.unwrap();
    assert_eq!(prompt.messages[0].content, "c1 is gone: null");
}

#[test]
fn hashes_hold_no_values_and_what_is_too_large_says_so() {
    let audited = |completion: &Completion| -> (audit::Record, String) {
        let record = completion
            .records
            .iter()
            .find(|r| r.topic.ends_with(".runs"))
            .unwrap();
        let text = String::from_utf8(record.value.clone().unwrap()).unwrap();
        (serde_json::from_str(&text).unwrap(), text)
    };
    let mut bed = Bed::new(&with_model(&format!("{OUTPUTS}\naudit: Hashes")));
    bed.feed(
        "bookings",
        "secret-b1",
        &json!({"customer": "c1", "seat": "secret-12A"}),
        T,
    );
    let completion = bed.run(&json!({"text": "secret-hi"}), T, "secret-answer");
    let (record, text) = audited(&completion);
    assert_eq!(record.values, Values::Hashes);
    assert!(!text.contains("secret"), "{text}");
    assert!(!text.contains("\"c1\""), "{text}");
    assert_eq!(
        record.prompt.unwrap().hash,
        completion.summary.prompt.as_ref().unwrap().hash
    );
    assert_eq!(
        record.trigger.key,
        Some(format!("sha256:{}", sha256(b"c1")))
    );
    assert_eq!(
        record.slots[0].rows[0].key,
        format!("sha256:{}", sha256(b"secret-b1"))
    );
    assert!(
        completion.summary.input.is_some(),
        "whoever watches sees the values"
    );
}

#[test]
fn attempts_are_one_run_and_completions_are_the_same_bytes() {
    let bed = booked();
    let (one, two) = (
        bed.trigger(&json!({"text": "a"})),
        bed.trigger(&json!({"text": "a"})),
    );
    assert_eq!(one.run, two.run);
    let complete = |trigger: &Trigger| {
        bed.agent
            .complete(trigger, &bed.ready(trigger), Some(&reply("x")), T)
            .unwrap()
    };
    assert_eq!(complete(&one), complete(&two));
}

#[test]
fn deletes_in_an_envelope_are_deletes() {
    let deleted = json!({
        "op": "d", "before": {"id": "c1"}, "after": null, "source": {"ts_ms": T},
    });
    let bytes = deleted.to_string();
    for (deletes, runs) in [("Ignore", false), ("Run", true)] {
        let mut stage = stage(&format!(
            "{{trigger: {{deletes: {deletes}}}, prompt: {{user: '{{{{ event }}}}'}}}}"
        ));
        stage.sources.get_mut("questions").unwrap().envelope = config::Envelope::Debezium;
        let agent = Agent::compile(&stage).unwrap();
        let found = agent.trigger(&Record {
            topic: "shop.questions",
            partition: 0,
            offset: 1,
            timestamp: T,
            key: Some(b"c1"),
            value: Some(bytes.as_bytes()),
            headers: &[],
        });
        assert_eq!(found.unwrap().is_some(), runs, "{deletes}");
    }
}
