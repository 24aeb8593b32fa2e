//! Scripted models: rules in, answers out.

use super::*;
use crate::model::{CallOutcome, Message, Role};
use crate::prompt::message_tokens;
use serde_json::from_value;
use std::sync::Arc;

fn scripted(rules: Value) -> Result<Scripted, CompileError> {
    let rules: Vec<config::Rule> = from_value(rules).unwrap();
    Scripted::compile("chat", &rules)
}

fn request(user: &str) -> Request {
    Request {
        messages: Arc::from([
            Message::new(Role::System, "You help."),
            Message::new(Role::User, user),
        ]),
        model: "gpt".to_owned(),
        parameters: Map::new(),
        max_output_tokens: 100,
        schema: None,
        said: Vec::new(),
        tools: Arc::default(),
        may_call: true,
        input: Arc::new(
            json!({"context": {"flights": [{"_key": "HW1", "late": 40}], "none": null}}),
        ),
        idempotency_key: "r-1".to_owned(),
    }
}

fn says(scripted: &Scripted, user: &str) -> String {
    match scripted.answer(&request(user)).unwrap().outcome {
        Outcome::Reply(reply) => reply.text,
        Outcome::Error { status } => status.to_string(),
    }
}

#[test]
fn the_first_rule_that_holds_answers_from_what_the_slots_held() {
    let scripted = scripted(json!([
        {"when": "request.prompt.contains('time') && request.context.flights[0].late > 0",
         "reply": "{{ request.context.flights[0]._key }} is {{ request.context.flights[0].late }} min late."},
        {"when": "request.messages[0].role == 'system' && size(request.tools) == 0 && request.prompt == 'who'",
         "reply": "{{ request.messages[0].content }}", "delayMs": 7},
        {"reply": "Else."},
    ]))
    .unwrap();
    assert_eq!(says(&scripted, "on time?"), "HW1 is 40 min late.");
    assert_eq!(says(&scripted, "who"), "You help.");
    assert_eq!(says(&scripted, "hello"), "Else.");
    let answer = scripted.answer(&request("who")).unwrap();
    assert_eq!(answer.delay_ms, 7);
    let Outcome::Reply(reply) = answer.outcome else {
        panic!("no reply")
    };
    assert_eq!(reply.finish_reason, "stop");
    let prompt = message_tokens("You help.") + message_tokens("who") + tokens::REPLY_OVERHEAD;
    assert_eq!(reply.usage.input_tokens, Some(prompt as u64));
    assert_eq!(reply.usage.output_tokens, Some(3));
}

#[test]
fn an_error_is_given_so_many_times_and_then_passed_over() {
    let scripted = scripted(json!([
        {"when": "request.prompt == 'a'", "error": {"status": 429, "times": 2}},
        {"when": "request.prompt == 'b'", "error": {"status": 500, "times": null}},
        {"reply": "ok"},
    ]))
    .unwrap();
    let seen: Vec<String> = ["a", "b", "a", "a", "b", "b", "a"]
        .map(|user| says(&scripted, user))
        .into();
    assert_eq!(seen, ["429", "500", "429", "ok", "500", "500", "ok"]);
}

#[test]
fn no_rule_is_an_error_that_says_which_model_and_what_to_add() {
    let scripted = scripted(json!([{"when": "request.prompt == 'a'", "reply": "b"}])).unwrap();
    let fault = scripted.answer(&request("secret")).unwrap_err();
    assert_eq!(fault.reason, Reason::ModelFailed);
    assert!(
        fault
            .message
            .contains("model 'chat': none of its 1 scripted rules"),
        "{fault}"
    );
    assert!(fault.message.contains("Add one without `when`"), "{fault}");
    assert!(!fault.message.contains("secret"), "{fault}");
}

#[test]
fn a_rule_that_fails_is_named_without_values() {
    let scripted = scripted(json!([
        {"when": "request.prompt == 'a'", "reply": "b"},
        {"reply": "{{ request.context.nothing.deep }}"},
    ]))
    .unwrap();
    let fault = scripted.answer(&request("secret")).unwrap_err();
    assert_eq!(fault.reason, Reason::ModelFailed);
    assert!(
        fault.message.starts_with("model 'chat', rule 1: "),
        "{fault}"
    );
}

#[test]
fn what_cannot_work_is_said_at_its_place() {
    let error = scripted(json!([
        {"when": "request.promt == ''", "reply": "a"},
        {"reply": "{{ event }}"},
        {"reply": "a", "error": {"status": 500, "times": null}},
        {"when": "true"},
    ]))
    .unwrap_err();
    let paths: Vec<&str> = error.problems.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "spec.scripted.rules[0].when",
            "spec.scripted.rules[1].reply",
            "spec.scripted.rules[2]",
            "spec.scripted.rules[3]",
        ]
    );
    assert!(
        error.problems[2].message.contains("`error` alone"),
        "{error}"
    );
}

#[test]
fn a_rule_calls_tools_and_the_next_one_sees_what_came_of_it() {
    let scripted = scripted(json!([
        {"when": "size(request.calls) == 0", "reply": "One moment.", "toolCalls": [
            {"tool": "rebook", "arguments": "{'seat': request.context.flights[0]._key}"}, {"tool": "ping"}]},
        {"when": "request.calls[0].outcome == 'Done' && request.calls[0].tool == 'rebook'",
            "reply": "{{ request.calls[0].result.fee }}, {{ request.messages | map(attribute='role') | join(' ') }}"},
        {"reply": "Else."},
    ]))
    .unwrap();
    let mut request = request("go");
    let Outcome::Reply(reply) = scripted.answer(&request).unwrap().outcome else {
        panic!("no reply")
    };
    assert_eq!(
        (reply.text.as_str(), reply.finish_reason.as_str()),
        ("One moment.", "tool_calls")
    );
    let calls: Vec<_> = reply
        .calls
        .iter()
        .map(|call| {
            (
                call.id.as_str(),
                call.tool.as_str(),
                call.arguments.as_str(),
            )
        })
        .collect();
    assert_eq!(
        calls,
        [
            ("call-0-1", "rebook", r#"{"seat":"HW1"}"#),
            ("call-0-2", "ping", "{}")
        ]
    );
    let called = |outcome| Called {
        id: "call-0-1".to_owned(),
        tool: "rebook".to_owned(),
        arguments: json!({"seat": "HW1"}),
        outcome,
        result: json!({"fee": 7}),
        rule: None,
        approved_by: None,
        milliseconds: 1,
    };
    request.said = vec![
        Said::Reply {
            text: reply.text.clone(),
            calls: reply.calls.clone(),
        },
        Said::Results(vec![called(CallOutcome::Done)]),
    ];
    let says = |request: &Request| match scripted.answer(request).unwrap().outcome {
        Outcome::Reply(reply) => reply.text,
        Outcome::Error { status } => status.to_string(),
    };
    assert_eq!(says(&request), "7, system user assistant tool");
    request.said[1] = Said::Results(vec![called(CallOutcome::Denied)]);
    assert_eq!(says(&request), "Else.");
}

#[test]
fn arguments_that_are_no_map_are_an_error_with_the_rule() {
    let scripted = scripted(json!([{"toolCalls": [{"tool": "a", "arguments": "[1]"}]}])).unwrap();
    let fault = scripted.answer(&request("secret")).unwrap_err();
    assert!(
        fault.message.contains("rule 0") && fault.message.contains("a list"),
        "{fault}"
    );
}
