//! Leading a view or an agent on that stands still: past a record, or from a position that somebody decides.
//!
//! What is decided is committed as an offset of the stage's group, which Kafka allows only while the group has no
//! members: a running stage is never overridden. An `up` stops its stage for it and starts it again.

use super::Gateway;
use crate::control::{Resume, Resumed};
use crate::dump;
use crate::error::Error;
use headwater_engine::config::{Input, Role, Stage};
use headwater_engine::names::{self, MARK_KEY, Owner};
use headwater_engine::record::{Position, TopicPartition};
use headwater_engine::view::Mark;
use headwater_runtime::log::{self, Committed, Start, Watermarks};
use headwater_runtime::stage::resume::Intent;
use std::collections::{BTreeSet, HashMap};

/// One group of the stage and the log that it reads.
struct Flow {
    group: String,
    topic: String,
    /// Goes on where the marks of this state topic say, not where the group was.
    state: Option<String>,
    /// Begins by itself where it was never read.
    begins: bool,
}

/// A partition of a flow.
struct Place {
    partition: TopicPartition,
    bounds: Watermarks,
    committed: Option<Committed>,
    /// Where it goes on; `None`: nobody ever said.
    next: Option<i64>,
}

impl Place {
    /// Cannot go on by itself. A log that was never read is begun by a view and by a new agent.
    fn stalled(&self, others_began: bool) -> bool {
        match self.next {
            Some(next) => next > self.bounds.high || next < self.bounds.low,
            None => !others_began,
        }
    }
}

impl Gateway {
    /// Decides where the resource goes on. In an `up` its stage is stopped meanwhile.
    ///
    /// # Errors
    /// [`Error::Refused`] where nothing stands still, where it would fold records twice, and while the stage runs elsewhere.
    pub(crate) fn resume(&self, asked: &Resume) -> Result<Vec<Resumed>, Error> {
        let (id, stage) = self.stage_of(asked.namespace.as_deref(), &asked.resource)?;
        let Some(stages) = &self.stages else {
            return self.decide(asked, stage, &BTreeSet::new());
        };
        let (kind, _) = stage.owner();
        let stopped = stages.stopped_at(&id.0, kind, &id.1);
        if asked.from.is_none() && asked.skip.is_none() && stopped.is_empty() {
            return Err(Error::refused(format!(
                "{} does not stand still at a record",
                asked.resource
            )));
        }
        // What cannot be is refused before anything is stopped.
        self.decisions(asked, stage, &stopped)?;
        let decide = || self.decide(asked, stage, &stopped);
        tokio::runtime::Handle::current().block_on(stages.restart(&id.0, kind, &id.1, decide))
    }

    fn decide(
        &self,
        asked: &Resume,
        stage: &Stage,
        stopped: &BTreeSet<Position>,
    ) -> Result<Vec<Resumed>, Error> {
        let mut resumed = Vec::new();
        for (flow, decided) in self.decisions(asked, stage, stopped)? {
            let offsets: Vec<(TopicPartition, Committed)> = decided
                .iter()
                .map(|(at, committed, _)| (at.clone(), committed.clone()))
                .collect();
            self.offsets
                .commit(&flow.group, &offsets)
                .map_err(|error| in_use(&asked.resource, stage, error))?;
            resumed.extend(decided.into_iter().map(|(at, _, what)| Resumed {
                partition: at.to_string(),
                what,
            }));
        }
        Ok(resumed)
    }

    /// What is to be committed, by flow; none of them is empty.
    fn decisions(
        &self,
        asked: &Resume,
        stage: &Stage,
        stopped: &BTreeSet<Position>,
    ) -> Result<Vec<(Flow, Decided)>, Error> {
        let flows = flows(stage)?;
        let decided = match (&asked.from, &asked.skip) {
            (Some(from), _) => self.from(asked, &flows, from)?,
            (None, Some(position)) => {
                self.skip(asked, &flows, &BTreeSet::from([parse(position)?]))?
            }
            (None, None) if stopped.is_empty() => {
                return Err(Error::refused(format!(
                    "say which record of {} to go past: its position stands in the message of the condition and in the log of the stage, e.g. --skip shop.orders-0-17",
                    asked.resource
                )));
            }
            (None, None) => self.skip(asked, &flows, stopped)?,
        };
        let both = flows.into_iter().zip(decided);
        Ok(both.filter(|(_, decided)| !decided.is_empty()).collect())
    }

    /// Commits, by flow, that go past records.
    fn skip(
        &self,
        asked: &Resume,
        flows: &[Flow],
        records: &BTreeSet<Position>,
    ) -> Result<Vec<Decided>, Error> {
        let mut all: Vec<Decided> = flows.iter().map(|_| Vec::new()).collect();
        for record in records {
            let flow = flows.iter().position(|flow| *flow.topic == *record.topic);
            let (flow, decided) = flow
                .and_then(|place| flows.get(place).zip(all.get_mut(place)))
                .ok_or_else(|| not_read(asked, flows, &record.topic))?;
            let places = self.places(flow)?;
            let place = find(&places, record.partition, asked, record)?;
            let next = place.next.unwrap_or(place.bounds.low);
            if record.offset < next || record.offset >= place.bounds.high {
                return Err(Error::refused(format!(
                    "{} is not at '{record}': of '{}' it goes on at offset {next}, and the log ends at {}",
                    asked.resource, place.partition, place.bounds.high
                )));
            }
            let decision = Intent::Skip(record.offset);
            let committed = match &place.committed {
                Some(committed) => decision.committed_over(committed),
                None => decision.committed(place.bounds.low),
            };
            let what = format!(
                "goes past offset {}, which goes to the dead letters",
                record.offset
            );
            decided.push((place.partition.clone(), committed, what));
        }
        Ok(all)
    }

    /// Commits, by flow, that say where partitions go on.
    fn from(&self, asked: &Resume, flows: &[Flow], from: &str) -> Result<Vec<Decided>, Error> {
        let start = match from {
            "Earliest" => Some(Start::Earliest),
            "Latest" => Some(Start::Latest),
            _ => None,
        };
        let position = match start {
            Some(_) => None,
            None => Some(parse(from)?),
        };
        if let Some(position) = &position
            && !flows.iter().any(|flow| *flow.topic == *position.topic)
        {
            return Err(not_read(asked, flows, &position.topic));
        }
        let mut all = Vec::new();
        for flow in flows {
            if position
                .as_ref()
                .is_some_and(|position| *flow.topic != *position.topic)
            {
                all.push(Vec::new());
                continue;
            }
            let places = self.places(flow)?;
            if let Some(position) = &position {
                let place = find(&places, position.partition, asked, position)?;
                check_position(asked, flow, place, position)?;
                all.push(vec![decision(place, position.offset)]);
                continue;
            }
            // An agent whose positions are all gone; a view begins what it has never read by itself.
            let began = flow.begins || places.iter().any(|place| place.next.is_some());
            let stalled = places.iter().filter(|place| place.stalled(began));
            let decided = stalled.map(|place| {
                let offset = match start {
                    Some(Start::Latest) => place.bounds.high,
                    _ => place.bounds.low,
                };
                decision(place, offset)
            });
            all.push(decided.collect());
        }
        if all.iter().all(Vec::is_empty) {
            return Err(Error::refused(format!(
                "no partition of {} is stalled: each goes on where it was. To move one all the same, say its position, e.g. --from shop.orders-0-17",
                asked.resource
            )));
        }
        Ok(all)
    }

    fn places(&self, flow: &Flow) -> Result<Vec<Place>, Error> {
        let partitions = dump::partitions(&*self.log, &flow.topic)?
            .ok_or_else(|| Error::failed(format!("topic '{}' does not exist", flow.topic)))?;
        let bounds = self.log.watermarks(&partitions)?;
        let mut committed = self.offsets.committed(&flow.group, &partitions)?;
        let marks = match &flow.state {
            Some(state) => Some(self.marks(state)?),
            None => None,
        };
        let places = partitions.into_iter().map(|partition| {
            let committed = committed.remove(&partition).flatten();
            let decided = match committed.as_ref().and_then(Intent::of) {
                Some(Intent::From(offset)) => Some(offset),
                _ => None,
            };
            let next = match &marks {
                Some(marks) => decided.or(marks.get(&partition.partition).copied()),
                None => committed.as_ref().map(|committed| committed.offset),
            };
            Place {
                bounds: bounds
                    .get(&partition)
                    .copied()
                    .unwrap_or(Watermarks { low: 0, high: 0 }),
                partition,
                committed,
                next,
            }
        });
        Ok(places.collect())
    }

    /// What the last mark of each partition says.
    fn marks(&self, state_topic: &str) -> Result<HashMap<i32, i64>, Error> {
        let mut marks = HashMap::new();
        dump::scan(&*self.log, state_topic, &mut |record| {
            if record.key == Some(MARK_KEY)
                && let Some(mark) = record
                    .value
                    .and_then(|value| serde_json::from_slice::<Mark>(value).ok())
            {
                marks.insert(record.partition, mark.next);
            }
        })?;
        Ok(marks)
    }
}

/// Partition, what is committed for it, and that in words.
type Decided = Vec<(TopicPartition, Committed, String)>;

fn decision(place: &Place, offset: i64) -> (TopicPartition, Committed, String) {
    let committed = Intent::From(offset).committed(offset);
    let was = place
        .next
        .map_or_else(|| "nowhere".to_owned(), |next| format!("at offset {next}"));
    (
        place.partition.clone(),
        committed,
        format!("goes on at offset {offset}; it was {was}"),
    )
}

fn check_position(
    asked: &Resume,
    flow: &Flow,
    place: &Place,
    position: &Position,
) -> Result<(), Error> {
    let Watermarks { low, high } = place.bounds;
    if position.offset < low || position.offset > high {
        return Err(Error::refused(format!(
            "'{}' holds offsets {low} to {high}: it cannot go on at {}",
            place.partition, position.offset
        )));
    }
    match place.next {
        Some(next) if flow.state.is_some() && position.offset < next && next <= high => {
            Err(Error::refused(format!(
                "{} has folded '{}' up to offset {next}: going back to {} would fold events twice. Rebuild the view instead",
                asked.resource, place.partition, position.offset
            )))
        }
        _ => Ok(()),
    }
}

fn flows(stage: &Stage) -> Result<Vec<Flow>, Error> {
    match &stage.role {
        Role::Agent(agent) => {
            let trigger = agent.trigger.from.topic(stage);
            let trigger =
                trigger.ok_or_else(|| Error::internal("what triggers the agent is missing"))?;
            let flow = |role, topic: &str| Flow {
                group: names::group(&stage.namespace, Owner::Agent, &agent.name, None, role),
                topic: topic.to_owned(),
                state: None,
                begins: false,
            };
            Ok(match &agent.trigger.input {
                Some(input) => vec![flow("runs", input), flow("intake", trigger)],
                None => vec![flow("runs", trigger)],
            })
        }
        Role::View { name } => {
            let view = stage.views.get(name);
            let view = view.ok_or_else(|| Error::internal("the view's stage is not one"))?;
            let generation = Some(view.generation.as_str());
            let group = |role| names::group(&stage.namespace, Owner::View, name, generation, role);
            let mut flows = vec![Flow {
                group: group("fold"),
                topic: view.input.topic().to_owned(),
                state: Some(view.state_topic.clone()),
                begins: true,
            }];
            if let Input::Own { .. } = view.input {
                let sources = view
                    .from
                    .iter()
                    .filter_map(|from| stage.sources.get(&from.source));
                let topics: BTreeSet<&str> = sources.map(|source| source.topic.as_str()).collect();
                flows.extend(topics.into_iter().map(|topic| Flow {
                    group: group("intake"),
                    topic: topic.to_owned(),
                    state: None,
                    begins: true,
                }));
            }
            Ok(flows)
        }
    }
}

fn find<'a>(
    places: &'a [Place],
    partition: i32,
    asked: &Resume,
    position: &Position,
) -> Result<&'a Place, Error> {
    let found = places
        .iter()
        .find(|place| place.partition.partition == partition);
    found.ok_or_else(|| {
        Error::refused(format!(
            "{}: '{position}' is in no partition of '{}', which has {}",
            asked.resource,
            position.topic,
            places.len()
        ))
    })
}

fn not_read(asked: &Resume, flows: &[Flow], topic: &str) -> Error {
    let topics: Vec<&str> = flows.iter().map(|flow| flow.topic.as_str()).collect();
    Error::refused(format!(
        "{} does not read '{topic}'; it reads {}",
        asked.resource,
        topics.join(", ")
    ))
}

fn parse(text: &str) -> Result<Position, Error> {
    text.parse().map_err(|_| {
        Error::refused(format!(
            "'{text}' is neither Earliest, Latest nor a position, <topic>-<partition>-<offset>"
        ))
    })
}

fn in_use(resource: &str, stage: &Stage, error: log::Error) -> Error {
    if !matches!(error, log::Error::GroupInUse { .. }) {
        return error.into();
    }
    let how = match &stage.role {
        Role::Agent(_) => "set its spec.suspend to true",
        Role::View { .. } => "set its spec.replicas to 0",
    };
    Error::refused(format!(
        "{resource} is running, and nobody decides behind its back: stop it first ({how}), wait until its pods are gone (one that was killed counts for 10 s), ask again, and start it"
    ))
}
