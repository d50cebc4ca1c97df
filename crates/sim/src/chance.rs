//! Chance that repeats itself for the same seed.

use std::time::Duration;

use kuryr_kubernetes::backoff::Jitter;

/// A source of chance.
#[derive(Debug, Clone)]
pub(crate) struct Chance(Jitter);

impl Chance {
    /// Chance of this seed.
    pub(crate) fn of(seed: u64) -> Self {
        Self(Jitter::seeded(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.bits() % bound.max(1)
    }

    /// Whether the one in `of` has come.
    pub(crate) fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// A duration of so many milliseconds.
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.below(high - low + 1))
    }

    /// One of these.
    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(of.len() as u64)).ok()?;
        of.get(index)
    }
}
