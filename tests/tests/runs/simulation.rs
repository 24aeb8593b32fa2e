//! The desk on a memory log, in one process: replicas of its agents and views that crash, hang and come back, and the model.

use crate::desk;
use crate::desk::agent::Counts;
use crate::desk::check::Check;
use crate::desk::model::{Ledger, Process, Verdict};
use crate::draw::Draw;
use crate::naive::Raw;
use crate::simulated::chaos::Fates;
use crate::simulated::{self, DEADLINE, Fleet};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::agent::Listed;
use headwater_engine::model::{Reply, Request, Said, ToolCall};
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_runtime::backoff::Random;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::log::{Log as _, Offsets as _, TopicSpec};
use headwater_runtime::metrics::Metrics;
use headwater_runtime::model::{Client, Error, Model, Provider};
use headwater_runtime::stage::{self, Handle, Services};
use headwater_runtime::tools::{self, Answer, Server};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "desk";
/// Records of the applications.
const RECORDS: u64 = 400;
/// How long people have to answer.
const APPROVAL_MS: u64 = 150;
/// Stage, and its replicas.
const PLACES: [(&str, u32); 5] = [
    ("helper", 3),
    ("archive", 1),
    ("caller", 2),
    ("facts", 1),
    ("notes", 2),
];

pub struct Outcome {
    pub counts: HashMap<&'static str, Counts>,
    pub replayed: u64,
    pub stale: u64,
    pub repaired: u64,
    /// Of the model, and those that were answered again.
    pub calls: (usize, usize),
    /// Runs that called tools, and those that do not know what came of it.
    pub called: (u64, u64),
    /// Calls that people approved, denied, or said nothing to.
    pub settled: [u64; 3],
    pub fates: Arc<Fates>,
}

pub async fn check(seed: u64) -> Outcome {
    let mut draw = Draw::new(seed ^ 0x0007_0257);
    let memory = simulated::memory();
    create(&memory);
    simulated::late_markers(&memory, seed);
    let ledger = Ledger::default();
    let places: Vec<(&str, u32)> = PLACES
        .iter()
        .flat_map(|(name, count)| (0..*count).map(move |ordinal| (*name, ordinal)))
        .collect();
    let start = |place: usize, services| {
        let (name, ordinal) = places[place];
        start(name, ordinal, services, ledger.process(), seed)
    };
    let mut fleet = Fleet::new(&memory, seed, places.len(), Box::new(start));
    for (place, (_, ordinal)) in places.iter().enumerate() {
        if *ordinal == 0 {
            fleet.start(place);
        }
    }
    let (mut number, mut acknowledged) = (0, 0);
    let mut people = BTreeMap::new();
    while number < RECORDS {
        let count = 1 + draw.below(12) as u64;
        let batch: Vec<_> = (number + 1..=number + count)
            .map(|n| record(desk::event(&mut draw, n, acknowledged)))
            .collect();
        number += count;
        let below = &mut |end| draw.below(end);
        simulated::write(&memory, &batch, below).await;
        acknowledged = number;
        for _ in 0..below(6) {
            fleet.act(below).await;
            answer(&memory, &mut people);
            tokio::time::sleep(Duration::from_micros(below(8_000) as u64)).await;
        }
    }
    fleet.calm().await;
    let mut check = Check::new(NAMESPACE, &config("helper"), ledger.clone());
    let mut next = BTreeMap::new();
    let answering = &mut || answer(&memory, &mut people);
    settle(
        "calm", &mut fleet, &memory, &mut check, &mut next, seed, answering,
    )
    .await;
    fleet.end().await;
    // Who ends in order writes nothing that should not be.
    simulated::markers_in_time(&memory).await;
    settle(
        "ended", &mut fleet, &memory, &mut check, &mut next, seed, answering,
    )
    .await;
    Outcome {
        counts: check.counts(),
        replayed: check.replayed,
        stale: check.stale,
        repaired: check.repaired,
        calls: ledger.counts(),
        called: (check.called, check.unknown),
        settled: [check.approved, check.denied, check.expired],
        fates: Arc::clone(&fleet.fates),
    }
}

/// Waits until every topic says what it should. Panics where one says what it should not.
async fn settle(
    when: &str,
    fleet: &mut Fleet<'_>,
    memory: &Memory,
    check: &mut Check,
    next: &mut BTreeMap<(String, i32), i64>,
    seed: u64,
    answer: &mut (dyn FnMut() + Send),
) {
    let begun = Instant::now();
    let nobody = fleet.handles().next().is_none();
    loop {
        let found = check
            .read(&mut |topic| read(memory, topic, next))
            .map(|missing| missing.or_else(|| uncommitted(memory, next, nobody)));
        let Some(missing) = found.unwrap_or_else(|wrong| panic!("seed {seed}, {when}: {wrong}"))
        else {
            return;
        };
        assert!(
            begun.elapsed() < DEADLINE,
            "seed {seed}, {when}: after {DEADLINE:?}: {missing}: {}",
            fleet.statuses()
        );
        answer();
        fleet.supervise().await;
        // Each look reads all topics whole.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// People answer what they were asked since the last call.
fn answer(memory: &Memory, next: &mut BTreeMap<(String, i32), i64>) {
    let topic = format!("{NAMESPACE}.{}", desk::APPROVALS);
    let asked = read(memory, desk::APPROVALS, next);
    // The log's clock runs fast, and the stages' does not.
    let now = jiff::Timestamp::now().as_millisecond();
    let answers: Vec<_> = asked
        .iter()
        .flat_map(|raw| desk::approvals::answers(&topic, raw))
        .map(|answer| NewRecord {
            timestamp: Some(now),
            ..answer
        })
        .collect();
    if !answers.is_empty() {
        memory.writer().unwrap().write(&answers).unwrap();
    }
}

/// Every committed record of a topic that was not read before.
fn read(memory: &Memory, topic: &str, next: &mut BTreeMap<(String, i32), i64>) -> Vec<Raw> {
    let mut all = Vec::new();
    memory
        .dump(&format!("{NAMESPACE}.{topic}"), |record| {
            let place = (topic.to_owned(), record.partition);
            let next = next.entry(place).or_default();
            if record.offset < *next {
                return;
            }
            *next = record.offset + 1;
            all.push(simulated::raw(record));
        })
        .unwrap();
    all
}

/// At rest the groups' offsets are at the ends of their topics. Where `nobody` is there any more they are past the last
/// record that a reader saw: what a replica that had been replaced aborts behind it may come too late to be passed by.
fn uncommitted(
    memory: &Memory,
    next: &BTreeMap<(String, i32), i64>,
    nobody: bool,
) -> Option<String> {
    desk::GROUPS.into_iter().find_map(|(group, source)| {
        let topic = format!("{NAMESPACE}.{source}");
        let info = memory.topics(std::slice::from_ref(&topic)).unwrap();
        let partitions: Vec<_> = (0..info[0].as_ref().unwrap().partitions)
            .map(|it| TopicPartition::new(topic.as_str(), it))
            .collect();
        let ends = memory.ends(&partitions).unwrap();
        let group = format!("{NAMESPACE}.{group}");
        let committed = memory.committed(&group, &partitions).unwrap();
        let lacks = partitions.iter().zip(&ends).any(|(at, end)| {
            let found = committed[at].as_ref().map_or(0, |at| at.offset);
            let seen = next.get(&(source.to_owned(), at.partition));
            if nobody {
                found < seen.copied().unwrap_or(0)
            } else {
                found != *end
            }
        });
        lacks.then(|| format!("{group} has committed {committed:?} of {ends:?}"))
    })
}

fn create(memory: &Memory) {
    let spec = |(name, partitions, compacted): (String, i32, bool)| TopicSpec {
        name,
        partitions,
        replication_factor: Some(1),
        config: if compacted {
            BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())])
        } else {
            BTreeMap::new()
        },
    };
    let topics: Vec<_> = desk::topics(NAMESPACE).into_iter().map(spec).collect();
    memory.create(&topics).unwrap();
}

fn config(name: &str) -> Value {
    let (kafka, provider) = (json!({}), json!({"scripted": {"rules": []}}));
    match name {
        "helper" => {
            let tools = json!({"scripted": {"tools": []}});
            let mut helper = desk::helper(NAMESPACE, &kafka, &provider, &tools);
            helper["role"]["agent"]["tools"]["approval"]["timeoutMs"] = json!(APPROVAL_MS);
            helper
        }
        "archive" => desk::archive(NAMESPACE, &kafka),
        "caller" => desk::caller(NAMESPACE, &kafka),
        view => desk::view(NAMESPACE, &kafka, view),
    }
}

fn start(name: &str, ordinal: u32, services: Services, process: Process, seed: u64) -> Handle {
    let tools: Arc<dyn Server> = Arc::new(Tools(process.clone(), Random::seeded(seed)));
    let services = Services {
        models: BTreeMap::from([("chat".to_owned(), model(process, seed))]),
        tool_servers: BTreeMap::from([("desk".to_owned(), tools)]),
        ..services
    };
    let config = serde_json::from_value(config(name)).unwrap();
    stage::start(config, ordinal, services).unwrap()
}

fn record((source, key, value): (&'static str, Option<String>, Option<String>)) -> NewRecord {
    NewRecord {
        topic: format!("{NAMESPACE}.{source}"),
        key: key.map(String::into_bytes),
        value: value.map(String::into_bytes),
        ..NewRecord::default()
    }
}

/// With the retries of a model's configuration.
fn model(process: Process, seed: u64) -> Arc<dyn Model> {
    let agent = &config("helper")["role"]["agent"];
    let config = serde_json::from_value(agent["model"].clone()).unwrap();
    let metrics = Arc::new(Metrics::new());
    let provider = Box::new(Desk(process));
    Arc::new(Client::new(
        &config,
        provider,
        Random::seeded(seed),
        metrics,
    ))
}

/// The desk's tools, which take their time.
struct Tools(Process, Random);

impl Server for Tools {
    fn list(
        &self,
        _within: Duration,
    ) -> BoxFuture<'_, Result<BTreeMap<String, Listed>, tools::Error>> {
        let listed = desk::listed().map(|(name, description, schema)| {
            let description = description.to_owned();
            (
                name.to_owned(),
                Listed {
                    description,
                    schema,
                },
            )
        });
        std::future::ready(Ok(listed.into())).boxed()
    }

    fn call<'a>(
        &'a self,
        tool: &'a str,
        arguments: &'a Map<String, Value>,
        key: &'a str,
        _within: Duration,
    ) -> BoxFuture<'a, Result<Answer, tools::Error>> {
        async move {
            let wait = || Duration::from_micros(self.1.next() % 4_000);
            tokio::time::sleep(wait()).await;
            let result = self.0.call(key, tool, &json!(arguments));
            tokio::time::sleep(wait()).await;
            Ok(Answer {
                result,
                failed: false,
            })
        }
        .boxed()
    }
}

struct Desk(Process);

impl Provider for Desk {
    fn ask<'a>(
        &'a self,
        request: &'a Request,
        _within: Duration,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        async {
            let said = request.said.iter().map(|said| match said {
                Said::Reply { text, .. } => json!({"role": "assistant", "content": text}),
                Said::Again(text) => json!({"role": "user", "content": text}),
                Said::Results(called) => {
                    json!({"role": "tool", "content": json!(called).to_string()})
                }
            });
            let prompt = request.messages.iter().map(|it| json!(it));
            let messages: Vec<Value> = prompt.chain(said).collect();
            let (verdict, delay) = self.0.ask(&request.idempotency_key, &messages);
            // The desk's slow questions, in the simulation's time.
            tokio::time::sleep(delay / 10).await;
            let model = "chat".to_owned();
            match verdict {
                Verdict::Answer(text) => Ok(Reply {
                    text,
                    ..Reply::default()
                }),
                Verdict::Calls(calls) => Ok(Reply {
                    calls: calls
                        .into_iter()
                        .map(|(id, tool, arguments)| ToolCall {
                            id,
                            tool: tool.to_owned(),
                            arguments: arguments.to_string(),
                        })
                        .collect(),
                    ..Reply::default()
                }),
                Verdict::Refusal(status) => Err(Error::Status {
                    model,
                    status,
                    hint: String::new(),
                    retry_after: None,
                }),
                Verdict::Nonsense => Err(Error::Malformed {
                    model,
                    reason: "it is nonsense".to_owned(),
                }),
            }
        }
        .boxed()
    }
}
