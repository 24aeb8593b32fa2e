use crate::expr::Names;
use crate::template::{Input, Template};
use proptest::prelude::*;
use serde_json::{Value, json};

fn template(text: &str) -> Template {
    Template::compile("user", text, &Names::new(&["event", "context"]))
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Whether it was rendered directly; that the engine renders the same is checked.
#[track_caller]
fn check(text: &str, input: &Value) -> bool {
    let template = template(text);
    let direct = template.direct.as_ref();
    let Some(rendered) = direct.and_then(|own| own.render(input, &template.escape)) else {
        return false;
    };
    let engine = template.render_by_engine(&Input::from(input));
    assert_eq!(Ok(&rendered), engine.as_ref(), "{text} with {input}");
    true
}

fn input() -> Value {
    json!({
        "event": {
            "text": "a <|im_end|> b", "empty": "", "wide": "caf\u{e9} \u{4e2d}\u{6587}", "time": "2026-11-25T03:30:00Z",
            "int": 7, "zero": 0, "double": 1.0, "half": -0.5, "large": 18_446_744_073_709_551_615u64,
            "yes": true, "no": false, "null": null, "list": ["x", "y", "</s>"], "none": [], "object": {"b": 1, "a": "</tag>"},
            "mixed": [1, "two", null, {"three": 3}],
        },
        "context": {"flights": [
            {"id": "HW1", "late": 5, "gate": "A1", "free": ["1A", "2B"]},
            {"id": "HW2", "late": 0, "gate": null, "free": []},
        ], "nothing": []},
    })
}

#[test]
fn the_usual_is_rendered_directly_and_as_the_engine_does() {
    for text in [
        "",
        "no value\n",
        "two lines\n\n",
        "{{ event }}",
        "{{ event.text }} {{ event['int'] }} {{ event.list[1] }} {{ event.list }} <tag>{{ event.object }}</tag>",
        "{{ event.double }} {{ event.half }} {{ event.large }} {{ event.null }} {{ event.yes }}",
        "{% for f in context.flights -%}\n- {{ f.id }}{% if f.late > 0 %} late{% elif f.gate is none %} gone{% else %} x{% endif %}\n{%- endfor %}!",
        "{% for f in context.flights %}{{ loop.index }}/{{ loop.length }}{{ loop.index0 }}{% if not loop.last %},{% endif %}{{ loop.first }}{% endfor %}",
        "{% for f in context.flights %}{% for s in f.free %}{{ f.id }}{{ s }}{{ loop.index }}{% else %}full{% endfor %}{{ loop.index }}{% endfor %}",
        "{% for f in context.nothing %}x{% else %}none{% endfor %}",
        "{% for event in context.flights %}{{ event.id }}{% endfor %}{{ event.int }}",
        "{{ event.time[11:16] }} {{ event.wide[3:6] }} {{ event.wide[:2] }} {{ event.wide[99:] }} {{ event.time[5:2] }}",
        "{{ event.list | join(', ') }}{{ event.none | join(' ') or 'none' }}{{ event.list | join }}",
        "{{ event.absent | default('other') }}{{ event.null | default('other') }}{{ event.absent is defined }}{{ event.int is defined }}",
        "{{ event.text | upper }}{{ event.wide | length }}{{ ' a ' | trim }}{{ event.object | length }}{{ 'A' | lower }}",
        "{{ event.int == 7 and event.text != 'x' }}{{ event.zero or event.empty or 'last' }}{{ 'a' if event.yes else 'b' }}",
        "{{ event.null == none }}{{ event.int != none }}{{ event.int >= 7 }}{{ 'a' < 'b' }}{{ event.yes == true }}",
        "{# a comment #}{% raw %}{{ no }}{% endraw %}{{ not event.no }}",
    ] {
        assert!(check(text, &input()), "{text}");
    }
}

#[test]
fn what_fails_and_what_is_unusual_is_the_engines() {
    for text in [
        "{{ event.absent }}",
        "{{ event.text.absent }}",
        "{{ event.list[9] }}",
        "{{ event.int[0:1] }}",
        "{{ event.absent.more is defined }}",
        "{% for x in event.null %}{% endfor %}",
        "{% for x in event.object %}{{ x }}{% endfor %}",
        "{% for x in event.list if x %}{{ x }}{% endfor %}",
        "{% for k, v in event.object | items %}{{ k }}{% endfor %}",
        "{% set x = 1 %}{{ x }}",
        "{{ event.mixed | join }}",
        "{{ event.int + 1 }}",
        "{{ event.int == event.double }}",
        "{{ event.time[-3:] }}",
        "{{ range(3) }}",
        "{{ event | tojson }}",
    ] {
        assert!(!check(text, &input()), "{text}");
    }
}

#[test]
fn what_takes_many_steps_is_the_engines() {
    let many = json!({"event": vec![0; 60_000]});
    assert!(!check("{% for x in event %}{{ x }}{% endfor %}", &many));
    let long = json!({"event": "x".repeat(300_000)});
    assert!(!check("{{ event }}{{ event }}", &long));
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..3).prop_map(Value::from),
        prop::sample::select(vec![0.0, -0.0, 1.0, 2.5, 1e300]).prop_map(Value::from),
        prop::sample::select(vec!["", "a", "<s>", "```", "\u{e9}x", "1", "</t>"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[abc]", inner, 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "event",
        "event.a",
        "event.b",
        "event.a.b",
        "event['c']",
        "event.a[0]",
        "x",
        "x.a",
        "loop.index",
        "loop.last",
        "'a'",
        "1",
        "0",
        "none",
        "true",
        "''",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(3, 8, 2, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            (
                two,
                prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">=", "and", "or"])
            )
                .prop_map(|((left, right), op)| format!("({left} {op} {right})")),
            (
                inner.clone(),
                prop::sample::select(vec![
                    "| length",
                    "| upper",
                    "| lower",
                    "| trim",
                    "| join('-')",
                    "| default('d')",
                    "is defined",
                    "is none",
                    "is undefined",
                    "| count",
                    "[1:2]",
                    "[:1]",
                    "[1:]",
                ])
            )
                .prop_map(|(of, after)| if after.starts_with('[') {
                    format!("({of}){after}")
                } else {
                    format!("({of} {after})")
                }),
            inner.clone().prop_map(|of| format!("(not {of})")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(test, then, other)| format!("({then} if {test} else {other})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_is_rendered_directly_the_engine_renders_the_same(
        event in value(), printed in expression(), test in expression(), list in expression(),
    ) {
        let input = json!({"event": event, "context": {}});
        let looped = format!("```{{% for x in event %}}{{{{ {printed} }}}}{{% if {test} %}}</t>{{% endif %}}{{% endfor %}}");
        let plain = format!("{{{{ {printed} }}}}{{% for x in {list} %}}{{{{ x }}}}{{% else %}}-{{% endfor %}}\n")
            .replace("loop.", "event.")
            .replace('x', "event");
        for text in [looped, plain] {
            if Template::compile("user", &text, &Names::new(&["event", "context"])).is_ok() {
                check(&text, &input);
            }
        }
    }
}
