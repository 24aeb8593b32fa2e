//! The scanner against `serde_json` over texts of every kind, their mutations, and in changing order.

use super::*;
use crate::json::decode;
use proptest::prelude::*;
use serde_json::Value;

/// The scanner and the decoder agree; gives the form where they accept.
fn check(scanner: &mut Scanner, bytes: &[u8]) -> Option<Form> {
    let decoded = decode(bytes).ok();
    let scanned = scanner.scan(bytes);
    assert_eq!(
        scanned.is_some(),
        decoded.is_some(),
        "{:?}",
        String::from_utf8_lossy(bytes)
    );
    let (scanned, decoded) = (scanned?, decoded?);
    let text = String::from_utf8_lossy(bytes);
    if let Some(fields) = scanned.fields {
        let mut last = serde_json::Map::new();
        for field in fields {
            let name = std::str::from_utf8(&bytes[field.name()]).unwrap();
            let value = &bytes[field.value()];
            assert!(!value[0].is_ascii_whitespace(), "{text}");
            last.insert(name.to_owned(), serde_json::from_slice(value).unwrap());
        }
        assert_eq!(Some(&last), decoded.as_object(), "{text}");
        assert!(
            scanned.form == Form::Other || last.len() == fields.len(),
            "{text}"
        );
    }
    let kept = match scanned.form {
        Form::Plain => bytes.to_vec(),
        Form::Spaced => {
            let mut out = Vec::new();
            compact(bytes, &mut out);
            assert!(out.len() < bytes.len(), "{text}");
            out
        }
        Form::Other => return Some(Form::Other),
    };
    // What serde_json writes has the same bytes, in the order of sorted names.
    let sorted = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.sort_unstable();
        bytes
    };
    let written = decoded.to_string();
    assert_eq!(kept.len(), written.len(), "{text}");
    assert_eq!(sorted(&kept), sorted(written.as_bytes()), "{text}");
    Some(scanned.form)
}

const CORPUS: &[&str] = &[
    r#"{"flight_id":"flight-000001","status":"active","gate":"B01","delay_minutes":-5,"price":12.5,"seats":null,"on_time":true}"#,
    r#" { "a" : [ 1 , 2.50 , {"b":{}} ] , "c" : "x\ny" } "#,
    r#"{"a":1,"a":2,"b":{"c":1,"c":2}}"#,
    r#"{"é":"ü\u00e9\ud83d\ude00","\u0061":"\/\b\f\r\t\"\\"}"#,
    r#"[[],{},"",0,-0,1e3,1E-2,1.0,0.0001,123456789012345678,12345678901234567890,18446744073709551615,1e308]"#,
    r#"{"z":{"y":[{"x":1},{"x":2}],"a":false},"b":[true,false,null],"a":0.5}"#,
    r#"{"":"","a":"","b":[]}"#,
    "\"text\"",
    "17",
    "null",
    "[]",
    "{}",
    "{ }",
];

#[test]
fn it_judges_a_corpus_as_the_decoder_does() {
    let mut scanner = Scanner::default();
    for text in CORPUS {
        assert!(check(&mut scanner, text.as_bytes()).is_some(), "{text}");
    }
    for text in [
        "",
        " ",
        "{",
        "}",
        "[",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\"}",
        "{\"a\":}",
        "{,}",
        "{a:1}",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "1e+",
        "+1",
        "1e999",
        "-1e999",
        "nul",
        "tru",
        "truee",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\\ud83d\\ude00\"",
        "\"a\u{1}\"",
        "\"\u{7f}\"",
        "1 2",
        "{\"a\":1} x",
        "[1 2]",
        "{\"a\":1 \"b\":2}",
        "\u{feff}1",
        "'a'",
        "NaN",
        "[1,,2]",
        "{\"a\":1,,\"b\":2}",
        "{\"a\":1,\"b\":2]",
        "[1}",
        "-a",
        "0x1",
        "1.e1",
        "\u{a0}1",
        "1\u{b}",
    ] {
        check(&mut scanner, text.as_bytes());
    }
    for bytes in [
        &b"\"\xff\""[..],
        b"\"\xc3\"",
        b"{\"\xc3\xa9\":1}",
        b"{\"a\xff\":1}",
        b"\xef\xbb\xbf1",
        b"[\"\xed\xa0\x80\"]",
    ] {
        check(&mut scanner, bytes);
    }
    for levels in [1, 63, 64, 65, 127, 128, 129, 5_000] {
        for (open, inner, close) in [
            ("[", "1", "]"),
            ("{\"a\":", "1", "}"),
            ("[{\"a\":", "[]", "}]"),
        ] {
            let text = format!("{}{inner}{}", open.repeat(levels), close.repeat(levels));
            check(&mut scanner, text.as_bytes());
        }
    }
    let long = format!("\"{}\"", "a".repeat(BYTES_MAX));
    check(&mut scanner, long.as_bytes());
    check(&mut scanner, &long.as_bytes()[..BYTES_MAX]);
    let fields: Vec<String> = (0..300).map(|n| format!("\"f{n}\":{n}")).collect();
    for count in [300, FIELDS_MAX, FIELDS_MAX + 1] {
        let text = format!("{{{}}}", fields[..count].join(","));
        check(&mut scanner, text.as_bytes());
        check(&mut scanner, text.as_bytes());
    }
}

/// Every text cut short, and with every byte replaced, followed by another, and removed.
#[test]
fn it_judges_mutations_as_the_decoder_does() {
    let mut scanner = Scanner::default();
    for text in CORPUS {
        let bytes = text.as_bytes();
        for place in 0..bytes.len() {
            check(&mut scanner, &bytes[..place]);
            for new in b"\"\\{}[]:,0-.eEu \n\x00\x1f\x7f\x80\xc3\xfftn19" {
                let mut other = bytes.to_vec();
                other[place] = *new;
                check(&mut scanner, &other);
                other.insert(place, bytes[place]);
                check(&mut scanner, &other);
            }
            let mut other = bytes.to_vec();
            other.remove(place);
            check(&mut scanner, &other);
        }
    }
}

#[test]
fn the_form_says_what_need_not_be_rewritten() {
    let mut scanner = Scanner::default();
    for (text, form) in [
        (r#"{"b":1,"a":[1.5,"é\n"]}"#, Form::Plain),
        (r#"{"b": 1, "a": 2}"#, Form::Spaced),
        (r#"{"b":1,"b":2}"#, Form::Other),
        (r#"{"a":{"b":1,"a":2,"b":3}}"#, Form::Other),
        (r#"{"a":1.50}"#, Form::Other),
        (r#"{"a":"\u0041"}"#, Form::Other),
        (r#"{"a":-0}"#, Form::Other),
        (r#"{"a":1e2}"#, Form::Other),
    ] {
        // The second time the steps are known.
        for _ in 0..2 {
            assert_eq!(check(&mut scanner, text.as_bytes()), Some(form), "{text}");
        }
    }
}

#[test]
fn items_of_a_list() {
    let of = |text: &str| -> Option<Vec<String>> {
        let items = items(text.as_bytes())?;
        Some(
            items
                .into_iter()
                .map(|item| text[item].to_owned())
                .collect(),
        )
    };
    assert_eq!(of("[]"), Some(vec![]));
    assert_eq!(
        of(r#"[1,"a,]",[2,3],{"b":4}]"#),
        Some(vec![
            "1".into(),
            r#""a,]""#.into(),
            "[2,3]".into(),
            r#"{"b":4}"#.into()
        ])
    );
    for bad in ["", "[", "[1", "[1,]", "1", "[1]2", "{}"] {
        assert_eq!(of(bad), None, "{bad}");
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-1_000_000..1_000_000i32, 0..8i32)
            .prop_map(|(digits, places)| Value::from(f64::from(digits) / 10f64.powi(places))),
        ".{0,12}".prop_map(Value::from),
        "[ -~]{0,24}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-d]{0,2}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn values_and_their_mutations(
        values in prop::collection::vec(json(), 1..4), place in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut scanner = Scanner::default();
        for value in &values {
            for text in [value.to_string(), serde_json::to_string_pretty(value).unwrap()] {
                prop_assert!(check(&mut scanner, text.as_bytes()).is_some());
                let mut bytes = text.into_bytes();
                let place = place.index(bytes.len());
                bytes[place] = byte;
                check(&mut scanner, &bytes);
            }
        }
    }

    #[test]
    fn numbers_as_people_write_them(number in "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?") {
        let mut scanner = Scanner::default();
        check(&mut scanner, number.as_bytes());
        check(&mut scanner, format!("{{\"a\":{number}}}").as_bytes());
    }

    #[test]
    fn any_bytes(
        bytes in prop::collection::vec(prop::sample::select(b"{}[]\":,0123456789.-+eEtruefalsn\\u \nab\xc3\xa9".to_vec()), 0..24)
    ) {
        check(&mut Scanner::default(), &bytes);
    }

    /// Objects of a few names in any order, some twice: what was remembered of one must not be taken for another.
    #[test]
    fn orders_of_fields(
        objects in prop::collection::vec(prop::collection::vec(("[a-c]{1,2}", 0..1000u16), 0..5), 1..8), spaced in any::<bool>()
    ) {
        let mut scanner = Scanner::default();
        let separator = if spaced { ", " } else { "," };
        for object in &objects {
            let fields: Vec<String> = object.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let text = format!("{{{}}}", fields.join(separator));
            prop_assert!(check(&mut scanner, text.as_bytes()).is_some());
        }
    }
}
