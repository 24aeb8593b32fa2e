//! What cannot work is said at its place.

use super::*;

#[track_caller]
fn check(agent: &str, expected: &[(&str, &str)]) {
    let error = Agent::compile(&stage(agent)).unwrap_err();
    let found: Vec<_> = error
        .problems
        .iter()
        .map(|p| (p.path.as_str(), &p.message))
        .collect();
    assert_eq!(found.len(), expected.len(), "{error}");
    for ((path, message), (expected_path, part)) in found.iter().zip(expected) {
        assert_eq!(path, expected_path, "{error}");
        assert!(message.contains(part), "{message}\n  has no: {part}");
    }
}

#[test]
fn semantics_11_slots_that_need_each_other_are_refused_with_their_circle() {
    check(
        "slots:
- {name: a, lookup: {view: flights, by: {key: context.b.id}}}
- {name: b, lookup: {view: flights, by: all, where: value.id == context.c.id}}
- {name: c, lookup: {view: flights, by: {keys: '[string(meta.a.count)]'}}}
- {name: d, lookup: {view: flights, by: {key: context.a.id}}}",
        &[("spec.context[name=a]", "in a circle: a -> b -> c -> a.")],
    );
    check(
        "slots: [{name: a, lookup: {view: flights, by: {key: context.a.id}}}]",
        &[("spec.context[name=a]", "a -> a.")],
    );
}

#[test]
fn every_problem_is_found_at_once() {
    check(
        &with_model(
            "trigger: {filter: event.text +, key: \"now\"}
slots:
- {name: a, lookup: {view: nowhere, by: {key: key}}}
- {name: b, lookup: {view: bookings, by: {key: context.zzz}, index: byGate}}
when: result.text == ''
prompt: {system: '{{ contxt.b }}', user: '{% if %}'}
conversation: {turns: 2, expireAfterMs: 1000, userText: event.text == ''}
outputs:
- {name: o, source: answers, value: failure.reason}
- {name: p, source: answers, outcome: Failed}",
        ),
        &[
            ("spec.trigger.filter", "column"),
            ("spec.trigger.key", "now"),
            (
                "spec.context[name=a].viewRef.name",
                "there is no ContextView 'nowhere'",
            ),
            ("spec.context[name=b].key", "zzz"),
            ("spec.context[name=b].index", "no index 'byGate'"),
            ("spec.when", "result"),
            ("spec.prompt.system", "contxt"),
            ("spec.prompt.user", "line 1"),
            ("spec.conversation.userText", "a string"),
            ("spec.outputs[name=o].value", "failure"),
            ("spec.outputs[name=p].value", "a failed run has no result"),
        ],
    );
}

#[test]
fn an_output_without_value_needs_a_model_or_a_prompt() {
    check(
        "outputs: [{name: o, source: answers}]",
        &[("spec.outputs[name=o].value", "neither a model nor a prompt")],
    );
    Agent::compile(&stage(
        "{prompt: {}, outputs: [{name: o, source: answers}]}",
    ))
    .unwrap();
}

#[test]
fn a_model_that_leaves_no_room_is_refused() {
    let mut stage = stage(&with_model(""));
    if let config::Role::Agent(agent) = &mut stage.role {
        agent.model.as_mut().unwrap().max_output_tokens = 32_768;
    }
    let error = Agent::compile(&stage).unwrap_err();
    assert_eq!(error.problems[0].path, "spec.prompt.budgetTokens");
}
