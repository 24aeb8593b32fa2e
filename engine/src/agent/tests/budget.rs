//! Semantics 15: what gives way when a prompt is over its budget.

use super::*;
use proptest::prelude::*;

/// Two slots of bookings by customer, one required slot of flights, and a conversation.
fn bed(budget: usize, user: &str) -> Bed {
    Bed::new(&with_model(&format!(
        "conversation: {{turns: 50, expireAfterMs: 3600000, userText: event.text}}
slots:
- {{name: low, priority: -1, lookup: {{view: bookings, by: {{key: \"'low'\"}}, index: byCustomer, limit: 100}}}}
- {{name: high, priority: 1, lookup: {{view: bookings, by: {{key: \"'high'\"}}, index: byCustomer, limit: 100}}}}
- {{name: must, priority: -9, required: true, lookup: {{view: flights, by: all, limit: 100}}}}
prompt: {{budgetTokens: {budget}, user: '{user}'}}"
    )))
}

const ALL: &str = "{{ event.text }} {{ context }} {{ meta.low.omitted }}";

fn fill(bed: &mut Bed, low: usize, high: usize, must: usize, turns: usize) {
    for (customer, count) in [("low", low), ("high", high)] {
        for row in 0..count {
            let key = format!("{customer}{row:03}");
            bed.feed(
                "bookings",
                &key,
                &json!({"customer": customer, "text": "some words of a row"}),
                T,
            );
        }
    }
    for row in 0..must {
        bed.feed(
            "flights",
            &format!("must{row:03}"),
            &json!({"gate": "A1"}),
            T,
        );
    }
    let store = bed.store.as_mut().unwrap();
    for number in 0..turns as u64 {
        let turn = crate::conversation::Turn {
            user: format!("question {number}"),
            assistant: "an answer of some words".to_owned(),
            time: T,
            run: "r".to_owned(),
        };
        store.apply(Appended {
            key: Key::from_text("c1").unwrap().unwrap(),
            number,
            turn: Arc::new(turn),
            ends: Vec::new(),
        });
    }
}

/// Rows of `low`, `high`, `must`, turns.
fn kept(ready: &Ready) -> [usize; 4] {
    let count = |name| {
        ready
            .slots
            .iter()
            .find(|slot| slot.slot == name)
            .unwrap()
            .count
    };
    [
        count("low"),
        count("high"),
        count("must"),
        ready.turns.shown,
    ]
}

#[test]
fn semantics_15_lowest_priority_first_from_its_end_then_the_oldest_turns() {
    let at = |budget| {
        let mut bed = bed(budget, ALL);
        fill(&mut bed, 5, 5, 5, 5);
        bed.assemble(&bed.trigger(&json!({"text": "q"})))
            .map(|assembly| match assembly {
                Assembly::Ready(ready) => (kept(&ready), ready),
                Assembly::Skipped(_) => panic!("skipped"),
            })
    };
    let (all, ready) = at(10_000).unwrap();
    assert_eq!(all, [5, 5, 5, 5]);
    let full = ready.prompt.unwrap().tokens;
    assert_eq!(at(full).unwrap().0, all, "a prompt that just fits is whole");

    let (less, ready) = at(full - 1).unwrap();
    assert_eq!(less, [4, 5, 5, 5]);
    assert_eq!(
        ready.input["context"]["low"][3]["_key"],
        json!("low003"),
        "cut from the end"
    );
    assert_eq!(ready.input["meta"]["low"]["omitted"], json!(1));
    assert_eq!(ready.input["meta"]["low"]["count"], json!(4));
    let low = ready.slots.iter().find(|slot| slot.slot == "low").unwrap();
    assert_eq!((low.rows.len(), low.omitted), (4, 1));

    let mut seen = Vec::new();
    let fault = (1..full)
        .rev()
        .find_map(|budget| match at(budget) {
            Ok((kept, ready)) => {
                assert!(ready.prompt.unwrap().tokens <= budget);
                seen.push(kept);
                None
            }
            Err(fault) => Some(fault),
        })
        .unwrap();
    seen.dedup();
    let expected: Vec<[usize; 4]> = (0..5)
        .rev()
        .map(|low| [low, 5, 5, 5])
        .chain((0..5).rev().map(|high| [0, high, 5, 5]))
        // Of five turns, the first two go together.
        .chain((0..4).rev().map(|turns| [0, 0, 5, turns]))
        .collect();
    assert_eq!(seen, expected, "the newest turns stay longest");
    assert_eq!(fault.reason, Reason::OverBudget);
    assert!(
        fault.message.contains(", 1 more than its budget of "),
        "{fault}"
    );
    assert!(
        fault
            .message
            .contains("with 5 row(s) of the required slot 'must' and no turns"),
        "{fault}"
    );
}

#[test]
fn semantics_15_the_newest_turns_are_those_that_stay() {
    let mut bed = bed(90, "{{ event.text }}");
    fill(&mut bed, 0, 0, 1, 8);
    let ready = bed.ready(&bed.trigger(&json!({"text": "q"})));
    let prompt = ready.prompt.unwrap();
    assert!(
        ready.turns.omitted > 0 && ready.turns.shown > 0,
        "{:?}",
        ready.turns
    );
    let newest = &prompt.messages[prompt.messages.len() - 3];
    assert_eq!(newest.content, "question 7");
    assert_eq!(
        ready.input["conversation"].as_array().unwrap().len(),
        2 * ready.turns.shown
    );
}

/// What of each prompt of a long conversation is the beginning of the one before, in tokens; each question has
/// some tokens, each answer some more, and the system template says the same for as long as the context is the same.
fn steady_share(budget: usize) -> f64 {
    let mut bed = Bed::new(&with_model(&format!(
        "conversation: {{turns: 20, expireAfterMs: 3600000, userText: event.text}}
slots: [{{name: all, required: true, lookup: {{view: flights, by: all, limit: 100}}}}]
prompt: {{budgetTokens: {budget}, system: 'You help. {{{{ context.all }}}}', user: '{{{{ event.text }}}}'}}"
    )));
    for row in 0..40 {
        let value =
            json!({"gate": "A1", "note": "boarding begins half an hour before the flight leaves"});
        bed.feed("flights", &format!("F{row:02}"), &value, T);
    }
    let cost = |messages: &[crate::model::Message]| -> usize {
        messages
            .iter()
            .map(|message| crate::prompt::message_tokens(&message.content))
            .sum()
    };
    let (mut same, mut all) = (0, 0);
    let mut before: Option<Arc<[crate::model::Message]>> = None;
    for number in 0..50 {
        let text = format!("question {number}: which gate does my flight leave from, and when?");
        let ready = bed.ready(&bed.trigger(&json!({"text": text})));
        let messages = ready.prompt.unwrap().messages;
        if let Some(before) = before {
            let common = before
                .iter()
                .zip(&*messages)
                .take_while(|(old, new)| old == new);
            same += cost(&messages[..common.count()]);
            all += cost(&messages);
        }
        before = Some(messages);
        let turn = crate::conversation::Turn {
            user: text,
            assistant: format!("It leaves from gate A1, answer {number}; boarding has begun."),
            time: T,
            run: "r".to_owned(),
        };
        let key = Key::from_text("c1").unwrap().unwrap();
        let store = bed.store.as_mut().unwrap();
        let past = store.past(&key, T);
        store.apply(Appended {
            key,
            number: past.next,
            turn: Arc::new(turn),
            ends: past.ends,
        });
    }
    f64::from(u32::try_from(same).unwrap()) / f64::from(u32::try_from(all).unwrap())
}

#[test]
fn nine_tenths_of_a_conversations_prompt_are_the_beginning_of_the_one_before() {
    for budget in [10_000, 1_800] {
        let share = steady_share(budget);
        assert!(share >= 0.9, "budget {budget}: {share:.3}");
    }
}

#[test]
fn a_single_value_gives_way_whole() {
    let mut bed = Bed::new(
        "slots: [{name: one, lookup: {view: flights, by: {key: event.id}}}]
prompt: {budgetTokens: 40, user: '{{ context.one }} {{ meta.one.omitted }}'}",
    );
    bed.feed("flights", "list", &json!(vec!["word "; 60]), T);
    bed.feed("flights", "short", &json!(["a", "b"]), T);
    assert_eq!(bed.user(&json!({"id": "list"})), "null 1");
    assert_eq!(bed.user(&json!({"id": "short"})), r#"["a","b"] 0"#);
}

#[test]
fn a_slots_own_budget_cuts_it_from_its_end_and_leaves_a_required_one_a_row() {
    for (required, budget, rows) in [
        (false, 0, 0),
        (true, 0, 1),
        (false, 60, 3),
        (false, 9_999, 9),
    ] {
        let mut bed = Bed::new(&format!(
            "slots: [{{name: all, required: {required}, budgetTokens: {budget}, lookup: {{view: bookings, by: all}}}}]
prompt: {{user: '{{{{ context.all }}}}'}}"
        ));
        for row in 0..9 {
            bed.feed(
                "bookings",
                &format!("b{row}"),
                &json!({"text": "some words of a row, twenty tokens"}),
                T,
            );
        }
        let slot = bed.ready(&bed.trigger(&json!({}))).slots.remove(0);
        assert_eq!(
            (slot.count, slot.omitted),
            (rows, 9 - rows),
            "{required} {budget}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn semantics_15_the_budget_is_never_exceeded_and_required_rows_never_cut(
        low in 0usize..30, high in 0usize..30, must in 1usize..20, turns in 0usize..20,
        budget in 20usize..1_500, template in 0usize..3,
    ) {
        let templates = [
            ALL,
            // Each row costs twice, and what is omitted costs as well.
            "{{ context.low }}{{ context.low }}{% for i in range(meta.low.omitted) %}omitted {% endfor %}{{ context.must }}",
            "{{ conversation }}{{ context.high | length }}",
        ];
        let mut bed = bed(budget, templates[template]);
        fill(&mut bed, low, high, must, turns);
        match bed.assemble(&bed.trigger(&json!({"text": "q"}))) {
            Ok(Assembly::Ready(ready)) => {
                prop_assert!(ready.prompt.as_ref().unwrap().tokens <= budget);
                prop_assert_eq!(kept(&ready)[2], must);
                // What is shown is what is recorded.
                for slot in &ready.slots {
                    let shown = ready.input["context"][&slot.slot].as_array().unwrap();
                    prop_assert_eq!(shown.len(), slot.count);
                    for (row, origin) in shown.iter().zip(&slot.rows) {
                        prop_assert_eq!(&row["_key"], &json!(origin.key));
                    }
                }
                let (_, hash) = bed.agent.prompt().unwrap().replay(&ready.input).unwrap();
                prop_assert_eq!(hash, ready.prompt.unwrap().hash);
            }
            Ok(Assembly::Skipped(_)) => prop_assert!(false),
            Err(fault) => prop_assert_eq!(fault.reason, Reason::OverBudget),
        }
    }
}

#[test]
fn a_long_slot_is_cut_close_to_the_budget() {
    let mut bed = Bed::new(
        "slots: [{name: all, lookup: {view: bookings, by: all, limit: 1000}}]
prompt: {budgetTokens: 10000, user: '{{ context.all }}'}",
    );
    for row in 0..1_000 {
        let value =
            json!({"customer": "c1", "note": "some twenty tokens of text in every single row"});
        bed.feed("bookings", &format!("b{row:04}"), &value, T);
    }
    let ready = bed.ready(&bed.trigger(&json!({})));
    let tokens = ready.prompt.unwrap().tokens;
    assert!((9_950..=10_000).contains(&tokens), "{tokens}");
    let slot = &ready.slots[0];
    assert_eq!(slot.count + slot.omitted, 1_000);
}
