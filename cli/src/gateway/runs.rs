//! Runs of the past, as their audit has them, and their prompts rendered again.
//!
//! A runs topic may hold a week of runs. The newest are looked for from the end, in windows that grow, so
//! that showing five does not read them all; a run that is asked for by its id is found the same way.

use super::{Gateway, PREFIX_MIN, find, missing};
use crate::control::{Again, Past, Replay, Replayed, Templates, Verdict, Which};
use crate::dump;
use crate::error::Error;
use headwater_engine::agent::Agent;
use headwater_engine::audit::{ReadError, Record as Run};
use headwater_engine::config::{self, Prompt, Role, Stage};
use headwater_engine::record::{Record, TopicPartition};
use headwater_engine::replay::{self, Refusal};
use std::collections::BTreeMap;
use std::ops::Range;

/// Offsets of each partition that are read first; each further window is larger.
const FIRST_WINDOW: i64 = 256;
const GROWTH: i64 = 8;
/// Runs that are told one by one where all are rendered again.
const TOLD: usize = 100;
/// Runs that are held while the newest are looked for, at least.
const HELD: usize = 1_024;

impl Gateway {
    /// The last runs of an agent, or the one asked for, oldest first.
    ///
    /// # Errors
    /// [`Error::Refused`] for an agent or a run that there is not; the log's errors.
    pub(crate) fn past(&self, past: &Past) -> Result<Vec<Run>, Error> {
        let (_, agent) = self.agent(past.namespace.as_deref(), &past.agent)?;
        let topic = &agent.topics.runs;
        if let Some(id) = &past.run {
            return Ok(vec![self.run(topic, &past.agent, id)?]);
        }
        let mut newest = Newest {
            limit: usize::try_from(past.limit).unwrap_or(usize::MAX),
            ..Newest::default()
        };
        self.newest_first(topic, &mut newest)?;
        newest.cut();
        Ok(newest.runs)
    }

    /// Renders runs again, with the agent's templates as they are or with others.
    ///
    /// # Errors
    /// [`Error::Refused`] for an agent, a run or templates that cannot be; the log's errors.
    pub(crate) fn replay(&self, asked: &Replay) -> Result<Replayed, Error> {
        let (stage, agent) = self.agent(asked.namespace.as_deref(), &asked.agent)?;
        let topic = &agent.topics.runs;
        let with = asked.with.as_ref();
        let compiled = compile(stage, agent, with)?;
        let mut replayed = Replayed::default();
        match &asked.which {
            Which::Run(id) => {
                let run = self.run(topic, &asked.agent, id)?;
                replayed.add(again(&compiled, &run, with.is_some()));
            }
            Which::All => {
                let found = dump::scan(&*self.log, topic, &mut |record| match read(record) {
                    Some(Ok(run)) => replayed.add(again(&compiled, &run, with.is_some())),
                    Some(Err(why)) => replayed.add(unreadable(record, why)),
                    None => {}
                })?;
                if !found {
                    return Err(missing(topic));
                }
            }
        }
        Ok(replayed)
    }

    pub(super) fn agent(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<(&Stage, &config::Agent), Error> {
        let (_, stage) = find("agent", &self.directory.agents, namespace, name)?;
        match &stage.role {
            Role::Agent(agent) => Ok((stage, agent)),
            Role::View { .. } => Err(Error::internal("the agent's stage is not one")),
        }
    }

    /// The run of this id, or the only one whose id begins so.
    fn run(&self, topic: &str, agent: &str, id: &str) -> Result<Run, Error> {
        if id.len() < PREFIX_MIN {
            return Err(Error::refused(format!(
                "'{id}' is too short: give the run's id, or its first {PREFIX_MIN} characters or more"
            )));
        }
        let mut by_id = ById {
            id: id.to_owned(),
            found: BTreeMap::new(),
        };
        self.newest_first(topic, &mut by_id)?;
        let mut found = by_id.found;
        if let Some(run) = found.remove(id) {
            found = BTreeMap::from([(id.to_owned(), run)]);
        }
        match found.len() {
            1 => {}
            0 => {
                if let Some(question) = self.asked_by(agent, id)? {
                    return Err(Error::refused(format!(
                        "run {} is not over: it waits until {} for a person ({}). See what it asks with: headwater approvals {agent}",
                        question.run, question.expires_at, question.message
                    )));
                }
                return Err(Error::refused(format!(
                    "agent '{agent}' has no run '{id}'; list the last ones with: headwater prompts {agent} --show brief. Runs are kept for the agent's audit.retentionSeconds"
                )));
            }
            _ => {
                let ids: Vec<&str> = found.keys().map(String::as_str).collect();
                return Err(Error::refused(format!(
                    "several runs begin with '{id}': {}",
                    ids.join(", ")
                )));
            }
        }
        match found.into_values().next() {
            Some(Ok(run)) => Ok(run),
            Some(Err(why)) => Err(Error::failed(why)),
            None => Err(Error::internal("a run was found and is not there")),
        }
    }

    /// Hands over the runs of a topic in windows, the newest first, until enough were seen of every
    /// partition.
    fn newest_first(&self, topic: &str, to: &mut dyn Collect) -> Result<(), Error> {
        let log = &*self.log;
        let partitions = dump::partitions(log, topic)?.ok_or_else(|| missing(topic))?;
        let bounds = log.watermarks(&partitions)?;
        let mut left: Vec<(TopicPartition, Range<i64>)> = partitions
            .into_iter()
            .filter_map(|partition| {
                let bounds = bounds.get(&partition)?;
                Some((partition, bounds.low..bounds.high))
            })
            .collect();
        let mut size = FIRST_WINDOW;
        loop {
            left.retain(|(partition, range)| {
                !range.is_empty() && !to.has_enough(partition.partition)
            });
            if left.is_empty() {
                return Ok(());
            }
            let windows: Vec<(TopicPartition, Range<i64>)> = left
                .iter()
                .map(|(partition, range)| {
                    let start = range.end.saturating_sub(size).max(range.start);
                    (partition.clone(), start..range.end)
                })
                .collect();
            dump::scan_between(log, topic, &windows, &mut |record| {
                if let Some(run) = read(record) {
                    to.take(record.partition, key(record), run);
                }
            })?;
            for ((_, range), (_, window)) in left.iter_mut().zip(&windows) {
                range.end = window.start;
            }
            size = size.saturating_mul(GROWTH);
        }
    }
}

/// What is looked for in a runs topic.
trait Collect {
    fn take(&mut self, partition: i32, id: String, run: Result<Run, String>);
    /// Whether what is further back in the partition makes no difference.
    fn has_enough(&self, partition: i32) -> bool;
}

#[derive(Default)]
struct Newest {
    limit: usize,
    runs: Vec<Run>,
    seen: BTreeMap<i32, usize>,
}

impl Newest {
    /// Keeps the newest, oldest first.
    fn cut(&mut self) {
        self.runs
            .sort_by_key(|run| (run.finished_at, run.trigger.position.offset));
        self.runs
            .drain(..self.runs.len().saturating_sub(self.limit));
    }
}

impl Collect for Newest {
    fn take(&mut self, partition: i32, _id: String, run: Result<Run, String>) {
        let Ok(run) = run else {
            return;
        };
        *self.seen.entry(partition).or_default() += 1;
        self.runs.push(run);
        if self.runs.len() >= self.limit.saturating_mul(2).max(HELD) {
            self.cut();
        }
    }

    fn has_enough(&self, partition: i32) -> bool {
        self.seen
            .get(&partition)
            .is_some_and(|seen| *seen >= self.limit)
    }
}

/// Runs whose id begins so.
struct ById {
    id: String,
    found: BTreeMap<String, Result<Run, String>>,
}

impl Collect for ById {
    fn take(&mut self, _partition: i32, id: String, run: Result<Run, String>) {
        if id.starts_with(&self.id) {
            self.found.insert(id, run);
        }
    }

    /// A whole id is one run; of a beginning there may be more further back.
    fn has_enough(&self, _partition: i32) -> bool {
        self.found.contains_key(&self.id)
    }
}

impl Replayed {
    fn add(&mut self, again: Again) {
        let count = match again.verdict {
            Verdict::Same => &mut self.same,
            Verdict::Changed => &mut self.changed,
            Verdict::NoPrompt => &mut self.without_prompt,
            Verdict::Refused => &mut self.refused,
        };
        *count += 1;
        if self.runs.len() < TOLD
            && (self.runs.is_empty()
                || matches!(again.verdict, Verdict::Changed | Verdict::Refused))
        {
            self.runs.push(again);
        }
    }
}

/// The agent as it is, or with other templates.
fn compile(stage: &Stage, agent: &config::Agent, with: Option<&Templates>) -> Result<Agent, Error> {
    let Some(with) = with else {
        return Agent::compile(stage).map_err(|error| Error::refused(error.to_string()));
    };
    let former = agent.prompt.clone().unwrap_or_default();
    let prompt = match with {
        Templates::Prompt { system, user } => Prompt {
            system: system.clone(),
            user: user.clone(),
            ..former
        },
        Templates::System(text) => Prompt {
            system: Some(text.clone()),
            ..former
        },
        Templates::User(text) => Prompt {
            user: Some(text.clone()),
            ..former
        },
        Templates::Main(text) if former.system.is_some() => Prompt {
            system: Some(text.clone()),
            ..former
        },
        Templates::Main(text) => Prompt {
            user: Some(text.clone()),
            ..former
        },
    };
    let changed = Stage {
        role: Role::Agent(Box::new(config::Agent {
            prompt: Some(prompt),
            ..agent.clone()
        })),
        ..stage.clone()
    };
    Agent::compile(&changed).map_err(|error| {
        Error::refused(format!(
            "the other templates cannot work with what runs of the agent read: {error}"
        ))
    })
}

fn again(agent: &Agent, run: &Run, other_templates: bool) -> Again {
    let base = Again {
        run: run.run.clone(),
        trigger: run.trigger.position.to_string(),
        verdict: Verdict::Same,
        reason: None,
        recorded: None,
        rendered: None,
    };
    let compared = if other_templates {
        replay::compare(agent, run).map(|compared| (compared.recorded, compared.rendered))
    } else {
        replay::replay(agent, run).map(|same| (same.clone(), same))
    };
    match compared {
        Ok((recorded, rendered)) => Again {
            verdict: if recorded.messages == rendered.messages {
                Verdict::Same
            } else {
                Verdict::Changed
            },
            recorded: Some(recorded.into()),
            rendered: Some(rendered.into()),
            ..base
        },
        Err(refusal) => Again {
            verdict: match refusal {
                Refusal::NoPrompt(_) => Verdict::NoPrompt,
                _ => Verdict::Refused,
            },
            reason: Some(refusal.to_string()),
            ..base
        },
    }
}

fn unreadable(record: &Record<'_>, why: String) -> Again {
    Again {
        run: key(record),
        trigger: String::new(),
        verdict: Verdict::Refused,
        reason: Some(why),
        recorded: None,
        rendered: None,
    }
}

/// `None` for what is no run: positions, for instance.
fn read(record: &Record<'_>) -> Option<Result<Run, String>> {
    match Run::read(record.value?) {
        Ok(run) => Some(Ok(run)),
        Err(ReadError::NoRun(_)) => None,
        Err(error @ ReadError::Packed { .. }) => {
            Some(Err(format!("{}: {error}", record.position())))
        }
    }
}

fn key(record: &Record<'_>) -> String {
    record
        .key
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .unwrap_or_default()
}
