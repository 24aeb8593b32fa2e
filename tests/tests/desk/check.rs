//! The desk's topics, as a plain reader of committed records has them, against all that is promised of runs.
//!
//! Besides what holds of each agent ([`super::agent`]): what a run wrote, its turn and its audit come from one and the same call of the
//! model; the prompt of that call shows the conversation as all runs before it left it, and of each slot what the log had; the audit
//! gives the same prompt again, byte for byte; and no step of a run is asked for again once it was journaled.

use super::agent::{AgentCheck, Ended, Headers, Trigger, Written};
use super::approvals::{Questions, Settled};
use super::context::Context;
use super::memory::{Memory, Turn};
use super::model::{BOOK, Ledger, MARK, Used};
use super::{Class, ROWS, class_of};
use crate::naive::Raw;
use headwater_engine::agent::Agent;
use headwater_engine::audit;
use headwater_engine::replay::replay;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

/// What came of a topic since the last time, by the topic's name without the namespace.
pub type Read<'a> = &'a mut dyn FnMut(&str) -> Vec<Raw>;

pub struct Check {
    namespace: String,
    ledger: Ledger,
    /// The compiled agent, whose templates are rendered again.
    compiled: Agent,
    helper: AgentCheck,
    archive: AgentCheck,
    caller: AgentCheck,
    /// Keys of the journal that hold something.
    journal: HashSet<String>,
    memory: Memory,
    context: Context,
    questions: Questions,
    /// Runs whose slots were named as stale.
    pub stale: u64,
    /// Prompts that were rendered again.
    pub replayed: u64,
    /// Runs that needed more than one attempt.
    pub repeated: u64,
    /// Runs that asked the model for a repair.
    pub repaired: u64,
    /// Runs that called tools, and those of them that do not know what came of one.
    pub called: u64,
    pub unknown: u64,
    /// Calls that people approved, denied, or said nothing to.
    pub approved: u64,
    pub denied: u64,
    pub expired: u64,
}

impl Check {
    /// `helper`: the agent's configuration.
    pub fn new(namespace: &str, helper: &Value, ledger: Ledger) -> Self {
        let config = serde_json::from_value(helper.clone()).unwrap();
        Self {
            namespace: namespace.to_owned(),
            ledger,
            compiled: Agent::compile(&config).unwrap(),
            helper: AgentCheck::new(namespace, "helper", false),
            archive: AgentCheck::new(namespace, "archive", false),
            caller: AgentCheck::new(namespace, "caller", true),
            journal: HashSet::new(),
            memory: Memory::default(),
            context: Context::default(),
            questions: Questions::default(),
            stale: 0,
            replayed: 0,
            repeated: 0,
            repaired: 0,
            called: 0,
            unknown: 0,
            approved: 0,
            denied: 0,
            expired: 0,
        }
    }

    /// Reads what came, and compares. Says what is not there yet, where something is not.
    ///
    /// # Errors
    /// What is wrong for good.
    pub fn read(&mut self, read: Read<'_>) -> Result<Option<String>, String> {
        // What is caused before what it is caused by, so that each finds its cause.
        let archived = ["agent.archive.runs", "agent.archive.dead", "archive"].map(&mut *read);
        let called = ["agent.caller.runs", "agent.caller.dead", "called"].map(&mut *read);
        let runs = read("agent.helper.runs");
        for raw in read(super::APPROVALS) {
            self.questions.record(&raw).map_err(|wrong| {
                format!("approvals at {}-{}: {wrong}", raw.partition, raw.offset)
            })?;
        }
        let turns = read("agent.helper.conversation");
        let steps = read("agent.helper.journal");
        let letters = read("agent.helper.dead");
        let outputs = ["offers", "alarms", "answers"].map(|topic| (topic, read(topic)));
        for raw in read("questions") {
            self.question(&raw);
        }
        for raw in read("calls") {
            self.call(&raw);
        }
        read("facts").iter().for_each(|raw| self.context.fact(raw));
        read("notes").iter().for_each(|raw| self.context.note(raw));
        for raw in &runs {
            if let Some((trigger, record)) = self.helper.run(raw)? {
                let position = trigger.position.clone();
                self.ended(&trigger, &record, raw)
                    .map_err(|wrong| format!("the run of {position}: {wrong}: {record}"))?;
            }
        }
        for raw in &steps {
            let key = raw.key_text().to_owned();
            // How far partitions were read stays.
            if key.starts_with('\0') {
                continue;
            }
            match &raw.value {
                Some(_) => self.journal.insert(key),
                None => self.journal.remove(&key),
            };
        }
        for raw in &turns {
            self.memory.record(raw).map_err(|wrong| {
                format!("conversation at {}-{}: {wrong}", raw.partition, raw.offset)
            })?;
        }
        for raw in &letters {
            self.helper.letter(raw)?;
        }
        for (topic, records) in &outputs {
            for raw in records {
                self.helper
                    .output(&format!("{}.{topic}", self.namespace), raw)?;
                if *topic == "answers" {
                    let event = serde_json::from_slice(raw.value.as_deref().unwrap()).unwrap();
                    let key = Some(raw.key_text().to_owned());
                    self.archive
                        .trigger("answers", raw, key, Class::Done, event);
                }
            }
        }
        let n = |trigger: &Trigger| json!({"n": trigger.event["n"]});
        plainly(&self.namespace, &mut self.archive, "archive", &archived, n)?;
        let row = |trigger: &Trigger| {
            let row = trigger.key.as_deref().unwrap().strip_prefix("r-");
            let row: u64 = row.unwrap().parse().unwrap();
            json!({"n": trigger.event["n"], "row": row})
        };
        plainly(&self.namespace, &mut self.caller, "called", &called, row)?;
        if let Some(call) = self.ledger.repeated() {
            return Err(format!("a step was journaled, and done again: {call}"));
        }
        self.missing()
    }

    fn question(&mut self, raw: &Raw) {
        let bytes = raw.value.as_deref();
        let event: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(bytes).ok());
        let class = class_of(event.as_ref(), raw.value.is_none());
        let event = event.unwrap_or_default();
        let key = raw.key.as_ref().map(|_| raw.key_text().to_owned());
        self.helper.trigger("questions", raw, key, class, event);
    }

    /// A run for each row that there is; all were there before the first call.
    fn call(&mut self, raw: &Raw) {
        let event: Value = serde_json::from_slice(raw.value.as_deref().unwrap()).unwrap();
        for row in event["rows"].as_array().unwrap() {
            let key = row.as_str().unwrap();
            if (0..ROWS).any(|number| super::row(number) == key) {
                let key = Some(key.to_owned());
                self.caller
                    .trigger("calls", raw, key, Class::Done, event.clone());
            }
        }
    }

    /// What the record of a run says, and what the run should have left.
    fn ended(&mut self, trigger: &Trigger, record: &Value, raw: &Raw) -> Result<(), String> {
        let run = record["run"].as_str().unwrap();
        let mut headers = headers(&self.namespace, "helper", trigger);
        let event = &trigger.event;
        match trigger.class {
            Class::Ignored => return Err("nothing was to become of it".to_owned()),
            Class::Refused => {
                self.helper.dies(trigger, "NotJson");
                self.helper.leaves(run, nothing(headers));
                return same("reason", &record["failure"]["reason"], &json!("NotJson"));
            }
            Class::Skipped => {
                self.helper.leaves(run, nothing(headers));
                return same("prompt", &record["prompt"], &Value::Null);
            }
            Class::Done | Class::Failed => {}
        }
        if record["attempt"] != 1 {
            self.repeated += 1;
        }
        let hash = record["prompt"]["hash"].as_str().ok_or("no prompt")?;
        headers.prompt = Some(hash.to_owned());
        let user = self.prompt(trigger, record)?;
        self.replay(raw)?;
        let namespace = self.namespace.clone();
        let written = |topic: &str, key: &Value, value: Value| Written {
            topic: format!("{namespace}.{topic}"),
            key: key.as_str().unwrap().to_owned(),
            value,
        };
        let n = &event["n"];
        if trigger.class == Class::Failed {
            let value = json!({"n": n, "reason": "ModelFailed"});
            let outputs = vec![written("alarms", &event["to"], value)];
            self.helper.leaves(run, Ended { outputs, headers });
            self.helper.dies(trigger, "ModelFailed");
            return same(
                "reason",
                &record["failure"]["reason"],
                &json!("ModelFailed"),
            );
        }
        let answer = record["model"]["answer"].as_str().ok_or("no answer")?;
        let number = self.told(run, &event["kind"], answer, record)?;
        if event["kind"] == "book" || event["kind"] == "dear" {
            self.used(run, trigger, record)?;
        }
        let mut outputs = vec![written(
            "answers",
            &event["to"],
            json!({"n": n, "call": number}),
        )];
        outputs.extend(event["offers"].as_array().unwrap().iter().map(|offer| {
            let value = json!({"n": n, "offer": offer, "call": number});
            written("offers", offer, value)
        }));
        self.helper.leaves(run, Ended { outputs, headers });
        if let Some(customer) = &trigger.key {
            let turn = Turn {
                user,
                assistant: answer.to_owned(),
                run: run.to_owned(),
            };
            self.memory.say(customer, turn);
        }
        Ok(())
    }

    /// The prompt shows what was said before, and what the log had. Gives the user's message.
    fn prompt(&mut self, trigger: &Trigger, record: &Value) -> Result<String, String> {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let mut expected = vec![message("system", "You answer in one word.")];
        let past = trigger
            .key
            .as_deref()
            .map_or(&[][..], |key| self.memory.past(key));
        for turn in past {
            expected.push(message("user", &turn.user));
            expected.push(message("assistant", &turn.assistant));
        }
        let messages = record["prompt"]["messages"]
            .as_array()
            .ok_or("no messages")?;
        let (last, before) = messages.split_last().ok_or("no messages")?;
        same("what was said before", &json!(before), &json!(expected))?;
        let user = last["content"].as_str().unwrap().to_owned();
        let event = &trigger.event;
        let kind = event["kind"].as_str().unwrap();
        let rest = user
            .strip_prefix(&format!("n={} kind={kind} fact=", event["n"]))
            .ok_or("the prompt is not of its question")?;
        let (fact, note) = rest.split_once(" note=").ok_or("the prompt has no note")?;
        let seen = event["seen"].as_u64().unwrap();
        let slots = record["slots"].as_array().unwrap();
        let mut is_stale = false;
        for (slot, name, source, key, shown) in [
            (&slots[0], "fact", "facts", &event["fact"], fact),
            (&slots[1], "note", "notes", &event["customer"], note),
        ] {
            same("slot", &slot["slot"], &json!(name))?;
            self.context
                .check(slot, source, key.as_str().unwrap(), seen, shown)?;
            is_stale |= slot["behind"].as_array().is_some_and(|it| !it.is_empty());
        }
        self.stale += u64::from(is_stale);
        Ok(user)
    }

    /// The answer is of this run's last call, and that had the recorded prompt. Gives what the answer says.
    fn told(
        &mut self,
        run: &str,
        kind: &Value,
        answer: &str,
        record: &Value,
    ) -> Result<Value, String> {
        let call = self.ledger.call(answer).ok_or("nobody gave this answer")?;
        let is_repaired = kind == "unfit";
        // The step, and how often the model was asked until then.
        let (step, count) = match kind.as_str() {
            Some("unfit") => (2, 2),
            // Results are a step too.
            Some("book" | "dear") => (3, 2),
            _ => (1, 1),
        };
        same("step", &json!(call.key), &json!(format!("{run}-{step}")))?;
        let asked = record["prompt"]["messages"].as_array().unwrap();
        let (first, repair) = call.messages.split_at(asked.len().min(call.messages.len()));
        same("messages", &json!(first), &json!(asked))?;
        let calls = record["model"]["calls"].as_array().unwrap();
        same("calls", &json!(calls.len()), &json!(count))?;
        if is_repaired {
            self.repaired += 1;
            let rejected = calls[0]["answer"].as_str().ok_or("no rejected answer")?;
            same("what is repaired", &repair[0]["content"], &json!(rejected))?;
            let before = self.ledger.call(rejected);
            let before = before.ok_or("nobody said what is repaired")?;
            same(
                "step before",
                &json!(before.key),
                &json!(format!("{run}-1")),
            )?;
            same("messages before", &json!(before.messages), &json!(asked))?;
        }
        let answer: Value = serde_json::from_str(answer).map_err(|it| it.to_string())?;
        Ok(answer["call"].clone())
    }

    /// What is told of calls is what the tools were asked: one at most where it must not be twice.
    fn used(&mut self, run: &str, trigger: &Trigger, record: &Value) -> Result<(), String> {
        let event = &trigger.event;
        let calls = record["calls"].as_array().ok_or("no calls")?;
        let mut is_unknown = false;
        for (place, name) in (1..).zip([BOOK, MARK]) {
            let call = &calls[place - 1];
            same("tool", &call["tool"], &json!(name))?;
            let arguments = json!({"n": event["n"], "customer": event["customer"]});
            same("arguments", &call["arguments"], &arguments)?;
            let used = self.ledger.used(&format!("{run}-1-{place}"));
            if let Some(other) = used
                .iter()
                .find(|it| it.tool != name || it.arguments != arguments)
            {
                return Err(format!("its tool was called otherwise: {other:?}"));
            }
            if name == BOOK && used.len() > 1 {
                return Err(format!("it was booked more than once: {used:?}"));
            }
            if name == BOOK && event["kind"] == "dear" {
                let id = format!("{run}-1-{place}");
                let settled = self
                    .questions
                    .settled(&id, trigger.partition, run, &arguments)?;
                let by = match settled {
                    Settled::Approved { by } => {
                        self.approved += 1;
                        json!(by)
                    }
                    Settled::Denied | Settled::Expired => {
                        same("outcome", &call["outcome"], &json!("Denied"))?;
                        if !used.is_empty() {
                            return Err(format!("it was booked against the answer: {used:?}"));
                        }
                        let is_late = settled == Settled::Expired;
                        self.expired += u64::from(is_late);
                        self.denied += u64::from(!is_late);
                        let told = call["result"].as_str().unwrap_or_default();
                        let said = if is_late {
                            "in time"
                        } else {
                            "person-0 denied"
                        };
                        if !told.contains(said) {
                            return Err(format!("it was told '{told}', and not '{said}'"));
                        }
                        continue;
                    }
                };
                // Nobody knows of a call that was left open, and so not who approved it either.
                if call["outcome"] == "Done" {
                    same("who approved", &call["approvedBy"], &by)?;
                }
            }
            match call["outcome"].as_str() {
                Some("Done") => {
                    let number = call["result"]["number"].as_u64();
                    let is_one = |it: &Used| number == u64::try_from(it.number).ok();
                    if !used.iter().any(is_one) {
                        return Err(format!("no call gave what is told of {name}: {used:?}"));
                    }
                }
                Some("Unknown") if name == BOOK => is_unknown = true,
                other => return Err(format!("{name} came to {other:?}")),
            }
        }
        self.called += 1;
        self.unknown += u64::from(is_unknown);
        same("number of calls", &json!(calls.len()), &json!(2))
    }

    /// The record gives its prompt again.
    fn replay(&mut self, raw: &Raw) -> Result<(), String> {
        let record = audit::Record::read(raw.value.as_deref().unwrap());
        let record = record.map_err(|fault| format!("it cannot be read: {fault}"))?;
        let replayed = replay(&self.compiled, &record);
        replayed.map_err(|refusal| format!("it cannot be replayed: {refusal}"))?;
        self.replayed += 1;
        Ok(())
    }

    fn missing(&mut self) -> Result<Option<String>, String> {
        for agent in [&mut self.helper, &mut self.archive, &mut self.caller] {
            if let Some(missing) = agent.missing()? {
                return Ok(Some(missing));
            }
            if let Some(stray) = agent.strays() {
                return Err(format!("{stray} is a dead letter, and should be none"));
            }
        }
        if let Some(key) = self.journal.iter().next() {
            return Ok(Some(format!("the journal still has {key}")));
        }
        Ok(self.memory.missing())
    }

    /// Runs that ended.
    pub fn progress(&self) -> u64 {
        let counts = [&self.helper, &self.archive, &self.caller]
            .map(|agent| agent.counts.values().sum::<u64>());
        counts.iter().sum()
    }

    /// How runs ended, by agent.
    pub fn counts(&self) -> HashMap<&'static str, super::agent::Counts> {
        HashMap::from([
            ("helper", self.helper.counts.clone()),
            ("archive", self.archive.counts.clone()),
            ("caller", self.caller.counts.clone()),
        ])
    }
}

/// An agent without a model, whose runs all write one record.
fn plainly(
    namespace: &str,
    agent: &mut AgentCheck,
    topic: &str,
    [runs, letters, outputs]: &[Vec<Raw>; 3],
    value: impl Fn(&Trigger) -> Value,
) -> Result<(), String> {
    let topic = format!("{namespace}.{topic}");
    for raw in runs {
        let Some((trigger, record)) = agent.run(raw)? else {
            continue;
        };
        let outputs = vec![Written {
            topic: topic.clone(),
            key: trigger.key.clone().unwrap(),
            value: value(&trigger),
        }];
        let headers = headers(namespace, agent.name, &trigger);
        let run = record["run"].as_str().unwrap();
        agent.leaves(run, Ended { outputs, headers });
    }
    letters.iter().try_for_each(|raw| agent.letter(raw))?;
    let mut outputs = outputs.iter();
    outputs.try_for_each(|raw| agent.output(&topic, raw))
}

fn headers(namespace: &str, agent: &str, trigger: &Trigger) -> Headers {
    Headers {
        trigger: trigger.position.clone(),
        root: trigger.root.clone(),
        hops: trigger.hops.to_string(),
        agent: format!("{namespace}/{agent}"),
        prompt: None,
    }
}

fn nothing(headers: Headers) -> Ended {
    Ended {
        outputs: Vec::new(),
        headers,
    }
}

fn same(what: &str, found: &Value, expected: &Value) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found}, and should be {expected}"))
}
