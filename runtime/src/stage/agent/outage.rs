//! A provider that is away holds the replica: runs wait for it and use no attempt.
//!
//! A refusal that says nothing of the request (no connection, 429, 5xx) is taken for an outage, unless the provider
//! answered somebody else meanwhile: then it is about the request, and an attempt of its run. While it is away one run
//! at a time asks, the one that has waited longest; who asked in vain goes to the end of the line, so that a request
//! that the provider never answers cannot keep the others from finding out that it answers theirs.

use crate::backoff::{Backoff, Random};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Between one who asks and the next.
pub(super) const BACKOFF: Backoff = Backoff {
    initial: Duration::from_millis(250),
    // What others wait for at most where it was one request alone.
    max: Duration::from_secs(2),
};

/// What a replica knows of its provider.
pub(super) struct Provider {
    state: Mutex<State>,
    changed: Notify,
    backoff: Backoff,
    random: Random,
}

#[derive(Default)]
struct State {
    away: Option<Away>,
    /// Answers so far.
    answers: u64,
    tickets: u64,
    /// Who waits, the longest first.
    waiting: BTreeSet<u64>,
}

struct Away {
    failures: u32,
    ask_at: Instant,
    asking: bool,
}

/// Leave to ask once.
pub(super) struct Pass<'a> {
    provider: &'a Provider,
    /// Answers when it was given.
    answers: u64,
    probe: bool,
}

/// What a refusal is.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// The provider is away: ask again with another pass.
    Outage,
    /// About the request: others were answered.
    OfTheRequest,
}

impl Provider {
    pub(super) fn new(backoff: Backoff, random: Random) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            backoff,
            random,
        }
    }

    /// Leave to ask now; `None` while the provider is away.
    pub(super) fn try_pass(&self) -> Option<Pass<'_>> {
        let state = self.lock();
        state.away.is_none().then(|| Pass {
            provider: self,
            answers: state.answers,
            probe: false,
        })
    }

    /// Waits as long as the provider is away, or for the turn to find out.
    pub(super) async fn pass(&self) -> Pass<'_> {
        let mut place: Option<Place<'_>> = None;
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let ask_at = {
                let mut state = self.lock();
                let answers = state.answers;
                let Some(ask_at) = state.away.as_ref().map(|away| away.ask_at) else {
                    return Pass {
                        provider: self,
                        answers,
                        probe: false,
                    };
                };
                let ticket = match &place {
                    Some(place) => place.ticket,
                    None => {
                        state.tickets += 1;
                        let ticket = state.tickets;
                        state.waiting.insert(ticket);
                        place = Some(Place {
                            provider: self,
                            ticket,
                        });
                        ticket
                    }
                };
                let first = state.waiting.first() == Some(&ticket);
                match &mut state.away {
                    Some(away) if first && !away.asking => {
                        if ask_at <= Instant::now() {
                            away.asking = true;
                            return Pass {
                                provider: self,
                                answers,
                                probe: true,
                            };
                        }
                        Some(ask_at)
                    }
                    _ => None,
                }
            };
            match ask_at {
                // Either says to look again.
                Some(at) => drop(timeout_at(at, changed).await),
                None => changed.await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The provider answered: it is there, whatever it said. True where it had been away.
    pub(super) fn answered(self) -> bool {
        let mut state = self.provider.lock();
        state.answers += 1;
        let back = state.away.take().is_some();
        drop(state);
        if back {
            self.provider.changed.notify_waiters();
        }
        back
    }

    /// It refused without a word about the request. `since`: [`Provider`]'s answers at the last refusal of the same
    /// run, to be kept for the next. `wait`: as the provider asks.
    pub(super) fn refused(self, since: &mut Option<u64>, wait: Duration) -> Refusal {
        let mut state = self.provider.lock();
        let before = since.unwrap_or(self.answers);
        *since = Some(state.answers);
        if state.answers > before {
            return Refusal::OfTheRequest;
        }
        let failures = state.away.as_ref().map_or(0, |away| away.failures);
        // Who was under way when it was found out knows nothing new.
        if state.away.is_none() || self.probe {
            let failures = failures.saturating_add(1);
            let backoff = self.provider.backoff.after(failures, &self.provider.random);
            let wait = backoff.max(wait);
            state.away = Some(Away {
                failures,
                ask_at: Instant::now() + wait,
                asking: false,
            });
        }
        Refusal::Outage
    }
}

impl Drop for Pass<'_> {
    /// Whatever came of it, another may ask now.
    fn drop(&mut self) {
        if !self.probe {
            return;
        }
        if let Some(away) = &mut self.provider.lock().away
            && away.asking
        {
            away.asking = false;
            let wait = self
                .provider
                .backoff
                .after(away.failures, &self.provider.random);
            away.ask_at = Instant::now() + wait;
        }
        self.provider.changed.notify_waiters();
    }
}

/// A place in the line, given up when it is dropped.
struct Place<'a> {
    provider: &'a Provider,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.provider.lock().waiting.remove(&self.ticket);
        self.provider.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn provider() -> Arc<Provider> {
        let backoff = Backoff {
            initial: Duration::from_millis(1),
            max: Duration::from_millis(4),
        };
        Arc::new(Provider::new(backoff, Random::seeded(1)))
    }

    const NOW: Duration = Duration::ZERO;

    #[tokio::test]
    async fn while_it_is_away_one_asks_at_a_time_and_all_go_once_it_answers() {
        let provider = provider();
        let first = provider.pass().await;
        assert_eq!(first.refused(&mut None, NOW), Refusal::Outage);
        assert!(provider.try_pass().is_none());
        let asked = Arc::new(Mutex::new(0));
        let runs: Vec<_> = (0..5)
            .map(|_| {
                let (provider, asked) = (Arc::clone(&provider), Arc::clone(&asked));
                tokio::spawn(async move {
                    let mut since = None;
                    let mut refusals = 0;
                    loop {
                        let pass = provider.pass().await;
                        let mut count = asked.lock().unwrap();
                        *count += 1;
                        if *count > 7 {
                            pass.answered();
                            return refusals;
                        }
                        assert_eq!(pass.refused(&mut since, NOW), Refusal::Outage);
                        refusals += 1;
                    }
                })
            })
            .collect();
        let mut refusals = Vec::new();
        for run in runs {
            refusals.push(run.await.unwrap());
        }
        refusals.sort_unstable();
        // In turn: seven refusals among five.
        assert_eq!(refusals, [1, 1, 1, 2, 2]);
        assert_eq!(*asked.lock().unwrap(), 12);
        assert!(provider.try_pass().is_some());
    }

    #[tokio::test]
    async fn a_refusal_is_of_the_request_where_another_was_answered_since() {
        let provider = provider();
        let mut since = None;
        let (one, other) = (provider.pass().await, provider.pass().await);
        other.answered();
        assert_eq!(one.refused(&mut since, NOW), Refusal::OfTheRequest);
        // Nobody else asked since: it may be away now.
        let again = provider.pass().await;
        assert_eq!(again.refused(&mut since, NOW), Refusal::Outage);
        // Another one finds out that it is not, and the next refusal counts again.
        provider.pass().await.answered();
        let again = provider.pass().await;
        assert_eq!(again.refused(&mut since, NOW), Refusal::OfTheRequest);
    }

    #[tokio::test]
    async fn who_was_refused_lets_others_ask_first() {
        let provider = provider();
        let mut since = None;
        assert_eq!(
            provider.pass().await.refused(&mut since, NOW),
            Refusal::Outage
        );
        let other = {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move { provider.pass().await.answered() })
        };
        tokio::task::yield_now().await;
        let pass = provider.pass().await;
        assert!(other.await.unwrap());
        assert!(!pass.probe);
        assert_eq!(pass.refused(&mut since, NOW), Refusal::OfTheRequest);
    }

    #[tokio::test]
    async fn a_probe_that_is_given_up_is_anothers_turn_and_a_wait_that_is_asked_for_is_kept() {
        let provider = provider();
        let begun = Instant::now();
        let asked = Duration::from_millis(60);
        let first = provider.pass().await;
        assert_eq!(first.refused(&mut None, asked), Refusal::Outage);
        let probe = provider.pass().await;
        assert!(probe.probe && begun.elapsed() >= asked);
        drop(probe);
        assert!(provider.pass().await.probe);
    }
}
