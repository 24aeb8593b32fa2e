//! How long to wait before the next try: exponential, with jitter, from randomness that is handed in.
//!
//! Whether to try again is the caller's decision.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Randomness for jitter (SplitMix64): good enough to spread retries, and the same for the same seed.
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Random {
    pub fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Another sequence in each process.
    pub fn unseeded() -> Self {
        Self::seeded(RandomState::new().hash_one("jitter"))
    }

    pub fn next(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let state = self.0.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Doubles from `initial` to `max`; of each step the upper half is random, so that many that failed
/// together do not come back together.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub initial: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row, counted from 1.
    pub fn after(&self, failures: u32, random: &Random) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let step = self.initial.saturating_mul(1 << doublings).min(self.max);
        let half = u64::try_from(step.as_micros() / 2).unwrap_or(u64::MAX);
        let jitter = if half == 0 {
            0
        } else {
            random.next() % (half + 1)
        };
        Duration::from_micros(half.saturating_add(jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_and_is_spread_over_the_upper_half() {
        let backoff = Backoff {
            initial: Duration::from_millis(100),
            max: Duration::from_millis(800),
        };
        let random = Random::seeded(7);
        for (failures, step) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 800), (99, 800)] {
            let waits: Vec<_> = (0..100).map(|_| backoff.after(failures, &random)).collect();
            assert!(waits.iter().all(|wait| {
                (Duration::from_millis(step / 2)..=Duration::from_millis(step)).contains(wait)
            }));
            assert!(waits.iter().any(|wait| *wait != waits[0]));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_waits() {
        let backoff = Backoff {
            initial: Duration::from_millis(100),
            max: Duration::from_secs(8),
        };
        let (a, b) = (Random::seeded(1), Random::seeded(1));
        let waits = |random: &Random| (1..9).map(|n| backoff.after(n, random)).collect::<Vec<_>>();
        assert_eq!(waits(&a), waits(&b));
    }
}
