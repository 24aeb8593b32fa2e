//! What the topics of one agent have to say, against the triggers that it had.
//!
//! - Each trigger that the filter lets pass has exactly one record of how its run ended, and the end is the right one.
//! - The runs of a key end in the order of their triggers.
//! - What a run wrote is all there, once, and nothing else is: outputs by their headers, dead letters by their position.

use super::Class;
use crate::naive::Raw;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A record that should start a run, or be refused.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// Which of the runs of its record: the position, and the key where there may be several.
    id: String,
    pub position: String,
    pub partition: i32,
    pub offset: i64,
    /// Of the run, which is the record's.
    pub key: Option<String>,
    pub class: Class,
    /// Null where it is no event.
    pub event: Value,
    pub value: Option<Vec<u8>>,
    pub root: String,
    pub hops: u32,
}

/// An output, or a dead letter without its headers.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    pub topic: String,
    pub key: String,
    pub value: Value,
}

/// What the headers of a run's outputs have to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Headers {
    pub trigger: String,
    pub root: String,
    pub hops: String,
    pub agent: String,
    pub prompt: Option<String>,
}

/// What a run that ended should have left.
pub struct Ended {
    pub outputs: Vec<Written>,
    pub headers: Headers,
}

/// How often runs ended in which way.
pub type Counts = BTreeMap<String, u64>;

pub struct AgentCheck {
    pub name: &'static str,
    namespace: String,
    /// Runs start from an input log of its own, and a record may start several, each with its key.
    fans_out: bool,
    /// By id, in no record yet.
    waiting: HashMap<String, Trigger>,
    ended: HashSet<String>,
    runs: HashSet<String>,
    /// By run: outputs that are still to be seen, or compared.
    left: HashMap<String, Ended>,
    seen: HashMap<String, Vec<(Written, Headers)>>,
    /// Partitions of the runs of a key.
    homes: HashMap<String, i32>,
    /// By position: the key of its run, where it has one.
    keys: HashMap<String, Option<String>>,
    /// The last trigger of a key whose run ended, and whose output was seen, by topic.
    last: HashMap<(String, i32, String), i64>,
    /// By position: reason and bytes of dead letters that are to come.
    dead: HashMap<String, (String, Option<Vec<u8>>)>,
    /// By position: reason and bytes of those that came.
    letters: HashMap<String, (String, Option<Vec<u8>>)>,
    pub counts: Counts,
}

impl AgentCheck {
    pub fn new(namespace: &str, name: &'static str, fans_out: bool) -> Self {
        Self {
            name,
            fans_out,
            namespace: namespace.to_owned(),
            waiting: HashMap::new(),
            ended: HashSet::new(),
            runs: HashSet::new(),
            left: HashMap::new(),
            seen: HashMap::new(),
            keys: HashMap::new(),
            homes: HashMap::new(),
            last: HashMap::new(),
            dead: HashMap::new(),
            letters: HashMap::new(),
            counts: Counts::new(),
        }
    }

    pub fn topic(&self, part: &str) -> String {
        format!("{}.agent.{}.{part}", self.namespace, self.name)
    }

    /// Takes note of a record of the trigger's topic, and of the key of the run that it should start.
    pub fn trigger(
        &mut self,
        source: &str,
        raw: &Raw,
        key: Option<String>,
        class: Class,
        event: Value,
    ) {
        if class == Class::Ignored {
            return;
        }
        let header = |name: &str| {
            let bytes = raw.header(name)?;
            Some(std::str::from_utf8(bytes).unwrap().to_owned())
        };
        let position = format!(
            "{}.{source}-{}-{}",
            self.namespace, raw.partition, raw.offset
        );
        let trigger = Trigger {
            root: header("headwater-root").unwrap_or_else(|| position.clone()),
            hops: header("headwater-hops").map_or(1, |it| it.parse::<u32>().unwrap() + 1),
            partition: raw.partition,
            offset: raw.offset,
            id: self.id(&position, key.as_deref()),
            key,
            class,
            event,
            value: raw.value.clone(),
            position: position.clone(),
        };
        self.keys.insert(position, trigger.key.clone());
        self.waiting.insert(trigger.id.clone(), trigger);
    }

    fn id(&self, position: &str, key: Option<&str>) -> String {
        match key.filter(|_| self.fans_out) {
            Some(key) => format!("{position} {key}"),
            None => position.to_owned(),
        }
    }

    /// Takes a record of how a run ended, if it is one. What it should have left is the caller's to say ([`AgentCheck::leaves`]).
    ///
    /// # Errors
    /// A second record of a trigger, one of none, and an end that is not the right one.
    pub fn run(&mut self, raw: &Raw) -> Result<Option<(Trigger, Value)>, String> {
        let record: Value = serde_json::from_slice(raw.value.as_deref().unwrap()).unwrap();
        // Others say where the agent stands.
        let Some(outcome) = record["outcome"].as_str() else {
            return Ok(None);
        };
        let position = record["trigger"]["position"].as_str().unwrap();
        let at = format!("{} at {}-{}", self.topic("runs"), raw.partition, raw.offset);
        let id = self.id(position, record["trigger"]["key"].as_str());
        let Some(trigger) = self.waiting.remove(&id) else {
            let what = if self.ended.contains(&id) {
                "ended a second time"
            } else {
                "was none"
            };
            return Err(format!("{at}: the trigger {id} {what}: {record}"));
        };
        self.ended.insert(id);
        let expected = match trigger.class {
            Class::Skipped => "Skipped",
            Class::Done => "Done",
            Class::Failed | Class::Refused | Class::Ignored => "Failed",
        };
        if outcome != expected {
            return Err(format!("{at}: it should have ended {expected}: {record}"));
        }
        *self.counts.entry(outcome.to_owned()).or_default() += 1;
        let run = record["run"].as_str().unwrap();
        // With an input log, the runs are where its records are: one place for each key.
        let home = match &trigger.key {
            Some(key) if self.fans_out => *self.homes.entry(key.clone()).or_insert(raw.partition),
            _ => trigger.partition,
        };
        if raw.key_text() != run || raw.partition != home {
            return Err(format!("{at}: not the place of run {run}"));
        }
        if !self.runs.insert(run.to_owned()) {
            return Err(format!("{at}: run {run} is two triggers'"));
        }
        if trigger.class != Class::Refused {
            self.in_order(
                "runs",
                trigger.partition,
                trigger.key.as_deref(),
                trigger.offset,
            )
            .map_err(|wrong| format!("{at}: {wrong}"))?;
        }
        Ok(Some((trigger, record)))
    }

    /// Says what a run should have left, and what of it is in the dead letters.
    pub fn leaves(&mut self, run: &str, ended: Ended) {
        self.left.insert(run.to_owned(), ended);
    }

    /// Says that a trigger should be in the dead letters.
    pub fn dies(&mut self, trigger: &Trigger, reason: &str) {
        let letter = (reason.to_owned(), trigger.value.clone());
        self.dead.insert(trigger.position.clone(), letter);
    }

    /// Takes an output.
    ///
    /// # Errors
    /// One that comes before another of its key.
    pub fn output(&mut self, topic: &str, raw: &Raw) -> Result<(), String> {
        let header = |name: &str| {
            let bytes = raw.header(&format!("headwater-{name}"))?;
            Some(std::str::from_utf8(bytes).unwrap().to_owned())
        };
        let at = format!("{topic} at {}-{}", raw.partition, raw.offset);
        let needed = |name: &str| header(name).ok_or_else(|| format!("{at}: no header {name}"));
        let written = Written {
            topic: topic.to_owned(),
            key: raw.key_text().to_owned(),
            value: serde_json::from_slice(raw.value.as_deref().unwrap()).unwrap(),
        };
        let headers = Headers {
            trigger: needed("trigger")?,
            root: needed("root")?,
            hops: needed("hops")?,
            agent: needed("agent")?,
            prompt: header("prompt"),
        };
        // Only where the run's key is the output's do all of one key meet in one partition.
        let key = if self.fans_out {
            Some(written.key.clone())
        } else {
            self.keys.get(&headers.trigger).cloned().flatten()
        };
        if key.as_deref() == Some(&written.key) {
            let (place, offset) = headers.trigger.rsplit_once('-').unwrap();
            let partition = place.rsplit_once('-').unwrap().1.parse().unwrap();
            self.in_order(topic, partition, key.as_deref(), offset.parse().unwrap())
                .map_err(|wrong| format!("{at}: {wrong}"))?;
        }
        let run = needed("run")?;
        self.seen.entry(run).or_default().push((written, headers));
        Ok(())
    }

    /// `partition` is the trigger's: only within it have a key's triggers an order.
    fn in_order(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&str>,
        offset: i64,
    ) -> Result<(), String> {
        let Some(key) = key else { return Ok(()) };
        let lane = (topic.to_owned(), partition, key.to_owned());
        match self.last.insert(lane, offset) {
            Some(before) if before >= offset => Err(format!(
                "key '{key}': the trigger at offset {offset} comes after the one at {before}"
            )),
            _ => Ok(()),
        }
    }

    /// Takes a dead letter.
    ///
    /// # Errors
    /// A second one of a trigger.
    pub fn letter(&mut self, raw: &Raw) -> Result<(), String> {
        let position = raw.key_text().to_owned();
        let reason = raw.header("headwater-reason").unwrap();
        let letter = (
            String::from_utf8(reason.to_vec()).unwrap(),
            raw.value.clone(),
        );
        match self.letters.insert(position.clone(), letter) {
            None => Ok(()),
            Some(_) => Err(format!("{position} is a dead letter twice")),
        }
    }

    /// Compares what came with what should; forgets what is well.
    ///
    /// # Errors
    /// What is there and should not be.
    pub fn missing(&mut self) -> Result<Option<String>, String> {
        let runs: Vec<String> = self.left.keys().cloned().collect();
        for run in runs {
            let ended = &self.left[&run];
            let seen = self.seen.get(&run).map_or(&[][..], |it| it);
            if let Some((_, headers)) = seen.iter().find(|(_, it)| *it != ended.headers) {
                let expected = &ended.headers;
                return Err(format!(
                    "run {run} has {headers:?}, and should have {expected:?}"
                ));
            }
            let sorted = |mut all: Vec<Written>| {
                all.sort_by(|one, other| (&one.topic, &one.key).cmp(&(&other.topic, &other.key)));
                all
            };
            let found = sorted(seen.iter().map(|(it, _)| it.clone()).collect());
            let expected = sorted(ended.outputs.clone());
            if found == expected {
                self.left.remove(&run);
                self.seen.remove(&run);
            } else if found.len() < expected.len() && found.iter().all(|it| expected.contains(it)) {
                return Ok(Some(format!(
                    "run {run} has written {found:?} of {expected:?}"
                )));
            } else {
                return Err(format!(
                    "run {run} has written {found:?}, and should {expected:?}"
                ));
            }
        }
        for (position, letter) in &self.letters {
            if let Some(expected) = self.dead.remove(position)
                && *letter != expected
            {
                return Err(format!(
                    "the dead letter of {position} is {letter:?}, not {expected:?}"
                ));
            }
        }
        if let Some(trigger) = self
            .waiting
            .values()
            .min_by_key(|it| (it.partition, it.offset))
        {
            let count = self.waiting.len();
            return Ok(Some(format!(
                "{count} triggers have not ended, as {trigger:?}"
            )));
        }
        if let Some((run, outputs)) = self.seen.iter().next() {
            if self.runs.contains(run) {
                return Err(format!(
                    "run {run} has written {outputs:?} besides what it should"
                ));
            }
            return Ok(Some(format!(
                "run {run} has written {outputs:?} and not ended"
            )));
        }
        if let Some(position) = self.dead.keys().next() {
            return Ok(Some(format!("{position} is not among the dead letters")));
        }
        Ok(None)
    }

    /// Dead letters of what should have none.
    pub fn strays(&self) -> Option<&String> {
        self.letters.keys().find(|it| !self.ended.contains(*it))
    }
}
