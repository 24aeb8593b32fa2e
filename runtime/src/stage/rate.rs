//! Events per second over the last seconds, counted in buckets of a second.

use std::time::{Duration, Instant};

/// Whole seconds that are looked back on.
const SECONDS: u64 = 10;

pub(super) struct Rate {
    begun: Instant,
    /// By second since the beginning, modulo their number; one more for the second that is not over.
    counts: [u64; SECONDS as usize + 1],
    /// The second of the latest count.
    latest: u64,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            begun: now,
            counts: [0; SECONDS as usize + 1],
            latest: 0,
        }
    }

    pub(super) fn add(&mut self, events: u64, now: Instant) {
        let second = self.move_to(now);
        if let Some(count) = self.counts.get_mut(Self::place(second)) {
            *count += events;
        }
    }

    /// Over the whole seconds of the last ten, or all of the time where it is shorter.
    pub(super) fn per_second(&mut self, now: Instant) -> f64 {
        let second = self.move_to(now);
        let age = now.saturating_duration_since(self.begun);
        let all: u64 = self.counts.iter().sum();
        if age < Duration::from_secs(1) {
            return all as f64;
        }
        let unfinished = self.counts.get(Self::place(second)).copied().unwrap_or(0);
        let seconds = second.clamp(1, SECONDS);
        (all - unfinished) as f64 / seconds as f64
    }

    /// Empties the buckets that no time has counted in for too long.
    fn move_to(&mut self, now: Instant) -> u64 {
        let second = now.saturating_duration_since(self.begun).as_secs();
        let missed = second.saturating_sub(self.latest).min(SECONDS + 1);
        for step in 0..missed {
            if let Some(count) = self.counts.get_mut(Self::place(second - step)) {
                *count = 0;
            }
        }
        self.latest = self.latest.max(second);
        second
    }

    fn place(second: u64) -> usize {
        (second % (SECONDS + 1)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_whole_seconds_and_forgets_old_ones() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut rate = Rate::new(begun);
        rate.add(30, at(500));
        assert_eq!(rate.per_second(at(900)), 30.0);
        // The second that is not over does not count yet.
        rate.add(99, at(1_500));
        assert_eq!(rate.per_second(at(1_600)), 30.0);
        assert_eq!(rate.per_second(at(3_000)), 43.0);
        for second in 2..30 {
            rate.add(7, at(second * 1_000 + 10));
        }
        assert_eq!(rate.per_second(at(30_000)), 7.0);
        assert_eq!(rate.per_second(at(35_000)), 3.5);
        assert_eq!(rate.per_second(at(300_000)), 0.0);
    }
}
