//! Where partitions of the sources begin, and what is forgotten when they go.

use super::super::context::Context;
use super::super::first::{self, ASK_AGAIN, Found, NOTHING};
use super::super::life::Life;
use super::super::positions::{self, Last, Reader};
use super::super::reading::{partitions, persist};
use super::super::resume::Intent;
use super::super::{Error, Stall};
use super::{Begin, Loop, Owned, Task, covered};
use crate::log::{GroupReader, Start};
use headwater_engine::config::Role;
use headwater_engine::record::TopicPartition;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

impl Loop {
    /// Begins the partitions that wait for it, as far as it is known where.
    pub(super) fn place(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        // First offsets have a transaction of their own.
        let busy = self.pending.is_some() && self.task.begin != Begin::Earliest;
        if self.unplaced.is_empty() || busy || Instant::now() < self.ask_at {
            return Ok(());
        }
        let assigned = std::mem::take(&mut self.unplaced);
        self.begin(group, assigned)
    }

    fn begin(
        &mut self,
        group: &mut dyn GroupReader,
        assigned: Vec<TopicPartition>,
    ) -> Result<(), Error> {
        persist(&self.life, "transactional id", || {
            self.committer.sweep(group)
        })?;
        let committed = match self.find(group, &assigned)? {
            Found::Offsets(offsets) => offsets,
            Found::New(offsets) => {
                let records = match &self.task.journal {
                    Some(journal) => {
                        positions::records(Reader::Intake, journal, self.task.partitions, &offsets)
                    }
                    None => Vec::new(),
                };
                self.ask_at = self.committer.first_offsets(group, &records, &offsets)?;
                self.unplaced.extend(assigned);
                return Ok(());
            }
            Found::NotYet => {
                self.ask_at = Instant::now() + ASK_AGAIN;
                self.unplaced.extend(assigned);
                return Ok(());
            }
            Found::Lost => {
                self.lost().tell(&self.life);
                self.stalled.extend(assigned);
                return Ok(());
            }
        };
        let log = Arc::clone(&self.context.services.log);
        let bounds = persist(&self.life, "watermarks", || log.watermarks(&assigned))?;
        // Offsets of an input log that was deleted since.
        let former = self.task.begin == Begin::Earliest
            && !is_written(&self.context, &self.life, &self.task)?;
        let (input, entries) = (&self.task.topic, &self.task.entries);
        let covered = if former || entries.is_empty() {
            HashMap::new()
        } else {
            covered::find(&*log, &self.life, input, entries, &assigned)?
        };
        for partition in assigned {
            let bounds = bounds.get(&partition).copied().unwrap_or(NOTHING);
            let committed = committed.get(&partition).and_then(Option::as_ref);
            // Somebody's decision counts, whatever the input log says.
            let decided = committed.and_then(Intent::of);
            let covered = match decided {
                Some(Intent::From(_)) => None,
                _ => covered.get(&partition).copied(),
            };
            let next = match committed.map(|committed| committed.offset).max(covered) {
                Some(_) if former && decided.is_none() => Ok(bounds.low),
                Some(next) => {
                    let resource = self.context.resource();
                    Stall::position(&resource, &partition, next, bounds)
                }
                None => Ok(bounds.low),
            };
            let next = match next {
                Ok(next) => next,
                Err(stall) => {
                    stall.tell(&self.life);
                    self.stalled.insert(partition);
                    continue;
                }
            };
            self.intake
                .start(&partition.topic, partition.partition, next);
            group.start(&partition, Start::Offset(next))?;
            let owned = Owned {
                committed: next,
                target: bounds.high,
                end: bounds.high,
                position: next,
                skip: Intent::skipped(committed),
                stopped: false,
                paused: false,
            };
            self.owned.insert(partition, owned);
        }
        Ok(())
    }

    fn find(
        &mut self,
        group: &mut dyn GroupReader,
        assigned: &[TopicPartition],
    ) -> Result<Found, Error> {
        let is_new = self.owned.is_empty();
        let Begin::Once(start_from) = self.task.begin else {
            let offsets = persist(&self.life, "committed offsets", || {
                self.committer.committed(group, assigned, is_new)
            })?;
            return Ok(Found::Offsets(offsets));
        };
        let log = Arc::clone(&self.context.services.log);
        let counts = partitions(&*log, &self.life, &self.task.sources)?;
        let all: Vec<TopicPartition> = (self.task.sources.iter().zip(counts))
            .flat_map(|(topic, count)| partitions_of(topic, count))
            .collect();
        let journaled = |of: &[TopicPartition]| match &self.task.journal {
            Some(journal) if !of.is_empty() => positions::of_intake(&*log, &self.life, journal, of),
            _ => Ok(Vec::new()),
        };
        let group_of = |known| positions::of_group(&*log, &self.life, known);
        let (context, life, task) = (&self.context, &self.life, &self.task);
        let worked =
            || Ok(group_of(journaled(&all)?)?.is_some() || is_written(context, life, task)?);
        let committer = &mut self.committer;
        let ask = |of: &[TopicPartition]| committer.committed(group, of, is_new);
        let own = all.clone();
        match first::find(&*log, &self.life, ask, own, assigned, start_from, worked)? {
            Found::Lost => Ok(group_of(journaled(&all)?)?.map_or(Found::Lost, Found::New)),
            Found::Offsets(mut committed) => {
                for (partition, last) in journaled(assigned)? {
                    let former = committed.get(&partition).and_then(Option::as_ref);
                    // A broker that lost the marker of a commit has an offset from before.
                    let counts = former.is_none_or(|at| Intent::of(at).is_none());
                    if let Last::Said(at) = last
                        && counts
                        && former.is_none_or(|former| at.offset > former.offset)
                    {
                        committed.insert(partition, Some(at));
                    }
                }
                Ok(Found::Offsets(committed))
            }
            found => Ok(found),
        }
    }

    /// Nothing is guessed where events were taken in before.
    fn lost(&self) -> Stall {
        let (topic, resource) = (&self.task.topic, self.context.resource());
        let trigger = match &self.context.config.role {
            Role::Agent(agent) => agent.trigger.from.view(),
            Role::View { .. } => None,
        };
        if let (Some(view), [changes]) = (trigger, self.task.sources.as_slice()) {
            return first::lost_among_changes(view, changes, topic, &resource);
        }
        Stall {
            reason: "PositionsLost",
            at: String::new(),
            message: format!(
                "events were taken in before (see topic '{}'), but consumer group '{}' has no offsets any more, as after a week without members. Say where it is to go on: headwater resume {} --from Earliest|Latest|POSITION",
                topic, self.task.group, resource
            ),
        }
    }

    /// Partitions that are another's now, or about to be.
    pub(super) fn lose(
        &mut self,
        group: &mut dyn GroupReader,
        lost: &[TopicPartition],
    ) -> Result<(), Error> {
        for partition in lost {
            self.owned.remove(partition);
            self.stalled.remove(partition);
            self.intake.stop(&partition.topic, partition.partition);
            self.dead.retain(|(of, _, _)| of != partition);
        }
        self.unplaced.retain(|partition| !lost.contains(partition));
        if let Some(joins) = &mut self.joins {
            joins.forget();
        }
        if self.pending.is_none() {
            return Ok(());
        }
        // A batch that may hold records of a lost partition must not be written.
        self.pending = None;
        self.dead.clear();
        self.committer.forget();
        let left = std::mem::take(&mut self.owned);
        let mut held: Vec<TopicPartition> = left
            .iter()
            .filter(|(_, owned)| owned.paused || owned.stopped)
            .map(|(partition, _)| partition.clone())
            .collect();
        let left: Vec<_> = left.into_keys().collect();
        for partition in &left {
            self.intake.stop(&partition.topic, partition.partition);
        }
        if !left.is_empty() {
            self.begin(group, left)?;
        }
        // They begin anew, but the group remembers their pause.
        held.retain(|partition| self.owned.contains_key(partition));
        if !held.is_empty() {
            group.resume(&held)?;
        }
        Ok(())
    }
}

fn partitions_of(topic: &str, count: i32) -> impl Iterator<Item = TopicPartition> {
    let topic: Arc<str> = topic.into();
    (0..count).map(move |partition| TopicPartition::new(Arc::clone(&topic), partition))
}

/// Whether the input log holds anything, or did.
fn is_written(context: &Context, life: &Life, task: &Task) -> Result<bool, Error> {
    let all: Vec<TopicPartition> = partitions_of(&task.topic, task.partitions).collect();
    let log = &context.services.log;
    let ends = persist(life, "watermarks", || log.watermarks(&all))?;
    Ok(ends.values().any(|bounds| bounds.high > 0))
}
