//! The model and the tools behind the desk: what they answer to what, and a ledger of all that they were asked.
//!
//! Each answer has a number of its own, so that whatever is written of a run tells which call it came from. Whoever asks is a process,
//! so that it is known of each call whether who made it could know what was journaled before.

use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The tool that must not be called twice, and the one that may.
pub const BOOK: &str = "book";
pub const MARK: &str = "mark";

/// What a call gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Answer(String),
    /// Tools to be called: id, name and arguments.
    Calls(Vec<(String, &'static str, Value)>),
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

/// One call of a tool.
#[derive(Clone, Debug)]
pub struct Used {
    pub tool: String,
    pub arguments: Value,
    /// What it gave.
    pub number: usize,
    /// Calls of the model that were made before the caller's process began.
    born: usize,
}

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    /// Calls of tools, by key.
    used: HashMap<String, Vec<Used>>,
    used_count: usize,
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
        let is_told = messages.iter().any(|it| it["role"] == "tool");
        let verdict = match kind {
            "book" | "dear" if !is_told => {
                let n: u64 = part("n=").parse().unwrap();
                let call = |place, tool| (format!("{number}-{place}"), tool, json!({"n": n}));
                Verdict::Calls(vec![call(1, BOOK), call(2, MARK)])
            }
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

impl Process {
    /// A tool is called. Gives its result.
    pub fn call(&self, key: &str, tool: &str, arguments: &Value) -> Value {
        let mut book = self.ledger.0.lock().unwrap();
        let number = book.used_count;
        book.used_count += 1;
        book.used.entry(key.to_owned()).or_default().push(Used {
            tool: tool.to_owned(),
            arguments: arguments.clone(),
            number,
            born: self.born,
        });
        json!({"number": number})
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

    /// Calls of a tool under this key.
    pub fn used(&self, key: &str) -> Vec<Used> {
        let book = self.0.lock().unwrap();
        book.used.get(key).cloned().unwrap_or_default()
    }

    /// Calls of tools, and those of them that were made under a key before.
    pub fn used_counts(&self) -> (usize, usize) {
        let book = self.0.lock().unwrap();
        (book.used_count, book.used_count - book.used.len())
    }

    /// What was done again by a process that began after the step behind it had been asked for: then it was journaled.
    pub fn repeated(&self) -> Option<String> {
        let book = self.0.lock().unwrap();
        // The repair of an answer, and what comes after calls of tools.
        let later = |key: &str| key.ends_with("-2") || key.ends_with("-3");
        let mut steps = book.by_key.iter().filter(|(key, _)| later(key));
        steps.find_map(|(key, calls)| {
            let run = &key[..key.len() - 2];
            let since = calls[0];
            let asked = book.by_key.get(&format!("{run}-1"))?;
            let again = asked.iter().find(|call| book.calls[**call].born > since);
            let used = (1..=2).filter_map(|place| book.used.get(&format!("{run}-1-{place}")));
            let mut used = used.flatten();
            again
                .map(|call| format!("{:?}", book.calls[*call]))
                .or_else(|| {
                    used.find(|used| used.born > since)
                        .map(|used| format!("run {run}: {used:?}"))
                })
        })
    }

    /// Calls, and those of them that were answered although the same step had been answered before.
    pub fn counts(&self) -> (usize, usize) {
        let book = self.0.lock().unwrap();
        let again = book.by_key.values().map(|calls| {
            let answered = calls.iter().filter(|call| {
                let verdict = &book.calls[**call].verdict;
                matches!(verdict, Verdict::Answer(_) | Verdict::Calls(_))
            });
            answered.count().saturating_sub(1)
        });
        (book.calls.len(), again.sum())
    }
}
