//! When no pods are being connected.
//!
//! What nobody waits for (the report of a claim, the view of a pod) is work for the API server, its database and the
//! controller as well, and where they share processors with the pods that start, it is time of those pods. So it is done
//! when no pod has come for a while, and at the latest after a time that whoever does it says: a stream of pods has no
//! such moment.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// After the last ADD: in this time the next one of a burst has come.
pub(crate) const BRIEFLY: Duration = Duration::from_secs(1);
/// After the last ADD: in this time its containers have started. ADDs are the first part of a burst, containers start for seconds after
/// the last one.
pub(crate) const UNTIL_STARTED: Duration = Duration::from_secs(5);

/// The last ADDs, and how long after them it is calm; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Calm {
    after: Duration,
    spell: Arc<Mutex<Option<Spell>>>,
}

/// ADDs between which it was not calm.
#[derive(Debug, Clone, Copy)]
struct Spell {
    first: Instant,
    last: Instant,
}

impl Calm {
    /// It is calm `after` the last ADD, and before the first one.
    pub(crate) fn new(after: Duration) -> Self {
        Self { after, spell: Arc::default() }
    }

    /// Notes that a pod is being connected now.
    pub(crate) fn disturb(&self) {
        let now = Instant::now();
        let mut spell = self.spell.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = spell.filter(|spell| now < spell.last + self.after);
        *spell = Some(Spell { first: goes_on.map_or(now, |spell| spell.first), last: now });
    }

    /// Since when it is calm, or from when it will be if no other pod comes.
    pub(crate) fn from(&self) -> Instant {
        self.spell().map_or_else(Instant::now, |spell| spell.last + self.after)
    }

    /// How long something may still wait for calm, if pods that come without a break may hold it back for `most`; none
    /// when it is time.
    pub(crate) fn pause(&self, most: Duration) -> Option<Duration> {
        let spell = self.spell()?;
        let pause =
            (spell.last + self.after).min(spell.first + most).saturating_duration_since(Instant::now());
        (!pause.is_zero()).then_some(pause)
    }

    fn spell(&self) -> Option<Spell> {
        *self.spell.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn it_is_calm_a_moment_after_the_last_pod() {
        const MOST: Duration = Duration::from_secs(3);
        let ms = Duration::from_millis;
        let calm = Calm::new(BRIEFLY);
        assert_eq!((calm.from(), calm.pause(MOST)), (Instant::now(), None));
        let start = Instant::now();
        for (pause_before, expect) in [
            (0, Some(ms(1000))),
            (700, Some(ms(1000))),
            (700, Some(ms(1000))),
            (700, Some(ms(900))),
            // However many come: it has waited long enough.
            (950, None),
            // Another spell.
            (1000, Some(ms(1000))),
        ] {
            advance(ms(pause_before)).await;
            calm.disturb();
            assert_eq!(calm.pause(MOST), expect, "at {:?}", start.elapsed());
            assert_eq!(calm.from(), Instant::now() + BRIEFLY);
        }
        advance(BRIEFLY).await;
        assert_eq!((calm.from(), calm.pause(MOST)), (Instant::now(), None));
    }
}
