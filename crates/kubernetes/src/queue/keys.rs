//! Which key is handled when, without clock and tasks.
//!
//! 1. A key waits at most once, however often it is added. Keys that are ready are taken in the order in
//!    which they became so.
//! 2. A key is never handled twice at the same time. Added while it is handled, it is ready again afterwards.
//! 3. A key whose handling fails comes again after a delay that doubles per failure in a row; one key's
//!    failures do not delay another. How soon, and whether at all, the failure itself says
//!    ([`Failure::retry`](crate::Failure::retry)).
//! 4. An addition during such a delay may be the change that helps, so it brings the key forward, but never
//!    to less than [`QueueConfig::eager`] after the last attempt: a stream of events does not turn a failing
//!    key into a tight loop. A delay that the other side asked for (`Retry-After`) is kept.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kuryr_types::Retry;
use tokio::time::Instant;

use super::{FailingKey, QueueConfig, QueueStats};
use crate::{Outcome, backoff::Jitter};

/// Keys by what becomes of them next.
pub(super) struct Keys<K> {
    config: QueueConfig,
    entries: BTreeMap<K, Entry>,
    ready: VecDeque<K>,
    delayed: BTreeSet<(Instant, K)>,
    jitter: Jitter,
    totals: QueueStats,
}

/// A key is known while it waits or is handled.
struct Entry {
    phase: Phase,
    failures: Option<Failures>,
}

enum Phase {
    Ready,
    /// Handled at `at`; an addition brings that forward to `earliest` at most.
    Delayed {
        at: Instant,
        earliest: Instant,
    },
    /// `dirty`: added meanwhile. `again_at`: added meanwhile for later.
    Running {
        dirty: bool,
        again_at: Option<Instant>,
    },
}

struct Failures {
    attempts: u32,
    since: Instant,
    why: String,
}

impl<K: Ord + Clone> Keys<K> {
    /// No keys.
    pub(super) fn new(config: QueueConfig) -> Self {
        Self {
            jitter: config.seed.map_or_else(Jitter::random, Jitter::seeded),
            config,
            entries: BTreeMap::new(),
            ready: VecDeque::new(),
            delayed: BTreeSet::new(),
            totals: QueueStats::default(),
        }
    }

    /// Has `key` handled as soon as the rules allow.
    pub(super) fn add(&mut self, key: K, now: Instant) {
        match self.entries.get_mut(&key).map(|entry| &mut entry.phase) {
            None => self.enter(key, Phase::Ready),
            Some(Phase::Ready) => {}
            Some(Phase::Running { dirty, .. }) => *dirty = true,
            Some(Phase::Delayed { earliest, .. }) => {
                let at = *earliest;
                self.bring_forward(&key, at, now);
            }
        }
    }

    /// Has `key` handled after `delay`, unless it is handled sooner for another reason.
    pub(super) fn add_after(&mut self, key: K, delay: Duration, now: Instant) {
        let wanted = now + delay;
        match self.entries.get_mut(&key).map(|entry| &mut entry.phase) {
            None => self.enter(key, Phase::Delayed { at: wanted, earliest: now }),
            Some(Phase::Ready) => {}
            Some(Phase::Running { again_at, .. }) => {
                *again_at = Some(again_at.map_or(wanted, |at| at.min(wanted)));
            }
            Some(Phase::Delayed { earliest, .. }) => {
                let at = (*earliest).max(wanted);
                self.bring_forward(&key, at, now);
            }
        }
    }

    /// Takes the next ready key, with the number of the attempt.
    pub(super) fn take(&mut self, now: Instant) -> Option<(K, u32)> {
        self.wake(now);
        let key = self.ready.pop_front()?;
        let entry = self.entries.get_mut(&key)?;
        entry.phase = Phase::Running { dirty: false, again_at: None };
        self.totals.running += 1;
        Some((key, entry.failures.as_ref().map_or(1, |failures| failures.attempts + 1)))
    }

    /// When the first delayed key falls due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// Notes the end of a handling and decides when the key comes again.
    pub(super) fn ended(&mut self, key: &K, result: Result<Outcome, Failed>, now: Instant) {
        let Some(entry) = self.entries.remove(key) else { return };
        let Phase::Running { dirty, again_at } = entry.phase else { return };
        self.totals.running -= 1;
        let (next, failures) = match result {
            Ok(outcome) => {
                self.totals.handled_total += 1;
                (after(&outcome, now), None)
            }
            Err(failed) => {
                self.totals.failed_total += 1;
                self.totals.panicked_total += u64::from(failed.panicked);
                let attempts =
                    entry.failures.as_ref().map_or(0, |failures| failures.attempts).saturating_add(1);
                let since = entry.failures.map_or(now, |failures| failures.since);
                let next = self.after_failure(failed.retry, attempts, now);
                (Some(next), Some(Failures { attempts, since, why: failed.why }))
            }
        };
        if let Some((at, earliest)) = next {
            self.entries.insert(key.clone(), Entry { phase: Phase::Delayed { at, earliest }, failures });
            self.delayed.insert((at, key.clone()));
        }
        // What was added meanwhile is added now, under the same rules as any addition.
        if let Some(at) = again_at {
            self.add_after(key.clone(), at.saturating_duration_since(now), now);
        }
        if dirty {
            self.add(key.clone(), now);
        }
    }

    /// When a failing key comes again, and what an addition may shorten that to.
    fn after_failure(&mut self, retry: Retry, attempts: u32, now: Instant) -> (Instant, Instant) {
        let eager = now + self.config.eager;
        match retry {
            Retry::Backoff => {
                let at = now + self.config.backoff.delay(attempts, &mut self.jitter);
                (at, at.min(eager))
            }
            Retry::Never => (now + self.config.parked, eager.min(now + self.config.parked)),
            Retry::After(delay) => (now + delay, now + delay),
        }
    }

    /// Puts back a key whose handling was cut off.
    pub(super) fn put_back(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key)
            && matches!(entry.phase, Phase::Running { .. })
        {
            self.totals.running -= 1;
            entry.phase = Phase::Ready;
            self.ready.push_back(key.clone());
        }
    }

    /// Drops all keys that are not being handled, and all failures.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.delayed.clear();
        self.entries.retain(|_, entry| {
            entry.failures = None;
            match &mut entry.phase {
                Phase::Running { dirty, again_at } => {
                    (*dirty, *again_at) = (false, None);
                    true
                }
                _ => false,
            }
        });
    }

    /// What is held and was done.
    pub(super) fn stats(&self) -> QueueStats {
        QueueStats {
            ready: self.ready.len(),
            delayed: self.delayed.len(),
            failing: self.entries.values().filter(|entry| entry.failures.is_some()).count(),
            ..self.totals
        }
    }

    /// The keys whose last handling failed.
    pub(super) fn failing(&self) -> Vec<FailingKey<K>> {
        let failing = |(key, entry): (&K, &Entry)| {
            let Failures { attempts, since, why } = entry.failures.as_ref()?;
            Some(FailingKey { key: key.clone(), attempts: *attempts, since: *since, why: why.clone() })
        };
        self.entries.iter().filter_map(failing).collect()
    }

    fn enter(&mut self, key: K, phase: Phase) {
        match phase {
            Phase::Delayed { at, .. } => drop(self.delayed.insert((at, key.clone()))),
            _ => self.ready.push_back(key.clone()),
        }
        self.entries.insert(key, Entry { phase, failures: None });
    }

    /// Moves a delayed key to `wanted` if that is sooner; ready at once if that has passed.
    fn bring_forward(&mut self, key: &K, wanted: Instant, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Phase::Delayed { at, .. } = &mut entry.phase else { return };
        if wanted >= *at {
            return;
        }
        self.delayed.remove(&(*at, key.clone()));
        *at = wanted;
        if wanted <= now {
            entry.phase = Phase::Ready;
            self.ready.push_back(key.clone());
        } else {
            self.delayed.insert((wanted, key.clone()));
        }
    }

    /// Makes the delayed keys ready whose time has come.
    fn wake(&mut self, now: Instant) {
        while self.next_due().is_some_and(|at| at <= now) {
            let Some((_, key)) = self.delayed.pop_first() else { return };
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.phase = Phase::Ready;
                self.ready.push_back(key);
            }
        }
    }
}

/// When a key comes again after success, and what an addition may shorten that to.
fn after(outcome: &Outcome, now: Instant) -> Option<(Instant, Instant)> {
    match outcome {
        Outcome::Done => None,
        Outcome::Wait { at_most: delay, .. } | Outcome::Again { after: delay, .. } => {
            Some((now + *delay, now))
        }
    }
}

/// Why a handling did not succeed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) retry: Retry,
    pub(super) why: String,
    pub(super) panicked: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What happens to the rules in one step of the property below.
    #[derive(Debug, Clone)]
    enum Event {
        Add(u8),
        AddAfter(u8, u16),
        Take,
        End(u8, u8),
        Pass(u16),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..4_u8).prop_map(Event::Add),
            (0..4_u8, 0..3000_u16).prop_map(|(key, ms)| Event::AddAfter(key, ms)),
            Just(Event::Take),
            (0..4_u8, 0..5_u8).prop_map(|(nth, how)| Event::End(nth, how)),
            (0..3000_u16).prop_map(Event::Pass),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: no key is handled twice at once, no addition is lost, and the
        /// books agree.
        #[test]
        fn no_key_is_lost_or_handled_twice(events in proptest::collection::vec(event(), 0..200)) {
            let mut keys = Keys::new(QueueConfig { seed: Some(1), ..QueueConfig::new("test") });
            let mut now = Instant::now();
            let mut running: Vec<u8> = Vec::new();
            // Keys added since their handling last began.
            let mut owed: BTreeSet<u8> = BTreeSet::new();
            let take = |keys: &mut Keys<u8>, now, running: &mut Vec<u8>, owed: &mut BTreeSet<u8>| {
                let taken = keys.take(now).map(|(key, _)| key);
                if let Some(key) = taken {
                    assert!(!running.contains(&key), "handled twice at once");
                    running.push(key);
                    owed.remove(&key);
                }
                taken.is_some()
            };
            for event in events {
                match event {
                    Event::Add(key) => { keys.add(key, now); owed.insert(key); }
                    Event::AddAfter(key, ms) => {
                        keys.add_after(key, Duration::from_millis(ms.into()), now);
                        owed.insert(key);
                    }
                    Event::Take => { take(&mut keys, now, &mut running, &mut owed); }
                    Event::End(nth, how) if !running.is_empty() => {
                        let key = running.remove(usize::from(nth) % running.len());
                        let failed = |retry| Failed { retry, why: String::new(), panicked: false };
                        let result = match how {
                            0 => Ok(Outcome::Done),
                            1 => Ok(Outcome::wait(SECOND, "")),
                            2 => Err(failed(Retry::Backoff)),
                            3 => Err(failed(Retry::Never)),
                            _ => Err(failed(Retry::After(SECOND))),
                        };
                        keys.ended(&key, result, now);
                    }
                    Event::End(..) => {}
                    Event::Pass(ms) => now += Duration::from_millis(ms.into()),
                }
                let stats = keys.stats();
                prop_assert_eq!(stats.running, running.len());
                prop_assert_eq!(stats.ready + stats.delayed + stats.running, keys.entries.len());
            }
            for key in std::mem::take(&mut running) {
                keys.ended(&key, Ok(Outcome::Done), now);
            }
            now += SECOND * 3600;
            while take(&mut keys, now, &mut running, &mut owed) {}
            prop_assert!(owed.is_empty(), "added and never handled: {:?}", owed);
        }
    }
}
