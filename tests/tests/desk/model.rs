//! The model behind the desk: what it answers to what, and a ledger of all that it was asked.
//!
//! Each answer has a number of its own, so that whatever is written of a run tells which call it came from. Whoever asks is a process,
//! so that it is known of each call whether who made it could know what was journaled before.

use serde_json::{Value, json};
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
    /// Calls that were made before the caller's process began.
    born: usize,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Process {
    ledger: Ledger,
    born: usize,
}

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    /// Calls by key.
    by_key: HashMap<String, Vec<usize>>,
}

#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

impl Process {
    /// Answers, and after what time.
    pub fn ask(&self, key: &str, messages: &[Value]) -> (Verdict, Duration) {
        let mut book = self.ledger.0.lock().unwrap();
        let number = book.calls.len();
        let before = book.by_key.get(key).map_or(0, Vec::len);
        // A repair comes after it.
        let mut prompts = messages
            .iter()
            .rev()
            .filter_map(|it| it["content"].as_str());
        let prompt = prompts.find(|it| it.starts_with("n=")).unwrap();
        let part = |name: &str| {
            let part = prompt.split(' ').find_map(|it| it.strip_prefix(name));
            part.unwrap_or_else(|| panic!("no {name} in the prompt '{prompt}'"))
        };
        let kind = part("kind=");
        let verdict = match kind {
            "fail" => Verdict::Refusal(400),
            "flaky" if before == 0 => Verdict::Refusal(503),
            // Twice: the client's own second try does not help, the run's next attempt does.
            "odd" if before < 2 => Verdict::Nonsense,
            "unfit" if key.ends_with("-1") => Verdict::Answer(format!("unfit {number}")),
            _ => Verdict::Answer(json!({"call": number}).to_string()),
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
            born: self.born,
        });
        (verdict, delay)
    }
}

impl Ledger {
    /// One that begins now.
    pub fn process(&self) -> Process {
        Process {
            ledger: self.clone(),
            born: self.0.lock().unwrap().calls.len(),
        }
    }

    /// The call that an answer came from, fitting or not.
    pub fn call(&self, answer: &str) -> Option<Call> {
        let number = match answer.strip_prefix("unfit ") {
            Some(number) => number.parse().ok()?,
            None => serde_json::from_str::<Value>(answer).ok()?["call"].as_u64()?,
        };
        let calls = &self.0.lock().unwrap().calls;
        calls.get(usize::try_from(number).ok()?).cloned()
    }

    /// A step that was asked for again by a process that began after the next step had been asked for: then it was journaled.
    pub fn repeated(&self) -> Option<Call> {
        let book = self.0.lock().unwrap();
        let mut repairs = book.by_key.iter().filter(|(key, _)| key.ends_with("-2"));
        repairs.find_map(|(key, calls)| {
            let first = format!("{}-1", key.strip_suffix("-2")?);
            let asked = book.by_key.get(&first)?;
            let again = asked
                .iter()
                .find(|call| book.calls[**call].born > calls[0])?;
            Some(book.calls[*again].clone())
        })
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
