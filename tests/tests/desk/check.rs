//! The desk's topics, as a plain reader of committed records has them, against all that is promised of runs.
//!
//! Besides what holds of each agent ([`super::agent`]): what a run wrote, its turn and its audit come from one and the same call of the
//! model; the prompt of that call shows the conversation as all runs before it left it, and of each slot what the log had; and the audit
//! gives the same prompt again, byte for byte.

use super::agent::{AgentCheck, Ended, Headers, Trigger, Written};
use super::context::Context;
use super::memory::{Memory, Turn};
use super::model::Ledger;
use super::{Class, class_of};
use crate::naive::Raw;
use headwater_engine::agent::Agent;
use serde_json::{Value, json};
use std::collections::HashMap;

/// What came of a topic since the last time, by the topic's name without the namespace.
pub type Read<'a> = &'a mut dyn FnMut(&str) -> Vec<Raw>;

pub struct Check {
    namespace: String,
    ledger: Ledger,
    /// The compiled agent, whose templates are rendered again.
    compiled: Agent,
    helper: AgentCheck,
    archive: AgentCheck,
    memory: Memory,
    context: Context,
    /// Runs whose slots were named as stale.
    pub stale: u64,
    /// Prompts that were rendered again.
    pub replayed: u64,
    /// Runs that needed more than one attempt.
    pub repeated: u64,
}

impl Check {
    /// `helper`: the agent's configuration.
    pub fn new(namespace: &str, helper: &Value, ledger: Ledger) -> Self {
        let config = serde_json::from_value(helper.clone()).unwrap();
        Self {
            namespace: namespace.to_owned(),
            ledger,
            compiled: Agent::compile(&config).unwrap(),
            helper: AgentCheck::new(namespace, "helper"),
            archive: AgentCheck::new(namespace, "archive"),
            memory: Memory::default(),
            context: Context::default(),
            stale: 0,
            replayed: 0,
            repeated: 0,
        }
    }

    /// Reads what came, and compares. Says what is not there yet, where something is not.
    ///
    /// # Errors
    /// What is wrong for good.
    pub fn read(&mut self, read: Read<'_>) -> Result<Option<String>, String> {
        // What is caused before what it is caused by, so that each finds its cause.
        let archived = (
            read("agent.archive.runs"),
            read("agent.archive.dead"),
            read("archive"),
        );
        let runs = read("agent.helper.runs");
        let turns = read("agent.helper.conversation");
        let letters = read("agent.helper.dead");
        let outputs = ["offers", "alarms", "answers"].map(|topic| (topic, read(topic)));
        for raw in read("questions") {
            self.question(&raw);
        }
        read("facts").iter().for_each(|raw| self.context.fact(raw));
        read("notes").iter().for_each(|raw| self.context.note(raw));
        for raw in &runs {
            if let Some((trigger, record)) = self.helper.run(raw)? {
                let position = trigger.position.clone();
                self.ended(&trigger, &record)
                    .map_err(|wrong| format!("the run of {position}: {wrong}: {record}"))?;
            }
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
                    self.archive.trigger("answers", raw, Class::Done, event);
                }
            }
        }
        self.archived(&archived.0, &archived.1, &archived.2)?;
        self.missing()
    }

    fn question(&mut self, raw: &Raw) {
        let bytes = raw.value.as_deref();
        let event: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(bytes).ok());
        let class = class_of(event.as_ref(), raw.value.is_none());
        let event = event.unwrap_or_default();
        self.helper.trigger("questions", raw, class, event);
    }

    /// What the record of a run says, and what the run should have left.
    fn ended(&mut self, trigger: &Trigger, record: &Value) -> Result<(), String> {
        let run = record["run"].as_str().unwrap();
        let mut headers = self.headers("helper", trigger);
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
        self.replay(record)?;
        let written = |topic: &str, key: &Value, value: Value| Written {
            topic: format!("{}.{topic}", self.namespace),
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
        let call = self.ledger.call(answer).ok_or("nobody gave this answer")?;
        if call.key.rsplit_once('-').map(|it| it.0) != Some(run) {
            return Err(format!("its answer is of another run's call, {}", call.key));
        }
        same(
            "messages",
            &record["prompt"]["messages"],
            &json!(call.messages),
        )?;
        let mut outputs = vec![written(
            "answers",
            &event["to"],
            json!({"n": n, "text": answer}),
        )];
        outputs.extend(event["offers"].as_array().unwrap().iter().map(|offer| {
            let value = json!({"n": n, "offer": offer, "text": answer});
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

    /// The recorded input gives the recorded prompt.
    fn replay(&mut self, record: &Value) -> Result<(), String> {
        let prompt = self.compiled.prompt().unwrap();
        let (messages, hash) = prompt
            .replay(&record["input"])
            .map_err(|fault| format!("it cannot be rendered again: {fault}"))?;
        same(
            "rendered again",
            &json!(&*messages),
            &record["prompt"]["messages"],
        )?;
        same(
            "hash of what was rendered again",
            &json!(hash),
            &record["prompt"]["hash"],
        )?;
        self.replayed += 1;
        Ok(())
    }

    fn archived(&mut self, runs: &[Raw], letters: &[Raw], outputs: &[Raw]) -> Result<(), String> {
        for raw in runs {
            let Some((trigger, record)) = self.archive.run(raw)? else {
                continue;
            };
            let value = json!({"n": trigger.event["n"]});
            let outputs = vec![Written {
                topic: format!("{}.archive", self.namespace),
                key: trigger.key.clone().unwrap(),
                value,
            }];
            let headers = self.headers("archive", &trigger);
            let run = record["run"].as_str().unwrap();
            self.archive.leaves(run, Ended { outputs, headers });
        }
        letters
            .iter()
            .try_for_each(|raw| self.archive.letter(raw))?;
        let topic = format!("{}.archive", self.namespace);
        outputs
            .iter()
            .try_for_each(|raw| self.archive.output(&topic, raw))
    }

    fn headers(&self, agent: &str, trigger: &Trigger) -> Headers {
        Headers {
            trigger: trigger.position.clone(),
            root: trigger.root.clone(),
            hops: trigger.hops.to_string(),
            agent: format!("{}/{agent}", self.namespace),
            prompt: None,
        }
    }

    fn missing(&mut self) -> Result<Option<String>, String> {
        for agent in [&mut self.helper, &mut self.archive] {
            if let Some(missing) = agent.missing()? {
                return Ok(Some(missing));
            }
            if let Some(stray) = agent.strays() {
                return Err(format!("{stray} is a dead letter, and should be none"));
            }
        }
        Ok(self.memory.missing())
    }

    /// How runs ended, by agent.
    pub fn counts(&self) -> HashMap<&'static str, super::agent::Counts> {
        HashMap::from([
            ("helper", self.helper.counts.clone()),
            ("archive", self.archive.counts.clone()),
        ])
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
