//! How a partition comes to the driver: where it goes on, what was said in it, and its beginning.
//!
//! In this order: its offset, once a predecessor's transactions are decided; its conversations and its journal,
//! read on a thread of their own; and then the views have to be there.

use super::super::batch::Pending;
use super::super::progress::Progress;
use super::super::start;
use super::super::suspect::UNSURE;
use super::super::window::Window;
use super::{Active, Driver, Owned, State};
use crate::log::{GroupReader, Start};
use crate::stage::Error;
use crate::stage::first::ASK_AGAIN;
use crate::stage::reading::persist;
use headwater_engine::record::TopicPartition;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

impl Driver {
    pub(super) fn assigned(&mut self, assigned: &[TopicPartition]) {
        for partition in assigned {
            self.epoch += 1;
            let owned = Owned {
                epoch: self.epoch,
                progress: Progress {
                    next: 0,
                    finished: Vec::new(),
                    clean: true,
                },
                skip: None,
                leaving: false,
                state: State::Arriving,
            };
            self.owned.insert(partition.partition, owned);
            self.unplaced.push(partition.clone());
        }
    }

    /// Finds where new partitions go on, and sends for what was said in them.
    pub(super) fn place(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        if self.unplaced.is_empty() || self.batches.is_busy() || Instant::now() < self.ask_at {
            return Ok(());
        }
        let (setup, life) = (Arc::clone(&self.setup), Arc::clone(&self.life));
        persist(&life, "transactional id", || self.batches.sweep(group))?;
        let is_new = self
            .owned
            .values()
            .all(|owned| matches!(owned.state, State::Arriving | State::Stalled));
        let batches = &mut self.batches;
        let found = start::find(
            &setup,
            &life,
            |of| batches.committed(group, of, is_new),
            &self.topic,
            self.partition_count,
            &self.unplaced,
        );
        match found {
            Ok(start::Found::Offsets(offsets)) => {
                self.unplaced.clear();
                for (partition, next) in offsets {
                    match next {
                        Ok(place) => self.take_over(partition.partition, place)?,
                        Err(stall) => {
                            stall.tell(&self.life);
                            if let Some(owned) = self.owned.get_mut(&partition.partition) {
                                owned.state = State::Stalled;
                            }
                        }
                    }
                }
            }
            Ok(start::Found::New(offsets)) => {
                let count = self.partition_count;
                self.ask_at = self.batches.first_offsets(group, count, &offsets)?;
            }
            Ok(start::Found::NotYet) => self.ask_at = Instant::now() + ASK_AGAIN,
            Err(Error::Stalled(stall)) => {
                stall.tell(&self.life);
                for partition in std::mem::take(&mut self.unplaced) {
                    if let Some(owned) = self.owned.get_mut(&partition.partition) {
                        owned.state = State::Stalled;
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn take_over(&mut self, number: i32, place: start::Place) -> Result<(), Error> {
        let Some(owned) = self.owned.get_mut(&number) else {
            return Ok(());
        };
        owned.progress.clone_from(&place.progress);
        owned.skip = place.skip;
        let epoch = owned.epoch;
        let (setup, life) = (Arc::clone(&self.setup), Arc::clone(&self.life));
        self.errands
            .send("takeover", Arc::clone(&self.waker), move || {
                let restored = start::take_over(&setup, &life, number, &place);
                (number, epoch, restored)
            })
    }

    pub(super) fn arrived(&mut self) -> Result<(), Error> {
        let back: Vec<_> = self.errands.back().collect();
        for (number, epoch, restored) in back {
            let Some(owned) = self
                .owned
                .get_mut(&number)
                .filter(|owned| owned.epoch == epoch)
            else {
                continue;
            };
            owned.state = match restored {
                Ok(restored) => State::Waiting(Box::new(restored)),
                Err(Error::Stalled(stall)) => {
                    stall.tell(&self.life);
                    State::Stalled
                }
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    pub(super) fn activate(&mut self, group: &mut dyn GroupReader) -> Result<(), Error> {
        if !self.setup.held.is_ready() || self.draining {
            return Ok(());
        }
        for (number, owned) in &mut self.owned {
            let State::Waiting(restored) = &mut owned.state else {
                continue;
            };
            let store = restored.conversations.take();
            let journal = std::mem::take(&mut restored.journal);
            let partition = TopicPartition::new(Arc::clone(&self.topic), *number);
            if let Some(ahead) = restored.ahead.take() {
                tracing::warn!(%partition, committed = owned.progress.next, audited = ahead.next, "the group's offset is from before what the audit says was run; runs go on behind it");
                owned.progress = ahead;
            }
            // Of runs that somebody decided to go past.
            let left = journal.before(owned.progress.next).into_iter();
            let steps = left.map(|change| Pending::new(change, None)).collect();
            group.start(&partition, Start::Offset(owned.progress.next))?;
            owned.state = State::Active(Box::new(Active {
                is_placed: self.batches.says(&journal, *number, &owned.progress),
                place_at: Instant::now(),
                window: Window::new(owned.progress.clone()),
                store,
                journal,
                steps,
                skip: owned.skip,
                unsure: if owned.progress.clean { 0 } else { UNSURE },
                tasks: BTreeMap::new(),
                paused: false,
                resumed: HashSet::new(),
                places: 0,
                look: true,
                unclean: !owned.progress.clean,
            }));
        }
        Ok(())
    }
}
