use super::*;
use serde_json::json;

fn names() -> Names {
    Names::new(&["event", "key", "headers", "time", "value"])
        .fields("context", ["bookings", "flights"])
        .schema(
            "typed",
            &json!({"type": "object", "properties": {
                "flight_id": {"type": "string"}, "price": {"type": "number"}, "seats": {"type": "integer"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "open": {"type": "object", "properties": {"a": {}}, "additionalProperties": true},
            }}),
        )
}

struct Input(Value);

impl Variables for Input {
    fn get(&self, name: &str) -> Option<Variable<'_>> {
        match name {
            "time" => Some(Variable::Timestamp(1_000)),
            "key" => Some(Variable::Text("k")),
            "event" => Some(Variable::Json(&self.0)),
            _ => None,
        }
    }
}

fn run(text: &str, event: Value) -> Result<Value, Fault> {
    Expression::compile(text, &names())
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .evaluate(&Input(event))
}

fn check(text: &str, event: Value, expected: Value) {
    match run(text, event) {
        Ok(value) => assert_eq!(value, expected, "{text}"),
        Err(fault) => panic!("{text}: {fault}"),
    }
}

#[test]
fn expressions_give_values() {
    let event = json!({"a": 1, "b": 2.5, "s": "Straße", "l": [3, 1, 2], "o": {"x": null}, "big": u64::MAX, "f": 7.0});
    for (text, expected) in [
        ("event.a + 1", json!(2)),
        ("event.s != 'archived'", json!(true)),
        ("has(event.o.x) && !has(event.o.y)", json!(true)),
        ("event.?nope.orValue(0)", json!(0)),
        ("event.?o.x.orValue(5)", json!(null)),
        ("event.?o.?y.z.hasValue()", json!(false)),
        ("event[?'nope'].or(event.?a).value()", json!(1)),
        ("event.l[?9].orValue('none')", json!("none")),
        ("event.l[1]", json!(1)),
        ("event['o']", json!({"x": null})),
        (
            "{'gate': event.a, ?'nope': event.?nope, ?'yes': event.?a}",
            json!({"gate": 1, "yes": 1}),
        ),
        ("[1, ?event.?nope, 2]", json!([1, 2])),
        ("event.l.map(x, x * 2)", json!([6, 2, 4])),
        ("event.l.map(x, x > 1, x)", json!([3, 2])),
        ("event.l.filter(x, x > 1).size()", json!(2)),
        (
            "event.l.all(x, x > 0) && event.l.exists(x, x == 3) && event.l.exists_one(x, x == 3)",
            json!(true),
        ),
        (
            "event.l.map(x, event.l.map(y, x + y).sum())",
            json!([15, 9, 12]),
        ),
        ("event.o.map(k, k)", json!(["x"])),
        ("event.l.sum() + event.l.min() + event.l.max()", json!(10)),
        ("[].sum()", json!(0)),
        ("event.l.isSorted() || [1, 2].isSorted()", json!(true)),
        ("event.l.indexOf(1) - event.l.lastIndexOf(9)", json!(2)),
        ("event.l.sort()", json!([1, 2, 3])),
        ("event.l.sortBy(x, -x)", json!([3, 2, 1])),
        (
            "[1, 1, 2].distinct() + [[3], 4].flatten()",
            json!([1, 2, 3, 4]),
        ),
        ("event.l.slice(0, 2).reverse()", json!([1, 3])),
        (
            "event.l.first().value() + event.l.last().orValue(0)",
            json!(5),
        ),
        ("size(event.s) + event.s.size()", json!(12)),
        (
            "event.s.upperAscii() + event.s.lowerAscii()",
            json!("STRAßEstraße"),
        ),
        (
            "' a '.trim() + 'b'.charAt(0) + 'abc'.substring(1) + 'abc'.substring(0, 1)",
            json!("abbca"),
        ),
        ("'a,b'.split(',').join(';')", json!("a;b")),
        (
            "'a-a'.replace('a', 'b') + 'a-a'.replace('a', 'b', 1)",
            json!("b-bb-a"),
        ),
        (
            "event.s.indexOf('e') * 10 + event.s.lastIndexOf('S')",
            json!(50),
        ),
        (
            "'ab12'.matches('[0-9]+') && matches('x', '^x$')",
            json!(true),
        ),
        (
            "'ab12c3'.find('[0-9]+') + 'ab12c3'.findAll('[0-9]').join('.')",
            json!("121.2.3"),
        ),
        ("'abc'.findAll('.', 2)", json!(["a", "b"])),
        (
            "'%s has %d at %.2f (%s)'.format(['x', 3, 1.5, [1]])",
            json!("x has 3 at 1.50 ([1])"),
        ),
        (
            "string(event.b) + string(event.a) + string(true)",
            json!("2.51true"),
        ),
        (
            "int('7') + int(2.9) + int(timestamp('1970-01-01T00:00:09Z'))",
            json!(18),
        ),
        ("double(event.a) + event.b", json!(3.5)),
        (
            "event.a < event.b && event.f == 7 && event.big > event.a",
            json!(true),
        ),
        (
            "time == timestampMillis(1000) && time - timestamp(0) == duration('1s')",
            json!(true),
        ),
        (
            "timestamp('2026-11-23T10:00:00Z') + duration('1h30m')",
            json!("2026-11-23T11:30:00Z"),
        ),
        ("timestamp('2026-11-23T10:00:00Z').getDayOfWeek()", json!(1)),
        (
            "timestamp('2026-11-23T23:00:00Z').getHours('+02:00')",
            json!(1),
        ),
        ("timestamp('2026-11-23T23:00:00Z').getMonth()", json!(10)),
        ("duration('90m').getHours()", json!(1)),
        ("duration('-1.5s')", json!("-1.5s")),
        (
            "'a' in {'a': 1} && 3 in event.l && 'x' in event.o",
            json!(true),
        ),
        ("1 / 0 == 1 || true", json!(true)),
        ("event.nope == 1 && false", json!(false)),
        ("event.a == 1 ? 'one' : 'more'", json!("one")),
        (
            "type(event.a) == int && type(event.b) == double",
            json!(true),
        ),
        ("math.greatest(1, 2, 3) + math.least([5, 4])", json!(7)),
        ("math.ceil(1.2) + math.abs(-1.0)", json!(3.0)),
        ("optional.of(1).optMap(x, x + 1).value()", json!(2)),
        ("optional.none()", json!(null)),
        (
            "event.l == [3, 1, 2.0] && event.o == {'x': null}",
            json!(true),
        ),
        ("b'ab'", json!("YWI=")),
        ("-event.a", json!(-1)),
        ("key + '!'", json!("k!")),
        ("dyn(1) == 1u", json!(true)),
        ("lists.range(3)", json!([0, 1, 2])),
        ("event.`a`", json!(1)),
    ] {
        check(text, event.clone(), expected);
    }
}

#[test]
fn semantics_3_numbers_compare_but_do_not_mix() {
    check("event.x == 7", json!({"x": 7.0}), json!(true));
    check("event.x < 8.5", json!({"x": 7}), json!(true));
    check("double(event.x) + 0.5", json!({"x": 7}), json!(7.5));
    check(
        "event.x == 9007199254740993",
        json!({"x": 9007199254740992.0}),
        json!(false),
    );
    let fault = run("event.x + 0.5", json!({"x": 7})).unwrap_err();
    assert_eq!(fault.reason, Reason::ExpressionFailed);
    assert_eq!(
        fault.message,
        "`event.x + 0.5`: `+` does not take an int and a double; convert one, as in double(x)"
    );
    assert!(
        run("event.x + 1", json!({"x": i64::MAX}))
            .unwrap_err()
            .message
            .contains("overflows")
    );
}

#[test]
fn failures_name_the_expression_and_never_values() {
    for (text, event, message) in [
        (
            "event.gate",
            json!({"secret": "s3cret"}),
            "`event.gate`: `event` has no field `gate`",
        ),
        (
            "event.a.b",
            json!({"a": "s3cret"}),
            "`event.a.b`: `event.a` is a string, it has no fields",
        ),
        (
            "event.a > 1",
            json!({"a": "s3cret"}),
            "`event.a > 1`: a string and an int have no order",
        ),
        (
            "int(event.a)",
            json!({"a": "s3cret"}),
            "`int(event.a)`: int: the text is no int",
        ),
        (
            "event.l[5]",
            json!({"l": ["s3cret"]}),
            "`event.l[5]`: `event.l` has 1 items, the index is beyond",
        ),
        (
            "event[event.a]",
            json!({"a": "s3cret"}),
            "`event[event.a]`: `event` has no such key",
        ),
        (
            "timestamp(event.a)",
            json!({"a": "s3cret"}),
            "`timestamp(event.a)`: timestamp: the text is no RFC 3339 time, as 2026-11-23T10:00:00Z is",
        ),
        (
            "event.a.map(x, x)",
            json!({"a": "s3cret"}),
            "`event.a.map(x, x)`: `event.a` is a string, a list or an object is needed",
        ),
        (
            "event.a / 0",
            json!({"a": 1}),
            "`event.a / 0`: divides by zero",
        ),
        ("value", json!({}), "`value`: `value` has no value here"),
    ] {
        let fault = run(text, event).unwrap_err();
        assert_eq!(fault.message, message);
        assert!(!fault.message.contains("s3cret"));
    }
    let filter = Expression::compile("event.a", &names()).unwrap();
    assert_eq!(
        filter
            .truth(&Input(json!({"a": "s3cret"})))
            .unwrap_err()
            .message,
        "`event.a`: gives a string, a bool is needed"
    );
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    for (text, message) in [
        ("", "column 1: the expression is empty"),
        (
            "evnt.a",
            "column 1: there is no `evnt` here. Did you mean `event`?",
        ),
        (
            "1 + foo",
            "column 5: there is no `foo` here. There are: context, event, headers, key, time, typed, value",
        ),
        (
            "typed.flihgt_id == 'x'",
            "there is no field `flihgt_id`. Did you mean `flight_id`?",
        ),
        (
            "context.bokings",
            "there is no field `bokings`. Did you mean `bookings`?",
        ),
        (
            "has(context.nope)",
            "there is no field `nope`. There are: bookings, flights",
        ),
        ("typed.flight_id.gate", "a string has no field `gate`"),
        (
            "typed.flight_id == 5",
            "compares a string with an int: they are never equal",
        ),
        (
            "typed.price + 1",
            "`+` does not take a double and an int; convert one, as in double(x)",
        ),
        ("typed.flight_id < 5", "a string and an int have no order"),
        ("5 in typed.tags", "looks for an int in a list of a string"),
        ("typed.tags.map(t, t.x)", "a string has no field `x`"),
        (
            "event.a.sizee()",
            "there is no function `sizee`. Did you mean `size`?",
        ),
        ("foo(1)", "there is no function `foo`"),
        ("size(1, 2)", "`size` takes 1 argument, not 2"),
        (
            "event.s.substring()",
            "`substring` takes 1 to 2 arguments, not 0",
        ),
        (
            "startsWith(event.s, 'a')",
            "`startsWith` is called another way. Write x.startsWith(...), not startsWith(x, ...)",
        ),
        (
            "event.s.matches(event.p)",
            "the pattern of `matches` has to be a literal",
        ),
        (
            "event.s.matches('(')",
            "the pattern is no regular expression",
        ),
        ("event.a &&", "column"),
        (
            "'a' && true",
            "a side of `&&` is a string, a bool is needed",
        ),
        ("{'a': 1, 'a': 2}", "the key `a` stands twice"),
        (
            "event.l.map(1, 2)",
            "`map` takes the name of a variable first",
        ),
        ("event.l.map(x)", "`map` takes a variable and an expression"),
        ("has(event)", "`has` takes a field"),
        ("Foo{a: 1}", "there is no type `Foo`"),
        (
            "event.a == 1 &&\n  evnt.b",
            "line 2, column 3: there is no `evnt` here",
        ),
    ] {
        let error = Expression::compile(text, &names())
            .expect_err(text)
            .to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    // What the schema leaves open is left open.
    for text in [
        "typed.open.b",
        "has(typed.nope)",
        "typed.?nope.orValue(1)",
        "event.x.y.z",
    ] {
        Expression::compile(text, &names()).expect(text);
    }
}

#[test]
fn an_expression_gives_what_is_wanted() {
    for (text, wanted, message) in [
        (
            "'archived'",
            Wanted::Bool,
            "gives a string, a bool is needed",
        ),
        (
            "typed.flight_id",
            Wanted::Bool,
            "gives a string, a bool is needed",
        ),
        (
            "1.5",
            Wanted::Key,
            "gives a double, a key (a string, int, bool or a list of these) is needed",
        ),
        ("{}", Wanted::Key, "gives an object"),
        ("'a'", Wanted::List, "gives a string, a list is needed"),
        (
            "'2026'",
            Wanted::Time,
            "gives a string, a timestamp or an int of milliseconds is needed",
        ),
    ] {
        let error = Expression::compile_for(text, &names(), wanted)
            .expect_err(text)
            .to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    for (text, wanted) in [
        ("event.a", Wanted::Bool),
        ("['a', 1]", Wanted::Key),
        ("timestamp(event.at)", Wanted::Time),
        ("event.a.map(x, x)", Wanted::List),
    ] {
        Expression::compile_for(text, &names(), wanted).expect(text);
    }
}

#[test]
fn size_depth_and_steps_are_bounded() {
    let refused = |text: &str| Expression::compile(text, &names()).is_err();
    assert!(refused(&format!("'{}'", "a".repeat(BYTES_MAX))));
    assert!(refused(&format!("{}1{}", "(".repeat(33), ")".repeat(33))));
    assert!(refused(&format!(
        "{}1{}",
        "[".repeat(5_000),
        "]".repeat(5_000)
    )));
    assert!(
        refused(&format!("{}true", "!".repeat(10_000)))
            || run(&format!("{}true", "!".repeat(10_000)), json!({})).is_ok()
    );
    assert!(refused(&"a ? b : ".repeat(1_000)));
    let items: Vec<u32> = (0..500).collect();
    let fault = run(
        "event.l.all(a, event.l.all(b, event.l.all(c, a + b + c >= 0)))",
        json!({"l": items}),
    )
    .unwrap_err();
    assert!(fault.message.contains("takes too many steps"), "{fault}");
    let text = "x".repeat(600_000);
    assert!(run("event.s + event.s", json!({"s": text})).is_err());
}

#[test]
fn it_tells_what_it_reads() {
    let expression = Expression::compile(
        "context.bookings.map(b, b.flight_id) + [context['flights'][0]] + [event.x]",
        &names(),
    )
    .unwrap();
    let fields: Vec<String> = expression.fields_of("context").into_iter().collect();
    assert_eq!(fields, ["bookings", "flights"]);
    assert!(expression.reads("event") && !expression.reads("time"));
    assert!(!expression.reads_whole("context"));
    assert!(
        Expression::compile("size(context)", &names())
            .unwrap()
            .reads_whole("context")
    );
}

#[test]
fn keys_and_times() {
    let input =
        Input(json!({"a": 7, "l": ["x", 1, null, ""], "t": "2026-11-23T10:00:00Z", "d": 1.5}));
    let compile = |text: &str| Expression::compile(text, &names()).unwrap();
    let key = |text: &str| compile(text).key(&input);
    assert_eq!(key("event.a").unwrap(), Key::from_text("7").unwrap());
    assert_eq!(key("event.?nope").unwrap(), None);
    assert_eq!(key("''").unwrap(), None);
    let fault = key("event.d").unwrap_err();
    assert_eq!(fault.reason, Reason::InvalidKey);
    assert_eq!(
        fault.message,
        "`event.d`: a key is a double; keys are strings, integers, bools or lists of these"
    );
    let keys = compile("event.l").keys(&input).unwrap();
    assert_eq!(keys.iter().map(Key::as_str).collect::<Vec<_>>(), ["x", "1"]);
    assert_eq!(
        compile("timestamp(event.t)").timestamp_ms(&input).unwrap(),
        1_795_428_000_000
    );
    assert_eq!(compile("event.a").timestamp_ms(&input).unwrap(), 7);
    assert!(compile("event.t").timestamp_ms(&input).is_err());
}
