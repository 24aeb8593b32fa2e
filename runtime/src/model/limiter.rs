//! What a replica may ask of a model: requests and tokens a minute, and requests at once.
//!
//! A replica has a share of what the resource allows all replicas of all agents together; the share changes while it works
//! ([`Limiters::set`]). Who waits, waits in order. What a minute allows comes evenly: after a pause, ten seconds of it at once, and
//! then as fast as the minute goes. Tokens are counted when a request is sent, by what it holds, and put right when the answer says
//! how many there were: an answer is never cut off for them, the next request waits.

use headwater_engine::config::Limits;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// So much of a minute's allowance may be used at once.
const BURST: Duration = Duration::from_secs(10);
const MINUTE: f64 = 60.0;

/// Of a model, in one replica.
#[derive(Debug)]
pub struct Limiter {
    state: Mutex<State>,
    /// Held by whoever is next.
    turn: tokio::sync::Mutex<()>,
    /// A request is over, or the limits are others.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    under_way: u32,
    requests: Bucket,
    tokens: Bucket,
}

/// What of a minute's allowance is left; below nothing where more was used than was known of.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// Why a request has to wait.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wait {
    For(Duration),
    /// As many as may are under way.
    Over,
}

/// A request that may be sent; it is under way as long as this is held.
#[derive(Debug)]
pub struct Permit<'a> {
    limiter: &'a Limiter,
    /// Counted when it was sent.
    tokens: u64,
}

impl Bucket {
    /// Full.
    fn new(a_minute: Option<f64>, now: Instant) -> Self {
        Self {
            left: a_minute.map_or(0.0, at_once),
            at: now,
        }
    }

    /// Adds what came since, and says how long it takes until something is there.
    fn wait(&mut self, a_minute: Option<f64>, now: Instant) -> Duration {
        let Some(a_minute) = a_minute else {
            return Duration::ZERO;
        };
        let came = now.saturating_duration_since(self.at).as_secs_f64() * a_minute / MINUTE;
        self.left = (self.left + came).min(at_once(a_minute));
        self.at = now;
        if self.left >= 1.0 {
            return Duration::ZERO;
        }
        let seconds = (1.0 - self.left) * MINUTE / a_minute;
        // A share is above nothing, and what was used is a number of tokens.
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl Bucket {
    /// Where there is no limit, nothing is counted that a later one would go by.
    fn take(&mut self, a_minute: Option<f64>, amount: f64) {
        if a_minute.is_some() {
            self.left -= amount;
        }
    }

    /// Another limit, from now on: what was used of the former one counts on, and a first one begins full.
    fn change(&mut self, before: Option<f64>, after: Option<f64>, now: Instant) {
        match before {
            Some(_) => {
                self.wait(before, now);
            }
            None => *self = Self::new(after, now),
        }
    }
}

/// At least one request, however few a minute allows.
fn at_once(a_minute: f64) -> f64 {
    (a_minute / MINUTE * BURST.as_secs_f64()).max(1.0)
}

impl State {
    fn admit(&mut self, tokens: u64, now: Instant) -> Result<(), Wait> {
        let limits = self.limits;
        if let Some(most) = limits.concurrent_requests
            && self.under_way >= most.max(1)
        {
            return Err(Wait::Over);
        }
        let requests = self.requests.wait(limits.requests_per_minute, now);
        let waits = requests.max(self.tokens.wait(limits.tokens_per_minute, now));
        if !waits.is_zero() {
            return Err(Wait::For(waits));
        }
        self.under_way += 1;
        self.requests.take(limits.requests_per_minute, 1.0);
        self.use_tokens(tokens as f64);
        Ok(())
    }

    fn use_tokens(&mut self, tokens: f64) {
        self.tokens.take(self.limits.tokens_per_minute, tokens);
    }
}

impl Limiter {
    pub fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            state: Mutex::new(State {
                limits,
                under_way: 0,
                requests: Bucket::new(limits.requests_per_minute, now),
                tokens: Bucket::new(limits.tokens_per_minute, now),
            }),
            turn: tokio::sync::Mutex::new(()),
            changed: Notify::new(),
        }
    }

    /// Waits until a request of so many tokens may be sent; `None`: not before `deadline`. They are counted only where a limit
    /// goes by them, which takes its time.
    pub async fn admit(
        &self,
        tokens: impl FnOnce() -> u64,
        deadline: Instant,
    ) -> Option<Permit<'_>> {
        let counts = self.lock().limits.tokens_per_minute.is_some();
        let tokens = if counts { tokens() } else { 0 };
        timeout_at(deadline, self.wait(tokens)).await.ok()
    }

    async fn wait(&self, tokens: u64) -> Permit<'_> {
        let _turn = self.turn.lock().await;
        loop {
            let changed = self.changed.notified();
            let admitted = self.lock().admit(tokens, Instant::now());
            match admitted {
                Ok(()) => {
                    return Permit {
                        limiter: self,
                        tokens,
                    };
                }
                Err(Wait::Over) => changed.await,
                Err(Wait::For(time)) => {
                    // Where the limits become others meanwhile, it looks again.
                    let _ = tokio::time::timeout(time, changed).await;
                }
            }
        }
    }

    fn set(&self, limits: Limits) {
        let mut state = self.lock();
        if state.limits != limits {
            let now = Instant::now();
            let before = std::mem::replace(&mut state.limits, limits);
            let requests = (before.requests_per_minute, limits.requests_per_minute);
            state.requests.change(requests.0, requests.1, now);
            let tokens = (before.tokens_per_minute, limits.tokens_per_minute);
            state.tokens.change(tokens.0, tokens.1, now);
            drop(state);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// How many tokens there were, as the provider counted them.
    pub fn used(&self, tokens: u64) {
        let mut state = self.limiter.lock();
        state.use_tokens(tokens as f64 - self.tokens as f64);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.limiter.lock().under_way -= 1;
        self.limiter.changed.notify_one();
    }
}

/// Those of the models of a process, by name: so that their shares can be set while they are asked.
#[derive(Debug, Default)]
pub struct Limiters(Mutex<BTreeMap<String, Arc<Limiter>>>);

impl Limiters {
    /// That of a model, made with these limits where it is asked for first.
    pub fn of(&self, model: &str, limits: Limits) -> Arc<Limiter> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let limiter = all
            .entry(model.to_owned())
            .or_insert_with(|| Arc::new(Limiter::new(limits)));
        Arc::clone(limiter)
    }

    /// Other limits of a model, from now on.
    pub fn set(&self, model: &str, limits: Limits) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limiter) = all.get(model) {
            limiter.set(limits);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_secs(3_600);

    fn limits(requests: Option<f64>, tokens: Option<f64>, at_once: Option<u32>) -> Limits {
        Limits {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            concurrent_requests: at_once,
        }
    }

    fn state(limits: Limits, now: Instant) -> State {
        State {
            limits,
            under_way: 0,
            requests: Bucket::new(limits.requests_per_minute, now),
            tokens: Bucket::new(limits.tokens_per_minute, now),
        }
    }

    /// Asks as often as may be for so long; gives how often it could.
    fn asked(state: &mut State, from: Instant, minutes: u32, tokens: u64) -> u32 {
        let (mut now, mut count) = (from, 0);
        while now < from + Duration::from_secs(60) * minutes {
            match state.admit(tokens, now) {
                Ok(()) => {
                    count += 1;
                    state.under_way -= 1;
                }
                Err(Wait::For(time)) => now += time.max(Duration::from_nanos(1)),
                Err(Wait::Over) => panic!("none is under way"),
            }
        }
        count
    }

    #[test]
    fn requests_come_evenly_after_ten_seconds_at_once() {
        let now = Instant::now();
        let mut state = state(limits(Some(60.0), None, None), now);
        for _ in 0..10 {
            assert_eq!(state.admit(1, now), Ok(()));
        }
        let Err(Wait::For(wait)) = state.admit(1, now) else {
            panic!("an eleventh")
        };
        assert!((wait.as_secs_f64() - 1.0).abs() < 1e-6, "{wait:?}");
        assert_eq!(state.admit(1, now + wait), Ok(()));
        // Of a long pause no more is kept.
        assert_eq!(asked(&mut state, now + FAR, 1, 1), 69);
        assert_eq!(
            asked(&mut state, now + FAR + Duration::from_secs(60), 10, 1),
            600
        );
    }

    #[test]
    fn a_share_below_one_is_one_now_and_then() {
        let now = Instant::now();
        let mut state = state(limits(Some(0.5), None, None), now);
        assert_eq!(asked(&mut state, now, 20, 1), 10);
    }

    #[test]
    fn tokens_count_whatever_one_request_has() {
        let now = Instant::now();
        // Three times what may be used at once: it goes, and the next ones wait for it.
        let mut state = state(limits(None, Some(6_000.0), None), now);
        assert_eq!(asked(&mut state, now, 60, 3_000), 121);
        // What was less than was thought is given back.
        let limiter = Limiter::new(limits(None, Some(60.0), None));
        limiter.lock().admit(500, now).unwrap();
        let permit = Permit {
            limiter: &limiter,
            tokens: 500,
        };
        permit.used(3);
        drop(permit);
        let mut state = limiter.lock();
        assert_eq!(state.under_way, 0);
        assert!((state.tokens.left - 7.0).abs() < 1e-6, "{state:?}");
        assert_eq!(state.admit(1, now), Ok(()));
    }

    #[tokio::test]
    async fn so_many_at_once_and_in_order() {
        let limiter = Arc::new(Limiter::new(limits(None, None, Some(2))));
        let far = Instant::now() + FAR;
        let first = limiter.admit(|| 1, far).await.unwrap();
        let _second = limiter.admit(|| 1, far).await.unwrap();
        let soon = Instant::now() + Duration::from_millis(5);
        assert!(limiter.admit(|| 1, soon).await.is_none());
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..3)
            .map(|number| {
                let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
                async move {
                    let permit = limiter.admit(|| 1, far).await.unwrap();
                    order.lock().unwrap().push(number);
                    drop(permit);
                }
            })
            .collect();
        let all = futures::future::join_all(waiting);
        tokio::pin!(all);
        assert!(futures::poll!(&mut all).is_pending());
        drop(first);
        all.await;
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn who_waits_hears_of_other_limits() {
        let limiters = Limiters::default();
        let limiter = limiters.of("chat", limits(Some(0.001), None, None));
        let far = Instant::now() + FAR;
        drop(limiter.admit(|| 1, far).await.unwrap());
        let waits = limiter.admit(|| 1, far);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        limiters.set("chat", Limits::default());
        assert!(waits.await.is_some());
        // What was asked without a limit is not held against the first one.
        for _ in 0..100 {
            let permit = limiter.admit(|| 1_000, far).await.unwrap();
            permit.used(1_000_000);
        }
        limiters.set("chat", limits(Some(60.0), Some(600.0), None));
        let soon = Instant::now() + Duration::from_secs(5);
        assert!(limiter.admit(|| 1, soon).await.is_some());
        assert!(Arc::ptr_eq(
            &limiter,
            &limiters.of("chat", Limits::default())
        ));
    }
}
