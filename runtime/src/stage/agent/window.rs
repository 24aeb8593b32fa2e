//! The unfinished triggers of one partition, in offset order.
//!
//! Pure bookkeeping: which may start, and what may be committed. Runs of one key are in order, and the next one
//! starts only when its predecessor is *committed*, not merely finished; runs of different keys go on at once, and
//! are committed as they finish, whatever is before them. What is finished above the lowest unfinished one goes
//! into the offset's metadata ([`Progress`]); where that has no room for more, a run waits for those before it.

use super::progress::{Progress, STRETCHES_MAX};
use headwater_engine::key::Key;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;

/// `W` waits for its start, `F` is finished and waits for its commit.
pub(super) struct Window<W, F> {
    /// All below `next` that is not here is finished and committed.
    entries: BTreeMap<i64, Entry<W, F>>,
    /// Keys of runs that are under way, or finished and not committed.
    busy: HashSet<Key>,
    /// Next offset to be read.
    next: i64,
    /// Finished by former owners; of it only what is not yet read.
    ahead: VecDeque<Range<i64>>,
    /// Next offset as the group's offset has it.
    committed: i64,
    /// The group's offset says that runs may be under way.
    marked: bool,
    halted: bool,
    running: usize,
}

struct Entry<W, F> {
    key: Option<Key>,
    state: State<W, F>,
}

enum State<W, F> {
    Waiting(W),
    Running,
    Finished(F),
    /// In a transaction whose fate is not known.
    Committing,
    /// Never to be committed: the partition stands still here.
    Halted,
}

/// Runs whose trigger was finished long ago stand before all offsets of a log, and hold none of them back.
fn has_offset(offset: i64) -> bool {
    offset >= 0
}

/// Finished runs, on their way into a transaction.
#[derive(Debug, PartialEq)]
pub(super) struct Part<F> {
    pub(super) runs: Vec<F>,
    /// Of these runs.
    offsets: Vec<i64>,
    /// What is to be committed with them.
    pub(super) progress: Progress,
}

impl<W, F> Window<W, F> {
    pub(super) fn new(progress: Progress) -> Self {
        Self {
            entries: BTreeMap::new(),
            busy: HashSet::new(),
            next: progress.next,
            ahead: progress.finished.into(),
            committed: progress.next,
            marked: !progress.clean,
            halted: false,
            running: 0,
        }
    }

    /// Whether a former owner finished this one.
    pub(super) fn is_finished(&self, offset: i64) -> bool {
        self.ahead.iter().any(|stretch| stretch.contains(&offset))
    }

    /// A trigger to be run.
    pub(super) fn wait(&mut self, offset: i64, key: Option<Key>, trigger: W) {
        self.push(offset, key, State::Waiting(trigger));
    }

    /// A record that needs no run, only a commit: a bad one.
    pub(super) fn done(&mut self, offset: i64, finished: F) {
        self.push(offset, None, State::Finished(finished));
    }

    fn push(&mut self, offset: i64, key: Option<Key>, state: State<W, F>) {
        self.entries.insert(offset, Entry { key, state });
        self.advance(offset + 1);
    }

    /// Everything below `next` was read: filtered records and control records too.
    pub(super) fn advance(&mut self, next: i64) {
        self.next = self.next.max(next);
        while self
            .ahead
            .front()
            .is_some_and(|stretch| stretch.end <= self.next)
        {
            self.ahead.pop_front();
        }
    }

    /// Stands still at this record: it is not run, nor is anything after it begun.
    pub(super) fn halt_at(&mut self, offset: i64) {
        match self.entries.get_mut(&offset) {
            Some(entry) => {
                if matches!(entry.state, State::Running) {
                    self.running -= 1;
                }
                entry.state = State::Halted;
            }
            None => self.push(offset, None, State::Halted),
        }
        self.halted = true;
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }

    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// Triggers not yet committed.
    pub(super) fn unfinished(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// The triggers that wait for their start.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &W> {
        self.entries
            .values()
            .filter_map(|entry| match &entry.state {
                State::Waiting(trigger) => Some(trigger),
                _ => None,
            })
    }

    /// Takes out the trigger of this key that waits, if it `may` go, for [`Window::finish`]: it starts no run.
    pub(super) fn supersede(&mut self, key: &Key, may: &dyn Fn(&W) -> bool) -> Option<(i64, W)> {
        let (offset, entry) = self.entries.iter_mut().rev().find(|(_, entry)| {
            entry.key.as_ref() == Some(key)
                && matches!(&entry.state, State::Waiting(trigger) if may(trigger))
        })?;
        let State::Waiting(trigger) = std::mem::replace(&mut entry.state, State::Running) else {
            return None;
        };
        // Another run of the key may be under way: this one's commit does not end it.
        entry.key = None;
        self.running += 1;
        Some((*offset, trigger))
    }

    /// Takes out at most `limit` triggers that may start now, in offset order: those that are `due`.
    pub(super) fn start(
        &mut self,
        limit: usize,
        due: &dyn Fn(&W) -> bool,
    ) -> Vec<(i64, Option<Key>, W)> {
        let mut started = Vec::new();
        if !self.marked {
            return started;
        }
        // A key whose earlier trigger waits is not overtaken.
        let mut passed: HashSet<Key> = HashSet::new();
        for (offset, entry) in &mut self.entries {
            if started.len() == limit || matches!(entry.state, State::Halted) {
                break;
            }
            let State::Waiting(trigger) = &entry.state else {
                continue;
            };
            if let Some(key) = &entry.key
                && (self.busy.contains(key) || !passed.insert(key.clone()))
            {
                continue;
            }
            if !due(trigger) {
                continue;
            }
            if let State::Waiting(trigger) = std::mem::replace(&mut entry.state, State::Running) {
                self.busy.extend(entry.key.clone());
                self.running += 1;
                started.push((*offset, entry.key.clone(), trigger));
            }
        }
        started
    }

    /// A run ended. False where the window does not know it.
    pub(super) fn finish(&mut self, offset: i64, finished: F) -> bool {
        match self.entries.get_mut(&offset) {
            Some(entry) if matches!(entry.state, State::Running) => {
                entry.state = State::Finished(finished);
                self.running -= 1;
                true
            }
            _ => false,
        }
    }

    /// Takes out what is finished, as long as there is room. Its keys stay busy until [`Window::committed`]; until
    /// then nothing else is to be taken. `None` where no run is finished; what other records come to is
    /// [`Window::idle`].
    pub(super) fn take(&mut self, room: &mut dyn FnMut(&F) -> bool) -> Option<Part<F>> {
        let is_finished = |entry: &Entry<W, F>| matches!(entry.state, State::Finished(_));
        if !self.entries.values().any(is_finished) {
            return None;
        }
        // One that leaves unfinished ones behind makes one more stretch at most.
        let mut stretches = STRETCHES_MAX.saturating_sub(self.stretches().len());
        let mut behind = false;
        let (mut runs, mut offsets) = (Vec::new(), Vec::new());
        for (offset, entry) in &mut self.entries {
            match &entry.state {
                State::Finished(finished) if !behind || stretches > 0 => {
                    if !room(finished) {
                        break;
                    }
                }
                _ => {
                    behind |= has_offset(*offset);
                    continue;
                }
            }
            stretches = stretches.saturating_sub(usize::from(behind));
            if let State::Finished(finished) =
                std::mem::replace(&mut entry.state, State::Committing)
            {
                runs.push(finished);
                offsets.push(*offset);
            }
        }
        (!runs.is_empty()).then(|| Part {
            runs,
            offsets,
            progress: self.progress(),
        })
    }

    /// What is finished, without any run: for a commit that only says so.
    pub(super) fn idle(&self) -> Part<F> {
        let mut part = self.begin();
        part.progress.clean = !self.marked;
        part
    }

    /// The same, for a commit that says that runs may be under way from here on.
    pub(super) fn begin(&self) -> Part<F> {
        Part {
            runs: Vec::new(),
            offsets: Vec::new(),
            progress: self.progress(),
        }
    }

    /// Whether the group's offset says that runs may be under way.
    pub(super) fn is_marked(&self) -> bool {
        self.marked
    }

    /// Whether it has to be committed that runs may be under way, before any can start.
    pub(super) fn awaits_mark(&self) -> bool {
        let waits = |entry: &Entry<W, F>| matches!(entry.state, State::Waiting(_));
        !self.marked && self.entries.values().any(waits)
    }

    /// For a commit that says that no run is under way any more, and whether the offset says that already.
    pub(super) fn leave(&self) -> (Part<F>, bool) {
        let mut part = self.begin();
        part.progress.clean = true;
        (part, !self.marked)
    }

    /// Whether the offset may be committed further on though no run ended.
    pub(super) fn has_moved(&self) -> bool {
        self.reached() > self.committed
    }

    fn unfinished_offsets(&self) -> impl Iterator<Item = i64> {
        self.entries
            .iter()
            .filter(|(_, entry)| !matches!(entry.state, State::Committing))
            .map(|(offset, _)| *offset)
            .filter(|offset| has_offset(*offset))
    }

    fn reached(&self) -> i64 {
        self.unfinished_offsets().next().unwrap_or(self.next)
    }

    fn progress(&self) -> Progress {
        Progress {
            next: self.reached(),
            finished: self.stretches(),
            clean: false,
        }
    }

    /// What is finished above the lowest unfinished one.
    fn stretches(&self) -> Vec<Range<i64>> {
        let mut stretches: Vec<Range<i64>> = Vec::new();
        let mut begin = None;
        for offset in self.unfinished_offsets() {
            stretches.extend(
                begin
                    .map(|begin| begin..offset)
                    .filter(|own| !own.is_empty()),
            );
            begin = Some(offset + 1);
        }
        // Without an unfinished one the offset says it.
        stretches.extend(
            begin
                .map(|begin| begin..self.next)
                .filter(|own| !own.is_empty()),
        );
        for stretch in &self.ahead {
            let start = stretch.start.max(self.next);
            match stretches.last_mut() {
                Some(last) if last.end == start => last.end = stretch.end,
                _ => stretches.push(start..stretch.end),
            }
        }
        stretches
    }

    /// The transaction with this part is committed.
    pub(super) fn committed(&mut self, part: &Part<F>) {
        self.committed = self.committed.max(part.progress.next);
        self.marked = !part.progress.clean;
        for offset in &part.offsets {
            if let Some(key) = self.entries.remove(offset).and_then(|entry| entry.key) {
                self.busy.remove(&key);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one stretch")]
mod tests;
