//! The model behind the desk: what it answers to what, and a ledger of all that it was asked.
//!
//! Each answer has a number of its own, so that whatever is written of a run tells which call it came from.

use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a call gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Answer(String),
    /// HTTP status.
    Refusal(u16),
    /// No answer of any sense.
    Nonsense,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// `Idempotency-Key`: the run, and the step within it.
    pub key: String,
    /// As JSON: `role` and `content`.
    pub messages: Vec<Value>,
    pub verdict: Verdict,
}

#[derive(Default)]
struct Book {
    calls: Vec<Call>,
    /// Calls by key.
    by_key: HashMap<String, Vec<usize>>,
}

#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

impl Ledger {
    /// Answers, and after what time.
    pub fn ask(&self, key: &str, messages: &[Value]) -> (Verdict, Duration) {
        let mut book = self.0.lock().unwrap();
        let number = book.calls.len();
        let before = book.by_key.get(key).map_or(0, Vec::len);
        let prompt = messages.last().unwrap()["content"].as_str().unwrap();
        let part = |name: &str| {
            let parts = prompt.split(' ');
            let part = parts.filter_map(|it| it.strip_prefix(name)).next();
            part.unwrap_or_else(|| panic!("no {name} in the prompt '{prompt}'"))
        };
        let kind = part("kind=");
        let verdict = match kind {
            "fail" => Verdict::Refusal(400),
            "flaky" if before == 0 => Verdict::Refusal(503),
            // Twice: the client's own second try does not help, the run's next attempt does.
            "odd" if before < 2 => Verdict::Nonsense,
            _ => Verdict::Answer(format!("#{number}")),
        };
        let delay = if kind == "slow" {
            let n: u64 = part("n=").parse().unwrap();
            Duration::from_millis(100 + n * 37 % 900)
        } else {
            Duration::ZERO
        };
        book.by_key.entry(key.to_owned()).or_default().push(number);
        book.calls.push(Call {
            key: key.to_owned(),
            messages: messages.to_vec(),
            verdict: verdict.clone(),
        });
        (verdict, delay)
    }

    /// The call that an answer came from.
    pub fn call(&self, answer: &str) -> Option<Call> {
        let number: usize = answer.strip_prefix('#')?.parse().ok()?;
        self.0.lock().unwrap().calls.get(number).cloned()
    }

    /// Calls, and those of them that were answered although the same step had been answered before.
    pub fn counts(&self) -> (usize, usize) {
        let book = self.0.lock().unwrap();
        let again = book.by_key.values().map(|calls| {
            let answered = calls
                .iter()
                .filter(|call| matches!(book.calls[**call].verdict, Verdict::Answer(_)));
            answered.count().saturating_sub(1)
        });
        (book.calls.len(), again.sum())
    }
}
