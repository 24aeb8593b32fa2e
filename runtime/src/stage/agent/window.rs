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
                    behind = true;
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
        Part {
            runs: Vec::new(),
            offsets: Vec::new(),
            progress: self.progress(),
        }
    }

    /// Whether it has to be committed that runs may be under way, before any can start.
    pub(super) fn awaits_mark(&self) -> bool {
        let waits = |entry: &Entry<W, F>| matches!(entry.state, State::Waiting(_));
        !self.marked && self.entries.values().any(waits)
    }

    /// For a commit that says that no run is under way any more. `None` where the offset says that already.
    pub(super) fn leave(&self) -> Option<Part<F>> {
        let mut part = self.idle();
        part.progress.clean = true;
        self.marked.then_some(part)
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn key(text: &str) -> Option<Key> {
        Key::from_text(text).unwrap()
    }

    fn from(next: i64) -> Progress {
        Progress {
            next,
            finished: Vec::new(),
            clean: false,
        }
    }

    fn window(keys: &[&str]) -> Window<(), i64> {
        let mut window = Window::new(from(0));
        for (offset, text) in (0..).zip(keys) {
            window.wait(offset, key(text), ());
        }
        window
    }

    fn start(window: &mut Window<(), i64>, limit: usize) -> Vec<i64> {
        window
            .start(limit, &|_| true)
            .into_iter()
            .map(|(offset, _, _)| offset)
            .collect()
    }

    /// The runs, the offset, and what is finished above.
    fn commit(window: &mut Window<(), i64>) -> Option<(Vec<i64>, i64, Vec<Range<i64>>)> {
        let part = window.take(&mut |_| true)?;
        window.committed(&part);
        Some((part.runs, part.progress.next, part.progress.finished))
    }

    #[test]
    fn one_run_of_a_key_at_a_time_and_any_number_without_key() {
        let mut window = window(&["a", "b", "a", "", "", "b"]);
        assert_eq!(start(&mut window, 100), [0, 1, 3, 4]);
        assert_eq!(start(&mut window, 100), [0_i64; 0]);
        assert_eq!(window.running(), 4);
        window.finish(0, 0);
        // Finished is not committed.
        assert_eq!(start(&mut window, 100), [0_i64; 0]);
        assert_eq!(commit(&mut window), Some((vec![0], 1, vec![])));
        assert_eq!(start(&mut window, 100), [2]);
    }

    #[test]
    fn a_waiting_key_is_not_overtaken_when_the_limit_was_reached() {
        let mut window = window(&["a", "b", "b"]);
        assert_eq!(start(&mut window, 1), [0]);
        assert_eq!(start(&mut window, 1), [1]);
        assert_eq!(start(&mut window, 1), [0_i64; 0]);
    }

    #[test]
    fn a_slow_run_holds_back_none_but_its_key() {
        let mut window = window(&["a", "b", "c", "a", "b"]);
        start(&mut window, 9);
        window.finish(1, 1);
        window.finish(2, 2);
        assert_eq!(commit(&mut window), Some((vec![1, 2], 0, vec![1..3])));
        assert_eq!(start(&mut window, 9), [4]);
        window.finish(4, 4);
        assert_eq!(commit(&mut window), Some((vec![4], 0, vec![1..3, 4..5])));
        assert!(window.finish(0, 0));
        assert!(!window.finish(0, 0));
        assert_eq!(commit(&mut window), Some((vec![0], 3, vec![4..5])));
        assert_eq!(start(&mut window, 9), [3]);
        window.finish(3, 3);
        assert_eq!(commit(&mut window), Some((vec![3], 5, vec![])));
        assert_eq!(window.unfinished(), 0);
    }

    #[test]
    fn what_finds_no_room_goes_next() {
        let mut window = window(&["a", "b", "c"]);
        start(&mut window, 3);
        (0..3).for_each(|offset| assert!(window.finish(offset, offset)));
        let mut room = 2;
        let part = window.take(&mut |_| {
            room -= 1;
            room >= 0
        });
        let part = part.unwrap();
        assert_eq!((&part.runs, part.progress.next), (&vec![0, 1], 2));
        window.committed(&part);
        assert_eq!(commit(&mut window), Some((vec![2], 3, vec![])));
    }

    #[test]
    fn records_without_a_run_move_the_offset() {
        let mut window = window(&[]);
        assert!(!window.has_moved());
        window.advance(5);
        assert!(window.has_moved());
        assert_eq!(window.idle().progress, from(5));
        window.wait(5, key("a"), ());
        window.advance(9);
        assert_eq!(window.idle().progress.next, 5);
        assert_eq!(window.idle().progress.finished, vec![6..9]);
        start(&mut window, 1);
        window.finish(5, 5);
        assert_eq!(commit(&mut window), Some((vec![5], 9, vec![])));
        assert!(!window.has_moved());
    }

    #[test]
    fn where_nothing_was_under_way_that_is_taken_back_before_a_start() {
        let mut window: Window<(), i64> = Window::new(Progress {
            clean: true,
            ..from(3)
        });
        assert!(!window.awaits_mark());
        assert_eq!(window.leave(), None);
        window.wait(3, key("a"), ());
        assert_eq!(start(&mut window, 9), [0_i64; 0]);
        assert!(window.awaits_mark());
        let mark = window.idle();
        assert_eq!(mark.progress, from(3));
        window.committed(&mark);
        assert!(!window.awaits_mark());
        assert_eq!(start(&mut window, 9), [3]);

        // Its run was ended where it was.
        let left = window.leave().unwrap();
        let clean = Progress {
            clean: true,
            ..from(3)
        };
        assert_eq!(left.progress, clean);
        window.committed(&left);
        assert_eq!(window.leave(), None);
    }

    #[test]
    fn nothing_after_a_halt_is_started() {
        let mut window = window(&["a", "b", "c"]);
        assert_eq!(start(&mut window, 2), [0, 1]);
        window.halt_at(1);
        assert_eq!(window.running(), 1);
        window.finish(0, 0);
        assert_eq!(commit(&mut window), Some((vec![0], 1, vec![])));
        assert_eq!(start(&mut window, 9), [0_i64; 0]);
        assert!(!window.has_moved());
        assert!(window.is_halted());
    }

    #[test]
    fn what_is_before_a_halt_goes_on() {
        let mut window = window(&["a", "a"]);
        window.halt_at(2);
        assert_eq!(start(&mut window, 9), [0]);
        window.finish(0, 0);
        assert_eq!(commit(&mut window), Some((vec![0], 1, vec![])));
        assert_eq!(start(&mut window, 9), [1]);
        window.finish(1, 1);
        assert_eq!(commit(&mut window), Some((vec![1], 2, vec![])));
        assert_eq!(commit(&mut window), None);
    }

    #[test]
    fn there_is_room_for_so_many_stretches_and_for_the_lowest_always() {
        let count = 3 * STRETCHES_MAX as i64;
        let keys: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut window = window(&keys);
        start(&mut window, keys.len());
        (1..count)
            .step_by(2)
            .for_each(|offset| assert!(window.finish(offset, offset)));
        let (runs, next, finished) = commit(&mut window).unwrap();
        assert_eq!(
            (runs.len(), next, finished.len()),
            (STRETCHES_MAX, 0, STRETCHES_MAX)
        );
        assert_eq!(commit(&mut window), None);
        window.finish(0, 0);
        let (runs, next, finished) = commit(&mut window).unwrap();
        assert_eq!((runs, next), (vec![0], 2));
        assert!(finished.len() < STRETCHES_MAX);
        assert_eq!(commit(&mut window).map(|(runs, ..)| runs.len()), Some(1));
    }

    proptest! {
        /// Owners that come and go, each going on from what was committed: everything is run once, and what the offset
        /// says is finished is what was committed.
        #[test]
        fn whoever_goes_on_runs_what_is_left(
            steps in prop::collection::vec((0..6u8, 0..40usize), 1..200),
            keys in prop::collection::vec(0..6u8, 40),
        ) {
            let mut stored = from(0);
            let mut done = BTreeSet::new();
            let mut window: Window<(), i64> = Window::new(stored.clone());
            for (step, number) in steps {
                match step {
                    // Reads on.
                    0 | 1 => {
                        let offset = window.next();
                        if offset < 40 {
                            let finished = window.is_finished(offset);
                            prop_assert_eq!(finished, done.contains(&offset));
                            match keys[offset as usize] {
                                _ if finished => window.advance(offset + 1),
                                // Filtered.
                                0 => { window.advance(offset + 1); done.insert(offset); }
                                own => window.wait(offset, key(&own.to_string()), ()),
                            }
                        }
                    }
                    2 => { start(&mut window, 1 + number % 4); }
                    3 => { window.finish(number as i64, number as i64); }
                    4 => {
                        if let Some(part) = window.take(&mut |_| true) {
                            // Read back as a successor would.
                            let committed = crate::log::Committed { offset: part.progress.next, metadata: part.progress.metadata(7) };
                            stored = Progress::read(&committed, &committed.metadata).unwrap();
                            prop_assert_eq!(&stored, &part.progress);
                            for run in &part.runs {
                                prop_assert!(done.insert(*run), "{} is committed twice", run);
                            }
                            window.committed(&part);
                        }
                    }
                    // Dies.
                    _ => {
                        let said = |offset: i64| offset < stored.next || stored.finished.iter().any(|own| own.contains(&offset));
                        done.retain(|offset| said(*offset) || keys[*offset as usize] != 0);
                        for offset in 0..40 {
                            prop_assert!(!said(offset) || done.contains(&offset) || keys[offset as usize] == 0);
                            prop_assert!(said(offset) || !done.contains(&offset), "{} was committed and is forgotten", offset);
                        }
                        window = Window::new(stored.clone());
                    }
                }
            }
        }
    }

    #[test]
    fn a_newer_trigger_takes_the_place_of_one_that_waits_and_frees_no_key() {
        let mut window = window(&["a", "b", "a", "a"]);
        assert_eq!(start(&mut window, 1), [0]);
        let any = |_: &()| true;
        let a = key("a").unwrap();
        assert_eq!(window.supersede(&a, &any), Some((3, ())));
        assert_eq!(window.supersede(&a, &|()| false), None);
        assert_eq!(window.supersede(&a, &any), Some((2, ())));
        // One that runs is not taken.
        assert_eq!(window.supersede(&a, &any), None);
        window.wait(4, key("a"), ());
        assert!(window.finish(2, 2) && window.finish(3, 3));
        assert_eq!(window.running(), 1);
        let part = window.take(&mut |_| true).unwrap();
        assert_eq!(part.runs, [2, 3]);
        window.committed(&part);
        // The run of 0 is still under way.
        assert_eq!(start(&mut window, 9), [1]);
        window.finish(0, 0);
        let part = window.take(&mut |_| true).unwrap();
        window.committed(&part);
        assert_eq!(start(&mut window, 9), [4]);
    }

    #[test]
    fn what_is_not_due_waits_and_is_not_overtaken_by_its_key() {
        let mut window: Window<u32, i64> = Window::new(from(0));
        for (offset, text, due) in [(0, "a", 9), (1, "a", 0), (2, "", 0), (3, "b", 0)] {
            window.wait(offset, key(text), due);
        }
        let mut offsets = |now: u32| -> Vec<i64> {
            let started = window.start(9, &|due| *due <= now);
            started.into_iter().map(|(offset, _, _)| offset).collect()
        };
        assert_eq!(offsets(0), [2, 3]);
        assert_eq!(offsets(9), [0]);
        assert_eq!(window.waiting().count(), 1);
    }
}
