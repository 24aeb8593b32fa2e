//! Texts that nobody would write: whatever is given, the checkers answer, and no stack is exhausted.
//!
//! Tests run on threads with 2 MiB of stack, as many as Tokio's workers have.

use headwater_engine::expr::{self, Expression, Names};
use headwater_engine::template::{self, Template};
use serde_json::json;
use std::collections::BTreeMap;

fn names() -> Names {
    Names::new(&["event"])
}

#[test]
fn expressions() {
    let most = expr::BYTES_MAX - 16;
    let chain = |part: &str| format!("event{}", part.repeat(most / part.len()));
    for text in [
        chain("+1"),
        chain(".a"),
        chain("[0]"),
        chain("||event"),
        chain("&&!event"),
        chain("?1:event"),
        chain(".map(x,x)"),
        chain(".a()"),
        chain(" in event"),
        chain("==event"),
        chain(".?a"),
        format!("[{}]", "1,".repeat(8_000)),
        format!("{{{}}}", "1:1,".repeat(4_000)),
        format!("{}1", "-".repeat(most)),
        format!("{}true", "!".repeat(most)),
        "a ".repeat(8_000),
        "'".repeat(most),
        "{{{{".repeat(8),
        ")".repeat(most),
        "\\u{0}".repeat(100),
        // As much as the bounds let through.
        format!("event{}", ".a".repeat(199)),
        format!("event{}", "+1".repeat(199)),
        format!("event{}", "[0]".repeat(99)),
        format!("event{}", ".a()".repeat(99)),
        format!("event{}", "?1:event".repeat(99)),
        format!("event{}", ".map(x,x)".repeat(99)),
        format!("event{}", "==event".repeat(199)),
        format!("event{}", ".?a".repeat(130)),
        format!("{}1", "-".repeat(399)),
        format!("{}{}1{}", "[".repeat(31), "-1+".repeat(120), "]".repeat(31)),
        format!("event{}", ".a".repeat(60)),
        format!("event{}", "+1".repeat(60)),
        format!("event{}", "[0]".repeat(60)),
        format!("event{}", ".a()".repeat(60)),
        format!("event{}", "?1:event".repeat(60)),
        format!("event{}", ".map(x,x)".repeat(60)),
        format!("event{}", "==event".repeat(60)),
        format!("event{}", ".?a".repeat(60)),
        chain("||event.a.b.c"),
        "é".repeat(8_000),
    ] {
        let start = text.chars().take(24).collect::<String>();
        match Expression::compile(&text, &names()) {
            // What is accepted can be evaluated too.
            Ok(expression) => {
                let found = expression.evaluate(&BTreeMap::from([("event".to_owned(), json!({}))]));
                println!("{start}: {found:?}");
            }
            Err(error) => println!("{start}: {error}"),
        }
    }
}

#[test]
fn templates() {
    for text in [
        "{% if event %}".repeat(4_000),
        "{% for x in event %}".repeat(3_000),
        format!("{{{{ event{} }}}}", ".a".repeat(30_000)),
        format!("{{{{ event{} }}}}", "|upper".repeat(10_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(60_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(15_000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(30_000)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(5_000)),
        format!(
            "{{% if event %}}{}{{% endif %}}",
            "{% elif event %}".repeat(3_000)
        ),
        format!(
            "{{% if event %}}{}{{% endif %}}",
            "{% elif event %}".repeat(100)
        ),
        format!("{{{{ event{} }}}}", ".a".repeat(199)),
        format!("{{{{ event{} }}}}", "|upper".repeat(199)),
        format!("{{{{ {}1 }}}}", "-".repeat(399)),
        format!("{{{{ {}1 }}}}", "not ".repeat(399)),
        format!("{{{{ 1{} }}}}", "+1".repeat(199)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(90)),
        "{{".repeat(30_000),
        "{%".repeat(30_000),
        "{#".repeat(30_000),
        "é{{é".repeat(8_000),
    ] {
        assert!(text.len() <= template::BYTES_MAX);
        let start = text.chars().take(24).collect::<String>();
        println!(
            "{start}: {:?}",
            Template::compile("user", &text, &names()).err()
        );
    }
}
