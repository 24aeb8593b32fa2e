//! The unfinished triggers of one partition, in offset order.
//!
//! Pure bookkeeping: which may start, and how far the offset may be committed. Runs of one key are in
//! order, and the next one starts only when its predecessor is *committed*, not merely finished; runs
//! of different keys go on at once. What is committed is always a prefix, so that the group's offset
//! alone says what is done.

use headwater_engine::key::Key;
use std::collections::{HashSet, VecDeque};

/// `W` waits for its start, `F` is finished and waits for its commit.
pub(super) struct Window<W, F> {
    entries: VecDeque<Entry<W, F>>,
    /// Keys of runs that are under way, or finished and not committed.
    busy: HashSet<Key>,
    /// Next offset to be read.
    next: i64,
    /// Next offset as the group's offset has it.
    committed: i64,
    halted: bool,
    running: usize,
}

struct Entry<W, F> {
    offset: i64,
    key: Option<Key>,
    state: State<W, F>,
}

enum State<W, F> {
    Waiting(W),
    Running,
    Finished(F),
    /// Never to be committed: the partition stands still here.
    Halted,
}

/// A finished prefix, on its way into a transaction.
#[derive(Debug, PartialEq)]
pub(super) struct Prefix<F> {
    pub(super) runs: Vec<F>,
    pub(super) keys: Vec<Key>,
    /// The offset to commit.
    pub(super) next: i64,
}

impl<W, F> Window<W, F> {
    pub(super) fn new(next: i64) -> Self {
        Self {
            entries: VecDeque::new(),
            busy: HashSet::new(),
            next,
            committed: next,
            halted: false,
            running: 0,
        }
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
        self.entries.push_back(Entry { offset, key, state });
        self.next = self.next.max(offset + 1);
    }

    /// Everything below `next` was read: filtered records and control records too.
    pub(super) fn advance(&mut self, next: i64) {
        self.next = self.next.max(next);
    }

    /// Stands still at this record: it is not run, nor anything after it.
    pub(super) fn halt_at(&mut self, offset: i64) {
        match self.entries.iter_mut().find(|entry| entry.offset == offset) {
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

    /// Takes out at most `limit` triggers that may start now, in offset order.
    pub(super) fn start(&mut self, limit: usize) -> Vec<(i64, Option<Key>, W)> {
        let mut started = Vec::new();
        // A key whose earlier trigger waits is not overtaken.
        let mut passed: HashSet<Key> = HashSet::new();
        for entry in &mut self.entries {
            if started.len() == limit || matches!(entry.state, State::Halted) {
                break;
            }
            if !matches!(entry.state, State::Waiting(_)) {
                continue;
            }
            if let Some(key) = &entry.key
                && (self.busy.contains(key) || !passed.insert(key.clone()))
            {
                continue;
            }
            if let State::Waiting(trigger) = std::mem::replace(&mut entry.state, State::Running) {
                self.busy.extend(entry.key.clone());
                self.running += 1;
                started.push((entry.offset, entry.key.clone(), trigger));
            }
        }
        started
    }

    /// A run ended. False where the window does not know it.
    pub(super) fn finish(&mut self, offset: i64, finished: F) -> bool {
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.offset == offset && matches!(entry.state, State::Running));
        let Some(entry) = entry else { return false };
        entry.state = State::Finished(finished);
        self.running -= 1;
        true
    }

    /// Takes out the finished prefix, as long as there is room. Its keys stay busy until
    /// [`Window::committed`]. `None` where there is nothing to commit but offsets of records that
    /// started no run; those are [`Window::idle_offset`].
    pub(super) fn take(&mut self, room: &mut dyn FnMut(&F) -> bool) -> Option<Prefix<F>> {
        let mut prefix = Prefix {
            runs: Vec::new(),
            keys: Vec::new(),
            next: 0,
        };
        while let Some(Entry {
            state: State::Finished(finished),
            ..
        }) = self.entries.front()
            && room(finished)
        {
            if let Some(Entry {
                key,
                state: State::Finished(finished),
                ..
            }) = self.entries.pop_front()
            {
                prefix.runs.push(finished);
                prefix.keys.extend(key);
            }
        }
        prefix.next = self.reached();
        (!prefix.runs.is_empty()).then_some(prefix)
    }

    /// The offset that may be committed though no run ended.
    pub(super) fn idle_offset(&self) -> Option<i64> {
        let reached = self.reached();
        (reached > self.committed).then_some(reached)
    }

    /// Below it everything is committed or on its way into a transaction.
    pub(super) fn reached(&self) -> i64 {
        self.entries.front().map_or(self.next, |entry| entry.offset)
    }

    /// A transaction with this prefix is committed.
    pub(super) fn committed(&mut self, next: i64, keys: &[Key]) {
        self.committed = self.committed.max(next);
        for key in keys {
            self.busy.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Option<Key> {
        Key::from_text(text).unwrap()
    }

    fn window(keys: &[&str]) -> Window<(), i64> {
        let mut window = Window::new(0);
        for (offset, text) in (0..).zip(keys) {
            window.wait(offset, key(text), ());
        }
        window
    }

    fn start(window: &mut Window<(), i64>, limit: usize) -> Vec<i64> {
        window
            .start(limit)
            .into_iter()
            .map(|(offset, _, _)| offset)
            .collect()
    }

    fn commit(window: &mut Window<(), i64>) -> Option<(Vec<i64>, i64)> {
        let prefix = window.take(&mut |_| true)?;
        window.committed(prefix.next, &prefix.keys);
        Some((prefix.runs, prefix.next))
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
        assert_eq!(commit(&mut window), Some((vec![0], 1)));
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
    fn commits_are_prefixes() {
        let mut window = window(&["a", "b", "c"]);
        start(&mut window, 3);
        window.finish(1, 1);
        window.finish(2, 2);
        assert_eq!(commit(&mut window), None);
        assert!(window.finish(0, 0));
        assert!(!window.finish(0, 0));
        let mut room = 2;
        let prefix = window.take(&mut |_| {
            room -= 1;
            room >= 0
        });
        let prefix = prefix.unwrap();
        assert_eq!((prefix.runs, prefix.next), (vec![0, 1], 2));
        assert_eq!(commit(&mut window), Some((vec![2], 3)));
        assert_eq!(window.unfinished(), 0);
    }

    #[test]
    fn records_without_a_run_move_the_offset() {
        let mut window = window(&[]);
        assert_eq!(window.idle_offset(), None);
        window.advance(5);
        assert_eq!(window.idle_offset(), Some(5));
        window.wait(5, key("a"), ());
        window.advance(9);
        assert_eq!(window.idle_offset(), Some(5));
        start(&mut window, 1);
        window.finish(5, 5);
        assert_eq!(commit(&mut window), Some((vec![5], 9)));
        assert_eq!(window.idle_offset(), None);
    }

    #[test]
    fn nothing_at_or_after_a_halt_is_committed_or_started() {
        let mut window = window(&["a", "b", "c"]);
        assert_eq!(start(&mut window, 2), [0, 1]);
        window.halt_at(1);
        assert_eq!(window.running(), 1);
        window.finish(0, 0);
        assert_eq!(commit(&mut window), Some((vec![0], 1)));
        assert_eq!(start(&mut window, 9), [0_i64; 0]);
        assert_eq!(window.idle_offset(), None);
        assert!(window.is_halted());
    }

    #[test]
    fn what_is_before_a_halt_goes_on() {
        let mut window = window(&["a", "a"]);
        window.halt_at(2);
        assert_eq!(start(&mut window, 9), [0]);
        window.finish(0, 0);
        assert_eq!(commit(&mut window), Some((vec![0], 1)));
        assert_eq!(start(&mut window, 9), [1]);
        window.finish(1, 1);
        assert_eq!(commit(&mut window), Some((vec![1], 2)));
        assert_eq!(commit(&mut window), None);
    }
}
