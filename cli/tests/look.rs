//! Looking into a running `up`: views and their values, rows by HTTP, what was refused, and what stands still.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use support::*;

fn folder(name: &str) -> std::path::PathBuf {
    root().join("cli/tests/folders").join(name)
}

fn json(user: &User, arguments: &[&str]) -> Value {
    let done = user.run(&[arguments, &["--output", "json"]].concat());
    serde_json::from_str(done.ok()).unwrap()
}

/// Asks until it is so, which nothing signals.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn views_say_what_they_hold_and_where_it_comes_from() {
    let user = User::new();
    let _up = user.up(&example(), &[]);
    let views = json(&user, &["views"]);
    let flights = views
        .as_array()
        .unwrap()
        .iter()
        .find(|view| view["name"] == "flights")
        .unwrap();
    assert_eq!(flights["ready"], true, "{flights}");
    assert_eq!(flights["behind"], 0, "{flights}");
    assert_eq!(flights["restoredPercent"], 100, "{flights}");
    let keys = json(&user, &["views", "flights", "--limit", "1000"]);
    let rows = keys["rows"].as_array().unwrap();
    assert_eq!(flights["keys"].as_u64().unwrap(), rows.len() as u64);
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["key"].as_str().unwrap())
        .collect();
    assert!(names.is_sorted(), "{names:?}");
    let two = json(&user, &["views", "flights", "--limit", "2"]);
    assert_eq!(two["rows"].as_array().unwrap()[..], rows[..2]);

    // What was sent is what is read next, from where it was written.
    let sent = user.run(&[
        "send",
        "flight-updates",
        r#"{"flight_id": "LK103-2026-11-24", "status": "OnTime"}"#,
    ]);
    let position = sent.ok().to_owned();
    until("the update is folded", || {
        let row = &json(&user, &["views", "flights", "LK103-2026-11-24"])["rows"][0];
        row["position"] == position.as_str() && row["value"]["status"] == "OnTime"
    });
    let shown = user.run(&["views", "flights", "LK103-2026-11-24"]);
    assert!(
        shown.ok().contains(&format!("from       {position}")),
        "{shown:?}"
    );
    assert!(shown.ok().contains("\"status\": \"OnTime\""), "{shown:?}");

    let unknown = user.run(&["views", "flights", "LK999"]);
    assert!(
        unknown
            .refused(1)
            .contains("view 'flights' has no key 'LK999'"),
        "{unknown:?}"
    );
    let mistyped = user.run(&["views", "flight"]);
    assert!(
        mistyped
            .refused(1)
            .contains("there is no view 'flight'; did you mean 'flights'?"),
        "{mistyped:?}"
    );
}

/// Status, headers in lower case, and body of a request made by hand.
fn get(url: &str, token: Option<&str>) -> (u16, String, Value) {
    let rest = url.strip_prefix("http://").unwrap();
    let (address, path) = rest.split_at(rest.find('/').unwrap());
    let mut stream = TcpStream::connect(address).unwrap();
    let authorization = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{authorization}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        head.to_ascii_lowercase(),
        serde_json::from_str(body).unwrap_or(Value::Null),
    )
}

#[test]
fn what_stands_still_is_led_on_and_everybody_follows() {
    let user = User::new();
    let mut up = user.up(&folder("orders"), &[]);
    let served = up.said("waiting")["served"].clone();
    let orders = served["orders"].as_str().unwrap().to_owned();
    let history = served["by-customer"].as_str().unwrap().to_owned();

    // Both views stand still at the second order, and so do those who hold them.
    let views = user.run(&["views"]);
    assert!(
        views
            .ok()
            .contains("the partition stands still at default.orders-0-1"),
        "{views:?}"
    );
    assert!(
        views.ok().contains("headwater resume view/orders --skip"),
        "{views:?}"
    );
    let keys = |view: &str| {
        json(&user, &["views", view])["rows"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(keys("orders"), 1);
    let (status, _, rows) = get(
        &format!("{orders}?index=byCustomer&key=maya"),
        Some("first"),
    );
    assert_eq!((status, rows.as_array().unwrap().len()), (200, 1));

    // An error of a word is no reason to stop anything.
    let nonsense = user.run(&["resume", "view/orders", "--from", "Newest"]);
    assert!(
        nonsense
            .refused(1)
            .contains("neither Earliest, Latest nor a position"),
        "{nonsense:?}"
    );
    let back = user.run(&["resume", "view/orders", "--from", "default.orders-0-9"]);
    assert!(
        back.refused(1)
            .contains("'default.orders-0' holds offsets 0 to 3"),
        "{back:?}"
    );
    let elsewhere = user.run(&["resume", "view/orders", "--skip", "default.orders-0-7"]);
    assert!(
        elsewhere
            .refused(1)
            .contains("is not at 'default.orders-0-7'"),
        "{elsewhere:?}"
    );

    for view in ["view/orders", "view/by-customer"] {
        let resumed = user.run(&["resume", view, "--skip"]);
        assert_eq!(
            resumed.ok(),
            "default.orders-0 goes past offset 1, which goes to the dead letters"
        );
    }
    until("the view goes on", || keys("orders") == 2);
    until("its history goes on", || {
        get(&format!("{history}/maya"), None)
            .2
            .as_array()
            .is_some_and(|rows| rows.len() == 2)
    });
    // Those who hold the view find its stage's decision in the log.
    until("its rows go on", || {
        get(
            &format!("{orders}?index=byCustomer&key=maya"),
            Some("first"),
        )
        .2
        .as_array()
        .is_some_and(|rows| rows.len() == 2)
    });
    until("the agent goes on", || {
        let answer = user.run(&[
            "chat",
            "clerk",
            "--with",
            r#"{"customer": "maya"}"#,
            "which?",
        ]);
        answer.ok() == "o-1 o/3 é"
    });
    let again = user.run(&["resume", "view/orders", "--skip"]);
    assert!(
        again.refused(1).contains("does not stand still"),
        "{again:?}"
    );

    // What was gone past is kept, with all that it had.
    let letters = json(&user, &["dead-letters", "view/orders"]);
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    let letter = &letters[0];
    assert_eq!(letter["position"], "default.orders-0-1");
    assert_eq!(letter["reason"], "SchemaMismatch");
    assert_eq!(
        (&letter["key"], &letter["headers"]["trace"]),
        (&json!("o-2"), &json!("t-1"))
    );
    assert_eq!(letter["timestamp"], "2026-11-24T10:01:00Z");
    assert_eq!(letter["value"], r#"{"item": "nobody's"}"#);
    assert_eq!(up.interrupt(), 0);
}

#[test]
fn rows_are_served_to_who_may_read_them() {
    let user = User::new();
    let mut up = user.up(&folder("orders"), &[]);
    let served = up.said("waiting")["served"].clone();
    let orders = served["orders"].as_str().unwrap();
    let row = format!("{orders}/o-1");
    for token in [None, Some(""), Some("firs"), Some("third")] {
        let (status, head, _) = get(&row, token);
        assert_eq!(status, 401, "{token:?}");
        assert!(head.contains("www-authenticate: bearer"), "{head}");
    }
    let (status, head, body) = get(&row, Some("second"));
    assert_eq!(status, 200);
    assert_eq!(body, json!({"customer": "maya", "item": "tent"}));
    assert!(
        head.contains("headwater-position: default.orders-0-0"),
        "{head}"
    );
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(
        head.contains("headwater-covered: default.orders-0="),
        "{head}"
    );
    let (status, head, body) = get(&format!("{orders}/o-9"), Some("first"));
    assert_eq!((status, &body["status"]), (404, &json!(404)));
    assert!(
        head.contains("content-type: application/problem+json"),
        "{head}"
    );
    let (status, _, body) = get(orders, Some("first"));
    assert_eq!(status, 400);
    assert!(
        body["detail"]
            .as_str()
            .unwrap()
            .contains("indexes: byCustomer"),
        "{body}"
    );
    // Health and status are not to be had here.
    let root = orders.strip_suffix("/orders").unwrap();
    for path in ["/status", "/metrics", "/healthz", "/"] {
        assert_eq!(
            get(&format!("{root}{path}"), Some("first")).0,
            404,
            "{path}"
        );
    }
}

#[test]
fn refused_records_are_fed_again_as_they_were_and_once() {
    let user = User::new();
    let up = user.up(&folder("bad-records"), &[]);
    let letters = || {
        json(&user, &["dead-letters", "view/facts"])
            .as_array()
            .unwrap()
            .clone()
    };
    until("both are kept", || letters().len() == 2);
    let first = letters()[0]["position"].as_str().unwrap().to_owned();
    let none = user.run(&["dead-letters", "view/facts", "--retry"]);
    assert!(none.refused(2).contains("say which letter"), "{none:?}");
    let unknown = user.run(&["dead-letters", "view/facts", "default.facts-0-77"]);
    assert!(
        unknown.refused(1).contains("there is no dead letter"),
        "{unknown:?}"
    );
    let word = user.run(&["dead-letters", "facts"]);
    assert!(
        word.refused(1).contains("write view/NAME or agent/NAME"),
        "{word:?}"
    );

    let fed = json(&user, &["dead-letters", "view/facts", &first, "--retry"]);
    let to = fed[0]["fedTo"].as_str().unwrap().to_owned();
    let partition = |position: &str| position.rsplit_once('-').unwrap().0.to_owned();
    assert_eq!(partition(&to), partition(&first), "it keeps its place");
    // It is refused again, and says that it had been fed.
    until("it is refused again", || letters().len() == 3);
    let again = letters()
        .into_iter()
        .find(|letter| letter["position"] == to.as_str())
        .unwrap();
    assert_eq!(again["fedAgainFrom"], first.as_str());
    let before = letters()
        .into_iter()
        .find(|letter| letter["position"] == first.as_str())
        .unwrap();
    assert_eq!(before["fedAgainTo"], to.as_str());
    for same in ["key", "value", "timestamp", "reason"] {
        assert_eq!(again[same], before[same], "{same}");
    }
    // Once more only if asked for.
    let twice = user.run(&["dead-letters", "view/facts", &first, "--retry"]);
    assert!(
        twice.refused(1).contains("it was fed again before, to"),
        "{twice:?}"
    );
    let all = json(&user, &["dead-letters", "view/facts", "--retry", "--all"]);
    let fed = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| !one["fedTo"].is_null());
    assert_eq!(fed.count(), 2, "{all}");
    user.run(&["dead-letters", "view/facts", &first, "--retry", "--again"])
        .ok();
    assert_eq!(up.interrupt(), 0);
}

#[test]
fn the_agent_s_refusals_are_its_own() {
    let user = User::new();
    let _up = user.up(Path::new("cli/tests/folders/bad-records"), &[]);
    let letters = json(&user, &["dead-letters", "agent/notary"]);
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    assert_eq!(letters[0]["reason"], "AbsentField");
    let mistyped = user.run(&["dead-letters", "agent/notry"]);
    assert!(
        mistyped.refused(1).contains("did you mean 'notary'?"),
        "{mistyped:?}"
    );
}
