//! What the applications of the view rounds write.

use crate::rounds::draw::Draw;
use crate::rounds::load::{Place, Sent};
use serde_json::{Value, json};

/// Records each 20 ms.
pub const PACE: usize = 8;
const ACCOUNTS: usize = 300;
const ORDERS: usize = 400;
const CUSTOMERS: usize = 60;

pub fn next(draw: &mut Draw, place: Place) -> Sent {
    let (source, key, value) = event(draw, place.number);
    Sent { source, key, value }
}

/// Updates, deletes, re-keys, what a filter drops, and bad records.
fn event(draw: &mut Draw, n: u64) -> (&'static str, Option<String>, Option<String>) {
    let text = |value: Value| Some(value.to_string());
    if draw.percent(1) {
        let source = ["accounts", "orders", "shipments"][draw.below(3)];
        return match draw.below(3) {
            0 => (source, Some("bad".to_owned()), Some(format!("{{{n}"))),
            1 => (source, Some("bad".to_owned()), text(json!({"other": n}))),
            _ => (source, None, text(json!({"n": n, "kind": "user"}))),
        };
    }
    match draw.below(3) {
        0 => {
            let key = Some(format!("a-{}", draw.below(ACCOUNTS)));
            if draw.percent(8) {
                return ("accounts", key, None);
            }
            let kind = if draw.percent(15) { "noise" } else { "user" };
            ("accounts", key, text(json!({"n": n, "kind": kind})))
        }
        1 => {
            let key = Some(format!("o-{}", draw.below(ORDERS)));
            let value = json!({
                "order": key, "customer": format!("c-{}", draw.below(CUSTOMERS)),
                "amount": draw.below(1_000), "gone": draw.percent(6), "n": n,
            });
            ("orders", key, text(value))
        }
        _ => {
            let key = Some(format!("s-{}", draw.below(ORDERS)));
            let value = json!({
                "order": format!("o-{}", draw.below(ORDERS)), "stage": format!("at {n}"),
                "gone": draw.percent(6), "n": n,
            });
            ("shipments", key, text(value))
        }
    }
}
