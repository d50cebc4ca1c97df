//! When no pods are being connected.
//!
//! What nobody waits for (the report of a claim, the view of a pod) is work for the API server, its database and the
//! controller as well, and where they share processors with the pods that start, it is time of those pods. So it is done
//! when no pod has come for a moment, and at the latest after a time that whoever does it says: a stream of pods has no
//! such moment.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// After the last ADD: in this time its pod's containers have started, and in a burst the next ADD has come.
const AFTER: Duration = Duration::from_secs(1);

/// The last ADDs; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calm {
    spell: Arc<Mutex<Option<Spell>>>,
}

/// ADDs with less than [`AFTER`] between them.
#[derive(Debug, Clone, Copy)]
struct Spell {
    first: Instant,
    last: Instant,
}

impl Calm {
    /// Notes that a pod is being connected now.
    pub(crate) fn disturb(&self) {
        let now = Instant::now();
        let mut spell = self.spell.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = spell.filter(|spell| now < spell.last + AFTER);
        *spell = Some(Spell { first: goes_on.map_or(now, |spell| spell.first), last: now });
    }

    /// Since when it is calm, or from when it will be if no other pod comes.
    pub(crate) fn from(&self) -> Instant {
        self.spell().map_or_else(Instant::now, |spell| spell.last + AFTER)
    }

    /// How long something may still wait for calm, if pods that come without a break may hold it back for `most`; none
    /// when it is time.
    pub(crate) fn pause(&self, most: Duration) -> Option<Duration> {
        let spell = self.spell()?;
        let pause = (spell.last + AFTER).min(spell.first + most).saturating_duration_since(Instant::now());
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
        let calm = Calm::default();
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
            assert_eq!(calm.from(), Instant::now() + AFTER);
        }
        advance(AFTER).await;
        assert_eq!((calm.from(), calm.pause(MOST)), (Instant::now(), None));
    }
}
